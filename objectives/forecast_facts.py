"""`PlanFacts`: what forecasts know of a model and its study, found once, so that a plan is forecast in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from ..spaces.layers import LayerInfo
from ..spaces.plan import TrialPlan
from .forecast_channels import ChannelCounts, ChannelModel
from .macs_count import count_macs

if TYPE_CHECKING:
    from ..compression.targets.cost_table import CostTable

__all__ = ["PlanFacts"]

_T = TypeVar("_T")


class PlanFacts:
    """What an `Objective` may use to forecast a plan; no weights, for those come with training.

    Args:
        build_model: Makes the dense model; called when first needed.
        layers: Its layers in forward order.
        example: (1, C, H, W), one input.
        round_to: Filters are kept in multiples of this.
        targets: Names of the study's targets, the first one first.
        cost_table: The run's measured cost table, None where it has none; called when first needed.
    """

    def __init__(
        self,
        build_model: Callable[[], nn.Module],
        layers: Sequence[LayerInfo],
        example: Tensor,
        *,
        round_to: int = 1,
        targets: Sequence[str] = (),
        cost_table: Callable[[], CostTable | None] = lambda: None,
    ) -> None:
        self.layers, self.targets = tuple(layers), tuple(targets)
        self._build_model, self._example = build_model, example.detach().cpu()
        self._round_to, self._cost_table = round_to, cost_table
        self._of_dense: dict[Callable[..., Any], Any] = {}
        self._last: tuple[TrialPlan, ChannelCounts] | None = None

    @cached_property
    def channels(self) -> ChannelModel:
        """The model's channel groups."""
        return ChannelModel(self._model, self.layers, self._example, self._round_to)

    @cached_property
    def other_macs(self) -> int:
        """Multiply-accumulates of what no plan compresses, such as transposed convolutions."""
        return count_macs(self._model, self._example) - sum(layer.macs for layer in self.layers)

    @cached_property
    def norm_channels(self) -> int:
        """Channels of all batch norms together."""
        return sum(m.num_features for m in self._model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))

    @cached_property
    def other_values(self) -> int:
        """Numbers that are stored beside the layers' weights: biases, batch norms and buffers."""
        weights = {f"{layer.name}.weight" for layer in self.layers}
        return sum(value.numel() for name, value in self._model.state_dict().items() if name not in weights)

    @cached_property
    def cost_table(self) -> CostTable | None:
        """The run's cost table."""
        return self._cost_table()

    @cached_property
    def dense(self) -> ChannelCounts:
        """Channels of the dense control."""
        return self.channels.counts(TrialPlan())

    def of_dense(self, figure: Callable[[TrialPlan, PlanFacts], _T]) -> _T:
        """What `figure` says of the dense control, asked once."""
        if figure not in self._of_dense:
            self._of_dense[figure] = figure(TrialPlan(), self)
        found: _T = self._of_dense[figure]
        return found

    def counts(self, plan: TrialPlan) -> ChannelCounts:
        """What `plan` leaves of every layer; the last plan's counts are kept, for objectives share them."""
        if self._last is None or self._last[0] is not plan:
            self._last = (plan, self.channels.counts(plan))
        return self._last[1]

    @cached_property
    def _model(self) -> nn.Module:
        return self._build_model().cpu().eval()
