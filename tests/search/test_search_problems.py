"""The problems on which samplers are compared: frozen, in the units they state, and what is foretold of them true."""

import csv
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import digits_studies  # noqa: E402
import samplers  # noqa: E402
import tabulate_digits  # noqa: E402
from competitors import COMPETITORS, search  # noqa: E402
from search_problems import problem, tabulated  # noqa: E402
from search_problems.base import fingerprint, hypervolumes, losses, random_params  # noqa: E402
from search_problems.compression import Instance  # noqa: E402
from search_problems.network import BITS, CLUSTERS, coding_tables, mac_share, size_share  # noqa: E402

from forgefront.search.hypervolume import HYPERVOLUME, hypervolume  # noqa: E402
from forgefront.studies.load import read_study_text  # noqa: E402

# what samplers are judged by must not move with them
FROZEN = {
    "compression-0": "e20280118434",
    "compression-10": "02b3816b32cb",
    "dtlz2": "9725e30abe30",
    "wfg4": "8a1c1d53ba5b",
    "digits": "12a8d4c4714c",
    "digits-finetuned": "2d7ef312cee5",
}
NAMES = [*FROZEN, "compression-1"]


@pytest.fixture(params=NAMES)
def one(request):
    return problem(request.param)


def draws(one, count: int) -> list[dict]:
    generator = np.random.default_rng(3)
    return [random_params(one.space, generator) for _ in range(count)]


@pytest.mark.parametrize("name", FROZEN)
def test_a_problem_is_frozen(name):
    assert fingerprint(problem(name)) == FROZEN[name]


def test_instances_are_problems_of_their_own():
    values = [problem(f"compression-{instance}").reference[2:].tolist() for instance in range(6)]
    values += [problem(f"compression-{instance}").ideal.tolist() for instance in range(6)]
    assert len({str(value) for value in values}) == 12


@pytest.mark.parametrize("name", ["compression", "compression-x", "dtlz7", "digits-scratch", ""])
def test_an_unknown_problem_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"compression-<instance>, dtlz2, wfg4, digits or digits-finetuned; found"):
        problem(name)


def test_a_compression_problem_has_56_mixed_variables():
    space = problem("compression-0").space
    grids = [one for one in space.values() if isinstance(one, FloatDistribution) and one.step]
    assert (len(space), len(grids)) == (56, 18)


def test_params_lie_in_the_space_and_first_ones_differ(one):
    seeds = one.seeds(12)
    assert len({str(params) for params in seeds}) == 12
    for params in [*seeds, *draws(one, 20)]:
        assert params.keys() == one.space.keys()
        for name, value in params.items():
            assert one.space[name]._contains(one.space[name].to_internal_repr(value)), (name, value)


def test_values_lie_in_the_box_for_the_mildest_and_beyond_the_ideal_for_none(one):
    values = np.array([one.true(params) for params in [*one.seeds(8), *draws(one, 50)]])
    assert (losses(one, values) > -1e-9).all()
    assert hypervolumes(one, values[:8])[-1] > 0.02


def test_noise_is_centred_and_repeats_with_its_generator(one):
    params = one.seeds(3)[1]
    true = one.true(params)
    measured = np.array([one.measure(params, np.random.default_rng([1, trial])) for trial in range(400)])
    assert np.array_equal(measured[7], one.measure(params, np.random.default_rng([1, 7])))
    error = measured.std(axis=0) / np.sqrt(len(measured))
    # errors of digits are log-normal, hence not centred to the last bit
    assert (np.abs(measured.mean(axis=0) - true) <= 4.0 * error + 0.005 * np.abs(true)).all()
    assert (measured.std(axis=0) > 1e-9).any() == (one.name not in ("dtlz2", "wfg4"))


def test_hypervolume_of_the_first_n_is_that_of_their_front():
    one = problem("dtlz2")
    values = np.array([one.true(params) for params in draws(one, 40)])
    shares = hypervolumes(one, values)
    for count in (1, 5, 17, 40):
        assert shares[count - 1] == pytest.approx(hypervolume(losses(one, values[:count]), np.ones(4)))
    assert (np.diff(shares) >= 0).all()


