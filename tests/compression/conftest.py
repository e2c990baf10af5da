"""What the compression tests share: plans, models by name, trained weights, simulators in every pair and triple."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from forgefront.compression.attach import Attached, attach
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, TrialPlan
from forgefront.studies.schema import Study
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.models.base import with_normalization
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import ConvNormReLU, digits_cnn
from forgefront.trainers.models.small_images import mobilenetv2_cifar, resnet18_cifar, resnet50_cifar, vgg19_cifar
from forgefront.trainers.models.weights import read_state_dict
from forgefront.trainers.tasks.classification import ClassificationTask


class SmallCNN(nn.Module):
    """Five layers with what larger networks have: a strided stem, a residual sum, a depthwise layer and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormReLU(3, 8, 3, stride=2)
        self.residual = ConvNormReLU(8, 8, 3)
        self.depthwise = ConvNormReLU(8, 8, 3, stride=2, groups=8)
        self.pointwise = ConvNormReLU(8, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pointwise(self.depthwise(self.residual(x) + x))
        return self.linear(torch.flatten(self.pool(x), 1))


SHARED = Path(__file__).resolve().parents[2] / "../shared/data"

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "digits_cnn": (lambda: digits_cnn(10), (3, 8, 8)),
    "small_cnn": (SmallCNN, (3, 8, 8)),
    "resnet20": (lambda: resnet20(10), (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 32, 32)),
    "resnet18-cifar": (lambda: resnet18_cifar(10), (3, 32, 32)),
    "resnet50-cifar": (lambda: resnet50_cifar(10), (3, 32, 32)),
    "vgg19-cifar": (lambda: vgg19_cifar(10), (3, 32, 32)),
    "mobilenetv2-cifar": (lambda: mobilenetv2_cifar(10), (3, 32, 32)),
}

# what a simulator acts on, and its part of a layer's plan; of one kind there can be one in a layer
SIMULATORS: dict[str, tuple[str, Any]] = {
    "weight mask": ("pruning", Pruning(0.6)),
    "2:4 mask": ("pruning", Pruning(0.5, "2:4")),
    "filter mask": ("pruning", Pruning(0.4, "filter")),
    "global weight mask": ("pruning", Pruning(0.6, scope="global")),
    "global filter mask": ("pruning", Pruning(0.4, "filter", scope="global")),
    "learned weight mask": ("pruning", Pruning(0.0, mask="learned", target=0.6, strength=1.0)),
    "learned filter mask": ("pruning", Pruning(0.0, "filter", mask="learned", target=0.6, strength=1.0)),
    "clusters by layer": ("clustering", Clustering(8, gradient="mean")),
    "clusters by channel": ("clustering", Clustering(4, "channel", gradient="sum")),
    **{f"{bits}-bit weights": ("weight_bits", bits) for bits in range(1, 9)},
    "4-bit outputs": ("activation_bits", 4),
    "8-bit outputs": ("activation_bits", 8),
    "learned scales": ("scales", "learned"),
    "int8 after training": ("post", True),
}


def _compatible(names: Sequence[str]) -> bool:
    kinds = [SIMULATORS[name][0] for name in names]
    bits = {"weight_bits", "activation_bits", "scales"} & set(kinds)
    return len(set(kinds)) == len(kinds) and not ("post" in kinds and bits)


COMBINATIONS = [
    names for count in (1, 2, 3) for names in itertools.combinations(SIMULATORS, count) if _compatible(names)
]
# every number of bits alone and in pairs; in threes the first, the last and one between
_SELECTED = [
    names
    for names in COMBINATIONS
    if len(names) < 3 or not {f"{bits}-bit weights" for bits in (2, 3, 5, 6, 7)} & set(names)
]
# singles on random and on trained weights, the rest on one of them in turn
ORIGINS = [
    (names, origin)
    for index, names in enumerate(_SELECTED)
    for origin in (("random", "trained") if len(names) == 1 else (("random", "trained")[index % 2],))
]
ON_WEIGHTS = [names for names in _SELECTED if not {"activation_bits", "post"} & {SIMULATORS[name][0] for name in names}]


