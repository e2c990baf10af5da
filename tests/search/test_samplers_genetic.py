import itertools

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from forgefront.search.samplers.encoding import encoding_of
from forgefront.search.samplers.generations import by_rung
from forgefront.search.samplers.seeded import Configurations
from forgefront.studies.registry import resolve

SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.05) for layer in range(6)},
    **{f"bits/{layer}": IntDistribution(0, 3) for layer in range(3)},
    "strength": FloatDistribution(0.0, 2.0),
    "structure": CategoricalDistribution(["weight", "filter"]),
    "fixed": IntDistribution(2, 2),
}
GENETIC = ["nsga2", "nsga3", "pymoo-nsga2", "pymoo-nsga3", "pymoo-sms", "pymoo-agemoea2"]


def make(name, seed=0, population=4, **options):
    return resolve("sampler", name)(SPACE, seed, population=population, **options)


def objective(params):
    sparsity = np.array([params[f"sparsity/{layer}"] for layer in range(6)])
    bits = sum(params[f"bits/{layer}"] for layer in range(3))
    return [float((sparsity**3).sum() + bits * 0.1), float(6 - sparsity.sum()) + abs(params["strength"] - 1)]


def run(study, count):
    for _ in range(count):
        trial = study.ask(SPACE)
        study.tell(trial, objective(trial.params))


def fresh(sampler):
    return optuna.create_study(directions=["minimize"] * 2, sampler=sampler)


def content(study):
    return [(trial.params, trial.values) for trial in study.trials]


def generation(study, trial):
    return trial.system_attrs.get(study.sampler._get_generation_key())


def parents(study, number):
    key = f"{study.sampler._get_parent_cache_key_prefix()}{number}"
    return study._storage.get_study_system_attrs(study._study_id)[key]


@pytest.mark.parametrize("name", GENETIC)
def test_seeds_breed_and_the_control_does_not(name):
    study = fresh(make(name))
    # better than anything, but not of any generation
    study.add_trial(create_trial(values=[-1.0, -1.0]))
    seed = dict.fromkeys(SPACE, 0.0) | {"structure": "weight", "strength": 1.0, "fixed": 2}
    seed |= {f"bits/{layer}": 0 for layer in range(3)}
    study.enqueue_trial(seed)
    run(study, 5)
    control, first = study.trials[:2]
    assert first.params == seed
    assert generation(study, control) is None
    assert [generation(study, trial) for trial in study.trials[1:]] == [0, 0, 0, 0, 1]
    # the seed has the least first value of all, so that elitism must keep it
    assert first._trial_id in parents(study, 1)
    assert control._trial_id not in parents(study, 1)


