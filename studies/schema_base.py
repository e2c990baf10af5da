"""What every section of a study file shares: strict and frozen tables, tables with a part's options, ordered lists."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .faults import broken

__all__ = ["Identifier", "NamedPart", "PartName", "PartSection", "PositiveInt", "Section", "distinct", "one_or_many"]


class Section(BaseModel):
    """A table of a study file: unknown keys and inexact types are errors; frozen once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=True)


def _filled(name: str) -> str:
    if not name.strip():
        raise broken("a name")
    return name


PartName = Annotated[str, AfterValidator(_filled)]
"""Name of a part in `REGISTRY`, or ``module:attribute``; looked up after the schema has passed."""

PositiveInt = Annotated[int, Field(ge=1)]


class PartSection(Section):
    """A table that names a part; keys that are no fields here are the part's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False, validate_by_name=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options that the file gives to the part."""
        return dict(self.__pydantic_extra__ or {})


class NamedPart(PartSection):
    """A part and its options."""

    name: PartName


def one_or_many(value: Any) -> Any:
    """A single table where a list of tables is meant."""
    return [value] if isinstance(value, dict) else value


def distinct(values: list[Any]) -> list[Any]:
    """The list itself.

    Raises:
        PydanticCustomError: It is empty, or an entry comes twice.
    """
    if not values:
        raise broken("a list of 1 or more")
    once = list(dict.fromkeys(values))
    if len(once) < len(values):
        raise broken("a list without duplicates", once)
    return values


def _slug(name: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in name)
    if name != kept or not name or not name[0].isalnum():
        raise broken("letters, digits, -, _ and . (it names the run's folder)", kept.strip("-_.") or None)
    return name


Identifier = Annotated[str, AfterValidator(_slug)]
