"""PGD and FGSM: optima that are known, "any succeeds", never weaker with more of anything, and float32 throughout."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import names, resolve, validate_options
from forgefront.trainers.attacks.base import AttackResult, Victim, input_gradient, uniform_noise
from forgefront.trainers.attacks.losses import cross_entropy, margin, scaled_cross_entropy
from forgefront.trainers.attacks.pgd import FGSM, PGD, default_step_size, step_share

DATA = Path(__file__).parents[3] / "shared" / "data"
LOSSES = {"cross-entropy": cross_entropy, "margin": margin, "scaled-cross-entropy": scaled_cross_entropy}
NORMS = [("linf", 0.06), ("l2", 0.6)]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets) & ~outputs.isnan().any(1)


def attack(attacked: Any, seed: int = 0, gradients_from: nn.Module | None = None, **options: Any) -> AttackResult:
    pgd = PGD(**{"epsilon": 0.06, "steps": 5, "restarts": 1, **options})
    victim = dataclasses.replace(attacked.victim, losses=LOSSES)
    return pgd(victim, attacked.images, attacked.targets, draws(seed), gradients_from=gradients_from)


def share(found: AttackResult) -> float:
    return float(found.robust.float().mean())


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_optimum_of_a_linear_model(norm, dual, loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2).requires_grad_(False))
    images, weight = 0.4 + 0.2 * torch.rand(200, 3, 4, 4), model[1].weight
    model[1].bias.copy_(-weight @ images.flatten(1).mean(0))
    targets = model(images).argmax(1)
    # the ball's highest margin, as no pixel reaches 0 or 1
    epsilon = 0.04 if norm == "l2" else 0.005
    highest = margin(model(images), targets) + epsilon * (weight[0] - weight[1]).norm(p=dual)
    found = PGD(epsilon=epsilon, steps=10, restarts=1, norm=norm, loss=loss)(
        Victim(model, LOSSES, correct), images, targets, draws()
    )
    assert 50 < found.robust.sum() < 150
    assert torch.equal(found.robust[highest.abs() > 2e-3], (highest <= 0)[highest.abs() > 2e-3])
    # of two classes the scaled cross entropy knows the sign alone, so that no example is worse than another
    if loss != "scaled-cross-entropy":
        reached = margin(model(found.examples), targets)
        assert torch.allclose(reached[found.robust], highest[found.robust], atol=2e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_radius_is_accuracy_when_clean(plain, norm):
    found = attack(plain, epsilon=0.0, norm=norm)
    assert torch.equal(found.robust, plain.correct(plain.images))
    assert torch.equal(found.examples, plain.images)


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
@pytest.mark.parametrize("stop", [True, False])
def test_examples_stay_in_bounds_and_break_what_is_not_robust(robust, norm, epsilon, stop):
    found = attack(robust, norm=norm, epsilon=2 * epsilon, restarts=2, stop_when_broken=stop)
    assert found.examples.dtype == torch.float32
    assert not found.examples.requires_grad
    assert (length(found.examples - robust.images, norm) <= 2 * epsilon + 1e-6).all()
    assert found.examples.min() >= 0
    assert found.examples.max() <= 1
    assert torch.equal(robust.correct(found.examples), found.robust)
    assert 0 < found.robust.sum() < len(found.robust)


def test_broken_images_that_go_on_reach_a_higher_loss_and_the_same_verdict(robust):
    stopped, went_on = (attack(robust, epsilon=0.15, restarts=2, stop_when_broken=stop) for stop in (True, False))
    assert torch.equal(stopped.robust, went_on.robust)
    model = robust.victim.model
    losses = [cross_entropy(model(found.examples), robust.targets) for found in (stopped, went_on)]
    broken = ~stopped.robust
    assert (losses[1] >= losses[0] - 1e-6)[broken].all()
    assert losses[1][broken].mean() > losses[0][broken].mean() + 0.5


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_restarts_losses_and_steps_can_only_break_more(robust, norm, epsilon):
    settings = {"norm": norm, "epsilon": 3 * epsilon, "steps": 2}
    chains = [
        [{"restarts": count} for count in (1, 2, 4)],
        [{"loss": tuple(LOSSES)[:count]} for count in (1, 2, 3)],
        [{"steps": count, "step_size": epsilon} for count in (1, 3, 9)],
    ]
    for chain in chains:
        results = [attack(robust, **{**settings, **options}).robust for options in chain]
        for fewer, more in pairwise(results):
            assert (fewer | ~more).all()
    assert results[-1].sum() < results[0].sum()


def test_each_loss_gets_all_restarts_from_the_same_starts(robust):
    options = {"epsilon": 0.15, "restarts": 2}
    alone = [attack(robust, loss=name, **options).robust for name in ("cross-entropy", "margin")]
    assert torch.equal(attack(robust, loss=("cross-entropy", "margin"), **options).robust, alone[0] & alone[1])


@pytest.mark.parametrize(("norm", "epsilons"), [("linf", (0, 0.03, 0.1, 0.5)), ("l2", (0, 0.3, 1.0, 14.0))])
def test_accuracy_falls_with_epsilon_to_nothing(plain, norm, epsilons):
    rates = [share(attack(plain, norm=norm, epsilon=epsilon, steps=10)) for epsilon in epsilons]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.85
    assert rates[-1] == 0.0


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.1])
def test_never_weaker_than_fgsm_nor_than_noise(plain, epsilon):
    fgsm = FGSM(epsilon=epsilon)(plain.victim, plain.images, plain.targets, draws()).robust
    noise = plain.correct((plain.images + uniform_noise(plain.images, epsilon, draws())).clamp(0, 1))
    for other in (fgsm, noise):
        assert attack(plain, epsilon=epsilon, steps=10, restarts=2).robust.sum() <= other.sum()


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_fgsm_is_one_step_from_the_image(plain, norm, epsilon):
    gradient, _ = input_gradient(plain.victim.model, plain.images, plain.targets, cross_entropy)
    unit = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    expected = plain.correct((plain.images + epsilon * unit).clamp(0, 1)) & plain.correct(plain.images)
    assert torch.equal(
        FGSM(epsilon=epsilon, norm=norm)(plain.victim, plain.images, plain.targets, draws()).robust, expected
    )


def test_the_schedules_of_a_step():
    assert [step_share("constant", step, 4) for step in range(4)] == [1.0] * 4
    assert [step_share("linear", step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [step_share("cosine", step, 4) for step in range(4)] == pytest.approx(
        [1.0, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_schedule_breaks_about_as_many(robust, schedule):
    settings = {"epsilon": 0.15, "steps": 20}
    assert share(attack(robust, schedule=schedule, **settings)) <= share(attack(robust, **settings)) + 0.03


def test_the_published_settings_are_the_defaults():
    pgd = PGD(epsilon=8 / 255)
    assert (pgd.steps, pgd.restarts, pgd.step_size) == (50, 10, 2 / 255)
    assert default_step_size(8 / 255, 10) == pytest.approx(2 / 255)
    assert default_step_size(8 / 255, 5) == pytest.approx(4 / 255)
    assert PGD(epsilon=0.1, step_size=0.07).step_size == 0.07


def test_repeats_with_its_seed_and_leaves_the_model_alone(plain):
    model = plain.victim.model
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again, other = (attack(plain, seed, steps=1).examples for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()


def test_an_image_does_not_depend_on_which_others_stand(robust):
    # what is wrong when clean is dropped before the first step; their starts are drawn all the same
    targets = robust.targets.clone()
    targets[::2] = (targets[::2] + 1) % 10
    some = attack(dataclasses.replace(robust, targets=targets), epsilon=0.15)
    assert not some.robust[::2].any()
    assert torch.equal(some.robust[1::2], attack(robust, epsilon=0.15).robust[1::2])


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.5)])
def test_float32_under_autocast(plain, norm, epsilon):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attack(plain, norm=norm, epsilon=epsilon)
    change = found.examples - plain.images
    assert found.examples.dtype == torch.float32
    # in bfloat16 8/255 would come to 8.99/255
    assert length(change, norm).max() <= epsilon + 1e-6
    if norm == "linf":
        assert length(change, norm).max() == pytest.approx(epsilon, abs=1e-6)
    half = dataclasses.replace(plain, images=plain.images.bfloat16())
    assert attack(half, norm=norm, epsilon=epsilon).examples.dtype == torch.float32


class Rounded(nn.Module):
    """A network behind 16 levels of each pixel, whose logits are a thousand times as large."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return 1000.0 * self.network((15.0 * images).round() / 15.0)


