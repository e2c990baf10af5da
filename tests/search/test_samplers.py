import itertools

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from forgefront.search.samplers.nsga2 import nsga2
from forgefront.search.samplers.random import random
from forgefront.search.samplers.seeded import Configurations, grid_values
from forgefront.search.samplers.tpe import tpe
from forgefront.studies.registry import names, resolve, validate_options

SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.05) for layer in range(6)},
    **{f"bits/{layer}": IntDistribution(0, 3) for layer in range(3)},
    "strength": FloatDistribution(0.0, 2.0),
    "structure": CategoricalDistribution(["weight", "filter"]),
    "fixed": IntDistribution(2, 2),
}
SAMPLERS = [nsga2, tpe, random]


class Ours:
    @pytest.fixture(params=SAMPLERS)
    def sampler(self, request):
        return lambda: request.param({}, 0)


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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resumed_in_pieces_equals_uninterrupted(sampler):
    whole = fresh(sampler(SPACE, 7))
    run(whole, 45)
    pieces = fresh(sampler(SPACE, 7))
    for count in (1, 9, 20, 15):
        pieces.sampler = sampler(SPACE, 7)
        run(pieces, count)
    assert content(pieces) == content(whole)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_seeds_ask_otherwise(sampler):
    first, second = fresh(sampler(SPACE, 0)), fresh(sampler(SPACE, 1))
    run(first, 3)
    run(second, 3)
    assert all(a != b for a, b in zip(content(first), content(second), strict=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_declared_space_is_known_before_the_first_trial(sampler):
    study = fresh(sampler(SPACE, 0))
    trial = study.ask()
    assert list(trial.relative_params) == [name for name in SPACE if name != "fixed"]
    for name in trial.relative_params:
        assert SPACE[name]._contains(SPACE[name].to_internal_repr(trial.relative_params[name]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_exhausted_before_anything_repeats(sampler):
    space = {
        "x": IntDistribution(0, 4),
        "y": CategoricalDistribution(["a", "b"]),
        "z": FloatDistribution(0, 0.3, step=0.1),
    }
    study = fresh(sampler(space, 5))
    for number in range(40):
        trial = study.ask(space)
        # a failed trial counts as taken too
        if number % 7 == 3:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [trial.params["x"], -trial.params["z"]])
    keys = {Configurations(space).key(trial.params) for trial in study.trials}
    assert len(keys) == 40
    again = study.ask(space)
    assert Configurations(space).key(again.params) in keys


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_four_running_at_once_never_repeat(sampler):
    study = fresh(sampler(SPACE, 2))
    for _ in range(8):
        trials = [study.ask(SPACE) for _ in range(4)]
        for trial in reversed(trials):
            study.tell(trial, objective(trial.params))
    keys = [Configurations(SPACE).key(trial.params) for trial in study.trials]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_control_and_failures_disturb_no_sampler(sampler):
    study = fresh(sampler(SPACE, 2))
    study.add_trial(create_trial(values=[0.0, 0.0], system_attrs={"constraints:c": -1.0}))
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    run(study, 30)
    assert all(trial.params.keys() == SPACE.keys() for trial in study.trials[1:])


def generation(trial):
    return trial.system_attrs.get("SeededNSGAIISampler:generation")


def parents(study, number):
    return study._storage.get_study_system_attrs(study._study_id)[f"SeededNSGAIISampler:parent:{number}"]


def test_seeds_breed_and_the_control_does_not():
    study = fresh(nsga2(SPACE, 0, population=4))
    # better than anything, but not of any generation
    study.add_trial(create_trial(values=[-1.0, -1.0]))
    seed = dict.fromkeys(SPACE, 0.0) | {"structure": "weight", "strength": 1.0, "fixed": 2}
    seed |= {f"bits/{layer}": 0 for layer in range(3)}
    study.enqueue_trial(seed)
    run(study, 5)
    control, first = study.trials[:2]
    assert first.params == seed
    assert generation(control) is None
    assert [generation(trial) for trial in study.trials[1:]] == [0, 0, 0, 0, 1]
    # the seed has the least first value of all, so that elitism must keep it
    assert first._trial_id in parents(study, 1)
    assert control._trial_id not in parents(study, 1)


def test_a_run_killed_after_selecting_parents_breeds_the_same():
    whole, killed = (fresh(nsga2(SPACE, 0, population=6)) for _ in range(2))
    run(whole, 7)
    run(killed, 6)
    # what is left when the process dies between selecting the parents of generation 1 and writing its first child
    killed.sampler.get_parent_population(killed, 1)
    killed.sampler = nsga2(SPACE, 0, population=6)
    run(killed, 1)
    assert generation(whole.trials[6]) == 1
    assert content(killed) == content(whole)


def test_an_infeasible_trial_is_no_parent_while_feasible_ones_abound():
    study = fresh(nsga2(SPACE, 0, population=4))
    infeasible = set()
    for number in range(8):
        trial = study.ask(SPACE)
        broken = number % 2 == 0
        # better in everything, were it allowed
        trial.set_constraint("c", 1.0 if broken else -1.0)
        study.tell(trial, [-10.0, -10.0] if broken else objective(trial.params))
        infeasible |= {trial._trial_id} if broken else set()
    run(study, 1)
    assert len(infeasible & set(parents(study, 2))) == 0


def test_a_child_carries_what_its_parents_had():
    study = fresh(nsga2(SPACE, 0, population=4, mutation_probability=0.0))
    run(study, 12)
    for trial in study.trials[4:]:
        before = [other for other in study.trials if other._trial_id in parents(study, generation(trial))]
        for name in SPACE:
            assert trial.params[name] in [other.params[name] for other in before]


def test_reseeding_for_threads_changes_nothing():
    first, second = fresh(nsga2(SPACE, 0)), fresh(nsga2(SPACE, 0))
    second.sampler.reseed_rng()
    run(first, 2)
    run(second, 2)
    assert content(first) == content(second)


def test_grids_match_what_optuna_draws():
    study = fresh(random({}, 0))
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


def test_registered_samplers_take_their_options():
    assert names("sampler") == ["nsga2", "tpe", "random"]
    for name in names("sampler"):
        options = validate_options("sampler", name, {})
        study = fresh(resolve("sampler", name)(SPACE, 0, **options))
        run(study, 2)
    assert validate_options("sampler", "nsga2", {"population": 30})["population"] == 30


@pytest.mark.parametrize("crossover", ["uniform", "blx-alpha", "sbx", "vsbx", "spx", "undx"])
def test_every_crossover_stays_in_the_space(crossover):
    study = fresh(nsga2(SPACE, 0, population=5, crossover=crossover))
    run(study, 15)
    for trial, name in itertools.product(study.trials, SPACE):
        assert SPACE[name]._contains(SPACE[name].to_internal_repr(trial.params[name]))
