"""Every random draw of a trial comes from one seed: SeedSequence([study seed, trial number, purpose])."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Seed", "trial_seed"]


class Seed:
    """A node in a tree of seeds; children are named, so that adding a draw never moves another.

    Args:
        entropy: Non-negative integers that identify this node.
    """

    def __init__(self, *entropy: int) -> None:
        self.entropy = entropy

    def child(self, purpose: str | int) -> Seed:
        """The seed for one purpose, for example ``seed.child("shuffle").child(epoch)``."""
        key = zlib.crc32(purpose.encode()) if isinstance(purpose, str) else purpose
        return Seed(*self.entropy, key)

    def integer(self) -> int:
        """A 63-bit non-negative integer drawn from this seed."""
        words = np.random.SeedSequence(self.entropy).generate_state(2, np.uint32)
        return (int(words[0]) << 31) | (int(words[1]) >> 1)

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator."""
        return np.random.default_rng(np.random.SeedSequence(self.entropy))

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator on `device`."""
        import torch

        generator = torch.Generator(device=device)
        generator.manual_seed(self.integer())
        return generator

    def __repr__(self) -> str:
        return f"Seed{self.entropy}"


def trial_seed(study_seed: int, number: int) -> Seed:
    """The root of all draws of trial `number` in a study seeded with `study_seed`."""
    return Seed(study_seed, number)
