"""Who holds a study, as others are told."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Holder"]


@dataclass(frozen=True)
class Holder:
    """Who holds a study."""

    pid: int
    host: str
    since: str

    @classmethod
    def myself(cls) -> Holder:
        """This process, now."""
        return cls(os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat(timespec="seconds"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"
