"""Files that a reader sees whole or not at all, whatever crashes while they are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["PART", "published"]

PART = ".part"
"""How the name of a file ends that is not whole yet."""


@contextmanager
def published(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write that gets its name only once it is whole and on disk; after a fault nothing is left."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
