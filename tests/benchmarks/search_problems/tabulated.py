"""Problems made of real trainings: the tables of `tabulate_digits.py`, interpolated by extremely randomised trees.

Quality at the rungs and at the end (accuracy as log(error + 0.01), mCE as its logarithm) is what trees predict from the
params; operations follow from the filters that are left; the packed size is a fixed-length estimate times what trees
predict of their ratio. Noise is drawn with the covariance that repeated rows have between them, so that what is seen
at a rung and at the end of one trial agree as they do in real trainings. A forecast of the size is the estimate alone.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from forgefront.search.knowledge import Forecast, Knowledge, VariablePlace

from .base import BenchmarkProblem, uniform_ladder

__all__ = ["SETTINGS", "Setting", "Table", "estimated_share", "mac_share", "tabulated"]

FOLDER = Path(__file__).parents[1] / "data"
DIRECTIONS = {"accuracy": "maximize", "mce": "minimize", "compression_ratio": "maximize", "macs": "minimize"}
MEASURED = ("accuracy", "mce")
RECIPE = {"augmentation_strength": 0.5}
EDGE_BITS = 8
FLOOR = 0.01
TOLERANCE = 1e-6
TREES = 100


@dataclass(frozen=True)
class Setting:
    """What a table's trainings could vary, and the box that counts.

    Args:
        sparsest: The largest sparsity.
        clusters: Choices, 0 for none.
        bits: Choices of a weight's bits.
        images: That each training was measured on.
        reference: (4,) the worst accuracy, mCE, compression ratio and share of operations that count.
        ideal: (4,) bounds of the best.
    """

    sparsest: float
    clusters: tuple[int, ...]
    bits: tuple[int, ...]
    images: int
    reference: tuple[float, ...]
    ideal: tuple[float, ...]


SETTINGS = {
    "digits": Setting(
        0.9, (0, 64, 32, 16, 8), (8, 6, 4, 3), 300, reference=(0.9, 300.0, 1.0, 1.1), ideal=(1.0, 60.0, 40.0, 0.1)
    ),
    "digits-finetuned": Setting(
        0.95, (0, 32, 16, 8, 4), (8, 4, 3, 2), 400, reference=(0.9, 300.0, 1.0, 1.1), ideal=(1.0, 30.0, 60.0, 0.05)
    ),
}
"""By table, each in the file of its name."""

LAYERS = {
    "stem.conv": (3, 16, 9, 256),
    "stage1.reduce.conv": (16, 24, 9, 64),
    "stage1.residual.conv1": (24, 24, 9, 64),
    "stage1.residual.conv2": (24, 24, 9, 64),
    "stage2.depthwise.conv": (1, 24, 9, 16),
    "stage2.pointwise.conv": (24, 48, 1, 16),
    "stage2.dense.conv": (48, 48, 9, 16),
    "linear": (48, 10, 1, 1),
}
"""Of the digits network: channels read, channels written, weights of one kernel, places that it is applied at."""

READS = {
    "stage1.reduce.conv": "stem.conv",
    "stage1.residual.conv2": "stage1.residual.conv1",
    "stage2.dense.conv": "stage2.pointwise.conv",
    "linear": "stage2.dense.conv",
}
"""Whose filters a layer need not read once they are gone; the others read what a residual sum keeps whole."""


def weights_left(params: Mapping[str, Any]) -> dict[str, int]:
    """Weights of each layer once the filters that `params` prunes are gone."""
    kept = {
        name: outputs - min(outputs - 1, int(params.get(f"sparsity/network.{name}", 0.0) * outputs + TOLERANCE))
        for name, (_, outputs, _, _) in LAYERS.items()
    }
    return {
        name: (kept[READS[name]] if name in READS else inputs) * kept[name] * kernel
        for name, (inputs, _, kernel, _) in LAYERS.items()
    }


def mac_share(params: Mapping[str, Any]) -> float:
    """Operations as a share of the dense network's, exactly."""
    left, dense = (
        sum(weights * LAYERS[name][3] for name, weights in weights_left(one).items()) for one in (params, {})
    )
    return left / dense


