"""The locks that are compared: each gives a function to acquire and one to release."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

Cycle = Callable[[], object]
Pair = tuple[Cycle, Cycle]


def bare_flock(path: str) -> Pair:
    """A blocking flock() on a held descriptor: no deadline, no check, nothing."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    flock = fcntl.flock
    return lambda: flock(fd, fcntl.LOCK_EX), lambda: flock(fd, fcntl.LOCK_UN)


def holdfast(path: str) -> Pair:
    from holdfast import FileLock

    lock = FileLock(path, timeout=60)
    return lock.acquire, lock.release


def holdfast_forever(path: str) -> Pair:
    from holdfast import FileLock

    lock = FileLock(path)
    return lock.acquire, lock.release


def filelock(path: str) -> Pair:
    from filelock import FileLock

    lock = FileLock(path, timeout=60)
    return lock.acquire, lock.release


def fasteners(path: str) -> Pair:
    from fasteners import InterProcessLock

    lock = InterProcessLock(path)
    return lock.acquire, lock.release


def portalocker(path: str) -> Pair:
    from portalocker import Lock

    lock = Lock(path, timeout=60)
    return lock.acquire, lock.release


def _with_new(make: Callable[[str], AbstractContextManager[object]], path: str) -> Cycle:
    def cycle() -> None:
        with make(path):
            pass

    return cycle


def new_holdfast(path: str) -> Cycle:
    from holdfast import FileLock

    return _with_new(FileLock, path)


def new_filelock(path: str) -> Cycle:
    from filelock import FileLock

    return _with_new(FileLock, path)


def new_portalocker(path: str) -> Cycle:
    from portalocker import Lock

    return _with_new(Lock, path)


def new_fasteners(path: str) -> Cycle:
    from fasteners import InterProcessLock

    return _with_new(InterProcessLock, path)


HELD: dict[str, Callable[[str], Pair]] = {
    "holdfast": holdfast,
    "filelock": filelock,
    "fasteners": fasteners,
    "portalocker": portalocker,
}
SLEEPERS = {"filelock", "fasteners", "portalocker"}
"""Those that wait by sleeping between tries."""

NEW: dict[str, Callable[[str], Cycle]] = {
    "holdfast": new_holdfast,
    "filelock": new_filelock,
    "fasteners": new_fasteners,
    "portalocker": new_portalocker,
}


def floor() -> ctypes.CDLL:
    """The C loops of floor.c, compiled now."""
    source = Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "floor.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        loaded = ctypes.CDLL(str(library))
    for loop in (loaded.held, loaded.unchecked, loaded.opened):
        loop.restype = ctypes.c_double
        loop.argtypes = [ctypes.c_char_p, ctypes.c_int]
    return loaded