def parts_of(names: Sequence[str]) -> dict[str, Any]:
    """What `names` of `SIMULATORS` make of a layer, as the arguments of a `LayerPlan`."""
    given = dict(SIMULATORS[name] for name in names)
    parts = {kind: given[kind] for kind in ("pruning", "clustering") if kind in given}
    if "post" in given:
        parts["quantization"] = Quantization("post", 8, 8)
    elif given.keys() & {"weight_bits", "activation_bits", "scales"}:
        # learned scales need bits to scale: three where none are named
        weight_bits = given.get("weight_bits", 32 if "activation_bits" in given else 3)
        activation_bits, scales = given.get("activation_bits", 32), given.get("scales", "range")
        parts["quantization"] = Quantization("aware", weight_bits, activation_bits, scales=scales)
    return parts


class Case:
    """A model, its layers and seeded images of its size."""

    def __init__(self, name: str) -> None:
        self.build, self.size = MODELS[name]
        self.layers = inspect_layers(self.build(), self.size)

    def images(self, count: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        return torch.rand(count, *self.size, generator=Seed(seed).child("images").torch()).to(dtype)

    def model(self, *, dtype: torch.dtype = torch.float32, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """With the weights of `state`; else seeded, with norms that neither start at the identity nor silence a channel."""
        torch.manual_seed(0)
        model, generator = self.build(), Seed(0).child("norms").torch()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    statistics = ((module.running_mean, -0.5), (module.running_var, 0.5))
                    for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), *statistics):
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
        if state is not None:
            model.load_state_dict(state)
        return model.to(dtype)

    def trained(
        self,
        plan: TrialPlan,
        *,
        dtype: torch.dtype = torch.float32,
        steps: int = 3,
        state: Mapping[str, Tensor] | None = None,
    ) -> Attached:
        """Attached, trained for a few steps with momentum and decay, and finalized."""
        model = self.model(dtype=dtype, state=state)
        attached = attach(model, plan, self.layers, self.images(1, dtype=dtype), seed=Seed(0))
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


@pytest.fixture(scope="session")
def case() -> Callable[[str], Case]:
    def named(name: str) -> Case:
        if name not in _cases:
            _cases[name] = Case(name)
        return _cases[name]

    return named


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def combined_plan(uniform_plan) -> Callable[[Sequence[LayerInfo], Sequence[str]], TrialPlan]:
    """The plan that puts the named simulators on every layer that can have them."""
    return lambda layers, names: uniform_plan(layers, **parts_of(names))


@pytest.fixture(scope="module", params=ORIGINS, ids=lambda given: f"{'+'.join(given[0])} on {given[1]} weights")
def combination(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], str]:
    """Names of one, two or three simulators that go together, and what they start from: random or trained weights."""
    return request.param


@pytest.fixture(scope="module", params=ON_WEIGHTS, ids="+".join)
def weight_combination(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The same, of simulators that act on weights while training."""
    return request.param


@pytest.fixture(scope="session")
def digits_state(case) -> dict[str, Tensor]:
    """Weights of `small_cnn` after a short training on the digits."""
    study = Study.model_validate(
        {
            "study": {"name": "test"},
            "task": {
                "data": {"name": "digits", "validation": {"from": "train", "count": 300}},
                "model": {"name": "digits-cnn"},
            },
            "training": {
                "regime": "standard",
                "batch_size": 32,
                "steps": 240,
                "device": "cpu",
                "optimizer": {"learning_rate": 0.2},
            },
            "space": {"sparsity": {"high": 0.9}},
            "objectives": [{"name": "accuracy"}],
        }
    )
    task = ClassificationTask(study, torch.device("cpu"))
    model = with_normalization(case("small_cnn").model(), (0.3,) * 3, (0.4,) * 3)
    attached = attach(model, TrialPlan(), inspect_layers(model, task.input_shape), task.example, seed=Seed(0))
    accuracy = fit(task, attached, Recipe(), study.training, seed=Seed(0)).history[-1]["train_accuracy"]
    assert accuracy > 0.8
    return model.network.state_dict()


@pytest.fixture(scope="session")
def public_resnet20() -> dict[str, Tensor] | None:
    """The public ResNet-20's weights for CIFAR-10; None where they are not there, for seeded random ones."""
    path = SHARED / "models" / "resnet20_cifar10.safetensors"
    return read_state_dict(path) if path.is_file() else None


@pytest.fixture(scope="session")
def resnet20_state(public_resnet20) -> dict[str, Tensor]:
    """The same; skips where they are not there."""
    if public_resnet20 is None:
        pytest.skip("../shared/data is not there")
    return public_resnet20
