"""A run's cost table as it lies frozen beside its database, part of the run's fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compression.targets.cost_table import CostTable
from ..studies.errors import RunError, TargetError
from .run_folder import RunFolder, read_json

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["COST_TABLE", "cost_inputs", "needs_cost_table", "read_cost_table"]

COST_TABLE = "cost_table.json"


def needs_cost_table(study: Study) -> bool:
    """Whether the study trains masks under a hardware loss that asks for time."""
    sparsity = study.space.sparsity
    return getattr(sparsity, "cost", None) == "latency" and "learned" in getattr(sparsity, "mask", ())


def read_cost_table(folder: Path) -> CostTable:
    """The cost table of the run in `folder`.

    Raises:
        RunError: It is missing or damaged.
    """
    data = read_json(RunFolder(folder).path / COST_TABLE)
    try:
        return CostTable.from_dict(data)
    except (TargetError, TypeError) as error:
        raise RunError(f"{folder / COST_TABLE} must be an intact cost table; found: {error}") from None


def cost_inputs(folder: Path, study: Study) -> dict[str, Any]:
    """What a run's fingerprint says of its cost table: the digest, or nothing where there is none (yet)."""
    if not needs_cost_table(study) or not (folder / COST_TABLE).exists():
        return {}
    return {"cost_table": read_cost_table(folder).digest}
