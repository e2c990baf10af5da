"""A batch in parts: every image once, and the step of the whole batch where nothing normalises over it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgefront.compression.attach import attach
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Quantization, Recipe, TrialPlan
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.memory import parts_of
from forgefront.trainers.overfitting_guard import OverfittingGuard
from forgefront.trainers.tasks.base import Batch
from forgefront.trainers.tasks.classification import ClassificationTask


@pytest.mark.parametrize("count", [1, 2, 7, 32])
@pytest.mark.parametrize("parts", [1, 2, 8])
@pytest.mark.parametrize("views", [0, 2])
def test_every_image_is_in_one_part_with_its_views(count, parts, views):
    images = torch.arange(count).float().reshape(count, 1, 1, 1)
    stacked = torch.cat([images + 100 * view for view in range(1, views + 1)]) if views else None
    whole = Batch(images, torch.arange(count), torch.arange(count), stacked)
    found = list(parts_of(whole, parts))
    assert len(found) == min(parts, count)
    assert max(len(part.images) for part in found) - min(len(part.images) for part in found) <= 1
    assert torch.equal(torch.cat([part.images for part in found]), images)
    assert torch.equal(torch.cat([part.targets for part in found]), whole.targets)
    for part in found:
        assert torch.equal(part.indices, part.targets)
        if part.views is not None:
            assert torch.equal(part.views, torch.cat([part.images + 100 * view for view in (1, 2)]))


PRUNED = LayerPlan(Pruning(0.5))


def task_of(regime="standard", **training):
    return ClassificationTask(
        Study.model_validate(
            {
                "study": {"name": "test"},
                "task": {
                    "data": {"name": "digits", "validation": {"from": "train", "count": 300}, "train_images": 256},
                    "model": {"name": "digits-cnn", "width": 8},
                },
                "training": {"regime": regime, "steps": 4, "batch_size": 30, "device": "cpu", **training},
                "space": {"sparsity": {"high": 0.9}},
                "objectives": [{"name": "accuracy"}],
            }
        ),
        torch.device("cpu"),
    )


def trained(task, recipe, halvings, layer=PRUNED):
    """The weights after four steps of a network without batch norm."""
    model = task.starting_model(Seed(0))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())
    plan = TrialPlan({"network.stage2.dense.conv": layer})
    layers = inspect_layers(model, task.input_shape)
    attached = attach(model, plan, layers, task.example, seed=Seed(0))
    result = fit(task, attached, recipe, task.study.training, seed=Seed(0), halvings=halvings)
    return torch.cat([one.detach().flatten() for one in model.parameters()]), result


@pytest.mark.parametrize(
    ("recipe", "training"),
    [
        (Recipe(), {}),
        (Recipe(class_weighting="inverse", class_weight_scale=1.0), {"gradient_clip": 0.5}),
        (Recipe(regime="naturalistic", augmentation_strength=1.0), {"regime": "naturalistic", "consistency": 5.0}),
    ],
)
def test_gradients_of_parts_add_up(recipe, training):
    task = task_of(**training)
    whole, plain = trained(task, recipe, 0)
    parts, result = trained(task, recipe, 2)
    assert plain.deviations == []
    assert result.deviations == ["batch halved to 8 with accumulation over 4 (out of memory)"]
    assert torch.allclose(whole, parts, atol=2e-5)
    assert not torch.equal(whole, parts)
    assert result.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-4)
    assert result.history[-1]["train_accuracy"] == plain.history[-1]["train_accuracy"]


def test_ranges_of_outputs_follow_the_parts():
    """An aware-quantized plan in parts is trained like one without, though its observers see other batches."""
    layer = LayerPlan(Pruning(0.5), None, Quantization("aware", 8, 8))
    whole, plain = trained(task_of(), Recipe(), 0, layer)
    parts, result = trained(task_of(), Recipe(), 2, layer)
    assert result.deviations == ["batch halved to 8 with accumulation over 4 (out of memory)"]
    assert result.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.05)
    assert result.history[-1]["sparsity"] == plain.history[-1]["sparsity"]
    assert torch.nn.functional.cosine_similarity(whole, parts, dim=0) > 0.999
    # what no plan without observers shows
    assert not torch.allclose(whole, parts, atol=2e-5)


def test_the_guard_looks_at_the_same_images_in_parts():
    task = task_of("adversarial")
    model = task.starting_model(Seed(0)).eval()
    whole, parts = (OverfittingGuard(task, 0.05, seed=Seed(0), parts=count).accuracies(model) for count in (1, 4))
    assert parts.clean == whole.clean
    assert parts.fgsm == pytest.approx(whole.fgsm, abs=0.02)
    assert parts.pgd == pytest.approx(whole.pgd, abs=0.02)
