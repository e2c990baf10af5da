"""What the compression tests share: plans that treat every layer alike, a briefly trained model, models by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from torch import nn

from forgefront.compression.attach import Attached, attach
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "digits_cnn": (lambda: digits_cnn(10), (3, 8, 8)),
    "resnet20": (lambda: resnet20(10), (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 32, 32)),
}


class Case:
    """A model, its layers and seeded images of its size."""

    def __init__(self, name: str) -> None:
        self.build, self.size = MODELS[name]
        self.layers = inspect_layers(self.build(), self.size)

    def images(self, count: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
        return torch.rand(count, *self.size, generator=Seed(seed).child("images").torch()).to(dtype)

    def model(self, *, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Seeded, with batch norms that neither start at the identity nor leave a channel silent."""
        torch.manual_seed(0)
        model, generator = self.build(), Seed(0).child("norms").torch()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
        return model.to(dtype)

    def trained(self, plan: TrialPlan, *, dtype: torch.dtype = torch.float32, steps: int = 3) -> Attached:
        """Attached, trained for a few steps with momentum and decay, and finalized."""
        attached = attach(self.model(dtype=dtype), plan, self.layers, self.images(1, dtype=dtype), seed=Seed(0))
        optimizer = torch.optim.SGD(attached.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
        attached.model.train()
        for step in range(steps):
            attached.set_progress(step / steps)
            optimizer.zero_grad()
            outputs = attached.model(self.images(4, dtype=dtype, seed=step))
            nn.functional.cross_entropy(outputs, torch.arange(4)).backward()
            optimizer.step()
            attached.after_step()
        attached.finalize([self.images(4, dtype=dtype)])
        return attached


_cases: dict[str, Case] = {}


@pytest.fixture
def case() -> Callable[[str], Case]:
    def named(name: str) -> Case:
        if name not in _cases:
            _cases[name] = Case(name)
        return _cases[name]

    return named


@pytest.fixture
def uniform_plan() -> Callable[..., TrialPlan]:
    """Every layer alike, except that only what can lose filters does and depthwise layers keep weights of their own."""

    def plan(
        layers: Sequence[LayerInfo],
        *,
        pruning: Pruning | None = None,
        clustering: Clustering | None = None,
        quantization: Quantization | None = None,
    ) -> TrialPlan:
        planned = {}
        for layer in layers:
            filters = pruning is not None and pruning.structure == "filter"
            own = layer.kind in ("conv", "linear") and (layer.prunable_filters or not filters)
            free = layer.kind in ("conv", "linear")
            planned[layer.name] = LayerPlan(pruning if own else None, clustering if free else None, quantization)
        return TrialPlan(planned)

    return plan
