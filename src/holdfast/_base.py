"""What all locks have in common: arguments, timeouts, context managers, and the error when it takes too long."""

from __future__ import annotations

import os
from math import isnan

from holdfast import _core, _singletons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

    from typing_extensions import Self

    from holdfast._holders import Holder

    P = ParamSpec("P")
    R = TypeVar("R")
    Lock_co = TypeVar("Lock_co", covariant=True)

    class _OfLock(Generic[Lock_co]): ...

else:

    class _OfLock:
        """Generic, without typing: to import that would cost more than everything else here."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))


# HOLDFAST_DEBUG=order: see holdfast._order.
WATCH_ORDER = "order" in os.environ.get("HOLDFAST_DEBUG", "").split(",")

DEFAULT_MODE = 0o644
"""The permissions of a new lock file unless others are asked for; the umask narrows these, and only these."""

DEFAULT_POLL_INTERVAL = 0.05


class Timeout(TimeoutError):
    """A lock was not acquired in time.

    `lock_file` is its path, and `holders` says who held it, as far as the system can tell.

    >>> from holdfast import FileLock, Timeout
    >>> try:
    ...     with FileLock("app.lock", timeout=0.1):
    ...         pass
    ... except Timeout as error:
    ...     print(error.lock_file, error.holders)
    """

    def __init__(
        self,
        lock_file: str,
        holder: str | None = None,
        *,
        timeout: float | None = None,
        holders: Sequence[Holder] | None = None,
        otherwise: str = "Who holds it cannot be seen from here.",
    ) -> None:
        TimeoutError.__init__(self)  # and not that of another base class, which may ask for the path
        self._lock_file = lock_file
        self._holder = holder  # in the words of whoever raises this
        self._timeout = timeout
        self._holders = None if holders is None else list(holders)
        self._otherwise = otherwise  # what the message says when no holder is known

    @property
    def lock_file(self) -> str:
        """The path of the lock."""
        return self._lock_file

    @property
    def timeout(self) -> float | None:
        """How many seconds the attempt was allowed to take; None when that is not known."""
        return self._timeout

    @property
    def holders(self) -> list[Holder]:
        """Who held the lock: looked up when the attempt gave up, or now if it was a single try."""
        if self._holders is None:
            holders: list[Holder] = []
            try:
                from holdfast._holders import look

                seen = look(self._lock_file)
            except (ImportError, OSError):
                pass  # there may be no descriptor left to import it with, and whoever waited must hear of the Timeout
            else:
                holders += [holder for holder in seen.holders if not holder.waiting]
                if seen.unknown:
                    self._otherwise += f" ({seen.unknown[0].upper()}{seen.unknown[1:]}.)"
            self._holders = holders
        return self._holders

    def _within(self, timeout: float) -> Timeout:
        """The same, of an attempt that was allowed to take this long and of which this one was the last part."""
        holders, otherwise = self.holders, self._otherwise
        return type(self)(self._lock_file, self._holder, timeout=timeout, holders=holders, otherwise=otherwise)

    def __str__(self) -> str:
        waited = self._timeout is not None and self._timeout > 0
        within = f" within {self._timeout:g} seconds" if waited else ""
        who = self._holder or " and ".join(str(holder) for holder in self.holders)
        held = f"It is held by {who}." if who else self._otherwise
        return f"The file lock '{self._lock_file}' could not be acquired{within}. {held}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lock_file!r})"

    def __reduce__(self) -> tuple[type[Timeout], tuple[str], dict[str, Any]]:
        _ = self.holders  # which whoever unpickles it could not look up any more
        return type(self), (self._lock_file,), self.__dict__


class Decorator:
    """What holds a lock while a with block runs can do so while a function runs."""

    __slots__ = ()

    def __enter__(self) -> object:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make a function hold the lock while it runs.

        >>> from holdfast import FileLock
        >>> @FileLock("app.lock")
        ... def update():
        ...     pass
        """
        from functools import wraps

        if getattr(getattr(function, "__code__", None), "co_flags", 0) & 0x2A0:  # coroutines and generators
            raise TypeError(f"{function!r} does not run when it is called; take the lock inside it")

        @wraps(function)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return locked


