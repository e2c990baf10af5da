"""What a report shows, read from a run once: trials, front, control, and what the front's members are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..hypervolume import HYPERVOLUME
from ..non_dominated import front_numbers
from ..problem import CONTROL
from ..reading import read_trials
from ..record import REFERENCE
from ..run import Run
from ..tables import ATTRIBUTES, LABELS, PARAMETERS, trials_frame
from ..told_apart import alike_members

__all__ = ["Content", "Section"]

MEMBERS = 12
"""Members of the front that are shown one by one, spread over its first objective."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: Its anchor.
        title: Its heading.
        body: HTML.
    """

    name: str
    title: str
    body: str


class Content:
    """A run as its report sees it.

    Args:
        run: The run; read as it stands now.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = run.study.study.name
        self.objectives: dict[str, str] = run.objectives
        self.labels: Mapping[str, str] = LABELS
        self.directions: list[StudyDirection] = run.record.directions
        self.reference: list[float] | None = run.record.user_attrs.get(REFERENCE)
        self.trials: list[FrozenTrial] = read_trials(
            run.record, attributes=(*ATTRIBUTES, HYPERVOLUME), params=PARAMETERS
        )
        self.frame: pd.DataFrame = trials_frame(self.trials, front_numbers(self.trials, self.directions))

    @property
    def complete(self) -> pd.DataFrame:
        """Rows of the complete trials."""
        return self.frame[self.frame["state"] == "complete"]

    @cached_property
    def front(self) -> pd.DataFrame:
        """Rows of the front, the best of the first objective first, with the column ``alike``."""
        first, way = next(iter(self.objectives.items()))
        rows = self.frame[self.frame["on_front"]]
        if rows.empty:
            return rows
        rows = rows.sort_values(first, ascending=way == "minimize", ignore_index=True)
        return rows.assign(alike=alike_members(rows, list(self.objectives)))

    @property
    def members(self) -> list[int]:
        """Numbers of the front's members that are shown one by one; the control is none."""
        numbers = [int(value) for value in self.front["number"] if value != CONTROL] if len(self.front) else []
        if len(numbers) <= MEMBERS:
            return numbers
        step = (len(numbers) - 1) / (MEMBERS - 1)
        return [numbers[round(index * step)] for index in range(MEMBERS)]

    @property
    def omitted(self) -> str:
        """A sentence where not all of the front's members are shown."""
        total = sum(int(value) != CONTROL for value in self.front["number"]) if len(self.front) else 0
        return f"{MEMBERS} of {total} members, spread over the front." if total > MEMBERS else ""

    @cached_property
    def whole(self) -> dict[int, FrozenTrial]:
        """The control, where it is complete, and the members shown, with every attribute."""
        numbers = [CONTROL, *self.members]
        found = read_trials(self.run.record, numbers=numbers, params=())
        return {trial.number: trial for trial in found if trial.state == TrialState.COMPLETE}

    def layers(self, number: int) -> dict[str, dict[str, Any]]:
        """For each layer of trial `number` what was planned and achieved: sparsity, clusters, bits, channels.

        Empty where neither the plan nor the trial's folder tells of layers.
        """
        planned = (self.whole[number].user_attrs.get("plan") or {}).get("layers") or {}
        achieved = ((self.run.folder.result(number) or {}).get("achieved") or {}).get("layers") or {}
        layers: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys([*planned, *achieved]):
            plan, got = planned.get(name) or {}, achieved.get(name) or {}
            before = got.get("channels_before")
            layers[name] = {
                "sparsity": (plan.get("pruning") or {}).get("sparsity", 0.0 if plan else None),
                "zeros": got.get("sparsity"),
                "channels": got["channels"] / before if before and "channels" in got else None,
                "clusters": (plan.get("clustering") or {}).get("clusters"),
                "bits": got.get("weight_bits", (plan.get("quantization") or {}).get("weight_bits")),
            }
        return layers
