"""The two phases of checking a study file: its schema, then the parts that it names and the options it gives them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from .conditions import measured_by, parse_condition
from .errors import InputError, StudyFileError
from .faults import Fault, key_text, nearest
from .messages import faults_of, keys_of
from .registry import names, resolve, validate_options
from .schema import (
    DataSection,
    ModelSection,
    ObjectiveSection,
    PartSection,
    SearchSection,
    Study,
    TargetSection,
    cross_faults,
    with_trials,
)
from .schema_training import ATTACK_OPTIONS, DEFAULT_METHOD

__all__ = ["check_parts", "check_schema"]


def check_schema(raw: dict[str, Any], file: str) -> tuple[Study | None, list[str]]:
    """Phase 1: a parsed study file against the schema.

    Returns:
        The study, or None, and one line for each fault; contradictions between sections that are valid in themselves
        are reported although other sections are at fault.
    """
    try:
        return Study.model_validate(raw), []
    except ValidationError as error:
        faults = faults_of(error, raw, Study)
    at_fault = {fault.key for fault in faults}
    faults += [fault for fault in cross_faults(_valid_sections(raw)) if fault.key not in at_fault]
    return None, [fault.line(file) for fault in faults]


def _valid_sections(raw: dict[str, Any]) -> dict[str, Any]:
    sections, raw = {}, with_trials(raw)
    for name, field in Study.model_fields.items():
        if name not in raw:
            if not field.is_required():
                sections[name] = field.get_default(call_default_factory=True)
            continue
        annotation: Any = Annotated[field.annotation, None, *field.metadata]
        try:
            sections[name] = TypeAdapter(annotation).validate_python(raw[name])
        except ValidationError:
            continue
    return sections


@dataclass(frozen=True)
class _Reference:
    """A place in the file that names a part; `table` is None where the part gets no options from the file."""

    kind: str
    key: tuple[str | int, ...]
    name: str
    table: dict[str, Any] | None = None
    section: type[PartSection] | None = None


def check_parts(raw: dict[str, Any], file: str) -> tuple[dict[str, Any], list[str]]:
    """Phase 2: every part that a parsed study file names, against the registry and the part's own options.

    Returns:
        The parsed file with the options of its parts checked and completed by their defaults, and one line for each
        fault. Places that break the schema are passed over; phase 1 reports them.
    """
    resolved = copy.deepcopy(raw)
    lines: list[str] = []
    targets = _target_names(resolved)
    for reference in _references(resolved):
        where = key_text(reference.key)
        try:
            resolve(reference.kind, reference.name, where=where)
            if reference.table is None or reference.section is None:
                continue
            own = keys_of(reference.section)
            options = {key: value for key, value in reference.table.items() if key not in own}
            place = key_text(reference.key[:-1])
            checked = validate_options(reference.kind, reference.name, options, place, file=file, known=own)
            reference.table.update(to_jsonable_python(checked, fallback=str))
            if reference.kind == "objective":
                lines += [fault.line(file) for fault in _target_faults(reference, checked, targets)]
                # an objective may know rules that no annotation can state
                resolve(reference.kind, reference.name)(**checked)
        except StudyFileError as error:
            lines += error.lines
        except InputError as error:
            lines.append(f"{file}: {error}")
        except ValueError as error:
            lines.append(f"{file}: `{key_text(reference.key[:-1])}` must take its options; found that {error}")
    lines += [fault.line(file) for fault in (*_attack_faults(resolved), *_detail_faults(resolved))]
    return resolved, lines + _engine_lines(resolved, file)


def _engine_lines(raw: dict[str, Any], file: str) -> list[str]:
    """What is wrong with `search.engine_options`, for which an engine must be named."""
    search = raw.get("search")
    options = search.get("engine_options") if isinstance(search, dict) else None
    if not isinstance(search, dict) or not isinstance(options, dict) or not options:
        return []
    name = search.get("engine")
    if not isinstance(name, str):
        rule = "left out unless `search.engine` says which engine's they are"
        return [Fault(("search", "engine_options"), rule, options, 'engine = "ray"').line(file)]
    try:
        validate_options("engine", name, options, "search.engine_options", file=file)
    except StudyFileError as error:
        return list(error.lines)
    except InputError:
        # a name that means nothing has been told by now
        return []
    return []


def _references(raw: dict[str, Any]) -> Iterator[_Reference]:
    task, training, space, search = (_table(raw, key) for key in ("task", "training", "space", "search"))
    yield from _plain("task", ("task", "type"), task.get("type", "classification"))
    yield from _with_options("data", ("task", "data"), task.get("data"), DataSection)
    yield from _with_options("model", ("task", "model"), task.get("model"), ModelSection)
    yield from _plain("attack", ("training", "method"), training.get("method"))
    for kind in ("augmentation", "class_weighting"):
        yield from _plain(kind, ("training", kind), training.get(kind))
        choices = space.get(kind)
        for index, name in enumerate(choices if isinstance(choices, list) else ()):
            yield from _plain(kind, ("space", kind, index), name)
    for kind, key, section in (
        ("target", "target", TargetSection),
        ("objective", "objectives", ObjectiveSection),
        ("objective", "metrics", ObjectiveSection),
    ):
        tables = raw.get(key)
        if isinstance(tables, dict):
            yield from _with_options(kind, (key,), tables, section)
        for index, table in enumerate(tables if isinstance(tables, list) else ()):
            yield from _with_options(kind, (key, index), table, section)
    if search or "search" not in raw:
        search.setdefault("sampler", SearchSection.model_fields["sampler"].default)
        raw["search"] = search
        yield from _with_options("sampler", ("search",), search, SearchSection, name_key="sampler")
    yield from _plain("engine", ("search", "engine"), search.get("engine"))


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    table = raw.get(key)
    return table if isinstance(table, dict) else {}


def _plain(kind: str, key: tuple[str | int, ...], name: Any) -> Iterator[_Reference]:
    if isinstance(name, str) and name.strip():
        yield _Reference(kind, key, name)


def _with_options(
    kind: str, key: tuple[str | int, ...], table: Any, section: type[PartSection], name_key: str = "name"
) -> Iterator[_Reference]:
    name = table.get(name_key) if isinstance(table, dict) else None
    if isinstance(name, str) and name.strip():
        yield _Reference(kind, (*key, name_key), name, table, section)


def _target_names(raw: dict[str, Any]) -> list[str]:
    tables = raw.get("target", {"name": "onnxruntime-cpu"})
    tables = [tables] if isinstance(tables, dict) else tables
    names = [table.get("name") for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return [name for name in names if isinstance(name, str)]


def _target_faults(reference: _Reference, options: dict[str, Any], targets: list[str]) -> list[Fault]:
    """The option `target` of an objective that names none of the study's targets."""
    name = options.get("target")
    if not isinstance(name, str) or name in targets or not targets:
        return []
    allowed = f"a target of this study ({', '.join(targets)})"
    match = nearest(name, targets) or targets[0]
    return [Fault((*reference.key[:-1], "target"), allowed, name, f'"{match}"')]


