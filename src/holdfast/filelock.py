"""The bridge to the filelock package: holdfast's locks, where a program expects filelock's.

There are three ways over it: import from here what was imported from filelock; call install(), and whoever imports
filelock gets these locks; or start a program that need not know of it, with `python -m holdfast.filelock program.py`.

>>> from holdfast.filelock import FileLock, Timeout
>>> with FileLock("app.lock", timeout=10):
...     pass

>>> import filelock
>>> isinstance(FileLock("app.lock"), filelock.BaseFileLock) and issubclass(Timeout, filelock.Timeout)
True
"""

from __future__ import annotations

import builtins
import inspect
import os
import sys
from abc import ABCMeta
from functools import cache, lru_cache
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar
from warnings import warn

try:
    import filelock
except ModuleNotFoundError as missing:
    if missing.name != "filelock":
        raise
    raise ImportError(
        "holdfast.filelock needs the filelock package, whose place it takes: pip install 'holdfast[filelock]'",
        name="filelock",
    ) from None

from holdfast import _base, _core, locks, rwlock, softlock
from holdfast._base import AcquireReturnProxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "AcquireReturnProxy",
    "AsyncFileLock",
    "BaseFileLock",
    "FileLock",
    "ReadWriteLock",
    "SoftFileLock",
    "Timeout",
    "install",
    "uninstall",
]

Lock_co = TypeVar("Lock_co", covariant=True)

UNSET_MODE = -1
"""The mode, in filelock, of a lock file whose permissions are 0666 less the umask."""


class Timeout(_base.Timeout, filelock.Timeout):  # type: ignore[misc]  # __reduce__ has another type in each
    """A lock was not acquired in time: holdfast's Timeout, which `except filelock.Timeout` catches.

    >>> import filelock
    >>> from holdfast.filelock import FileLock
    >>> try:
    ...     with FileLock("app.lock", timeout=0.1):
    ...         pass
    ... except filelock.Timeout as error:
    ...     print(error.lock_file, error.holders)
    """


def _exception_group() -> Any:
    try:
        return getattr(builtins, "BaseExceptionGroup", None) or import_module("exceptiongroup").BaseExceptionGroup
    except ImportError:
        raise ValueError("context_error_policy='group' needs Python 3.11, or the package exceptiongroup") from None


class _GroupingProxy(AcquireReturnProxy[Lock_co]):
    """What acquire() of a lock with context_error_policy="group" returns."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock._release_in_context(error)  # type: ignore[attr-defined]


class _Meta(_base._SingletonMeta, ABCMeta):
    """Constructors as in filelock: all arguments are passed by name, and a subclass need not take them all."""

    if not TYPE_CHECKING:  # the type checkers are to see the constructors' own signatures

        def __call__(cls, lock_file: str | os.PathLike[str], *positional: Any, **named: Any) -> _base.BaseLock:
            if cls.__init__ is cls._full_init or len(positional) > len(_POSITIONAL):
                return super().__call__(lock_file, *positional, **named)
            options = {**_defaults(cls._full_init), **dict(zip(_POSITIONAL, positional, strict=False)), **named}
            return super().__call__(lock_file, **_fitting(cls, options))


_POSITIONAL = ("timeout", "mode", "thread_local")


@cache
def _defaults(init: Callable[..., None]) -> dict[str, Any]:
    """The arguments of a constructor that can be left out, and what they are then."""
    parameters = inspect.signature(init).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


@lru_cache(128)  # no more, because classes come and go
def _taken(init: Callable[..., None]) -> set[str] | None:
    """The names of the arguments that a constructor takes; None if it takes any."""
    parameters = inspect.signature(init).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in by_name}


def _fitting(cls: type[Options], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the __init__ of a subclass takes. The others must have been left alone."""
    taken = _taken(cls.__init__)
    if taken is None:
        return options
    unset = _defaults(cls._full_init)
    refused = sorted(name for name in options.keys() - taken if name not in unset or options[name] != unset[name])
    if refused:
        raise TypeError(f"the __init__ of {cls.__name__} does not take {', '.join(refused)}")
    return {name: value for name, value in options.items() if name in taken}


