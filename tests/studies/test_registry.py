"""The registry resolves names lazily, and a part's keyword-only parameters are its options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    REGISTRY,
    bind,
    names,
    options_model,
    resolve,
    validate_options,
)

PART = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from forgefront.studies import Epsilon

if TYPE_CHECKING:
    from somewhere import Context


def scaled(counts: Context, *, power: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5,
           epsilon: Epsilon = 0.5, shape: tuple[int, ...] = (1, 2), root: Path | None = None,
           copy: Literal["deep", "shallow"] = "deep"):
    return counts, power, epsilon, shape, root, copy


def required(*, count: int):
    return count


def anything(name, *, count: int = 1, **options):
    return name, count, options


class Made:
    def __init__(self, *, count: Annotated[int, Field(ge=1)] = 3) -> None:
        self.count = count


class Heir(Made):
    pass


@dataclass(kw_only=True)
class Record:
    count: Annotated[int, Field(ge=1)] = 4


NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the current directory; its name."""
    name = f"parts_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PART, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, parts in REGISTRY.items() for name in parts])
def test_every_registry_line_resolves(kind: str, name: str) -> None:
    part = resolve(kind, name)
    assert callable(part)
    for field in options_model(part).model_fields.values():
        assert field.alias


def test_the_fifteen_corruptions_and_the_four_for_tuning_are_named() -> None:
    published, extra = (
        [name for members in groups.values() for name in members] for groups in (CORRUPTIONS, EXTRA_CORRUPTIONS)
    )
    assert (len(published), len(extra)) == (15, 4)
    assert names("corruption") == published + extra


def test_a_part_of_the_user_is_found_in_the_current_directory(module: str) -> None:
    part = resolve("class_weighting", f"{module}:scaled")
    options = validate_options("class_weighting", f"{module}:scaled", {"epsilon": "8/255", "shape": [3], "root": "a"})
    assert options == {"power": 0.5, "epsilon": 8 / 255, "shape": (3,), "root": Path("a"), "copy": "deep"}
    assert part("counts", **options) == ("counts", 0.5, 8 / 255, (3,), Path("a"), "deep")


def test_every_wrong_option_is_a_line(module: str) -> None:
    raw = {"pwer": 0.1, "epsilon": 8, "shape": 3, "copy": "depe"}
    with pytest.raises(StudyFileError) as caught:
        validate_options("objective", f"{module}:scaled", raw, "objectives[1]", file="study.toml")
    by_key = {line.split("`")[1]: line for line in caught.value.lines}
    assert set(by_key) == {f"objectives[1].{key}" for key in raw}
    assert by_key["objectives[1].pwer"].endswith('found "pwer". Did you mean power?')
    assert by_key["objectives[1].epsilon"].endswith('found 8. Did you mean "8/255"?')
    assert by_key["objectives[1].shape"].endswith("must be a list; found 3. Did you mean [3]?")
    assert by_key["objectives[1].copy"].endswith('must be deep or shallow; found "depe". Did you mean "deep"?')


def test_a_required_option_is_asked_for(module: str) -> None:
    with pytest.raises(StudyFileError, match=r"^`data\.count` must be given; found nothing\.$"):
        validate_options("data", f"{module}:required", {}, "data")


def test_types_are_strict(module: str) -> None:
    with pytest.raises(StudyFileError, match=r'must be an integer; found "3"\. Did you mean 3\?'):
        validate_options("data", f"{module}:required", {"count": "3"})
    with pytest.raises(StudyFileError, match="must be an integer; found true"):
        validate_options("data", f"{module}:required", {"count": True})


def test_keywords_of_any_name_pass_where_the_part_takes_them(module: str) -> None:
    assert validate_options("model", f"{module}:anything", {"other": [1]}) == {"count": 1, "other": [1]}


@pytest.mark.parametrize(("name", "default"), [("Made", 3), ("Heir", 3), ("Record", 4)])
def test_options_of_a_class_are_those_of_its_initializer(module: str, name: str, default: int) -> None:
    assert validate_options("target", f"{module}:{name}", {}) == {"count": default}
    with pytest.raises(StudyFileError, match=r"must be at least 1; found 0\. Did you mean 1\?"):
        validate_options("target", f"{module}:{name}", {"count": 0})


def test_bind_fills_the_options_in(module: str) -> None:
    assert bind("model", f"{module}:anything", {"count": 2})("net") == ("net", 2, {})


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("model", "resnet-20", r'`model` must be one of .*; found "resnet-20"\. Did you mean "resnet20"\?'),
        ("sampler", "nsg2", r'Did you mean "nsga2"\?'),
        ("model", "torchvision:resnet81", r'Did you mean "torchvision:resnet18"\?'),
        ("objective", "{module}:scald", r'must be an attribute of .*Did you mean ".*:scaled"\?'),
        ("objective", "{module}:NUMBER", "must be a function or class; .* int"),
        ("objective", "no_such_module:part", r"must be importable; .*ModuleNotFoundError"),
        ("objective", ":part", "must be one of"),
        ("objective", "module:", "must be one of"),
    ],
)
def test_a_wrong_name_is_one_line(module: str, kind: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(kind, name.format(module=module))
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_on_import_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part_module.py").write_text("raise RuntimeError('first\\nsecond')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\(RuntimeError: first\)\.$"):
        resolve("data", "broken_part_module:data")


def test_a_torchvision_classifier_gets_its_name_first() -> None:
    network = bind("model", "torchvision:mobilenet_v2", {"width_mult": 0.25})(7)
    assert network.classifier[-1].out_features == 7


def test_class_weightings_take_counts_by_position() -> None:
    weights = bind("class_weighting", "inverse", {})(np.array([100, 1]))
    assert weights[1] / weights[0] == pytest.approx(10.0)


def test_studies_do_not_import_torch() -> None:
    code = (
        "import sys; from forgefront.studies import load_study, shipped, template;"
        "[load_study(name, check_parts=False) for name in shipped()];"
        "print([name for name in ('torch', 'optuna', 'onnx', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exceptions_are_imported_without_pydantic() -> None:
    code = "import sys; import forgefront.studies.errors; print('pydantic' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
