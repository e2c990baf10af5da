"""The report: one file, every part that a run allows, opened in a real browser without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from forgefront import load_run
from forgefront.search.cli import main
from forgefront.search.hypervolume import front_hypervolume
from forgefront.search.plot_history import history_by_trial
from forgefront.search.report.write import report_text
from forgefront.search.run_folder import RunFolder
from forgefront.search.status import describe, last_growth, summary
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.studies.load import read_study_text, study_to_toml

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ("front", "hypervolume", "importance", "layers", "corruptions", "classes", "timeline")
STUDY = """
[study]
name = "bare"
description = "<b>& more</b>"
[task]
data = { name = "digits", validation = { from = "train", count = 100 } }
model = { name = "digits-cnn" }
[training]
steps = 1
[space]
weight_bits = [8, 4]
[[objectives]]
name = "accuracy"
[[objectives]]
name = "macs"
[search]
seeds = 0
trials = 40
device_hours = 2
stagnation = { trials = 10, tolerance = 0.02 }
"""
BITS = {"bits": optuna.distributions.IntDistribution(0, 9)}


PHONE = """<!DOCTYPE html><body><iframe style="border:0;width:{width}px;height:800px" srcdoc="{report}"></iframe><script>
const frame = document.querySelector("iframe");
onload = () => {{
  document.body.dataset.inner = frame.contentWindow.innerWidth;
  document.body.dataset.whole = frame.contentDocument.documentElement.scrollWidth;
}};
</script></body>"""


def trial(accuracy: float, macs: float, *, role: str = "search", **changes) -> optuna.trial.FrozenTrial:
    scores = {
        "accuracy": {"value": accuracy, "standard_error": 0.01, "details": {}},
        "macs": {"value": macs, "standard_error": None, "details": {}},
    }
    params = {"params": {"bits": int(macs) % 10}, "distributions": BITS} if role == "search" else {}
    attributes = {"role": role, "seconds": 360.0, "scores": scores} | changes
    return create_trial(values=[accuracy, macs], user_attrs=attributes, **params)


CONTROL = trial(0.9, 100.0, role="control")
SEARCHED = [trial(0.8 + 0.001 * index % 0.05, 90.0 - index) for index in range(12)]
FAILED = create_trial(state=TrialState.FAIL, user_attrs={"role": "search", "reason": "<script>alert(1)</script>"})
PRUNED = create_trial(
    state=TrialState.PRUNED, user_attrs={"role": "search", "reason": "behind at half of its training"}
)


def stored(folder: Path, trials: list[optuna.trial.FrozenTrial], *, reference: bool = True, name: str = "bare") -> Path:
    study = read_study_text(STUDY, file="study.toml", check_parts=False)
    run = RunFolder.create(folder, study_to_toml(study))
    storage = open_storage(sqlite_url(run.database), create=True)
    record = optuna.create_study(study_name="bare", storage=storage, directions=["maximize", "minimize"])
    with pytest.warns(ExperimentalWarning):
        record.set_metric_names(["accuracy", "macs"])
    record.add_trials(trials)
    if reference:
        record.set_user_attr("reference_point", [0.0, 100.0])
    return folder


def browsed(folder: Path, file: Path, width: int) -> subprocess.CompletedProcess[str]:
    """Chromium's page after its scripts have run, and what it logged."""
    return subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            # whatever would leave this machine fails, and is logged
            *("--proxy-server=127.0.0.1:9", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
            *(f"--window-size={width},2000", "--virtual-time-budget=5000", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="([a-z]+)">(.*?)</section>', page, flags=re.DOTALL))


def test_a_real_run_shows_every_picture(finished_run: Path) -> None:
    page = report_text(load_run(finished_run))
    found = sections(page)
    pictures = {name: body.count('<img alt="') for name, body in found.items()}
    # 4 objectives make 6 pairs and the parallel coordinates
    assert pictures["front"] == 7
    assert pictures["layers"] >= 3
    members = int((load_run(finished_run).front()["number"] != 0).sum())
    assert (pictures["corruptions"], pictures["classes"]) == (members + 1, members)
    assert pictures["hypervolume"] == pictures["timeline"] == 1
    assert "Needs 10 complete trials" in found["importance"]
    assert html.escape('"versions": {') in found["fingerprint"]
    assert html.escape(f'"torch": "{version("torch")}"') in found["fingerprint"]
    assert html.escape(json.dumps(load_run(finished_run).fingerprint["inputs"]["data"])) in found["fingerprint"]
    assert found["trials"].count("<tr>") == 1 + 4
    # nothing that would be fetched
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page == report_text(load_run(finished_run))


@pytest.mark.parametrize(
    ("trials", "says", "pictures"),
    [
        ([], {"front": "No trial is complete", "hypervolume": "No hypervolume yet", "trials": "None yet"}, 0),
        ([CONTROL], {"layers": "no compressed trial", "corruptions": "no compressed trial"}, 2 + 1 + 1),
        ([CONTROL, FAILED, PRUNED], {"failures": "&lt;script&gt;", "importance": "found 0"}, 2 + 1 + 1),
        (
            [CONTROL, *SEARCHED],
            {"layers": "no plan by layers", "corruptions": "no errors on", "classes": "counts no classes"},
            2 + 1 + 1 + 1,
        ),
    ],
)
def test_what_a_run_lacks_is_a_sentence(tmp_path: Path, trials: list, says: dict[str, str], pictures: int) -> None:
    page = report_text(load_run(stored(tmp_path / "bare", trials)))
    found = sections(page)
    for name, text in says.items():
        assert text in found[name], name
    assert page.count("<img ") == pictures
    assert "<script>alert" not in page
    assert "<b>&" not in page


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("report.pdf", "`--out` must end in .html; found report.pdf."),
        ("absent/report.html", "`--out` must be a file in an existing folder; found absent/report.html."),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    run = stored(tmp_path / "bare", [CONTROL])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["forgefront", "report", str(run), "--out", out])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"forgefront: {message}\n"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_every_picture_and_asks_for_nothing(finished_run: Path, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_text(load_run(finished_run)), encoding="utf-8")
    done = browsed(tmp_path, file, width)
    figures = re.findall(r'<figure class="([^"]*)"', done.stdout)
    assert len(figures) == file.read_text(encoding="utf-8").count("<img ") > 10
    assert set(figures) == {"plot shown"}
    assert "CONSOLE" not in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 500])
