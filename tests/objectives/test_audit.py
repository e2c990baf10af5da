"""The audit in both directions: it catches what only looks robust, and lets sound models pass on few images too."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate
from forgefront.objectives.audit import audit
from forgefront.objectives.audit_report import AuditReport, Check, allowed
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Quantization, Recipe, TrialPlan
from forgefront.studies.errors import InputError
from forgefront.studies.seeds import Seed
from forgefront.trainers.attacks.base import Victim
from forgefront.trainers.attacks.pgd import PGD
from forgefront.trainers.attacks.single_step import NFGSM
from forgefront.trainers.tasks.base import Batch
from forgefront.trainers.tasks.classification import ClassificationTask

EPSILON = 0.08


def plain(model: nn.Module) -> Candidate:
    return Candidate(model=model, latent=model, plan=TrialPlan())


def batch_of(task: ClassificationTask, count: int, first: int = 0) -> Batch:
    images = task.evaluation("validation", first + count)
    whole = next(images.batches(first + count))
    return Batch(whole.images[first:], whole.targets[first:], whole.indices[first:])


@pytest.fixture(scope="module")
def adversarial(task: ClassificationTask, trained: nn.Module) -> Candidate:
    """The trained network after two epochs of N-FGSM."""
    model, attack = copy.deepcopy(trained).train(), NFGSM(epsilon=EPSILON)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(2):
        draws = torch.Generator().manual_seed(epoch)
        for batch in task.train_batches(Recipe(), batch_size=64, seed=Seed(1, epoch)):
            images = attack(model, batch.images, batch.targets, task.attack_loss, draws)
            optimizer.zero_grad()
            task.attack_loss(model(images), batch.targets).mean().backward()
            optimizer.step()
    optimizer.zero_grad()
    return plain(model.eval())


@pytest.fixture(scope="module")
def int8(task: ClassificationTask, adversarial: Candidate) -> Candidate:
    """The adversarially trained network, quantized after training."""
    model = task.build_model()
    model.load_state_dict(adversarial.model.state_dict())
    layers = inspect_layers(model, task.input_shape)
    plan = TrialPlan({layer.name: LayerPlan(quantization=Quantization("post")) for layer in layers})
    attached = attach(model, plan, layers, task.example, seed=Seed(0))
    attached.finalize(task.calibration_images(256, Seed(0)).split(128))
    return bake(attached, task.build_model, layers, task.example)


class Rounded(nn.Module):
    """A network behind 16 levels of each pixel, through which no gradient passes, its logits on a larger scale."""

    def __init__(self, network: nn.Module, scale: float = 1000.0) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.network((15.0 * images).round() / 15.0)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class Opaque(Rounded):
    """Gradients end in a function that no attack can see into."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(_NoGradient.apply(images))


class Scaled(Rounded):
    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.network(images)


class Random(Rounded):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.1 * torch.randn_like(images))


MASKED: list[tuple[str, Callable[[nn.Module], Candidate], set[str]]] = [
    (
        "rounded and scaled",
        lambda network: Candidate(model=Rounded(network), latent=Scaled(network), plan=TrialPlan()),
        {"bpda", "transfer", "large-epsilon", "zero-gradients", "hidden"},
    ),
    (
        "rounded and scaled, no other weights",
        lambda network: plain(Rounded(network)),
        {"bpda", "large-epsilon", "zero-gradients", "hidden"},
    ),
    ("opaque", lambda network: plain(Opaque(network)), {"square", "large-epsilon", "zero-gradients", "hidden"}),
    (
        "scaled",
        lambda network: plain(Scaled(network)),
        {"margin", "scaled-cross-entropy", "large-epsilon", "zero-gradients", "hidden"},
    ),
    ("random", lambda network: plain(Random(network)), {"same-outputs"}),
]


@pytest.mark.parametrize(("build", "expected"), [case[1:] for case in MASKED], ids=[case[0] for case in MASKED])
def test_masked_gradients_are_found(task, trained, build, expected):
    report = audit(build(trained), task, batch_of(task, 40), epsilon=EPSILON, seed=Seed(0), steps=5, queries=60)
    assert report.verdict == "masked"
    assert expected <= set(report.failed)
    if "hidden" in expected:
        assert report.gap > 0.2
        assert report.accuracies["plain"] > 0.8


@pytest.mark.parametrize("build", [case[1] for case in MASKED[:2]])
def test_what_is_found_passes_for_robust_under_plain_pgd(task, trained, build):
    batch, victims = batch_of(task, 40), [plain(trained), build(trained)]
    shares = []
    for one in victims:
        victim = Victim(one.model.eval(), task.attack_losses, task.correct)
        pgd = PGD(epsilon=EPSILON, steps=20, restarts=1)
        shares.append(
            float(pgd(victim, batch.images, batch.targets, torch.Generator().manual_seed(0)).robust.float().mean())
        )
    assert shares[0] < 0.1
    assert shares[1] > 0.8


