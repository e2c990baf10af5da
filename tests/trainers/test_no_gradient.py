"""A model that casts to integers has no gradient; attacks see zeros there and do not fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forgefront.trainers.attacks.base import Victim, input_gradient
from forgefront.trainers.attacks.losses import cross_entropy
from forgefront.trainers.attacks.pgd import PGD


class Integers(nn.Module):
    """The mean of each channel, as whole grey levels."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 255.0).to(torch.int64).flatten(2).float().mean(dim=2)


def test_a_cast_to_integers_gives_zeros_and_is_counted() -> None:
    images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    gradient, outputs = input_gradient(Integers(), images, targets, cross_entropy)
    assert gradient.shape == images.shape
    assert not gradient.any()
    assert not outputs.requires_grad
    model = Integers()
    victim = Victim(model, {"cross-entropy": cross_entropy}, lambda found, wanted: found.argmax(1) == wanted)
    labels = model(images).argmax(1)
    result = PGD(epsilon=0.001, steps=2, restarts=1)(victim, images, labels, torch.Generator().manual_seed(0))
    assert result.zero_gradients == 4
