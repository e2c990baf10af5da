"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1-3): random search without any gradient.

What it breaks and a gradient attack does not was hidden by masked gradients, not defended.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ...studies.epsilon import Epsilon
from .base import AttackResult, Victim
from .progress import Progress, evaluation_mode
from .threat import Norm, Threat

__all__ = ["Square", "square_pattern", "square_share"]

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10 000 after which the share p of changed pixels is halved once more (section 5 of the paper)."""
COLUMNS = 5
"""Draws of a query besides one sign a channel: two squares' rows and columns, the pattern's orientation."""
TINY = 1e-12


class Square:
    """Square attack: each query changes one square of the image, and is kept where the loss rises.

    A query is one forward pass; the image's first perturbation is the first of them. A broken image takes no further
    queries, which changes no other image's outcome.

    Args:
        epsilon: Radius on images in [0, 1].
        queries: Forward passes an image, at least 1; the published schedule of 10 000 is rescaled to them.
        norm: ``"linf"`` (algorithm 2) or ``"l2"`` (algorithm 3).
        p: Share of the pixels that the first squares cover, in (0, 1].
        loss: Which of the task's attack losses is raised.
    """

    def __init__(
        self,
        *,
        epsilon: Epsilon,
        queries: Annotated[int, Field(ge=1)] = 500,
        norm: Norm = "linf",
        p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8,
        loss: str = "margin",
    ) -> None:
        self.epsilon = epsilon
        self.queries = queries
        self.norm = norm
        self.p = p
        self.loss = loss
        self._threat = Threat(norm, epsilon)

    @torch.no_grad()
    def __call__(self, victim: Victim, images: Tensor, targets: Any, generator: torch.Generator) -> AttackResult:
        """Attack a batch; see `EvaluationAttack`.

        Raises:
            InputError: The task has no such loss.
        """
        progress = Progress(victim, images, targets, self.loss)
        images = progress.images
        start = _stripes if self.norm == "linf" else _tiles
        with evaluation_mode(victim.model):
            active = progress.begin()
            # everything is drawn for the whole batch, so that an image's squares do not depend on what else stands
            adversarial = self._threat.project(start(images, self.epsilon, generator), images)[active]
            images = images[active]
            size = (len(progress.images), COLUMNS + images.shape[1])
            best = torch.full((len(images),), -torch.inf, device=images.device)
            proposal = adversarial
            for query in range(self.queries):
                if not len(active):
                    break
                draws = torch.rand(size, generator=generator, device=images.device)[active]
                if query:
                    proposal = self._propose(images, adversarial, draws, query)
                standing, value = progress.judge(active, proposal, victim.model(proposal))
                better = value > best
                adversarial = torch.where(better[:, None, None, None], proposal, adversarial)
                best = torch.maximum(best, value)
                if not standing.all():
                    active, images, adversarial, best = (part[standing] for part in (active, images, adversarial, best))
        return progress.result()

    def _propose(self, images: Tensor, adversarial: Tensor, draws: Tensor, query: int) -> Tensor:
        share = square_share(query, self.queries, self.p)
        height, width = images.shape[-2:]
        side = max(round(math.sqrt(share * height * width)), 1)
        if self.norm == "linf":
            return _linf_square(images, adversarial, draws, min(side, height, width), self._threat)
        # odd, and of three pixels at least, so that the pattern has a middle
        side = min(max(side, 3) | 1, height, width)
        return self._threat.project(_l2_square(images, adversarial, draws, side, self.epsilon), images)


def square_share(query: int, queries: int, first: float) -> float:
    """Share of the pixels that a square covers: `first`, halved at each of `HALVINGS` rescaled to `queries`."""
    rescaled = query * 10_000 // queries
    return float(first / 2 ** sum(rescaled > after for after in HALVINGS))


def square_pattern(side: int) -> Tensor:
    """η of equation 2: two centred bumps of opposite sign, one above the other; float32, (side, side), of norm 1."""
    upper = side // 2
    pattern = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    return pattern / pattern.norm()


def _bump(height: int, width: int) -> Tensor:
    """Sum of 1 / (k + 1)² from the Chebyshev distance to the middle up to the farthest, of norm 1."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    farthest = max(height, width) // 2
    sums = (1.0 / torch.arange(1, farthest + 2) ** 2).flip(0).cumsum(0).flip(0)
    bump = sums[torch.maximum(rows[:, None], columns[None, :])]
    return bump / (bump.norm() + TINY)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _stripes(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Vertical stripes one pixel wide, ±ε in each channel, on (N, C, H, W)."""
    count, channels, _, width = images.shape
    draws = torch.rand((count, channels, 1, width), generator=generator, device=images.device)
    return images + epsilon * _signs(draws)


def _tiles(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """A grid of patterns, five along the shorter side, each of its own sign and orientation, scaled to ε."""
    count, channels, height, width = images.shape
    side = min(max(min(height, width) // 5, 3), height, width)
    down, across = height // side, width // side
    draws = torch.rand((count, 1 + channels, down, across), generator=generator, device=images.device)
    upright = square_pattern(side).to(images.device)
    turned = torch.where(draws[:, :1, :, None, :, None] < 0.5, upright[:, None, :], upright.T[:, None, :])
    tiles = (turned * _signs(draws[:, 1:])[:, :, :, None, :, None]).flatten(4, 5).flatten(2, 3)
    delta = torch.zeros_like(images)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta[:, :, top : top + down * side, left : left + across * side] = tiles
    return images + _scaled(delta, epsilon)


def _linf_square(images: Tensor, adversarial: Tensor, draws: Tensor, side: int, threat: Threat) -> Tensor:
    """Algorithm 2: one square of one colour, ±ε in each channel."""
    window = _window(draws[:, 0], draws[:, 1], side, images.shape)[0]
    colour = threat.epsilon * _signs(draws[:, COLUMNS:])[:, :, None, None]
    proposal = torch.where(window, threat.project(images + colour, images), adversarial)
    # the colours that are there already would waste the query; their opposites do not
    same = (proposal == adversarial).flatten(1).all(dim=1)[:, None, None, None]
    return torch.where(window & same, threat.project(images - colour, images), proposal)


def _l2_square(images: Tensor, adversarial: Tensor, draws: Tensor, side: int, epsilon: float) -> Tensor:
    """Algorithm 3: a square takes a pattern, its own perturbation's direction, and the norm of another square."""
    delta = adversarial - images
    first, rows, columns = _window(draws[:, 0], draws[:, 1], side, images.shape)
    second, _, _ = _window(draws[:, 2], draws[:, 3], side, images.shape)
    pattern = square_pattern(side).to(images.device)
    turned = torch.stack([pattern, pattern.T])[(draws[:, 4] < 0.5).long()[:, None, None], rows, columns]
    old = torch.where(first, delta, 0.0)
    mixed = turned[:, None] * _signs(draws[:, COLUMNS:])[:, :, None, None] + old / (_channel_norm(old) + TINY)
    mixed = torch.where(first, mixed, 0.0)
    unused = (epsilon**2 - delta.square().sum(dim=(1, 2, 3), keepdim=True)).clamp_min(0.0) / images.shape[1]
    available = (torch.where(first | second, delta, 0.0).square().sum(dim=(2, 3), keepdim=True) + unused).sqrt()
    moved = torch.where(first, mixed / (_channel_norm(mixed) + TINY) * available, torch.where(second, 0.0, delta))
    return images + _scaled(moved, epsilon)


def _window(row: Tensor, column: Tensor, side: int, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """A square for each image, its corner at uniform draws (N,).

    Returns:
        Its mask, bool, (N, 1, H, W), and each pixel's row (N, H, 1) and column (N, 1, W) within the square.
    """
    height, width = shape[-2:]
    top = (row * (height - side + 1)).long()
    left = (column * (width - side + 1)).long()
    rows = (torch.arange(height, device=row.device) - top[:, None])[:, :, None]
    columns = (torch.arange(width, device=row.device) - left[:, None])[:, None, :]
    mask = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return mask[:, None], rows.clamp(0, side - 1), columns.clamp(0, side - 1)


def _channel_norm(delta: Tensor) -> Tensor:
    return delta.square().sum(dim=(2, 3), keepdim=True).sqrt()


def _scaled(delta: Tensor, epsilon: float) -> Tensor:
    return delta * (epsilon / (delta.square().sum(dim=(1, 2, 3), keepdim=True).sqrt() + TINY))
