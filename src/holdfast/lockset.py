"""Several locks taken as one."""

from __future__ import annotations

import os
import time

from holdfast._base import BaseFileLock, Timeout, canonical, resolve_timeout
from holdfast.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


def lock_all(*locks_or_paths: BaseFileLock | str | os.PathLike[str], timeout: float = -1) -> LockSet:
    """Acquire several locks, all or none of them, and return them as a context manager that releases them.

    Everybody who takes locks through lock_all takes them in the same order, that of their resolved paths, whatever
    order they are given in: so no two of them wait for each other. `timeout` is for all locks together; Timeout names
    the one that was missing, and none is held then. A path stands for a FileLock on it, and counts once if given twice
    (if both shared and not, as not shared).

    >>> from holdfast import lock_all
    >>> with lock_all("accounts/1.lock", "accounts/2.lock", timeout=10):
    ...     pass
    """
    locks: dict[str, BaseFileLock] = {}
    for item in locks_or_paths:
        lock = item if isinstance(item, BaseFileLock) else FileLock(item)
        path = canonical(lock.lock_file)
        if path not in locks or (_is_shared(locks[path]) and not _is_shared(lock)):
            locks[path] = lock
    ordered = LockSet([locks[path] for path in sorted(locks)])
    ordered._acquire(resolve_timeout(timeout, True))
    return ordered


def _is_shared(lock: BaseFileLock) -> bool:
    return isinstance(lock, FileLock) and lock.shared


class LockSet:
    """The locks that lock_all() acquired, in the order they were taken.

    >>> from holdfast import lock_all
    >>> held = lock_all("a.lock", "b.lock")
    >>> held.release()
    """

    def __init__(self, locks: list[BaseFileLock]) -> None:
        self._locks = locks
        self._held: list[BaseFileLock] = []

    @property
    def locks(self) -> list[BaseFileLock]:
        """The locks, in the order they were taken."""
        return list(self._locks)

    @property
    def is_locked(self) -> bool:
        """Whether the locks are held."""
        return bool(self._held)

    def _acquire(self, timeout: float) -> None:
        deadline = None if timeout < 0 else time.monotonic() + timeout
        try:
            for lock in self._locks:
                left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    lock.acquire(left, blocking=True)
                except Timeout as missing:
                    raise missing._within(timeout) from None
                self._held.append(lock)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the locks, the last one first. Does nothing when they have been released."""
        errors: list[BaseException] = []
        while self._held:
            try:
                self._held[-1].release()
            except OSError as error:
                errors.append(error)
            self._held.pop()
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "held" if self._held else "not held"
        return f"<{type(self).__name__} {[lock.lock_file for lock in self._locks]!r} {state}>"
