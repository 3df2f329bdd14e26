"""A lock that many readers or one writer can hold."""

from __future__ import annotations

import os

from holdfast._base import DEFAULT_MODE, WATCH_ORDER, AcquireReturnProxy, Decorator
from holdfast._core import EXCLUSIVE, OTHER_MODE, SHARED, count, new_lock, try_lock
from holdfast._kernel import KernelLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self


class ReadWriteLock(KernelLock):
    """A lock between processes and threads that many readers share and writers have for themselves.

    Each thread holds it for itself and may nest holds of the same kind. A reader that wants to write, or a writer that
    wants to read, releases first; anything else raises RuntimeError, because two readers who both wait to become the
    writer would wait for ever. The kernel keeps no queue between the kinds: readers that always overlap can keep a
    writer waiting.

    There is one instance for each file, unless `is_singleton=False`. `metrics` is as for FileLock. The class of this
    name in filelock is a database: the two do not exclude each other.

    >>> from holdfast import ReadWriteLock
    >>> lock = ReadWriteLock("table.lock")
    >>> with lock.read_lock():
    ...     pass  # with other readers
    >>> with lock.write_lock(timeout=10):
    ...     pass  # alone
    """

    _singleton_by_default = True

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        metrics: str | None = None,
    ) -> None:
        super().__init__(lock_file, timeout, blocking=blocking, is_singleton=is_singleton, metrics=metrics)
        self._core = self._measured(new_lock(self._lock_file, DEFAULT_MODE, 0))

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """The one instance for a file, as the constructor returns it."""
        return cls(lock_file, timeout, blocking=blocking)

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

    def _acquire(self, how: int, timeout: float | None, *, blocking: bool | None) -> AcquireReturnProxy[Self]:
        if not (timeout is blocking is None):
            self._check_arguments(timeout, None, blocking)
        before = count(self._core)
        try:
            rc = try_lock(self._core, how)
            if rc:
                self._insist(rc, how, timeout, None, blocking)
            return self._proxy()
        except BaseException:
            self._undo(before)
            raise

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


class Held(Decorator):
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
