"""What a plan's candidate will weigh: its fixed-length size, and estimates of its packed and its zipped file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..spaces.layers import LayerInfo
from ..spaces.plan import FLOAT_BITS, LayerPlan, TrialPlan
from .forecast_facts import PlanFacts
from .forecast_symbols import FAN, Symbols, fan_class, rates

__all__ = ["Sizes", "sizes"]

FLOAT_BYTES = FLOAT_BITS // 8
# what trained floats (scales, biases, batch norms) shrink to when they are deflated
DEFLATED_FLOATS = 0.93
# bytes of names, shapes and graph in a file, fitted to candidates of ResNet-20, MobileNetV2 and the digits network
PACKED_HEADER, PACKED_LAYER = 450.0, 25.0
ZIPPED_LAYER, ZIPPED_INTEGER_LAYER = 270.0, 70.0


@dataclass(frozen=True)
class Sizes:
    """Bytes.

    Args:
        fixed_length: Every weight of the surviving channels in its bits (or a codebook index), with codebooks and all
            floats beside them; no file, but a number that training does not change.
        packed: Estimate of `compression.packing`'s file.
        zipped: Estimate of the exported file in a zip archive.
    """

    fixed_length: float
    packed: float
    zipped: float


def sizes(plan: TrialPlan, facts: PlanFacts) -> Sizes:
    """What the candidate of `plan` will weigh."""
    counts = facts.counts(plan)
    weights = facts.channels.weights_left(counts)
    # weight, bias, mean and variance go with a batch norm's channel
    others = facts.other_values - 4.0 * counts.norms
    exported = facts.other_values - 4.0 * facts.norm_channels + (facts.norm_channels - counts.norms)
    fixed = FLOAT_BYTES * others
    packed = PACKED_HEADER + DEFLATED_FLOATS * FLOAT_BYTES * others
    zipped = DEFLATED_FLOATS * FLOAT_BYTES * exported
    for row, layer in enumerate(facts.layers):
        own = plan.layer(layer.name)
        layer_fixed, layer_packed, layer_zipped = _layer(
            layer, own, float(weights[row]), float(counts.outputs[row]), float(counts.kept_weights[row])
        )
        fixed += layer_fixed
        packed += layer_packed
        zipped += layer_zipped
    return Sizes(fixed, packed, zipped)


def _layer(
    layer: LayerInfo, plan: LayerPlan, weights: float, outputs: float, kept: float
) -> tuple[float, float, float]:
    """Fixed-length, packed and zipped bytes of one layer."""
    clustering, bits = plan.clustering, plan.weight_bits
    pattern = plan.pruning.structure if plan.pruning is not None and plan.pruning.pattern is not None else ""
    clusters = clustering.clusters if clustering is not None else 0
    by_layer = clustering is not None and clustering.per == "layer"
    symbols = Symbols(
        kept=max(1, round(100 * kept)),
        pattern=pattern if kept < 1.0 else "",
        clusters=clusters,
        per=clustering.per if clustering is not None else "layer",
        bits=bits,
        # one scale, or none, serves filters of any size alike
        fan=FAN if by_layer or bits == FLOAT_BITS else _fan_class(round(weights / max(outputs, 1.0))),
    )
    rate = rates(symbols)
    if bits < FLOAT_BITS:
        table = FLOAT_BYTES * (1.0 if by_layer else outputs)
    else:
        table = FLOAT_BYTES * min(clusters * (1.0 if by_layer else outputs), weights)
    width = min(bits, (clusters - 1).bit_length()) if clusters else bits
    fixed = weights * width / 8 + table
    histogram = 0.9 * min(rate.distinct, weights / 2) + 12.0 if bits < FLOAT_BITS or clusters else 12.0
    packed = weights * rate.shannon_bits / 8 + table + histogram + PACKED_LAYER
    zipped = weights * rate.deflated_bits / 8 + DEFLATED_FLOATS * table + ZIPPED_LAYER
    if bits < FLOAT_BITS:
        zipped += ZIPPED_INTEGER_LAYER
    return fixed, packed, zipped


@lru_cache(maxsize=2**12)
def _fan_class(fan: int) -> int:
    return fan_class(float(fan))
