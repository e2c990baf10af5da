"""Real trials that are stopped early, repeated, killed, short of memory, or without room on the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from forgefront.search import trial_run
from forgefront.search.engines.base import Standing, TrialRequest
from forgefront.search.run_folder import RunFolder
from forgefront.search.rung_values import rung_values
from forgefront.search.trial_run import Trials
from forgefront.spaces.known import ladder
from forgefront.studies.errors import DivergedError, InputError, RunError
from forgefront.studies.seeds import Seed
from forgefront.trainers import checkpoint
from forgefront.trainers.models import digits_cnn

STUDY = """
[study]
name = "small"

[task]
data = { name = "digits", train_images = 256, validation = { from = "train", count = 200 } }
model = { name = "digits-cnn", width = 8 }

[training]
steps = 32
batch_size = 32
threads = 1

[space]
granularity = "stage"
sparsity = { high = 0.8, structure = ["filter"] }
clusters = ["none", 16]
weight_bits = [8, 4]

[[objectives]]
name = "accuracy"

[[objectives]]
name = "mce"
severities = [3]
images = 100
corruptions = ["contrast"]

[[objectives]]
name = "compression_ratio"

[[objectives]]
name = "macs"

[search]
seeds = 2
"""
SEARCH = """
[search.early_stopping]
rungs = [0.625, 0.875]
keep = 0.5
warm_up = 2
images = 50
"""


def quiet(progress):
    pass


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """A run folder whose control has finished."""
    folder = tmp_path_factory.mktemp("control")
    RunFolder.create(folder, STUDY)
    assert Trials(folder)(TrialRequest(0, {}, "control"), quiet).result["state"] == "complete"
    return folder


@pytest.fixture
def run(control, tmp_path):
    """A function that makes a run with the control told, and more in its study file."""

    def make(more: str = "", where: Path | None = None, before: str = "") -> Trials:
        folder = (where or tmp_path) / "run"
        shutil.copytree(control, folder)
        (folder / "study.toml").write_text(before + STUDY + more)
        return Trials(folder)

    return make


@pytest.fixture(scope="module")
def plain(control, tmp_path_factory):
    """Trial 5, that nothing happened to."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    shutil.copytree(control, folder)
    context = Trials(folder)
    return outcome(context), weights(context)


def params(context, number=1):
    return ladder(context.space, 3)[number]


def outcome(context, number=5, role="search", **options):
    return context(TrialRequest(number, params(context), role, **options), quiet).result


