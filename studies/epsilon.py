"""`Epsilon`: an L∞ radius on images in [0, 1], written as a number or as a fraction such as ``"8/255"``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from .faults import broken

__all__ = ["Epsilon", "Fraction", "parse_fraction"]

_FRACTION = re.compile(r"\s*(\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*")
_RULE = 'a number in (0, 1] or a fraction such as "8/255"'


def parse_fraction(value: Any) -> Any:
    """``"8/255"`` as 8 / 255; anything but text unchanged, for pydantic to judge.

    Raises:
        PydanticCustomError: The text is not a fraction.
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise broken(_RULE)
        return float(value)
    match = _FRACTION.fullmatch(value)
    if match and float(match[2]) > 0.0:
        return float(match[1]) / float(match[2])
    try:
        number = float(value)
    except ValueError:
        raise broken(_RULE, _repaired(value)) from None
    raise broken(_RULE, number if 0.0 < number <= 1.0 else f"{number:g}/255" if 1.0 < number <= 255.0 else None)


def _repaired(text: str) -> str | None:
    numbers = re.findall(r"\d+", text)
    return f"{numbers[0]}/{numbers[1]}" if len(numbers) == 2 and 0 < int(numbers[0]) <= int(numbers[1]) else None


def _in_unit_interval(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise broken(_RULE, f"{value:g}/255" if 1.0 < value <= 255.0 else None)
    return value


Fraction = Annotated[float, BeforeValidator(parse_fraction)]
"""A float that a study file may also write as a fraction in quotes."""

Epsilon = Annotated[Fraction, AfterValidator(_in_unit_interval)]
"""A `Fraction` in (0, 1]."""
