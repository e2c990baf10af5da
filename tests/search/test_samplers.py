import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from forgefront.search.observations import Observation
from forgefront.search.samplers.nevergrad import _latest_and_front
from forgefront.search.samplers.seeded import Configurations, grid_values
from forgefront.studies.errors import StudyFileError
from forgefront.studies.registry import names, resolve, validate_options

SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.05) for layer in range(6)},
    **{f"bits/{layer}": IntDistribution(0, 3) for layer in range(3)},
    "strength": FloatDistribution(0.0, 2.0),
    "structure": CategoricalDistribution(["weight", "filter"]),
    "fixed": IntDistribution(2, 2),
}
SAMPLERS = names("sampler")
# seconds a trial once it has a model
COSTLY = {"gp": {"startup": 5, "candidates": 64}}
# so that models are used early
OPTIONS = {**COSTLY, "surrogate-nsga2": {"startup": 2, "candidates": 50}}


def make(name, space=SPACE, seed=0, **options):
    return resolve("sampler", name)(space, seed, **OPTIONS.get(name, {}), **options)


def length(name, trials):
    """How many trials a test of a sampler takes: enough for a costly one to have used its model."""
    return min(trials, 6) if name in COSTLY else trials


class Ours:
    @pytest.fixture(params=SAMPLERS)
    def sampler(self, request):
        return lambda: make(request.param, {})


class TestBasic(Ours, BasicSamplerTestCase):
    """Optuna's own cases."""


class TestRelative(Ours, RelativeSamplerTestCase):
    """Optuna's own cases; a genetic sampler passes only if it samples generation 0 itself."""


class TestMultiObjective(Ours, MultiObjectiveSamplerTestCase):
    """Optuna's own cases."""


def objective(params):
    sparsity = np.array([params[f"sparsity/{layer}"] for layer in range(6)])
    bits = sum(params[f"bits/{layer}"] for layer in range(3))
    return [float((sparsity**3).sum() + bits * 0.1), float(6 - sparsity.sum()) + abs(params["strength"] - 1)]


def run(study, count):
    for _ in range(count):
        trial = study.ask(SPACE)
        values = objective(trial.params)
        trial.set_constraint("c", values[0] - 3.0)
        study.tell(trial, values)


def fresh(sampler, storage=None):
    return optuna.create_study(storage=storage, directions=["minimize"] * 2, sampler=sampler)


