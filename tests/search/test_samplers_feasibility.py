import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from forgefront.search.knowledge import Forecast, Knowledge, VariablePlace
from forgefront.search.samplers.feasibility import mended
from forgefront.search.samplers.seeded import Configurations
from forgefront.studies.conditions import parse_condition
from forgefront.studies.registry import names, resolve

LAYERS = 20
SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.1) for layer in range(LAYERS)},
    "structure": CategoricalDistribution(["weight", "filter"]),
    "fixed": IntDistribution(2, 2),
}
# a model that takes seconds has conformance tests of its own
SAMPLERS = [name for name in names("sampler") if name != "gp"]


def macs(params):
    """In [0.1, 1]; needs the variable of a single value as well, as decoding a plan does."""
    return 1.0 - sum(params[f"sparsity/{layer}"] for layer in range(LAYERS)) / LAYERS * params["fixed"] / 2


def knowledge(*conditions, exact=True, calls=None, places=None):
    def forecast(params):
        if calls is not None:
            calls.append(params)
        return {"macs": Forecast(macs(params), exact), "latency": Forecast(macs(params) * 2, False)}

    return Knowledge(
        {"accuracy": "maximize", "macs": "minimize"},
        places or {},
        forecast=forecast,
        control={"macs": Forecast(1.0, True), "latency": Forecast(2.0, False)},
        conditions=[parse_condition(text) for text in conditions],
    )


def searched(name, known, count, strongest=True):
    """A study that begins with the strongest compression and with none."""
    sampler = resolve("sampler", name)(SPACE, 3)
    sampler.inform(known)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for sparsity in (0.9, 0.0) if strongest else ():
        study.enqueue_trial(dict.fromkeys(SPACE, sparsity) | {"structure": "filter", "fixed": 2})
    for _ in range(count):
        trial = study.ask(SPACE)
        value = macs(trial.params)
        trial.set_constraint("macs", value - 0.35)
        study.tell(trial, [math.sqrt(value), value])
    return study


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_asked_that_breaks_what_is_known(name):
    # 1 uniform draw in 10,000 keeps it: macs are 0.55 with a standard deviation of 0.06
    study = searched(name, knowledge("macs <= control * 0.35"), 30)
    asked = study.trials[2:]
    assert max(macs(trial.params) for trial in asked) <= 0.35 + 1e-9
    # not the pattern again and again, but proposals mended after it
    assert len({Configurations(SPACE).key(trial.params) for trial in study.trials}) == 30
    assert sum(macs(trial.params) > 0.25 for trial in asked) >= 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_estimated_rejects_nothing(name):
    free = searched(name, knowledge(), 12)
    assert [t.params for t in searched(name, knowledge("latency <= 0.1"), 12).trials] == [t.params for t in free.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_condition_that_nothing_meets_costs_few_forecasts_and_ends(name):
    calls = []
    study = searched(name, knowledge("macs <= 0.05", calls=calls), 8, strongest=False)
    assert len({Configurations(SPACE).key(trial.params) for trial in study.trials}) == 8
    if name != "surrogate-nsga2":
        assert len(calls) <= 8 * (32 + 8)
        # the least bad of its proposals: uniform ones alone have a mean of 0.55
        assert max(macs(trial.params) for trial in study.trials) < 0.55


@pytest.mark.parametrize("condition", ["macs <= control * 0.3", "macs >= control * 0.85"])
@pytest.mark.parametrize("name", ["random", "nsga2", "nevergrad", "tpe", "surrogate-nsga2"])
def test_without_a_feasible_trial_the_ends_of_compression_mend(name, condition):
    places = {f"sparsity/{layer}": VariablePlace("sparsity", (), True) for layer in range(LAYERS)}
    known = knowledge(condition, places=places)
    study = searched(name, known, 5, strongest=False)
    # chance does not find one, for macs are 0.55 with a standard deviation of 0.06
    assert [trial.number for trial in study.trials if known.hopeless(trial.params)] == []
    assert len({Configurations(SPACE).key(trial.params) for trial in study.trials}) == 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_feasible_search_resumes_alike(name):
    known = knowledge("macs <= control * 0.35")
    whole = searched(name, known, 16)
    again = searched(name, known, 8)
    again.sampler = resolve("sampler", name)(SPACE, 3)
    again.sampler.inform(known)
    for _ in range(8):
        trial = again.ask(SPACE)
        trial.set_constraint("macs", macs(trial.params) - 0.35)
        again.tell(trial, [math.sqrt(macs(trial.params)), macs(trial.params)])
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]


@pytest.mark.parametrize(
    ("condition", "violation"),
    [
        ("macs <= 0.5", 0.5),
        ("macs <= control", 0.0),
        ("macs >= control * 1.25", 0.25),
        ("latency <= 0.1", 0.0),
        ("accuracy >= 0.9", 0.0),
        ("macs < 1", 2.2250738585072014e-308),
    ],
)
def test_only_exactly_known_numbers_are_violations(condition, violation):
    dense = {f"sparsity/{layer}": 0.0 for layer in range(LAYERS)} | {"fixed": 2}
    assert knowledge(condition).violation(dense) == pytest.approx(violation)
    assert knowledge(condition).hopeless(dense) == (violation > 0)
    assert knowledge(condition).settled(dense) == ({condition} if condition.startswith("macs") else set())
    assert knowledge(condition, exact=False).violation(dense) == 0.0
    assert knowledge(condition, exact=False).settled(dense) == set()


@pytest.mark.parametrize("needed", [1, 2, 7, 16])
def test_mending_takes_as_few_values_as_it_must(needed):
    names = [f"x{index}" for index in range(16)]
    tried = []

    def hopeless(params):
        tried.append(params)
        return sum(params.values()) < needed

    mixed = mended(hopeless, dict.fromkeys(names, 0), dict.fromkeys(names, 1), names[::-1])
    assert mixed == {name: int(names.index(name) >= 16 - needed) for name in names}
    assert len(tried) <= 4