class Options(_base.BaseLock, metaclass=_Meta):
    """What filelock's locks have beyond holdfast's, and what makes ours pass for them."""

    _stands_for: ClassVar[type]
    _full_init: ClassVar[Callable[..., None]]
    _file_is_the_lock: ClassVar[bool] = False

    def _keep(
        self,
        mode: int,
        context_error_policy: Literal["chain", "group"],
        close_error_policy: Literal["default", "raise", "suppress"],
        fallback_to_soft: bool,
        preserve_lock_file: bool,
        on_acquired: Callable[[int], None] | None,
    ) -> None:
        if context_error_policy != "chain":
            _check_choice("context_error_policy", context_error_policy, ("chain", "group"))
            _exception_group()
        if close_error_policy != "default":
            _check_choice("close_error_policy", close_error_policy, ("default", "raise", "suppress"))
        if self._file_is_the_lock and (preserve_lock_file or on_acquired is not None):
            name = "on_acquired" if on_acquired is not None else "preserve_lock_file"
            raise ValueError(
                f"{name} is for FileLock: the file of a {type(self).__name__} is the lock, and goes with it"
            )
        self._asked_mode = mode
        self._context_error_policy: Literal["chain", "group"] = context_error_policy
        self._close_error_policy: Literal["default", "raise", "suppress"] = close_error_policy
        self._fallback_to_soft = fallback_to_soft
        self._preserve_lock_file = preserve_lock_file
        self._on_acquired = on_acquired

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inner = sorted({"_acquire", "_release"} & vars(cls).keys())
        if inner:
            raise TypeError(
                f"{cls.__name__} defines {' and '.join(inner)}, which filelock's locks call and holdfast's do not; "
                "override acquire() and release(), or derive it from filelock.BaseFileLock"
            )

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        # Filelock's own are instances, too: after install() a program may have both.
        return True if vars(cls).get("_stands_for") in other.__mro__ else NotImplemented

    def _timeout_error(self, timeout: float) -> Timeout:
        return Timeout(self._lock_file, timeout=timeout, otherwise=super()._timeout_error(timeout)._otherwise)

    def _grouped(self, error: BaseException | None, failure: BaseException) -> BaseException | None:
        """The group to raise when a block has ended with an exception, and then the release has failed, if any."""
        if error is None or self._context_error_policy == "chain":
            return None
        failure.__context__ = None  # it stands beside this one now, and not behind it
        text = f"the block failed, and then the release of its lock '{self._lock_file}'"
        group: BaseException = _exception_group()(text, [error, failure])
        return group

    @property
    def mode(self) -> int:
        """The permissions that were asked for, or else 0644; but see `has_explicit_mode`."""
        return self._asked_mode if self.has_explicit_mode else _base.DEFAULT_MODE

    @property
    def has_explicit_mode(self) -> bool:
        """Whether a mode was asked for. If not a new lock file gets 0666 less the umask, whatever `mode` says."""
        return self._asked_mode != UNSET_MODE

    @property
    def context_error_policy(self) -> Literal["chain", "group"]:
        """What becomes of an exception in a block whose lock then cannot be released: a context, or part of a group."""
        return self._context_error_policy

    @property
    def close_error_policy(self) -> Literal["default", "raise", "suppress"]:
        """As it was given. It has no effect: a release does not close the descriptor here."""
        return self._close_error_policy

    @property
    def fallback_to_soft(self) -> bool:
        """As it was given. It has no effect: on a file system without locks acquire() raises OSError."""
        return self._fallback_to_soft

    @property
    def preserve_lock_file(self) -> bool:
        """As it was given. The file of a FileLock stays in any case."""
        return self._preserve_lock_file

    @property
    def on_acquired(self) -> Callable[[int], None] | None:
        """What is called with the lock's descriptor each time that it is acquired and was not held before."""
        return self._on_acquired

    def _settings(self) -> dict[str, object]:
        settings = {
            **super()._settings(),
            "mode": self._asked_mode,
            "context_error_policy": self._context_error_policy,
            "close_error_policy": self._close_error_policy,
            "fallback_to_soft": self._fallback_to_soft,
            "preserve_lock_file": self._preserve_lock_file,
            "on_acquired": self._on_acquired,
        }
        return {name: settings[name] for name in _defaults(type(self)._full_init) if name in settings}