def numbers(result):
    """What does not depend on the clock, nor on how the result came about."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in result["history"]]
    kept = {
        key: value for key, value in result.items() if key not in ("seconds", "history", "rungs", "repeats", "role")
    }
    return json.loads(json.dumps({**kept, "history": history}))


def weights(context, number=5):
    return context.candidate(number).model.state_dict()


# early stopping

BEST = {"accuracy": 1.0, "mce": 0.0, "compression_ratio": 1e3, "macs": 1.0}
WORST = {"accuracy": 0.0, "mce": 1e4, "compression_ratio": 0.1, "macs": 1e12}


def standing(*rungs):
    return Standing(rungs=tuple(tuple(one) for one in rungs))


def test_a_trial_that_is_behind_is_stopped(run):
    context = run(SEARCH)
    result = outcome(context, standing=standing([BEST] * 2 + [WORST], []), halvings=1)
    assert result["state"] == "pruned"
    assert result["reason"] == "stopped after 62.5 % of its training, behind others of 3 there"
    (rung,) = result["rungs"]
    assert (rung["fraction"], rung["step"]) == (0.625, 20)
    assert set(rung["values"]) == set(BEST)
    assert rung["values"]["macs"] == context.knowledge.forecast(result["params"])["macs"].value
    assert "raw" not in result
    assert "batch halved to 16 with accumulation over 2 (out of memory)" in result["deviations"]
    assert [row["step"] for row in result["history"]] == [8, 16]
    assert result["achieved"]["totals"]["macs"] == rung["values"]["macs"]
    assert context.folder.result(5) == result


@pytest.mark.parametrize(
    ("role", "rungs"),
    [
        ("seed", [[BEST] * 9, [BEST] * 9]),
        ("search", [[BEST], [BEST]]),
        ("search", [[WORST] * 9, [WORST] * 9]),
        ("search", []),
    ],
    ids=["a seed", "too few to compare with", "ahead", "the first"],
)
def test_a_trial_that_goes_on_is_as_if_nobody_had_looked(run, plain, role, rungs):
    watched = run(SEARCH)
    result = outcome(watched, role=role, standing=standing(*rungs))
    assert result["state"] == "complete"
    assert [rung["step"] for rung in result["rungs"]] == [20, 28]
    unwatched, first = plain
    assert "rungs" not in unwatched
    assert numbers(unwatched) == numbers(result)
    second = weights(watched)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    # the rung after which all is at its final compression already
    assert result["rungs"][1]["values"]["macs"] == result["raw"]["macs"]["macs"]


def test_a_look_short_of_memory_takes_smaller_batches(run, monkeypatch):
    looking = []

    def watched(*arguments):
        looking.append(True)
        try:
            return rung_values(*arguments)
        finally:
            looking.pop()

    def hook(module, inputs):
        if looking and len(inputs[0]) > 70:
            torch.empty(2**50)

    monkeypatch.setattr(trial_run, "rung_values", watched)
    monkeypatch.setattr(digits_cnn, "digits_cnn", _watched(digits_cnn.digits_cnn, hook))
    context = run(SEARCH.replace("rungs = [0.625, 0.875]", "rungs = [0.625]").replace("images = 50", "images = 100"))
    result = outcome(context)
    line = "measured in batches of 62 instead of 500 (out of memory)"
    assert [rung["deviations"] for rung in result["rungs"]] == [[line]]
    assert [one for one in result["deviations"] if "memory" in one] == [f"rung at 62.5 %: {line}"]
    assert set(result["rungs"][0]["values"]) == set(BEST)


def test_the_control_is_neither_compared_nor_repeated(run):
    context = run("repeats = 2\n" + SEARCH)
    context.folder.discard(0)
    result = context(TrialRequest(0, {}, "control", standing([BEST] * 9, [BEST] * 9)), quiet).result
    assert result["state"] == "complete"
    assert not {"rungs", "repeats"} & {*result}


def test_rungs_in_a_training_that_is_too_short_are_refused(run):
    context = run("\n[search.early_stopping]\nrungs = [0.25, 0.5]\n")
    with pytest.raises(InputError, match=r"rungs` must leave at least 20 training steps .*; found 8 of 32"):
        context.problem()
    assert run(SEARCH, context.folder.path / "other").problem().rungs == (0.625, 0.875)


# repeats


@pytest.mark.parametrize(
    ("front", "condition", "trainings"),
    [
        ([WORST], "macs <= control", 2),
        ([WORST, BEST], "macs <= control", 0),
        ([], "macs <= control * 0.01", 0),
        ([], "accuracy_nothing >= 0", 0),
    ],
)
def test_a_feasible_candidate_of_the_front_is_trained_again(run, front, condition, trainings):
    context = run("repeats = 3\n", before=f'constraints = ["{condition}"]\n')
    result = outcome(context, standing=Standing(front=tuple(front)))
    raws = [result["raw"], *result.get("repeats", [])]
    assert len(raws) == 1 + trainings
    # other seeds, other networks
    assert len({json.dumps(raw["mce"]) + json.dumps(raw["compression_ratio"]) for raw in raws}) == len(raws)
    assert not any(entry.is_dir() for entry in context.folder.trial(5).iterdir())
    assert context.candidate(5).plan.to_dict() == result["plan"]


def test_a_repeat_that_fails_costs_that_repeat_alone(run, monkeypatch):
    make = Trials.make

    def made(self, plan, seed, folder, *arguments, **options):
        if folder.name == "repeat-1":
            raise DivergedError("the loss became nan")
        if folder.name == "repeat-2":
            options["halvings"] = 1
        return make(self, plan, seed, folder, *arguments, **options)

    monkeypatch.setattr(Trials, "make", made)
    context = run("repeats = 3\n")
    result = outcome(context)
    assert (result["state"], len(result["repeats"])) == ("complete", 1)
    assert [one for one in result["deviations"] if one.startswith("repeat")] == [
        "repeat 1 failed: the loss became nan",
        "repeat 2: batch halved to 16 with accumulation over 2 (out of memory)",
    ]
    assert not any(entry.is_dir() for entry in context.folder.trial(5).iterdir())


# the control's files


@pytest.mark.parametrize("name", ["packed.safetensors", "latent.safetensors", "model.onnx", "result.json"])
def test_a_trial_without_its_control_has_no_result(run, name):
    context = run()
    file = context.folder.trial(0) / name
    content = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(RunError, match="must hold the control's files"):
        outcome(context)
    assert [entry.name for entry in context.folder.trials.iterdir()] == ["0"]
    file.write_bytes(content)
    context.control_artefacts()


# killed in training

KILLED = """
import os, signal, sys, time
from pathlib import Path
from forgefront.search.engines.base import TrialRequest
from forgefront.search.trial_run import Trials
from forgefront.spaces.known import ladder
from forgefront.trainers import checkpoint
checkpoint.SECONDS = 0.0
def report(progress):
    if progress.step >= 30:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