@pytest.mark.parametrize("name", GENETIC)
@pytest.mark.parametrize("before", [6, 12])
def test_a_run_killed_after_selecting_parents_breeds_the_same(name, before):
    whole, killed = (fresh(make(name, population=6)) for _ in range(2))
    run(whole, before + 2)
    run(killed, before)
    # what is left when the process dies between selecting a generation's parents and writing its first child
    killed.sampler.get_parent_population(killed, before // 6)
    killed.sampler = make(name, population=6)
    run(killed, 2)
    assert generation(whole, whole.trials[before]) == before // 6
    assert content(killed) == content(whole)


@pytest.mark.parametrize("name", GENETIC)
def test_an_infeasible_trial_is_no_parent_while_feasible_ones_abound(name):
    study = fresh(make(name))
    infeasible = set()
    for number in range(8):
        trial = study.ask(SPACE)
        broken = number % 2 == 0
        # better in everything, were it allowed
        trial.set_constraint("c", 1.0 if broken else -1.0)
        study.tell(trial, [-10.0, -10.0] if broken else objective(trial.params))
        infeasible |= {trial._trial_id} if broken else set()
    run(study, 1)
    assert len(parents(study, 2)) == 4
    assert not infeasible & set(parents(study, 2))


@pytest.mark.parametrize("name", GENETIC)
def test_only_infeasible_trials_breed_by_how_little_they_break(name):
    study = fresh(make(name))
    for number in range(8):
        trial = study.ask(SPACE)
        trial.set_constraint("c", 1.0 + number)
        study.tell(trial, objective(trial.params))
    run(study, 1)
    assert sorted(parents(study, 2)) == [trial._trial_id for trial in study.trials[:4]]


def stop(study, trial, fraction, values):
    trial.set_user_attr("rungs", [{"fraction": fraction, "values": values}])
    study.tell(trial, state=TrialState.PRUNED)


@pytest.mark.parametrize("name", GENETIC)
def test_stopped_trials_fill_a_generation_behind_complete_ones(name):
    study = fresh(make(name))
    for number in range(4):
        trial = study.ask(SPACE)
        if number == 0:
            study.tell(trial, objective(trial.params))
        else:
            stop(study, trial, 0.25, {"0": float(number), "1": float(number)})
    run(study, 8)
    ids = [trial._trial_id for trial in study.trials]
    assert [generation(study, trial) for trial in study.trials] == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(parents(study, 1)) == ids[:4]
    # five are complete by then, and none of the stopped ones is needed any more
    assert not set(ids[1:4]) & set(parents(study, 2))


@pytest.mark.parametrize("name", GENETIC)
def test_a_search_of_which_everything_is_stopped_goes_on_without_repeats(name):
    study = fresh(make(name))
    for number in range(14):
        stop(study, study.ask(SPACE), 0.5, {"0": float(number)})
    keys = {Configurations(SPACE).key(trial.params) for trial in study.trials}
    assert len(keys) == 14
    assert max(generation(study, trial) for trial in study.trials) == 3


def test_stopped_trials_are_ordered_by_how_far_they_came_then_by_dominance():
    study = fresh(make("nsga2"))
    rungs = [(0.25, {"0": 0.0, "1": 0.0}), (0.5, {"0": 2.0}), (0.5, {"0": 1.0}), (0.25, {"0": 1.0, "1": 1.0})]
    for fraction, values in rungs:
        stop(study, study.ask(SPACE), fraction, values)
    study.tell(study.ask(SPACE), state=TrialState.PRUNED)
    assert [trial.number for trial in by_rung(study, study.trials[::-1])] == [2, 1, 0, 3, 4]


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_a_child_carries_what_its_parents_had(name):
    study = fresh(make(name, mutation_probability=0.0))
    run(study, 12)
    for trial in study.trials[4:]:
        before = [other for other in study.trials if other._trial_id in parents(study, generation(study, trial))]
        for variable in SPACE:
            assert trial.params[variable] in [other.params[variable] for other in before]


@pytest.mark.parametrize("name", [name for name in GENETIC if name.startswith("pymoo")])
def test_a_child_is_near_its_parents_where_the_indices_are_large(name):
    study = fresh(make(name, population=8, crossover_eta=1e6, mutation_eta=1e6))
    run(study, 16)
    for trial in study.trials[8:]:
        before = [other for other in study.trials if other._trial_id in parents(study, 1)]
        for variable in ("strength", "sparsity/0", "bits/1"):
            distances = [abs(trial.params[variable] - other.params[variable]) for other in before]
            assert min(distances) < 1e-3


@pytest.mark.parametrize("name", GENETIC)
def test_breeding_beats_uniform_draws(name):
    totals = []
    for sampler in (make(name, population=10), resolve("sampler", "random")(SPACE, 0)):
        study = fresh(sampler)
        run(study, 120)
        late = [trial.values for trial in study.trials[80:]]
        totals.append(np.mean(np.sum(late, axis=1)))
    assert totals[0] < 0.95 * totals[1]


@pytest.mark.parametrize("crossover", ["uniform", "blx-alpha", "sbx", "vsbx", "spx", "undx"])
@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_every_crossover_stays_in_the_space(name, crossover):
    study = fresh(make(name, population=5, crossover=crossover))
    run(study, 15)
    for trial, variable in itertools.product(study.trials, SPACE):
        assert SPACE[variable]._contains(SPACE[variable].to_internal_repr(trial.params[variable]))


@pytest.mark.parametrize("name", GENETIC)
def test_constant_and_single_objectives_are_no_obstacle(name):
    for directions in (["minimize"], ["minimize", "maximize", "minimize", "maximize"]):
        study = optuna.create_study(directions=directions, sampler=make(name, population=6))
        for _ in range(20):
            trial = study.ask(SPACE)
            study.tell(trial, [1.0] * len(directions))
        assert len({Configurations(SPACE).key(trial.params) for trial in study.trials}) == 20


@pytest.mark.parametrize(
    "space",
    [
        FloatDistribution(-1.5, 2.5),
        FloatDistribution(1e-6, 1e2, log=True),
        FloatDistribution(-0.3, 0.9, step=0.1),
        IntDistribution(1, 9, step=4),
        IntDistribution(1, 1000, log=True),
        CategoricalDistribution(["a", 1, None]),
    ],
)
def test_codes_are_read_back_as_what_they_were_written_from(space):
    encoding = encoding_of(space)
    draw = resolve("sampler", "random")({}, 0)
    study = fresh(draw)
    for _ in range(50):
        value = study.ask({"x": space}).params["x"]
        assert encoding.low <= encoding.encode(value) <= encoding.high
        again = encoding.decode(encoding.encode(value))
        assert again == value or abs(again - value) < 1e-12 * abs(value)
    for code in (encoding.low - 10, encoding.low, encoding.high, encoding.high + 10):
        assert space._contains(space.to_internal_repr(encoding.decode(code)))


@pytest.mark.parametrize("name", GENETIC)
def test_what_finishes_after_the_next_parents_are_selected_may_breed_later(name):
    study = fresh(make(name))
    asked = [study.ask(SPACE) for _ in range(8)]
    for trial in asked[:4]:
        study.tell(trial, objective(trial.params))
    run(study, 1)
    assert not {trial._trial_id for trial in asked[4:]} & set(parents(study, 1))
    # better than all, but of generation 0
    study.tell(asked[6], [-1.0, -1.0])
    run(study, 4)
    assert asked[6]._trial_id in parents(study, 2)
    # and one that outlasts two selections
    study.tell(asked[7], [-2.0, -2.0])
    run(study, 4)
    assert asked[7]._trial_id in parents(study, 3)
    assert asked[4]._trial_id not in parents(study, 3)


def test_of_a_single_worker_nothing_is_late():
    study = fresh(make("nsga2"))
    run(study, 13)
    assert not [key for key in study._storage.get_study_system_attrs(study._study_id) if "waiting" in key]