def test_what_hides_from_plain_pgd_hides_from_no_attack_that_adapts(plain):
    hidden = dataclasses.replace(plain, victim=dataclasses.replace(plain.victim, model=Rounded(plain.victim.model)))
    options = {"epsilon": 0.15, "steps": 10}
    clean = float(hidden.correct(plain.images).float().mean())
    found = attack(hidden, **options)
    assert share(found) > clean - 0.06
    assert found.zero_gradients == round(clean * 100)
    assert share(attack(hidden, bpda=True, loss="scaled-cross-entropy", **options)) < 0.06
    transfer = attack(hidden, gradients_from=plain.victim.model, **options)
    assert share(transfer) < 0.06
    assert torch.equal(hidden.correct(transfer.examples), transfer.robust)
    assert attack(plain, **options).zero_gradients == 0


def test_iterates_that_follow_another_model_are_tried_on_the_victim(plain, robust):
    options = {"epsilon": 0.15, "steps": 10}
    followed = attack(robust, gradients_from=plain.victim.model, **options)
    last = attack(plain, stop_when_broken=False, **options).examples
    assert followed.robust.sum() <= (robust.correct(last) & robust.correct(robust.images)).sum()
    own = attack(robust, gradients_from=copy.deepcopy(robust.victim.model), **options)
    assert torch.equal(own.robust, attack(robust, **options).robust)


