"""Failures and crashes at any system call of the core, for the tests that want them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast._native import ffi, lib

# The calls of the core that can fail: their results and arguments.
CALLS = {
    "open": ("int", "const char *, int, unsigned"),
    "close": ("int", "int"),
    "dup": ("int", "int"),
    "read": ("ssize_t", "int, void *, size_t"),
    "pread": ("ssize_t", "int, void *, size_t, int64_t"),
    "write": ("ssize_t", "int, const void *, size_t"),
    "ftruncate": ("int", "int, int64_t"),
    "fdatasync": ("int", "int"),
    "birth_time": ("int", "int, void *"),
    "link": ("int", "const char *, const char *"),
    "link_unnamed": ("int", "int, const char *"),
    "rename_new": ("int", "const char *, const char *"),
    "fcntl_lock": ("int", "int, int, void *"),
    "nanosleep": ("int", "void *, void *"),
    "kill": ("int", "int, int"),
    "thread_timer_create": ("int", "int, void *"),
    "timer_settime": ("int", "void *, int, void *, void *"),
    "timer_delete": ("int", "void *"),
    "flock": ("int", "int, int"),
    "lstat": ("int", "const char *, void *"),
    "fstat": ("int", "int, void *"),
    "fstatfs": ("int", "int, void *"),
    "fchown": ("int", "int, unsigned, unsigned"),
    "fchmod": ("int", "int, unsigned"),
    "listxattr": ("ssize_t", "const char *, char *, size_t"),
    "getxattr": ("ssize_t", "const char *, const char *, void *, size_t"),
    "fsetxattr": ("int", "int, const char *, const void *, size_t, int"),
    "fsync": ("int", "int"),
    "rename": ("int", "const char *, const char *"),
    "unlink": ("int", "const char *"),
}


@contextmanager
def interposed(meddle: Callable[[str], int | None]) -> Iterator[None]:
    """Ask `meddle` at each call of the core what its errno is to be; None lets it be made."""
    kept = []
    before = {}

    def replace(name: str, result: str, arguments: str) -> None:
        before[name] = lib.hf_sys_get(name.encode())
        kind = f"{result} (*)({arguments})"
        real = ffi.cast(kind, before[name])

        def call(*values: Any) -> Any:
            error = meddle(name)
            if error is None:
                return real(*values)
            if name == "close":
                real(*values)
            ffi.errno = error
            return -1

        kept.append(ffi.callback(kind, call))
        lib.hf_sys_set(name.encode(), ffi.cast("void *", kept[-1]))

    try:
        for name, (result, arguments) in CALLS.items():
            replace(name, result, arguments)
        yield
    finally:
        for name, pointer in before.items():
            lib.hf_sys_set(name.encode(), pointer)


def crash_at(turn: int, action: Callable[[], object]) -> bool:
    """Let a forked child do something and end at the call of this number, before it is made. Whether it came so far."""
    pid = os.fork()
    if pid == 0:
        left = [turn]

        def meddle(_: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                os._exit(3)

        try:
            with interposed(meddle):
                action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


class Failure:
    """One call of the core, counted from 1, that fails with an errno. `hit` says whether there was such a call."""

    def __init__(self, name: str, error: int, turn: int) -> None:
        self.name = name
        self.hit = False
        self._error = error
        self._turn = turn

    def _meddle(self, called: str) -> int | None:
        self._turn -= called == self.name
        if self.hit or self._turn > 0:
            return None
        self.hit = True
        return self._error

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Let the call fail in a with block."""
        with interposed(self._meddle):
            yield

    def __str__(self) -> str:
        return f"{self.name} fails with {errno.errorcode[self._error]}"
