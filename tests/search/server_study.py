"""Independent workers on the analytic problem: ``python server_study.py RUN URL``, many of them with ``--workers``."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

import analytic
import optuna

from forgefront.search.engines.processes import ProcessEngine
from forgefront.search.engines.serial import SerialEngine
from forgefront.search.run_folder import RunFolder
from forgefront.search.samplers.nsga2 import nsga2
from forgefront.search.stopping import StopRules
from forgefront.search.workers.worker import Worker


def worker(run, url, *, trials, presumed_dead=1.0, processes=False, runner="random_kills:LoggingRunner", **changes):
    folder = RunFolder.create(run, "")
    engine = (ProcessEngine if processes else SerialEngine)(folder.path, 1, runner=runner)
    rules = StopRules(trials, **{key: changes.pop(key) for key in ("timeout", "device_hours") if key in changes})
    sampler = nsga2(analytic.SPACE, analytic.SEED, population=6)
    return Worker(
        folder, analytic.problem(**changes), engine, sampler, rules=rules, url=url, presumed_dead=presumed_dead
    )


def begin(run: str, url: str, trials: int) -> int:
    """A worker in a forked process, which shares what is imported already."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            worker(run, url, trials=trials).run()
            code = 0
        finally:
            os._exit(code)
    return child


def swarm(run: str, url: str, *, trials: int, workers: int, kills: int, seed: int) -> None:
    """Let `workers` work, kill `kills` of them at random, each replaced by another, and wait for the end."""
    draw, log = random.Random(seed), Path(run) / "executions.log"
    RunFolder.create(run, "")
    alive = [begin(run, url, trials) for _ in range(workers)]
    for kill in range(kills):
        # spread over the study, the last ones among its last trials
        due = trials * (kill + 1) // (kills + 1)
        while (log.read_text().count("stored") if log.exists() else 0) < due:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.05))
        victim = alive.pop(draw.randrange(len(alive)))
        os.kill(victim, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
        alive.append(begin(run, url, trials))
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in alive] == [0] * workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("url")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if given.workers:
        swarm(given.run, given.url, trials=given.trials, workers=given.workers, kills=given.kills, seed=given.seed)
        return

    def say(event) -> None:
        print(type(event).__name__, getattr(event, "number", ""), flush=True)

    worker(given.run, given.url, trials=given.trials, processes=given.processes).run(say)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