class BaseFileLock(Options, _base.BaseFileLock):
    """The common interface of FileLock and SoftFileLock here, which filelock takes for its own.

    >>> import filelock
    >>> from holdfast.filelock import BaseFileLock, SoftFileLock
    >>> issubclass(SoftFileLock, BaseFileLock) and issubclass(BaseFileLock, filelock.BaseFileLock)
    True
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = UNSET_MODE,
        thread_local: bool = True,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = _base.DEFAULT_POLL_INTERVAL,
        lifetime: float | None = None,
        context_error_policy: Literal["chain", "group"] = "chain",
        close_error_policy: Literal["default", "raise", "suppress"] = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], None] | None = None,
    ) -> None:
        self._keep(mode, context_error_policy, close_error_policy, fallback_to_soft, preserve_lock_file, on_acquired)
        super().__init__(  # type: ignore[call-arg]  # that of FileLock or SoftFileLock
            lock_file,
            timeout,
            self.mode,
            thread_local,
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            lifetime=lifetime,  # pyright: ignore[reportCallIssue]
        )
        self._complete()

    def _complete(self) -> None:
        """What is left to do of __init__."""

    def acquire(  # noqa: D102 - inherited, like those below
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        poll_intervall: float | None = None,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        if poll_intervall is not None:
            warn("poll_intervall is an old spelling of poll_interval", DeprecationWarning, stacklevel=2)
            poll_interval = poll_intervall
        if timeout is poll_interval is blocking is None and cancel_check is None:
            proxy = super().acquire()
        else:
            proxy = super().acquire(timeout, poll_interval, blocking=blocking, cancel_check=cancel_check)
        try:
            if self._context_error_policy == "group":
                grouping: _GroupingProxy[Self] = _GroupingProxy()
                grouping.lock = self
                proxy = grouping
            if self._on_acquired is not None:
                self._tell(self._on_acquired)
            return proxy
        except BaseException:
            super().release()  # not a subclass's own, which may count what it has not counted yet
            raise

    def _tell(self, on_acquired: Callable[[int], None]) -> None:
        """Call on_acquired, if the lock was not held before."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_in_context(error)

    def _release_in_context(self, error: BaseException | None) -> None:
        """Release the lock at the end of a block that has ended with this exception.

        The one private name that is the same in filelock, whose AcquireReturnProxy calls it.
        """
        try:
            self.release()
        except BaseException as failure:
            group = self._grouped(error, failure)
            if group is None:
                raise
            raise group from None


BaseFileLock._full_init = BaseFileLock.__init__


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


class _Telling:
    """Whether on_acquired has been called for the hold that all threads share, and whose turn it is to see to that."""

    __slots__ = ("done", "turn")

    def __init__(self) -> None:
        self.turn = RLock()
        self.done = False


