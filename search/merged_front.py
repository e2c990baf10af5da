"""The fronts of several runs as one: which trials no trial of any run dominates (as Castro et al. compare models).

Values are compared as they stand. Corruption error (where it has no other baseline), compression ratio, latency and
share of operations are relative to each run's own dense control, so that a run with a weaker control may look better in
them; accuracy is not. What an audit found of a trial comes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..studies.errors import InputError
from .non_dominated import non_dominated
from .record import FINGERPRINT
from .tables import LABELS
from .told_apart import alike_members

if TYPE_CHECKING:
    from .run import Run

__all__ = ["MergedRuns"]

RELATIVE = ("mce", "relative_mce", "compression_ratio", "latency")


class MergedRuns:
    """Several runs read as one.

    Args:
        runs: Two or more runs by the path that the user gave.

    Raises:
        InputError: A run is named twice, or the runs do not have the same objectives in the same directions.
    """

    def __init__(self, runs: Sequence[tuple[Path, Run]]) -> None:
        self.runs = _named(runs)
        (first, one), *others = self.runs.items()
        self.objectives = one.objectives
        for name, other in others:
            _agree(first, self.objectives, name, other.objectives)

    @property
    def metrics(self) -> list[str]:
        """Objectives, then what any run records."""
        return list(dict.fromkeys([*self.objectives, *(name for run in self.runs.values() for name in run.metrics)]))

    @property
    def remarks(self) -> list[str]:
        """What a person should know when comparing: what is relative to each control, what was measured otherwise."""
        parts = [_measured(run) for run in self.runs.values()]
        relative = [name for name in RELATIVE if any(_relative(name, options) for options in parts)]
        lines = [f"{', '.join(relative)}: relative to each run's own dense control"] if relative else []
        (first, one), *others = self.runs.items()
        for name, other in others:
            if _saw_other_images(one, other):
                lines.append(f"{name} was scored on other images than {first}")
            ours, theirs = _targets(one), _targets(other)
            if list(ours) != list(theirs):
                lines.append(f"{name} has other targets than {first}: {', '.join(theirs)} instead of {', '.join(ours)}")
            measured = {f"{target} is set": (ours[target], theirs[target]) for target in ours if target in theirs}
            ours, theirs = _measured(one), _measured(other)
            measured |= {f"{part} is measured": (ours[part], theirs[part]) for part in ours if part in theirs}
            for what, options in measured.items():
                if found := _differing(*options):
                    lines.append(f"{what} otherwise in {name} than in {first}: {found}")
        return lines

    def trials(self) -> pd.DataFrame:
        """One row a trial, columns ``run`` and those of `Run.trials`; ``on_front`` is of all runs together."""
        frames = []
        for name, run in self.runs.items():
            frame = run.trials()
            frame.insert(0, "run", name)
            frames.append(frame)
        # as records, for a run without trials or without a metric would change the others' types
        rows = [row for frame in frames for row in frame.to_dict("records")]
        columns = list(dict.fromkeys(column for frame in frames for column in frame.columns))
        whole = pd.DataFrame(rows, columns=columns)
        eligible = whole.index[whole["feasible"].astype(bool)]
        signs = {name: -1.0 if way == "maximize" else 1.0 for name, way in self.objectives.items()}
        # no column before the first trial has scores
        points = whole.reindex(columns=list(signs)).loc[eligible].astype(float) * pd.Series(signs)
        whole["on_front"] = False
        whole.loc[eligible, "on_front"] = non_dominated(points.to_numpy())
        return whole

    def front(self) -> pd.DataFrame:
        """The feasible trials that no trial of any run dominates, the best of the first objective first."""
        whole = self.trials()
        first, direction = next(iter(self.objectives.items()))
        kept = whole[whole["on_front"]]
        if kept.empty:
            return kept
        kept = kept.sort_values(first, ascending=direction == "minimize", ignore_index=True)
        return kept.assign(alike=alike_members(kept, list(self.objectives)))

    def plot_front(self, file: Path) -> None:
        """Draw every pair of objectives, a colour for each run, to a PNG, PDF or SVG file.

        Raises:
            InputError: The file cannot be written, or no trial is complete.
        """
        from .plot import plot_merged_front, writing_plot

        whole = self.trials()
        complete = whole[whole["state"] == "complete"]
        with writing_plot(file):
            if complete.empty:
                raise InputError("`--plot` needs a complete trial; these runs have none yet.")
            plot_merged_front(complete, self.objectives, LABELS, file, f"{len(self.runs)} runs: {len(complete)} trials")


def _named(runs: Sequence[tuple[Path, Run]]) -> dict[str, Run]:
    """The runs by the names of their folders, or by their paths where folders share a name."""
    folders = [run.folder.path.resolve() for _, run in runs]
    for index, (path, _) in enumerate(runs):
        if folders[index] in folders[:index]:
            raise InputError(f"`RUN` must name each run once; found {path} twice.")
    names = [folder.name for folder in folders]
    return {name if names.count(name) == 1 else str(path): run for name, (path, run) in zip(names, runs, strict=True)}


def _agree(first: str, ours: Mapping[str, str], name: str, theirs: Mapping[str, str]) -> None:
    faults = [f"no {metric}" for metric in ours if metric not in theirs]
    faults += [f"{metric} as well" for metric in theirs if metric not in ours]
    faults += [f"{metric} to {theirs[metric]}" for metric in ours if theirs.get(metric, ours[metric]) != ours[metric]]
    if faults:
        wanted = ", ".join(f"{metric} to {way}" for metric, way in ours.items())
        raise InputError(f"`RUN` must have the objectives of {first} ({wanted}); found {', '.join(faults)} in {name}.")


def _saw_other_images(one: Run, other: Run) -> bool:
    """Whether both runs state their images, and other ones; a run that no trial of began states none."""
    ours, theirs = ((run.record.user_attrs.get(FINGERPRINT) or {}).get("inputs") or {} for run in (one, other))
    return any(key in ours and key in theirs and ours[key] != theirs[key] for key in ("data", "splits"))


def _targets(run: Run) -> dict[str, Mapping[str, object]]:
    return {part.name: part.options for part in run.study.target}


def _measured(run: Run) -> dict[str, Mapping[str, object]]:
    return {part.name: part.options for part in (*run.study.objectives, *run.study.metrics)}


def _relative(name: str, measured: Mapping[str, Mapping[str, object]]) -> bool:
    return name in measured and measured[name].get("baseline", "control") == "control"


def _differing(ours: Mapping[str, object], theirs: Mapping[str, object]) -> str:
    """What differs in options; one that only either run states had its default in the other, or came later."""
    shared = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    return ", ".join(f"{key} {theirs[key]} instead of {ours[key]}" for key in shared)
