"""What corruption errors are measured against: the study's control, AlexNet's published ones, or stated ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..studies.errors import InputError
from ..studies.faults import nearest

__all__ = ["ALEXNET", "CLEAN", "Baseline", "load_baseline", "stated_baseline"]

CLEAN = "clean"
"""The key of the error on plain images among stated errors."""

SEVERITIES = [1, 2, 3, 4, 5]


@dataclass(frozen=True)
class Baseline:
    """A network's errors.

    Args:
        name: What it is called in results.
        errors: Mean error over the five severities of each corruption, in [0, 1].
        clean: Error on plain images; None where it is not known, and no relative mCE can be had.
    """

    name: str
    errors: Mapping[str, float] = field(default_factory=dict)
    clean: float | None = None

    def check(self, names: Iterable[str], *, severities: Iterable[int] | None = None, relative: bool = False) -> None:
        """Find the errors that are needed.

        Args:
            names: Corruptions.
            severities: Which ones are measured; None where the errors are of just those.
            relative: Whether relative mCE is asked for.

        Raises:
            InputError: One is not there, or they are means over other severities.
        """
        if severities is not None and sorted(set(severities)) != SEVERITIES:
            rule = f"all of 1–5 with the baseline {self.name}, whose errors are means over them"
            found = sorted(set(severities))
            raise InputError(f'`severities` must be {rule}; found {found}. Did you mean baseline = "control"?')
        for name in names:
            if name not in self.errors:
                match = nearest(name, self.errors)
                hint = f" Did you mean {match}?" if match else ""
                raise InputError(f"`baseline` must have the error of {name}; found none in {self.name}.{hint}")
        if relative and self.clean is None:
            raise InputError(f'`baseline` must have the error of plain images, "{CLEAN}"; found none in {self.name}.')


ALEXNET = Baseline(
    name="alexnet",
    errors={
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
    clean=0.435,
)
"""AlexNet on ImageNet-C: the raw errors in hendrycks/robustness, by which AugMix's code normalises too, and its clean
error of 43.5 % (Hendrycks & Dietterich 2019, table 1)."""


def load_baseline(given: str | Mapping[str, float]) -> Baseline | None:
    """A baseline by name, or from errors ``{corruption: mean error, …, "clean": error}`` in [0, 1].

    Args:
        given: ``"control"``, ``"alexnet"``, the errors, or the path of a JSON file of them that ends in .json.

    Returns:
        None for ``"control"``, whose errors each study measures.

    Raises:
        InputError: There is no such file, or these are no errors.
    """
    if given == "control":
        return None
    if given == ALEXNET.name:
        return ALEXNET
    name, held = ("stated", given) if isinstance(given, Mapping) else (Path(given).stem, _read(given))
    errors = {key: float(value) for key, value in _checked(held, given).items()}
    clean = errors.pop(CLEAN, None)
    return Baseline(name, errors, clean)


def stated_baseline(given: str | Mapping[str, float]) -> str | dict[str, float]:
    """The option as a frozen study file states it: with a file's errors in its place, so that it is read but once.

    Raises:
        InputError: As of `load_baseline`.
    """
    baseline = load_baseline(given)
    if baseline is None or baseline is ALEXNET:
        return str(given)
    return {**baseline.errors, **({} if baseline.clean is None else {CLEAN: baseline.clean})}


def _read(text: str) -> Any:
    path = Path(text)
    if path.suffix != ".json":
        match = nearest(text, ("control", ALEXNET.name))
        hint = f" Did you mean {match}?" if match else ""
        rule = '"control", "alexnet", a table of errors or a file.json'
        raise InputError(f'`baseline` must be {rule}; found "{text}".{hint}')
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"`baseline` must be a file that exists; found no {path}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"`baseline` must be a JSON file; found {path}, which cannot be read ({error}).") from None


def _checked(held: Any, given: str | Mapping[str, float]) -> Mapping[str, float]:
    place = f" in {given}" if isinstance(given, str) else ""
    if not isinstance(held, Mapping) or not held:
        found = "nothing" if isinstance(held, Mapping) else type(held).__name__
        raise InputError(f"`baseline` must be a table {{corruption: error}}; found {found}{place}.")
    for name, value in held.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            share = value / 100.0 if isinstance(value, int | float) and 1.0 < value <= 100.0 else None
            hint = "" if share is None else f" Did you mean {share:g}?"
            raise InputError(f"`baseline` must hold errors in [0, 1]; found {name}: {value!r}{place}.{hint}")
    return held
