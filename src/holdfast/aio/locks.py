"""Locks that tasks hold, and that never block their event loop."""

from __future__ import annotations

import os
import time
from asyncio import CancelledError, current_task, get_running_loop
from inspect import iscoroutinefunction
from typing import NamedTuple

from holdfast import _core
from holdfast._base import (
    DEFAULT_MODE,
    DEFAULT_POLL_INTERVAL,
    BaseLock,
    check_bool,
    check_mode,
    create_parents,
    resolve_poll_interval,
    resolve_timeout,
)
from holdfast._core import ANY_THREAD, EXCLUSIVE, OFD, OTHER_MODE, SHARED, free, new_lock, release, try_lock
from holdfast.aio import _threads
from holdfast.aio._line import AN_AGE, Line, Turn, line_of
from holdfast.locks import lock_flags, warn_of_lifetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Any, Generic, Literal, NoReturn, ParamSpec, TypeVar

    from typing_extensions import Self

    from holdfast._core import Lock, Waiter
    from holdfast.aio._line import Owner

    P = ParamSpec("P")
    R = TypeVar("R")
    Lock_co = TypeVar("Lock_co", bound="AsyncBaseLock", covariant=True)

    class _OfLock(Generic[Lock_co]): ...

else:

    class _OfLock:
        """Generic, without typing."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))


class _Hold:
    """A lock that a task holds. The descriptor is its own, so that tasks exclude each other like processes."""

    __slots__ = ("core", "line", "owner")

    def __init__(self, core: Lock, line: Line, owner: Owner) -> None:
        self.core = core
        self.line = line
        self.owner = owner


class AsyncAcquireReturnProxy(_OfLock["Lock_co"]):
    """What acquire() returns: a context manager that undoes that acquisition, in whatever task.

    >>> import asyncio
    >>> from holdfast import AsyncFileLock
    >>> async def main():
    ...     async with await AsyncFileLock("app.lock").acquire(timeout=10) as lock:
    ...         assert lock.is_locked
    >>> asyncio.run(main())
    """

    __slots__ = ("_hold", "lock")

    lock: Lock_co

    def __init__(self, lock: Lock_co, hold: _Hold) -> None:
        self.lock = lock
        self._hold = hold

    async def __aenter__(self) -> Lock_co:
        return self.lock

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock._release(self._hold)


class _Acquisition(Turn):
    """A task that waits for a lock."""

    def __init__(self, lock: AsyncBaseLock, how: int, poll: int, owner: Owner, line: Line) -> None:
        super().__init__(line.loop.create_future())
        self.line = line
        self.core: Lock = None  # that a thread waits with
        self._lock = lock
        self._how = how
        self._poll = poll
        self._owner = owner

    def attempt(self) -> int:
        return self._lock._take(self._how, self._owner, self.line)

    def wait(self, began: int, waiter: Waiter) -> int:
        if self.core is None:
            self.core = self._lock._spare_core()
            self._lock._lent.add(self)
        return _core.wait_lock(self.core, self._how, began, began + AN_AGE, self._poll, waiter)

    def settle(self, rc: int, wanted: bool) -> None:
        core, self.core = self.core, None
        if core is None:
            return  # a thread was not needed
        self._lock._lent.discard(self)
        if rc == 0 and wanted:
            self._lock._enter(core, self._owner, self.line)
            return
        if rc == 0:
            release(core)
        self._lock._spare.append(core)


class AsyncBaseLock(BaseLock):
    """What AsyncFileLock and AsyncReadWriteLock share.

    >>> from holdfast import AsyncFileLock
    >>> from holdfast.aio import AsyncBaseLock
    >>> isinstance(AsyncFileLock("app.lock"), AsyncBaseLock)
    True
    """

    _mode = DEFAULT_MODE
    _flags = ANY_THREAD  # one thread may wait for the lock, and another release it
    _spare: list[Lock]  # until the constructor has run

    def _prepare(self) -> None:
        self._holds: dict[Owner, _Hold] = {}
        # Made now, so that a wrong path is refused now.
        self._spare = [self._new_core()]
        self._lent: set[_Acquisition] = set()
        self._everybody = object()
        self._here: tuple[AbstractEventLoop | None, Line | None] = None, None

    # Who holds it

    def _owner(self) -> Owner:
        task = current_task() if self._thread_local else None
        return task or (self._everybody, get_running_loop())

    def _mine(self) -> _Hold | None:
        """What this task holds, or what one held that has ended: it may have been made to acquire it, and no more."""
        hold = self._holds.get(self._owner())
        if hold is None:
            for other in [*self._holds.values()]:
                if _is_over(other.owner):
                    return other
        return hold

    def _line(self) -> Line:
        loop = get_running_loop()
        known, line = self._here
        if known is not loop or line is None:
            line = line_of(loop, "ofd" if self._flags & OFD else "flock", self._lock_file)
            self._here = loop, line
        return line

    def _spare_core(self) -> Lock:
        try:
            return self._spare.pop()
        except IndexError:
            return self._new_core()

    def _new_core(self) -> Lock:
        core = new_lock(self._lock_file, self._mode, self._flags)
        if self._meter is not None:
            _core.measure_lock(core, self._meter)
        return core

    def _take(self, how: int, owner: Owner, line: Line) -> int:
        """Acquire the lock for a task if that needs no waiting, or once more if it holds it: a result of the core."""
        hold = self._holds.get(owner)
        if hold is not None:
            return try_lock(hold.core, how)
        core = self._spare_core()
        rc = try_lock(core, how)
        if rc:
            self._spare.append(core)
        else:
            self._enter(core, owner, line)
        return rc

    def _enter(self, core: Lock, owner: Owner, line: Line) -> None:
        self._holds[owner] = _Hold(core, line, owner)
        line.enter(owner)

    def _release(self, hold: _Hold, force: bool = False) -> None:
        """Undo one acquisition, or all of this hold."""
        if self._holds.get(hold.owner) is not hold:
            return  # it has been released
        rc = _core.release_all(hold.core) if force else release(hold.core)
        if rc > 0:
            return
        del self._holds[hold.owner]
        self._spare.append(hold.core)
        if _is_running(hold.line.loop):
            hold.line.leave(hold.owner)
        else:
            hold.line.forget(hold.owner)
        if rc < 0 and rc != _core.NOT_HELD:
            raise _core.error(rc, self._lock_file)

    # Acquiring

    def _try_here(self, how: int, owner: Owner) -> int:
        """Acquire the lock for a task if that needs no waiting, and nobody else's turn comes first."""
        line = self._line()
        if line.waiting and owner not in self._holds and not line.holds(owner):
            return _core.BUSY
        return self._take(how, owner, line)

    async def _acquire(
        self,
        how: int,
        timeout: float | None = None,
        poll_interval: float | None = None,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AsyncAcquireReturnProxy[Self]:
        if not (timeout is poll_interval is blocking is None):
            self._check_arguments(timeout, poll_interval, blocking)
        owner = self._owner()
        while True:
            rc = self._try_here(how, owner)
            if rc:
                patience = _Patience(
                    resolve_timeout(
                        self._timeout if timeout is None else timeout, self._blocking if blocking is None else blocking
                    ),
                    self._poll_interval if poll_interval is None else resolve_poll_interval(poll_interval),
                    cancel_check,
                )
                await self._acquire_later(rc, how, owner, patience)
            hold = self._holds.get(owner)
            if hold is not None:  # and close() did not come between
                return AsyncAcquireReturnProxy(self, hold)

    async def _acquire_later(self, rc: int, how: int, owner: Owner, patience: _Patience) -> None:
        """Go on after a try that returned `rc`, which is not 0: wait, or raise."""
        if rc == _core.MISSING:
            create_parents(self._lock_file)
            rc = self._try_here(how, owner)
        if rc == _core.BUSY and patience.allowed != 0:
            began = _core.now()
            try:
                rc = await self._wait_in_line(how, owner, patience)
            finally:
                if self._meter is not None:
                    _core.meter_waited(self._meter, _core.now() - began)
        if rc in (_core.BUSY, _core.TIMED_OUT):
            if self._meter is not None:
                _core.meter_add(self._meter, _core.TIMEOUTS, 1)
            error = self._timeout_error(patience.allowed)
            if rc == _core.TIMED_OUT:  # after a wait it is worth while to look now, while they still are
                await _threads.call(lambda: error.holders)
            raise error
        if rc != 0:
            self._fail(rc)

    async def _wait_in_line(self, how: int, owner: Owner, patience: _Patience) -> int:
        line = self._line()
        if patience.allowed < 0 and line.holds(owner):
            self._fail(_core.SELF_DEADLOCK)
        # Never long: a thread that polls notices only then that its wait was ended, and those behind it wait for that.
        poll = int(min(patience.interval, DEFAULT_POLL_INTERVAL) * 1e9)
        turn = _Acquisition(self, how, poll, owner, line)
        line.queue(turn)
        clock = _Clock(turn, line, patience)
        try:
            return await turn.future
        except CancelledError:
            if turn.future.cancelled():
                line.end(turn, _core.CANCELLED)
            elif turn.future.exception() is None and turn.future.result() == 0 and owner in self._holds:
                self._release(self._holds[owner])  # it was granted at that very moment
            raise
        finally:
            clock.stop()

    def _fail(self, rc: int) -> NoReturn:
        if rc == _core.SELF_DEADLOCK:
            raise RuntimeError(
                f"Deadlock: lock '{self._lock_file}' is already held by a different {type(self).__name__} instance in "
                "this task, so the wait would never end. Use the same instance, or is_singleton=True."
            )
        super()._fail(rc)

    # Releasing

    async def release(self, force: bool = False) -> None:  # type: ignore[override]
        """Undo one acquisition by this task; with `force` all of them. Does nothing when the task does not hold it.

        Never waits. A hold of a task that has ended can be released by any; `force` releases all such.

        >>> import asyncio
        >>> from holdfast import AsyncFileLock
        >>> async def main():
        ...     lock = AsyncFileLock("app.lock")
        ...     await lock.acquire()
        ...     await lock.release()
        >>> asyncio.run(main())
        """
        hold = self._mine()
        while hold is not None:
            self._release(hold, force)
            hold = self._mine() if force else None

    def close(self) -> None:
        """Release the lock, whichever tasks hold it, and close its descriptors. It can be acquired again."""
        for hold in [*self._holds.values()]:
            self._release(hold, force=True)
        for turn in [*self._lent]:
            if turn.answer is not None and turn.line.loop.is_closed():
                turn.settle(turn.answer, wanted=False)  # the loop will not hear of it any more
        for core in [*self._spare]:
            _core.close_idle(core)

    @property
    def lock_counter(self) -> int:
        """How often this task has acquired the lock and not released it yet; outside of tasks, how often all have."""
        if not _in_task():
            return sum(_core.count(hold.core) for hold in [*self._holds.values()])
        hold = self._mine()
        return 0 if hold is None else _core.count(hold.core)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lock_file!r}>"

    # The default argument is there when the interpreter, at its end, has emptied this module.
    def __del__(self, _free: Callable[[Lock], None] = free) -> None:
        for hold in getattr(self, "_holds", {}).values():
            _free(hold.core)
            hold.line.forget(hold.owner)
        for core in [*getattr(self, "_spare", ()), *(turn.core for turn in getattr(self, "_lent", ()))]:
            _free(core)


