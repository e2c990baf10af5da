import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from forgefront.search.knowledge import Forecast, Knowledge, VariablePlace
from forgefront.search.observations import Observation
from forgefront.search.samplers.evidence import Forecasts, gather, kept, levelled
from forgefront.search.samplers.features import Features
from forgefront.search.samplers.groups import group_variables
from forgefront.search.samplers.landscape import Landscape
from forgefront.search.samplers.proposals import Proposals, recipe_to_try
from forgefront.search.samplers.unit_space import UnitSpace
from forgefront.search.surrogate.models import Measured, fit_shape
from forgefront.studies.conditions import Condition

STAGES = (2, 3)
PLACES = {
    f"{kind}/{stage}.{layer}": VariablePlace(kind, (f"s{stage}", f"s{stage}.{layer}"), True, (layer + 1) / 10)
    for kind in ("sparsity", "bits")
    for stage, layers in enumerate(STAGES)
    for layer in range(layers)
}
SPACE = {
    name: FloatDistribution(0.0, 0.9, step=0.05) if place.kind == "sparsity" else IntDistribution(0, 3)
    for name, place in PLACES.items()
} | {
    "strength": FloatDistribution(0.0, 2.0),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "width": IntDistribution(1, 100, log=True),
    "odd": IntDistribution(1, 9, step=4),
    "choice": CategoricalDistribution(["a", "b", None]),
}
UNIT = UnitSpace(SPACE)
GROUPS = group_variables(UNIT.names, PLACES)


def drawn(count=200, seed=0):
    return Proposals(UNIT, GROUPS).spread(np.random.default_rng(seed), count, 200)


def observation(number, losses, params=None, **more):
    losses = np.array(losses, dtype=float)
    return Observation(number, params or {}, losses, np.zeros(len(losses)), **more)


def test_points_are_params_and_back():
    for point in drawn():
        params = UNIT.decode(point)
        assert UNIT.holds(params)
        assert all(SPACE[name]._contains(SPACE[name].to_internal_repr(params[name])) for name in SPACE)
        assert UNIT.decode(UNIT.encode(params)) == pytest.approx(params)


def test_the_ends_of_every_variable_are_points():
    low, high = UNIT.decode(np.zeros(len(UNIT))), UNIT.decode(np.ones(len(UNIT)))
    for name, space in SPACE.items():
        ends = space.choices[0::2] if isinstance(space, CategoricalDistribution) else (space.low, space.high)
        assert (low[name], high[name]) == pytest.approx(ends) if ends[1] is not None else high[name] is None


