"""`Forecast`: a metric as a plan tells it, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Forecast"]


@dataclass(frozen=True)
class Forecast:
    """A metric as its plan tells it, in the metric's own unit and direction.

    Args:
        value: The value.
        exact: It will be measured just so; otherwise it is an estimate.
        details: Further numbers of the metric, named as the details of its score.
    """

    value: float
    exact: bool = False
    details: Mapping[str, Forecast] = field(default_factory=dict)

    def columns(self, name: str) -> dict[str, Forecast]:
        """The value and its details under the names by which a condition knows them.

        Args:
            name: The metric's.
        """
        # a detail that names its metric already keeps its name, and never hides the metric's own value
        found = {key if key.startswith(f"{name}_") else f"{name}_{key}": part for key, part in self.details.items()}
        return {**found, name: self}
