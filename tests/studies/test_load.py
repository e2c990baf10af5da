"""Loading: shipped studies, round trips, defaults, overrides, the template."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pydantic
import pytest

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.load import load_study, read_study_text, shipped, shipped_descriptions, study_to_toml
from forgefront.studies.messages import keys_of
from forgefront.studies.registry import names, validate_options
from forgefront.studies.schema import (
    DataSection,
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    SearchSection,
    SpaceSection,
    SparsitySection,
    StorageSection,
    Study,
    StudySection,
    TargetSection,
    TaskSection,
    TrainingSection,
    ValidationSection,
)
from forgefront.studies.template import template

SHIPPED = [
    "castro-techniques",
    "cifar10-resnet20-adversarial",
    "cifar10-resnet20-naturalistic",
    "digits",
    "digits-adversarial",
    "digits-techniques",
]


def dumped(study: Study) -> dict[str, Any]:
    return study.model_dump(mode="json", by_alias=True)


def read(text: str) -> Study:
    return read_study_text(text, file="study.toml", check_parts=False)


def test_the_shipped_studies_are_listed_with_a_line_each() -> None:
    assert sorted(shipped()) == SHIPPED
    assert all(shipped_descriptions().values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_passes_both_phases_and_bears_its_name(name: str) -> None:
    assert load_study(name).study.name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resolved_study_survives_json_and_toml(name: str) -> None:
    study = load_study(name)
    assert Study.model_validate(json.loads(json.dumps(dumped(study)))) == study
    assert read_study_text(study_to_toml(study), file="study.toml") == study


def test_a_checked_study_states_the_defaults_of_its_parts() -> None:
    assert load_study("digits", check_parts=False).task.data.options == {}
    assert load_study("digits").task.data.options == {"upsampling": "bilinear"}
    assert load_study("digits").search.options == {"startup": 5, "candidates": 800}
    assert load_study("digits").target[0].options["threads"] == 1


def test_text_of_any_kind_survives_toml() -> None:
    study = load_study("digits", check_parts=False, overrides=[])
    description = 'quote " backslash \\ tab \t newline \n umlaut ü delete \x7f'
    changed = study.model_copy(update={"study": study.study.model_copy(update={"description": description})})
    assert read(study_to_toml(changed)).study.description == description


@pytest.mark.parametrize("name", ["mine", "My Study!", "..", "ünï"])
def test_the_template_validates_as_it_is(name: str) -> None:
    study = read_study_text(template(name), file="study.toml")
    assert study.task.data.name == "digits"
    assert study.study.name


def test_the_template_keeps_a_valid_name() -> None:
    assert read(template("mine_2")).study.name == "mine_2"


def sections_of(text: str) -> dict[str, dict[str, str]]:
    """What follows each key at the start of a line, commented out or not, by table; commented keys begin with "# "."""
    found: dict[str, dict[str, str]] = {"": {}}
    table = ""
    for line in text.splitlines():
        if header := re.match(r"\[+([a-z_.]+)\]+", line):
            table = header[1]
            found.setdefault(table, {})
        elif key := re.match(r"((?:# )?[a-z_]+) = (.*)", line):
            found[table][key[1]] = key[2]
    return found


def test_the_template_has_every_key_in_its_table() -> None:
    tables = {
        "": Study,
        "study": StudySection,
        "task": TaskSection,
        "task.data": DataSection,
        "task.data.validation": ValidationSection,
        "task.model": ModelSection,
        "training": TrainingSection,
        "training.optimizer": OptimizerSection,
        "space": SpaceSection,
        "space.sparsity": SparsitySection,
        "target": TargetSection,
        "objectives": ObjectiveSection,
        "search": SearchSection,
        "storage": StorageSection,
    }
    found = sections_of(template("x"))
    for table, section in tables.items():
        # a table of its own is a key too
        inner = [name.removeprefix(f"{table}.") for name in found if name.startswith(f"{table}." if table else "")]
        keys = {key.removeprefix("# ") for key in found[table]} | set(inner)
        assert set(keys_of(section)) <= keys, table


def test_a_commented_key_of_the_template_shows_its_default() -> None:
    resolved = dumped(read(template("x")))
    seen = []
    for table, keys in sections_of(template("x")).items():
        section: Any = resolved
        for step in table.split(".") if table else ():
            section = section[step][0] if isinstance(section[step], list) else section[step]
        for key, rest in keys.items():
            default = section.get(key.removeprefix("# "))
            # lists are examples, and so is what is left out by default; options of parts are not of the schema
            if key.startswith("# ") and default is not None and not isinstance(default, list):
                assert tomllib.loads(f"value = {rest}")["value"] == default, f"{table}.{key}"
                seen.append(key.removeprefix("# "))
    assert {"masks", "clusters_gradient", "lloyd_iterations", "step", "cost", "compression_end", "momentum"} <= set(
        seen
    )


def test_the_options_that_the_template_shows_are_the_parts_own() -> None:
    found = sections_of(template("x"))
    for kind, name, table, keys in [
        ("data", "cifar10", "task.data", ("root", "download")),
        ("model", "resnet20", "task.model", ("mean", "std")),
        ("objective", "compression_ratio", "objectives", ("of",)),
        ("objective", "mce", "metrics", ("images", "severities", "corruptions")),
    ]:
        shown = {key: tomllib.loads(f"value = {found[table][f'# {key}']}")["value"] for key in keys}
        validated = validate_options(kind, name, shown)
        assert shown.items() <= json.loads(json.dumps(validated)).items()


@pytest.mark.parametrize(
    "kind", ["data", "model", "attack", "augmentation", "class_weighting", "objective", "sampler", "target", "engine"]
)
def test_the_template_names_every_part(kind: str) -> None:
    for name in names(kind):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", template("x")), name


def test_the_examples_that_the_template_comments_out_are_valid_too() -> None:
    # `method`, `epsilon` and the attack's options belong to another regime; `weights` to another split; `steps` to another
    # budget; `techniques` to another space
    lines = []
    for line in template("x").splitlines():
        body = line.removeprefix("# ")
        key = body.partition(" = ")[0]
        example = line.startswith("# ") and " = " in body and key.isidentifier()
        foreign = key in (
            "method",
            "epsilon",
            "attack_steps",
            "attack_step_size",
            "trades_beta",
            "weights",
            "steps",
            "root",
            "engine",
            "url",
            "techniques",
        )
        lines.append(body if example and not foreign else line)
    assert lines.count(
        "imbalance = 1.0                # make the training images long-tailed: most ÷ fewest images of a class"
    )
    study = read("\n".join(lines))
    assert study.training.gradient_clip == 1.0
    assert study.space.class_weight_scale is not None
    assert study.space.sparsity is not None
    assert study.space.sparsity.mask == ["magnitude", "learned"]


def test_an_empty_checkpoint_is_none() -> None:
    study = load_study("castro-techniques", overrides=["task.model.weights="])
    assert study.task.model.weights is None
    assert load_study("castro-techniques").task.model.weights
    with pytest.raises(StudyFileError, match="text in quotes"):
        load_study("castro-techniques", overrides=["task.model.weights=0"])


def test_defaults_follow_the_regime() -> None:
    standard = TrainingSection(steps=1)
    naturalistic = TrainingSection(steps=1, regime="naturalistic")
    adversarial = TrainingSection(steps=1, regime="adversarial")
    assert (standard.augmentation_strength, standard.method, standard.epsilon) == (0.0, None, None)
    assert naturalistic.augmentation_strength == 1.0
    assert (adversarial.method, adversarial.epsilon) == ("n-fgsm", 8 / 255)
    assert (standard.augmentation, standard.consistency, standard.weight_averaging) == ("naturalistic", 0.0, 0.0)


@pytest.mark.parametrize("given", [{"augmentation": "augmix"}, {"consistency": 12.0}, {"regime": "naturalistic"}])
def test_what_asks_for_augmentation_gets_its_published_strength(given: dict) -> None:
    assert TrainingSection(steps=1, **given).augmentation_strength == 1.0
    assert TrainingSection(steps=1, augmentation_strength=0.0, **given).augmentation_strength == 0.0
    section = TrainingSection(steps=1, **given, augmentation_strength=0.25)
    assert TrainingSection(**section.model_dump()) == section


def test_a_study_is_frozen() -> None:
    study = load_study("digits", check_parts=False)
    with pytest.raises(pydantic.ValidationError):
        study.study.seed = 3  # type: ignore[misc]


def test_one_table_and_a_list_of_one_are_the_same() -> None:
    text = template("x")
    assert read(text.replace("[[target]]", "[target]")).target == read(text).target


@pytest.mark.parametrize(
    ("written", "value"), [('"8/255"', 8 / 255), ("0.1", 0.1), ("1", 1.0), ('" 4 / 255 "', 4 / 255)]
)
def test_epsilon_is_a_fraction_or_a_number(written: str, value: float) -> None:
    text = template("x").replace('regime = "naturalistic"', f'regime = "adversarial"\nepsilon = {written}')
    assert read(text).training.epsilon == pytest.approx(value)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    study = load_study(
        "cifar10-resnet20-naturalistic", check_parts=False, overrides=["task.data.root=~/data", "storage.folder=~/runs"]
    )
    assert study.task.data.options["root"] == str(tmp_path / "data")
    assert study.storage.folder == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("search.trials=24", ("search", "trials"), 24),
        ("training.optimizer.learning_rate=0.2", ("training", "optimizer", "learning_rate"), 0.2),
        ("task.data.root=/x y", ("task", "data", "root"), "/x y"),
        ('task.data.root="/x"', ("task", "data", "root"), "/x"),
        ("storage.url=sqlite:///a.db?b=c", ("storage", "url"), "sqlite:///a.db?b=c"),
        ("space.weight_bits=[8, 2]", ("space", "weight_bits"), [8, 2]),
        ("space.weight_bits[0]=7", ("space", "weight_bits"), [7, 6, 4, 3]),
        ("objectives[1].images=100", ("objectives", 1, "images"), 100),
        ("target[0].name=torch-cuda", ("target", 0, "name"), "torch-cuda"),
        ("training.horizontal_flip=true", ("training", "horizontal_flip"), True),
    ],
)
def test_an_override_changes_one_key(override: str, path: tuple[str | int, ...], value: object) -> None:
    base = dumped(load_study("digits", check_parts=False))
    changed = dumped(load_study("digits", check_parts=False, overrides=[override]))
    found: Any = changed
    for step in path:
        found = found[step]
    assert found == value
    holder: Any = changed
    before: Any = base
    for step in path[:-1]:
        holder, before = holder[step], before[step]
    assert holder.pop(path[-1]) == value
    if isinstance(before, list) or path[-1] in before:
        before.pop(path[-1])
    assert changed == base


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trails=24", r"`search\.trails` must be"),
        ("training.epoch=24", r"`training\.epoch` must be .*Did you mean epochs\?"),
        ("task.data.rooot=/x", r"`task\.data\.rooot` must be"),
        ("search.trials=many", r'`search\.trials` must be an integer; found "many"\.'),
        ("search.trials", r'`--set` must be KEY=VALUE, such as .*; found "search\.trials"\.'),
        ("=3", "`--set` must be KEY=VALUE"),
        ("a..b=3", "`--set` must be KEY=VALUE"),
        ("study.name.x=3", r'`study\.name` must be a table for --set .*; found "digits"\.'),
        ("objectives[9].name=macs", r"`objectives` must be a list with that entry .*; found a list of 4\."),
        ("objectives[1].severities=[9]", r"`objectives\[1\]\.severities"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_study("digits", overrides=[override])
    assert "\n" not in str(caught.value)


def test_an_override_may_not_smuggle_in_a_second_key() -> None:
    with pytest.raises(StudyFileError, match=r"`study\.description`|`search\.trials` must be an integer"):
        load_study("digits", check_parts=False, overrides=["search.trials=24\n[study]\nname = 'x'"])


def test_a_study_written_as_toml_is_plain_toml() -> None:
    parsed = tomllib.loads(study_to_toml(load_study("digits", check_parts=False)))
    assert parsed["task"]["data"]["validation"] == {"from": "train", "count": 300}
