"""`forgefront inspect`: a trial, a run's trial, a bundle and a model, each as a table, CSV and JSON."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.search.cli import app
from forgefront.search.inspection import inspect
from forgefront.studies.errors import InputError, TargetError


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from forgefront.search.deploy import deploy
    from forgefront.search.run import load_run

    out = tmp_path_factory.mktemp("bundles") / "deployed"
    deploy(load_run(finished_run), 1, out)
    return out


def shown(candidate: Path | str, *, trial: int | None = None, form: str = "table", **options) -> str:
    return inspect(str(candidate), trial=trial, form=form, **options)


def frame_of(candidate: Path | str, *, trial: int | None = None) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(shown(candidate, trial=trial, form="csv")))


def untimed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=[name for name in frame if name.startswith("latency")])


def test_a_trial_layer_by_layer_is_what_the_trial_says_it_achieved(finished_run):
    frame = frame_of(finished_run / "trials" / "2")
    described = json.loads((finished_run / "trials" / "2" / "candidate.json").read_text())
    achieved = described["achieved"]["layers"]
    assert list(frame["layer"]) == [name.removeprefix("network.") for name in achieved]
    for row, layer in zip(frame.to_dict("records"), achieved.values(), strict=True):
        assert row["kept_weights"] == round(layer["weights"] * (1 - layer["sparsity"]))
        assert (row["channels"], row["channels_before"]) == (layer["channels"], layer["channels_before"])
        assert (row["weight_bits"], row["activation_bits"]) == (layer["weight_bits"], layer["activation_bits"])
        assert (row["clusters"], row["macs"]) == (layer["distinct"], layer["macs"])
        assert row["kept_share"] == pytest.approx(row["kept_weights"] / row["weights"])
        assert 0 < row["shannon_bytes"] <= row["packed_bytes"]
    assert frame["macs_share"].sum() == pytest.approx(1.0)
    assert (frame["channels"] < frame["channels_before"]).any()
    whole = finished_run / "trials" / "2" / "packed.safetensors"
    assert frame["packed_bytes"].sum() < whole.stat().st_size


@pytest.mark.parametrize("trial", [0, 2])
def test_every_layer_has_a_share_of_the_latency_measured_now(trial, finished_run):
    frame = frame_of(finished_run, trial=trial)
    assert (frame["latency_ms"] >= 0).all()
    assert frame["latency_ms"].sum() > 0
    # the rest is what lies between layers
    assert 0.0 < frame["latency_share"].sum() <= 1.0 + 1e-9
    whole = frame["latency_ms"].sum() / frame["latency_share"].sum()
    assert (frame["latency_share"] * whole).to_numpy() == pytest.approx(frame["latency_ms"].to_numpy())


def test_a_run_with_a_trial_and_that_trials_folder_are_the_same(finished_run, monkeypatch):
    whole = untimed(frame_of(finished_run, trial=1))
    assert untimed(frame_of(finished_run / "trials" / "1")).equals(whole)
    monkeypatch.chdir(finished_run / "trials" / "1")
    assert untimed(frame_of(".")).equals(whole)


def test_a_bundle_shows_what_its_trial_does(bundle, finished_run):
    assert untimed(frame_of(bundle)).equals(untimed(frame_of(finished_run, trial=1)))


def test_the_control_keeps_everything_in_float(finished_run):
    frame = frame_of(finished_run, trial=0)
    assert (frame["channels"] == frame["channels_before"]).all()
    assert set(frame["weight_bits"]) == set(frame["activation_bits"]) == {32}
    assert (frame["kept_share"] == 1.0).all()


def test_the_table_has_totals_and_json_is_csv(finished_run):
    text = shown(finished_run, trial=2)
    assert text.startswith("trial 2 of small\n")
    frame = frame_of(finished_run, trial=2)
    assert f"{len(frame)} layers keep {frame['kept_weights'].sum():,} of {frame['weights'].sum():,} weights" in text
    assert "profiled now, onnxruntime-cpu, 1 thread; a trial's own latency" in text
    (sizes,) = [line for line in text.splitlines() if line.startswith("bytes: ")]
    packed = finished_run / "trials" / "2" / "packed.safetensors"
    (artefact,) = json.loads((finished_run / "trials" / "2" / "result.json").read_text())["artefacts"].values()
    assert f"{packed.stat().st_size:,} packed" in sizes
    assert f"{artefact['zipped_bytes']:,} as a zipped ONNX file" in sizes
    records = pd.DataFrame(json.loads(shown(finished_run, trial=2, form="json")))
    pd.testing.assert_frame_equal(untimed(records), untimed(frame), check_exact=False, rtol=1e-6)


@pytest.mark.parametrize("options", [{"size": "3x32x32"}, {"classes": 10}])
def test_what_belongs_to_a_model_is_refused_for_anything_else(options, finished_run, bundle):
    for folder, trial in [(finished_run, 1), (finished_run / "trials" / "1", None), (bundle, None)]:
        with pytest.raises(InputError, match=r"`--(input|classes)` must come with the name of a model"):
            shown(folder, trial=trial, **options)
    assert shown("digits-cnn", **options)


def test_why_there_are_no_latencies_is_said(finished_run, monkeypatch):
    def missing(self):
        raise TargetError("`target` must have onnxruntime;\n found none.")

    monkeypatch.setattr(OnnxRuntimeCPU, "check_available", missing)
    reason = "no latencies: not measurable in onnxruntime-cpu here: `target` must have onnxruntime; found none."
    text = shown(finished_run, trial=1)
    assert text.splitlines()[-1] == reason
    assert "none as a zipped ONNX file" in text
    said: list[str] = []
    frame = pd.read_csv(io.StringIO(shown(finished_run, trial=1, form="csv", say=said.append)))
    assert said == [reason]
    assert "latency_ms" not in frame


def test_a_model_is_inspected_as_before(tmp_path, monkeypatch):
    (tmp_path / "digits-cnn").mkdir()
    # a model's name is a model, whatever lies here
    monkeypatch.chdir(tmp_path)
    frame = pd.read_csv(io.StringIO(shown("digits-cnn", form="csv")))
    assert next(iter(frame["layer"])) == "stem.conv"
    assert "8 layers, 36,850 parameters" in shown("digits-cnn")


def _failed(run: Path, folder: Path) -> Path:
    """A copy of a run whose trial 1 failed after its candidate was stored, and trial 2 before."""
    shutil.copytree(run, folder / "copy")
    file = folder / "copy" / "trials" / "1" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "failed", "reason": "it disagreed"}))
    (folder / "copy" / "trials" / "2" / "candidate.json").unlink()
    return folder / "copy"


def test_a_failed_trial_that_left_a_candidate_can_be_seen(finished_run, tmp_path):
    run = _failed(finished_run, tmp_path)
    assert shown(run, trial=1).startswith("trial 1 of small, which failed: it disagreed\n")
    with pytest.raises(InputError, match=r"`--trial` must be a trial of .* \(0, 1, 3\); found 2\."):
        shown(run, trial=2)


@pytest.mark.parametrize(
    ("make", "trial", "expected"),
    [
        (lambda f, run: run, None, "`--trial` must be a trial of"),
        (lambda f, run: run, 99, "found 99"),
        (lambda f, run: run / "trials" / "1", 1, "`--trial` must come with the folder of a run"),
        (lambda f, run: "digits-cnn", 1, "`--trial` must come with the folder of a run"),
        (lambda f, run: f, None, "which holds none of them"),
        (lambda f, run: run / "trials" / "98", None, "which does not exist"),
        (lambda f, run: run / "study.db", None, "found the file"),
        (lambda f, run: shutil.copytree(run / "trials" / "1", f / "1"), None, "must lie in its run"),
        (lambda f, run: "resnet2O", None, "resnet20"),
    ],
)
def test_what_cannot_be_inspected_is_told_in_one_line(make, trial, expected, finished_run, tmp_path):
    given = make(tmp_path, finished_run)
    with pytest.raises(InputError) as caught:
        shown(given, trial=trial)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_candidate_is_told_in_one_line(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    (tmp_path / "copy" / "trials" / "1" / "candidate.json").write_text("{")
    with pytest.raises(InputError, match="candidate"):
        shown(tmp_path / "copy", trial=1)


def test_the_command_line_knows_it(finished_run):
    result = CliRunner().invoke(app, ["inspect", str(finished_run), "--trial", "1", "--format", "csv"])
    assert result.exit_code == 0
    assert result.stdout.startswith("layer,kind,weights,kept_weights")
