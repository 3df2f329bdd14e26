"""Locks whose existence is the lock, for file systems without kernel locks."""

from __future__ import annotations

import os
import sys
import time
from atexit import register as at_exit
from threading import RLock, Thread, current_thread
from weakref import WeakValueDictionary

from holdfast import _core
from holdfast._base import (
    DEFAULT_MODE,
    DEFAULT_POLL_INTERVAL,
    WATCH_ORDER,
    AcquireReturnProxy,
    BaseFileLock,
    Timeout,
    canonical,
    resolve_lifetime,
)
from holdfast._temporary import sweep, temporary_path
from holdfast.owner import LONGEST_RECORD, Owner, host_name, owner_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from holdfast._core import MarkerSlot
    from holdfast._stamp import Stamp

_FIRST_NAP = 0.0005  # seconds
_WRITABLE_BY_OTHERS = 0o022  # a record that others may write could say anything


class SoftFileLock(BaseFileLock):
    """A lock between processes and threads whose file exists while it is held.

    It needs nothing of a file system but that two processes cannot create the same file, and works where the kernel's
    locks do not. The file names its owner: if that process has died, on this host, the next one to come takes the lock
    over. After a power cut or on another host, that takes `lifetime`, or somebody who removes the file.

    The arguments are those of FileLock. With `lifetime` the lock is also taken over when its file is older than that
    many seconds, although its owner may live: only for owners that are never slower.

    >>> from holdfast import SoftFileLock
    >>> with SoftFileLock("soft.lock", timeout=10):
    ...     pass
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
        metrics: str | None = None,
    ) -> None:
        self._holds: dict[Thread | None, _Hold] = {}  # by thread, or all threads' under None
        self._mutex = RLock()
        self._in_transition = False  # seen by a signal handler of the thread that has the mutex
        self._verdict: _Verdict | None = None  # on the marker that was in the way last
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
        _core.encode(self._lock_file)
        if self._lock_file[-1:] in (os.sep, os.altsep):
            raise _core.error(_core.NOT_A_FILE, self._lock_file)
        self._lifetime = resolve_lifetime(lifetime)
        _alive[id(self)] = self

    def acquire(  # noqa: D102 - inherited, like those below
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        self._check_arguments(timeout, poll_interval, blocking)
        before = self.lock_counter
        try:
            rc = self._try(_core.EXCLUSIVE)
            if rc:
                self._insist(rc, _core.EXCLUSIVE, timeout, poll_interval, blocking, cancel_check)
            return self._proxy()
        except BaseException:
            self._undo(before)
            raise

    def release(self, force: bool = False) -> None:  # noqa: D102
        with self._mutex:
            if self._in_transition:
                return  # a signal handler of this thread: what it interrupted decides
            self._in_transition = True
            try:
                self._give_back(force)
            finally:
                self._in_transition = False

    def _give_back(self, force: bool) -> None:
        hold = self._holds.get(self._me())
        if hold is not None and hold.count > 1 and not force:
            hold.count -= 1
            return
        self._drop(self._me())
        if force:
            for thread in [thread for thread in self._holds if thread and not thread.is_alive()]:
                self._drop(thread)

    def close(self) -> None:
        """Release the lock, however often it was acquired. It can be acquired again."""
        self.release(force=True)

    @property
    def lock_counter(self) -> int:
        """How often the lock has been acquired and not released yet."""
        hold = self._holds.get(self._me())
        return 0 if hold is None else hold.count

    @property
    def lifetime(self) -> float | None:
        """The age in seconds at which the lock may be taken over from a living owner; None for never."""
        return self._lifetime

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        self._lifetime = resolve_lifetime(value)

    @property
    def pid(self) -> int | None:
        """The process that holds the lock, or None."""
        owner = owner_of(self._path())
        return None if owner is None else owner.pid

    @property
    def is_lock_held_by_us(self) -> bool:
        """Whether this process holds the lock, through whatever object."""
        owner = owner_of(self._path())
        return owner is not None and owner.is_this_process()

    def break_lock(self) -> None:
        """Remove the lock file, whoever holds the lock: for when its owner is known to have gone."""
        hold = _Hold(self._path(), current_thread())
        try:
            rc = _core.open_marker(hold.slot, hold.path) or hold.remove()
        finally:
            _core.close_marker(hold.slot)
        if rc not in (0, _core.MISSING):
            raise _core.error(rc, self._lock_file)

    def _path(self) -> str:
        """Where the lock file is that is held, or where it would be."""
        hold = self._holds.get(self._me())
        return os.path.abspath(self._lock_file) if hold is None else hold.path

    def _me(self) -> Thread | None:
        return current_thread() if self._thread_local else None

    def _try(self, how: int) -> int:
        with self._mutex:
            if self._in_transition:
                raise RuntimeError(
                    f"a signal handler acquires '{self._lock_file}' while the code that it interrupted is acquiring or "
                    "releasing it; let the handler set a flag instead"
                )
            self._in_transition = True
            try:
                return self._take()
            finally:
                self._in_transition = False

    def _take(self) -> int:
        me = self._me()
        hold = self._holds.get(me)
        if hold is not None and hold.count:
            hold.count += 1
            return 0
        if hold is not None:
            self._drop(me)  # what an exception left
        # The hold is on record before its marker exists: an exception that a signal handler raises in between must not
        # leave a marker that nobody remembers and that names a living process.
        hold = self._holds[me] = _Hold(os.path.abspath(self._lock_file), current_thread())
        rc = self._create(hold)
        if rc == _core.BUSY and (rc := self._clear_away(hold.path)) == 0:
            rc = self._create(hold)
        if rc == 0:
            hold.count = 1
            if self._meter is not None:
                hold.since = _core.now()
                _core.meter_add(self._meter, _core.ACQUISITIONS, 1)
        else:
            del self._holds[me]
        return rc

    def _undo(self, before: int) -> None:
        with self._mutex:
            hold = self._holds.get(self._me())
            if hold is not None and hold.count == 0 and not self._in_transition:
                self._drop(self._me())
        super()._undo(before)

    def _create(self, hold: _Hold) -> int:
        return _core.create_marker(
            hold.slot,
            hold.path,
            temporary_path(hold.path),
            Owner.myself().record(),
            self._mode & ~_WRITABLE_BY_OTHERS,
            0 if self._mode == DEFAULT_MODE else _core.EXACT_MODE,
        )

    def _clear_away(self, path: str) -> int:
        """Remove the marker if its owner has died or its time is up: 0 if the path may be free, or why it is not."""
        slot = _core.new_marker_slot()
        try:
            before, self._verdict = self._verdict, None
            if before is not None and before.stands(path, self._lifetime):
                self._verdict = before
                return _core.BUSY
            began = time.monotonic()
            stamp = _stamp_at(path)  # before it is opened: what comes in its place meanwhile is not taken for it
            rc = _core.open_marker(slot, path)
            if rc == _core.MISSING:
                return 0
            if rc != 0:
                # What is no marker will not go away; what we may not read may be somebody's.
                return rc if rc in (_core.NOT_A_FILE, _core.SYMLINK) else _core.BUSY
            # While the marker is open no other file gets its identity, so what is judged is what is removed.
            record, age = _core.read_marker(slot[0], self._lock_file, LONGEST_RECORD + 1)
            owner = Owner.parse(record or b"")
            overdue = self._lifetime is not None and age >= self._lifetime
            if not overdue and (owner is None or not owner.is_gone()):
                if record is not None and stamp:  # None over SMB, while somebody removes the marker, who may die
                    self._verdict = _Verdict(stamp, owner, age, began, before)
                return _core.BUSY
            sweep(os.path.dirname(path))  # where processes die, one may have died before its marker had its name
            rc = _core.remove_marker(slot[0], 0)
            if rc == _core.NO_LOCKS and owner is not None and owner.host == host_name():
                rc = _remove_in_turn(slot, path)
            return 0 if rc in (0, _core.MISSING) else _core.BUSY
        except FileNotFoundError:
            return 0  # somebody has removed it meanwhile
        finally:
            _core.close_marker(slot)

    def _timeout_error(self, timeout: float) -> Timeout:
        return Timeout(
            self._lock_file,
            timeout=timeout,
            otherwise="Its file names no owner that could be found dead; remove the file if no program uses it.",
        )

    def _wait(self, how: int, began: int, until: int, poll: int) -> int:
        if until == _core.FOREVER and self._waits_for_itself():
            return _core.SELF_DEADLOCK
        nap = _FIRST_NAP
        while (rc := self._try(how)) == _core.BUSY:
            left = (until - _core.now()) / 1e9
            if left <= 0:
                return _core.TIMED_OUT
            time.sleep(min(nap, left))
            nap = max(_FIRST_NAP, min(nap * 1.5, poll / 1e9))
        return rc

    def _waits_for_itself(self) -> bool:
        """Whether this thread holds the marker through another instance."""
        path, me = canonical(self._lock_file), current_thread()
        return any(
            hold.thread is me and canonical(other._lock_file) == path
            for other in _living()
            for hold in list(other._holds.values())
        )

    def _drop(self, thread: Thread | None) -> None:
        """Remove the marker of a hold, if there is one. If that fails the lock stays held."""
        hold = self._holds.get(thread)
        if hold is None:
            return
        # From here on it counts as not held: should a signal handler raise as the core returns, the marker is gone.
        count, hold.count = hold.count, 0
        rc = hold.remove()
        if rc not in (0, _core.MISSING):
            hold.count = count
            raise _core.error(rc, self._lock_file)
        _core.close_marker(hold.slot)
        del self._holds[thread]
        if self._meter is not None and count:
            _core.meter_held(self._meter, _core.now() - hold.since)

    def _drop_all(self) -> None:
        for thread in list(self._holds):
            self._drop(thread)

    def _settings(self) -> dict[str, object]:
        return {**super()._settings(), "lifetime": self._lifetime}

    def __del__(self) -> None:
        if "_holds" in self.__dict__:  # or its arguments were wrong
            self._drop_all()


class _Hold:
    """A marker of ours, or the place for one, and how often the lock was acquired by whom."""

    __slots__ = ("count", "path", "pid", "since", "slot", "thread")

    def __init__(self, path: str, thread: Thread) -> None:
        self.path = path  # absolute: the working directory may be another one when the lock is released
        self.slot: MarkerSlot = _core.new_marker_slot()
        self.thread = thread
        self.pid = os.getpid()
        self.count = 0
        self.since = 0  # when it was acquired, if that is measured

    def remove(self) -> int:
        """Remove the marker, unless it is that of the process this one was forked from: a result of the core."""
        if not self.slot[0] or self.pid != os.getpid():
            return 0
        end = _core.deadline(1.0)
        while (rc := _core.remove_marker(self.slot[0], 0)) == _core.BUSY and _core.now() < end:
            time.sleep(0.001)  # another process judges it at this moment
        return _remove_in_turn(self.slot, self.path) if rc == _core.NO_LOCKS else rc


class _Verdict:
    """That the marker at a path must not be removed. Who waits opens it at most twice while it is the same.

    That is more than thrift: a client of SMB keeps a file open for a second after it was closed, for whoever opens it
    again, and a file that is open there keeps its name although it was removed. Those who open it again and again would
    wait for ever.
    """

    __slots__ = ("_certain_from", "_is_certain", "_owner", "_stamp", "_written")

    def __init__(self, stamp: Stamp, owner: Owner | None, age: float, began: float, before: _Verdict | None) -> None:
        from holdfast._stamp import settles_in

        self._stamp = stamp
        self._owner = owner
        self._written = time.time() - age
        # A marker that is made just after another one may have its stamp, but not one that is made later. Later by the
        # clock of who waits: the times of a file may be those of a server.
        if before is not None and before._stamp == stamp:
            self._certain_from: float = before._certain_from
        else:
            self._certain_from = time.monotonic() + settles_in(stamp)
        self._is_certain = began > self._certain_from  # whatever has stopped this process meanwhile

    def stands(self, path: str, lifetime: float | None) -> bool:
        """Whether opening the marker would lead to the same verdict, or it is too early to be sure of it."""
        if not self._is_certain and time.monotonic() > self._certain_from:
            return False
        if lifetime is not None and time.time() - self._written >= lifetime:
            return False
        if self._owner is not None and self._owner.is_gone():
            return False
        return self._stamp == _stamp_at(path)


def _stamp_at(path: str) -> Stamp | None:
    """The stamp of what is at a path, if that can be told without opening it; FileNotFoundError if nothing is.

    What is not there is not opened: over SMB, a client might have it still, and keep it for longer.
    """
    if os.name == "nt":
        return None  # there, to look at a file is to open it
    from holdfast._stamp import stamp_of

    _core.look_again(path)
    try:
        # Without the time of change, which is another one when a program on a server has removed the file. Clients of
        # SMB go on showing what they have open, and who opened that again would keep it there.
        return stamp_of(os.lstat(path))[:-1]
    except FileNotFoundError:
        raise
    except OSError:
        return None  # then opening it tells


def _remove_in_turn(slot: MarkerSlot, path: str) -> int:
    """Remove a marker on a file system that has no locks to take turns by: a result of the core.

    There, only processes of one host judge each other's markers, so a lock that only they see will do.
    """
    from hashlib import sha256

    from holdfast.locks import FileLock

    name = sha256(os.fsencode(canonical(path))).hexdigest()[:32]
    # Not the directory for temporary files, which may be another one for each process.
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    with FileLock(f"{folder}/holdfast-{name}.lock", timeout=10, mode=0o666):
        return _core.remove_marker(slot[0], 1)


_alive: WeakValueDictionary[int, SoftFileLock] = WeakValueDictionary()


def _living() -> list[SoftFileLock]:
    """The locks there are, listed at one stroke: other threads make and drop locks meanwhile."""
    return [lock for reference in _alive.valuerefs() if (lock := reference()) is not None]


@at_exit
def _release_all() -> None:
    """Remove the markers this process still has: nobody would do it for a process that ends in good order."""
    for lock in _living():
        try:
            lock._drop_all()
        except OSError as error:
            print(f"holdfast: {error}", file=sys.stderr)


def _after_fork() -> None:
    """In a forked child nothing is held: the markers are the parent's."""
    for lock in _living():
        lock._in_transition = False
        lock._mutex = RLock()  # a thread that is gone may have held the old one
        for hold in lock._holds.values():
            _core.close_marker(hold.slot)
        lock._holds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


if WATCH_ORDER:
    from holdfast._order import watch

    watch(SoftFileLock, taking=("acquire",), giving=("release", "close"))
