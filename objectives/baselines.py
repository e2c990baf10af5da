"""What corruption errors are measured against: the study's control, AlexNet's published ones, or a file's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..studies.errors import InputError
from ..studies.faults import nearest

__all__ = ["ALEXNET", "CLEAN", "Baseline", "load_baseline"]

CLEAN = "clean"
"""The key of the error on plain images in a file of errors."""


@dataclass(frozen=True)
class Baseline:
    """A network's errors.

    Args:
        name: What it is called in results.
        errors: Mean error over severities of each corruption, in [0, 1].
        clean: Error on plain images; None where it is not known, and no relative mCE can be had.
    """

    name: str
    errors: Mapping[str, float] = field(default_factory=dict)
    clean: float | None = None

    def check(self, names: Iterable[str], *, relative: bool = False) -> None:
        """Find the errors that are needed.

        Args:
            names: Corruptions.
            relative: Whether relative mCE is asked for.

        Raises:
            InputError: One is not there.
        """
        for name in names:
            if name not in self.errors:
                match = nearest(name, self.errors)
                hint = f" Did you mean {match}?" if match else ""
                raise InputError(f"`baseline` must have the error of {name}; found none in {self.name}.{hint}")
        if relative and self.clean is None:
            raise InputError(f'`baseline` must have the error of plain images, "{CLEAN}"; found none in {self.name}.')


ALEXNET = Baseline(
    name="alexnet",
    errors={
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
    clean=0.435,
)
"""AlexNet on ImageNet-C: the raw errors in hendrycks/robustness, by which AugMix's code normalises too, and its clean
error of 43.5 % (Hendrycks & Dietterich 2019, table 1)."""


def load_baseline(text: str) -> Baseline | None:
    """A baseline by name, or from a JSON file ``{corruption: mean error, …, "clean": error}`` with errors in [0, 1].

    Args:
        text: ``"control"``, ``"alexnet"`` or the path of a file that ends in .json.

    Returns:
        None for ``"control"``, whose errors each study measures.

    Raises:
        InputError: There is no such file, or it does not hold errors.
    """
    if text == "control":
        return None
    if text == ALEXNET.name:
        return ALEXNET
    path = Path(text)
    if path.suffix != ".json":
        match = nearest(text, ("control", ALEXNET.name))
        hint = f" Did you mean {match}?" if match else ""
        raise InputError(f'`baseline` must be "control", "alexnet" or a file.json; found "{text}".{hint}')
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"`baseline` must be a file that exists; found no {path}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"`baseline` must be a JSON file; found {path}, which cannot be read ({error}).") from None
    if not isinstance(held, dict) or not held:
        raise InputError(
            f"`baseline` must be a JSON object {{corruption: error}}; found {type(held).__name__} in {path}."
        )
    for name, value in held.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            share = value / 100.0 if isinstance(value, int | float) and 1.0 < value <= 100.0 else None
            hint = "" if share is None else f" Did you mean {share:g}?"
            raise InputError(f"`baseline` must hold errors in [0, 1]; found {name}: {value!r} in {path}.{hint}")
    errors = {name: float(value) for name, value in held.items() if name != CLEAN}
    return Baseline(path.stem, errors, float(held[CLEAN]) if CLEAN in held else None)