def _detail_faults(raw: dict[str, Any]) -> list[Fault]:
    """Constraints on a detail that no score of its objective has, where the objective states which ones there are."""
    tables = [raw.get(key) for key in ("objectives", "metrics")]
    parts = [part for table in tables for part in (table if isinstance(table, list) else [table])]
    numbers: dict[str, Any] = {}
    try:
        for part in parts:
            if isinstance(part, dict):
                found = resolve("objective", part["name"])
                numbers[str(getattr(found, "name", part["name"]))] = getattr(found, "numbers", None)
    except (InputError, KeyError, AttributeError):
        # reported as a fault of its own
        return []
    faults, texts = [], raw.get("constraints")
    for index, text in enumerate(texts if isinstance(texts, list) else ()):
        try:
            metric = parse_condition(text).metric
        except (InputError, TypeError):
            continue
        owner = measured_by(metric, numbers)
        if owner is None or numbers[owner] is None:
            continue
        # as columns of tables are called
        prefix = f"{owner}_"
        known = [owner, f"{prefix}se", *(key if key.startswith(prefix) else prefix + key for key in numbers[owner])]
        if metric not in known:
            match = nearest(metric, known)
            suggestion = f'"{text.replace(metric, match, 1)}"' if match else None
            faults.append(Fault(("constraints", index), f"on {owner} or a number that it states", text, suggestion))
    return faults


def _attack_faults(raw: dict[str, Any]) -> list[Fault]:
    """Options of a training attack, such as `training.attack_steps`, given to one that does not have them."""
    training = _table(raw, "training")
    method = training.get("method", DEFAULT_METHOD if training.get("regime") == "adversarial" else None)
    given = [key for key in ATTACK_OPTIONS if training.get(key) is not None]
    if not isinstance(method, str) or not given:
        return []
    try:
        parameters = inspect.signature(resolve("attack", method)).parameters
    except InputError:
        return []
    faults = []
    for key in given:
        option = ATTACK_OPTIONS[key]
        if option not in parameters:
            allowed = f'left out with method "{method}", which has no such option'
            having = next((name for name in names("attack") if _has_option(name, option)), None)
            suggestion = f'method = "{having}"' if having else None
            faults.append(Fault(("training", key), allowed, training[key], suggestion))
    return faults


def _has_option(attack: str, option: str) -> bool:
    return option in inspect.signature(resolve("attack", attack)).parameters
