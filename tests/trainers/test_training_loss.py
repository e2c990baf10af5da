"""Divergences, and the losses made of them: identities, gradients, TRADES and AugMix as published."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from forgefront.spaces.plan import Recipe
from forgefront.studies.errors import InputError
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.divergences import jensen_shannon, kullback_leibler
from forgefront.trainers.tasks.base import Batch, Task
from forgefront.trainers.tasks.classification import ClassificationTask
from forgefront.trainers.training_loss import disagreement, training_loss


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(seed: int, *shape: int) -> Tensor:
    return functional.log_softmax(3.0 * torch.randn(*shape, generator=draws(seed)), dim=-1)


def certain(label: int) -> Tensor:
    return torch.where(torch.arange(4) == label, 0.0, -torch.inf)[None]


@pytest.fixture(scope="module")
def task() -> ClassificationTask:
    study = {
        "study": {"name": "test"},
        "task": {
            "data": {"name": "digits", "validation": {"from": "train", "count": 300}, "train_images": 64},
            "model": {"name": "digits-cnn", "width": 8},
        },
        "training": {"epochs": 1, "device": "cpu"},
        "space": {"sparsity": {"high": 0.9}},
        "objectives": [{"name": "accuracy"}],
    }
    return ClassificationTask(Study.model_validate(study), torch.device("cpu"))


def test_kullback_leibler_is_torchs():
    p, q = predictions(0, 16, 10), predictions(1, 16, 10)
    expected = functional.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)
    assert torch.allclose(kullback_leibler(p, q), expected, atol=1e-6)
    assert (kullback_leibler(p, q) >= 0).all()
    assert kullback_leibler(p, p).abs().max() < 1e-6


def test_a_prediction_that_is_certain_has_a_finite_divergence():
    uniform = torch.full((1, 4), -math.log(4))
    assert kullback_leibler(certain(2), uniform).item() == pytest.approx(math.log(4))
    assert jensen_shannon([certain(2), certain(2)]).item() == pytest.approx(0.0, abs=1e-6)


def test_a_prediction_that_is_certain_has_finite_gradients():
    p, q = certain(2).requires_grad_(), predictions(0, 1, 4).requires_grad_()
    kullback_leibler(p, q).sum().backward()
    assert p.grad is not None
    assert q.grad is not None
    # d KL / d log q = -p, and d KL / d log p = p·(log p − log q + 1)
    assert q.grad.tolist() == [[0.0, 0.0, -1.0, 0.0]]
    assert p.grad[0].tolist() == pytest.approx([0.0, 0.0, 1.0 - q[0, 2].item(), 0.0])
    # both certain of the same
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    kullback_leibler(logits.log_softmax(1), logits.detach().log_softmax(1)).sum().backward()
    jensen_shannon([logits.log_softmax(1), torch.full((1, 3), -math.log(3))]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_jensen_shannon_is_symmetric_and_bounded():
    parts = [predictions(seed, 16, 10) for seed in range(3)]
    divergence = jensen_shannon(parts)
    assert torch.allclose(divergence, jensen_shannon(parts[::-1]), atol=1e-6)
    assert (divergence > 0).all()
    assert (divergence < math.log(3)).all()
    # as far apart as predictions can be
    assert jensen_shannon([certain(0), certain(1), certain(2)]).item() == pytest.approx(math.log(3), rel=1e-4)


def test_jensen_shannon_is_the_published_loss():
    logits = [torch.randn(16, 10, generator=draws(seed)) for seed in range(3)]
    clean, first, second = (functional.softmax(one, dim=1) for one in logits)
    mixture = torch.clamp((clean + first + second) / 3.0, 1e-7, 1).log()
    published = sum(functional.kl_div(mixture, one, reduction="batchmean") for one in (clean, first, second)) / 3.0
    ours = jensen_shannon([functional.log_softmax(one, dim=1) for one in logits]).mean()
    assert ours.item() == pytest.approx(float(published), rel=1e-5)


def test_what_lies_between_image_and_classes_is_averaged():
    p, q = predictions(0, 6, 5, 10), predictions(1, 6, 5, 10)
    each = torch.stack([kullback_leibler(p[:, place], q[:, place]) for place in range(5)], dim=1)
    assert torch.allclose(kullback_leibler(p, q), each.mean(dim=1), atol=1e-6)
    assert jensen_shannon([p, q]).shape == (6,)


def test_every_prediction_gets_a_gradient():
    logits = [torch.randn(4, 10, generator=draws(seed), requires_grad=True) for seed in range(3)]
    jensen_shannon([one.log_softmax(1) for one in logits]).mean().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in logits)


def batch_of(task: ClassificationTask, views: int) -> Batch:
    plain = next(task.train_batches(Recipe(), batch_size=16, seed=Seed(0)))
    others = torch.rand(views * 16, 3, 32, 32, generator=draws(3)) if views else None
    return Batch(plain.images, plain.targets, plain.indices, others)


def test_without_views_it_is_the_tasks_loss(task):
    batch, outputs = batch_of(task, 0), torch.randn(16, 10, generator=draws(1))
    loss, plain = training_loss(task, outputs, batch, Recipe(), weight=12.0)
    assert plain is outputs
    assert loss.item() == task.loss(outputs, batch, Recipe()).item()
    assert batch.inputs is batch.images


def test_augmented_views_add_their_weighted_divergence(task):
    batch, outputs = batch_of(task, 2), torch.randn(48, 10, generator=draws(1))
    assert batch.inputs.shape == (48, 3, 32, 32)
    loss, plain = training_loss(task, outputs, batch, Recipe(), weight=12.0)
    assert torch.equal(plain, outputs[:16])
    parts = [outputs[place : place + 16].log_softmax(1) for place in (0, 16, 32)]
    expected = functional.cross_entropy(outputs[:16], batch.targets) + 12.0 * jensen_shannon(parts).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    nothing, _ = training_loss(task, outputs, batch, Recipe(), weight=0.0)
    assert nothing.item() == pytest.approx(functional.cross_entropy(outputs[:16], batch.targets).item())


def test_an_adversarial_view_makes_the_published_loss_of_trades(task):
    batch, outputs = batch_of(task, 1), torch.randn(32, 10, generator=draws(1))
    loss, _ = training_loss(task, outputs, batch, Recipe(), weight=6.0, adversarial=True)
    natural, robust = outputs[:16], outputs[16:]
    criterion = torch.nn.KLDivLoss(reduction="sum")
    published = functional.cross_entropy(natural, batch.targets) + 6.0 * (1.0 / 16) * criterion(
        functional.log_softmax(robust, dim=1), functional.softmax(natural, dim=1)
    )
    assert loss.item() == pytest.approx(published.item(), rel=1e-5)


def test_equal_predictions_do_not_disagree():
    same = predictions(0, 8, 10)
    assert disagreement([same, same], adversarial=True).item() == pytest.approx(0.0, abs=1e-6)
    assert disagreement([same, same, same], adversarial=False).item() == pytest.approx(0.0, abs=1e-6)


def test_a_task_whose_predictions_cannot_be_compared_says_so(task):
    with pytest.raises(InputError, match=r"`training\.consistency` must be 0 with this task"):
        Task.log_probabilities(task, None)
