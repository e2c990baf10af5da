"""Measures a run's cost table, once, under the run's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..compression.targets.cost_table import CostTable
from ..studies.errors import RunError, TargetError
from ..studies.seeds import Seed
from .cost import COST_TABLE, read_cost_table
from .problem import CONTROL
from .run_folder import write_json

if TYPE_CHECKING:
    from ..studies.schema import Study
    from .trial import TrialContext

__all__ = ["load_or_measure"]

SECONDS = 20.0
"""For all timed rounds of a table; most need fewer."""


def load_or_measure(context: TrialContext, announce: Callable[[str], None] = lambda text: None) -> CostTable:
    """The run's cost table; on its first start measured on the study's first target, before any trial has run.

    Only the holder of the run's lock may call this; workers read what it wrote.

    Args:
        context: The run's.
        announce: Told in one line what takes a while, before it does.

    Raises:
        RunError: The table is damaged, or gone from a run whose trials were trained with it.
        TargetError: It cannot be measured here.
    """
    from ..compression.targets.cost_measurement import measure_cost_table

    folder = context.folder
    if (folder.path / COST_TABLE).exists():
        return read_cost_table(folder.path)
    if folder.result(CONTROL) is not None:
        raise RunError(f"`run` must hold {COST_TABLE}, which its masks were trained with; found none in {folder.path}.")
    if not context.targets:
        raise TargetError('`target` must be given with `space.sparsity.cost = "latency"`; found none to measure on.')
    task, target = context.task, context.targets[0]
    announce(f"measuring how long each layer takes on {target.name}, at several numbers of channels")
    table = measure_cost_table(
        task.build_model().cpu().eval(),
        context.layers,
        task.example.cpu(),
        target,
        seed=Seed(context.study.study.seed).child("cost table"),
        integer=_integer(context.study),
        seconds=SECONDS,
    )
    write_json(folder.path / COST_TABLE, table.to_dict())
    # as every later reader has it
    return read_cost_table(folder.path)


def _integer(study: Study) -> bool:
    """Whether the fewest bits that the study gives weights and activations run in integers."""
    bits = (study.space.weight_bits, study.space.activation_bits)
    return all(found and min(found) <= 8 for found in bits)
