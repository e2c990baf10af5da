"""Trials on a Ray cluster of this machine's own: two workers, one of them killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import analytic
import pytest
from optuna.trial import TrialState

from forgefront.search.coordinator import Coordinator
from forgefront.search.engines.base import TrialRequest
from forgefront.search.events import TrialFinished, TrialProgress, TrialStarted
from forgefront.search.run_folder import RunFolder
from forgefront.search.samplers.nsga2 import nsga2
from forgefront.search.stopping import StopRules
from forgefront.studies.errors import RunError

ray = pytest.importorskip("ray")
RayEngine = pytest.importorskip("forgefront.search.engines.ray").RayEngine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster without a dashboard, reports on usage, or an address but loopback."""
    before = dict(os.environ)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "ANALYTIC_SLEEP": "0.1",
        "PYTHONPATH": str(Path(analytic.__file__).parent),
    }
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


def coordinator(path, trials, engine):
    sampler = nsga2(analytic.SPACE, analytic.SEED, population=6)
    return Coordinator(RunFolder.create(path, ""), analytic.problem(), engine, sampler, rules=StopRules(trials))


def trials_of(path):
    import optuna

    return optuna.load_study(study_name="analytic", storage=f"sqlite:///{RunFolder(path).database}").trials


@pytest.mark.parametrize("deaths", [1, 2])
def test_two_workers_finish_a_study_though_some_are_killed(cluster, tmp_path, deaths):
    engine = RayEngine(tmp_path, 2, runner="analytic:Runner", gpus=0.5)
    events, killed = [], []

    def watch(event):
        events.append(event)
        if isinstance(event, TrialStarted) and event.number == 4:
            killed.extend(engine.pids[:deaths])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    finished = coordinator(tmp_path, 9, engine).run(watch)
    assert (finished.trials, finished.failed) == (9, 0)
    found = trials_of(tmp_path)
    assert [trial.number for trial in found] == list(range(9))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert sorted(event.number for event in events if isinstance(event, TrialFinished)) == list(range(9))
    assert [event for event in events if isinstance(event, TrialProgress)]
    pids = {int((RunFolder(tmp_path).trial(number) / "pid.txt").read_text()) for number in range(9)}
    assert os.getpid() not in pids
    assert len(set(killed)) == deaths
    # with one dead, the other may have done all the rest before that was noticed
    assert pids - set(killed)


def test_a_trial_whose_process_always_dies_fails_and_the_others_do_not(cluster, tmp_path):
    """As with processes: trial 2 fails, 3 yields no number, 4's process dies twice, 5's dies once."""
    engine = RayEngine(tmp_path, 2, runner="analytic:FragileRunner")
    finished = coordinator(tmp_path, 7, engine).run()
    reasons = {trial.number: trial.user_attrs.get("reason") for trial in trials_of(tmp_path)}
    assert finished.failed == 3
    assert reasons[2] == "the loss became infinite"
    assert "died 2 times" in reasons[4]
    assert [number for number, reason in reasons.items() if reason] == [2, 3, 4]


def test_a_trial_that_hangs_is_ended(cluster, tmp_path):
    engine = RayEngine(RunFolder.create(tmp_path, "").path, 1, runner="test_ray:HangingRunner", timeout=1.0)
    engine.submit(TrialRequest(0))
    outcomes = []
    for _ in range(100):
        outcomes += engine.poll(0.2, lambda progress: None)
        if outcomes:
            break
    engine.stop()
    assert outcomes[0].result["state"] == "failed"
    assert "search.trial_timeout" in outcomes[0].result["reason"]
    assert outcomes[0].result["seconds"] >= 1.0
    # what the actor was writing
    assert list(RunFolder(tmp_path).trials.iterdir()) == []


def test_a_full_disk_stops_the_run_and_fails_no_trial(cluster, tmp_path):
    engine = RayEngine(tmp_path, 1, runner="trouble:FullDiskRunner")
    with pytest.raises(RunError, match="must be writable"):
        coordinator(tmp_path, 4, engine).run()
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]


class HangingRunner(analytic.Runner):
    """Never ends."""

    def break_it(self, request, result):
        signal.pause()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": 2.0}, "gpus up to 1"),
        ({"cpus": 64.0}, "cpus up to 2"),
        ({"runner": "analytic:UnusableRunner"}, "task.data"),
    ],
)
def test_what_cannot_run_is_told_in_one_line(cluster, tmp_path, options, words):
    engine = RayEngine(tmp_path, 1, **{"runner": "analytic:Runner", **options})
    with pytest.raises(RunError, match=words) as caught:
        coordinator(tmp_path, 3, engine).run()
    assert "\n" not in str(caught.value)


def test_a_folder_that_a_node_does_not_share_is_told_in_one_line(cluster, tmp_path, monkeypatch):
    engine = RayEngine(tmp_path, 1, runner="analytic:Runner")
    # as on a node whose folder of that name is another one
    monkeypatch.setattr(Path, "touch", lambda self, *arguments, **options: None)
    with pytest.raises(RunError, match="all nodes share"):
        engine.submit(TrialRequest(0))
    engine.stop()
