"""What a candidate is worth before it is trained: models, forecasts and constraints put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..surrogate.expected_improvement import undominated_points
from ..surrogate.models import Model, below
from .evidence import Forecasts
from .features import Features
from .unit_space import UnitSpace

__all__ = ["Belief", "Landscape"]

OPTIMISM = 2.0
LIKELY, UNLIKELY = 0.7, 1e-3
# most of what a model of dozens of variables doubts cannot be learned in a study's few hundred trials, so that whole
# deviations would explore for longer than the study lasts
DOUBT = 0.35


@dataclass(frozen=True)
class Belief:
    """What is believed of k candidates.

    Args:
        points: (k, D).
        mean: (k, m) means, each on the scale of its objective's model; losses where they are exact.
        deviation: (k, m) standard deviations, `DOUBT` times the models', 0 where exact.
        exact: (k, m) bools, where the plan tells the loss.
        chance: (k,) probabilities of meeting every constraint; 0 where a plan tells that one is broken.
    """

    points: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    exact: np.ndarray
    chance: np.ndarray


class Landscape:
    """The value of candidates.

    Args:
        unit: The space.
        features: What the models see of it.
        models: One for each objective, None for one that every plan so far told exactly.
        late: Gives the model of such an objective, by its index, when a candidate's plan does not.
        estimated: (m,) bools, the objectives whose models start from an estimate.
        constraints: Models of what must be at most 0.
        forecasts: What plans tell.
        tells: Whether that includes any objective.

    Attributes:
        pending: (k, m) losses that what is being trained is believed to reach.
    """

    def __init__(
        self,
        unit: UnitSpace,
        features: Features,
        models: Sequence[Model | None],
        late: Callable[[int], Model],
        estimated: np.ndarray,
        constraints: Sequence[Model],
        forecasts: Forecasts,
        *,
        tells: bool,
    ) -> None:
        self._unit = unit
        self._features = features
        self._models = list(models)
        self._late = late
        self._estimated = estimated
        self._constraints = tuple(constraints)
        self._forecasts = forecasts
        self.pending = np.zeros((0, len(models)))
        self._bounds = np.zeros((0, len(models)))
        self._volume = 0.0
        self._tells = tells

    def believe(self, points: np.ndarray, told: tuple[np.ndarray, np.ndarray] | None = None) -> Belief:
        """What is believed of `points` (k, D).

        Args:
            points: Candidates, or what was tried.
            told: (k, m) their forecast losses and where these are exact, if at hand; then no plan is looked at.
        """
        losses, exact, chance = (*told, np.ones(len(points))) if told is not None else self._read(points)
        inputs = self._features(points)
        mean, deviation = losses.copy(), np.zeros_like(losses)
        for index in np.flatnonzero(~exact.all(axis=0)).tolist():
            model, estimates = self._model(index), None
            if self._estimated[index]:
                # a plan of which nothing is told is taken for a middling one
                estimates = np.where(np.isfinite(losses[:, index]), losses[:, index], model.losses(np.zeros(1)))
            centre, width = model.predict(inputs, estimates)
            mean[:, index] = np.where(exact[:, index], losses[:, index], centre)
            deviation[:, index] = np.where(exact[:, index], 0.0, width)
        deviation *= DOUBT
        for model in self._constraints:
            centre, width = model.predict(inputs, None)
            chance = chance * below(model.shape.warp(np.zeros(1)), centre, width)[:, 0]
        return Belief(points, mean, deviation, exact, chance)

    def expect(self, points: np.ndarray) -> None:
        """Take `points` (k, D), which are being trained, to end as they are believed to."""
        belief = self.believe(points)
        inputs = self._features(points)
        self._models = [None if model is None else model.expecting(inputs) for model in self._models]
        hoped = self.losses(belief)[belief.chance > 0.5]
        self.pending = hoped[np.isfinite(hoped).all(axis=1)]

    def losses(self, belief: Belief, *, optimism: float = 0.0) -> np.ndarray:
        """(k, m) losses at the mean less so many standard deviations."""
        hoped = belief.mean - optimism * belief.deviation
        for index, model in enumerate(self._models):
            if model is not None:
                exact = belief.exact[:, index]
                hoped[:, index] = np.where(exact, hoped[:, index], model.losses(np.where(exact, 0.0, hoped[:, index])))
        return hoped

    def aim(self, generator: np.random.Generator, front: np.ndarray, reference: np.ndarray, belief: Belief) -> None:
        """Lay out the points by which `improvement` is measured.

        Args:
            generator: Of the points.
            front: (f, m) losses reached.
            reference: (m,) losses beyond which nothing counts.
            belief: Of candidates whose hopes bound what can be improved.
        """
        hopes = self.losses(belief, optimism=OPTIMISM)[belief.chance > 0.0]
        hopes = hopes[np.isfinite(hopes).all(axis=1) & (hopes < reference).all(axis=1)]
        if not len(hopes):
            return
        self._bounds, self._volume = undominated_points(generator, front, hopes.min(axis=0), reference, hopes)

    def improvement(self, belief: Belief) -> np.ndarray:
        """(k,) expected hypervolume improvements, times the chance of meeting the constraints."""
        count = len(belief.points)
        if not len(self._bounds):
            return np.zeros(count)
        product = np.ones((count, len(self._bounds)), dtype=np.float32)
        for index, model in enumerate(self._models):
            bounds, exact = self._bounds[:, index], belief.exact[:, index]
            if model is None or exact.all():
                product *= belief.mean[:, index][:, None] <= bounds[None, :]
                continue
            mean = np.where(exact, 0.0, belief.mean[:, index])
            deviation = np.where(exact, 1.0, belief.deviation[:, index])
            reached = below(model.shape.warp(bounds), mean, deviation)
            reached[exact] = belief.mean[exact, index][:, None] <= bounds[None, :]
            product *= reached
        # where improvement and breach go together, as at every bound, their product alone would go for the breach
        likely = np.where(belief.chance >= LIKELY, belief.chance, UNLIKELY * belief.chance)
        return np.nan_to_num(product.sum(axis=1, dtype=float) * self._volume * likely)

    def _model(self, index: int) -> Model:
        model = self._models[index]
        if model is None:
            model = self._models[index] = self._late(index)
        return model

    def _read(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What plans tell: losses (k, m), NaN where nothing, where these are exact, and (k,) 0 without hope, else 1."""
        told = np.full((len(points), len(self._models)), np.nan)
        exact = np.zeros(told.shape, dtype=bool)
        chance = np.ones(len(points))
        if not self._tells and not self._forecasts.conditional:
            return told, exact, chance
        for index, point in enumerate(points):
            params = self._unit.decode(point)
            if self._forecasts.conditional and self._forecasts.hopeless(params):
                chance[index] = 0.0
            elif self._tells:
                told[index], exact[index] = self._forecasts.of(params)
        # of no use, but a belief needs a number
        told[chance == 0.0], exact[chance == 0.0] = 1.0, True
        return told, exact, chance
