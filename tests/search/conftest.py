"""Makes `analytic`, the problem that these tests run, importable here and in worker processes."""

import sys
from pathlib import Path

import optuna
import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server, skipped where none is installed; `database()` gives the URL of an empty one."""
    pytest.importorskip("psycopg")
    from postgresql import Server, binaries

    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    server = Server(folder)
    yield server
    server.remove()
