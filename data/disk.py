"""Whether an error means that a disk is full, and what to say then."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = 2**20
_SAID = ("No space left on device", "database or disk is full")


@contextmanager
def telling_when_full(folder: Path) -> Iterator[None]:
    """Raise OSError (ENOSPC) that says what to do, in place of whatever a full disk under `folder` led to."""
    try:
        yield
    except Exception as error:
        if _means_full(error) or shutil.disk_usage(folder).free < NEEDED:
            told = "no space left on its disk; what is finished there is whole. Make room and give the command again"
            raise OSError(errno.ENOSPC, told, str(folder)) from error
        raise


def _means_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says so: libraries wrap it in errors of their own."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or any(said in str(error) for said in _SAID):
            return True
        error = error.__cause__ or error.__context__
    return False
