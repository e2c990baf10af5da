"""The training loop and its guard: determinism, budget, divergence, recovery."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from forgefront.compression.attach import Attached, attach
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Quantization, Recipe, TrialPlan
from forgefront.studies.errors import DivergedError, InputError
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.attacks.multi_step import PGDAT, TRADES
from forgefront.trainers.attacks.single_step import NFGSM, TrainingFGSM
from forgefront.trainers.fit import Progress, fit, make_attack, weight_sparsity
from forgefront.trainers.overfitting_guard import Accuracies, OverfittingGuard, is_overfitting
from forgefront.trainers.tasks.classification import ClassificationTask

CPU = torch.device("cpu")
EPSILON = 0.05
ADVERSARIAL = Recipe(regime="adversarial", method="n-fgsm", epsilon=EPSILON)


@cache
def make_study(regime: str = "standard", **training) -> Study:
    optimizer = {"learning_rate": training.pop("learning_rate", 0.05)}
    return Study.model_validate(
        {
            "study": {"name": "test"},
            "task": {
                "data": {"name": "digits", "validation": {"from": "train", "count": 300}, "train_images": 256},
                "model": {"name": "digits-cnn", "width": 8},
            },
            "training": {"regime": regime, "batch_size": 32, "device": "cpu", "optimizer": optimizer, **training},
            "space": {"sparsity": {"high": 0.9}},
            "objectives": [{"name": "accuracy"}],
        }
    )


def attached_model(task: ClassificationTask, plan: TrialPlan | None = None, *, seed: int = 0) -> Attached:
    model = task.starting_model(Seed(seed))
    layers = inspect_layers(model, task.input_shape)
    return attach(model, plan or TrialPlan(), layers, task.example, seed=Seed(seed))


def train(study: Study, recipe: Recipe, plan: TrialPlan | None = None, *, seed: int = 0, on_progress=None):
    task = ClassificationTask(study, CPU)
    attached = attached_model(task, plan)
    return task, attached, fit(task, attached, recipe, study.training, seed=Seed(seed), on_progress=on_progress)


@cache
def plain_run():
    return train(make_study(epochs=15), Recipe())


@cache
def robust_run():
    return train(make_study("adversarial", epochs=20), ADVERSARIAL)


def digest(model: nn.Module) -> str:
    state = sorted(model.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + value.numpy().tobytes() for name, value in state)).hexdigest()


def compressed() -> TrialPlan:
    plan = LayerPlan(Pruning(0.5), None, Quantization("aware", 4, 8))
    return TrialPlan({"network.stage1.residual.conv1": plan, "network.stage2.dense.conv": plan})


def digest_of_a_short_run(seed: int = 0) -> str:
    torch.set_num_threads(1)
    recipe = Recipe(regime="adversarial", method="n-fgsm", epsilon=0.05, augmentation_strength=0.5)
    _, attached, _ = train(make_study("adversarial", steps=6, crop_padding=1), recipe, compressed(), seed=seed)
    return digest(attached.model)


def test_same_seed_same_weights_in_this_process_and_in_a_fresh_one():
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('run', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['run'] = module; spec.loader.exec_module(module)\n"
        "print(module.digest_of_a_short_run())"
    )
    threads = torch.get_num_threads()
    first, again, other = digest_of_a_short_run(), digest_of_a_short_run(), digest_of_a_short_run(1)
    torch.set_num_threads(threads)
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert first == again == fresh.stdout.strip()
    assert first != other


def test_training_learns_and_reports():
    seen: list[Progress] = []
    task, attached, result = train(make_study(epochs=10), Recipe(), on_progress=seen.append)
    assert [row["epoch"] for row in result.history] == list(range(1, 11))
    assert [row["step"] for row in result.history] == [8 * epoch for epoch in range(1, 11)]
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[-1]["train_accuracy"] > 0.8
    assert result.deviations == []
    assert not attached.model.training
    assert (seen[-1].epoch, seen[-1].epochs, seen[-1].step, seen[-1].steps) == (10, 10, 80, 80)
    assert [progress.step for progress in seen] == sorted({*range(10, 81, 10), *range(8, 81, 8)})
    held = next(task.evaluation("validation").batches(300))
    assert task.correct(attached.model(held.images), held.targets).float().mean() > 0.8


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (8, 1), (9, 2), (20, 3)])
def test_a_budget_in_steps_is_kept_exactly(steps, epochs):
    _, _, result = train(make_study(steps=steps), Recipe())
    assert result.history[-1]["step"] == steps
    assert len(result.history) == epochs


def test_compression_is_at_its_goal_and_in_the_history():
    plan = TrialPlan({"network.stage2.dense.conv": LayerPlan(Pruning(0.9))})
    _, attached, result = train(make_study(steps=16), Recipe(), plan)
    weight = attached.model.get_submodule("network.stage2.dense.conv").weight
    assert (weight == 0).float().mean() == pytest.approx(0.9, abs=0.01)
    assert result.history[-1]["sparsity"] == pytest.approx(weight_sparsity(attached.model), abs=0.01)
    assert result.history[-1]["sparsity"] > 0.2


def test_a_diverging_training_stops_and_says_so():
    with pytest.raises(DivergedError, match=r"The loss became (inf|nan) by step \d+ of 40|weights are infinite"):
        train(make_study(steps=40, learning_rate=1e30), Recipe())


def test_gradient_clip_keeps_a_step_small():
    study = make_study(steps=1, gradient_clip=1e-6)
    task = ClassificationTask(study, CPU)
    before = {name: p.detach().clone() for name, p in task.starting_model(Seed(0)).named_parameters()}
    _, attached, _ = train(study, Recipe())
    decay = 0.05 * 5e-4 * max(float(p.abs().max()) for p in before.values())
    for name, parameter in attached.model.named_parameters():
        assert (parameter - before[name]).abs().max() < 1e-6 + decay


def test_adversarial_training_withstands_what_plain_training_does_not():
    task, robust, result = robust_run()
    _, plain, _ = plain_run()
    guard = OverfittingGuard(task, EPSILON, seed=Seed(0))
    assert guard.accuracies(robust.model).pgd > guard.accuracies(plain.model).pgd + 0.3
    assert result.deviations == []


def test_the_attack_follows_recipe_and_study():
    training = make_study("adversarial", epochs=1, method="pgd-at", attack_steps=4).training
    attack = make_attack(Recipe(regime="adversarial", method="pgd-at", epsilon=0.1), training)
    assert isinstance(attack, PGDAT)
    assert (attack.epsilon, attack.steps) == (0.1, 4)
    early = make_attack(ADVERSARIAL, make_study("adversarial", epochs=1).training, 0.125)
    assert isinstance(early, NFGSM)
    assert early.epsilon == pytest.approx(EPSILON / 2)
    assert make_attack(Recipe(), training) is None


@pytest.mark.parametrize(("key", "value"), [("attack_steps", 4), ("trades_beta", 3.0)])
def test_options_that_an_attack_does_not_have_are_refused(key, value):
    training = make_study("adversarial", epochs=1, **{key: value}).training
    reason = f'`training.{key}` must be left out with the method "n-fgsm", which has no such option; found {value}'
    with pytest.raises(InputError, match=reason):
        make_attack(ADVERSARIAL, training)


def test_the_options_of_an_attack_are_the_studys():
    training = make_study("adversarial", epochs=1, method="trades", trades_beta=2.0, attack_step_size=0.5).training
    attack = make_attack(Recipe("adversarial", method="trades", epsilon=0.1), training)
    assert isinstance(attack, TRADES)
    assert (attack.beta, attack.step_size, attack.steps) == (2.0, 0.5, 10)
    single = make_study("adversarial", epochs=1, method="fgsm", attack_step_size=2.0).training
    attack = make_attack(Recipe("adversarial", method="fgsm", epsilon=0.1), single)
    assert isinstance(attack, TrainingFGSM)
    assert attack.step_size == 2.0


@pytest.mark.parametrize(
    ("training", "recipe"),
    [
        ({"consistency": 12.0}, Recipe("naturalistic", 1.0, augmentation="augmix")),
        ({"consistency": 12.0, "augmentation": "naturalistic"}, Recipe("naturalistic", 0.5)),
        ({"regime": "adversarial", "attack_steps": 2}, Recipe("adversarial", method="trades", epsilon=0.05)),
    ],
    ids=["augmix", "naturalistic", "trades"],
)
def test_losses_on_views_are_trained_on(training, recipe):
    # the images pass through the model with their views, whose predictions come to agree with theirs
    _, attached, result = train(make_study(**{"regime": "standard", "epochs": 3, **training}), recipe, compressed())
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[-1]["train_accuracy"] > result.history[0]["train_accuracy"]
    assert result.deviations == []
    assert all(bool(parameter.isfinite().all()) for parameter in attached.model.parameters())


def test_a_view_weighs_nothing_without_a_weight():
    recipe = Recipe("adversarial", method="trades", epsilon=0.05)
    (_, none, _), (_, some, _) = (
        train(make_study("adversarial", steps=4, attack_steps=1, trades_beta=beta), recipe) for beta in (0.0, 6.0)
    )
    assert digest(none.model) != digest(some.model)


@pytest.mark.parametrize(
    ("best", "now", "overfits"),
    [
        ((0.9, 0.6, 0.5), (0.95, 0.9, 0.0), True),
        ((0.9, 0.6, 0.5), (0.9, 0.3, 0.29), True),
        ((0.9, 0.6, 0.5), (0.9, 0.6, 0.31), False),
        ((0.9, 0.6, 0.5), (0.5, 0.2, 0.1), False),  # compression took both
        ((0.9, 0.6, 0.5), (0.8, 0.2, 0.1), True),
        ((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), False),
        ((0.5, 0.2, 0.1), (0.7, 0.7, 0.05), True),  # never robust, and certain of what a single step shows
        ((0.5, 0.2, 0.1), (0.9, 0.5, 0.15), False),
    ],
)
def test_what_counts_as_catastrophic_overfitting(best, now, overfits):
    assert is_overfitting(Accuracies(*best), Accuracies(*now)) is overfits


def test_weights_that_overfit_at_once_are_no_good_ones(monkeypatch):
    task, robust, _ = robust_run()
    verdicts = iter([Accuracies(0.9, 0.9, 0.1), Accuracies(0.9, 0.5, 0.4), Accuracies(0.9, 0.9, 0.1)])
    monkeypatch.setattr(OverfittingGuard, "accuracies", lambda self, model: next(verdicts))
    guard, model = OverfittingGuard(task, EPSILON, seed=Seed(0)), deepcopy(robust.model)
    deviation = "catastrophic overfitting: PGD accuracy 0.10 (clean 0.90, FGSM 0.90); no good weights to restore"
    before = digest(model)
    assert guard.check(model) == deviation
    assert digest(model) == before
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    good = digest(model)
    assert guard.check(model) is None
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert guard.check(model) is not None
    assert digest(model) == good


def test_the_guard_restores_the_last_good_weights():
    task, robust, _ = robust_run()
    model = deepcopy(robust.model).train()
    guard = OverfittingGuard(task, EPSILON, seed=Seed(0))
    assert guard.check(model) is None
    good = digest(model)
    _, plain, _ = plain_run()
    model.load_state_dict(plain.model.state_dict())
    deviation = guard.check(model)
    assert deviation is not None
    assert deviation.startswith("catastrophic overfitting: PGD accuracy 0.")
    assert digest(model) == good
    assert model.training


def test_fit_restores_slows_down_and_records_it(monkeypatch):
    well, badly = Accuracies(0.9, 0.7, 0.6), Accuracies(0.95, 0.95, 0.05)
    verdicts = iter([well, badly] + [well] * 8)
    monkeypatch.setattr(OverfittingGuard, "accuracies", lambda self, model: next(verdicts))
    _, _, result = train(make_study("adversarial", steps=20), ADVERSARIAL)
    (deviation,) = result.deviations
    assert deviation.startswith("step 4 of 20: catastrophic overfitting: PGD accuracy 0.05 after 0.60")
    assert deviation.endswith("last good weights restored, learning rate halved")
    _, _, undisturbed = train(make_study("adversarial", steps=20, overfitting_guard=False), ADVERSARIAL)
    assert result.history[-1]["learning_rate"] == pytest.approx(undisturbed.history[-1]["learning_rate"] / 2)


def test_fit_slows_down_where_training_overfits_from_the_first_check_on(monkeypatch):
    well, badly = Accuracies(0.9, 0.7, 0.6), Accuracies(0.95, 0.95, 0.05)
    verdicts = iter([badly] * 2 + [well] * 8)
    monkeypatch.setattr(OverfittingGuard, "accuracies", lambda self, model: next(verdicts))
    _, _, result = train(make_study("adversarial", steps=20), ADVERSARIAL)
    what = "catastrophic overfitting: PGD accuracy 0.05 (clean 0.95, FGSM 0.95); no good weights to restore"
    assert result.deviations == [f"step {step} of 20: {what}, learning rate halved" for step in (2, 4)]
    _, _, undisturbed = train(make_study("adversarial", steps=20, overfitting_guard=False), ADVERSARIAL)
    assert result.history[-1]["learning_rate"] == pytest.approx(undisturbed.history[-1]["learning_rate"] / 4)
