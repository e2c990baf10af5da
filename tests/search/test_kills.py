import os

import pytest
import random_kills

# 200 by hand: python tests/search/random_kills.py DIR --kills 200
KILLS = int(os.environ.get("FORGEFRONT_KILLS", "5"))


@pytest.mark.parametrize("workers", [1, 3])
def test_kills_of_coordinators_and_workers_lose_nothing(tmp_path, workers):
    run = tmp_path / "run"
    trials = 16
    done = random_kills.kill_at_random(run, kills=KILLS, trials=trials, workers=workers, seed=workers)
    assert sum(done.values()) == KILLS
    random_kills.check(run, trials=trials, workers=workers)
