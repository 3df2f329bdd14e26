"""Locks that the kernel keeps, and releases when their holder dies."""

from __future__ import annotations

import os

from holdfast._base import (
    DEFAULT_MODE,
    DEFAULT_POLL_INTERVAL,
    WATCH_ORDER,
    AcquireReturnProxy,
    BaseFileLock,
    check_bool,
    resolve_lifetime,
)
from holdfast._core import ANY_THREAD, EXACT_MODE, EXCLUSIVE, OFD, SHARED, new_lock, release, try_lock
from holdfast._kernel import KernelLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Self

    from holdfast._core import Lock


class FileLock(KernelLock, BaseFileLock):
    """A lock between processes and threads, on a file of its own.

    The file is created when it is missing, with its directory, and stays. The lock is the kernel's: it ends with the
    process, however that ends. Each thread holds it for itself, and may acquire it again while it holds it.

    `timeout` is how many seconds to wait, negative for ever, and `blocking=False` tries only once. `mode` are the
    permissions of a new lock file: the default is narrowed by the umask, any other is set exactly. With
    `thread_local=False` all threads of the process share one hold. `is_singleton=True` returns the same instance for
    the same file. `poll_interval` is the longest time between two looks where the kernel cannot wait until a deadline.
    `shared=True` shares the lock with other shared holders. `kind="ofd"` takes OFD (fcntl) locks instead of flock, for
    programs that use those; the two kinds do not exclude each other, and Windows has only one. `metrics` is the name
    under which holdfast.metrics counts what this lock does, together with others of that name. `lifetime` is refused
    with a warning, because the kernel's locks do not age.

    >>> from holdfast import FileLock
    >>> lock = FileLock("app.lock", timeout=10)
    >>> with lock:
    ...     assert lock.is_locked
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = DEFAULT_MODE,
        thread_local: bool = True,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        lifetime: float | None = None,
        shared: bool = False,
        kind: Literal["flock", "ofd"] = "flock",
        metrics: str | None = None,
    ) -> None:
        super().__init__(
            lock_file,
            timeout,
            mode,
            thread_local,
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            metrics=metrics,
        )
        if lifetime is not None:
            warn_of_lifetime(lifetime)
        if shared is not False:
            check_bool("shared", shared)
        self._how = SHARED if shared else EXCLUSIVE
        self._flags = (
            0 if mode == DEFAULT_MODE and thread_local and kind == "flock" else lock_flags(mode, thread_local, kind)
        )
        self._core = self._measured(self._new_core())

    def _new_core(self) -> Lock:
        return new_lock(self._lock_file, self._mode, self._flags)

    def acquire(  # noqa: D102 - inherited, like those below
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        if not (timeout is poll_interval is blocking is None):
            self._check_arguments(timeout, poll_interval, blocking)
        try:
            rc = try_lock(self._core, self._how)
            if rc:
                self._insist(rc, self._how, timeout, poll_interval, blocking, cancel_check)
            proxy: AcquireReturnProxy[Self] = AcquireReturnProxy()
            proxy.lock = self
            return proxy
        except BaseException:
            self._undo(0)
            raise

    # Like acquire() and release(), without their arguments and their result.

    def __enter__(self) -> Self:
        try:
            rc = try_lock(self._core, self._how)
            if rc:
                self._insist(rc, self._how)
            return self
        except BaseException:
            self._undo(0)
            raise

    def _undo(self, before: int) -> None:
        # Before need not be known. A thread that held the lock has it once more now, because nesting never fails; one
        # that did not hold it holds it now only if it was acquired.
        super()._undo(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rc = release(self._core)
        if rc < 0:
            self._check_release(rc)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A with statement goes through a subclass's own acquire() and release(), too.
        for special, method in (("__enter__", "acquire"), ("__exit__", "release")):
            is_own = getattr(cls, method) is not getattr(FileLock, method)
            if is_own and getattr(cls, special) is getattr(FileLock, special):
                setattr(cls, special, getattr(BaseFileLock, special))

    @property
    def shared(self) -> bool:
        """Whether the lock is shared with other shared holders."""
        return self._how == SHARED

    @property
    def lifetime(self) -> float | None:
        """Always None: the kernel's locks do not age."""
        return None

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        if value is not None:
            warn_of_lifetime(value)

    def _settings(self) -> dict[str, object]:
        return {**super()._settings(), "shared": self.shared, "kind": "ofd" if self._flags & OFD else "flock"}


def lock_flags(mode: int, thread_local: bool, kind: str) -> int:
    """The core's flags for these arguments."""
    if kind not in ("flock", "ofd"):
        raise ValueError(f"kind must be 'flock' or 'ofd', not {kind!r}")
    return (
        (EXACT_MODE if mode != DEFAULT_MODE else 0)
        | (0 if thread_local else ANY_THREAD)
        | (OFD if kind == "ofd" else 0)
    )


def warn_of_lifetime(lifetime: float) -> None:
    """Warn, on the line that calls the constructor or setter, that a kernel's lock has no lifetime."""
    from warnings import warn

    resolve_lifetime(lifetime)
    warn(
        "lifetime is ignored: the kernel releases this lock when its holder dies, and not before; "
        "only SoftFileLock has locks that age",
        stacklevel=4,
    )


if WATCH_ORDER:
    from holdfast._order import watch

    watch(FileLock, taking=("acquire", "__enter__"), giving=("release", "__exit__", "close"))
