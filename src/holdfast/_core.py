"""The only module that touches the compiled core: its functions, and its results as exceptions."""

from __future__ import annotations

import errno
import os
import sys
import time

from holdfast._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeAlias

    Lock: TypeAlias = Any  # cffi's pointers have no types of their own
    Log: TypeAlias = Any
    Marker: TypeAlias = Any
    MarkerSlot: TypeAlias = Any
    Meter: TypeAlias = Any
    Waiter: TypeAlias = Any

# What the core's calls return: see csrc/holdfast.h.
BUSY: int = lib.HF_BUSY
TIMED_OUT: int = lib.HF_TIMED_OUT
INTERRUPTED: int = lib.HF_INTERRUPTED
CANCELLED: int = lib.HF_CANCELLED
OTHER_MODE: int = lib.HF_OTHER_MODE
SELF_DEADLOCK: int = lib.HF_SELF_DEADLOCK
NOT_A_FILE: int = lib.HF_NOT_A_FILE
SYMLINK: int = lib.HF_SYMLINK
NO_LOCKS: int = lib.HF_NO_LOCKS
FULL: int = lib.HF_FULL
SYNC_FAILED: int = lib.HF_SYNC_FAILED
CLOSED: int = lib.HF_CLOSED
NOT_DURABLE: int = lib.HF_NOT_DURABLE
MISSING = -errno.ENOENT
NOT_HELD = -errno.EPERM

ACQUISITIONS: int = lib.HF_ACQUISITIONS
TIMEOUTS: int = lib.HF_TIMEOUTS
WRITES: int = lib.HF_WRITES
DELETIONS: int = lib.HF_DELETIONS
COALESCED: int = lib.HF_COALESCED
CONFLICTS: int = lib.HF_CONFLICTS
DROPS: int = lib.HF_DROPS
ERRORS: int = lib.HF_ERRORS
PENDING: int = lib.HF_PENDING

EXCLUSIVE: int = lib.HF_EXCLUSIVE
SHARED: int = lib.HF_SHARED
OFD: int = lib.HF_OFD
ANY_THREAD: int = lib.HF_ANY_THREAD
EXACT_MODE: int = lib.HF_EXACT_MODE
SYNCED: int = lib.HF_SYNCED
DURABLE: int = lib.HF_DURABLE
NO_REPLACE: int = lib.HF_NO_REPLACE
FOREVER: int = lib.HF_FOREVER

NULL: Any = ffi.NULL


try_lock: Callable[[Lock, int], int] = lib.hf_try
wait_lock: Callable[[Lock, int, int, int, int, Any], int] = lib.hf_wait
release: Callable[[Lock], int] = lib.hf_release
release_all: Callable[[Lock], int] = lib.hf_release_all
close_idle: Callable[[Lock], None] = lib.hf_close_idle
count: Callable[[Lock], int] = lib.hf_count
descriptor: Callable[[Lock], int] = lib.hf_descriptor
free: Callable[[Lock], None] = lib.hf_lock_free
now: Callable[[], int] = lib.hf_now
cancel_waiter: Callable[[Waiter], None] = lib.hf_waiter_cancel
process_start: Callable[[int], int] = lib.hf_process_start
append_log: Callable[[Log, bytes, int, int], int] = lib.hf_log_append
append_log_wait: Callable[[Log, bytes, int, int, int, int, int, Any], int] = lib.hf_log_append_wait
try_log: Callable[[Log], int] = lib.hf_log_try
wait_log: Callable[[Log, int, int, int, Any], int] = lib.hf_log_wait
unlock_log: Callable[[Log], int] = lib.hf_log_unlock
log_is_mine: Callable[[Log], int] = lib.hf_log_is_mine
log_is_full: Callable[[Log, int], int] = lib.hf_log_is_full
log_written: Callable[[Log], int] = lib.hf_log_written
sync_log: Callable[[Log, int], int] = lib.hf_log_sync
log_failure: Callable[[Log], int] = lib.hf_log_failure
close_log: Callable[[Log], int] = lib.hf_log_close
count_log: Callable[[Log], Any] = lib.hf_log_count
free_log: Callable[[Log], None] = lib.hf_log_free
measure_lock: Callable[[Lock, Meter], None] = lib.hf_lock_measure
measure_log: Callable[[Log, Meter], None] = lib.hf_log_measure
meter_add: Callable[[Meter, int, int], None] = lib.hf_meter_add
meter_waited: Callable[[Meter, int], None] = lib.hf_meter_waited
meter_held: Callable[[Meter, int], None] = lib.hf_meter_held
remove_marker: Callable[[Marker, int], int] = lib.hf_marker_remove
close_marker: Callable[[MarkerSlot], None] = lib.hf_marker_close


