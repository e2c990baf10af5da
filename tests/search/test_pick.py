"""Choosing from a front: preferences as identities on known fronts, conditions, reasons, degenerate fronts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forgefront.search.hypervolume import hypervolume
from forgefront.search.pick import pick, shortlist
from forgefront.search.preference import (
    REFERENCE,
    Preference,
    achievement,
    exclusive_hypervolume,
    knee_utility,
    normalize_losses,
    parse_preference,
    pseudo_weights,
    rank,
)
from forgefront.search.told_apart import alike, alike_members, named
from forgefront.studies.errors import InputError

OBJECTIVES = {"accuracy": "maximize", "size": "minimize"}


def front(rows: list[tuple[float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["accuracy", "size"])
    return frame.assign(number=range(1, len(rows) + 1), role="search", accuracy_se=0.01, size_se=np.nan)


WISHES = ["knee", "balanced", "hypervolume", "size=1", "pseudo-weights=size:1,accuracy:2"]
BENT = front([(0.99, 10.0), (0.97, 2.0), (0.60, 1.0)])


def test_normalized_losses_span_zero_to_one_and_a_constant_column_is_zero() -> None:
    scaled = normalize_losses(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]]))
    np.testing.assert_array_equal(scaled, [[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])


def test_the_knee_of_a_bent_front_is_its_bend() -> None:
    assert pick(BENT, OBJECTIVES, prefer="knee").number == 2


def test_a_straight_front_has_no_knee_among_inner_points() -> None:
    utility = knee_utility(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]))
    assert utility[1] == pytest.approx(0.0)


def test_achievement_is_the_weighted_chebyshev_distance() -> None:
    value = achievement(np.array([[0.5, 0.1]]), np.array([0.25, 0.75]))
    assert value[0] == pytest.approx(0.125 + 1e-3 * 0.6)


@pytest.mark.parametrize(("prefer", "number"), [("accuracy=1", 1), ("size=1", 3), ("accuracy=1,size=1", 2)])
def test_weights_move_the_choice(prefer: str, number: int) -> None:
    assert pick(BENT, OBJECTIVES, prefer=prefer).number == number


@pytest.mark.parametrize("prefer", WISHES)
def test_a_front_of_one_is_picked_without_nan(prefer: str) -> None:
    choice = pick(BENT.iloc[:1], OBJECTIVES, prefer=prefer)
    assert (choice.number, choice.alternatives) == (1, ())


def test_ranking_is_a_permutation_for_equal_members() -> None:
    order = rank(np.ones((4, 3)), Preference("knee", {}), ["a", "b", "c"])
    assert sorted(order) == [0, 1, 2, 3]


def test_conditions_filter_and_are_stated() -> None:
    choice = pick(BENT, OBJECTIVES, where=["size <= 1.5"], prefer="accuracy=1")
    assert choice.number == 3
    assert any("1 of 3 satisfy size <= 1.5" in reason for reason in choice.reasons)


def test_a_condition_relative_to_the_control() -> None:
    control = pd.Series({"accuracy": 0.98, "size": 12.0})
    choice = pick(BENT, OBJECTIVES, where=["accuracy >= control - 0.02"], prefer="size=1", control=control)
    assert choice.number == 2


def test_the_control_is_never_chosen() -> None:
    frame = pd.concat([BENT.assign(role="control"), front([(0.1, 20.0)]).assign(number=9)])
    assert pick(frame, OBJECTIVES).number == 9


def test_neighbours_say_what_they_gain_give_up_and_what_is_noise() -> None:
    frame = front([(0.970, 2.0), (0.975, 3.0), (0.60, 1.0)])
    first, second = pick(frame, OBJECTIVES, prefer="balanced").alternatives
    assert first == "trial 2: gives up size 3 (+1); within noise: accuracy 0.975 (+0.005 ± 0.014)"
    assert second == "trial 3: gains size 1 (-1); gives up accuracy 0.6 (-0.37 ± 0.014)"


@pytest.mark.parametrize(
    ("where", "prefer", "message"),
    [
        (["size <= 0.5"], "knee", "leaves no member of the front: size is 1 to 10"),
        (["sise <= 5"], "knee", "Did you mean size?"),
        (["size is 5"], "knee", "size is 5"),
        ([], "nicest", "must be knee, balanced, hypervolume, NAME=WEIGHT"),
        ([], "acuracy=2", "Did you mean accuracy?"),
        ([], "hypervolme", "Did you mean hypervolume?"),
        ([], "pseudo-weights", "or pseudo-weights=NAME:WEIGHT"),
        ([], "pseudo-weights=size=1", "or pseudo-weights=NAME:WEIGHT"),
        ([], "pseudo-weights=sise:1", "Did you mean size?"),
        ([], "pseudo-weights=size:-1", "must be a positive number; found '-1'"),
        ([], "size=1,size=2", "each objective once; found size twice"),
        ([], "accuracy=0", "must be a positive number; found '0'"),
        ([], "accuracy=much", "must be a positive number; found 'much'"),
    ],
)
def test_wrong_wishes_are_told_in_one_line(where: list[str], prefer: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        pick(BENT, OBJECTIVES, where=where, prefer=prefer)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("control", [{"accuracy": 0.98, "size_kept": np.nan}, {"accuracy": 0.98}])
def test_a_bound_on_what_the_control_lacks_is_told(control: dict[str, float]) -> None:
    frame = BENT.assign(size_kept=0.5)
    where = ["size_kept <= control + 0.1"]
    assert pick(frame, OBJECTIVES, where=["size_kept <= 1"], control=pd.Series(control)).number == 2
    with pytest.raises(InputError, match=r"the control has no size_kept\.$") as caught:
        pick(frame, OBJECTIVES, where=where, control=pd.Series(control))
    assert where[0] in str(caught.value)
    with pytest.raises(InputError, match="needs a finished control"):
        pick(frame, OBJECTIVES, where=where)


def test_an_unknown_name_is_told_with_metrics_and_the_nearest_match_alone() -> None:
    details = {f"accuracy_of_class_{label}": 0.5 for label in range(60)}
    frame = BENT.assign(**details, accuracy_mean=0.5, accuracy_mean_se=0.01, seconds=3.0)
    with pytest.raises(InputError) as caught:
        pick(frame, OBJECTIVES, where=["acuracy_of_class_7 >= 0.5"])
    assert str(caught.value) == (
        "`--where` must name an objective or metric of the run (accuracy, size) or one of their details; "
        "found 'acuracy_of_class_7'. Did you mean accuracy_of_class_7?"
    )


def test_a_bound_on_what_no_member_has_is_told() -> None:
    with pytest.raises(InputError, match=r"leaves no member of the front: no member has size_kept there\.$"):
        pick(BENT.assign(size_kept=np.nan), OBJECTIVES, where=["size_kept <= 1"])


@pytest.mark.parametrize(("members", "known"), [(3, "(1, 2, 3)"), (500, "12, … 500 in all)")])
def test_a_choice_of_no_member_is_told_without_all_of_them(members: int, known: str) -> None:
    short = shortlist(front([(1.0 - size, 1.0 - size) for size in np.linspace(0.0, 1.0, members)]), OBJECTIVES)
    with pytest.raises(InputError) as caught:
        short.choose(9999)
    assert known in str(caught.value)
    assert len(str(caught.value)) < 160


def test_weights_are_read_in_any_spacing() -> None:
    assert parse_preference(" accuracy = 2 , size=1", ["accuracy", "size"]).weights == {"accuracy": 2.0, "size": 1.0}


@pytest.mark.parametrize("prefer", WISHES)
@pytest.mark.parametrize(
    "rows",
    [
        [(0.9, 1.0)] * 3,
        [(0.9, 1.0), (0.8, 1.0), (0.7, 1.0)],
        [(0.9, np.nan), (0.8, 1.0), (0.7, 0.5)],
        [(0.9, np.inf), (0.8, 1.0), (-np.inf, 0.5)],
        [(np.nan, np.nan), (np.nan, np.nan)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_degenerate_fronts_are_ranked_all_the_same(rows: list[tuple[float, float]], prefer: str) -> None:
    table = np.array(rows) * [-1.0, 1.0]
    order = rank(table, parse_preference(prefer, list(OBJECTIVES)), list(OBJECTIVES))
    assert sorted(order) == list(range(len(rows)))
    normalized = normalize_losses(table)
    assert ((normalized >= 0.0) & (normalized <= 1.0)).all()
    np.testing.assert_allclose(pseudo_weights(normalized).sum(axis=1), 1.0)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_exclusive_hypervolume_is_what_the_front_loses(objectives: int) -> None:
    points = normalize_losses(np.random.default_rng(objectives).random((90, objectives)))
    points = np.concatenate([points, points[:2]])
    reference = np.full(objectives, REFERENCE)
    whole = _volume(points, reference)
    lost = [whole - _volume(np.delete(points, row, axis=0), reference) for row in range(len(points))]
    np.testing.assert_allclose(exclusive_hypervolume(points), lost, atol=1e-12)
    assert exclusive_hypervolume(points[:1])[0] == pytest.approx(np.prod(reference - points[0]))


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    return float(reference[0] - points.min()) if len(reference) == 1 else hypervolume(points, reference)


def test_pseudo_weights_of_the_ends_and_of_the_middle() -> None:
    weights = pseudo_weights(np.array([[0.0, 1.0], [1.0, 0.0], [0.25, 0.25], [1.0, 1.0]]))
    np.testing.assert_allclose(weights, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(pseudo_weights(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])), [[1, 0, 0], [0, 0, 1]])


def test_an_objective_that_does_not_vary_moves_no_choice() -> None:
    losses = np.array([[0.0, 1.0, 5.0], [0.4, 0.6, 5.0], [1.0, 0.0, 5.0]])
    # whatever weight is asked for where there is nothing to choose
    for constant in (0.1, 1.0, 9.0):
        wish = Preference("pseudo-weights", {"a": 0.9, "b": 0.1, "c": constant})
        assert rank(losses, wish, ["a", "b", "c"]).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(pseudo_weights(normalize_losses(losses))[:, 2], 0.0)
    only = rank(losses, Preference("pseudo-weights", {"c": 1.0}), ["a", "b", "c"])
    assert only.tolist() == rank(losses, Preference("balanced", {}), ["a", "b", "c"]).tolist()


@pytest.mark.parametrize(
    ("prefer", "number"), [("pseudo-weights=accuracy:1", 1), ("pseudo-weights=size:1", 3), ("hypervolume", 2)]
)
def test_pseudo_weights_and_hypervolume_choose(prefer: str, number: int) -> None:
    assert pick(BENT, OBJECTIVES, prefer=prefer).number == number


def test_alike_means_within_two_errors_of_the_difference_in_every_objective() -> None:
    values, errors = np.array([[0.0, 1.0], [2.8, 1.0], [2.9, 1.0], [0.0, 1.1]]), np.array([[1.0, 0.0]] * 4)
    expected = np.eye(4, dtype=bool)
    # 2 √2 = 2.83
    expected[[0, 1, 1, 2], [1, 0, 2, 1]] = True
    np.testing.assert_array_equal(alike(values, errors), expected)
    frame = pd.DataFrame(values, columns=["a", "b"]).assign(number=[7, 3, 12, 5], a_se=1.0, b_se=np.nan)
    assert alike_members(frame, ["a", "b"]) == ["3", "7, 12", "3", ""]
    of_a_run = alike_members(frame.assign(run="a run"), ["a", "b"])
    assert [named(text) for text in of_a_run] == [["a run/3"], ["a run/7", "a run/12"], ["a run/3"], []]


def test_repeats_tell_apart_what_one_training_cannot() -> None:
    frame = front([(0.97, 2.0), (0.95, 2.0)])
    assert alike_members(frame, list(OBJECTIVES)) == ["2", "1"]
    assert alike_members(frame.assign(accuracy_se=0.005), list(OBJECTIVES)) == ["", ""]
