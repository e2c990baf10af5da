"""Real images, a real task and a briefly trained candidate for the tests of the objectives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from forgefront.compression.candidate import Candidate
from forgefront.objectives.base import Subject
from forgefront.spaces.plan import Recipe, TrialPlan
from forgefront.studies.load import load_study
from forgefront.studies.seeds import Seed
from forgefront.trainers.tasks.classification import ClassificationTask

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "test_000.webp"


@pytest.fixture(scope="session")
def photographs() -> np.ndarray:
    """(64, 32, 32, 3) uint8: crops of scikit-learn's two photographs at a quarter of their size."""
    generator = np.random.default_rng(0)
    crops = []
    for photograph in load_sample_images().images:
        small = np.asarray(Image.fromarray(photograph).resize((160, 106), Image.Resampling.BOX))
        for _ in range(32):
            row, column = generator.integers(0, 106 - 32), generator.integers(0, 160 - 32)
            crops.append(small[row : row + 32, column : column + 32])
    return np.stack(crops)


@pytest.fixture(scope="session")
def cifar() -> np.ndarray:
    """(160, 32, 32, 3) uint8: the first CIFAR-10 test images."""
    if not CIFAR.exists():
        pytest.skip("needs ../shared/data/cifar10")
    return np.asarray(Image.open(CIFAR).convert("RGB")).reshape(500, 32, 32, 3)[:160]


@pytest.fixture(scope="session")
def task() -> ClassificationTask:
    """The shipped digits study's task on the CPU."""
    return ClassificationTask(load_study("digits"), torch.device("cpu"))


@pytest.fixture(scope="session")
def trained(task: ClassificationTask) -> torch.nn.Module:
    """The digits network after two epochs, in evaluation mode."""
    model = task.starting_model(Seed(0)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(2):
        for batch in task.train_batches(Recipe(), batch_size=64, seed=Seed(0, epoch)):
            optimizer.zero_grad()
            task.loss(model(batch.images), batch, Recipe()).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture
def subject(task: ClassificationTask, trained: torch.nn.Module) -> Subject:
    """The trained network as a dense candidate, scored on validation images."""
    candidate = Candidate(model=trained, latent=trained, plan=TrialPlan())
    return Subject(
        candidate=candidate,
        task=task,
        targets=[],
        artefacts={},
        control_artefacts={},
        split="validation",
        seed=Seed(0, 0),
        study_seed=0,
        batch_size=128,
    )
