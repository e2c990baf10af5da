"""Splits and long tails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgefront.studies.errors import DataError
from forgefront.studies.seeds import Seed
from forgefront.trainers.data.base import image_data
from forgefront.trainers.data.imbalance import exponential_profile, long_tailed_positions
from forgefront.trainers.data.splits import make_splits

TRAIN, TEST, CLASSES = 400, 100, 4


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 3, 2, 2), dtype=np.uint8)
    labels = np.arange(TRAIN + TEST) * CLASSES // (TRAIN + TEST)
    labels[TRAIN:] = np.arange(TEST) % CLASSES
    names = [str(i) for i in range(CLASSES)]
    return image_data(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:], class_names=names)


def cut(data, *, seed=0, **options):
    settings = {"validation_from": "train", "validation_count": 50, **options}
    return make_splits(data, **settings, seed=Seed(seed))


def numbers(split) -> set[int]:
    return set(split.indices.tolist())


def test_validation_from_train_leaves_the_test_split_whole(data):
    splits = cut(data)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (350, 50, 100)
    assert not numbers(splits.train) & numbers(splits.validation)
    assert numbers(splits.train) | numbers(splits.validation) == set(range(TRAIN))
    assert numbers(splits.test) == set(range(TEST))


def test_validation_from_test_leaves_the_training_split_whole(data):
    splits = cut(data, validation_from="test")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (400, 50, 50)
    assert not numbers(splits.test) & numbers(splits.validation)
    assert numbers(splits.test) | numbers(splits.validation) == set(range(TEST))


@pytest.mark.parametrize("validation_from", ["train", "test"])
def test_images_and_labels_follow_their_indices(data, validation_from):
    splits = cut(data, validation_from=validation_from)
    for split, official in (
        (splits.train, data.train),
        (splits.validation, getattr(data, validation_from)),
        (splits.test, data.test),
    ):
        assert torch.equal(split.images, official.images[split.indices])
        assert torch.equal(split.labels, official.labels[split.indices])


def test_the_seed_alone_decides(data):
    first, again, other = (cut(data, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.indices, again.train.indices)
    assert numbers(first.validation) != numbers(other.validation)


def test_limits_nest_and_leave_validation_alone(data):
    whole, large, small = (cut(data, train_images=n, test_images=m) for n, m in ((None, None), (100, 40), (30, 10)))
    assert numbers(small.train) < numbers(large.train) < numbers(whole.train)
    assert numbers(small.test) < numbers(large.test) < numbers(whole.test)
    assert numbers(small.validation) == numbers(whole.validation)
    assert (len(small.train), len(small.test)) == (30, 10)


def test_first_images_are_a_fair_sample_of_a_split_sorted_by_class(data):
    assert (cut(data).train.labels[:80].bincount(minlength=CLASSES) >= 8).all()


def test_only_what_is_trained_on_is_made_long_tailed(data):
    plain, tailed = cut(data), cut(data, imbalance=20.0)
    counts = tailed.train.class_counts(CLASSES)
    expected = exponential_profile(plain.train.class_counts(CLASSES), 20.0)
    assert counts.tolist() == expected.tolist()
    assert counts[0] / counts[-1] == pytest.approx(20, rel=0.25)
    assert numbers(tailed.train) < numbers(plain.train)
    assert numbers(tailed.validation) == numbers(plain.validation)
    assert numbers(tailed.test) == numbers(plain.test)


@pytest.mark.parametrize(
    ("counts", "imbalance", "kept"),
    [
        ([5000] * 10, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),  # CIFAR-10-LT
        ([500] * 3, 100, [500, 50, 5]),
        ([100, 100], 1, [100, 100]),
        ([10] * 3, 1000, [10, 1, 1]),
        ([10, 200, 1], 4, [10, 100, 1]),
        ([7], 10, [7]),
        ([8, 0, 8], 2, [8, 0, 4]),
    ],
)
def test_exponential_profile(counts, imbalance, kept):
    assert exponential_profile(np.array(counts), imbalance).tolist() == kept


def test_the_first_images_of_each_class_are_kept():
    labels = np.array([1, 0, 1, 0, 1, 0, 1, 0])
    assert long_tailed_positions(labels, 4.0, 2).tolist() == [0, 1, 3, 5, 7]


BAD = {
    "count of everything": ({"validation_count": 400}, r"must be in 1–399 \(the train split has 400 images"),
    "count of nothing": ({"validation_count": 0}, "found 0"),
    "count of all test images": ({"validation_from": "test", "validation_count": 100}, "must be in 1–99"),
    "seen by the checkpoint": ({"checkpoint": True}, 'must be "test" when `task.model.weights` is given'),
    "no training image": ({"train_images": 0}, "`task.data.train_images` must be at least 1; found 0"),
    "no test image": ({"test_images": 0}, "`task.data.test_images` must be at least 1; found 0"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD.keys())
def test_impossible_splits_are_refused(data, options, message):
    with pytest.raises(DataError, match=message) as caught:
        cut(data, **options)
    assert "\n" not in str(caught.value)
