"""What a plan tells: the names under which conditions know a forecast's numbers; the layers behind a variable."""

from __future__ import annotations

import pytest

from forgefront.search.score_columns import score_columns
from forgefront.spaces.forecast import Forecast
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.space import SearchSpace
from forgefront.studies.schema_space import SpaceSection
from forgefront.studies.schema_training import TrainingSection
from forgefront.trainers.models.digits_cnn import digits_cnn


@pytest.mark.parametrize("details", [{}, {"fraction_of_control": 0.5}, {"macs_left": 3.0, "macs": 4.0, "macsy": 5.0}])
def test_details_are_named_as_a_scores_are(details: dict[str, float]) -> None:
    forecast = Forecast(2.0, True, {name: Forecast(value) for name, value in details.items()})
    score = {"value": 2.0, "standard_error": None, "details": details}
    expected = {key for key in score_columns("macs", score) if key != "macs_se"}
    found = forecast.columns("macs")
    assert found.keys() == expected
    assert found["macs"] is forecast


@pytest.mark.parametrize("granularity", ["layer", "block", "stage", "network"])
def test_driven_layers_are_those_whose_plan_a_variable_changes(granularity: str) -> None:
    layers = inspect_layers(digits_cnn(10), (3, 32, 32))
    section = SpaceSection.model_validate(
        {
            "granularity": granularity,
            "sparsity": {"low": 0.0, "high": 0.9, "structure": ["filter", "weight"], "residual": "share"},
            "clusters": ["none", 16],
            "weight_bits": [8, 4],
        }
    )
    space = SearchSpace(section, TrainingSection(regime="standard", steps=10), layers)
    weak = {**space.encode(0.0), "structure": "weight"}
    for name, driven in space.driven().items():
        if name not in space.distributions:
            continue
        before = [space.decode(weak | {"structure": structure}) for structure in ("weight", "filter")]
        strong = {name: space.variables[name].at(1.0)}
        after = [space.decode(weak | strong | {"structure": structure}) for structure in ("weight", "filter")]
        changed = {
            layer.name
            for layer in layers
            for a, b in zip(before, after, strict=True)
            if a.layer(layer.name) != b.layer(layer.name)
        }
        assert changed == {layer.name for layer in driven} - _edges(name, layers)


def _edges(name: str, layers: tuple) -> set[str]:
    """Layers that a variable of bits leaves at eight."""
    return {layer.name for layer in layers if layer.first or layer.last} if name.startswith("weight_bits") else set()
