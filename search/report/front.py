"""The report's sections on the search: front, hypervolume, importance of parameters, timeline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..plot import draw_trials, finish_pair, pairs_of
from ..plot_history import draw_history, history_by_trial
from ..plot_parallel import draw_parallel
from ..reading import read_trials
from .content import Content, Section
from .pictures import embedded, new_figure

__all__ = ["front_section", "history_section", "importance_section", "timeline_section"]

FEWEST = 10
"""Complete trials with parameters from which their importance is estimated."""
MOST = 2000
"""Trials that it is estimated from, the latest."""
QUANTILE = 0.25
"""Share of the trials that counts as good."""
SHOWN = 15
STATES = {"COMPLETE": "#15803d", "FAIL": "#b91c1c", "PRUNED": "#a16207", "RUNNING": "#1d4ed8", "WAITING": "#6b7280"}


def front_section(content: Content) -> Section:
    """Pairs of objectives and parallel coordinates."""
    rows = content.complete
    if rows.empty:
        return Section("front", "Front", "<p>No trial is complete yet.</p>")
    labels = dict(content.labels)
    parts = []
    for x, y in pairs_of(content.objectives):
        # a picture each, so that a phone shows them below one another
        figure = new_figure(4.6, 3.7)
        axes = figure.add_subplot()
        draw_trials(axes, rows, x, y)
        finish_pair(axes, x, y, content.objectives, labels)
        axes.legend(fontsize=7, framealpha=0.85)
        parts.append(embedded(figure, f"{y} over {x} of every complete trial"))
    body = f'<div class="grid">{"".join(parts)}</div>'
    if len(content.objectives) > 1:
        figure = new_figure(9.0, 3.8)
        draw_parallel(figure.add_subplot(), rows, content.objectives, labels)
        body += embedded(figure, "parallel coordinates of the front")
    return Section("front", "Front", body)


def history_section(content: Content) -> Section:
    """Hypervolume over trials."""
    title = "Hypervolume"
    history = []
    if content.reference is not None:
        history = history_by_trial(content.trials, content.directions, content.reference)
    if not history:
        return Section("hypervolume", title, "<p>No hypervolume yet: the control is not complete.</p>")
    figure = new_figure(9.0, 3.4)
    draw_history(figure.add_subplot(), history)
    worst = ", ".join(
        f"{html.escape(name)} {value:.4g}"
        for name, value in zip(content.objectives, content.reference or (), strict=True)
    )
    note = f'<p class="note">Up to the reference point {worst}, each axis in units of it.</p>'
    return Section("hypervolume", title, embedded(figure, "hypervolume of the front over trials") + note)


def importance_section(content: Content) -> Section:
    """How much each parameter matters to each objective (PED-ANOVA, Watanabe et al., IJCAI 2023)."""
    title = "Importance of parameters"
    complete = [trial.number for trial in content.trials if trial.state == TrialState.COMPLETE][-MOST:]
    found = read_trials(content.run.record, numbers=complete, attributes=())
    searched = [trial for trial in found if trial.params]
    varied = {name: {trial.params.get(name) for trial in searched} for trial in searched[:1] for name in trial.params}
    names = [
        name for name, values in varied.items() if len(values) > 1 and all(name in trial.params for trial in searched)
    ]
    if len(searched) < FEWEST or not names:
        text = f"Needs {FEWEST} complete trials whose parameters vary; found {len(searched)}."
        return Section("importance", title, f"<p>{text}</p>")
    values = np.array([trial.values for trial in searched], dtype=float)
    shares = {
        objective: _importances(searched, names, index, -1.0 if way == "maximize" else 1.0)
        for index, (objective, way) in enumerate(content.objectives.items())
        if np.ptp(values[:, index]) > 0.0
    }
    if not shares:
        return Section("importance", title, "<p>No objective varies.</p>")
    mean = {name: float(np.mean([share.get(name, 0.0) for share in shares.values()])) for name in names}
    top = sorted(names, key=lambda name: -mean[name])[:SHOWN][::-1]
    figure = new_figure(9.0, 1.4 + 0.16 * len(top) * (1 + 0.5 * len(shares)))
    axes, height = figure.add_subplot(), 0.8 / len(shares)
    for index, (objective, share) in enumerate(shares.items()):
        places = np.arange(len(top)) + 0.4 - (index + 0.5) * height
        label = content.labels.get(objective, objective)
        axes.barh(places, [share.get(name, 0.0) for name in top], height, label=label)
    axes.set_yticks(range(len(top)), top, fontsize=8)
    axes.set_xlabel("share of the importance")
    axes.legend(fontsize=7)
    axes.grid(visible=True, axis="x", linewidth=0.4, alpha=0.5)
    note = f"PED-ANOVA over {len(searched)} trials: what tells the best quarter from the rest, for each objective" + (
        f"; the first {SHOWN} of {len(names)} parameters." if len(names) > SHOWN else "."
    )
    picture = embedded(figure, "importance of parameters for each objective")
    return Section(
        "importance", title, f'{picture}<p class="note">{note} From few trials this is a hint, no proof.</p>'
    )


def _importances(trials: Sequence[FrozenTrial], names: list[str], index: int, sign: float) -> dict[str, float]:
    """Importance of each parameter for the objective at `index`, times `sign` to be minimised."""
    # a study of this objective alone, in memory, for the evaluator takes nothing less
    storage = InMemoryStorage()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        identity = storage.create_new_study([StudyDirection.MINIMIZE])
    finally:
        optuna.logging.set_verbosity(before)
    study = optuna.Study(storage.get_study_name_from_id(identity), storage)
    study.add_trials(
        [
            create_trial(value=sign * trial.values[index], params=trial.params, distributions=trial.distributions)
            for trial in trials
        ]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)


def timeline_section(content: Content) -> Section:
    """When each trial ran, and how it ended."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    dated = [trial for trial in content.trials if trial.datetime_start is not None]
    if not dated:
        return Section("timeline", "Timeline", "<p>No trial has begun.</p>")
    ends: list[Any] = [
        moment for trial in dated for moment in (trial.datetime_start, trial.datetime_complete) if moment
    ]
    figure = new_figure(9.0, 3.4)
    axes = figure.add_subplot()
    for state, colour in STATES.items():
        own = [trial for trial in dated if trial.state.name == state]
        if own:
            axes.hlines(
                [trial.number for trial in own],
                [date2num(trial.datetime_start) for trial in own],
                [date2num(trial.datetime_complete or max(ends)) for trial in own],
                color=colour,
                linewidth=max(1.0, min(6.0, 160.0 / len(dated))),
                label=state.lower(),
                rasterized=len(own) > 1500,
            )
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.invert_yaxis()
    axes.set_ylabel("trial")
    axes.legend(fontsize=7)
    axes.grid(visible=True, axis="x", linewidth=0.4, alpha=0.5)
    return Section("timeline", "Timeline", embedded(figure, "when each trial ran"))