def estimated_share(params: Mapping[str, Any], setting: Setting) -> float:
    """Size at fixed code lengths, with codebooks and floats, as a share of the dense network's floats."""
    bits = 0.0
    left = weights_left(params)
    for name, weights in left.items():
        choice = params.get(f"weight_bits/network.{name}")
        length = EDGE_BITS if choice is None else setting.bits[choice]
        clusters = setting.clusters[params.get(f"clusters/network.{name}", 0)]
        outputs = LAYERS[name][1]
        bits += weights * (min(length, np.log2(clusters)) if clusters else length)
        bits += 32 * clusters + 32 * 4 * outputs
    dense = sum(32 * weights for weights in weights_left({}).values())
    return float(bits / (dense + sum(32 * 4 * outputs for _, outputs, _, _ in LAYERS.values())))


class Table:
    """A table as a problem.

    Args:
        name: Of the table.
    """

    def __init__(self, name: str) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self.name = name
        self.setting = setting = SETTINGS[name]
        with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        columns = list(rows[0])
        self.fractions = [float(column.split("@")[1]) for column in columns if column.startswith("accuracy@")]
        names = columns[columns.index("kind") + 1 : columns.index(f"accuracy@{self.fractions[0]:g}")]
        self.space = {name: _distribution(name, setting) for name in names}
        params = [{name: self._value(name, row[name]) for name in names} for row in rows]
        features = np.array([self._features(one) for one in params])
        suffixes = [*(f"@{fraction:g}" for fraction in self.fractions), ""]
        measured = [name + suffix for suffix in suffixes for name in MEASURED]
        qualities = _bent(np.array([[float(row[name]) for name in measured] for row in rows]))
        shares = np.array([float(row["packed_share"]) for row in rows])
        excess = np.log(shares / [estimated_share(one, setting) for one in params])
        options = {"n_estimators": TREES, "min_samples_leaf": 2, "random_state": 0, "n_jobs": 1}
        self.trees = ExtraTreesRegressor(**options).fit(features, np.column_stack([qualities, excess]))
        # the difference of two trainings has twice the covariance of one
        pairs = _repeats(rows, params)
        differences = np.array([qualities[row] - qualities[original] for row, original in pairs])
        self.covariance = differences.T @ differences / (2.0 * len(differences))
        self.size_noise = float(np.sqrt(np.mean([(excess[row] - excess[first]) ** 2 for row, first in pairs]) / 2.0))
        self.rows = list(zip(params, rows, strict=True))

    def true(self, params: Mapping[str, Any]) -> np.ndarray:
        """The (4,) values without noise."""
        qualities, excess = self._predicted(params)
        accuracy, mce = _straight(qualities)[-2:]
        return np.array(
            [accuracy, mce, 1.0 / (estimated_share(params, self.setting) * np.exp(excess)), mac_share(params)]
        )

    def noisy(self, params: Mapping[str, Any], values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """What one training measures."""
        noise = self._noise(generator)
        accuracy, mce = _straight(_bent(values[:2]) + noise[-2:])
        return np.array([accuracy, mce, values[2] * np.exp(self.size_noise * generator.normal()), values[3]])

    def rungs(self, params: Mapping[str, Any], generator: np.random.Generator) -> dict[float, np.ndarray]:
        """What the same training measures at its rungs, given a generator in the state that `noisy` begins with.

        The size is as it is estimated before.
        """
        seen = _straight(self._predicted(params)[0] + self._noise(generator))
        told = [1.0 / estimated_share(params, self.setting), mac_share(params)]
        # the last pair is of the end
        pairs = seen.reshape(-1, 2)[:-1]
        return {fraction: np.array([*pair, *told]) for fraction, pair in zip(self.fractions, pairs, strict=True)}

    def knowledge(self) -> Knowledge:
        """Places of all variables but the recipe's; operations exactly, the size as estimated."""
        dense = weights_left({})
        total = sum(dense.values())
        places = {}
        for name in self.space:
            kind, _, layer = name.partition("/network.")
            if layer:
                parts = layer.split(".")
                path = (parts[0], ".".join(parts[:2]), layer)
                places[name] = VariablePlace(kind, path, ordered=True, weight=dense[layer] / total)

        def told(params: Mapping[str, Any]) -> dict[str, Forecast]:
            return {
                "compression_ratio": Forecast(1.0 / estimated_share(params, self.setting)),
                "macs": Forecast(mac_share(params), exact=True),
            }

        control = {"compression_ratio": Forecast(1.0, exact=True), "macs": Forecast(1.0, exact=True)}
        return Knowledge(DIRECTIONS, places, told, control)

    def _predicted(self, params: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        told = self.trees.predict([self._features(params)])[0]
        return told[:-1], float(told[-1])

    def _noise(self, generator: np.random.Generator) -> np.ndarray:
        return generator.multivariate_normal(np.zeros(len(self.covariance)), self.covariance, method="eigh")

    def _features(self, params: Mapping[str, Any]) -> list[float]:
        return [float(params[name]) for name in self.space]

    def _value(self, name: str, text: str) -> Any:
        return int(text) if isinstance(self.space[name], IntDistribution) else float(text)


def _distribution(name: str, setting: Setting) -> BaseDistribution:
    kind = name.partition("/")[0]
    if kind == "sparsity":
        return FloatDistribution(0.0, setting.sparsest, step=0.05)
    if kind == "augmentation_strength":
        return FloatDistribution(0.0, 1.0)
    return IntDistribution(0, len(setting.clusters if kind == "clusters" else setting.bits) - 1)


def _bent(qualities: np.ndarray) -> np.ndarray:
    """(…, 2 k) accuracies and mCEs in turn on the scales on which noise is even."""
    bent = np.array(qualities, dtype=float)
    bent[..., 0::2] = np.log(1.0 - bent[..., 0::2] + FLOOR)
    bent[..., 1::2] = np.log(bent[..., 1::2])
    return bent


def _straight(bent: np.ndarray) -> np.ndarray:
    """The inverse of `_bent`; accuracies end at 1."""
    straight = np.exp(bent)
    straight[..., 0::2] = np.clip(1.0 + FLOOR - straight[..., 0::2], 0.0, 1.0)
    return straight


def _repeats(rows: list[dict[str, str]], params: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Each repeat with the first row of the same params."""
    first: dict[tuple[Any, ...], int] = {}
    for row, one in enumerate(params):
        first.setdefault(tuple(one.values()), row)
    return [(row, first[tuple(params[row].values())]) for row in range(len(rows)) if rows[row]["kind"] == "repeat"]


@functools.lru_cache
def tabulated(name: str) -> BenchmarkProblem:
    """The problem.

    Args:
        name: Of the table.
    """
    table = Table(name)
    setting = table.setting

    def errors(values: np.ndarray) -> np.ndarray:
        share = min(max(float(values[0]), 1.0 / setting.images), 1.0 - 1.0 / setting.images)
        # about what six corruptions of so many images leave open
        return np.array([np.sqrt(share * (1.0 - share) / setting.images), 0.03 * float(values[1]), 0.0, 0.0])

    return BenchmarkProblem(
        name=name,
        directions=DIRECTIONS,
        space=table.space,
        true=table.true,
        noisy=table.noisy,
        errors=errors,
        reference=np.array(setting.reference),
        ideal=np.array(setting.ideal),
        seeds=lambda count: uniform_ladder(table.space, count, RECIPE),
        knowledge=table.knowledge,
        rungs=table.rungs,
    )