def test_forecasts_are_right_where_they_say_so_and_err_where_they_do_not():
    one = problem("compression-3")
    instance, points = Instance(3), draws(one, 60)
    told = [one.known().forecast(params) for params in points]
    for params, known in zip(points, told, strict=True):
        left = mac_share(instance.layers, instance.setting(params).sparsity)
        macs = np.array([layer.macs for layer in instance.layers])
        assert known["macs"].exact
        assert known["macs"].value == pytest.approx(float((left * macs).sum() / macs.sum()))
    true = np.array([one.true(params) for params in points])
    for column, name in ((2, "size"), (3, "latency")):
        ratio = np.array([known[name].value for known in told]) / true[:, column]
        order = np.corrcoef(np.argsort(np.argsort(ratio * true[:, column])), np.argsort(np.argsort(true[:, column])))
        assert not any(known[name].exact for known in told)
        assert order[0, 1] > 0.85
        assert 0.02 < np.abs(ratio - 1.0).mean() < 0.4


def test_places_cover_what_is_compressed():
    known = problem("compression-0").known()
    recipe = {"augmentation_strength", "class_weight_scale"}
    assert problem("compression-0").space.keys() - known.places.keys() == recipe
    weights = [place.weight for place in known.places.values() if place.kind == "sparsity"]
    assert sum(weights) == pytest.approx(1.0)


def test_nothing_removed_is_the_dense_network():
    instance = Instance(4)
    none = np.zeros(18)
    assert mac_share(instance.layers, none) == pytest.approx(np.ones(18))
    assert size_share(instance.layers, none, np.full(18, 32.0), none) == pytest.approx(1.0)
    half = mac_share(instance.layers, np.full(18, 0.5), 1)
    # the second convolution of a block loses what it reads and what it writes, the first only what it writes
    assert half[2] == pytest.approx(0.25)
    assert half[1] == pytest.approx(0.5)


def test_weights_code_as_short_as_their_symbols_and_err_less_with_more_bits():
    entropy, error = coding_tables(np.array([0.9, 1.3]))
    for row, bits in enumerate(BITS):
        assert (entropy[:, row] <= bits).all()
        for column, clusters in enumerate(CLUSTERS[1:], start=1):
            assert (entropy[:, row, column] <= np.log2(clusters) + 1e-9).all()
    assert (np.diff(error[:, :, 0], axis=1) > 0).all()
    assert (np.diff(error[:, 0, :], axis=1) > 0).all()
    # heavier tails waste levels of an even grid, and so take fewer bits
    assert (entropy[1, :, 0] < entropy[0, :, 0]).all()


@pytest.fixture(scope="module", params=tabulated.SETTINGS)
def table(request):
    return tabulated.Table(request.param)


def test_a_table_varies_what_its_study_says(table):
    study = read_study_text(tabulate_digits.DESIGNS[table.name].study, file="digits table")
    choices = [0 if one == "none" else one for one in study.space.clusters]
    told = (study.space.sparsity.high, tuple(choices), tuple(study.space.weight_bits))
    setting = table.setting
    assert told == (setting.sparsest, setting.clusters, setting.bits)
    images = {objective.options["images"] for objective in study.objectives if objective.name == "mce"}
    assert images == {setting.images}
    assert table.fractions == list(tabulate_digits.DESIGNS[table.name].rungs)


def test_operations_of_the_table_follow_from_its_params(table):
    for params, row in table.rows:
        assert tabulated.mac_share(params) == pytest.approx(float(row["macs_share"]), rel=1e-4)


def test_the_estimated_size_is_near_what_was_packed(table):
    ratio = np.array(
        [tabulated.estimated_share(params, table.setting) / float(row["packed_share"]) for params, row in table.rows]
    )
    assert 0.9 < np.median(ratio) < 1.15
    assert 0.01 < np.abs(np.log(ratio)).std() < 0.3


def test_the_table_is_met_where_it_was_measured(table):
    rows = [(params, row) for params, row in table.rows if row["kind"] != "repeat"]
    found = np.array([table.true(params)[:2] for params, _ in rows])
    seen = np.array([[float(row["accuracy"]), float(row["mce"])] for _, row in rows])
    for column in (0, 1):
        assert (
            np.corrcoef(np.argsort(np.argsort(found[:, column])), np.argsort(np.argsort(seen[:, column])))[0, 1] > 0.7
        )