context = Trials(Path(sys.argv[1]))
context(TrialRequest(5, ladder(context.space, 3)[1]), report)
"""


def test_a_trial_killed_in_training_goes_on_from_its_last_epoch(run, plain, monkeypatch):
    context = run(SEARCH)
    program = [sys.executable, "-c", KILLED, str(context.folder.path)]
    assert subprocess.run(program, check=False).returncode == -9
    assert [path.name for path in context.folder.checkpoints.iterdir()] == ["5.pt"]
    context.folder.discard_attempts()
    context.folder.discard(5)
    seen = []
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    before = checkpoint_seconds(context.folder.checkpoint(5))
    assert before > 0.0
    started = time.perf_counter()
    resumed = context(TrialRequest(5, params(context)), seen.append).result
    # both lives, but for what the first one did after its last checkpoint
    assert before < resumed["seconds"] < before + time.perf_counter() - started
    assert seen[0].epoch == 4
    expected, first = plain
    assert numbers(resumed) == numbers(expected)
    assert [rung["step"] for rung in resumed["rungs"]] == [20, 28]
    second = weights(context)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert list(context.folder.checkpoints.iterdir()) == []


def checkpoint_seconds(path):
    return torch.load(path, weights_only=True)["seconds"]


# memory


def hungry(most):
    """What a network that can train with at most `most` images does, with the allocator's own error."""

    def hook(module, inputs):
        if module.training and len(inputs[0]) > most:
            torch.empty(2**50)

    return hook


@pytest.mark.parametrize(("most", "parts"), [(16, 2), (5, 8)])
def test_a_training_short_of_memory_takes_smaller_batches(run, monkeypatch, most, parts):
    monkeypatch.setattr(digits_cnn, "digits_cnn", _watched(digits_cnn.digits_cnn, hungry(most)))
    result = outcome(run())
    assert result["state"] == "complete"
    line = f"batch halved to {32 // parts} with accumulation over {parts} (out of memory)"
    assert [one for one in result["deviations"] if "memory" in one] == [line]
    assert result["history"][-1]["step"] == 32


def test_a_training_that_no_batch_is_small_enough_for_fails(run, monkeypatch):
    monkeypatch.setattr(digits_cnn, "digits_cnn", _watched(digits_cnn.digits_cnn, hungry(3)))
    result = outcome(run())
    assert result["state"] == "failed"
    assert result["reason"].startswith("out of memory, also with batches of 4 instead of 32 (")


def test_a_measurement_short_of_memory_takes_smaller_batches(run):
    def hook(module, inputs):
        if not module.training and len(inputs[0]) > 100:
            bytearray(2**60)

    context = run()
    candidate = context.candidate(0)
    candidate.model.register_forward_pre_hook(hook)
    found = context.artefacts(0, candidate)
    subject = context.subject(candidate, found, context.control_artefacts(), seed=Seed(0), split="validation")
    raw, deviations = context.measured(subject)
    assert deviations == ["measured in batches of 62 instead of 500 (out of memory)"]
    assert raw["accuracy"] == context.control_raw()["accuracy"]


def _watched(build, hook):
    def built(*arguments, **options):
        model = build(*arguments, **options)
        model.register_forward_pre_hook(hook)
        return model

    return built


# the disk


def test_a_trial_without_room_has_no_result_and_runs_again(run, small_disk):
    context = run(where=small_disk)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 8192))
    with pytest.raises(RunError, match=r"must be writable while a study runs; found that it is not \(.*\)\. What had"):
        outcome(context)
    assert context.folder.result(5) is None
    assert [entry.name for entry in context.folder.trials.iterdir()] == ["0"]
    filler.unlink()
    assert outcome(context)["state"] == "complete"
