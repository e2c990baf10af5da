"""Who runs which trial: a claim is the trial's lock on the server, a sign of life now and then, and a name on it.

Whoever runs a trial is taken for alive while its session holds the trial's lock *or* its last sign of life is recent by
the server's clock. The lock outlives a worker that is busy or suspended, and tells of a killed one at once; the signs
outlive a dropped connection and a restart of the server, which frees every lock. Optuna's own table keeps the signs.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict

from optuna.trial import FrozenTrial

from ..holder import Holder
from ..server_lock import ServerSession
from ..server_record import ServerRecord

__all__ = ["OWNER", "Claims"]

OWNER = "worker"
"""User attribute of a trial: the worker that runs it or ran it, None for one that was given back."""

SIGN = """
INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, now() AT TIME ZONE 'UTC')
ON CONFLICT (trial_id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat
"""
MINE = "SELECT value_json FROM trial_user_attributes WHERE trial_id = :trial AND key = :key"
# a server that was down kept everyone from giving signs
AGE = """
SELECT EXTRACT(EPOCH FROM now() - GREATEST(heartbeat AT TIME ZONE 'UTC', pg_postmaster_start_time()))
FROM trial_heartbeats WHERE trial_id = :trial
"""


class Claims:
    """One worker's claims on trials.

    Args:
        session: The worker's session on the server.
        holder: The worker.
        presumed_dead: Seconds without a sign of life, and without its lock, after which another may take a trial over.
    """

    def __init__(self, session: ServerSession, holder: Holder, presumed_dead: float) -> None:
        self._session = session
        self._presumed_dead = presumed_dead
        self._me = {**asdict(holder), "id": uuid.uuid4().hex}
        self._locked = False

    def take(self, record: ServerRecord, trial: FrozenTrial) -> None:
        """Claim a trial that was just asked."""
        self._locked = self._session.try_number(trial.number)
        self._write(record, trial)

    def take_over(self, record: ServerRecord) -> FrozenTrial | None:
        """Claim the first running trial whose worker is dead or has given it back."""
        running = record.running
        held = self._session.held_numbers() if running else set()
        for trial in running:
            if trial.number in held or not self._session.try_number(trial.number):
                continue
            if trial.user_attrs.get(OWNER) is None or self._is_silent(trial):
                self._locked = True
                self._write(record, trial)
                return trial
            self._session.free_number(trial.number)
        return None

    def is_mine(self, trial: FrozenTrial) -> bool:
        """Whether a trial, as the server has it, ran or runs here."""
        return (trial.user_attrs.get(OWNER) or {}).get("id") == self._me["id"]

    def owner(self, trial: FrozenTrial) -> str:
        """Whoever has a trial, for a person."""
        owner = trial.user_attrs.get(OWNER) or {}
        return f"process {owner['pid']} on {owner['host']}" if "pid" in owner else "another worker"

    def sign(self, trial: FrozenTrial) -> bool:
        """Give a sign of life; False when someone else has taken the trial over."""
        stored = self._session.execute(MINE, trial=trial._trial_id, key=OWNER).scalar()
        if (json.loads(stored or "null") or {}).get("id") != self._me["id"]:
            return False
        self._locked = self._locked or self._session.try_number(trial.number)
        self._session.execute(SIGN, trial=trial._trial_id)
        return True

    def session_lost(self) -> None:
        """The server has freed the lock, or will; the next sign of life takes it again."""
        self._locked = False

    def release(self, trial: FrozenTrial) -> None:
        """The trial is told, or someone else's."""
        if self._locked:
            self._locked = False
            self._session.free_number(trial.number)

    def give_back(self, record: ServerRecord, trial: FrozenTrial) -> None:
        """Leave a running trial to whoever comes first."""
        record.write_attribute(trial.number, OWNER, None)
        self.release(trial)

    def _write(self, record: ServerRecord, trial: FrozenTrial) -> None:
        self._session.execute(SIGN, trial=trial._trial_id)
        record.write_attribute(trial.number, OWNER, self._me)

    def _is_silent(self, trial: FrozenTrial) -> bool:
        age = self._session.execute(AGE, trial=trial._trial_id).scalar()
        # a sign from the future comes from a clock that was set back
        return age is None or abs(float(age)) > self._presumed_dead
