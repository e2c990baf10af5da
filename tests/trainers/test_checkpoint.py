"""A training interrupted after any epoch and taken up again ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import copy
import errno
import os
import time
from functools import cache
from pathlib import Path

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, TrialPlan
from forgefront.studies.errors import InputError
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.checkpoint import Checkpoints, module_state
from forgefront.trainers.fit import fit
from forgefront.trainers.rungs import Rungs, StoppedError, check_rungs, rung_steps
from forgefront.trainers.tasks.classification import ClassificationTask

CONV, STRIDED, LAST = "network.stage1.residual.conv1", "network.stage2.dense.conv", "network.stage2.pointwise.conv"
EPOCHS = 3
AWARE = Quantization("aware", 4, 4)
LEARNED = {"mask": "learned", "target": 0.6, "strength": 2.0}


def everywhere(layer: LayerPlan, *names: str) -> dict[str, LayerPlan]:
    return dict.fromkeys(names or (CONV, STRIDED, LAST), layer)


PLANS = {
    "dense": {},
    "weights": everywhere(LayerPlan(Pruning(0.6))),
    "global weights": everywhere(LayerPlan(Pruning(0.6, scope="global"))),
    "global filters": everywhere(LayerPlan(Pruning(0.4, "filter", scope="global"))),
    "learned weights": everywhere(LayerPlan(Pruning(0.0, **LEARNED))),
    "learned filters": everywhere(LayerPlan(Pruning(0.0, "filter", **LEARNED))),
    "one of each": {
        CONV: LayerPlan(Pruning(0.5, "2:4"), None, AWARE),
        STRIDED: LayerPlan(None, Clustering(4, per="channel")),
        LAST: LayerPlan(None, None, Quantization("post", 8, 8)),
    },
    "several of each": {
        CONV: LayerPlan(Pruning(0.5), Clustering(6), Quantization("aware", 8, 8)),
        LAST: LayerPlan(None, None, Quantization("aware", 3, 4, "learned")),
    },
    "everything": {
        CONV: LayerPlan(Pruning(0.5, "filter"), Clustering(8), Quantization("aware", 4, 4, "learned")),
        STRIDED: LayerPlan(Pruning(0.5), Clustering(8), AWARE),
    },
}
# the others are within these
COMPRESSORS = [name for name in PLANS if name not in ("dense", "weights")]
RECIPES = {
    "standard": Recipe(),
    "naturalistic": Recipe(regime="naturalistic", augmentation_strength=0.7),
    "adversarial": Recipe(regime="adversarial", method="n-fgsm", epsilon=0.05),
    "trades": Recipe(regime="adversarial", method="trades", epsilon=0.05),
}
EVERYTHING = {"weight_averaging": 0.9, "gradient_clip": 1.0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def task_of(regime: str, changes: tuple[tuple[str, object], ...]) -> ClassificationTask:
    training = {"regime": regime, "epochs": EPOCHS, "batch_size": 16, "device": "cpu", **dict(changes)}
    training.setdefault("optimizer", {"learning_rate": 0.02})
    return ClassificationTask(
        Study.model_validate(
            {
                "study": {"name": "test"},
                "task": {
                    "data": {"name": "digits", "validation": {"from": "train", "count": 300}, "train_images": 128},
                    "model": {"name": "digits-cnn", "width": 8},
                },
                "training": training,
                "space": {"sparsity": {"high": 0.9}},
                "objectives": [{"name": "accuracy"}],
            }
        ),
        torch.device("cpu"),
    )


def train(task: ClassificationTask, recipe: Recipe, layers: dict[str, LayerPlan], *, seed: int = 0, **options):
    """Everything that the training left, and the model."""
    plan, model = TrialPlan(layers, recipe), task.starting_model(Seed(seed))
    found = inspect_layers(model, task.input_shape)
    attached = attach(model, plan, found, task.example, seed=Seed(seed))
    result = fit(task, attached, recipe, task.study.training, seed=Seed(seed), **options)
    candidate = bake(attached, task.build_model, found, task.example)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    left = [rows, result.deviations, attached.deviations, candidate.achieved, candidate.plan.to_dict()]
    tensors = {**module_state(attached.model)["tensors"], **candidate.model.state_dict()}
    return left, tensors, result


def same(first, second) -> bool:
    tensors = first[1].keys() == second[1].keys() and all(
        torch.equal(first[1][key], second[1][key]) for key in first[1]
    )
    return bool(first[0] == second[0] and tensors)


@cache
def undisturbed():
    return train(task_of("standard", ()), Recipe(), PLANS["weights"])


class Killed(BaseException):
    """As abrupt as a killed process, to all that runs in this one."""


def killed_in(epoch: int):
    def on_progress(progress):
        if progress.epoch == epoch:
            raise Killed

    return on_progress


def interrupted(path: Path, *arguments, epochs=(2, 3), **options):
    """The training, killed in some epochs (from 1) and taken up again each time."""
    for epoch in epochs:
        with pytest.raises(Killed):
            train(*arguments, checkpoints=Checkpoints(path, every=0.0), on_progress=killed_in(epoch), **options)
    started = []
    checkpoints = Checkpoints(path, every=1e9)
    end = train(*arguments, checkpoints=checkpoints, on_progress=lambda one: started.append(one.epoch), **options)
    # or the whole training was run again, which proves nothing
    assert started[0] == max(epochs)
    return end


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_compressor_goes_on_where_it_was(tmp_path, name):
    arguments = task_of("standard", ()), Recipe(), PLANS[name]
    # before the masks' end, which lies in the second epoch, and after it
    assert same(interrupted(tmp_path / "one.pt", *arguments), train(*arguments))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("standard", {"optimizer": {"name": "adamw", "learning_rate": 0.002}, **EVERYTHING, "label_smoothing": 0.1}),
        ("naturalistic", {"consistency": 2.0, "crop_padding": 2}),
        ("adversarial", {"overfitting_guard": True, **EVERYTHING}),
        ("trades", {"method": "trades", "attack_steps": 1}),
    ],
)
def test_every_regime_goes_on_where_it_was(tmp_path, recipe, changes):
    frozen = tuple((key, value if not isinstance(value, dict) else _Frozen(value)) for key, value in changes.items())
    task = task_of(RECIPES[recipe].regime, frozen)
    arguments = task, RECIPES[recipe], PLANS["everything"]
    epochs = (3,) if "weight_averaging" in changes else (2,)
    assert same(interrupted(tmp_path / "one.pt", *arguments, epochs=epochs), train(*arguments))


class _Frozen(dict):
    def __hash__(self):
        return hash(str(self))


def test_a_batch_in_parts_goes_on_where_it_was(tmp_path):
    arguments = task_of("naturalistic", ()), RECIPES["naturalistic"], PLANS["weights"]
    assert same(interrupted(tmp_path / "one.pt", *arguments, halvings=2, epochs=(2,)), train(*arguments, halvings=2))


@pytest.mark.parametrize("kept", [1, 2])
def test_a_training_killed_in_smaller_batches_goes_on_in_those(tmp_path, kept):
    """Memory was short in its first life, which only its checkpoint knows."""
    path = tmp_path / "one.pt"
    arguments = task_of("standard", ()), Recipe(), PLANS["weights"]
    if kept == 2:
        # the guard takes its images in parts too
        arguments = task_of("adversarial", (("overfitting_guard", True),)), RECIPES["adversarial"], PLANS["weights"]
    with pytest.raises(Killed):
        train(*arguments, halvings=kept, checkpoints=Checkpoints(path, every=0.0), on_progress=killed_in(3))
    started, expected = [], train(*arguments, halvings=2)
    checkpoints = Checkpoints(path, every=1e9)
    # 2 parts are of no use where 4 have been found to be needed
    end = train(
        *arguments, halvings=0 if kept == 2 else 2, checkpoints=checkpoints,
        on_progress=lambda one: started.append(one.epoch),
    )  # fmt: skip
    assert started[0] == (3 if kept == 2 else 1)
    assert same(end, expected)


def test_a_checkpoint_counts_the_seconds_of_every_life(tmp_path):
    first = Checkpoints(tmp_path / "one.pt")
    time.sleep(0.05)
    first.save("x", {})
    assert first.load("x") == {}
    assert first.seconds_before == 0.0
    second = Checkpoints(tmp_path / "one.pt")
    assert second.load("another") is None
    assert second.seconds_before == 0.0
    second.load("x")
    assert second.seconds_before >= 0.05
    second.save("x", {})
    third = Checkpoints(tmp_path / "one.pt")
    third.load("x")
    assert third.seconds_before > second.seconds_before


@pytest.mark.parametrize("what", ["halved", "damaged", "empty", "of another plan", "of another seed", "a folder"])
def test_what_cannot_be_used_is_passed_over(tmp_path, what):
    path = tmp_path / "one.pt"
    arguments = task_of("standard", ()), Recipe(), PLANS["weights"]
    plan = PLANS["global filters"] if what == "of another plan" else PLANS["weights"]
    other = task_of("standard", ()), Recipe(), plan
    seed = int(what == "of another seed")
    with pytest.raises(Killed):
        train(*other, seed=seed, checkpoints=Checkpoints(path, every=0.0), on_progress=killed_in(3))
    content = path.read_bytes()
    if what == "halved":
        path.write_bytes(content[: len(content) // 2])
    elif what == "damaged":
        path.write_bytes(content.replace(b"digest", b"digfst"))
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    started = []
    end = train(*arguments, checkpoints=Checkpoints(path), on_progress=lambda one: started.append(one.epoch))
    assert started[0] == 1
    assert same(end, undisturbed())


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": 1, "digest": "x", "state": Touch()}, tmp_path / "one.pt")
    assert Checkpoints(tmp_path / "one.pt").load("x") is None
    assert not (tmp_path / "ran").exists()


def test_a_disk_without_room_costs_the_checkpoint_alone(tmp_path, small_disk):
    arguments = task_of("standard", ()), Recipe(), PLANS["weights"]
    with pytest.raises(OSError, match="No space left") as found:
        (small_disk / "filler").write_bytes(bytes(2**21))
    assert found.value.errno == errno.ENOSPC
    end = train(*arguments, checkpoints=Checkpoints(small_disk / "checkpoints" / "one.pt", every=0.0))
    assert same(end, undisturbed())
    assert [entry.name for entry in small_disk.rglob("*") if entry.is_file()] == ["filler"]


def test_short_trainings_write_none(tmp_path):
    train(task_of("standard", ()), Recipe(), {}, checkpoints=Checkpoints(tmp_path / "one.pt"))
    assert list(tmp_path.iterdir()) == []


# rungs


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("standard", "dense"),
        ("standard", "learned filters"),
        ("standard", "global filters"),
        ("adversarial", "everything"),
    ],
)
def test_looking_leaves_the_training_alone(tmp_path, name, recipe):
    seen = []
    changes = (("weight_averaging", 0.9), ("overfitting_guard", True)) if recipe == "adversarial" else ()
    arguments = task_of(RECIPES[recipe].regime, changes), RECIPES[recipe], PLANS[name]
    task = arguments[0]

    def look(index, fraction, step, attached):
        found = inspect_layers(task.build_model(), task.input_shape)
        candidate = bake(attached, task.build_model, found, task.example)
        torch.rand(3)
        images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(attached.model(images), candidate.model(images), atol=0.3)
        seen.append((index, fraction, step))
        totals = candidate.achieved["totals"]
        return {"sparsity": totals.get("sparsity", 0.0)}, None

    rungs = Rungs((0.25, 0.8), look)
    plain, watched = train(*arguments), train(*arguments, rungs=rungs)
    assert same(plain, watched)
    assert seen == [(0, 0.25, 6), (1, 0.8, 20)]
    resumed = interrupted(tmp_path / "one.pt", *arguments, epochs=(3,), rungs=rungs)
    assert same(plain, resumed)
    assert resumed[2].rungs == watched[2].rungs
    # compression is full at every rung
    assert len({str(found) for found in watched[2].rungs}) == 1 or "global" in name or "learned" in name


def test_a_stop_ends_the_training_with_what_was_recorded():
    seen = []

    def look(index, fraction, step, attached):
        return {"step": step}, "behind" if index == 1 else None

    with pytest.raises(StoppedError, match="behind") as found:
        train(
            task_of("standard", ()), Recipe(), {},
            rungs=Rungs((0.25, 0.5, 0.75), look), halvings=1, on_progress=lambda one: seen.append(one.step),
        )  # fmt: skip
    assert found.value.rungs == [{"step": 6}, {"step": 12}]
    assert [row["step"] for row in found.value.history] == [8]
    assert found.value.deviations == ["batch halved to 8 with accumulation over 2 (out of memory)"]
    assert max(seen) <= 12


def test_where_rungs_lie():
    assert rung_steps([0.25, 0.5], 40) == [10, 20]
    assert rung_steps([0.1, 0.99], 30) == [3]
    assert rung_steps([0.29], 100) == [29]
    check_rungs([0.25, 0.5], 80)


@pytest.mark.parametrize(
    ("fractions", "steps", "message"),
    [
        ([0.25, 0.5], 40, r"found 10 of 40\. Did you mean 0\.5\?"),
        ([0.25], 76, r"found 19 of 76\. Did you mean 0\.27\?"),
        ([0.9], 10, r"found 9 of 10\. Did you mean a longer training, or none"),
    ],
)
def test_rungs_that_come_too_early_are_refused(fractions, steps, message):
    with pytest.raises(InputError, match=message):
        check_rungs(fractions, steps)


def test_copies_of_attached_models_are_independent():
    task = task_of("standard", ())
    model = task.starting_model(Seed(0))
    plan = TrialPlan(PLANS["everything"])
    attached = attach(model, plan, inspect_layers(model, task.input_shape), task.example, seed=Seed(0))
    before = {name: tensor.clone() for name, tensor in module_state(attached.model)["tensors"].items()}
    twin = copy.deepcopy(attached)
    twin.set_progress(1.0)
    twin.after_step()
    after = module_state(attached.model)["tensors"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not attached.filter_masks[0].removed()
    assert twin.filter_masks[0].removed()
