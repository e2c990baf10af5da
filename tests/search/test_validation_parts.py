"""What a validation keeps, estimates and derives, each by itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from forgefront.search.validation.entries import Entry
from forgefront.search.validation.plots import draw_all
from forgefront.search.validation.progress import Costs, Progress, Task
from forgefront.search.validation.protocol import Protocol, parse_epsilon, protocol_of
from forgefront.search.validation.report import report
from forgefront.search.validation.results import (
    Measurements,
    attack_numbers,
    class_numbers,
    corruption_numbers,
    curve_numbers,
    paired,
)
from forgefront.search.validation.store import Store, Stored, digest_of, pack, unpack
from forgefront.spaces.plan import Recipe, TrialPlan
from forgefront.studies.errors import InputError
from forgefront.studies.load import load_study

# what is kept


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 17, 1000])
def test_bits_come_back(count: int) -> None:
    bits = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    assert unpack(pack(bits), count).tolist() == bits.tolist()


@pytest.mark.parametrize(("text", "count"), [("AA==", 9), ("AAAA", 8), ("!", 1)])
def test_bits_of_another_number_are_refused(text: str, count: int) -> None:
    with pytest.raises(ValueError):
        unpack(text, count)


def test_a_step_is_found_again_by_all_that_it_depends_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "trial-1")
    depends = {"images": "abc", "severity": 3, "steps": (1, 2)}
    store.write("corruption-my:own/fog-3", depends, Stored({"correct": "AA=="}, 1.5))
    assert store.read("corruption-my:own/fog-3", dict(reversed(depends.items()))) == Stored({"correct": "AA=="}, 1.5)
    assert store.read("corruption-my:own/fog-3", {**depends, "severity": 4}) is None
    assert store.read("corruption-snow-3", depends) is None
    assert len(list((tmp_path / "trial-1").iterdir())) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"value": 3, "seconds": 1}', '{"value": {}, "seconds": "x"}'])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: str) -> None:
    store, depends = Store(tmp_path), {"images": "abc"}
    store.write("clean", depends, Stored({"a": 1}, 0.1))
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert store.read("clean", depends) is None


def test_a_digest_is_of_values_whatever_their_order() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": (2,), "a": 1}) != digest_of({"a": 1, "b": [3]})


# how long it takes


def task(subject: str, kind: str, size: int = 1, shared: str | None = None) -> Task:
    return Task(subject, kind, kind, kind, size, shared)


def test_the_time_left_is_what_steps_of_the_kind_have_cost() -> None:
    costs = Costs()
    todo = [task("control", "attack", 100), task("trial 1", "attack", 50), task("control", "audit")]
    assert costs.left(todo) == (0.0, False)
    costs.add(task("control", "attack", 100), 10.0)
    # a subject that nothing is known of costs what others do
    assert costs.left(todo) == (pytest.approx(15.0), False)
    costs.add(task("trial 1", "attack", 100), 40.0)
    assert costs.left(todo) == (pytest.approx(30.0), False)
    costs.add(task("trial 1", "audit"), 2.0)
    assert costs.left(todo) == (pytest.approx(32.0), True)
    assert costs.left([]) == (0.0, True)


def test_what_an_earlier_process_measured_counts_until_this_one_has() -> None:
    costs = Costs()
    costs.remember(task("control", "corruptions"), 4.0)
    assert costs.left([task("control", "corruptions")] * 2) == (pytest.approx(8.0), True)
    costs.add(task("control", "corruptions"), 1.0)
    assert costs.left([task("control", "corruptions")] * 2) == (pytest.approx(2.0), True)


def test_what_is_made_for_all_subjects_is_counted_once() -> None:
    costs = Costs()
    todo = [task(subject, "corruptions", shared=name) for subject in ("control", "trial 1") for name in ("fog", "snow")]
    costs.add(todo[0], 1.0, shared=5.0)
    assert costs.left(todo[1:]) == (pytest.approx(5.0 + 3 * 1.0), True)


def test_what_was_there_says_nothing_of_what_is_to_be_made() -> None:
    first, second, third = (task("control", "corruptions", shared=name) for name in ("fog", "snow", "frost"))
    before = Costs()
    before.remember(first, 1.0, 5.0)
    before.remember(second, 1.0, 0.0)
    assert before.left([third]) == (pytest.approx(6.0), True)
    before.add(second, 1.0, shared=0.0)
    assert before.left([third]) == (pytest.approx(6.0), True)
    before.add(first, 1.0, shared=3.0)
    assert before.left([third]) == (pytest.approx(4.0), True)
    # what lies on the disk has no shared part
    assert before.left([task("control", "corruptions")]) == (pytest.approx(1.0), True)


def test_progress_says_when_a_stage_ends() -> None:
    todo = [task("control", "corruptions"), task("control", "corruptions"), task("trial 1", "attack")]
    progress = Progress(todo, stored=2, costs=Costs())
    assert progress.summary() == "2 of 5 steps"
    assert progress.finish(todo[0], 60.0, 0.0) == ""
    assert progress.summary() == "3 of 5 steps, more than 1 min 0 s left"
    assert progress.finish(todo[1], 60.0, 0.0).startswith("control: corruptions done in 2 min 0 s [4 of 5 steps")
    progress.finish(todo[2], 1.0, 0.0)
    assert progress.summary() == "5 of 5 steps"


# the protocol


def test_a_study_fills_in_what_is_left_open(tmp_path: Path) -> None:
    protocol = protocol_of(load_study("digits-adversarial"))
    assert (protocol.epsilon, protocol.attack, protocol.steps, protocol.restarts) == (0.1, "pgd", 50, 10)
    assert len(protocol.corruptions) == 15
    assert protocol_of(load_study("digits")).epsilon == 8 / 255
    assert protocol_of(load_study("digits"), epsilon="4/255").epsilon == 4 / 255
    assert protocol_of(load_study("digits"), attack="none").radii == ()
    assert protocol_of(load_study("digits")).radii[::7] == (0.0, 16 / 255)
    assert max(protocol_of(load_study("digits"), epsilon="0.9").radii) == 1.0


@pytest.mark.parametrize(
    ("text", "count"), [("published", 15), ("extra", 4), ("all", 19), ("none", 0), ("fog, snow,fog", 2)]
)
def test_corruptions_by_word_or_name(text: str, count: int) -> None:
    assert len(protocol_of(load_study("digits"), corruptions=text).corruptions) == count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"corruptions": "publish"}, "published"),
        ({"corruptions": "fog,snowy"}, "snow"),
        ({"corruptions": ""}, "--corruptions"),
        ({"corruptions": "nowhere:fog"}, "nowhere"),
        ({"attack": "pdg"}, "pgd"),
        ({"epsilon": "8"}, "8/255"),
        ({"epsilon": "0"}, "--epsilon"),
        ({"epsilon": "much"}, "--epsilon"),
        ({"images": 0}, "--images"),
        ({"archive": Path("nowhere")}, "`archive`"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_one_line(options: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        protocol_of(load_study("digits"), **options)
    assert "\n" not in str(caught.value)


def test_a_radius_is_a_number_or_a_fraction() -> None:
    assert parse_epsilon("8/255") == parse_epsilon(8 / 255) == 8 / 255


# what follows from the measurements


def test_a_paired_difference_is_mcnemars() -> None:
    """Of n images, b lost and c won: the variance of the mean is (b + c - (b - c)^2 / n) / n^2."""
    own = np.array([1, 1, 0, 0, 0, 1, 1, 1, 0, 1], dtype=bool)
    control = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 1], dtype=bool)
    found = paired(own, control)
    assert found.difference == pytest.approx(-0.2)
    assert found.standard_error == pytest.approx(math.sqrt((4 - 4 / 10) / 100))
    same = paired(control, control)
    assert (same.difference, same.standard_error) == (0.0, 0.0)


def measurements(seed: int, share: float, number: int = 0, images: int = 60, **recipe: object) -> Measurements:
    """Random outcomes of a subject that gets a share of the corrupted images right; images are hard or easy for all."""
    generator = np.random.default_rng(seed)
    hard = np.random.default_rng(0).random(images)
    labels = np.arange(images) % 3

    def judged(level: float) -> dict:
        right = torch.from_numpy(0.7 * hard + 0.3 * generator.random(images) < level)
        correct = np.bincount(labels[right.numpy()], minlength=3).tolist()
        return {
            "correct": pack(right),
            "tally": {"correct": correct, "total": np.bincount(labels, minlength=3).tolist()},
        }

    role = "trial" if number else "control"
    found = Measurements(Entry(f"{role}-{number}", number, role, TrialPlan({}, Recipe(**recipe))), images)
    found.clean = judged(0.95)
    for name in ("gaussian_noise", "fog", "contrast"):
        found.corrupted[name] = {severity: judged(share - 0.05 * severity) for severity in (1, 2, 3, 4, 5)}
    attacked = judged(0.5)["correct"]
    for part in range(0, images, 25):
        bits = torch.from_numpy(unpack(attacked, images)[part : part + 25])
        found.attack.append({"images": len(bits), "direct": pack(bits), "robust": pack(bits)})
    found.curve = {
        epsilon: {"images": images, "robust": judged(0.9 - 10 * epsilon)["correct"]} for epsilon in (0.01, 0.03)
    }
    found.audit = {"images": images, "gap": 0.0, "verdict": "sound", "failed": [], "checks": []}
    return found


def test_the_control_differs_from_itself_by_nothing() -> None:
    control = measurements(1, 0.8)
    numbers = corruption_numbers(control, control)
    assert numbers["mce"] == pytest.approx(100.0)
    assert numbers["relative_mce"] == pytest.approx(100.0)
    zeros = {key for key in numbers if key.endswith(("_change", "_change_se")) and not isinstance(numbers[key], dict)}
    assert {"mean_error_change", "mean_error_noise_change_se"} <= zeros
    assert all(numbers[key] == 0.0 for key in zeros)
    assert numbers["mce_se"] == pytest.approx(0.0, abs=1e-9)
    assert numbers["relative_mce_se"] == pytest.approx(0.0, abs=1e-9)


def test_corruption_numbers_follow_from_the_bits() -> None:
    own, control = measurements(2, 0.7, 4), measurements(1, 0.8)
    numbers = corruption_numbers(own, control)
    error = 1.0 - np.mean([unpack(own.corrupted["fog"][s]["correct"], 60) for s in (1, 2, 3, 4, 5)])
    assert numbers["mean_errors"]["fog"] == pytest.approx(error)
    assert numbers["errors"]["fog"]["3"] == pytest.approx(1.0 - unpack(own.corrupted["fog"][3]["correct"], 60).mean())
    ces = [own.wrong(name).mean() / control.wrong(name).mean() for name in own.corrupted]
    assert numbers["mce"] == pytest.approx(100.0 * np.mean(ces))
    assert numbers["mean_error_change"] == pytest.approx(
        numbers["mean_error"] - corruption_numbers(control, control)["mean_error"]
    )


def test_the_standard_error_of_a_ratio_is_that_of_resampled_images() -> None:
    own, control = measurements(2, 0.75, 4, images=2000), measurements(1, 0.8, images=2000)
    stated = corruption_numbers(own, control)["mce_se"]
    wrong = [(own.wrong(name), control.wrong(name)) for name in own.corrupted]
    generator = np.random.default_rng(0)
    values = []
    for _ in range(400):
        rows = generator.integers(0, 2000, 2000)
        values.append(100.0 * np.mean([e[rows].mean() / b[rows].mean() for e, b in wrong]))
    assert stated == pytest.approx(np.std(values), rel=0.15)


def test_every_ratio_to_the_control_is_paired() -> None:
    own, control = measurements(2, 0.75, 4), measurements(1, 0.8)
    numbers, same = corruption_numbers(own, control), corruption_numbers(control, control)
    ratios = [key for key in same if key.endswith("_se") and key.startswith(("mce", "relative_mce"))]
    assert {"mce_se", "mce_noise_se", "mce_weather_se", "mce_digital_se"} <= set(ratios)
    assert [same[key] for key in ratios] == pytest.approx([0.0] * len(ratios), abs=1e-9)
    assert list(same["ce_se"].values()) == pytest.approx([0.0] * 3, abs=1e-9)
    # a group of one corruption
    assert numbers["ce_se"]["fog"] == numbers["mce_weather_se"] > 0.0


def test_pairing_is_worth_having() -> None:
    """Both sides find the same images hard, so their difference is better known than either error."""
    own, control = measurements(2, 0.75, 4, images=2000), measurements(1, 0.8, images=2000)
    numbers = corruption_numbers(own, control)
    assert numbers["mean_error_change_se"] < 0.5 * numbers["mean_error_se"]


def test_seen_and_unseen_corruptions_are_those_of_the_augmentation() -> None:
    own, control = measurements(2, 0.7, 4, augmentation_strength=1.0), measurements(1, 0.8)
    numbers = corruption_numbers(own, control)
    assert numbers["mean_error_unseen"] == pytest.approx(numbers["mean_errors"]["fog"])
    seen = np.mean([numbers["mean_errors"][name] for name in ("gaussian_noise", "contrast")])
    assert numbers["mean_error_seen"] == pytest.approx(seen)
    assert "mean_error_unseen_change_se" in numbers


def test_the_extra_corruptions_do_not_enter_the_published_metrics() -> None:
    own, control = measurements(2, 0.7, 4), measurements(1, 0.8)
    published = corruption_numbers(own, control)
    for side in (own, control):
        side.corrupted["saturate"] = side.corrupted["fog"]
    both = corruption_numbers(own, control)
    assert {key: both[key] for key in ("mce", "mce_se", "relative_mce", "mean_error", "mean_error_change")} == {
        key: published[key] for key in ("mce", "mce_se", "relative_mce", "mean_error", "mean_error_change")
    }
    assert both["mean_error_extra"] == pytest.approx(both["mean_errors"]["fog"])
    assert both["mean_error_extra_change"] == pytest.approx(both["mean_errors_change"]["saturate"])
    for side in (own, control):
        side.corrupted = {"saturate": side.corrupted["saturate"]}
    alone = corruption_numbers(own, control)
    assert alone["mean_error"] == pytest.approx(alone["mean_error_extra"]) == pytest.approx(both["mean_error_extra"])


def test_batches_under_attack_become_one() -> None:
    own, control = measurements(2, 0.7, 4), measurements(1, 0.8)
    numbers = attack_numbers(own, control)
    assert numbers["images"] == len(own.withstands("robust")) == 60
    assert numbers["masking_gap"] == 0.0
    assert numbers["robust_accuracy"] == own.withstands("robust").mean()
    assert [point["epsilon"] for point in curve_numbers(own).values()] == [0.0, 0.01, 0.03]


def test_classes_have_their_changes() -> None:
    own, control = measurements(2, 0.7, 4), measurements(1, 0.8)
    numbers = class_numbers(own, control, ("a", "b", "c"))
    changes = [numbers[name]["accuracy_change"] for name in "abc"]
    assert np.mean(changes) == pytest.approx(own.correct.mean() - control.correct.mean())
    assert numbers["a"]["images"] == 20
    assert "corrupted_accuracy_change" in numbers["a"]
    # a task that counts something else
    assert class_numbers(own, control, ("one", "two")) == {}


def rows_of(*found: Measurements) -> list[dict]:
    control = found[0]
    return [
        {
            "number": one.entry.number,
            "role": one.entry.role,
            "corruptions": corruption_numbers(one, control),
            "attack": attack_numbers(one, control),
            "curve": curve_numbers(one),
            "classes": class_numbers(one, control, ("a", "b", "c")),
        }
        for one in found
    ]


def test_tables_stay_narrow_and_each_has_the_control() -> None:
    found = [measurements(number, 0.8, number) for number in range(9)]
    tables = list(report(Protocol(), 60, rows_of(*found), [one.entry.title for one in found]))
    corruptions = [table for table in tables if table.startswith("error")]
    assert len(corruptions) > 1
    for table in tables:
        _, head, *lines = table.splitlines()
        assert head.split()[0] == "control"
        assert max(map(len, lines)) <= 118
        assert len({len(line) for line in (head, *lines)}) == 1
    assert all(sum(f"trial {number}" in table for table in corruptions) == 1 for number in range(1, 9))


def test_pictures_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    found = [measurements(1, 0.8), measurements(2, 0.7, 4)]
    rows = rows_of(*found)
    files = draw_all(tmp_path / "new" / "plots", "digits", Protocol(), 60, rows, ["control", "trial 4"])
    assert [file.name for file in files] == ["trial-4-corruptions.png", "trial-4-classes.png", "epsilon.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert draw_all(tmp_path, "digits", Protocol(), 60, rows[:1], ["control"]) == [tmp_path / "epsilon.png"]
    for row in rows:
        del row["curve"], row["classes"]
    assert [file.name for file in draw_all(tmp_path, "digits", Protocol(), 60, rows, ["control", "trial 4"])] == [
        "trial-4-corruptions.png"
    ]


def test_a_hundred_classes_fit_a_picture_and_a_table(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    classes = [
        {
            f"class {label}": {"images": 10, "accuracy": 0.5, "accuracy_change": float(change)}
            for label, change in enumerate(generator.normal(0, scale, 100))
        }
        for scale in (0.0, 0.1)
    ]
    rows = [
        {"number": 0, "role": "control", "classes": classes[0]},
        {"number": 1, "role": "trial", "classes": classes[1]},
    ]
    (table,) = report(Protocol(), 60, rows, ["control", "trial 1"])
    assert "20 of 100" in table
    worst = min(classes[1], key=lambda name: classes[1][name]["accuracy_change"])
    assert table.splitlines()[2].startswith(worst)
    assert len(draw_all(tmp_path, "cifar100", Protocol(), 60, rows, ["control", "trial 1"])) == 1


def test_a_folder_of_pictures_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--plots"):
        draw_all(tmp_path / "file" / "plots", "digits", Protocol(), 60, rows_of(measurements(1, 0.8)), ["control"])