def test_a_phone_scrolls_in_one_direction(finished_run: Path, tmp_path: Path, width: int) -> None:
    # a browser's window may be no narrower than 500 px, a frame in it may
    text = html.escape(report_text(load_run(finished_run)), quote=True)
    file = tmp_path / "phone.html"
    file.write_text(PHONE.format(width=width, report=text), encoding="utf-8")
    done = browsed(tmp_path, file, 800)
    found = re.search(r'<body data-inner="(\d+)" data-whole="(\d+)"', done.stdout)
    assert found is not None, done.stderr
    inner, whole = map(int, found.groups())
    assert inner == width
    assert whole <= inner


def test_the_history_ends_at_the_front_and_never_falls(tmp_path: Path) -> None:
    run = load_run(stored(tmp_path / "bare", [CONTROL, FAILED, *SEARCHED]))
    trials, directions, reference = run.optuna_trials(), run.record.directions, [0.0, 100.0]
    history = history_by_trial(trials, directions, reference)
    assert [number for number, _ in history] == [0, *range(2, 14)]
    volumes = [volume for _, volume in history]
    assert volumes == sorted(volumes)
    assert volumes[-1] == front_hypervolume(trials, directions, reference)
    grown = [number for (number, after), before in zip(history[1:], volumes, strict=False) if after > before]
    last = last_growth(trials, directions, reference)
    assert last is not None
    assert last.number == grown[-1]


def test_a_stored_hypervolume_is_taken_at_its_word(tmp_path: Path) -> None:
    trials = [trial(0.9, 100.0, role="control", hypervolume=0.0), trial(0.8, 50.0, hypervolume=0.5)]
    run = load_run(stored(tmp_path / "bare", [*trials, trial(0.7, 60.0, hypervolume=0.4)]))
    assert history_by_trial(run.optuna_trials(), run.record.directions, [0.0, 100.0]) == [
        (0, 0.0),
        (1, 0.5),
        (2, 0.5),
    ]


def test_status_tells_of_budgets_growth_and_failures(tmp_path: Path) -> None:
    failed = [create_trial(state=TrialState.FAIL, user_attrs={"reason": f"reason {index}"}) for index in range(30)]
    lines = describe(
        load_run(
            stored(tmp_path / "bare", [CONTROL, *SEARCHED, trial(0.1, 99.0, repeats=[{}, {}, {}]), PRUNED, *failed[:3]])
        )
    )
    assert lines[0] == "bare: 40 trials asked for; 14 complete, 3 fail, 1 pruned"
    assert "left: 22 trials, 0.6 of 2 device hours" in lines
    assert "stops when 10 trials in a row grow the hypervolume by less than 2.00%" in lines
    assert "hypervolume last grew with trial 12, 5 finished trials ago" in lines
    assert "1 trained more than once, 3 trainings in all" in lines
    assert lines[-3:] == [f"trial {15 + index} failed: reason {index}" for index in range(3)]
    assert summary(load_run(tmp_path / "bare")) == lines[:-3]
    told = sections(report_text(load_run(tmp_path / "bare")))["summary"]
    assert all(html.escape(line) in told for line in lines[:-3])
    assert "reason 0" not in told
    many = describe(load_run(stored(tmp_path / "many", [CONTROL, *failed])))
    assert "30 trials failed; the latest 20:" in many
    assert many[-1] == "trial 30 failed: reason 29"


def test_a_run_that_has_not_begun_has_a_status(tmp_path: Path) -> None:
    lines = describe(load_run(stored(tmp_path / "bare", [], reference=False)))
    assert lines == [
        "bare: 40 trials asked for; none yet",
        "nobody is working on it",
        "left: 40 trials, 2 of 2 device hours",
        "stops when 10 trials in a row grow the hypervolume by less than 2.00%",
    ]