def test_models_without_gradient_or_number(plain):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x.flatten(1)[:, :10]

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x.flatten(1)[:, :10] / 0.0

    constant, broken = (
        dataclasses.replace(plain, victim=dataclasses.replace(plain.victim, model=model))
        for model in (Constant(), Broken())
    )
    found = attack(constant)
    assert torch.equal(found.robust, plain.targets == 0)
    assert found.zero_gradients == int((plain.targets == 0).sum())
    assert not attack(broken).robust.any()


def test_no_images_are_no_trouble(plain):
    none = dataclasses.replace(plain, images=plain.images[:0], targets=plain.targets[:0])
    for norm in ("linf", "l2"):
        assert attack(none, norm=norm).robust.shape == (0,)


@pytest.mark.parametrize("name", ["pgd", "fgsm"])
def test_registered_attacks_are_made_from_checked_options(name):
    assert name in names("evaluation_attack")
    options = validate_options("evaluation_attack", name, {"epsilon": "8/255", "norm": "l2"})
    made = resolve("evaluation_attack", name)(**options)
    assert (made.epsilon, made.norm) == (8 / 255, "l2")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "`epsilon`"),
        ({"epsilon": 8}, "`epsilon`"),
        ({"epsilon": "8-255"}, "`epsilon`"),
        ({"epsilon": 0.1, "steps": 0}, "`steps`"),
        ({"epsilon": 0.1, "restarts": 0}, "`restarts`"),
        ({"epsilon": 0.1, "restarts": 1.5}, "`restarts`"),
        ({"epsilon": 0.1, "step_size": 0.0}, "`step_size`"),
        ({"epsilon": 0.1, "norm": "l1"}, "`norm`"),
        ({"epsilon": 0.1, "loss": 3}, "`loss`"),
        ({"epsilon": 0.1, "loss": []}, "`loss`"),
        ({"epsilon": 0.1, "schedule": "step"}, "`schedule`"),
        ({"epsilon": 0.1, "alpha": 0.01}, "`alpha`"),
    ],
)
def test_bad_options_are_one_line(options, fault):
    with pytest.raises(StudyFileError) as caught:
        validate_options("evaluation_attack", "pgd", options)
    assert len(caught.value.lines) == 1
    assert fault in caught.value.lines[0]