class FileLock(BaseFileLock, locks.FileLock):
    """holdfast's FileLock with the arguments, attributes and exceptions of filelock's.

    `on_acquired` is called with the descriptor of the locked file each time that the lock is acquired and was not held
    before. If it raises, the lock is released again. On Windows the descriptor is good for os.fstat() only.

    >>> import os
    >>> from holdfast.filelock import FileLock
    >>> with FileLock("app.lock", timeout=10, on_acquired=lambda fd: print(os.fstat(fd).st_size)) as lock:
    ...     assert lock.is_locked and lock.lock_counter == 1
    0
    """

    def _new_core(self) -> _core.Lock:
        mode, flags = (self._mode, _core.EXACT_MODE) if self.has_explicit_mode else (0o666, 0)
        return _core.new_lock(self._lock_file, mode, flags | (0 if self._thread_local else _core.ANY_THREAD))

    def _complete(self) -> None:
        self._tellings: dict[int, _Telling] = {}
        cls = type(self)
        is_our_own = (cls.acquire, cls.release) == _OUR_OWN
        self._is_plain = is_our_own and self._on_acquired is None and self._context_error_policy == "chain"

    # A with statement goes the shortest way, but not past what a subclass, or a test, has put in the place of a method.

    def __enter__(self) -> Self:
        if self._is_plain:
            super().__enter__()
        else:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_plain:
            locks.FileLock.__exit__(self, kind, error, trace)
        else:
            self._release_in_context(error)

    def release(self, force: bool = False) -> None:  # noqa: D102 - inherited
        if force or self._on_acquired is not None:
            telling = self._telling
            with telling.turn:
                super().release(force)
                telling.done = self.lock_counter > 0
        elif (rc := _core.release(self._core)) < 0:
            self._check_release(rc)

    def _tell(self, on_acquired: Callable[[int], None]) -> None:
        if self._thread_local:
            if _core.count(self._core) == 1:
                lend(self._core, on_acquired)
            return
        telling = self._telling  # the count does not tell, because another thread may have nested already
        with telling.turn:
            if not telling.done:
                telling.done = True  # before it is, because on_acquired may nest, too
                try:
                    lend(self._core, on_acquired)
                except BaseException:
                    telling.done = False
                    raise

    @property
    def _telling(self) -> _Telling:
        """That of this process: a forked child holds nothing, and has no thread that could be in the midst of it."""
        return self._tellings.setdefault(os.getpid(), _Telling())


def lend(core: _core.Lock, borrower: Callable[[int], None]) -> None:
    """Call a function with the descriptor by which this thread holds the lock."""
    opened = _core.descriptor(core)
    if sys.platform == "win32":
        import _winapi
        from msvcrt import open_osfhandle

        me = _winapi.GetCurrentProcess()  # the handle is copied, because to close its descriptor would close it
        copy = _winapi.DuplicateHandle(me, opened, me, 0, False, _winapi.DUPLICATE_SAME_ACCESS)
        descriptor = open_osfhandle(copy, os.O_RDWR | os.O_NOINHERIT)
        try:
            borrower(descriptor)
        finally:
            os.close(descriptor)
    else:
        borrower(opened)


if _base.WATCH_ORDER:
    from holdfast._order import watch

    watch(FileLock, taking=(), giving=("release",))

_OUR_OWN: tuple[object, object] = FileLock.acquire, FileLock.release


class SoftFileLock(BaseFileLock, softlock.SoftFileLock):
    """holdfast's SoftFileLock with the arguments, attributes and exceptions of filelock's.

    >>> from holdfast.filelock import SoftFileLock
    >>> with SoftFileLock("soft.lock", timeout=10) as lock:
    ...     assert lock.is_lock_held_by_us
    """

    _file_is_the_lock = True


if TYPE_CHECKING:
    from holdfast._filelock_aio import AsyncFileLock


def __getattr__(name: str) -> Any:
    """AsyncFileLock, the first time that somebody wants it."""
    if name != "AsyncFileLock":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; filelock's own may be what you want")
    from holdfast._filelock_aio import AsyncFileLock

    globals()[name] = AsyncFileLock
    return AsyncFileLock


class ReadWriteLock(rwlock.ReadWriteLock):
    """holdfast's ReadWriteLock, which raises what `except filelock.Timeout` catches.

    The class of this name in filelock is a database. The two do not exclude each other: all programs that share a lock
    must change at once, and install() leaves filelock's alone.

    >>> from holdfast.filelock import ReadWriteLock
    >>> with ReadWriteLock("table.lock").read_lock():
    ...     pass
    """

    def _timeout_error(self, timeout: float) -> Timeout:
        return Timeout(self._lock_file, timeout=timeout)


def stand_for(ours: type[Options], theirs: Any) -> None:
    """Have instances of ours count as theirs, and the other way round."""
    theirs.register(ours)
    ours._stands_for = theirs


stand_for(BaseFileLock, filelock.BaseFileLock)
stand_for(FileLock, filelock.FileLock)
stand_for(SoftFileLock, filelock.SoftFileLock)


