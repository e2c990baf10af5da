"""`forgefront inspect MODEL`: a model's compressible layers as a table."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from ..studies.errors import InputError
from .tables import as_data

__all__ = ["inspect_model", "layers_frame"]


def layers_frame(model: str, input_shape: tuple[int, int, int], classes: int) -> pd.DataFrame:
    """One row a layer, in forward order: name, kind, shapes, parameters, MACs of one image, stage, residual coupling.

    Args:
        model: Name in the registry, ``torchvision:<name>`` or ``module:attribute``.
        input_shape: (C, H, W).
        classes: Number of classes that the model is built for.

    Raises:
        InputError: The name is unknown, or the model is not a CNN for such images.
    """
    from ..spaces.layers import inspect_layers
    from ..studies.registry import resolve
    from ..trainers.models.base import build_classifier

    part: Any = resolve("model", model)
    network = build_classifier(part, classes, options={}, mean=None, std=None)
    layers = inspect_layers(network, input_shape)
    rows = [
        {
            "layer": layer.name.removeprefix("network."),
            "kind": layer.kind,
            "weight": "x".join(map(str, layer.weight_shape)),
            "output": "x".join(map(str, layer.output_shape)),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "stage": layer.stage,
            "coupled": (layer.coupled or "").removeprefix("network."),
            "prunable_filters": layer.prunable_filters,
        }
        for layer in layers
    ]
    return pd.DataFrame(rows)


def inspect_model(model: str, size: str, classes: int, form: str) -> str:
    """The table as text, with totals below it; `size` is ``CxHxW``, `form` ``table``, ``csv`` or ``json``."""
    shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size.strip())
    if shape is None or min(int(side) for side in shape.groups()) < 1:
        raise InputError(f"`--input` must be CxHxW such as 3x32x32; found {size!r}.")
    channels, height, width = (int(side) for side in shape.groups())
    frame = layers_frame(model, (channels, height, width), classes)
    if form != "table":
        return as_data(frame, form)
    total = f"{len(frame)} layers, {frame['parameters'].sum():,} parameters, {frame['macs'].sum() / 1e6:.2f} M MACs"
    shown = frame.assign(macs=frame["macs"].map("{:,}".format), parameters=frame["parameters"].map("{:,}".format))
    return f"{shown.to_string(index=False)}\n{total}"
