"""Backward pass differentiable approximation (Athalye et al. 2018, arXiv 1802.00420, section 4.1) of what rounds.

Rounding has no gradient, and a clipped activation none outside its range; an attack that follows such gradients stands
still. Here both run forward as they are, and backward as the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...compression.quantizers import activation_quantizers, straight_through

__all__ = ["Replaced", "backward_pass_approximation"]

ROUNDINGS = {
    function
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
    for function in (getattr(torch, name), getattr(Tensor, name), getattr(Tensor, f"{name}_"))
} | {torch.round_, torch.floor_, torch.ceil_, torch.trunc_, torch.fix_}


class Replaced(TorchFunctionMode):
    """Passes gradients straight through the roundings that torch is asked for; see `backward_pass_approximation`.

    Attributes:
        count: How many roundings and activation quantizers have been replaced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensor = args[0] if args else None
        # no gradients are recorded inside an autograd function, whose tensors may well require them
        recorded = isinstance(tensor, Tensor) and tensor.requires_grad and torch.is_grad_enabled()
        if func not in ROUNDINGS or tensor is None or not recorded:
            return func(*args, **(kwargs or {}))
        self.count += 1
        # a copy, since some of them change the tensor that they are given
        with torch.no_grad():
            rounded = func(tensor.detach().clone(), *args[1:], **(kwargs or {}))
        result = straight_through(tensor, rounded)
        return tensor.copy_(result) if func.__name__.endswith("_") else result


@contextmanager
def backward_pass_approximation(model: nn.Module) -> Iterator[Replaced]:
    """Run a block in which gradients pass unchanged through `model`'s roundings and activation quantizers.

    What the model computes is the same to the bit. Roundings inside an autograd function keep the gradient which that
    function defines; a cast to integers ends the gradient here too.

    Args:
        model: Put back as it was afterwards.
    """
    replaced = Replaced()

    def pass_through(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        replaced.count += 1
        return straight_through(inputs[0], output)

    handles = [one.register_forward_hook(pass_through) for one in activation_quantizers(model.modules())]
    try:
        with replaced:
            yield replaced
    finally:
        for handle in handles:
            handle.remove()
