"""A synthetic compression problem: 56 mixed variables, four objectives in conflict, noise, a cliff, partial foreknowledge.

Everything is drawn from the instance's number: the network, how sensitive each layer is to pruning and to coarse weights
(heavy-tailed; the ends of the network and of stages more), how neighbours add to each other's damage, where accuracy
falls off, which augmentation is best and how that moves as the network shrinks. Instances 0-2 are for tuning samplers,
10-14 for comparing them.

- ``accuracy``: share of 2,000 images, in which training noise is more than the counted standard error tells;
- ``mce``: corruption error in percent of the control's, with sensitivities of its own;
- ``size``: packed bytes as a share of the dense network's, by the entropy of what each layer stores;
- ``latency``: as a share of the dense network's, computed in blocks of eight channels at a speed that differs by layer.

Forecasts are exact for operations and for the size at fixed code lengths; for the packed size and the latency they
lack what only a measurement shows (tails of the weights; block rounding, speed and overhead of each layer).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from forgefront.search.knowledge import Forecast, Knowledge, VariablePlace

from .base import BenchmarkProblem, uniform_ladder
from .network import BITS, CLUSTERS, Layer, coding_tables, draw_network, mac_share, size_share

__all__ = ["compression"]

DIRECTIONS = {"accuracy": "maximize", "mce": "minimize", "size": "minimize", "latency": "minimize"}
IMAGES = 2000
CHANCE = 0.01
RECIPE = {"augmentation_strength": 0.5, "class_weight_scale": 0.0}
KINDS = ("sparsity", "clusters", "weight_bits")
CLIFF = 1.6
STEEPNESS = 3.0
BLOCK = 8


@dataclass(frozen=True)
class Setting:
    """Params as arrays over the layers."""

    sparsity: np.ndarray
    clusters: np.ndarray
    bits: np.ndarray
    augmentation: float
    scale: float


@dataclass(frozen=True)
class Sensitivities:
    """How one measure of quality suffers, layer by layer; all (layers,) floats.

    Args:
        pruning: Damage of the strongest pruning.
        coarseness: Damage of weights whose error is as large as they are.
        together: Additional damage where both meet.
        neighbours: The same where a layer and the next both suffer; may be negative. The last is not used.
        spare: Share of filters that is hardly missed.
    """

    pruning: np.ndarray
    coarseness: np.ndarray
    together: np.ndarray
    neighbours: np.ndarray
    spare: np.ndarray

    def damage(self, sparsity: np.ndarray, error: np.ndarray) -> float:
        """Damage of the whole network, at least 0."""
        beyond = 0.06 * np.logaddexp(0.0, (sparsity - self.spare) / 0.06) - 0.06 * np.logaddexp(0.0, -self.spare / 0.06)
        pruned = (beyond / (0.9 - self.spare)) ** 1.3
        coarse = error**0.7
        single = self.pruning * pruned + self.coarseness * coarse * (1.0 + 1.5 * sparsity)
        single = single + self.together * np.sqrt(pruned * coarse)
        pairs = self.neighbours[:-1] * np.sqrt(single[:-1] * single[1:])
        return max(0.0, float(single.sum() + pairs.sum()))


class Instance:
    """Everything that is drawn for one instance, and the objectives' noise-free values."""

    def __init__(self, number: int) -> None:
        generator = np.random.default_rng(np.random.SeedSequence([20260901, number]))
        self.layers: tuple[Layer, ...] = draw_network(generator)
        count = len(self.layers)
        self.entropy, self.error = coding_tables(generator.uniform(0.85, 1.35, count))
        quality = _sensitivities(self.layers, generator)
        # corruptions are felt elsewhere, though not quite
        robustness = _moved(quality, generator)
        breaks = float(generator.uniform(0.65, 0.85))
        self.quality, self.robustness = (self._scaled(one, breaks) for one in (quality, robustness))
        self.best_accuracy = float(generator.uniform(0.86, 0.94))
        self.augmentation_for_accuracy = float(generator.uniform(0.35, 0.65))
        self.augmentation_for_corruptions = float(generator.uniform(0.65, 0.95))
        self.scale_for_accuracy = float(generator.uniform(0.15, 0.5))
        self.gap = float(generator.uniform(0.2, 0.35))
        macs = np.array([layer.macs for layer in self.layers], dtype=float)
        # small layers and late ones run slower an operation; each has its own fixed cost besides
        rate = macs / (macs + 0.25 * macs.max()) * np.exp(generator.normal(0.0, 0.3, count))
        self.work = macs / rate
        self.overhead = generator.uniform(0.01, 0.03, count) * self.work.sum()
        self.macs = macs
        self.control_error = self._corruption_error(0.0, 0.0, RECIPE["augmentation_strength"], 0.0)

    def true(self, params: Mapping[str, Any]) -> np.ndarray:
        """The (4,) values without noise."""
        setting = self.setting(params)
        error = self.error[np.arange(len(self.layers)), setting.bits, setting.clusters]
        damage = self.quality.damage(setting.sparsity, error)
        hidden = self.robustness.damage(setting.sparsity, error)
        accuracy = self._accuracy(damage, setting.augmentation, setting.scale)
        corruption = self._corruption_error(damage, hidden, setting.augmentation, setting.scale)
        entropy = self.entropy[np.arange(len(self.layers)), setting.bits, setting.clusters]
        zeros = setting.sparsity[-1]
        entropy[-1] += _binary_entropy(zeros) / max(1.0 - zeros, 0.1)
        size = size_share(self.layers, setting.sparsity, entropy, np.array(CLUSTERS)[setting.clusters])
        time = self.overhead + self.work * mac_share(self.layers, setting.sparsity, BLOCK)
        latency = float(time.sum() / (self.overhead + self.work).sum())
        return np.array([accuracy, 100.0 * corruption / self.control_error, size, latency])

    def noisy(self, params: Mapping[str, Any], values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """What one training and one measurement give; a lucky training is so for corrupted images too."""
        accuracy, mce, size, latency = values
        luck, other = generator.normal(size=2)
        trained = float(np.clip(accuracy + 0.004 * luck, CHANCE, 1.0))
        return np.array(
            [
                generator.binomial(IMAGES, trained) / IMAGES,
                mce - 0.8 * luck + 1.2 * other,
                size * np.exp(0.004 * generator.normal()),
                latency * np.exp(0.015 * generator.normal()),
            ]
        )

    def told(self, params: Mapping[str, Any]) -> dict[str, Forecast]:
        """What the plan alone tells."""
        setting = self.setting(params)
        counts = np.array(CLUSTERS)[setting.clusters]
        lengths = np.minimum(np.array(BITS)[setting.bits], np.log2(np.where(counts, counts, 256)))
        fixed = size_share(self.layers, setting.sparsity, lengths, counts)
        # entropy coding saves about a tenth; how much more at few bits depends on weights that nobody has seen
        packed = size_share(self.layers, setting.sparsity, 0.88 * lengths, counts)
        macs = float((self.macs * mac_share(self.layers, setting.sparsity)).sum() / self.macs.sum())
        return {
            "macs": Forecast(macs, exact=True),
            "fixed_length_size": Forecast(fixed, exact=True),
            "size": Forecast(packed),
            "latency": Forecast(0.15 + 0.85 * macs),
        }

    def setting(self, params: Mapping[str, Any]) -> Setting:
        """Params by layer."""
        names = [layer.name for layer in self.layers]
        sparsity, clusters, bits = (np.array([params[f"{kind}/{name}"] for name in names]) for kind in KINDS)
        return Setting(sparsity, clusters, bits, params["augmentation_strength"], params["class_weight_scale"])

    def space(self) -> dict[str, BaseDistribution]:
        """Three variables a layer and two of the recipe."""
        space: dict[str, BaseDistribution] = {}
        space |= {f"sparsity/{layer.name}": FloatDistribution(0.0, 0.9, step=0.05) for layer in self.layers}
        space |= {f"clusters/{layer.name}": IntDistribution(0, len(CLUSTERS) - 1) for layer in self.layers}
        space |= {f"weight_bits/{layer.name}": IntDistribution(0, len(BITS) - 1) for layer in self.layers}
        return space | {name: FloatDistribution(0.0, 1.0) for name in RECIPE}

    def knowledge(self) -> Knowledge:
        """Places of all variables but the recipe's, and what plans tell."""
        total = sum(layer.weights for layer in self.layers)
        places = {
            f"{kind}/{layer.name}": VariablePlace(
                kind, (layer.stage, layer.block, layer.name), ordered=True, weight=layer.weights / total
            )
            for kind in KINDS
            for layer in self.layers
        }
        control = {"macs": Forecast(1.0, exact=True), "latency": Forecast(1.0, exact=True), "size": Forecast(1.0)}
        return Knowledge(DIRECTIONS, places, self.told, control)

    def _accuracy(self, damage: float, augmentation: float, scale: float) -> float:
        # small networks have no room for augmented images and gain from weights on rare classes
        small = min(damage, 2.0)
        best = self.augmentation_for_accuracy - 0.2 * small
        aside = 0.07 * (1.0 + small) * (augmentation - best) ** 2
        aside += 0.05 * (scale - self.scale_for_accuracy - 0.15 * small) ** 2
        left = np.exp(-0.04 * damage) / (1.0 + (damage / CLIFF) ** STEEPNESS)
        return float(CHANCE + max(0.0, self.best_accuracy - aside - CHANCE) * left)

    def _corruption_error(self, damage: float, hidden: float, augmentation: float, scale: float) -> float:
        clean = self._accuracy(damage, augmentation, scale)
        best = self.augmentation_for_corruptions - 0.15 * min(hidden, 2.0)
        helped = 1.0 - (augmentation - best) ** 2 / 0.8
        lost = self.gap * (1.0 + 0.5 * hidden) * (1.0 - 0.45 * helped) + 0.04 * (scale - 0.3) ** 2
        return 1.0 - clean * (1.0 - min(lost, 0.95))

    def _scaled(self, one: Sensitivities, breaks: float) -> Sensitivities:
        """So that a uniform compression at level `breaks`, as the ladder has it, does the damage 1."""
        count = len(self.layers)
        column = round(breaks * (len(CLUSTERS) - 1))
        unit = one.damage(np.full(count, 0.9 * 0.6 * breaks), self.error[:, 0, column])
        return Sensitivities(one.pruning / unit, one.coarseness / unit, one.together / unit, one.neighbours, one.spare)


def _sensitivities(layers: tuple[Layer, ...], generator: np.random.Generator) -> Sensitivities:
    count = len(layers)
    firsts = [index == 0 or layers[index - 1].stage != layer.stage for index, layer in enumerate(layers)]
    ends = np.where(np.isin(np.arange(count), (0, count - 1)), 2.5, np.where(firsts, 1.5, 1.0))
    # wide layers can spare more, for pruning and coarseness alike
    width = np.array([layer.outputs for layer in layers], dtype=float) / layers[0].outputs
    common = generator.normal(0.0, 0.7, count)
    pruning, coarseness = (ends * width**-0.4 * np.exp(common + generator.normal(0.0, 0.7, count)) for _ in range(2))
    return Sensitivities(
        pruning=pruning,
        coarseness=2.0 * coarseness,
        together=np.exp(generator.normal(-1.0, 0.7, count)),
        neighbours=generator.uniform(-0.2, 0.5, count),
        spare=generator.uniform(0.0, 0.5, count),
    )


def _moved(one: Sensitivities, generator: np.random.Generator) -> Sensitivities:
    count = len(one.pruning)
    pruning, coarseness = (
        values * np.exp(generator.normal(0.0, 0.6, count)) for values in (one.pruning, one.coarseness)
    )
    spare = np.clip(one.spare - generator.uniform(0.0, 0.2, count), 0.0, None)
    return Sensitivities(pruning, coarseness, one.together, one.neighbours, spare)


def _binary_entropy(share: float) -> float:
    if not 0.0 < share < 1.0:
        return 0.0
    return float(-share * np.log2(share) - (1.0 - share) * np.log2(1.0 - share))


@functools.lru_cache(maxsize=8)
def compression(instance: int) -> BenchmarkProblem:
    """One instance.

    Args:
        instance: Its number, at least 0.
    """
    drawn = Instance(instance)
    space = drawn.space()
    mildest = uniform_ladder(space, 1, RECIPE)[0]
    strongest = {name: bounds.high for name, bounds in space.items()} | RECIPE  # type: ignore[attr-defined]
    most = {"augmentation_strength": drawn.augmentation_for_corruptions, "class_weight_scale": 0.3}
    # no mildest network is small and no strongest one is right: the ends of the axes
    best = [drawn.best_accuracy, drawn.true(mildest | most)[1], *drawn.true(strongest)[2:]]
    return BenchmarkProblem(
        name=f"compression-{instance}",
        directions=DIRECTIONS,
        space=space,
        true=drawn.true,
        noisy=drawn.noisy,
        errors=_errors,
        reference=np.array([0.5, 200.0, 1.1 * drawn.true(mildest)[2], 1.1]),
        ideal=np.array(best),
        seeds=lambda count: uniform_ladder(space, count, RECIPE),
        knowledge=drawn.knowledge,
    )


def _errors(values: np.ndarray) -> np.ndarray:
    accuracy, _, _, latency = values
    share = min(max(float(accuracy), 1.0 / IMAGES), 1.0 - 1.0 / IMAGES)
    return np.array([np.sqrt(share * (1.0 - share) / IMAGES), 1.0, 0.0, 0.015 * float(latency)])