def test_a_rung_shares_the_luck_of_its_training(table):
    digits = problem(table.name)
    params = digits.seeds(4)[2]
    halfway, final = [], []
    for trial in range(300):
        halfway.append(digits.rungs(params, np.random.default_rng([2, trial]))[0.5])
        final.append(digits.measure(params, np.random.default_rng([2, trial])))
    known = digits.known().forecast(params)
    assert np.array(halfway)[0, 3] == known["macs"].value == final[0][3]
    half, end = 2 * table.fractions.index(0.5), 2 * len(table.fractions)
    expected = table.covariance[half, end] / np.sqrt(table.covariance[half, half] * table.covariance[end, end])
    errors = [np.log(1.0 - np.array(values)[:, 0] + tabulated.FLOOR) for values in (halfway, final)]
    assert np.corrcoef(*errors)[0, 1] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("sampler", [*COMPETITORS, "nsga2", 'nsga2:{"population": 6}'])
def test_every_search_begins_with_the_problems_seeds(sampler):
    one = problem("compression-0")
    values, seconds = search(one, sampler, 1, trials=14, seeds=5)
    assert np.array_equal(values[:5], np.array([one.true(params) for params in one.seeds(5)]))
    assert len({tuple(row) for row in values}) >= 13
    assert (seconds > 0).sum() > 10


def test_an_unknown_sampler_is_refused_by_name():
    with pytest.raises(ValueError, match=r"`sampler` must be one of optuna-nsga2, .*; found 'nsga9'"):
        search(problem("dtlz2"), "nsga9", 0, trials=1, seeds=0)


def test_what_is_stored_is_shown_and_not_searched_again(tmp_path, monkeypatch, capsys):
    options = ["--samplers", "optuna-random", "optuna-nsga2", "--problems", "dtlz2", "--seeds", "2", "--trials", "26"]
    monkeypatch.setattr(sys, "argv", ["samplers.py", *options, "--out", str(tmp_path)])
    samplers.main()
    first = capsys.readouterr().out
    assert "4 of 4: dtlz2 optuna-nsga2 1" in first
    with (tmp_path / "trajectories.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = np.array([[float(share) for share in row["hypervolumes"].split()] for row in rows])
    assert shares.shape == (4, 26)
    samplers.main()
    again = capsys.readouterr().out
    assert " of " not in again.split("dtlz2\n")[0]
    assert first[first.index("\ndtlz2\n") :] == again[again.index("\ndtlz2\n") :]
    of_random = [row for row, line in zip(shares, rows, strict=True) if line["sampler"] == "optuna-random"]
    assert f"{np.mean(of_random, axis=0)[24]:.4f} ± " in again
    assert (tmp_path / "dtlz2.png").stat().st_size > 10_000


def test_the_difference_by_seed_is_of_seeds_that_both_have_searched():
    found = {
        samplers.Search("one", "", sampler, "", seed, 8): (curve, 1.0)
        for sampler, seed, curve in [
            ("ours", 0, [0.0, 0.5, 0.5]),
            ("ours", 1, [0.0, 0.7, 0.7]),
            ("ours", 2, [0.9, 0.9, 0.9]),
            ("theirs", 1, [0.0, 0.0, 0.4]),
            ("theirs", 0, [0.0, 0.0, 0.4]),
            ("theirs", 3, [0.0, 0.0, 0.0]),
        ]
    }
    # of 0.1 and 0.3: mean 0.2, standard deviation 0.1 √2
    assert samplers.paired(found, "one", ("ours", 2), ("theirs", 3)) == "difference by seed: +0.2000 ± 0.1000 (2 seeds)"
    assert samplers.paired(found, "two", ("ours", 2), ("theirs", 3)) == "no seed was searched by both"


def test_a_failed_trial_leaves_the_hypervolume_as_it_was():
    volumes = [0.0, 0.2, None, 0.5, None]
    trials = [
        create_trial(state=TrialState.FAIL)
        if volume is None
        else create_trial(value=0.0, user_attrs={HYPERVOLUME: volume})
        for volume in volumes
    ]
    assert digits_studies.history(trials) == [0.0, 0.2, 0.2, 0.5, 0.5]


def test_a_study_is_named_by_the_version_of_its_sampler(tmp_path):
    assert digits_studies.version_of("optuna-nsga2") == optuna.__version__
    assert digits_studies.version_of("surrogate-nsga2") == samplers.source_digest(*digits_studies.SOURCES)
    digests = [samplers.source_digest(*digits_studies.SOURCES[:count]) for count in range(11)]
    assert len(set(digests)) > 8
    assert digits_studies.finished_trials(tmp_path) == 0
