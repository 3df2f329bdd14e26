"""A lock that many readers or one writer can hold."""

from __future__ import annotations

import os

from holdfast._base import DEFAULT_MODE, AcquireReturnProxy, BaseLock
from holdfast._core import (
    EXCLUSIVE,
    NOT_HELD,
    NULL,
    OTHER_MODE,
    SHARED,
    WATCH_ORDER,
    close_idle,
    count,
    error,
    free,
    new_lock,
    release,
    release_all,
    try_lock,
    wait_lock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from holdfast._core import Lock


class ReadWriteLock(BaseLock):
    """A lock between processes and threads that many readers share and writers have for themselves.

    Each thread holds it for itself and may nest holds of the same kind. A reader that wants to write, or a writer that
    wants to read, releases first; anything else raises RuntimeError, because two readers who both wait to become the
    writer would wait for ever. The kernel keeps no queue between the kinds: readers that always overlap can keep a
    writer waiting.

    There is one instance for each file, unless `is_singleton=False`.

    >>> from holdfast import ReadWriteLock
    >>> lock = ReadWriteLock("table.lock")
    >>> with lock.read_lock():
    ...     pass  # with other readers
    >>> with lock.write_lock(timeout=10):
    ...     pass  # alone
    """

    _singleton_by_default = True
    _core: Lock = None  # until there is one

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
    ) -> None:
        super().__init__(lock_file, timeout, blocking=blocking, is_singleton=is_singleton)
        self._core = new_lock(self._lock_file, DEFAULT_MODE, 0)

    def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Acquire the lock together with other readers, and return a context manager that releases it.

        Raises Timeout when it took too long, and RuntimeError when this thread holds it for writing.

        >>> lock = ReadWriteLock("table.lock")
        >>> with lock.acquire_read(timeout=1):
        ...     pass
        """
        return self._acquire(SHARED, timeout, blocking=blocking)

    def acquire_write(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Acquire the lock alone, and return a context manager that releases it.

        Raises Timeout when it took too long, and RuntimeError when this thread holds it for reading.

        >>> lock = ReadWriteLock("table.lock")
        >>> with lock.acquire_write(blocking=False):
        ...     pass
        """
        return self._acquire(EXCLUSIVE, timeout, blocking=blocking)

    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Held:
        """A context manager that holds the lock together with other readers.

        >>> with ReadWriteLock("table.lock").read_lock():
        ...     pass
        """
        return Held(self, SHARED, timeout, blocking)

    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Held:
        """A context manager that holds the lock alone.

        >>> with ReadWriteLock("table.lock").write_lock():
        ...     pass
        """
        return Held(self, EXCLUSIVE, timeout, blocking)

    def release(self, force: bool = False) -> None:
        """Undo this thread's latest acquisition; with `force` all of them. Does nothing when it holds nothing."""
        rc = release_all(self._core) if force else release(self._core)
        if rc < 0 and rc != NOT_HELD:
            raise error(rc, self._lock_file)

    def close(self) -> None:
        """Release the lock, however often it was acquired, and close its descriptors. It can be acquired again."""
        self.release(force=True)
        close_idle(self._core)

    @property
    def lock_counter(self) -> int:
        """How often this thread has acquired the lock and not released it yet."""
        return count(self._core)

    @property
    def is_locked(self) -> bool:
        """Whether this thread holds the lock, for reading or for writing."""
        return count(self._core) > 0

    def _acquire(self, how: int, timeout: float | None, *, blocking: bool | None) -> AcquireReturnProxy[Self]:
        if not (timeout is blocking is None):
            self._check_arguments(timeout, None, blocking)
        before = count(self._core)
        try:
            rc = try_lock(self._core, how)
            if rc:
                self._insist(rc, how, timeout, None, blocking)
            proxy: AcquireReturnProxy[Self] = AcquireReturnProxy()
            proxy.lock = self
            return proxy
        except BaseException:
            self._undo(before)
            raise

    def _try(self, how: int) -> int:
        return try_lock(self._core, how)

    def _wait(self, how: int, began: int, until: int, poll: int) -> int:
        return wait_lock(self._core, how, began, until, poll, NULL)

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        del settings["poll_interval"]  # no argument of this class
        return settings

    def _fail(self, rc: int) -> NoReturn:
        if rc == OTHER_MODE:
            raise RuntimeError(
                f"this thread holds '{self._lock_file}' in the other mode; release it before reading what it writes, "
                "or writing what it reads"
            )
        super()._fail(rc)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lock_file!r}>"

    # The default argument is there when the interpreter, at its end, has emptied this module.
    def __del__(self, _free: Callable[[Lock], None] = free) -> None:
        if self._core is not None:
            _free(self._core)


class Held:
    """A ReadWriteLock held for reading or for writing while a with block runs."""

    __slots__ = ("_blocking", "_how", "_lock", "_timeout")

    def __init__(self, lock: ReadWriteLock, how: int, timeout: float | None, blocking: bool | None) -> None:
        self._lock = lock
        self._how = how
        self._timeout = timeout
        self._blocking = blocking

    def __enter__(self) -> ReadWriteLock:
        self._lock._acquire(self._how, self._timeout, blocking=self._blocking)
        return self._lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


if WATCH_ORDER:
    from holdfast._order import watch

    watch(ReadWriteLock, taking=("_acquire",), giving=("release", "close"))