class AcquireReturnProxy(_OfLock["Lock_co"]):
    """What acquire() returns: a context manager that releases the lock, and does not acquire it again.

    >>> from holdfast import FileLock
    >>> with FileLock("app.lock").acquire(timeout=10) as lock:
    ...     assert lock.is_locked
    """

    __slots__ = ("lock",)

    lock: Lock_co

    def __enter__(self) -> Lock_co:
        return self.lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.release()  # type: ignore[attr-defined]


def seconds(name: str, value: float) -> float:
    """A number of seconds, checked: anything that is a number by itself, so no bool and no string."""
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large to be a number of seconds") from None


def resolve_timeout(timeout: float, blocking: bool) -> float:
    """The timeout of one acquisition: 0 for a single try, -1 for ever."""
    check_bool("blocking", blocking)
    timeout = seconds("timeout", timeout)
    if not blocking:
        return 0.0
    if isnan(timeout):
        raise ValueError("timeout must not be nan")
    return -1.0 if timeout < 0 or timeout == float("inf") else timeout


def default_timeout() -> float:
    """How many seconds to wait for the lock of a file, where nobody said: 10, or what HOLDFAST_TIMEOUT says."""
    text = os.environ.get("HOLDFAST_TIMEOUT")
    if text is None:
        return 10.0
    try:
        return resolve_timeout(float(text), True)
    except ValueError:
        raise ValueError(
            f"the environment variable HOLDFAST_TIMEOUT must be a number of seconds, not {text!r}"
        ) from None


def resolve_poll_interval(poll_interval: float) -> float:
    """A polling interval, checked."""
    poll_interval = seconds("poll_interval", poll_interval)
    if not 0 <= poll_interval < float("inf"):
        raise ValueError(f"poll_interval must be finite and not negative, got {poll_interval!r}")
    return poll_interval


def resolve_lifetime(lifetime: float | None) -> float | None:
    """An age in seconds, checked."""
    if lifetime is None:
        return None
    lifetime = seconds("lifetime", lifetime)
    if not 0 <= lifetime < float("inf"):
        raise ValueError(f"lifetime must be finite and not negative, got {lifetime!r}")
    return lifetime


def check_bool(name: str, value: bool) -> None:
    """Check a switch: a string such as "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def check_mode(mode: int) -> None:
    """Check the permissions for a new lock file."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode must be an int such as 0o644, not {type(mode).__name__}")
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise ValueError(f"mode must be permission bits that let the owner read and write, not {mode:#o}")


def canonical(path: str) -> str:
    """One spelling for all spellings of a lock path. Its last part stays, because a link there is never followed."""
    directory, name = os.path.split(os.path.abspath(path))
    return os.path.normcase(os.path.join(os.path.realpath(directory), name))


def create_parents(path: str) -> None:
    """Create the directory of a lock file, if it is missing."""
    directory = os.path.dirname(path)
    if not directory:
        return
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        text = f"the directory of the lock file cannot be created ({error.strerror}); create it or choose another path"
        raise OSError(error.errno, text, directory) from None


class _SingletonMeta(type):
    """One instance per class and lock file, for those who ask for is_singleton=True."""

    if not TYPE_CHECKING:  # the type checkers are to see the constructors' own signatures

        def __call__(cls, *args: Any, **kwargs: Any) -> BaseLock:
            if not kwargs.get("is_singleton", cls._singleton_by_default):
                return super().__call__(*args, **kwargs)
            # Made first, so that the constructor judges and completes the arguments. It opens nothing.
            return _singletons.find(super().__call__(*args, **kwargs), canonical)


def _make(cls: type[BaseLock], lock_file: str, settings: dict[str, Any]) -> BaseLock:
    return cls(lock_file, **settings)


