"""Every simulator, every pair and every triple of them: what is planned, simulated, baked and packed is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from forgefront.compression.attach import Attached, attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate
from forgefront.compression.masks import removed_count
from forgefront.compression.packing import pack, unpack
from forgefront.compression.pruning import masked_weight
from forgefront.compression.quantizers import activation_quantizers, dequantize, fake_quantize
from forgefront.spaces.layers import LayerInfo
from forgefront.spaces.plan import LayerPlan, TrialPlan
from forgefront.studies.seeds import Seed

# relative, in double precision: removal sums fewer zeros, in another order
REMOVAL_TOLERANCE = 1e-9


@dataclass
class Simulated:
    plan: TrialPlan
    layers: tuple[LayerInfo, ...]
    attached: Attached
    candidate: Candidate
    images: Tensor

    def planned(self) -> list[tuple[LayerInfo, LayerPlan, nn.Module]]:
        source = self.attached.source
        return [(layer, self.plan.layer(layer.name), source.get_submodule(layer.name)) for layer in self.layers]

    def kept_rows(self, module: nn.Module) -> Tensor:
        """The simulated filters, (kept, n), without the outputs and inputs that masks take whole."""
        kept = masked_weight(module).detach().reshape(*module.weight.shape[:2], -1).any(dim=2)
        return module.weight.detach()[kept.any(dim=1)][:, kept.any(dim=0)].flatten(1)


@pytest.fixture(scope="module")
def simulated(combination, case, combined_plan, digits_state) -> Simulated:
    """A small network under one combination, two steps trained, finalized and baked."""
    (names, origin), small = combination, case("small_cnn")
    plan = combined_plan(small.layers, names)
    dtype = torch.float64 if any("filter" in name for name in names) else torch.float32
    attached = small.trained(plan, dtype=dtype, steps=2, state=digits_state if origin == "trained" else None)
    example, images = small.images(1, dtype=dtype), small.images(6, dtype=dtype, seed=9)
    candidate = bake(attached, small.build, small.layers, example, integer_biases=False)
    return Simulated(plan, small.layers, attached, candidate, images)


def test_masks_reach_their_plan_and_nothing_behind_them_brings_a_zero_back(simulated: Simulated) -> None:
    deviations = simulated.attached.deviations
    for info, layer, module in simulated.planned():
        masked, weight = masked_weight(module).detach(), module.weight.detach()
        assert not weight[masked == 0].any()
        if layer.pruning is None or layer.learned:
            continue
        if layer.pruning.pattern is not None:
            if masked.shape[1] < layer.pruning.pattern[1]:  # no group of inputs is whole
                assert masked.all()
                assert any(line.startswith(f"{info.name}: dense instead of") for line in deviations)
            else:
                assert_pattern(masked, *layer.pruning.pattern)
        elif layer.pruning.structure == "weight" and layer.pruning.scope == "layer":
            assert int((masked == 0).sum()) == removed_count(masked.numel(), layer.sparsity)
    assert_filters(simulated)
    assert_global_count(simulated)
    if simulated.attached.learned is not None:
        report = simulated.attached.learned.report()
        assert report["reached"] <= report["target"]


def assert_pattern(weight: Tensor, kept: int, of: int) -> None:
    """Exactly `kept` of every `of` consecutive inputs, and their share of what is left over."""
    inputs = weight.movedim(1, -1)
    for part in inputs.split(of, dim=-1):
        expected = -(-kept * part.shape[-1] // of)
        assert ((part != 0).sum(dim=-1) == expected).all()


def assert_filters(simulated: Simulated) -> None:
    """By layer the planned number of filters goes; coupled layers lose the same ones."""
    removed = dict(simulated.attached.removed())
    groups: dict[str, Tensor] = {}
    for layer, plan, module in simulated.planned():
        silent = ~masked_weight(module).detach().flatten(1).any(dim=1)
        if plan.pruning is None or plan.pruning.structure != "filter":
            continue
        if plan.pruning.scope == "layer" and not plan.learned:
            assert int(silent.sum()) == removed_count(len(silent), plan.sparsity)
        shared = groups.setdefault(layer.coupled or layer.name, silent)
        assert torch.equal(silent, shared)
        assert torch.nonzero(shared).flatten().tolist() == removed.get(layer.coupled or layer.name, [])


def assert_global_count(simulated: Simulated) -> None:
    """Over all layers together the planned number goes, or less by no more than one choice."""
    zeros = total = widest = 0
    for layer, plan, module in simulated.planned():
        if plan.pruning is None or plan.pruning.scope != "global":
            continue
        weight = masked_weight(module).detach()
        units = weight.flatten() if plan.pruning.structure == "weight" else weight.flatten(1).any(dim=1)
        zeros, total = zeros + int((units == 0).sum()), total + units.numel()
        coupled = [other for other in simulated.layers if layer.coupled and other.coupled == layer.coupled]
        widest = max(widest, 1 if plan.pruning.structure == "weight" else len(coupled))
        sparsity = plan.sparsity
    if total:
        assert 0 <= removed_count(total, sparsity) - zeros < max(1, widest)


def test_clusters_and_bits_leave_as_few_values_as_planned(simulated: Simulated) -> None:
    for layer, plan, module in simulated.planned():
        rows = simulated.kept_rows(module)
        groups = [] if plan.clustering is None else [rows] if plan.clustering.per == "layer" else list(rows)
        assert all(len(torch.unique(values)) <= plan.clustering.clusters for values in groups)  # type: ignore[union-attr]
        if plan.weight_bits > 8:
            assert layer.name not in simulated.candidate.codes
            continue
        codes = simulated.candidate.codes[layer.name]
        limit = max(1, 2 ** (plan.weight_bits - 1) - 1)
        assert codes.bits == plan.weight_bits
        assert -limit <= int(codes.codes.min()) <= int(codes.codes.max()) <= limit
        for values in groups:
            assert len(torch.unique(values)) <= 2 * limit + 1


def test_quantizing_twice_changes_nothing(simulated: Simulated) -> None:
    for name, quantizer in simulated.attached.weight_quantizers:
        weight = simulated.attached.source.get_submodule(name).weight.detach()
        assert torch.equal(quantizer(weight), weight)
        assert torch.equal(dequantize(*quantizer.codes(weight)), weight)
    seen = []
    quantizers = activation_quantizers(simulated.candidate.model.modules())
    hooks = [one.register_forward_hook(lambda one, _, output: seen.append((one, output))) for one in quantizers]
    with torch.no_grad():
        simulated.candidate.model(simulated.images)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(quantizers)
    for quantizer, output in seen:
        assert torch.equal(fake_quantize(output, quantizer.scale, quantizer.zero_point, quantizer.bits), output)
        codes = torch.round(output / quantizer.scale) + quantizer.zero_point
        assert 0 <= int(codes.min()) <= int(codes.max()) < 2**quantizer.bits


def test_baked_is_simulated(simulated: Simulated) -> None:
    attached, candidate = simulated.attached, simulated.candidate
    for layer, _, module in simulated.planned():
        baked = candidate.model.get_parameter(f"{layer.name}.weight").detach()
        if baked.shape == module.weight.shape:
            assert torch.equal(baked, module.weight.detach())
        assert torch.isin(baked, module.weight.detach()).all()
        if layer.name in candidate.codes:
            assert torch.equal(candidate.codes[layer.name].weight(), baked)
    with torch.no_grad():
        expected, found = attached.model(simulated.images), candidate.model(simulated.images)
    if candidate.removed:
        assert (found - expected).abs().max() <= REMOVAL_TOLERANCE * expected.abs().max()
    else:
        assert torch.equal(found, expected)


def test_unpacked_is_packed_bit_for_bit(simulated: Simulated) -> None:
    candidate = simulated.candidate
    unpacked = unpack(*pack(candidate), source=Path("packed"))
    state = candidate.model.state_dict()
    assert unpacked.state.keys() == state.keys()
    assert all(same_bits(unpacked.state[name], value) for name, value in state.items())
    assert unpacked.codes.keys() == candidate.codes.keys()
    for name, codes in candidate.codes.items():
        assert same_bits(unpacked.codes[name].codes, codes.codes)
        assert same_bits(unpacked.codes[name].scale, codes.scale)
        assert unpacked.codes[name].bits == codes.bits
    assert unpacked.codebooks.keys() == candidate.codebooks.keys()
    assert all(same_bits(unpacked.codebooks[name], values) for name, values in candidate.codebooks.items())


def same_bits(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.detach().contiguous().numpy().tobytes() == second.detach().contiguous().numpy().tobytes()


PRUNERS = ["weight mask", "2:4 mask", "filter mask", "global weight mask", "global filter mask"]


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("window", [(0.0, 0.6), (0.2, 0.6), (0.5, 0.5), (0.3, 1.0)])
def test_sparsity_grows_from_none_at_its_start_to_all_at_its_end(case, combined_plan, name, window) -> None:
    small = case("small_cnn")
    start, end = window
    plan = combined_plan(small.layers, [name])
    attached = attach(small.model(), plan, small.layers, small.images(1), start=start, end=end, seed=Seed(0))
    pruned = [layer.name for layer in small.layers if plan.layer(layer.name).pruning]

    def zeros() -> int:
        return sum(int((masked_weight(attached.source.get_submodule(layer)) == 0).sum()) for layer in pruned)

    counts = []
    for fraction in (0.0, start, (start + end) / 2, end, 1.0):
        attached.set_progress(fraction)
        counts.append(zeros())
    if start < end:
        assert counts[0] == counts[1] == 0
    assert counts == sorted(counts)
    assert counts[3] == counts[4] > 0
    fresh = attach(small.model(), plan, small.layers, small.images(1), start=start, end=end, seed=Seed(0))
    fresh.set_progress(1.0)
    for layer in pruned:
        at_once, grown = (masked_weight(one.source.get_submodule(layer)).detach() for one in (fresh, attached))
        assert torch.equal(at_once, grown)
