"""Weight averaging: its formula, and that what ships is the average, whatever compresses the model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from forgefront.compression.attach import Attached, attach
from forgefront.compression.bake import bake
from forgefront.compression.quantizers import ActivationQuantizer
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, Stages, TrialPlan
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.overfitting_guard import Accuracies, OverfittingGuard
from forgefront.trainers.tasks.classification import ClassificationTask
from forgefront.trainers.weight_averaging import WeightAverage, averaging_start, decay_at, observe_ranges_again

CPU = torch.device("cpu")
LEARNED = Pruning(0.0, "filter", "learned", target=0.5, strength=3.0)
AWARE = Quantization("aware", 4, 8)
PLANS = {
    "dense": LayerPlan(),
    "weights": LayerPlan(Pruning(0.6)),
    "filters": LayerPlan(Pruning(0.4, "filter")),
    "pattern": LayerPlan(Pruning(0.5, "2:4")),
    "clusters": LayerPlan(None, Clustering(8)),
    "channel clusters": LayerPlan(None, Clustering(4, "channel")),
    "bits": LayerPlan(None, None, AWARE),
    "bits afterwards": LayerPlan(None, None, Quantization("post", 4, 8)),
    "learned scales": LayerPlan(None, None, Quantization("aware", 4, 4, "learned")),
    "learned masks": LayerPlan(LEARNED),
    "everything": LayerPlan(Pruning(0.5), Clustering(8), Quantization("aware", 6, 8)),
}
LAYERS = ("network.stage1.residual.conv1", "network.stage2.dense.conv")


@cache
def make_study(decay: float, **training) -> Study:
    return Study.model_validate(
        {
            "study": {"name": "test"},
            "task": {
                "data": {"name": "digits", "validation": {"from": "train", "count": 300}, "train_images": 192},
                "model": {"name": "digits-cnn", "width": 8},
            },
            "training": {"batch_size": 32, "device": "cpu", "weight_averaging": decay, "steps": 18, **training},
            "space": {"sparsity": {"high": 0.9}},
            "objectives": [{"name": "accuracy"}],
        }
    )


def train(decay: float, plan: TrialPlan, recipe: Recipe | None = None, **training):
    study = make_study(decay, **training)
    task = ClassificationTask(study, CPU)
    model = task.starting_model(Seed(0))
    layers = inspect_layers(model, task.input_shape)
    attached = attach(model, plan, layers, task.example, seed=Seed(0))
    result = fit(task, attached, recipe or Recipe(), study.training, seed=Seed(0))
    return task, attached, layers, result


def plan_of(layer: LayerPlan) -> TrialPlan:
    return TrialPlan(dict.fromkeys(LAYERS, layer) if layer != LayerPlan() else {})


def latent(attached: Attached) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in attached.source.parameters()]


def test_the_decay_warms_up_to_its_value():
    assert decay_at(0, 0.9995) == 0.1
    assert decay_at(8, 0.9995) == 0.5
    assert decay_at(10**6, 0.9995) == 0.9995
    decays = [decay_at(update, 0.99) for update in range(2000)]
    assert decays == sorted(decays)
    assert decay_at(5, 0.0) == 0.0


def test_the_average_is_the_recursion():
    model = nn.Linear(2, 1, bias=False)
    average, expected = WeightAverage(0.6), None
    for update in range(12):
        weights = torch.tensor([[float(update), 1.0]])
        with torch.no_grad():
            model.weight.copy_(weights)
        average.update(model)
        share = min(0.6, (1 + update) / (10 + update))
        expected = weights if expected is None else share * expected + (1.0 - share) * weights
    assert average.apply(model)
    assert torch.allclose(model.weight, expected)
    assert model.weight[0, 1] == 1.0


def test_an_average_of_nothing_changes_nothing():
    model = nn.Linear(2, 1)
    before = model.weight.clone()
    average = WeightAverage(0.9)
    assert not average.apply(model)
    average.update(model)
    average.restart()
    assert not average.apply(model)
    assert torch.equal(model.weight, before)


def test_what_needs_no_gradient_stays_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(0.9)
    average.update(model)
    with torch.no_grad():
        model.bias.fill_(7.0)
    average.apply(model)
    assert (model.bias == 7.0).all()


def test_no_decay_ships_the_last_weights():
    dense = TrialPlan()
    (_, off, *_), (_, tiny, *_) = train(0.0, dense), train(1e-9, dense)
    for one, other in zip(latent(off), latent(tiny), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_shipped_weights_are_the_average_of_what_was_trained(monkeypatch):
    seen: list[list[torch.Tensor]] = []
    update = WeightAverage.update

    def watched(self: WeightAverage, model: nn.Module) -> None:
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        update(self, model)

    monkeypatch.setattr(WeightAverage, "update", watched)
    _, attached, *_ = train(0.5, TrialPlan())
    # the last two fifths of 18 steps, as compression has its full strength from there on
    assert len(seen) == 7
    expected = seen[0]
    for number, weights in enumerate(seen):
        share = decay_at(number, 0.5)
        expected = [share * old + (1 - share) * new for old, new in zip(expected, weights, strict=True)]
    for one, other in zip(attached.model.parameters(), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert any(not torch.allclose(one, other, atol=1e-4) for one, other in zip(seen[-1], expected, strict=True))


@pytest.mark.parametrize("name", PLANS)
def test_every_compressor_keeps_its_word_and_bakes(name):
    plan = plan_of(PLANS[name])
    task, attached, layers, _ = train(0.9, plan)
    candidate = bake(attached, task.build_model, layers, task.example)
    images = task.calibration_images(32, Seed(1))
    with torch.no_grad():
        simulated, baked = attached.model(images), candidate.model(images)
    assert torch.allclose(simulated, baked, atol=1e-4)
    assert simulated.isfinite().all()
    pruning, clustering = PLANS[name].pruning, PLANS[name].clustering
    if pruning is not None and pruning.structure != "filter":
        weight = attached.source.get_submodule(LAYERS[1]).weight
        assert (weight == 0).float().mean() == pytest.approx(pruning.sparsity, abs=0.02)
    if clustering is not None and clustering.per == "layer":
        weight = attached.source.get_submodule(LAYERS[1]).weight
        assert len(weight.unique()) <= clustering.clusters


@pytest.mark.parametrize("name", ["dense", "weights", "everything"])
def test_averaging_does_not_touch_the_training(name):
    # the last epoch's loss is the same: only what ships differs
    (*_, off), (*_, on) = train(0.0, plan_of(PLANS[name])), train(0.9, plan_of(PLANS[name]))
    assert on.history[-1]["loss"] == off.history[-1]["loss"]


def test_a_training_that_compresses_to_its_end_ships_its_last_weights():
    late = TrialPlan(plan_of(PLANS["weights"]).layers, stages=Stages(0.0, 1.0, 1.0, 1.0))
    (_, off, *_), (_, on, *_) = train(0.0, late), train(0.9, late)
    for one, other in zip(latent(off), latent(on), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "start"),
    [("weights", 0.5), ("clusters", 0.7), ("bits", 0.8), ("bits afterwards", 0.5), ("everything", 0.8)],
)
def test_averaging_begins_where_what_a_plan_uses_has_started(name, start):
    plan, stages = plan_of(PLANS[name]), Stages(0.0, 0.5, 0.7, 0.8)
    assert averaging_start(plan, stages) == 0.8
    assert averaging_start(replace(plan, stages=stages), stages) == start


def test_a_technique_without_clusters_and_bits_is_averaged():
    # its stages leave these for the end, where they never come to work
    plan = replace(plan_of(PLANS["weights"]), stages=Stages(0.0, 0.5, 1.0, 1.0))
    (_, off, *_), (_, on, *_) = train(0.0, plan), train(0.9, plan)
    assert any(not torch.equal(one, other) for one, other in zip(latent(off), latent(on), strict=True))


def test_restored_weights_begin_a_new_average(monkeypatch):
    # the sixth of ten checks finds catastrophic overfitting, at step 12 of 18, and the seventh to tenth are fine
    well, badly = Accuracies(0.9, 0.7, 0.6), Accuracies(0.95, 0.95, 0.05)
    verdicts = iter([well] * 5 + [badly] + [well] * 5)
    monkeypatch.setattr(OverfittingGuard, "accuracies", lambda self, model: next(verdicts))
    updates = []
    restart = WeightAverage.restart
    monkeypatch.setattr(WeightAverage, "restart", lambda self: (updates.append(self.updates), restart(self)))
    recipe = Recipe("adversarial", method="n-fgsm", epsilon=0.05)
    *_, result = train(0.9, TrialPlan(), recipe, regime="adversarial", epsilon=0.05)
    assert len(result.deviations) == 1
    assert updates == [1]


def test_ranges_are_observed_again_with_the_averaged_weights():
    quantizer = ActivationQuantizer(8)
    frozen = ActivationQuantizer(8)
    model = nn.Sequential(quantizer, frozen).train()
    model(torch.tensor([[-4.0, 8.0]]))
    frozen.freeze()
    before = float(frozen.maximum)
    model.eval()
    observe_ranges_again(model, iter([torch.tensor([[-1.0, 2.0]]), torch.tensor([[-3.0, 4.0]])]))
    assert (float(quantizer.minimum), float(quantizer.maximum)) == (-2.0, 3.0)
    assert quantizer.observe == "training"
    assert float(frozen.maximum) == before


def test_without_batches_ranges_stay():
    quantizer = ActivationQuantizer(8).train()
    quantizer(torch.tensor([1.0, 2.0]))
    observe_ranges_again(nn.Sequential(quantizer), iter([]))
    assert float(quantizer.maximum) == 2.0
