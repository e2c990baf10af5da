"""A point of the search space as a Gaussian process sees it: trends of the network, its parts and each variable."""

from __future__ import annotations

import math

import numpy as np

from ..surrogate.gaussian_process import Inputs, Prior
from .groups import Groups
from .unit_space import UnitSpace

__all__ = ["Features"]

# of the uniform distribution on [0, 1]: x and (x - 1/2)² - 1/12
SLOPE_SCALE = math.sqrt(12.0)
BEND_SCALE = math.sqrt(180.0)


class Features:
    """Features and the priors that go with them.

    The linear part holds a slope and a bend for the mean of every group of variables, from the network to single
    variables, with one variance for each kind of variable and each size of group: what holds everywhere is learned
    from few points, what is special to a layer from more. A Matérn term of the network's means and the recipe catches
    cliffs; one of all variables catches what they do together.

    Args:
        unit: The space.
        groups: What belongs together in it.
    """

    def __init__(self, unit: UnitSpace, groups: Groups) -> None:
        self._unit = unit
        columns: list[tuple[np.ndarray, float, bool]] = []
        labels: list[str] = []
        means: list[np.ndarray] = []
        for kind, members in groups.kinds.items():
            shares = np.zeros(len(unit))
            shares[members] = groups.weights[members]
            if len(members) > 1 and shares.sum() > 0 and np.ptp(shares[members]) > 0:
                means.append(shares / shares.sum())
            for depth, parts in enumerate(groups.nested[kind]):
                for part in parts:
                    row = np.zeros(len(unit))
                    row[part] = 1.0 / len(part)
                    if depth == 0:
                        means.append(row)
                    columns += [(row, len(parts), bent) for bent in (False, True)]
                    labels += [f"{kind}:{depth}:{bent}" for bent in (False, True)]
            if len(members) > 1:
                for index in members:
                    row = np.eye(len(unit))[index]
                    columns += [(row, len(members), bent) for bent in (False, True)]
                    labels += [f"{kind}:each:{bent}" for bent in (False, True)]
        for row in [mean for mean in means if (np.ptp(mean[mean > 0]) > 0)]:
            columns.append((row, 1, False))
            labels.append("weighted")
        self._one_hot = [int(index) for index in range(len(unit)) if unit.categorical[index]]
        self._numbers = [int(index) for index in range(len(unit)) if not unit.categorical[index]]
        free = [int(index) for index in groups.free if not unit.categorical[index]]
        for index in free:
            columns += [(np.eye(len(unit))[index], len(free), bent) for bent in (False, True)]
            labels += [f"free:{bent}" for bent in (False, True)]
        self._rows = np.array([row for row, _, _ in columns]).reshape(-1, len(unit))
        self._sizes = np.sqrt(np.array([float(size) for _, size, _ in columns]))
        self._bent = np.array([bent for _, _, bent in columns], dtype=bool)
        self._means = np.array(means + [np.eye(len(unit))[index] for index in free]) if means else None
        names = [*dict.fromkeys(labels), *(["choice"] if self._one_hot else []), "constant"]
        self._groups = [names.index(label) for label in labels]
        self._groups += [names.index("choice") for index in self._one_hot for _ in range(int(unit.levels[index]))]
        self._groups.append(names.index("constant"))
        self.prior = self._prior(len(names))

    def __call__(self, points: np.ndarray) -> Inputs:
        """Of points (n, D)."""
        trend = points @ self._rows.T - 0.5
        trend = np.where(self._bent, BEND_SCALE * (trend**2 - 1.0 / 12.0), SLOPE_SCALE * trend) / self._sizes
        choices = [self._unit.one_hot(points, index) for index in self._one_hot]
        linear = np.concatenate([trend, *choices, np.ones((len(points), 1))], axis=1)
        smooth = []
        if self._means is not None:
            smooth.append(np.concatenate([points @ self._means.T, *choices], axis=1))
        smooth.append(np.concatenate([points[:, self._numbers], *choices], axis=1))
        return Inputs(linear, tuple(smooth))

    def _prior(self, groups: int) -> Prior:
        mean, deviation = [math.log(0.1)] * groups, [1.5] * groups
        mean[-1], deviation[-1] = math.log(1.0), 0.5
        widths = []
        chosen = int(sum(self._unit.levels[index] for index in self._one_hot))
        if self._means is not None:
            widths.append(len(self._means) + chosen)
        widths.append(len(self._numbers) + chosen)
        for width in widths:
            mean += [math.log(0.3), *[math.log(0.5) + 0.5 * math.log(width)] * width]
            deviation += [1.0, *[1.0] * width]
        mean.append(math.log(0.01))
        deviation.append(1.5)
        return Prior(np.array(self._groups), np.array(mean), np.array(deviation))
