"""What a plan's candidate will take of the control's latency: an estimate by a cost table, or by operations and bits.

Without a table a layer's time is counted in multiply-accumulates of float kernels: its own, what calling it costs, and
what each value that it writes costs. The figures were fitted to trials on ONNX Runtime with one thread: the digits
network (23 µs) within 4 %, ResNet-20 (0.45 ms, on a busy machine) within 13 % in the mean.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..compression.targets.cost_table import CostTable
from ..spaces.plan import FLOAT_BITS, LayerPlan, TrialPlan
from .forecast_channels import ChannelCounts
from .forecast_facts import PlanFacts

__all__ = ["latency_ratio"]

CPU = "onnxruntime-cpu"
# of one layer: a call (on a GPU a kernel, beside which most operations are free), its quantizers, a value written
CALL, GPU_CALL, QUANTIZERS, VALUE = 200_000.0, 20_000_000.0, 60_000.0, 50.0
# time of integer kernels against float ones
INTEGER = 0.45


def latency_ratio(plan: TrialPlan, facts: PlanFacts, target: str) -> float:
    """Time of the candidate of `plan` over the control's, positive.

    Args:
        plan: What a trial would carry out.
        facts: What is known of the model.
        target: Name of the target that is timed.
    """
    if not plan.layers:
        # the control, also where its time is not tabled yet
        return 1.0
    counts, table = facts.counts(plan), facts.cost_table
    if table is not None and table.target == target:
        return _by_table(table, facts, counts)
    # a GPU computes in floats of 16 bits, whatever the plan's
    integers = np.array([target == CPU and _integer(plan.layer(layer.name)) for layer in facts.layers])
    return _time(facts, counts, target, integers) / _time(facts, facts.dense, target, np.zeros_like(integers))


def _time(facts: PlanFacts, counts: ChannelCounts, target: str, integers: np.ndarray) -> float:
    """Time of a network in multiply-accumulates of float kernels; `integers`, bool (L,), marks layers of few bits."""
    channels = facts.channels
    values = np.array([float(prod(layer.output_shape)) for layer in facts.layers])
    work = channels.macs_left(counts) + VALUE * values * counts.outputs / channels.dense_outputs
    calls = (CALL if target == CPU else GPU_CALL) + QUANTIZERS * integers
    return float((np.where(integers, INTEGER, 1.0) * work + calls).sum())


def _integer(plan: LayerPlan) -> bool:
    """Whether the layer runs in integers."""
    quantization = plan.quantization
    return quantization is not None and quantization.export == "integer" and plan.weight_bits < FLOAT_BITS


def _by_table(table: CostTable, facts: PlanFacts, counts: ChannelCounts) -> float:
    """The table's prediction over its own for the dense network; both are of the same bits, which cancel."""
    # a depthwise layer has as many inputs as outputs there
    inputs = np.where([layer.kind == "depthwise" for layer in facts.layers], counts.outputs, counts.inputs)
    rows = {layer.name: row for row, layer in enumerate(facts.layers) if layer.name in table.layers}
    kept = {name: (float(inputs[row]), float(counts.outputs[row])) for name, row in rows.items()}
    return max(table.total(kept) / table.total({}), 1e-3)