# How many descriptors of idle locks stay open, for the next time. Small enough for the lowest limit in use (256, on
# macOS). On Windows none: an open file there keeps others from removing its directory.
_MAX_IDLE = 0 if os.name == "nt" else 64

_pool: Any = lib.hf_pool_new(_MAX_IDLE, lib.HF_POLL_ONLY if os.environ.get("HOLDFAST_WAIT") == "poll" else 0)
if not _pool:
    raise MemoryError

_IMPORTED_LATE = (
    "_base",
    "_changes",
    "_checkpoint",
    "_conflict",
    "_contents",
    "_damage",
    "_filelock_aio",
    "_filesystem",
    "_formats",
    "_history",
    "_holders",
    "_keys",
    "_lines",
    "_order",
    "_proc",
    "_process",
    "_reading",
    "_retry",
    "_segments",
    "_stamp",
    "_survey",
    "_syncing",
    "_tagged",
    "_temporary",
    "_texts",
    "_trials",
    "_typed",
    "_write_behind",
    "aio",
    "aio._cancelled",
    "aio._line",
    "aio._threads",
    "aio.jsonl",
    "aio.locks",
    "aio.state",
    "atomic",
    "documents",
    "filelock",
    "jsonl",
    "locks",
    "lockset",
    "metrics",
    "owner",
    "rwlock",
    "softlock",
    "state",
)


