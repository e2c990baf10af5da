"""Training of learned masks: two optimizers, the chord's gradient, and a fit that meets its target."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.objectives.size import count_macs
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Recipe, TrialPlan
from forgefront.studies.load import load_study
from forgefront.studies.schema_training import MaskSection
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.mask_training import MaskTraining, without_scores
from forgefront.trainers.models.digits_cnn import digits_cnn
from forgefront.trainers.tasks.classification import ClassificationTask

EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGES = 8


def planned(layers, target, structure="filter"):
    pruning = Pruning(0.0, structure, mask="learned", target=target, strength=2.0)
    chosen = [
        layer.name
        for layer in layers
        if layer.kind != "depthwise" and (structure == "weight" or layer.prunable_filters)
    ]
    return TrialPlan({name: LayerPlan(pruning=pruning) for name in chosen}, Recipe())


def moving(structure="filter", target=0.5):
    torch.manual_seed(0)
    model = digits_cnn(10)
    layers = inspect_layers(model, (3, 32, 32))
    attached = attach(model, planned(layers, target, structure), layers, EXAMPLE, seed=Seed(0), start=0.0, end=0.5)
    attached.set_progress(0.3)
    return attached


def backward(attached):
    attached.model.train()
    generator = torch.Generator().manual_seed(2)
    outputs = attached.model(torch.rand(IMAGES, 3, 32, 32, generator=generator))
    torch.nn.functional.cross_entropy(outputs, torch.arange(IMAGES)).backward()
    return [scores.grad.clone() for scores in attached.learned.parameters()]


def test_as_published_the_task_gradient_is_the_plain_one():
    attached = moving()
    gradients = backward(attached)
    training = MaskTraining(attached.learned, MaskSection(curvature=False))
    for found, expected in zip(training._task_gradients(IMAGES), gradients, strict=True):
        assert torch.equal(found, expected)


def test_with_curvature_it_is_the_chords():
    attached = moving()
    with torch.no_grad():
        for number, scores in enumerate(attached.learned.parameters()):
            scores.copy_(torch.randn(scores.shape, generator=torch.Generator().manual_seed(number)))
    gradients = backward(attached)
    training = MaskTraining(attached.learned, MaskSection())
    for found, gradient, scores in zip(
        training._task_gradients(IMAGES), gradients, attached.learned.parameters(), strict=True
    ):
        on = scores.detach() >= 0
        slope = (0.5 * (1.0 - torch.tanh(scores.detach()).square())).clamp(min=0.05)
        # after one batch the moving average is that batch's square, of masks that were on
        half = torch.where(on, 0.5 * IMAGES * gradient.square() / slope, 0.0)
        torch.testing.assert_close(found, gradient - half)


def test_a_mask_that_went_off_remembers_its_curvature():
    attached = moving()
    training = MaskTraining(attached.learned, MaskSection())
    backward(attached)
    first = training._task_gradients(IMAGES)
    halves = [scores.grad - chord for scores, chord in zip(attached.learned.parameters(), first, strict=True)]
    with torch.no_grad():
        for scores in attached.learned.parameters():
            scores.neg_()
            scores.grad.zero_()
    for chord, half in zip(training._task_gradients(IMAGES), halves, strict=True):
        # tanh² is even, and so the slope is the same on the other side of the threshold
        torch.testing.assert_close(chord, half)


def test_the_hinge_moves_scores_down_and_nothing_else():
    attached = moving(target=0.1)
    scores = attached.learned.parameters()
    before = [one.detach().clone() for one in scores]
    weights = {name: one.detach().clone() for name, one in attached.model.named_parameters() if "scores" not in name}
    training = MaskTraining(attached.learned, MaskSection(weight_decay=0.0))
    training.step(IMAGES)  # no task gradient: the hardware loss alone
    for one, earlier in zip(scores, before, strict=True):
        assert (one < earlier).all()
        assert one.grad is None
    for name, one in attached.model.named_parameters():
        assert "scores" in name or torch.equal(one, weights[name])


def test_decay_pulls_scores_to_the_threshold():
    attached = moving(target=1.0)
    before = [one.detach().abs().sum() for one in attached.learned.parameters()]
    training = MaskTraining(attached.learned, MaskSection(weight_decay=0.1))
    training.step(IMAGES)
    assert all(
        one.detach().abs().sum() < earlier for one, earlier in zip(attached.learned.parameters(), before, strict=True)
    )


def test_the_weights_optimizer_does_not_get_the_scores():
    attached = moving()
    scores = {id(one) for one in attached.learned.parameters()}
    kept = without_scores(attached.parameters(), attached.learned)
    assert not scores & {id(one) for one in kept}
    assert len(kept) + len(scores) == len(list(attached.parameters()))


@pytest.mark.parametrize("structure", ["filter", "weight"])
def test_a_fit_meets_its_target_and_learns(structure):
    study = load_study("digits", overrides=["training.epochs=3", "training.optimizer.learning_rate=0.1"])
    task = ClassificationTask(study, torch.device("cpu"))
    layers = inspect_layers(task.build_model(), task.input_shape)
    plan = planned(layers, 0.6, structure)
    results = []
    for _ in range(2):
        model = task.starting_model(Seed(3))
        attached = attach(model, plan, layers, task.example, seed=Seed(1), start=0.0, end=0.6)
        history = fit(task, attached, plan.recipe, study.training, seed=Seed(2)).history
        results.append(bake(attached, task.build_model, layers, task.example))
        assert history[-1]["train_accuracy"] > 0.8
        assert 0.58 <= attached.learned.report()["reached"] <= 0.6
    first, second = (candidate.model.state_dict() for candidate in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    share = count_macs(results[0].model, task.example) / count_macs(task.build_model(), task.example)
    assert (share <= 0.6) == (structure == "filter")
