"""Marks by which a file that was looked at is known again, without opening it."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Stamp: TypeAlias = tuple[int, ...]

SETTLED = 2.5
"""Seconds after which a change to a file is sure to show in its times: on FAT they have steps of two seconds, and
elsewhere of some milliseconds, in which a second change of the same length would not show, nor a new file that got the
number of one just removed."""


def stamp_of(status: os.stat_result) -> Stamp:
    """What is the same of a file while it is the same and nobody writes it."""
    # On Windows, since Python 3.12, fstat() has there when the file was changed, and stat() when it was created.
    changed = 0 if os.name == "nt" else status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, changed


def settled_stamp_of(status: os.stat_result) -> Stamp | None:
    """The same, or None for a file that changed so shortly ago that another change might not show."""
    return stamp_of(status) if max(status.st_mtime, status.st_ctime) + SETTLED < time.time() else None


def settles_in(stamp: Stamp) -> float:
    """SETTLED for one file: less where its time has a fraction of a second, so that the steps are short."""
    return 0.1 if stamp[3] % 1_000_000_000 else SETTLED
