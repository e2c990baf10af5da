"""Parts of the user's own, named as module:attribute, work everywhere a name does; a broken one fails trials, not studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgefront import load_run
from forgefront.search.launch import launch, resume
from forgefront.search.tables import render

MODULE = """
import torch
from forgefront.objectives.base import Objective, Score

class Weights(Objective):
    name = "weights"
    direction = "minimize"
    def measure(self, subject):
        return {"weights": sum(p.numel() for p in subject.candidate.model.parameters())}
    def derive(self, raw, control_raw):
        return Score(float(raw["weights"]))
    def worst(self, control_value):
        return control_value * 1.1

class Tensor(Weights):
    name = "tensor"
    def measure(self, subject):
        if subject.candidate.plan.layers:
            return {"weights": torch.ones(1)}
        return super().measure(subject)

def net(classes):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=4), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Dropout(0.5),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, classes),
    )
"""

STUDY = """
constraints = {constraints}

[study]
name = "{name}"

[task]
data = {{ name = "digits", train_images = 96, validation = {{ from = "train", count = 50 }} }}
model = {{ name = "my_parts:net" }}

[training]
steps = 4
batch_size = 32
threads = 1

[space]
granularity = "layer"
clusters = ["none", 16, 8]
weight_bits = [8, 4]
activation_bits = [8]

[[objectives]]
name = "accuracy"

[[objectives]]
name = "my_parts:{objective}"

[search]
seeds = 1
trials = 3
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_parts", raising=False)
    return tmp_path


def write(home: Path, name: str, objective: str, constraints: str = "[]") -> str:
    (home / f"{name}.toml").write_text(STUDY.format(name=name, objective=objective, constraints=constraints))
    return f"{name}.toml"


def test_an_own_objective_and_model_reach_every_reader(home: Path) -> None:
    launch(write(home, "own", "Weights", '["weights <= control"]'))
    run = load_run("runs/own")
    assert run.objectives == {"accuracy": "maximize", "weights": "minimize"}
    assert {"accuracy", "weights"} <= set(run.front())
    assert "weights" in render(run.front(), run.metrics, "table")
    assert run.pick(where=["weights <= 1e9"]).number in run.front()["number"].tolist()
    run.plot_front(home / "front.png")


def test_a_part_that_fails_fails_its_trials_and_the_study_goes_on(home: Path) -> None:
    finished = launch(write(home, "broken", "Tensor"))
    assert (finished.trials, finished.failed) == (3, 2)
    reasons = load_run("runs/broken").trials()["reason"].tolist()
    assert all("not JSON serializable" in reason for reason in reasons[1:])
    assert resume(Path("runs/broken")).ran == 0


def test_a_constraint_on_nothing_measured_is_refused_before_any_training(home: Path) -> None:
    from forgefront.studies.errors import InputError

    with pytest.raises(InputError, match="`constraints` must be on what the study measures"):
        launch(write(home, "wrong", "Weights", '["wieghts <= control"]'))
    assert not (home / "runs").exists()


def test_dropout_draws_from_the_trial_s_seed_alone(home: Path) -> None:
    """A trial after two others in its process equals the same trial in a fresh one."""
    import torch

    launch(write(home, "first", "Weights"))
    torch.rand(1000)
    launch(write(home, "second", "Weights"), trials=2)
    torch.rand(77)
    resume(Path("runs/second"), trials=3)
    first, second = (load_run(f"runs/{name}").trials() for name in ("first", "second"))
    assert first["accuracy"].tolist() == second["accuracy"].tolist()
