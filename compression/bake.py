"""Baking: a trained, simulated model becomes plain weights in a fresh model, and masked channels are really removed.

Nothing is deep-copied while it is parametrized (a copy shares its class with the original, and undoing one breaks the
other). What removal does to each tensor is learnt from a model whose weights are their own flat indices; shipped
weights, latent weights and integer codes are then gathered by it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.layers import LayerInfo
from ..spaces.plan import FLOAT_BITS
from ..studies.errors import CandidateError
from .attach import Attached
from .bias_grid import round_biases
from .candidate import Candidate, LayerCodes
from .clustering import distinct_values
from .insertion import insert_activation_quantizers
from .masks import broken_groups
from .pruning import masked_weight
from .quantizers import activation_quantizers
from .removal import Removed, remove_channels

__all__ = ["bake"]


@torch.no_grad()
def bake(
    attached: Attached,
    build: Callable[[], nn.Module],
    layers: Sequence[LayerInfo],
    example: Tensor,
    *,
    integer_biases: bool = True,
) -> Candidate:
    """The candidate that `attached` has become; in eval mode the two give the same outputs, up to float rounding.

    Weights are those simulated, bit for bit. Groups of weights that are not of their layer's n:m pattern once channels
    are gone are counted in a deviation.

    Args:
        attached: Trained and finalized. It is left as it is.
        build: Makes a fresh model of the same architecture.
        layers: What `inspect_layers` found in the full model.
        example: (1, C, H, W), one input.
        integer_biases: Move biases of integer layers to the grid of the accumulator, by half a step at most (see
            `bias_grid`), so that what is scored is what an integer runtime computes; outputs then differ by as much.

    Raises:
        CandidateError: `attached` is not finalized, or `build` makes another architecture.
    """
    if not attached.finalized:
        raise CandidateError("`attached` must be finalized before it is baked; found it still in training.")
    example = example.detach().cpu()
    carrier = build().cpu().eval()
    shipped, latent = _state(attached.source, carrier, _simulated), _state(attached.source, carrier, masked_weight)
    dtype = next((value.dtype for value in shipped.values() if value.is_floating_point()), torch.float32)
    removed = attached.removed()
    parameters = sum(parameter.numel() for parameter in carrier.parameters())
    indices = _surviving_indices(carrier, removed, example) if removed else {}
    carrier.to(dtype)
    latent_model = _filled(carrier, latent, indices)
    model = insert_activation_quantizers(_filled(carrier, shipped, indices), attached.plan, example.to(dtype))
    _copy_ranges(attached.model, model)
    codes = _codes(attached, layers, indices)
    for name, layer in codes.items():
        if not torch.equal(layer.weight(), model.get_parameter(f"{name}.weight")):
            raise CandidateError(f"`codes` of {name} must reproduce its weight; found a difference.")
    if integer_biases:
        round_biases(model, {name: layer for name, layer in codes.items() if _ships_integers(attached, name)})
    device = next(attached.model.parameters()).device
    candidate = Candidate(
        model=model.eval(),
        latent=latent_model.eval(),
        plan=attached.plan,
        codes=codes,
        codebooks=_codebooks(attached, model),
        removed=removed,
        achieved=_achieved(attached, layers, model, parameters),
    )
    return candidate.to(device)


def _ships_integers(attached: Attached, name: str) -> bool:
    quantization = attached.plan.layer(name).quantization
    return quantization is not None and quantization.export == "integer"


def _simulated(module: nn.Module, tensor: str) -> Tensor:
    return getattr(module, tensor)


def _state(source: nn.Module, fresh: nn.Module, read: Callable[[nn.Module, str], Tensor]) -> dict[str, Tensor]:
    """The values that `fresh` needs, read from `source` through or below its simulators."""
    state = {}
    for name, value in fresh.state_dict().items():
        path, _, tensor = name.rpartition(".")
        try:
            found = read(source.get_submodule(path), tensor).detach().cpu()
        except AttributeError:
            raise CandidateError(f"`build` must make what was attached; found {name} besides.") from None
        if found.shape != value.shape:
            raise CandidateError(
                f"`build` must make the architecture that was attached; found {name} of {tuple(value.shape)}, "
                f"not {tuple(found.shape)}."
            )
        state[name] = found.clone()
    return state


def _surviving_indices(model: nn.Module, removed: Removed, example: Tensor) -> dict[str, Tensor]:
    """Remove channels of `model`, in place, and find each surviving value's flat index in the full tensor."""
    for value in model.double().state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape))
    remove_channels(model, removed, example.double())
    return {name: value.long() for name, value in model.state_dict().items() if value.is_floating_point()}