class _Swap(NamedTuple):
    """A name that stands for something of ours instead of theirs."""

    names: dict[str, Any]  # of a module
    name: str
    theirs: object
    ours: object


_mutex = RLock()
_swaps: list[_Swap] = []

if hasattr(os, "register_at_fork"):  # a forked child never finds this half done
    os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_mutex.release)


class _Installed:
    """What install() returns: a context manager that undoes what this call of it has done."""

    def __init__(self, *, is_news: bool) -> None:
        self._is_news = is_news

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._is_news:
            uninstall()


def install() -> _Installed:
    """Have filelock give out holdfast's locks, in this process, from now on or while a with block runs.

    FileLock, SoftFileLock and AsyncFileLock are exchanged in filelock itself, and in the modules that are loaded
    already, under whatever names they have them. Classes derived from filelock's before, and locks made before, stay as
    they are; both kinds exclude each other. A second call does nothing.

    >>> import filelock, holdfast.filelock
    >>> with holdfast.filelock.install():
    ...     type(filelock.FileLock("app.lock"))
    <class 'holdfast.filelock.FileLock'>
    """
    with _mutex:
        if _swaps:
            return _Installed(is_news=False)
        ours = [FileLock, SoftFileLock]
        if "filelock.asyncio" in sys.modules:
            ours.append(__getattr__("AsyncFileLock"))
        exchange = {id(cls._stands_for): cls for cls in ours}
        for names in _namespaces():
            for name, value in list(names.items()):
                if id(value) in exchange:
                    _swaps.append(_Swap(names, name, value, exchange[id(value)]))
        late: Any = getattr(filelock, "__getattr__", None)
        if late is not None:
            _swaps.append(_Swap(sys.modules["filelock"].__dict__, "__getattr__", late, _with_our_async_lock(late)))
        for swap in _swaps:
            swap.names[swap.name] = swap.ours
        return _Installed(is_news=True)


def _with_our_async_lock(theirs: Callable[[str], object]) -> Callable[[str], object]:
    """What finds the names in filelock that are not there until they are wanted."""
    async_names = ("AsyncFileLock", f"Async{FileLock._stands_for.__name__}")
    return lambda name: __getattr__("AsyncFileLock") if name in async_names else theirs(name)


def uninstall() -> None:
    """Undo install(): the names it has changed, and that nobody has changed since, are filelock's again.

    What a module has imported meanwhile stays as it was imported. Does nothing when nothing is installed.

    >>> import filelock, holdfast.filelock
    >>> theirs = filelock.FileLock
    >>> _ = holdfast.filelock.install()
    >>> holdfast.filelock.uninstall()
    >>> filelock.FileLock is theirs
    True
    """
    with _mutex:
        for swap in _swaps:
            if swap.names.get(swap.name) is swap.ours:
                swap.names[swap.name] = swap.theirs
        _swaps.clear()


def _namespaces() -> Iterator[dict[str, Any]]:
    """The names in each loaded module, but for those inside filelock, whose classes build on each other, and ours."""
    for name, module in list(sys.modules.items()):
        # By its type: a library of cffi says that it is a module, and has no names on PyPy.
        if issubclass(type(module), ModuleType) and not name.startswith(("filelock.", "holdfast.")):
            yield object.__getattribute__(module, "__dict__")  # this way a lazy module does not load


def main(arguments: Sequence[str]) -> None:
    """Run a program as Python would, with install() done: `program.py ...` or `-m module ...`."""
    is_module = arguments[:1] == ["-m"]
    argv = list(arguments[is_module:])
    if not argv or (argv[0].startswith("-") and not is_module):
        raise SystemExit("usage: python -m holdfast.filelock [-m module | program.py] [argument ...]")
    from runpy import run_module, run_path

    install()
    sys.argv = argv
    if is_module:
        run_module(argv[0], run_name="__main__", alter_sys=True)
    else:
        if not getattr(sys.flags, "safe_path", sys.flags.isolated):
            sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
        run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    # What runs as __main__ is a second copy, with classes of its own.
    import_module("holdfast.filelock").main(sys.argv[1:])