class _Patience(NamedTuple):
    """How many seconds to wait, negative for ever, and what is asked after each `interval` whether to give up."""

    allowed: float
    interval: float
    cancel_check: Callable[[], bool] | None


class _Clock:
    """Ends a turn when its time is over, or when `cancel_check` says so."""

    def __init__(self, turn: Turn, line: Line, patience: _Patience) -> None:
        self._turn = turn
        self._line = line
        self._ends_at = time.monotonic() + patience.allowed if patience.allowed >= 0 else float("inf")
        self._interval = max(patience.interval, 0.001)
        self._cancel_check = patience.cancel_check
        self._timer: Any = None
        self._look()

    def _look(self) -> None:
        left = self._ends_at - time.monotonic()
        try:
            over = left <= 0 or (self._cancel_check is not None and self._cancel_check())
        except BaseException as error:  # noqa: BLE001 - it is raised where the lock is waited for
            if not self._turn.future.done():
                self._turn.future.set_exception(_threads.raisable(error))
            over = True
        if over:
            self._line.end(self._turn, _core.TIMED_OUT)
        elif self._cancel_check is not None:
            self._timer = self._line.loop.call_later(min(left, self._interval), self._look)
        elif left < float("inf"):
            self._timer = self._line.loop.call_later(left, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class AsyncFileLock(AsyncBaseLock):
    """FileLock for asyncio: the same lock, with the same arguments, held by tasks.

    Tasks exclude each other, also with the same object, and each other's processes. A task may acquire a lock again
    while it holds it; with `thread_local=False` all tasks share one hold. A lock that is free is acquired at once. When
    it is not, the task waits in a queue of the loop's, and one thread for all of them in the kernel.

    A task that is cancelled while it waits holds nothing.

    >>> import asyncio
    >>> from holdfast import AsyncFileLock
    >>> async def main():
    ...     async with AsyncFileLock("app.lock", timeout=10) as lock:
    ...         assert lock.is_locked
    >>> asyncio.run(main())
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
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            metrics=metrics,
        )
        check_mode(mode)
        check_bool("thread_local", thread_local)
        check_bool("shared", shared)
        if lifetime is not None:
            warn_of_lifetime(lifetime)
        self._mode = mode
        self._thread_local = thread_local
        self._how = SHARED if shared else EXCLUSIVE
        self._flags = lock_flags(mode, thread_local=False, kind=kind)
        self._prepare()

    async def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AsyncAcquireReturnProxy[Self]:
        """Acquire the lock, or once more if this task holds it already, and return a context manager that releases it.

        The arguments are those of FileLock.acquire(). Raises Timeout when the lock was not acquired.

        >>> import asyncio
        >>> async def main():
        ...     lock = AsyncFileLock("app.lock")
        ...     async with await lock.acquire(timeout=5):
        ...         pass
        >>> asyncio.run(main())
        """
        return await self._acquire(self._how, timeout, poll_interval, blocking, cancel_check)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Make a coroutine function hold the lock while it runs.

        >>> @AsyncFileLock("app.lock")
        ... async def update():
        ...     pass
        """
        from functools import wraps

        if not iscoroutinefunction(function):
            raise TypeError(f"{function!r} is no coroutine function; use FileLock, or take the lock inside it")

        @wraps(function)
        async def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self:
                return await function(*args, **kwargs)

        return locked

    @property
    def mode(self) -> int:
        """The permissions that a new lock file gets."""
        return self._mode

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

    def is_thread_local(self) -> bool:
        """Whether each task holds the lock for itself."""
        return self._thread_local

    def _settings(self) -> dict[str, object]:
        return {
            **super()._settings(),
            "mode": self._mode,
            "thread_local": self._thread_local,
            "shared": self.shared,
            "kind": "ofd" if self._flags & OFD else "flock",
        }


class AsyncReadWriteLock(AsyncBaseLock):
    """ReadWriteLock for asyncio: many tasks and processes read at a time, or one writes.

    Each task holds it for itself and may nest holds of the same kind. There is one instance for each file, unless
    `is_singleton=False`. In one loop, those who wait come in their order: a reader does not overtake a writer.

    >>> import asyncio
    >>> from holdfast.aio import AsyncReadWriteLock
    >>> async def main():
    ...     lock = AsyncReadWriteLock("table.lock")
    ...     async with lock.read_lock():
    ...         pass  # with other readers
    ...     async with lock.write_lock(timeout=10):
    ...         pass  # alone
    >>> asyncio.run(main())
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
        self._prepare()

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """The one instance for a file, as the constructor returns it."""
        return cls(lock_file, timeout, blocking=blocking)

    async def acquire_read(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReturnProxy[Self]:
        """Acquire the lock together with other readers, and return a context manager that releases it.

        Raises Timeout when it took too long, and RuntimeError when this task holds it for writing.
        """
        return await self._acquire(SHARED, timeout, None, blocking)

    async def acquire_write(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReturnProxy[Self]:
        """Acquire the lock alone, and return a context manager that releases it.

        Raises Timeout when it took too long, and RuntimeError when this task holds it for reading.
        """
        return await self._acquire(EXCLUSIVE, timeout, None, blocking)

    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Held:
        """A context manager that holds the lock together with other readers."""
        return Held(self, SHARED, timeout, blocking)

    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Held:
        """A context manager that holds the lock alone."""
        return Held(self, EXCLUSIVE, timeout, blocking)

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        del settings["poll_interval"]  # no argument of this class
        return settings

    def _fail(self, rc: int) -> NoReturn:
        if rc == OTHER_MODE:
            raise RuntimeError(
                f"this task holds '{self._lock_file}' in the other mode; release it before reading what it writes, "
                "or writing what it reads"
            )
        super()._fail(rc)


class Held:
    """An AsyncReadWriteLock held for reading or for writing while an async with block runs."""

    __slots__ = ("_blocking", "_how", "_lock", "_timeout")

    def __init__(self, lock: AsyncReadWriteLock, how: int, timeout: float | None, blocking: bool | None) -> None:
        self._lock = lock
        self._how = how
        self._timeout = timeout
        self._blocking = blocking

    async def __aenter__(self) -> AsyncReadWriteLock:
        await self._lock._acquire(self._how, self._timeout, None, self._blocking)
        return self._lock

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lock.release()


def _is_over(owner: Owner) -> bool:
    return owner[1].is_closed() if isinstance(owner, tuple) else owner.done()


def _in_task() -> bool:
    try:
        return current_task() is not None
    except RuntimeError:  # no loop is running in this thread
        return False


def _is_running(loop: AbstractEventLoop) -> bool:
    try:
        return get_running_loop() is loop
    except RuntimeError:
        return False
