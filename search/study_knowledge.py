"""What a study's file and model tell a sampler before anything is trained, as `Knowledge`."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..objectives.base import Objective
from ..objectives.forecast_facts import PlanFacts
from ..spaces.forecast import Forecast
from ..spaces.groups import NETWORK, group_layers
from ..spaces.layers import LayerInfo
from ..spaces.plan import TrialPlan
from ..spaces.space import SearchSpace
from ..spaces.variables import Continuous
from ..studies.conditions import parse_condition
from .knowledge import Knowledge, VariablePlace

if TYPE_CHECKING:
    from ..compression.targets.cost_table import CostTable
    from ..studies.schema import Study

__all__ = ["StudyForecast", "study_knowledge", "variable_places"]

RECIPE = ("augmentation", "augmentation_strength", "class_weighting", "class_weight_scale")
KEPT = 4096


class StudyForecast:
    """Params to forecasts by metric and detail; the last 4,096 are kept, for samplers ask again.

    Args:
        space: Tells what params mean.
        objectives: Whose numbers are forecast, metrics that are only recorded included.
        facts: What is known of the model.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], facts: PlanFacts) -> None:
        self._space, self._objectives, self._facts = space, tuple(objectives), facts
        self._names = tuple(space.distributions)
        self._known: OrderedDict[tuple[Any, ...], Mapping[str, Forecast]] = OrderedDict()

    def __call__(self, params: Mapping[str, Any]) -> Mapping[str, Forecast]:
        """What is known of `params` by metric, and by detail as conditions name it.

        Raises:
            ValueError: They are none of the space.
        """
        key = (len(params), *(params.get(name) for name in self._names))
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found = self.of_plan(self._space.decode(params))
        self._known[key] = found
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found

    def of_plan(self, plan: TrialPlan) -> Mapping[str, Forecast]:
        """The same of a plan."""
        told = {each.name: each.forecast(plan, self._facts) for each in self._objectives}
        columns: dict[str, Forecast] = {}
        for name, forecast in told.items():
            if forecast is not None:
                columns |= {key: one for key, one in forecast.columns(name).items() if math.isfinite(one.value)}
        # a metric's own value before another's detail of that name
        return columns | {name: one for name, one in told.items() if one is not None and math.isfinite(one.value)}


def study_knowledge(
    study: Study,
    space: SearchSpace,
    layers: Sequence[LayerInfo],
    objectives: Sequence[Objective],
    *,
    build_model: Callable[[], nn.Module],
    example: Tensor,
    cost_table: Callable[[], CostTable | None] = lambda: None,
) -> Knowledge:
    """What is known of `study`.

    Args:
        study: The study.
        space: Its search space.
        layers: The model's layers in forward order.
        objectives: Its objectives, then metrics that are only recorded.
        build_model: Makes the dense model.
        example: (1, C, H, W), one input.
        cost_table: The run's cost table, None where it has none; not called before the first forecast of params.
    """
    sparsity = study.space.sparsity
    facts = PlanFacts(
        build_model,
        layers,
        example,
        round_to=sparsity.round_to if sparsity is not None else 1,
        targets=[target.name for target in study.target],
        cost_table=cost_table,
    )
    forecast = StudyForecast(space, objectives, facts)
    pairs = zip(study.objectives, objectives, strict=False)
    return Knowledge(
        directions={objective.name: section.direction or objective.direction for section, objective in pairs},
        places=variable_places(space),
        forecast=forecast,
        control=forecast.of_plan(space.control()),
        conditions=[parse_condition(text) for text in study.constraints],
    )


def variable_places(space: SearchSpace) -> dict[str, VariablePlace]:
    """Where each variable acts, by name; those of the recipe are left out."""
    driven, groups = space.driven(), group_layers(space.layers, space.section.granularity)
    total = sum(layer.parameters for layer in space.layers)
    found = {}
    for name, variable in space.variables.items():
        if not variable.varies or name in RECIPE:
            continue
        kind, _, group = name.partition("/")
        found[name] = VariablePlace(
            kind=kind,
            path=_path(groups[group][0], space.section.granularity) if group in groups and group != NETWORK else (),
            # a learned mask's target falls as compression grows, its strength is none
            ordered=variable.kind != "categorical" and not isinstance(variable, Continuous),
            weight=sum(layer.parameters for layer in driven.get(name, space.layers)) / max(total, 1),
        )
    return found


def _path(layer: LayerInfo, granularity: str) -> tuple[str, ...]:
    """The names that lead to a group of layers, from the coarsest."""
    depth = ("network", "stage", "block", "layer").index(granularity)
    return (layer.stage, layer.block, layer.name)[:depth]
