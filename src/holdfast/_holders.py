"""Who holds a lock, as far as the system tells."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from typing import Literal

from holdfast._core import process_start


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, or waits for it.

    `command` is empty when the process may not be looked at. `since` is when the process started, in seconds of
    time.time(), or None.

    >>> from holdfast import Holder
    >>> print(Holder(pid=4711, command="worker.py", mode="exclusive", since=None, waiting=False))
    pid 4711 (worker.py)
    """

    pid: int
    command: str
    mode: Literal["exclusive", "shared"]
    since: float | None
    waiting: bool
    host: str | None = None

    def __str__(self) -> str:
        if self.pid == os.getpid() and self.host is None:
            return f"this process (pid {self.pid})"
        command = f" ({self.command})" if self.command else ""
        host = f" on host {self.host}" if self.host else ""
        return f"pid {self.pid}{command}{host}"


def holders(path: str | os.PathLike[str]) -> list[Holder]:
    """The processes that hold the lock at `path` or wait for it, holders first.

    Linux tells who holds a kernel lock, as far as this process may look; other systems do not, and the list is empty.
    The owner of a SoftFileLock is in its file, everywhere.

    >>> from holdfast import holders
    >>> holders("nobody-has-ever-locked-this.lock")
    []
    """
    path = os.fsdecode(path)
    found = _kernel_holders(path) if sys.platform == "linux" else []
    return sorted(found, key=lambda holder: holder.waiting) or _marker_owner(path)


def _marker_owner(path: str) -> list[Holder]:
    from holdfast.owner import host_name, owner_of

    owner = owner_of(path)
    if owner is None or owner.is_gone():
        return []
    here = owner.host == host_name()
    return [
        Holder(
            pid=owner.pid,
            command=_command(owner.pid) if here else "",
            mode="exclusive",
            since=_started(owner.pid) if here else None,
            waiting=False,
            host=None if here else owner.host,
        )
    ]


def _kernel_holders(path: str) -> list[Holder]:
    """What /proc/locks says: a line for each lock, and for each waiter a line with an arrow."""
    try:
        status = os.stat(path, follow_symlinks=False)
        lines = _lines_about(status.st_ino)
    except OSError:
        return []
    found: dict[tuple[int, bool], Holder] = {}
    for line in lines:
        # FLOCK ADVISORY WRITE 4711 fe:01:12345 0 EOF
        # -> FLOCK ADVISORY WRITE 4712 fe:01:12345 0 EOF
        fields = line.replace("->", "-> ").split()
        waiting = fields[0] == "->"
        kind, _, mode, pid, file_id = fields[waiting : 5 + waiting]
        if kind == "POSIX" or not _same_file(file_id, status):
            continue
        for holder in _real_pids(int(pid), status.st_ino, waiting):
            found[holder, waiting] = Holder(
                pid=holder,
                command=_command(holder),
                mode="exclusive" if mode == "WRITE" else "shared",
                since=_started(holder),
                waiting=waiting,
            )
    return list(found.values())


_SURELY_ONE_PAGE = 3800  # a page has at least 4096 bytes, and ends before a line that does not fit


def _lines_about(inode: int) -> list[str]:
    """The lines of /proc/locks about an inode, without their numbers.

    The kernel gives out a page at a time, and locks that come and go between two pages make others appear twice, or not
    at all. So a list of more than a page is read until that adds nothing, and several times before it says "nothing".
    """
    found: dict[str, None] = {}
    for _ in range(8):
        before = len(found)
        text = _read_locks()
        found.update({line.partition(":")[2]: None for line in text.splitlines() if f":{inode} " in line})
        if len(text) < _SURELY_ONE_PAGE or (found and len(found) == before):
            break
    return list(found)


def _read_locks() -> str:
    descriptor = os.open("/proc/locks", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pages = iter(lambda: os.read(descriptor, 1 << 16), b"")
        return b"".join(pages).decode("ascii")
    finally:
        os.close(descriptor)


def _same_file(file_id: str, status: os.stat_result) -> bool:
    """Whether an entry such as fe:01:12345 means this file.

    Some file systems (btrfs, overlayfs) show another device number here than to stat(), so the inode has to do where
    the device is not one of a disk.
    """
    major, minor, inode = file_id.split(":")
    same_device = (int(major, 16), int(minor, 16)) == (os.major(status.st_dev), os.minor(status.st_dev))
    return int(inode) == status.st_ino and (same_device or os.major(status.st_dev) == 0)


def _real_pids(pid: int, inode: int, waiting: bool) -> list[int]:
    """Who has the lock that /proc/locks ascribes to `pid`.

    That is the process that took it. If it died, and a child it forked lives on with the descriptor, the child has the
    lock now. OFD locks have no pid at all.
    """
    if pid > 0 and (waiting or process_start(pid) != -errno.ESRCH):
        return [pid]
    if waiting:
        return []  # a waiter has no mark on its descriptor
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _has_locked(entry, inode)]


def _has_locked(pid: str, inode: int) -> bool:
    """Whether a descriptor of the process carries a lock on the inode."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return False  # it ended meanwhile, or is not ours to look at
    for descriptor in descriptors:
        try:
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
                if any(line.startswith("lock:") and f":{inode} " in line for line in file):
                    return True
        except OSError:
            continue  # it was closed meanwhile
    return False


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(b" ".join(words)).strip()[:200]


def _started(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/stat", encoding="ascii") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")