@pytest.mark.parametrize(
    "change",
    [{"strength": 2.1}, {"bits/0.0": 4}, {"choice": "c"}, {"rate": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_out_of_the_space_is_not_held(change):
    params = UNIT.decode(drawn(1)[0])
    assert UNIT.holds(params)
    assert not UNIT.holds(params | change)
    assert not UNIT.holds({name: params[name] for name in params if name not in change})


def test_categories_are_equally_far_from_each_other():
    points = np.zeros((3, len(UNIT)))
    points[:, UNIT.names.index("choice")] = [0.0, 0.5, 1.0]
    hot = UNIT.one_hot(points, UNIT.names.index("choice"))
    distances = np.linalg.norm(hot[:, None] - hot[None, :], axis=2)
    assert distances == pytest.approx(1 - np.eye(3))


def named(columns):
    return {UNIT.names[index] for index in columns}


def test_groups_go_from_the_network_to_its_stages():
    network, stages = GROUPS.nested["sparsity"]
    assert [named(part) for part in network] == [{name for name in PLACES if name.startswith("sparsity")}]
    assert [len(part) for part in stages] == list(STAGES)
    assert named(GROUPS.free) == {"strength", "rate", "width", "odd", "choice"}
    # a layer's sparsity and bits move together too
    assert {"sparsity/1.2", "bits/1.2"} in [named(part) for part in GROUPS.joint]
    assert set(PLACES) in [named(part) for part in GROUPS.joint]


def test_without_places_every_variable_is_free():
    groups = group_variables(UNIT.names, {})
    assert len(groups.free) == len(UNIT)
    assert groups.membership(len(UNIT)).shape == (0, len(UNIT))
    assert len(Features(UNIT, groups)(drawn(5))) == 5


def test_spread_samples_cover_all_levels_as_independent_ones_do_not():
    columns = GROUPS.kinds["sparsity"]
    levels = drawn(400)[:, columns].mean(axis=1)
    independent = np.random.default_rng(0).random((400, len(columns))).mean(axis=1)
    assert levels.std() > 1.5 * independent.std()
    assert levels.min() < 0.12
    assert levels.max() > 0.88


def test_single_layers_deviate_more_as_trials_come_in():
    proposals = Proposals(UNIT, GROUPS)
    columns = GROUPS.nested["sparsity"][1][1]
    early, late = (
        proposals.spread(np.random.default_rng(0), 300, trials)[:, columns].std(axis=1).mean() for trials in (8, 300)
    )
    assert late > 2 * early


def test_children_are_on_the_grid_and_mostly_new():
    parents = drawn(6)
    proposals = Proposals(UNIT, GROUPS)
    children = proposals.children(np.random.default_rng(1), parents, 300)
    assert children.shape == (300, len(UNIT))
    assert UNIT.snapped(children) == pytest.approx(children)
    known = {point.tobytes() for point in parents}
    assert np.mean([child.tobytes() in known for child in children]) < 0.3
    assert proposals.children(np.random.default_rng(1), parents[:1], 3).shape == (3, len(UNIT))


def test_small_reach_makes_small_moves():
    parents = drawn(1)
    proposals = Proposals(UNIT, GROUPS)
    near, far = (
        np.abs(proposals.children(np.random.default_rng(2), parents, 300, reach=reach) - parents)[:, :-1].mean()
        for reach in (0.1, 1.0)
    )
    assert near < 0.6 * far


def test_a_recipe_visits_all_of_its_range_and_then_draws_less_and_less_often():
    recipe = [UNIT.names[column] for column in GROUPS.recipe]
    assert recipe == ["strength", "rate", "width", "odd", "choice"]
    generator = np.random.default_rng(4)
    tried = np.full((8, len(UNIT)), 0.5)
    told = []
    while values := recipe_to_try(generator, UNIT, GROUPS.recipe, tried, 10**9):
        told.append(values)
        point = tried[:1].copy()
        point[0, list(values)] = list(values.values())
        tried = np.concatenate([tried, point])
    assert len(told) == 4
    columns = dict(zip(recipe, GROUPS.recipe.tolist(), strict=True))
    for name in ("strength", "rate", "width"):
        assert sorted(values[columns[name]] for values in told) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    # of three values one had been tried
    for name in ("odd", "choice"):
        assert sorted(values[columns[name]] for values in told if columns[name] in values) == [0.0, 1.0]
    often = [
        sum(bool(recipe_to_try(generator, UNIT, GROUPS.recipe, tried, trials)) for _ in range(2000)) / 2000
        for trials in (8, 40)
    ]
    assert often == pytest.approx([0.5, 0.1], abs=0.04)


def test_a_space_of_nothing_but_free_variables_has_no_recipe():
    assert not len(group_variables(UNIT.names, {}).recipe)


def test_candidates_hold_what_is_fixed():
    proposals = Proposals(UNIT, GROUPS, {int(GROUPS.recipe[0]): 1.0, int(GROUPS.recipe[4]): 0.5})
    generator = np.random.default_rng(0)
    for points in (proposals.spread(generator, 50, 0), proposals.children(generator, drawn(5), 50)):
        params = [UNIT.decode(point) for point in points]
        assert {(one["strength"], one["choice"]) for one in params} == {(2.0, "b")}
        assert len({one["sparsity/0.0"] for one in params}) > 3


def test_stopped_trials_end_where_complete_ones_tell_that_they_would():
    rungs = [np.array([2.0 + 2.0 * index, 5.0]) for index in range(5)]
    complete = [observation(index, [1.0 + index, 5.0], rungs={0.5: rungs[index]}) for index in range(5)]
    stopped = observation(5, [9.0, np.nan], fraction=0.5)
    losses, errors = levelled([*complete, stopped], 2)
    # half as far apart at the end as at the rung
    assert losses[5, 0] == pytest.approx(4.5)
    assert errors[5, 0] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(losses[5, 1])
    assert losses[:5, 0] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    # two complete trials tell too little
    assert np.isnan(levelled([*complete[:2], stopped], 2)[0][2]).all()


def test_of_many_observations_the_front_and_the_latest_are_kept():
    draws = np.random.default_rng(0)
    many = [observation(number, [number + 1.0, draws.random() + 1.0]) for number in range(500)]
    best = [observation(500, [0.0, 0.5]), observation(501, [0.5, 0.0])]
    later = [observation(number, [1000.0, 1000.0]) for number in range(502, 600)]
    chosen = kept([*many, *best, *later], 50)
    numbers = [one.number for one in chosen]
    assert len(chosen) == 50
    assert numbers == sorted(numbers)
    assert {500, 501} <= set(numbers)
    assert set(range(552, 600)) <= set(numbers)
    assert kept(many[:50], 50) == many[:50]


def test_evidence_knows_what_is_feasible_exact_and_broken():
    points = drawn(4)
    params = [UNIT.decode(point) for point in points]
    trials = [
        create_trial(params=one, distributions=SPACE, values=[0.5, 1.0], constraints={"told": told, "free": free})
        for one, told, free in zip(params, [0.1, -1, -1, -1], [-1.0, 0.2, -1.0, -1.0], strict=True)
    ]
    for trial in trials:
        assert trial.state == TrialState.COMPLETE
    known = Knowledge(
        {"accuracy": "maximize", "size": "minimize"},
        forecast=lambda params: {"size": Forecast(0.3, True), "told": Forecast(1.0, True)},
        conditions=(Condition("told", "<=", 2.0), Condition("free", "<=", 2.0)),
    )
    forecasts = Forecasts(known, ["accuracy", "size"], np.array([-1.0, 1.0]))
    seen = [
        observation(0, [-0.5, 1.0], params[0], violation=0.1),
        observation(1, [-0.5, 1.0], params[1], violation=0.2),
        observation(2, [-0.5, np.inf], params[2]),
        observation(3, [-0.5, 1.0], params[3]),
        observation(4, [-0.5, 1.0], {"other": 1.0}),
    ]
    evidence = gather(seen, trials, UNIT, forecasts, {})
    assert evidence.numbers == (0, 1, 2, 3)
    assert evidence.points == pytest.approx(np.array([UNIT.encode(one) for one in params]))
    assert evidence.feasible.tolist() == [False, False, False, True]
    assert evidence.exact.tolist() == [[False, True]] * 4
    assert evidence.complete.tolist() == [True, True, False, True]
    assert np.isnan(evidence.told[:, 0]).all()
    assert evidence.told[:, 1] == pytest.approx([0.3] * 4)
    assert list(evidence.constraints) == ["told", "free"]


def test_conditions_that_plans_settle_need_no_model():
    points = drawn(1)
    params = UNIT.decode(points[0])
    condition = Condition("macs", "<=", 2.0)
    known = Knowledge(
        {"loss": "minimize"}, forecast=lambda params: {"macs": Forecast(3.0, True)}, conditions=(condition,)
    )
    forecasts = Forecasts(known, ["loss"], np.ones(1))
    trial = create_trial(params=params, distributions=SPACE, value=1.0, constraints={str(condition): 1.0, "else": 0.5})
    evidence = gather([observation(0, [1.0], params, violation=1.5)], [trial], UNIT, forecasts, {})
    assert list(evidence.constraints) == ["else"]
    assert forecasts.hopeless(params)


def share(params):
    return 1.0 - sum(params[name] for name in PLACES if name.startswith("sparsity")) / 5


def told_by_some(*conditions):
    """Plans with the choice "a" tell the number exactly; those of others are off by a constant."""

    def forecast(params):
        exact = params["choice"] == "a"
        return {"macs": Forecast(share(params) + (0.0 if exact else 0.3), exact)}

    return Forecasts(Knowledge({"macs": "minimize"}, PLACES, forecast, {}, conditions), ["macs"], np.ones(1))


def tried(points, forecasts, bound=0.5):
    params = [UNIT.decode(point) for point in points]
    trials = [
        create_trial(params=one, distributions=SPACE, value=share(one), constraints={"macs <= 0.5": share(one) - bound})
        for one in params
    ]
    seen = [
        observation(number, [share(one)], one, violation=max(0.0, share(one) - bound))
        for number, one in enumerate(params)
    ]
    return gather(seen, trials, UNIT, forecasts, {})


def choosing(points, *choices):
    column = UNIT.names.index("choice")
    return points[np.isin(points[:, column], [["a", "b", None].index(one) / 2 for one in choices])]


def test_a_condition_that_only_some_plans_settle_keeps_its_model():
    forecasts = told_by_some(Condition("macs", "<=", 0.5))
    points = choosing(drawn(60), "a", "b")
    told = choosing(points, "a")
    assert list(tried(told, forecasts).constraints) == []
    # whichever comes first
    for order in (points, points[::-1]):
        found = tried(order, forecasts)
        assert list(found.constraints) == ["macs <= 0.5"]
        assert len(found.constraints["macs <= 0.5"]) == len(points)
    relative = told_by_some(Condition("macs", "<=", 0.5, "*"))
    # without the control's number nothing is settled
    assert relative.settled(UNIT.decode(told[0])) == set()


@pytest.mark.parametrize("late", [False, True])
def test_candidates_whose_plan_tells_need_no_model_and_others_have_one(late):
    forecasts = told_by_some()
    features = Features(UNIT, GROUPS)
    evidence = tried(choosing(drawn(80), *(["a"] if late else ["a", "b"])), forecasts)
    assert evidence.exact.all() == late
    asked = []

    def model(index):
        asked.append(index)
        measured = Measured(
            features(evidence.points), evidence.losses[:, 0], evidence.errors[:, 0], evidence.told[:, 0]
        )
        return fit_shape(measured, features.prior).given(measured)

    models = [None if late else model(0)]
    landscape = Landscape(UNIT, features, models, model, np.ones(1, dtype=bool), [], forecasts, tells=True)
    exact = landscape.believe(choosing(drawn(40, 1), "a"))
    assert asked == ([] if late else [0])
    candidates = drawn(40, 1)
    belief = landscape.believe(candidates)
    assert asked == [0]
    truth = np.array([share(UNIT.decode(point)) for point in candidates])
    known = belief.exact[:, 0]
    assert 0 < known.sum() < 40
    assert belief.mean[known, 0] == pytest.approx(truth[known])
    assert (belief.deviation[known] == 0.0).all()
    assert (belief.deviation[~known] > 0.0).all()
    losses = landscape.losses(belief)[:, 0]
    assert losses[known] == pytest.approx(truth[known])
    if not late:
        # the estimates are 0.3 too high
        assert np.abs(losses[~known] - truth[~known]).mean() < 0.1
    # what was believed before there was a model is worth the same after
    landscape.aim(np.random.default_rng(0), np.array([[0.6]]), np.array([1.0]), belief)
    worth = landscape.improvement(belief)[known]
    assert worth == pytest.approx(landscape.improvement(exact))
    assert worth == pytest.approx(np.maximum(0.0, 0.6 - truth[known]), abs=0.02)
    assert worth.max() > 0.1