class BaseLock(metaclass=_SingletonMeta):
    """A lock file, and how long to wait for it."""

    _singleton_by_default = False
    _thread_local = True
    _metrics: str | None = None
    _meter: _core.Meter = None

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float,
        *,
        blocking: bool,
        is_singleton: bool,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        metrics: str | None = None,
    ) -> None:
        path = os.fspath(lock_file)
        self._lock_file = path if type(path) is str else os.fsdecode(path)
        # Most locks are made with the defaults, and to check those would double the cost.
        if not (timeout == -1 and blocking is True and poll_interval == DEFAULT_POLL_INTERVAL):
            resolve_timeout(timeout, blocking)
            timeout = seconds("timeout", timeout)
            poll_interval = resolve_poll_interval(poll_interval)
        if is_singleton is not False:
            check_bool("is_singleton", is_singleton)
        self._timeout = timeout
        self._blocking = blocking
        self._poll_interval = poll_interval
        self._is_singleton = is_singleton
        if metrics is not None:
            self._metrics = metrics
            self._meter = _core.meter_of(metrics)

    # What the kinds of locks differ in.

    def _try(self, how: int) -> int:
        """Acquire the lock if that needs no waiting: a result of the core."""
        raise NotImplementedError

    def _wait(self, how: int, began: int, until: int, poll: int) -> int:
        """Wait for the lock between two moments of the core's clock: a result of the core."""
        raise NotImplementedError

    @property
    def lock_counter(self) -> int:
        """How often the lock has been acquired and not released yet."""
        raise NotImplementedError

    @property
    def is_locked(self) -> bool:
        """Whether the lock is held: by this thread, or with thread_local=False by any."""
        return self.lock_counter > 0

    def release(self, force: bool = False) -> None:
        """Undo one acquisition; with `force` all of them. Does nothing when the lock is not held.

        `force` also releases what threads that have ended still hold.
        """
        raise NotImplementedError

    def _settings(self) -> dict[str, object]:
        """The constructor's arguments, as they would make another lock like this one."""
        return {
            "is_singleton": self._is_singleton,
            "timeout": resolve_timeout(self._timeout, True),
            "blocking": self._blocking,
            "poll_interval": self._poll_interval,
            "metrics": self._metrics,
        }

    def __reduce__(self) -> tuple[Callable[..., BaseLock], tuple[type[BaseLock], str, dict[str, object]]]:
        """A copy, also one pickled to another process, is another lock on the same file, and holds nothing."""
        return _make, (type(self), self._lock_file, self._settings())

    # Acquiring, when the first try did not do.

    def _check_arguments(self, timeout: float | None, poll_interval: float | None, blocking: bool | None) -> None:
        """Refuse wrong arguments of an acquisition, also when the lock is free and nothing depends on them."""
        resolve_timeout(0 if timeout is None else timeout, True if blocking is None else blocking)
        if poll_interval is not None:
            resolve_poll_interval(poll_interval)

    def _insist(
        self,
        rc: int,
        how: int,
        timeout: float | None = None,
        poll_interval: float | None = None,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> None:
        """Go on after a try that returned `rc`, which is not 0: wait, or raise."""
        allowed = resolve_timeout(
            self._timeout if timeout is None else timeout, self._blocking if blocking is None else blocking
        )
        if rc == _core.MISSING:
            create_parents(self._lock_file)
            rc = self._try(how)
        if rc == _core.BUSY and allowed != 0:
            began = _core.now()
            try:
                rc = self._wait_patiently(
                    how,
                    allowed,
                    self._poll_interval if poll_interval is None else resolve_poll_interval(poll_interval),
                    cancel_check,
                )
            finally:
                if self._meter is not None:
                    _core.meter_waited(self._meter, _core.now() - began)
        if rc in (_core.BUSY, _core.TIMED_OUT) and self._meter is not None:
            _core.meter_add(self._meter, _core.TIMEOUTS, 1)
        if rc == _core.BUSY:
            raise self._timeout_error(allowed)
        if rc == _core.TIMED_OUT:
            error = self._timeout_error(allowed)
            _ = error.holders  # after a wait it costs little to look now, while they still are
            raise error
        if rc != 0:
            self._fail(rc)

    def _undo(self, before: int) -> None:
        """Release what was acquired at the moment an exception came, from a signal handler: nobody else would.

        A hold of all threads is left alone, because another thread may have acquired it.
        """
        if self._thread_local and self.lock_counter > before:
            self.release()

    def _proxy(self) -> AcquireReturnProxy[Self]:
        proxy: AcquireReturnProxy[Self] = AcquireReturnProxy()
        proxy.lock = self
        return proxy

    def _timeout_error(self, timeout: float) -> Timeout:
        return Timeout(self._lock_file, timeout=timeout)

    def _wait_patiently(
        self, how: int, timeout: float, poll_interval: float, cancel_check: Callable[[], bool] | None
    ) -> int:
        """Wait until the timeout is over. Python's signal handlers run each time a wait of the core is interrupted."""
        began, deadline = _core.now(), _core.deadline(timeout)
        poll = int(min(poll_interval, 1e6) * 1e9)  # the core counts nanoseconds in 64 bits
        rc = _core.BUSY
        while rc in (_core.BUSY, _core.INTERRUPTED):
            until = deadline
            if cancel_check is not None:
                if cancel_check():
                    return _core.TIMED_OUT
                until = min(deadline, _core.deadline(max(poll_interval, 0.001)))
            rc = self._wait(how, began, until, poll)
            if rc == _core.TIMED_OUT and until < deadline:
                rc = _core.BUSY
        return rc

    def _fail(self, rc: int) -> NoReturn:
        """Raise what a result means."""
        if rc == _core.SELF_DEADLOCK:
            raise RuntimeError(
                f"Deadlock: lock '{self._lock_file}' is already held by a different {type(self).__name__} instance in "
                "this thread, so the wait would never end. Use the same instance, or is_singleton=True."
            )
        raise _core.error(rc, self._lock_file)

    # The arguments, to read and to change.

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""
        return self._lock_file

    @property
    def timeout(self) -> float:
        """How many seconds to wait unless acquire() says otherwise; negative for ever."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        resolve_timeout(value, True)
        self._timeout = seconds("timeout", value)

    @property
    def blocking(self) -> bool:
        """Whether to wait at all unless acquire() says otherwise."""
        return self._blocking

    @blocking.setter
    def blocking(self, value: bool) -> None:
        resolve_timeout(0, value)
        self._blocking = value

    @property
    def poll_interval(self) -> float:
        """The longest time between two looks, in seconds, where the system cannot wait in the kernel."""
        return self._poll_interval

    @poll_interval.setter
    def poll_interval(self, value: float) -> None:
        self._poll_interval = resolve_poll_interval(value)

    @property
    def is_singleton(self) -> bool:
        """Whether this is the one instance of its class for its lock file."""
        return self._is_singleton


class BaseFileLock(BaseLock, Decorator):
    """The common interface of FileLock and SoftFileLock.

    >>> from holdfast import BaseFileLock, FileLock, SoftFileLock
    >>> isinstance(FileLock("app.lock"), BaseFileLock) and isinstance(SoftFileLock("app.lock"), BaseFileLock)
    True
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
        if mode is not DEFAULT_MODE:
            check_mode(mode)
        if thread_local is not True:
            check_bool("thread_local", thread_local)
        self._mode = mode
        self._thread_local = thread_local

    def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        """Acquire the lock, or once more if it is held already, and return a context manager that releases it.

        `timeout`, `poll_interval` and `blocking` default to those of the lock. A negative timeout waits for ever,
        `blocking=False` tries once. `cancel_check` is called at every `poll_interval` of the wait; when it returns
        True the wait is given up. Raises Timeout when the lock was not acquired; the lock is then as it was before.

        >>> from holdfast import FileLock
        >>> lock = FileLock("app.lock")
        >>> with lock.acquire(timeout=5):
        ...     pass
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release the lock, however often it was acquired, and close its descriptors. It can be acquired again."""
        raise NotImplementedError

    @property
    def mode(self) -> int:
        """The permissions that a new lock file gets."""
        return self._mode

    def is_thread_local(self) -> bool:
        """Whether each thread holds the lock for itself."""
        return self._thread_local

    def _settings(self) -> dict[str, object]:
        return {**super()._settings(), "mode": self._mode, "thread_local": self._thread_local}

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        count = self.lock_counter
        state = f"held {count} times" if count > 1 else "held" if count else "not held"
        return f"<{type(self).__name__} {self._lock_file!r} {state}>"
