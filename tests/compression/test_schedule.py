"""The cubic sparsity schedule."""

from __future__ import annotations

import pytest

from forgefront.compression.schedule import cubic_sparsity


def test_end_points_are_exact() -> None:
    assert cubic_sparsity(0.2, final=0.7, start=0.2, end=0.6) == 0.0
    assert cubic_sparsity(0.6, final=0.7, start=0.2, end=0.6) == 0.7
    assert cubic_sparsity(1.0, final=0.7, start=0.2, end=0.6) == 0.7
    assert cubic_sparsity(0.0, final=0.7, start=0.2, end=0.6) == 0.0


def test_halfway_is_seven_eighths() -> None:
    assert cubic_sparsity(0.4, final=0.8, start=0.2, end=0.6) == pytest.approx(0.8 * 7 / 8)


def test_it_never_falls() -> None:
    values = [cubic_sparsity(step / 100, final=0.9, start=0.1, end=0.8) for step in range(101)]
    assert values == sorted(values)


def test_an_empty_ramp_is_a_step() -> None:
    assert cubic_sparsity(0.0, final=0.5, start=0.0, end=0.0) == 0.5


@pytest.mark.parametrize(
    ("final", "start", "end", "argument"), [(1.0, 0, 1, "final"), (-0.1, 0, 1, "final"), (0.5, 0.6, 0.5, "end")]
)
def test_bad_arguments_are_named(final: float, start: float, end: float, argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`"):
        cubic_sparsity(0.5, final=final, start=start, end=end)
