"""The system calls of a process: seen one by one, and made to fail. The Python side of shim.c."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "build/faults/shim.so"
MOST = 8192

# The calls that can be meddled with, by their numbers on x86-64. What is not here is let alone: see UNSEEN.
NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "nanosleep": 35, "dup": 32, "dup2": 33,
    "kill": 62, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "getdents": 78, "getcwd": 79, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "symlink": 88,
    "readlink": 89, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "statfs": 137, "fstatfs": 138,
    "getxattr": 191, "lgetxattr": 192, "fgetxattr": 193, "setxattr": 188, "fsetxattr": 190, "listxattr": 194,
    "llistxattr": 195, "flistxattr": 196, "getdents64": 217, "timer_create": 222, "timer_settime": 223,
    "timer_delete": 226, "clock_nanosleep": 230, "openat": 257, "mkdirat": 258, "fchownat": 260, "newfstatat": 262,
    "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267, "fchmodat": 268,
    "faccessat": 269, "utimensat": 280, "fallocate": 285, "dup3": 292, "preadv": 295, "pwritev": 296, "renameat2": 316,
    "getrandom": 318, "copy_file_range": 326, "preadv2": 327, "pwritev2": 328, "statx": 332, "openat2": 437,
    "faccessat2": 439,
}  # fmt: skip
NAMES = {number: name for name, number in NUMBERS.items()}

UNSEEN = {
    "memory": "mmap munmap mprotect madvise brk mremap mincore",
    "threads and waiting for them": (
        "futex restart_syscall clone clone3 exit set_robust_list rseq sched_yield sched_getaffinity gettid"
    ),
    "signals: they fail only when the program is wrong": "rt_sigaction rt_sigprocmask rt_sigreturn",
    "cannot fail": "getpid getuid geteuid getgid getegid",
    "clocks: the kernel's page answers, without a call": "clock_gettime gettimeofday",
}
"""Calls that are not meddled with, by the reason."""

MARK = "/the operation"
"""A path that is asked for whenever the calls begin to count, or do no more: for who reads strace's output."""

READY = "/ready"
"""One that is asked for again and again until strace shows it, which has attached before it sees calls."""

NOTHING, FAIL, CUT, DIE_BEFORE, DIE_AFTER = range(5)


class _Call(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_int32),
        ("arguments", ctypes.c_int64 * 6),
        ("result", ctypes.c_int64),
        ("path", ctypes.c_char * 128),
    )


class _Area(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("armed", "paused", "number", "nth", "how", "error", "size", "times")),
        *((name, ctypes.c_int32) for name in ("no_unnamed_files", "no_rename_flags", "count", "hit", "left", "go")),
        ("counts", ctypes.c_int32 * 512),
        ("others", ctypes.c_uint8 * 512),
        ("trapped", ctypes.c_uint8 * 512),
        ("calls", _Call * MOST),
    )


class Call(NamedTuple):
    """A system call that was seen: which it is of those of the operation, and of those of its name, counted from 1."""

    turn: int
    nth: int
    name: str
    arguments: tuple[int, ...]
    result: int
    path: str

    def __str__(self) -> str:
        return f"call {self.turn}, {self.name}({os.path.basename(self.path)})"


class Fault(NamedTuple):
    """What becomes of the nth call of this number."""

    number: int
    nth: int
    how: int
    error: int = 0
    size: int = 0
    times: int = 1
    others: tuple[int, ...] = ()


_WAITING = 1
NO_FAULT = Fault(0, 0, NOTHING)


def missing() -> str:
    """Why there can be no traps here; empty if there can be."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the traps are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    return ""


def build() -> None:
    """Compile the shim."""
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    if not BUILT.exists() or BUILT.stat().st_mtime < (HERE / "shim.c").stat().st_mtime:
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", f"{BUILT}.new", HERE / "shim.c"], check=True)
        os.replace(f"{BUILT}.new", BUILT)


class Trap:
    """What a process and the one that watches it share. Made by the one that watches, before it forks the other."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(str(BUILT))
        self._shim.faults_new.restype = ctypes.POINTER(_Area)
        pointer = self._shim.faults_new()
        if not pointer:
            raise MemoryError
        self._area: _Area = pointer.contents
        for number in NAMES:
            self._area.trapped[number] = 1

    def set(self, fault: Fault, lacking: frozenset[str] = frozenset()) -> None:
        """Say what is to happen, and on what kind of file system."""
        area = self._area
        area.armed = area.paused = area.count = area.hit = area.left = area.go = 0
        area.number, area.nth, area.how, area.error, area.size, area.times = fault[:6]
        area.no_unnamed_files = "unnamed files" in lacking
        area.no_rename_flags = "rename flags" in lacking
        ctypes.memset(area.counts, 0, ctypes.sizeof(area.counts))
        ctypes.memset(area.others, 0, ctypes.sizeof(area.others))
        for number in fault.others:
            area.others[number] = 1

    def begin(self) -> None:
        """Have this process's calls go through the traps from here on."""
        rc = self._shim.faults_begin()
        if rc != 0:
            raise OSError(-rc, f"no traps can be set: {os.strerror(-rc)}")

    @property
    def is_waited(self) -> bool:
        """Whether the other process has come to its wait()."""
        return bool(self._area.go == _WAITING)

    def let_go(self) -> None:
        """End the other process's wait()."""
        self._area.go = 0

    def wait(self) -> None:
        """Wait for that, without calls that anybody counts, but with some by which strace shows that it sees calls."""
        self._area.go = _WAITING
        while self._area.go == _WAITING:
            os.access(READY, os.F_OK)
            time.sleep(0.001)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Count the calls, and meddle with them, in a with block."""
        os.access(MARK, os.F_OK)
        self._area.armed = 1
        try:
            yield
        finally:
            self._area.armed = 0
            os.access(MARK, os.F_OK)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the calls of this thread alone in a with block."""
        self._area.paused = threading.get_native_id()
        os.access(MARK, os.F_OK)
        try:
            yield
        finally:
            os.access(MARK, os.F_OK)
            self._area.paused = 0

    @property
    def hit(self) -> bool:
        """Whether the chosen call was made."""
        return bool(self._area.hit)

    def calls(self) -> list[Call]:
        """The calls that were counted."""
        if self._area.count > MOST:
            raise RuntimeError(f"the operation made {self._area.count} calls, more than are kept")
        counts, seen = Counter[str](), []
        for turn, one in enumerate(self._area.calls[: self._area.count], 1):
            name = NAMES[one.number]
            counts[name] += 1
            seen.append(Call(turn, counts[name], name, tuple(one.arguments), one.result, os.fsdecode(one.path)))
        return seen
