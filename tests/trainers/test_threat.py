"""The ball around an image: starts that fill it, steepest steps, projections, and float32 throughout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from forgefront.studies.errors import InputError
from forgefront.trainers.attacks.threat import Threat

NORMS = ["linf", "l2"]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).double().norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.5, 4.0])
def test_starts_lie_in_the_ball_and_in_the_range(norm, epsilon):
    images = torch.rand(20, 3, 5, 7, generator=draws())
    start = Threat(norm, epsilon).random_start(images, draws(1))
    assert start.dtype == torch.float32
    assert (length(start - images, norm) <= epsilon + 1e-6).all()
    assert start.min() >= 0
    assert start.max() <= 1
    assert torch.equal(start, Threat(norm, epsilon).random_start(images, draws(1)))
    assert epsilon == 0.0 or not torch.equal(start, Threat(norm, epsilon).random_start(images, draws(2)))


def test_starts_are_uniform_in_the_ball():
    images = torch.full((4000, 1, 1, 3), 0.5)
    cube = Threat("linf", 0.2).random_start(images, draws()) - images
    assert cube.mean().abs() < 0.005
    assert cube.var() == pytest.approx(0.4**2 / 12, rel=0.03)
    ball = length(Threat("l2", 0.2).random_start(images, draws()) - images, "l2")
    # the volume within r grows with r³
    for share in (0.25, 0.5, 0.75):
        assert ((ball / 0.2) ** 3 <= share).double().mean() == pytest.approx(share, abs=0.025)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-38, 1e30])
def test_a_step_rises_as_far_as_its_length_allows(norm, dual, scale):
    gradient = torch.randn(6, 3, 4, 4, generator=draws())
    step = Threat(norm, 1.0).step(gradient * scale, 0.25)
    assert length(step, norm).tolist() == pytest.approx([0.25] * 6)
    rise = (step * gradient).flatten(1).sum(1)
    # Hölder's bound is attained
    assert torch.allclose(rise, 0.25 * gradient.flatten(1).norm(p=dual, dim=1), rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_is_no_step_and_sizes_may_differ(norm):
    gradient = torch.ones(3, 2, 2, 2)
    gradient[1] = 0.0
    sizes = torch.tensor([1.0, 1.0, 3.0]).reshape(-1, 1, 1, 1)
    assert length(Threat(norm, 1.0).step(gradient, sizes), norm).tolist() == pytest.approx([1.0, 0.0, 3.0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_projection_is_idempotent_and_the_identity_inside(norm, epsilon):
    threat = Threat(norm, epsilon)
    images = torch.rand(8, 3, 4, 4, generator=draws())
    far = images + torch.randn(images.shape, generator=draws(1))
    projected = threat.project(far, images)
    assert (length(projected - images, norm) <= epsilon + 1e-6).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert torch.allclose(threat.project(projected, images), projected, atol=1e-7)
    if epsilon == 0.0:
        assert torch.equal(projected, images)
    inside = threat.random_start(images, draws(2))
    assert torch.allclose(threat.project(inside, images), inside, atol=1e-7)


def test_projection_onto_a_sphere_keeps_the_direction():
    images = torch.full((2, 1, 1, 2), 0.5)
    far = images + torch.tensor([[0.3, 0.4], [0.03, 0.04]]).reshape(2, 1, 1, 2)
    change = Threat("l2", 0.1).project(far, images) - images
    assert change.flatten(1).tolist() == [pytest.approx([0.06, 0.08]), pytest.approx([0.03, 0.04])]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float32_under_autocast_and_from_any_precision(norm, dtype):
    threat, epsilon = Threat(norm, 8 / 255), 8 / 255
    images = (torch.rand(16, 3, 8, 8, generator=draws()) * 0.8 + 0.1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        point = threat.random_start(images, draws())
        for _ in range(20):
            point = threat.project(point + threat.step(torch.randn(images.shape, generator=draws()), 2 / 255), images)
    assert point.dtype == torch.float32
    # in bfloat16 the change would come to 8.99/255
    assert length(point - images.float(), norm).max() == pytest.approx(epsilon, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_images_are_no_trouble(norm):
    threat, none = Threat(norm, 0.1), torch.empty(0, 3, 4, 4)
    for result in (threat.random_start(none, draws()), threat.step(none, 0.1), threat.project(none, none)):
        assert result.shape == none.shape


@pytest.mark.parametrize(
    ("norm", "epsilon", "line"),
    [
        ("l1", 0.1, """`norm` must be "linf" or "l2"; found 'l1'. Did you mean "l2"?"""),
        ("Linf", 0.1, """`norm` must be "linf" or "l2"; found 'Linf'. Did you mean "linf"?"""),
        ("linf", -0.1, "`epsilon` must be a finite number of at least 0; found -0.1."),
        ("l2", float("nan"), "`epsilon` must be a finite number of at least 0; found nan."),
        ("l2", float("inf"), "`epsilon` must be a finite number of at least 0; found inf."),
    ],
)
def test_bad_input_is_one_line(norm, epsilon, line):
    with pytest.raises(InputError) as caught:
        Threat(norm, epsilon)
    assert str(caught.value) == line
