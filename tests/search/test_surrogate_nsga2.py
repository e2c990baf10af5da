import itertools
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from forgefront.search.hypervolume import front_hypervolume
from forgefront.search.knowledge import Forecast, Knowledge, VariablePlace
from forgefront.search.observations import RUNGS
from forgefront.search.samplers.random import random
from forgefront.search.samplers.surrogate_nsga2 import scheduled, surrogate_nsga2
from forgefront.studies.conditions import Condition

LAYERS = 5
SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.1) for layer in range(LAYERS)},
    **{f"bits/{layer}": IntDistribution(0, 3) for layer in range(LAYERS)},
    "strength": FloatDistribution(0.0, 2.0),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "structure": CategoricalDistribution(["weight", "filter"]),
    "fixed": IntDistribution(2, 2),
}
DIRECTIONS = {"accuracy": "maximize", "size": "minimize"}
WEIGHTS = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
SENSITIVITY = np.array([0.3, 0.02, 0.2, 0.05, 0.01])
REFERENCE = [0.0, 1.1]


def arrays(params):
    sparsity = np.array([params[f"sparsity/{layer}"] for layer in range(LAYERS)])
    return sparsity, np.array([params[f"bits/{layer}"] for layer in range(LAYERS)])


def size(params):
    sparsity, bits = arrays(params)
    return float(WEIGHTS @ ((1 - sparsity) * (1 - bits / 4)))


def measure(params):
    sparsity, bits = arrays(params)
    damage = float(SENSITIVITY @ (3 * sparsity**2 + bits)) + 0.1 * (params["strength"] - 1.2) ** 2
    damage += 0.02 * abs(np.log10(params["rate"]) + 2) + 0.05 * (params["structure"] == "filter")
    return [float(np.exp(-damage)), size(params)]


def knowledge(*conditions, exact=True, sometimes=False):
    places = {
        f"{kind}/{layer}": VariablePlace(kind, (f"stage{layer // 3}", f"layer{layer}"), True, float(WEIGHTS[layer]))
        for kind in ("sparsity", "bits")
        for layer in range(LAYERS)
    }

    def forecast(params):
        told = exact and not (sometimes and params["structure"] == "filter")
        return {"size": Forecast(size(params) if told else 0.8 * size(params) + 0.1, told)}

    return Knowledge(DIRECTIONS, places, forecast, {"size": Forecast(1.0, True)}, conditions)


def seeds():
    levels = (0.0, 0.33, 0.66, 1.0)
    recipe = {"strength": 1.0, "rate": 1e-2, "structure": "weight", "fixed": 2}
    return [
        {f"sparsity/{layer}": round(0.9 * level, 1) for layer in range(LAYERS)}
        | {f"bits/{layer}": round(3 * level) for layer in range(LAYERS)}
        | recipe
        for level in levels
    ]


def sampler_of(known=None, *, seed=7, candidates=100, make=surrogate_nsga2):
    made = make(SPACE, seed, candidates=candidates, startup=4) if make is surrogate_nsga2 else make(SPACE, seed)
    if known is not None:
        made.inform(known)
    return made


def fresh(sampler):
    study = optuna.create_study(directions=list(DIRECTIONS.values()), sampler=sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(DIRECTIONS))
    study.set_user_attr("reference_point", REFERENCE)
    for params in seeds():
        study.enqueue_trial(params)
    return study


def run(study, count, *, constrained=False):
    for _ in range(count):
        trial = study.ask(SPACE)
        values = measure(trial.params)
        if constrained:
            trial.set_constraint("accuracy >= 0.5", 0.5 - values[0])
        # every seventh fails, every fifth is stopped half-way with half of what it would have reached
        if trial.number % 7 == 6:
            study.tell(trial, state=TrialState.FAIL)
            continue
        rung = {"fraction": 0.5, "values": {"accuracy": 0.5 * values[0]}}
        trial.set_user_attr(RUNGS, [rung])
        if trial.number > 5 and trial.number % 5 == 0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values)


def content(study):
    return [(trial.params, trial.values) for trial in study.trials]


@pytest.mark.parametrize("known", [None, knowledge(), knowledge(exact=False)], ids=["blind", "exact", "estimate"])
def test_resumed_in_pieces_equals_uninterrupted(known):
    whole = fresh(sampler_of(known))
    run(whole, 34, constrained=True)
    pieces = fresh(sampler_of(known))
    for count in (1, 8, 12, 13):
        pieces.sampler = sampler_of(known)
        run(pieces, count, constrained=True)
    assert content(pieces) == content(whole)
    keys = [tuple(trial.params.values()) for trial in whole.trials]
    assert len(set(keys)) == len(keys)


def test_a_resumed_search_keeps_the_same_observations_where_they_are_many(monkeypatch):
    monkeypatch.setattr("forgefront.search.samplers.surrogate_nsga2.POINTS", 15)
    # what a plan settles or leaves open, as its structure has it
    known = knowledge(Condition("size", "<=", 0.6, "*"), sometimes=True)
    whole, pieces = fresh(sampler_of(known)), fresh(sampler_of(known))
    run(whole, 34, constrained=True)
    for count in (7, 18, 1, 8):
        pieces.sampler = sampler_of(known)
        run(pieces, count, constrained=True)
    assert content(pieces) == content(whole)
    assert len({trial.params["structure"] for trial in whole.trials}) == 2


