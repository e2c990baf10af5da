"""The classification task: batches, losses, weights, sampling, fingerprint."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from forgefront.spaces.plan import Recipe
from forgefront.studies.errors import DataError, InputError, ModelError
from forgefront.studies.registry import resolve
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.class_balance import effective_number, inverse, repeat_factor
from forgefront.trainers.tasks.base import Batch, to_float
from forgefront.trainers.tasks.classification import ClassificationTask

CPU = torch.device("cpu")


def make_task(*, seed: int = 0, data: dict | None = None, model: dict | None = None, **training) -> ClassificationTask:
    study = Study.model_validate(
        {
            "study": {"name": "test", "seed": seed},
            "task": {
                "data": {"name": "digits", "validation": {"from": "train", "count": 300}, **(data or {})},
                "model": {"name": "digits-cnn", "width": 8, **(model or {})},
            },
            "training": {"epochs": 1, "device": "cpu", **training},
            "space": {"sparsity": {"high": 0.9}},
            "objectives": [{"name": "accuracy"}],
        }
    )
    return ClassificationTask(study, CPU)


@pytest.fixture(scope="module")
def task() -> ClassificationTask:
    return make_task()


@pytest.fixture(scope="module")
def tailed() -> ClassificationTask:
    return make_task(data={"imbalance": 100.0})


def epoch(task: ClassificationTask, recipe: Recipe | None = None, *, seed: int = 0, **options) -> list[Batch]:
    return list(task.train_batches(recipe or Recipe(), batch_size=64, seed=Seed(seed), **options))


def test_shapes_names_and_example(task):
    assert task.input_shape == (3, 32, 32)
    assert task.example.shape == (1, 3, 32, 32)
    assert task.class_names == tuple("0123456789")
    assert [len(task.evaluation(split)) for split in ("train", "validation", "test")] == [1200, 300, 297]


def test_an_epoch_is_whole_batches_of_distinct_plain_images(task):
    batches = epoch(task)
    assert len(batches) == task.steps_per_epoch(64, Recipe()) == 1200 // 64
    indices = torch.cat([batch.indices for batch in batches])
    assert len(indices) == len(set(indices.tolist())) == 18 * 64
    assert all(batch.images.shape == (64, 3, 32, 32) and batch.images.dtype == torch.float32 for batch in batches)
    everything = task.evaluation("train")
    where = {index: position for position, index in enumerate(everything.indices.tolist())}
    batch = batches[3]
    positions = torch.tensor([where[index] for index in batch.indices.tolist()])
    assert torch.equal(batch.images, to_float(everything.images[positions]))
    assert torch.equal(batch.targets, everything.targets[positions])


def test_the_seed_decides_order_and_augmentation():
    task, recipe = make_task(crop_padding=2, horizontal_flip=True), Recipe(augmentation_strength=1.0)
    first, again, other = (epoch(task, recipe, seed=seed, steps=2) for seed in (0, 0, 1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].indices, other[0].indices)
    plain = epoch(task, steps=2)
    assert torch.equal(first[0].indices, plain[0].indices)
    assert not torch.equal(first[0].images, plain[0].images)


@pytest.mark.parametrize(("steps", "count"), [(0, 0), (1, 1), (5, 5), (100, 18)])
def test_an_epoch_can_be_cut_short(task, steps, count):
    assert len(epoch(task, steps=steps)) == count


def test_a_batch_larger_than_the_data_is_all_of_them():
    task = make_task(data={"train_images": 40})
    assert task.steps_per_epoch(64, Recipe()) == 1
    assert len(epoch(task)[0].indices) == 40


def test_training_and_validation_share_no_image(task):
    seen = {int(index) for batch in epoch(task) for index in batch.indices}
    assert not seen & set(task.evaluation("validation").indices.tolist())


def test_repeat_factor_sampling_draws_rare_classes_more_often(tailed):
    recipe = Recipe(class_weighting="repeat-factor", class_weight_scale=1.0)
    drawn = np.zeros(10)
    for number in range(60):
        batches = epoch(tailed, recipe, seed=number)
        assert len(batches) == tailed.steps_per_epoch(64, Recipe())
        drawn += sum(batch.targets.bincount(minlength=10).numpy() for batch in batches)
    expected = tailed.class_counts * repeat_factor(tailed.class_counts)
    assert drawn / drawn.sum() == pytest.approx(expected / expected.sum(), abs=0.015)


def test_repeat_factor_sampling_of_scale_zero_is_plain(tailed):
    off = Recipe(class_weighting="repeat-factor", class_weight_scale=0.0)
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(epoch(tailed, off), epoch(tailed), strict=True))


@pytest.mark.parametrize(("name", "weighting"), [("inverse", inverse), ("effective-number", effective_number)])
def test_weighted_loss_is_equation_4(tailed, name, weighting):
    batch = epoch(tailed)[0]
    outputs = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    losses = functional.cross_entropy(outputs, batch.targets, reduction="none")
    weights = torch.tensor(weighting(tailed.class_counts), dtype=torch.float32)
    weighted = tailed.loss(outputs, batch, Recipe(class_weighting=name, class_weight_scale=1.0))
    assert weighted.item() == pytest.approx((weights[batch.targets] * losses).mean().item(), rel=1e-5)
    for off in (Recipe(), Recipe(class_weighting=name), Recipe(class_weighting="none", class_weight_scale=1.0)):
        assert tailed.loss(outputs, batch, off).item() == pytest.approx(losses.mean().item())


@pytest.mark.parametrize("name", ["naturalistic", "augmix"])
def test_the_recipe_names_what_augments(name):
    task = make_task()
    recipe = Recipe(augmentation_strength=1.0, augmentation=name)
    plain, augmented = epoch(task, steps=1)[0], epoch(task, recipe, steps=1)[0]
    assert torch.equal(plain.indices, augmented.indices)
    expected = resolve("augmentation", name)(plain.images, 1.0, Seed(0).child("augmentation").torch(CPU))
    assert torch.equal(augmented.images, expected)
    assert augmented.views is None


def test_consistency_keeps_the_images_and_gives_two_views_of_each():
    task = make_task(consistency=12.0)
    recipe = Recipe(augmentation_strength=1.0, augmentation="augmix")
    plain, batch = epoch(make_task(), steps=1)[0], epoch(task, recipe, steps=1)[0]
    assert torch.equal(batch.images, plain.images)
    assert batch.views is not None
    assert batch.views.shape == (128, 3, 32, 32)
    first, second = batch.views.split(64)
    assert not torch.equal(first, second)
    # views are of their own image: nearer to it than to its neighbour, all but a few
    near, far = (first - plain.images).square().mean(dim=(1, 2, 3)), (first - plain.images.roll(1, 0)).square()
    assert (near < far.mean(dim=(1, 2, 3))).float().mean() > 0.9
    # images that are not augmented have no views to agree with
    assert epoch(task, Recipe(), steps=1)[0].views is None


def test_predictions_are_probabilities(task):
    outputs = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(task.log_probabilities(outputs).exp().sum(dim=1), torch.ones(4))
    assert [part.shape[0] for part in task.split(outputs, 2)] == [2, 2]


def test_label_smoothing_enters_the_loss_but_not_the_attack():
    task = make_task(label_smoothing=0.2)
    batch = epoch(task, steps=1)[0]
    outputs = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    smooth = functional.cross_entropy(outputs, batch.targets, label_smoothing=0.2)
    assert torch.allclose(task.loss(outputs, batch, Recipe()), smooth)
    plain = functional.cross_entropy(outputs, batch.targets, reduction="none")
    assert torch.equal(task.attack_loss(outputs, batch.targets), plain)


def test_tally_counts_per_class_and_nan_is_never_right(task):
    targets = torch.tensor([0, 0, 1, 9])
    outputs = torch.zeros(4, 10)
    outputs[[0, 1, 2, 3], [0, 1, 1, 9]] = 1.0
    outputs[3, 4] = float("nan")
    tally = task.tally(outputs, targets)
    assert tally["correct"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert tally["total"] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert task.predictions(outputs[:3].numpy()).tolist() == [0, 1, 1]


def test_evaluation_limits_nest(task):
    whole, some = task.evaluation("validation"), task.evaluation("validation", 50)
    assert torch.equal(whole.indices[:50], some.indices)
    assert sum(len(batch.indices) for batch in some.batches(16)) == 50
    assert torch.equal(torch.cat([batch.images for batch in some.batches(16)]), to_float(some.images))


def test_calibration_images_are_training_images(task):
    images = task.calibration_images(32, Seed(1))
    assert images.shape == (32, 3, 32, 32)
    assert len(task.calibration_images(10_000, Seed(1))) == 1200
    plain = {image.numpy().tobytes() for image in to_float(task.evaluation("train").images)}
    assert all(image.numpy().tobytes() in plain for image in images)


def test_models_follow_their_seed_and_leave_the_global_generator_alone(task):
    before = torch.random.get_rng_state()
    first, again, other = (task.starting_model(Seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    key = "network.linear.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
    assert task.build_model().state_dict().keys() == first.state_dict().keys()


def test_normalisation_is_that_of_the_training_images(task):
    images = to_float(task.evaluation("train").images)
    normalised = task.build_model().normalize(images)
    assert normalised.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert normalised.std(dim=(0, 2, 3)).tolist() == pytest.approx([1.0] * 3, abs=1e-3)


def test_a_checkpoint_is_where_every_trial_starts(task, tmp_path):
    path = tmp_path / "digits.safetensors"
    source = task.starting_model(Seed(7)).network
    save_file(source.state_dict(), path)
    data = {"validation": {"from": "test", "count": 100}}
    loaded = make_task(data=data, model={"weights": str(path)})
    for seed in (0, 1):
        state = loaded.starting_model(Seed(seed)).network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())
    assert re.fullmatch("[0-9a-f]{64}", loaded.fingerprint()["checkpoint"])


def test_fingerprint_follows_data_splits_and_seed(task, tailed):
    prints = [task.fingerprint(), tailed.fingerprint(), make_task(seed=1).fingerprint()]
    assert make_task().fingerprint() == prints[0]
    assert len({one["splits"] for one in prints}) == 3
    assert prints[0]["data"] == prints[1]["data"]
    assert prints[0]["sizes"] == {"train": 1200, "validation": 300, "test": 297}


BAD = {
    "too many": (lambda _: {"data": {"validation": {"count": 1500}}}, DataError, "`task.data.validation.count` must"),
    "no checkpoint": (
        lambda folder: {
            "data": {"validation": {"from": "test", "count": 9}},
            "model": {"weights": str(folder / "x.safetensors")},
        },
        ModelError,
        "`weights` must be a file; found none",
    ),
    "unknown data": (lambda _: {"data": {"name": "digit"}}, InputError, 'found "digit". Did you mean "digits"'),
    "unknown option": (lambda _: {"data": {"upsample": "nearest"}}, InputError, "`task.data.upsample`"),
    "not data": (
        lambda _: {"data": {"name": "fractions:Fraction"}},
        DataError,
        "must return an `ImageData`; found Fraction",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_tasks_are_refused_in_one_line(tmp_path: Path, make, kind, message):
    with pytest.raises(kind, match=message) as caught:
        make_task(**make(tmp_path))
    assert "\n" not in str(caught.value)