def content(study):
    return [(trial.params, trial.values) for trial in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_resumed_in_pieces_equals_uninterrupted(name):
    whole = fresh(make(name, seed=7))
    run(whole, length(name, 45))
    pieces = fresh(None)
    for count in (1, 4, 1) if name in COSTLY else (1, 9, 20, 15):
        pieces.sampler = make(name, seed=7)
        run(pieces, count)
    assert content(pieces) == content(whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_seeds_ask_otherwise(name):
    first, second = fresh(make(name, seed=0)), fresh(make(name, seed=1))
    run(first, 3)
    run(second, 3)
    assert all(a != b for a, b in zip(content(first), content(second), strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_declared_space_is_known_before_the_first_trial(name):
    study = fresh(make(name))
    trial = study.ask()
    assert sorted(trial.relative_params) == sorted(name for name in SPACE if name != "fixed")
    for name in trial.relative_params:
        assert SPACE[name]._contains(SPACE[name].to_internal_repr(trial.relative_params[name]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_finite_space_is_exhausted_before_anything_repeats(name):
    values = 2 if name in COSTLY else 5
    space = {
        "x": IntDistribution(0, values - 1),
        "y": CategoricalDistribution(["a", "b"]),
        "z": FloatDistribution(0, 0.1 if name in COSTLY else 0.3, step=0.1),
    }
    size = 8 if name in COSTLY else 40
    study = fresh(make(name, space, 5))
    for number in range(size):
        trial = study.ask(space)
        # one that failed or was stopped counts as taken too
        if number % 7 in (3, 5):
            study.tell(trial, state=TrialState.FAIL if number % 7 == 3 else TrialState.PRUNED)
        else:
            study.tell(trial, [trial.params["x"], -trial.params["z"]])
    keys = {Configurations(space).key(trial.params) for trial in study.trials}
    assert len(keys) == size
    again = study.ask(space)
    assert Configurations(space).key(again.params) in keys


@pytest.mark.parametrize("name", SAMPLERS)
def test_four_running_at_once_never_repeat(name):
    study = fresh(make(name, seed=2))
    for _ in range(length(name, 16) // 4 + 1):
        trials = [study.ask(SPACE) for _ in range(4)]
        for trial in reversed(trials):
            study.tell(trial, objective(trial.params))
    keys = [Configurations(SPACE).key(trial.params) for trial in study.trials]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", SAMPLERS)
def test_control_failures_and_stopped_trials_disturb_no_sampler(name):
    study = fresh(make(name, seed=2))
    study.add_trial(create_trial(values=[0.0, 0.0], system_attrs={"constraints:c": -1.0}))
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    for rungs in ([{"fraction": 0.25, "values": {"0": 1.0}}], []):
        stopped = study.ask(SPACE)
        stopped.set_user_attr("rungs", rungs)
        study.tell(stopped, state=TrialState.PRUNED)
    run(study, length(name, 30))
    assert all(trial.params.keys() == SPACE.keys() for trial in study.trials[1:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_reseeding_for_threads_changes_nothing(name):
    first, second = fresh(make(name)), fresh(make(name))
    second.sampler.reseed_rng()
    run(first, 2)
    run(second, 2)
    assert content(first) == content(second)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_its_default_options(name):
    options = validate_options("sampler", name, {})
    study = fresh(resolve("sampler", name)(SPACE, 0, **options))
    run(study, 2)
    assert len(study.best_trials) > 0


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("nsga2", "population", 1),
        ("nsga3", "divisions", 0),
        ("nsga3", "crossover", "two-point"),
        ("pymoo-nsga2", "population", 3),
        ("pymoo-nsga3", "divisions", 0),
        ("pymoo-sms", "crossover_eta", 0.0),
        ("pymoo-agemoea2", "mutation_eta", -1.0),
        ("nevergrad", "algorithm", "NGOpt"),
        ("nevergrad", "history", 3),
        ("gp", "startup", 0),
        ("tpe", "candidates", 0),
        ("random", "population", 20),
    ],
)
def test_options_out_of_range_are_refused_in_a_line(name, option, value):
    with pytest.raises(StudyFileError) as refused:
        validate_options("sampler", name, {option: value}, "search")
    assert len(str(refused.value).splitlines()) == 1
    assert f"search.{option}" in str(refused.value)


def test_names_are_known_without_the_libraries():
    command = (
        "import sys, forgefront.search.cli; print([m for m in ('pymoo', 'nevergrad', 'torch') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_the_libraries_leave_the_process_warnings_as_they_are():
    command = """
import warnings, optuna
from optuna.distributions import FloatDistribution
from forgefront.studies.registry import resolve
import numpy, scipy.optimize
before = list(warnings.filters)
space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
for name in ("pymoo-nsga3", "pymoo-sms", "pymoo-agemoea2", "nevergrad"):
    study = optuna.create_study(directions=["minimize"] * 2, sampler=resolve("sampler", name)(space, 0))
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=45)
print(warnings.filters == before)
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_grids_match_what_optuna_draws():
    study = fresh(make("random", {}))
    space = {"f": FloatDistribution(-0.3, 0.9, step=0.1), "i": IntDistribution(1, 9, step=4)}
    drawn = [study.ask(space).params for _ in range(200)]
    assert {params["f"] for params in drawn} == set(grid_values(space["f"]))
    assert {params["i"] for params in drawn} == set(grid_values(space["i"]))
    assert grid_values(SPACE["strength"]) is None


def test_configurations_are_told_apart_by_meaning():
    space = {"f": FloatDistribution(0.0, 0.9, step=0.1)}
    key = Configurations(space).key
    assert key({"f": 0.1 + 0.2}) == key({"f": 0.3})
    assert key({"f": 0.2}) != key({"f": 0.3})
    values = [0.0, 0.1, 0.2]
    assert len({key({"f": value}) for value in values}) == len(values)


def test_nevergrad_keeps_the_feasible_front_whatever_infeasible_trials_reach():
    def one(number, losses, violation=0.0):
        return Observation(number, {}, np.array(losses), np.zeros(2), violation)

    best = [one(0, [1.0, 2.0]), one(1, [2.0, 1.0])]
    told = [*best, one(2, [3.0, 3.0]), one(3, [0.0, 0.0], violation=0.5), one(4, [4.0, 4.0]), one(5, [5.0, 5.0])]
    assert [kept.number for kept in _latest_and_front(told, 2)] == [0, 1, 4, 5]
    assert [kept.number for kept in _latest_and_front([told[3], told[3], told[3]], 2)] == [3, 3]
