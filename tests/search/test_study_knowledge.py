"""What a study tells its sampler: places, forecasts under the names of conditions, and constraints met before training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest

from forgefront.search.knowledge import Forecast as SameForecast
from forgefront.search.knowledge import Knowledge
from forgefront.search.launch import launch
from forgefront.search.run import load_run
from forgefront.search.run_folder import RunFolder
from forgefront.search.study_knowledge import StudyForecast, study_knowledge, variable_places
from forgefront.search.trial import TrialContext
from forgefront.spaces.forecast import Forecast
from forgefront.spaces.space import SearchSpace
from forgefront.studies.conditions import parse_condition
from forgefront.studies.load import read_study_text, study_to_toml
from forgefront.studies.schema import Study

STUDY = """
constraints = {constraints}

[study]
name = "known"

[task]
data = {{ name = "digits", train_images = 64, validation = {{ from = "train", count = 60 }} }}
model = {{ name = "digits-cnn" }}

[training]
steps = 2
batch_size = 16
threads = 1

[space]
granularity = "{granularity}"
sparsity = {{ low = 0.0, high = 0.9, structure = ["filter", "weight"], round_to = 1, residual = "share" }}
clusters = ["none", 16]
weight_bits = [8, 4]
augmentation_strength = {{ low = 0.0, high = 1.0 }}

[[target]]
name = "onnxruntime-cpu"

[[objectives]]
name = "accuracy"

[[objectives]]
name = "macs"

[[metrics]]
name = "compression_ratio"
of = "packed"

[search]
sampler = "nsga2"
seeds = 2
population = 4
"""


def study_of(granularity: str = "layer") -> Study:
    return read_study_text(STUDY.format(constraints=[], granularity=granularity), file="known.toml")


def knowledge_of(context: TrialContext) -> Knowledge:
    return study_knowledge(
        context.study,
        context.space,
        context.layers,
        context.objectives,
        build_model=context.task.build_model,
        example=context.task.example,
    )


def sampled(context: TrialContext, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(context.space.distributions).params for _ in range(count)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    study = study_of()
    folder = RunFolder.create(tmp_path_factory.mktemp("study") / "run", study_to_toml(study))
    return TrialContext(folder.path, 1, study)


@pytest.fixture(scope="module")
def knowledge(context: TrialContext) -> Knowledge:
    return knowledge_of(context)


@pytest.mark.parametrize(
    ("granularity", "group", "path"),
    [
        ("network", "network", ()),
        ("stage", "stage1", ("stage1",)),
        ("block", "stage1.residual", ("stage1", "stage1.residual")),
        (
            "layer",
            "network.stage1.residual.conv1",
            ("stage1", "stage1.residual", "network.stage1.residual.conv1"),
        ),
    ],
)
def test_places_lead_from_coarse_to_fine(
    context: TrialContext, granularity: str, group: str, path: tuple[str, ...]
) -> None:
    study = study_of(granularity)
    space = SearchSpace(study.space, study.training, context.layers)
    places = variable_places(space)
    assert places.keys() == space.distributions.keys() - {"augmentation_strength"}
    found = places[f"clusters/{group}"]
    assert (found.kind, found.path, found.ordered) == ("clusters", path, True)
    driven = [layer for layer in context.layers if path == (layer.stage, layer.block, layer.name)[: len(path)]]
    total = sum(layer.parameters for layer in context.layers)
    assert found.weight == pytest.approx(sum(layer.parameters for layer in driven if layer.kind != "depthwise") / total)
    assert (places["structure"].path, places["structure"].ordered, places["structure"].weight) == ((), False, 1.0)


def test_forecasts_have_the_names_that_conditions_use(context: TrialContext, knowledge: Knowledge) -> None:
    assert knowledge.directions == context.directions
    assert {"macs", "macs_fraction_of_control", "compression_ratio", "compression_ratio_packed_ratio"} <= {
        *knowledge.control
    }
    assert "accuracy" not in knowledge.control
    assert knowledge.control["macs"] == dataclasses.replace(knowledge.control["macs"], value=1349472.0, exact=True)
    assert knowledge.control["compression_ratio"].value == 1.0
    assert Forecast is SameForecast


def test_a_forecast_is_that_of_the_plan_and_is_kept(
    context: TrialContext, knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecast = knowledge.forecast
    assert isinstance(forecast, StudyForecast)
    (params,) = sampled(context, 1)
    told = forecast(params)
    assert told == forecast.of_plan(context.space.decode(params))
    assert forecast(dict(reversed(params.items()))) is told
    monkeypatch.setattr("forgefront.search.study_knowledge.KEPT", 3)
    for other in sampled(context, 6)[1:]:
        forecast(other)
    assert forecast(params) is not told
    assert forecast(params) == told


@pytest.mark.parametrize("change", [{"structure": None}, {"unknown": 1}, {"structure": "rows"}])
def test_params_of_another_space_are_refused(
    context: TrialContext, knowledge: Knowledge, change: dict[str, Any]
) -> None:
    (params,) = sampled(context, 1)
    changed = {key: value for key, value in (params | change).items() if value is not None}
    with pytest.raises(ValueError, match="`params"):
        knowledge.forecast(changed)


@pytest.mark.parametrize(
    ("condition", "hopeless"),
    [
        ("macs <= control * 0.5", True),
        ("macs_fraction_of_control <= 0.5", True),
        ("macs <= control", False),
        ("macs >= 1e6", True),
        ("accuracy >= 0.9", False),
        # an estimate forbids nothing
        ("compression_ratio >= 1000", False),
    ],
)
def test_only_what_is_known_exactly_is_hopeless(
    context: TrialContext, knowledge: Knowledge, condition: str, hopeless: bool
) -> None:
    bound = dataclasses.replace(knowledge, conditions=[parse_condition(condition)])
    found = [bound.hopeless(params) for params in sampled(context, 60)]
    assert any(found) == hopeless
    assert not all(found)


def run(folder: Path, constraint: str, trials: int, patch: pytest.MonkeyPatch) -> list[optuna.trial.FrozenTrial]:
    """The study, run for real."""
    patch.chdir(folder)
    Path("known.toml").write_text(STUDY.format(constraints=[constraint], granularity="layer"))
    launch("known.toml", trials=trials)
    return load_run(folder / "runs" / "known").optuna_trials()


def test_no_sampled_trial_of_a_real_study_breaks_what_its_plan_tells(tmp_path, monkeypatch) -> None:
    trials = run(tmp_path, "macs <= control * 0.5", 9, monkeypatch)
    searched = [trial for trial in trials if trial.user_attrs["role"] == "search"]
    assert len(searched) == 6
    control = trials[0].user_attrs["scores"]["macs"]["value"]
    for trial in searched:
        assert trial.user_attrs["scores"]["macs"]["value"] <= 0.5 * control
        assert all(violation <= 0.0 for violation in trial.constraints.values())


def test_a_constraint_that_nothing_meets_does_not_stop_a_study(tmp_path, monkeypatch) -> None:
    trials = run(tmp_path, "macs <= 1", 5, monkeypatch)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 5
