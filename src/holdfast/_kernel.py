"""What FileLock and ReadWriteLock share: a lock of the core."""

from __future__ import annotations

import time

from holdfast._base import BaseLock
from holdfast._core import (
    NOT_HELD,
    NULL,
    close_idle,
    count,
    error,
    free,
    holding_threads,
    measure_lock,
    release,
    release_all,
    try_lock,
    wait_lock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast._core import Lock


class KernelLock(BaseLock):
    """A lock that the kernel keeps. Nesting, threads and fork are the core's business."""

    _core: Lock = None  # until there is one

    def _measured(self, core: Lock) -> Lock:
        """A new lock of the core, which counts if this one does."""
        if self._meter is not None:
            measure_lock(core, self._meter)
        return core

    def release(self, force: bool = False) -> None:
        self._check_release(self._release_all() if force else release(self._core))

    def _check_release(self, rc: int) -> None:
        if rc < 0 and rc != NOT_HELD:
            raise error(rc, self._lock_file)

    def close(self) -> None:
        """Release the lock, however often it was acquired, and close its descriptors. It can be acquired again."""
        self.release(force=True)
        close_idle(self._core)

    @property
    def lock_counter(self) -> int:
        """How often the lock has been acquired and not released yet."""
        return count(self._core)

    def _try(self, how: int) -> int:
        return try_lock(self._core, how)

    def _wait(self, how: int, began: int, until: int, poll: int) -> int:
        return wait_lock(self._core, how, began, until, poll, NULL)

    def _release_all(self) -> int:
        """Release this thread's hold and those of threads that have ended.

        A thread ends for the system a little later than for Python, and is waited for.
        """
        rc = release_all(self._core)
        patience = 1000
        while rc == 0 and patience and self._is_held_by_an_ending_thread():
            time.sleep(0.0001)
            patience -= 1
            rc = release_all(self._core)
        return rc

    def _is_held_by_an_ending_thread(self) -> bool:
        holding = holding_threads(self._core)
        if not holding:
            return False
        from sys import _current_frames
        from threading import enumerate as living_threads

        return not holding <= {thread.ident for thread in living_threads()} | _current_frames().keys()

    # The default argument is there when the interpreter, at its end, has emptied this module.
    def __del__(self, _free: Callable[[Lock], None] = free) -> None:
        if self._core is not None:
            _free(self._core)