def _filled(carrier: nn.Module, state: Mapping[str, Tensor], indices: Mapping[str, Tensor]) -> nn.Module:
    values = {
        name: state[name].flatten()[indices[name]] if name in indices else state[name] for name in carrier.state_dict()
    }
    model = copy.deepcopy(carrier)
    model.load_state_dict(values, assign=True)
    return model


def _copy_ranges(trained: nn.Module, model: nn.Module) -> None:
    source = {name: one for name, one in trained.named_modules() if activation_quantizers([one])}
    copies = {name: one for name, one in model.named_modules() if activation_quantizers([one])}
    if source.keys() != copies.keys():
        raise CandidateError("`build` must give the graph that was attached; found other activation quantizers.")
    for name, module in copies.items():
        module.load_state_dict({key: value.cpu().clone() for key, value in source[name].state_dict().items()})
        for quantizer in activation_quantizers([module]):
            quantizer.freeze()


def _codes(attached: Attached, layers: Sequence[LayerInfo], indices: Mapping[str, Tensor]) -> dict[str, LayerCodes]:
    quantizers = dict(attached.weight_quantizers)
    result = {}
    for layer in layers:
        if layer.name not in quantizers:
            continue
        quantizer = quantizers[layer.name]
        # on the device of training: another may sum in another order, and then prefer another clip
        weight = masked_weight(attached.source.get_submodule(layer.name), clustered=True)
        codes, scale = (part.cpu() for part in quantizer.codes(weight))
        kept = indices.get(f"{layer.name}.weight")
        if kept is not None:
            filters = kept.flatten(1)[:, 0] // weight[0].numel()
            codes, scale = codes.flatten()[kept], scale[filters] if scale.dim() else scale
        result[layer.name] = LayerCodes(codes, scale, quantizer.bits)
    return result


def _codebooks(attached: Attached, model: nn.Module) -> dict[str, Tensor]:
    codebooks = {}
    for name, _, cluster in attached.clusters:
        weight = model.get_parameter(f"{name}.weight").detach()
        codebooks[name] = distinct_values(weight, cluster.per)
    return codebooks


def _pattern_deviations(attached: Attached, model: nn.Module) -> list[str]:
    lines = []
    for mask in attached.weight_masks:
        if mask.pattern is None:
            continue
        weight, (kept, of) = model.get_parameter(f"{mask.name}.weight"), mask.pattern
        broken, groups = broken_groups(weight, kept, of)
        left_over = weight.shape[1] % of
        if broken:
            rest = f", as {left_over} of {weight.shape[1]} inputs are left over" if left_over else ""
            lines.append(f"{mask.name}: {broken} of {groups} groups are not {kept}:{of}{rest}")
    return lines


def _achieved(
    attached: Attached, layers: Sequence[LayerInfo], model: nn.Module, parameters_before: int
) -> dict[str, Any]:
    quantizers = dict(attached.weight_quantizers)
    rows = {}
    for layer in layers:
        weight = model.get_parameter(f"{layer.name}.weight").detach()
        rows[layer.name] = {
            "sparsity": int((weight == 0).sum()) / weight.numel(),
            "distinct": int(torch.unique(weight).numel()),
            "weight_bits": quantizers[layer.name].bits if layer.name in quantizers else FLOAT_BITS,
            "activation_bits": attached.plan.layer(layer.name).activation_bits,
            "channels": weight.shape[0],
            "channels_before": layer.weight_shape[0],
            "weights": weight.numel(),
            # each weight serves every output position once, and removal leaves positions as they are
            "macs": layer.macs * weight.numel() // prod(layer.weight_shape),
        }
    totals = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_before": parameters_before,
        "zero_weights": sum(int((weight == 0).sum()) for weight in model.parameters() if weight.dim() > 1),
        "macs": sum(row["macs"] for row in rows.values()),
        "macs_before": sum(layer.macs for layer in layers),
    }
    learned = {} if attached.learned is None else {"learned_masks": attached.learned.report()}
    deviations = [*attached.deviations, *_pattern_deviations(attached, model)]
    return {"layers": rows, "totals": totals, **learned, "deviations": deviations}