def _finish_imports() -> None:
    # The core sees to itself in a fork. But a module that another thread is importing at this moment would stay half
    # imported in the child, and locked.
    for name in _IMPORTED_LATE:
        if f"holdfast.{name}" in sys.modules:
            __import__(f"holdfast.{name}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_finish_imports)


def encode(path: str) -> bytes:
    """The path as the core wants it: the bytes of the file system, without a NUL that would cut it short."""
    try:
        raw = path.encode("ascii")  # the same bytes in every encoding of file names, and far cheaper
    except UnicodeEncodeError:
        raw = os.fsencode(path)
    if not raw:
        raise ValueError("the path is empty")
    if b"\0" in raw:
        raise ValueError(f"the path {path!r} contains a NUL character, which no file name can")
    return raw


def new_lock(path: str, mode: int, flags: int) -> Lock:
    """A lock of the process's pool."""
    lock = lib.hf_lock_new(_pool, encode(path), mode, flags)
    if not lock:
        raise MemoryError
    return lock


def meter_of(name: str | None) -> Meter:
    """The meter of a name, in which all count that have been given that name; None without a name."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"metrics must be a name, a str, not {type(name).__name__}")
    raw = name.encode()
    if not 0 < len(raw) < lib.HF_METER_NAME or b"\0" in raw:
        raise ValueError(f"metrics must be a name of 1 to {lib.HF_METER_NAME - 1} bytes, not {name!r}")
    meter = lib.hf_meter_of(_pool, raw)
    if not meter:
        raise ValueError(
            f"no more metrics can be counted under {name!r}: there are {lib.HF_METERS} names already; give one name to "
            "all locks and files of a kind, and not one to each"
        )
    return meter


def read_meters(this_process: bool) -> dict[str, list[int]]:
    """What was counted, by name."""
    name, counts = ffi.new("char[]", lib.HF_METER_NAME), ffi.new("int64_t[]", lib.HF_COUNTERS)
    found: dict[str, list[int]] = {}
    for index in range(lib.HF_METERS):
        if lib.hf_meter_read(_pool, index, this_process, name, counts):
            # There may be two of a name, if a process was stopped in the middle of making the first.
            more: list[int] = list(counts)
            total = found.setdefault(ffi.string(name).decode(), [0] * len(more))
            total[:] = [one + other for one, other in zip(total, more, strict=True)]
    return found


def new_waiter() -> Waiter:
    """That by which one thread ends the wait of another."""
    waiter = lib.hf_waiter_new()
    if not waiter:
        raise MemoryError
    return ffi.gc(waiter, lib.hf_waiter_free)


def new_log(path: str, mode: int, flags: int, max_bytes: int, max_age: int) -> Log:
    """A log of the process's pool."""
    log = lib.hf_log_new(_pool, encode(path), mode, flags, max_bytes, max_age)
    if not log:
        raise MemoryError
    return log


def move_log(log: Log, to: str) -> int:
    """Give the file of a locked log another name."""
    rc: int = lib.hf_log_move(log, encode(to))
    return rc


class NewFile:
    """A file that this process creates to put it in the place of another."""

    __slots__ = ("_descriptor", "_slot")

    def __init__(self) -> None:
        self._slot = ffi.new("int64_t *", -1)  # filled in by the core, so that no exception comes between
        self._descriptor = -1

    def create(self, path: str, mode: int) -> int:
        """Create it under a name that must be free."""
        rc: int = lib.hf_create(encode(path), mode, self._slot)
        return rc

    @property
    def exists(self) -> bool:
        """Whether it was created, and not closed yet."""
        return bool(self._slot[0] != -1)

    @property
    def descriptor(self) -> int:
        """The descriptor by which it is open."""
        if self._descriptor < 0:
            self._descriptor = _descriptor_of(self._slot[0])
        return self._descriptor

    def replace(self, scratch: str, path: str, flags: int) -> int:
        """Put it, which has the name `scratch`, in the place of another."""
        rc: int = lib.hf_replace(self._slot[0], encode(scratch), encode(path), flags)
        return rc

    def close(self) -> None:
        """Close it, if it is open. What a file system says only then, replace() has heard before."""
        if self.exists:
            descriptor = self.descriptor
            self._slot[0] = self._descriptor = -1
            close_quietly(descriptor)


class Naming:
    """Has the errors of a with block say which file it was: calls on a descriptor do not know."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = self._path


def close_quietly(descriptor: int) -> None:
    """Close a descriptor with which nothing can be lost any more: it is closed whatever the system says."""
    try:  # noqa: SIM105 - contextlib would cost more than everything else that is imported
        os.close(descriptor)
    except OSError:
        pass


def _descriptor_of(opened: int) -> int:
    """The descriptor of what the core opened, which on Windows gives a handle."""
    if sys.platform == "win32":
        from msvcrt import open_osfhandle

        return open_osfhandle(opened, os.O_RDWR | os.O_NOINHERIT)
    return opened


_PATIENCE = 2.0
"""Seconds for which a file that another program has is tried again. By then scanners on Windows are done with it, and
file servers have given back a lease on it, and mostly who just reads it has closed it."""

IN_USE = (BUSY, -errno.EACCES) if os.name == "nt" else (BUSY,)
"""How the core says that another program has the file open that is to be replaced."""


def patiently(call: Callable[[], int], *in_use: int) -> int:
    """The result of a call, or of a later try, while the results say that the file is in use."""
    end, nap = deadline(_PATIENCE), 0.001
    while (rc := call()) in in_use and now() < end:
        time.sleep(nap)
        nap = min(nap * 2, 0.1)
    return rc


def sync_directory_of(path: str) -> None:
    """Have the names in the directory of a file on the disk, where the file system can."""
    rc: int = lib.hf_directory_sync(encode(path))
    if rc != 0:
        raise OSError(-rc, f"the directory of this file could not be brought to the disk ({os.strerror(-rc)})", path)


def look_again(path: str) -> None:
    """Have a client of NFS ask the server which names there are in the directory of a file."""
    lib.hf_look_again(encode(path))


def remove_file(path: str) -> int:
    """Remove a file."""
    rc: int = lib.hf_remove(encode(path))
    return rc


def open_for_reading(path: str, error: Callable[[int, str], OSError]) -> tuple[int, bool]:
    """A descriptor of a regular file, which others may append to, rename and remove while it is open.

    And whether another machine has the file, so that what stat() tells of the path may be old.
    """
    raw, opened = encode(path), ffi.new("int64_t *")
    rc: int = lib.hf_open_to_read(raw, opened)
    if rc == BUSY:
        rc = patiently(lambda: lib.hf_open_to_read(raw, opened), BUSY)
    if rc < 0:
        raise error(rc, path)
    return _descriptor_of(opened[0]), rc == 1


def holding_threads(lock: Lock) -> set[int]:
    """The numbers of threads that hold the lock: all, if they are not very many."""
    numbers = ffi.new("uint64_t[]", 64)
    holding: int = lib.hf_holding_threads(lock, numbers, len(numbers))
    return {numbers[i] for i in range(min(holding, len(numbers)))}


def new_marker_slot() -> MarkerSlot:
    """A place for a marker: its first element, NULL until there is one."""
    return ffi.new("hf_marker **")


def create_marker(slot: MarkerSlot, path: str, scratch: str, record: bytes, mode: int, flags: int) -> int:
    """Create a marker and put it into the slot."""
    rc: int = lib.hf_marker_create(encode(path), encode(scratch), record, len(record), mode, flags, slot)
    return rc


def open_marker(slot: MarkerSlot, path: str) -> int:
    """Open an existing marker and put it into the slot."""
    rc: int = lib.hf_marker_open(encode(path), slot)
    return rc


def read_marker(marker: Marker, path: str, capacity: int) -> tuple[bytes | None, float]:
    """The record of a marker, which has this path, and its age in seconds. None while it is being removed."""
    record, age = ffi.new("char[]", capacity), ffi.new("int64_t *")
    length: int = lib.hf_marker_read(marker, record, capacity, age)
    if length == BUSY:
        return None, 0
    if length < 0:
        raise error(length, path)
    return bytes(ffi.buffer(record, length)), age[0] / 1e9


def deadline(timeout: float) -> int:
    """The moment, on the core's clock, when a timeout that starts now is over. Negative waits for ever."""
    if timeout < 0 or timeout > 1e9:  # thirty years
        return FOREVER
    return now() + int(timeout * 1e9) + 1


# What happened, and what to do about it, for each result that is an error.
_OUTCOMES: dict[int, tuple[int, str]] = {
    lib.HF_BUSY: (
        errno.EBUSY,
        "another program keeps the file of this SoftFileLock locked, so it cannot be removed; end that program",
    ),
    lib.HF_SYMLINK: (
        errno.ELOOP,
        "the lock path is a symbolic link, which is never followed because whoever made it would choose the file; "
        "remove it or lock the file it points to",
    ),
    lib.HF_NOT_A_FILE: (
        errno.EINVAL,
        "the lock path is not a regular file but a FIFO, a device or a socket; choose another path",
    ),
    lib.HF_NO_LOCKS: (
        errno.ENOTSUP,
        "the file system has no locks of this kind; put the lock file on another file system, or use SoftFileLock",
    ),
    lib.HF_READ_ONLY: (
        errno.EACCES,
        "an exclusive lock of this kind needs a lock file that can be written; give yourself write permission to it",
    ),
    -errno.EACCES: (
        errno.EACCES,
        "no permission to open or create the lock file; ask for write permission to it or its directory, "
        "or choose another path",
    ),
    -errno.EROFS: (
        errno.EROFS,
        "the file system is read-only and the lock file does not exist; create it beforehand or choose another path",
    ),
    -errno.ENOENT: (
        errno.ENOENT,
        "the directory of the lock file has gone; create it or choose another path",
    ),
    -errno.ENOTDIR: (errno.ENOTDIR, "a part of the lock path before the last is not a directory; choose another path"),
    -errno.EMFILE: (
        errno.EMFILE,
        "this process has too many open files; close some, or raise its limit (`ulimit -n`)",
    ),
    -errno.ENFILE: (errno.ENFILE, "the system has too many open files; close some, or raise its limit"),
    -errno.ENAMETOOLONG: (errno.ENAMETOOLONG, "the lock path is too long for the file system; choose a shorter one"),
    -errno.ENOSPC: (errno.ENOSPC, "the disk is full, so the lock file cannot be created; free some space"),
}


# The same, of a log.
_LOG_OUTCOMES: dict[int, tuple[int, str]] = {
    lib.HF_BUSY: (errno.EACCES, "another program keeps the file for itself, so it cannot be read; close it there"),
    lib.HF_SYMLINK: (
        errno.ELOOP,
        "the log is a symbolic link, which is never followed because whoever made it would choose the file; "
        "name the file it points to",
    ),
    lib.HF_NOT_A_FILE: (errno.EINVAL, "the log is not a regular file but a FIFO, a device or a socket; name another"),
    lib.HF_NO_LOCKS: (
        errno.ENOTSUP,
        "the file system has no locks, without which lines of several writers would mix; choose another file system",
    ),
    lib.HF_READ_ONLY: (errno.EACCES, "no permission to write to the log; ask for it, or name another file"),
    -errno.EACCES: (
        errno.EACCES,
        "no permission to open or create the log for reading and writing; ask for it, or name another file",
    ),
    -errno.ENOENT: (errno.ENOENT, "the directory of the log does not exist; create it, or name another file"),
    -errno.ENOSPC: (errno.ENOSPC, "the disk is full, so nothing was appended; free some space and append again"),
    -errno.EDQUOT: (errno.EDQUOT, "the disk quota is used up, so nothing was appended; free some space"),
    -errno.EFBIG: (
        errno.EFBIG,
        "the log would become larger than the file system or the process's limit (`ulimit -f`) allows, so nothing was "
        "appended; rotate it, with max_bytes= or rotate()",
    ),
    -errno.EIO: (errno.EIO, "the disk reports an error, so nothing was appended; look after the disk"),
}


# The same, of a file that is replaced.
_REPLACE_OUTCOMES: dict[int, tuple[int, str]] = {
    lib.HF_BUSY: (
        errno.EACCES,
        "another program has the file open, or the file server forbids replacing it; close it there and try again",
    ),
    lib.HF_NOT_A_FILE: (errno.EINVAL, "this is not a regular file, and will not be replaced by one; name another"),
    lib.HF_NOT_DURABLE: (
        errno.EIO,
        "the file was replaced, but its directory could not be brought to the disk: a power cut may bring back the old "
        "content; look after the disk",
    ),
    -errno.EEXIST: (errno.EEXIST, "the file exists, and overwrite=False leaves it alone; remove it, or name another"),
    -errno.EACCES: (
        errno.EACCES,
        "no permission to create files in the directory of this file, or to replace it; nothing changed; ask for it",
    ),
    -errno.ENOENT: (errno.ENOENT, "the directory of this file does not exist; create it, or name another"),
    -errno.ENOSPC: (errno.ENOSPC, "the disk is full; the file is as it was; free some space and write it again"),
    -errno.EDQUOT: (errno.EDQUOT, "the disk quota is used up; the file is as it was; free some space"),
    -errno.EFBIG: (
        errno.EFBIG,
        "the file would be larger than the file system or the process's limit (`ulimit -f`) allows; the old one stays",
    ),
    -errno.EROFS: (errno.EROFS, "the file system is read-only; name a file on another"),
    -errno.EIO: (errno.EIO, "the disk reports an error; the file is as it was; look after the disk"),
}


# The same, of a file that is only read.
_READ_OUTCOMES: dict[int, tuple[int, str]] = {
    lib.HF_BUSY: (errno.EACCES, "another program keeps the file for itself, so it cannot be read; close it there"),
    lib.HF_SYMLINK: (errno.ELOOP, "a link in the path is not followed, or leads back to itself; mend it"),
    lib.HF_NOT_A_FILE: (errno.EINVAL, "this is not a regular file but a FIFO, a device or a socket; name another"),
    -errno.EACCES: (errno.EACCES, "no permission to read this file; ask for it, or name another"),
}


def read_error(rc: int, path: str) -> OSError:
    """The exception for a result of opening a file to read it that is an error."""
    if rc == lib.HF_NOT_A_FILE and os.path.isdir(path):
        return IsADirectoryError(errno.EISDIR, "this is a directory; name a file in it", path)
    number, text = _READ_OUTCOMES.get(rc) or (-rc, os.strerror(-rc))
    return OSError(number, text, path)


def replace_error(rc: int, path: str) -> OSError:
    """The exception for a result of replacing a file that is an error."""
    if rc == lib.HF_NOT_A_FILE and os.path.isdir(path):
        return IsADirectoryError(errno.EISDIR, "this is a directory; name a file in it", path)
    number, text = _REPLACE_OUTCOMES.get(rc) or (-rc, os.strerror(-rc))
    return OSError(number, text, path)


def log_error(rc: int, path: str) -> OSError:
    """The exception for a result of a log that is an error."""
    if rc == lib.HF_NOT_A_FILE and os.path.isdir(path):
        return IsADirectoryError(errno.EISDIR, "the log is a directory; name a file in it", path)
    number, text = _LOG_OUTCOMES.get(rc) or (-rc, os.strerror(-rc))
    return OSError(number, text, path)


def error(rc: int, path: str) -> OSError:
    """The exception for a result that is an error."""
    if rc == lib.HF_NOT_A_FILE and (os.path.isdir(path) or path[-1:] in (os.sep, os.altsep)):
        return IsADirectoryError(errno.EISDIR, "the lock path is a directory; name a file in it", path)
    number, text = _OUTCOMES.get(rc) or (-rc, os.strerror(-rc))
    return OSError(number, text, path)