def test_a_loss_that_the_task_lacks_is_one_line(plain):
    with pytest.raises(InputError, match=r'`loss` must be one that the task has .*; found "margins". Did you mean "ma'):
        attack(plain, loss=("cross-entropy", "margins"))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 1.5)])
def test_never_weaker_than_torchattacks(robust_on_200, norm, epsilon):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, targets = robust_on_200.victim.model, robust_on_200.images, robust_on_200.targets
    ours = int(attack(robust_on_200, norm=norm, epsilon=epsilon, steps=50).robust.sum())
    assert ours <= _theirs(torchattacks, model, images, targets, norm, epsilon) + 1


@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="shared data are absent")
@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1 / 255), ("l2", 0.1)])
def test_never_weaker_than_torchattacks_on_the_public_network(bits, norm, epsilon):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, targets = public_network(bits)
    ours = PGD(epsilon=epsilon, steps=50, restarts=1, norm=norm)(
        Victim(model, LOSSES, correct), images, targets, draws()
    )
    assert int(ours.robust.sum()) <= _theirs(torchattacks, model, images, targets, norm, epsilon) + 1


def _theirs(package: Any, model: nn.Module, images: Tensor, targets: Tensor, norm: str, epsilon: float) -> int:
    """How many images withstand the other package's PGD-50 with the same steps."""
    torch.manual_seed(0)
    kind = package.PGD if norm == "linf" else package.PGDL2
    settings = {"eps": epsilon, "alpha": epsilon / 4, "steps": 50, "random_start": True}
    adversarial = kind(model, **settings)(images, targets)
    with torch.no_grad():
        return int((correct(model(adversarial), targets) & correct(model(images), targets)).sum())


def public_network(bits: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The public ResNet-20, in float or quantized after training, and 200 CIFAR-10 test images."""
    from forgefront.compression.attach import attach
    from forgefront.compression.bake import bake
    from forgefront.spaces.layers import inspect_layers
    from forgefront.spaces.plan import LayerPlan, Quantization, TrialPlan
    from forgefront.studies.seeds import Seed
    from forgefront.trainers.models.base import with_normalization
    from forgefront.trainers.models.cifar_resnet import resnet20
    from forgefront.trainers.models.weights import load_weights

    def build() -> nn.Module:
        return with_normalization(resnet20(10), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()

    model = build()
    load_weights(model, DATA / "models" / "resnet20_cifar10.safetensors")
    strips = np.array(Image.open(sorted((DATA / "cifar10").glob("test_*.webp"))[0]).convert("RGB"))
    pixels = torch.from_numpy(strips.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2).contiguous().float() / 255
    targets = torch.from_numpy(np.load(DATA / "cifar10" / "labels.npz")["test_labels"][:200].astype(np.int64))
    if bits < 32:
        layers, example = inspect_layers(model, (3, 32, 32)), torch.zeros(1, 3, 32, 32)
        quantization = Quantization("post", weight_bits=bits, activation_bits=bits)
        plan = TrialPlan({layer.name: LayerPlan(quantization=quantization) for layer in layers})
        attached = attach(model, plan, layers, example, seed=Seed(0))
        attached.finalize(pixels[200:].split(100))
        model = bake(attached, build, layers, example).model
    return model.eval(), pixels[:200], targets
