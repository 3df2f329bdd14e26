"""The only module that touches the compiled core: its functions, and its results as exceptions."""

from __future__ import annotations

import errno
import os
import sys

from holdfast._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Lock: TypeAlias = Any  # cffi's pointers have no types of their own
    Marker: TypeAlias = Any
    MarkerSlot: TypeAlias = Any

# What the core's calls return: see csrc/holdfast.h.
BUSY: int = lib.HF_BUSY
TIMED_OUT: int = lib.HF_TIMED_OUT
INTERRUPTED: int = lib.HF_INTERRUPTED
OTHER_MODE: int = lib.HF_OTHER_MODE
SELF_DEADLOCK: int = lib.HF_SELF_DEADLOCK
NOT_A_FILE: int = lib.HF_NOT_A_FILE
SYMLINK: int = lib.HF_SYMLINK
NO_LOCKS: int = lib.HF_NO_LOCKS
MISSING = -errno.ENOENT
NOT_HELD = -errno.EPERM

EXCLUSIVE: int = lib.HF_EXCLUSIVE
SHARED: int = lib.HF_SHARED
OFD: int = lib.HF_OFD
ANY_THREAD: int = lib.HF_ANY_THREAD
EXACT_MODE: int = lib.HF_EXACT_MODE
FOREVER: int = lib.HF_FOREVER

NULL: Any = ffi.NULL


try_lock: Callable[[Lock, int], int] = lib.hf_try
wait_lock: Callable[[Lock, int, int, int, int, Any], int] = lib.hf_wait
release: Callable[[Lock], int] = lib.hf_release
release_all: Callable[[Lock], int] = lib.hf_release_all
close_idle: Callable[[Lock], None] = lib.hf_close_idle
count: Callable[[Lock], int] = lib.hf_count
free: Callable[[Lock], None] = lib.hf_lock_free
now: Callable[[], int] = lib.hf_now
process_start: Callable[[int], int] = lib.hf_process_start
remove_marker: Callable[[Marker, int], int] = lib.hf_marker_remove
close_marker: Callable[[MarkerSlot], None] = lib.hf_marker_close


# How many descriptors of idle locks stay open, for the next time. Small enough for the lowest limit in use (256, on
# macOS). On Windows none: an open file there keeps others from removing its directory.
_MAX_IDLE = 0 if os.name == "nt" else 64

_pool: Any = lib.hf_pool_new(_MAX_IDLE, lib.HF_POLL_ONLY if os.environ.get("HOLDFAST_WAIT") == "poll" else 0)
if not _pool:
    raise MemoryError

_IMPORTED_LATE = ("_holders", "_order", "lockset", "owner", "rwlock", "softlock")


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
        raise ValueError("the lock path is empty")
    if b"\0" in raw:
        raise ValueError(f"the lock path {path!r} contains a NUL character, which no file name can")
    return raw


def new_lock(path: str, mode: int, flags: int) -> Lock:
    """A lock of the process's pool."""
    lock = lib.hf_lock_new(_pool, encode(path), mode, flags)
    if not lock:
        raise MemoryError
    return lock


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


def read_marker(marker: Marker, capacity: int) -> tuple[bytes, float]:
    """The record of a marker, and its age in seconds."""
    record, age = ffi.new("char[]", capacity), ffi.new("int64_t *")
    length: int = lib.hf_marker_read(marker, record, capacity, age)
    if length < 0:
        raise OSError(-length, os.strerror(-length))
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


def error(rc: int, path: str) -> OSError:
    """The exception for a result that is an error."""
    if rc == lib.HF_NOT_A_FILE and (os.path.isdir(path) or path.endswith(os.sep)):
        return IsADirectoryError(errno.EISDIR, "the lock path is a directory; name a file in it", path)
    number, text = _OUTCOMES.get(rc) or (-rc, os.strerror(-rc))
    return OSError(number, text, path)