@pytest.mark.parametrize(("count", "epsilon"), [(8, EPSILON), (25, 0.02), (60, EPSILON)])
def test_sound_models_pass_on_few_images(task, trained, adversarial, int8, count, epsilon):
    for candidate in (plain(trained), adversarial, int8):
        batch = batch_of(task, count, first=60 - count)
        report = audit(candidate, task, batch, epsilon=epsilon, seed=Seed(count), queries=10)
        assert report.verdict == "sound", report.checks
        assert report.gap >= 0.0
        assert report.accuracies["large-epsilon"] == 0.0
    assert report.accuracies["plain"] > 0.3 or count < 60


def test_l2_in_both_directions(task, trained, adversarial):
    batch, settings = batch_of(task, 24), {"norm": "l2", "seed": Seed(0), "queries": 10, "steps": 6}
    sound = audit(adversarial, task, batch, epsilon=1.0, **settings)
    masked = audit(plain(Rounded(trained)), task, batch, epsilon=2.0, **settings)
    assert (sound.verdict, masked.verdict) == ("sound", "masked")


def test_the_same_each_time_whatever_the_mode_and_as_json(task, int8):
    batch = batch_of(task, 12)
    int8.model.train()
    settings = {"epsilon": EPSILON, "seed": Seed(0), "queries": 10, "steps": 3, "batch_size": 7}
    report = audit(int8, task, batch, **settings).to_dict()
    assert int8.model.training
    int8.model.eval()
    assert audit(int8, task, batch, **settings).to_dict() == report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["images"] == 12
    assert report["settings"]["step_size"] == pytest.approx(2.5 * EPSILON / 3)
    assert report["failed"] == [check["name"] for check in report["checks"] if not check["passed"]]


def test_accuracies_fall_from_clean_to_everything(task, adversarial):
    report = audit(adversarial, task, batch_of(task, 30), epsilon=EPSILON, seed=Seed(3), queries=10)
    accuracies = dict(report.accuracies)
    clean, least, large = (accuracies.pop(name) for name in ("clean", "everything", "large-epsilon"))
    assert all(least <= value <= clean for value in accuracies.values())
    assert large <= least
    assert report.gap == accuracies["plain"] - least


def test_no_images_are_refused(task, adversarial):
    batch = batch_of(task, 2)
    none = Batch(batch.images[:0], batch.targets[:0], batch.indices[:0])
    with pytest.raises(InputError, match="`batch` must hold at least one image; found none"):
        audit(adversarial, task, none, epsilon=EPSILON, seed=Seed(0))
    with pytest.raises(InputError, match="`norm` must be"):
        audit(adversarial, task, batch, epsilon=EPSILON, norm="l1", seed=Seed(0))


@pytest.mark.parametrize("trials", [0, 1, 8, 30, 100, 1000, 10_000])
@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.10])
def test_bounds_are_quantiles_of_the_binomial_distribution(trials, tolerance):
    stats = pytest.importorskip("scipy.stats")
    most = allowed(trials, tolerance)
    assert stats.binom.sf(most, trials, tolerance) <= 0.01 + 1e-9
    assert most == 0 or stats.binom.sf(most - 1, trials, tolerance) > 0.01 - 1e-9


def test_the_stated_power_of_a_hundred_images():
    stats = pytest.importorskip("scipy.stats")
    assert [allowed(100, tolerance) for tolerance in (0.01, 0.05, 0.10)] == [4, 11, 18]
    assert [stats.binom.sf(11, 100, share) for share in (0.15, 0.20)] == pytest.approx([0.84, 0.98], abs=0.01)


def test_a_check_passes_up_to_its_bound_and_without_images():
    assert Check.of("square", 4, 100, 0.01).passed
    assert not Check.of("square", 5, 100, 0.01).passed
    assert Check.of("square", 0, 0, 0.01) == Check("square", 0.0, 0.0, True)


def test_a_report_is_masked_where_any_check_fails():
    accuracies = {"plain": 0.5, "everything": 0.25}
    sound, failed = Check("noise", 0.0, 0.04, True), Check("square", 0.2, 0.04, False)
    assert AuditReport(100, {}, accuracies, (sound,)).verdict == "sound"
    report = AuditReport(100, {}, accuracies, (sound, failed))
    assert (report.verdict, report.failed, report.gap) == ("masked", ["square"], 0.25)
    assert report.to_dict()["gap_standard_error"] == pytest.approx((0.25 * 0.75 / 100) ** 0.5)