def test_another_seed_asks_otherwise():
    first, second = fresh(sampler_of(seed=1)), fresh(sampler_of(seed=2))
    for study in (first, second):
        run(study, 9)
    assert content(first)[:4] == content(second)[:4]
    assert all(a != b for a, b in zip(content(first)[4:6], content(second)[4:6], strict=True))


def test_everything_asked_is_in_the_space():
    study = fresh(sampler_of(knowledge()))
    run(study, 25)
    for trial in study.trials:
        for name, distribution in SPACE.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name]))


def found(known, *, trials=40, make=surrogate_nsga2):
    shares = []
    for seed in range(2):
        study = fresh(sampler_of(known, seed=seed, candidates=200, make=make))
        for _ in range(trials):
            trial = study.ask(SPACE)
            study.tell(trial, measure(trial.params))
        shares.append(front_hypervolume(study.trials, study.directions, REFERENCE))
    return np.mean(shares)


def test_it_finds_in_a_quarter_of_the_trials_what_chance_does_not_find():
    by_chance = found(None, trials=100, make=random)
    assert found(None, trials=25) > by_chance
    assert found(knowledge(exact=False), trials=25) > by_chance
    assert found(knowledge(), trials=25) > by_chance


def test_what_is_known_to_be_hopeless_is_never_asked():
    condition = Condition("size", "<=", 0.3, "*")
    study = fresh(sampler_of(knowledge(condition)))
    run(study, 30)
    assert all(size(trial.params) <= 0.3 for trial in study.trials[4:])


def test_a_condition_that_nothing_can_meet_does_not_stop_the_search():
    study = fresh(sampler_of(knowledge(Condition("size", "<=", -1.0))))
    run(study, 10)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 10


def test_broken_constraints_are_learned():
    shares = {}
    for make in (surrogate_nsga2, random):
        study = fresh(sampler_of(make=make))
        for _ in range(40):
            trial = study.ask(SPACE)
            values = measure(trial.params)
            # small networks are refused, for a reason that no plan tells
            trial.set_constraint("tight", 0.5 - values[1])
            study.tell(trial, values)
        shares[make] = np.mean([trial.constraints["tight"] <= 0.0 for trial in study.trials[20:]])
    # the best lie at the bound
    assert shares[random] < 0.25
    assert shares[surrogate_nsga2] > 0.6


def test_where_trials_fail_no_more_of_them_are_asked():
    study = fresh(sampler_of(knowledge()))
    for _ in range(36):
        trial = study.ask(SPACE)
        if trial.params["sparsity/0"] > 0.4:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, measure(trial.params))
    failed = [trial.state == TrialState.FAIL for trial in study.trials]
    assert np.mean(failed[16:]) <= 0.15
    # the bound itself is not shunned
    assert max(trial.params["sparsity/0"] for trial in study.trials[16:]) >= 0.3


def test_stopped_trials_do_not_make_up_for_complete_ones():
    study = fresh(surrogate_nsga2(SPACE, 0, candidates=50, startup=6))
    for number in range(9):
        trial = study.ask(SPACE)
        values = measure(trial.params)
        trial.set_user_attr(RUNGS, [{"fraction": 0.5, "values": dict(zip(DIRECTIONS, values, strict=True))}])
        if number < 4:
            study.tell(trial, values)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    assert study.sampler._fitted is None
    run(study, 4)
    assert study.sampler._fitted is not None


def test_what_runs_is_not_asked_again_nor_next_to_it():
    study = fresh(sampler_of(knowledge()))
    run(study, 20)
    asked = [study.ask(SPACE) for _ in range(4)]
    values = np.array([measure(trial.params) for trial in asked])
    assert len({tuple(trial.params.values()) for trial in asked}) == 4
    # each goes for another part of the front
    assert min(np.abs(values[i] - values[j]).max() for i in range(4) for j in range(i)) > 0.01


@pytest.mark.parametrize("losses", [[1.0, 1.0], [float("inf"), 0.5]], ids=["constant", "infinite"])
def test_degenerate_values_are_survived(losses):
    study = fresh(sampler_of())
    for _ in range(14):
        trial = study.ask(SPACE)
        study.tell(trial, losses if trial.number % 2 else measure(trial.params))
    flat = fresh(sampler_of())
    for _ in range(12):
        flat.tell(flat.ask(SPACE), [1.0, 1.0])
    assert len(study.trials) == 14
    assert len(flat.trials) == 12


def test_one_objective_without_a_reference():
    study = optuna.create_study(direction="maximize", sampler=surrogate_nsga2(SPACE, 0, candidates=200))
    for _ in range(45):
        trial = study.ask(SPACE)
        study.tell(trial, measure(trial.params)[0])
    # the dense network has the best accuracy of all, 1 at the best recipe
    assert study.best_value > 0.8


def test_models_are_learned_anew_rarely_and_by_the_number_of_trials_alone():
    when = [scheduled(count) for count in range(400)]
    assert all(a <= b for a, b in itertools.pairwise(when))
    assert all(0 <= count - at < 25 for count, at in enumerate(when))
    assert [scheduled(count) for count in (8, 11, 59, 60, 69, 199, 200, 224)] == [8, 8, 55, 60, 60, 190, 200, 200]
