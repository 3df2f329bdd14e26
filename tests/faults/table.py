"""What can become of a system call: the errors that each may plausibly fail with, and why it may with no others."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import Counter
from collections.abc import Iterator

from trap import CUT, DIE_AFTER, DIE_BEFORE, FAIL, NAMES, NUMBERS, Call, Fault

_OPENING = "EACCES EMFILE ENFILE EINTR EIO ENOMEM ELOOP ESTALE"
_CREATING = "ENOSPC EDQUOT EROFS"
_READING = "EIO EINTR ESTALE"
_WRITING = "ENOSPC EIO EDQUOT EFBIG EINTR ESTALE"
_LOOKING = "EACCES EIO ENOMEM ESTALE"
_NAMING = "EACCES EPERM EIO ENOSPC EDQUOT EROFS EBUSY ENOMEM ESTALE"

ERRORS = {
    "open": _OPENING, "openat": _OPENING,
    "read": _READING, "pread64": _READING, "getdents64": "EIO ENOMEM ESTALE",
    "write": _WRITING, "pwrite64": _WRITING,
    "fsync": "EIO ENOSPC EDQUOT EINTR EROFS", "fdatasync": "EIO ENOSPC EDQUOT EINTR EROFS",
    "ftruncate": "EIO ENOSPC EDQUOT EINTR EPERM EROFS",
    "close": "EIO EINTR ENOSPC EDQUOT",
    "stat": _LOOKING, "lstat": _LOOKING, "newfstatat": _LOOKING, "statx": f"{_LOOKING} ENOSYS",
    "fstat": "EIO ENOMEM ESTALE",
    "access": "EACCES EIO", "faccessat": "EACCES EIO", "faccessat2": "EACCES EIO",
    "readlink": "EACCES EIO ENOMEM", "readlinkat": "EACCES EIO ENOMEM",
    "rename": _NAMING, "renameat": _NAMING, "renameat2": f"{_NAMING} EINVAL ENOSYS",
    "link": f"{_NAMING} EMLINK EOPNOTSUPP", "linkat": f"{_NAMING} EMLINK EOPNOTSUPP",
    "unlink": "EACCES EPERM EIO EROFS EBUSY ENOMEM ESTALE", "unlinkat": "EACCES EPERM EIO EROFS EBUSY ENOMEM ESTALE",
    "mkdir": _NAMING, "mkdirat": _NAMING,
    "fchmod": "EPERM EIO EINTR EROFS", "fchown": "EPERM EIO EINTR EDQUOT", "utimensat": "EPERM EACCES EIO EROFS",
    "getxattr": "EOPNOTSUPP EIO ERANGE ENODATA", "listxattr": "EOPNOTSUPP EIO ERANGE",
    "fsetxattr": "EOPNOTSUPP EPERM EIO ENOSPC EDQUOT",
    "flock": "EWOULDBLOCK ENOLCK EINTR EIO ENOSYS EOPNOTSUPP",
    "fcntl": "EAGAIN EACCES ENOLCK EINTR EIO EINVAL",
    "timer_create": "EAGAIN ENOMEM ENOSYS EPERM", "timer_settime": "ENOSYS EPERM", "timer_delete": "ENOSYS EPERM",
    "fstatfs": "EIO EACCES ENOSYS", "clock_nanosleep": "EINTR", "nanosleep": "EINTR",
    "getrandom": "EINTR", "kill": "EPERM",
    "dup": "EMFILE", "dup2": "EMFILE EINTR", "dup3": "EMFILE EINTR",
}  # fmt: skip
"""The errors by call. One that would say something untrue about the disk, such as ENOENT of a file that is there, is no
failure: what others may do to the files meanwhile is for other tests."""

HARMLESS = {
    "lseek": "on a regular file it cannot fail",
    "ioctl": "Python asks whether a file is a terminal, and does with any error",
    "uname": "cannot fail",
    "getcwd": "fails only when the directory has gone",
    "statfs": "only names the file system",
    "fcntl": "it does not lock here, and cannot fail",
}
"""Calls that are made to fail with no error, and why. The process dies there all the same."""

DYING_DISK = {
    "EIO": "read pread64 getdents64 write pwrite64 fsync fdatasync ftruncate stat lstat newfstatat statx fstat rename "
    "renameat2 link linkat unlink mkdir fchmod fchown fsetxattr openat flock fcntl",
    "ENOSPC": "write pwrite64 fsync fdatasync link linkat mkdir fsetxattr",
    "EROFS": "write pwrite64 ftruncate rename renameat2 link linkat unlink mkdir fchmod fchown fsetxattr",
    "EMFILE": "openat dup dup2 dup3",
}
"""What fails together, from some call on and to the end of the operation: a disk that is gone, full, or may only be
read any more, and descriptors that are used up."""

_TOLD_AS = {
    ("flock", errno.ENOLCK): errno.EOPNOTSUPP,
    ("flock", errno.ENOSYS): errno.EOPNOTSUPP,
    ("fcntl", errno.ENOLCK): errno.EOPNOTSUPP,
    ("fcntl", errno.EINVAL): errno.EOPNOTSUPP,
    ("openat", errno.EROFS): errno.EACCES,  # of a file that is there, and cannot be locked without writing
}
"""Errors for which the library has an errno that says more. All others are told with their own."""

_AT_EMPTY_PATH = 0x1000
OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)


def errors_of(call: Call) -> list[int]:
    """The errors that a call may fail with."""
    names = ERRORS.get(call.name, "").split()
    if call.name == "openat" and call.arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
        names += _CREATING.split() if call.arguments[2] & os.O_CREAT else ["EROFS"]
    if call.name == "openat" and call.arguments[2] & os.O_TMPFILE == os.O_TMPFILE:
        names += ["EOPNOTSUPP", "EISDIR", "ENOSPC", "EDQUOT"]
    if call.name in {"fsync", "fdatasync"} and os.path.isdir(call.path):
        names.append("EINVAL")
    if call.name == "newfstatat" and call.arguments[3] & _AT_EMPTY_PATH:
        names = ERRORS["fstat"].split()
    if call.name == "flock" and call.arguments[1] & fcntl.LOCK_UN:
        names = ["ENOLCK", "EINTR", "EIO"]
    if call.name == "fcntl":
        names = names if call.arguments[1] in {OFD_SETLK, OFD_SETLK + 1} else []
    return [getattr(errno, name) for name in names]


def faults_of(call: Call, skipped: Counter[str]) -> Iterator[Fault]:
    """Everything that can become of a call. Why something cannot is counted."""
    where = NUMBERS[call.name], call.nth
    yield Fault(*where, DIE_BEFORE)
    yield Fault(*where, DIE_AFTER)
    errors = errors_of(call)
    if not errors:
        skipped[f"{call.name}: {HARMLESS.get(call.name, 'no errors of it are known here')}"] += 1
    for error in errors:
        yield Fault(*where, FAIL, error)
        if error == errno.EINTR:
            yield Fault(*where, FAIL, error, times=3)
        together = DYING_DISK.get(errno.errorcode[error], "").split()
        if call.name in together:
            yield Fault(*where, FAIL, error, times=0, others=tuple(NUMBERS[name] for name in together))
    if call.name in {"read", "pread64", "write", "pwrite64"}:
        yield from _cuts(call, where, skipped)


def _cuts(call: Call, where: tuple[int, int], skipped: Counter[str]) -> Iterator[Fault]:
    """A part of what was to be read or written: one byte, half, all but one; and then the reason for it."""
    whole = min(call.arguments[2], call.result)
    sizes = {size for size in (1, whole // 2, whole - 1) if 0 < size < whole}
    if not sizes:
        skipped["a piece of one byte, or none, cannot be cut"] += 1
    for size in sorted(sizes):
        yield Fault(*where, CUT, size=size)
        if "write" in call.name:
            for error in (errno.ENOSPC, errno.EINTR, 0):
                yield Fault(*where, CUT, error, size, times=2)


def told_as(fault: Fault, text: str) -> set[int]:
    """The errnos of an exception that tells of a fault in these words; 0 if it is a Timeout, which names none."""
    told = {fault.error, _TOLD_AS.get((NAMES[fault.number], fault.error), fault.error)}
    if "could not be acquired" in text:
        told.add(0)
    if "brought to the disk" in text:
        told.add(errno.EIO)
    return told


def in_words(fault: Fault, call: Call) -> str:
    """What a fault does to its call."""
    error = errno.errorcode.get(fault.error, "")
    if fault.how in {DIE_BEFORE, DIE_AFTER}:
        return f"{call}: killed {'before' if fault.how == DIE_BEFORE else 'after'} it"
    if fault.how == CUT:
        then = "" if fault.times == 1 else f", then {error or 'death'}"
        return f"{call}: {fault.size} of {call.arguments[2]} bytes{then}"
    often = {0: " from here on", 1: ""}.get(fault.times, f" {fault.times} times")
    return f"{call}: {error}{often}"
