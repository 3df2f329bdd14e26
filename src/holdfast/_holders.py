"""Who holds a lock, as far as the system tells."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from holdfast import _proc
from holdfast._core import process_start
from holdfast._process import command_of, started
from holdfast._shown import harmless


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, or waits for it.

    `command` is empty when the process may not be looked at. `since` is when the process started, in seconds of
    time.time(), or None. `source` is who says so: the kernel, the owner's record in the file of a SoftFileLock, or
    both. It does not count when two holders are compared.

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
    source: Literal["kernel", "record", "both"] = field(default="kernel", compare=False)

    def __str__(self) -> str:
        if self.pid == os.getpid() and self.host is None:
            return f"this process (pid {self.pid})"
        command = f" ({harmless(self.command)})" if self.command else ""
        host = f" on host {harmless(self.host)}" if self.host else ""
        return f"pid {self.pid}{command}{host}"


def holders(path: str | os.PathLike[str]) -> list[Holder]:
    """The processes that hold the lock at `path` or wait for it, holders first.

    Linux tells who holds a kernel lock, as far as this process may look; other systems do not. The owner of a
    SoftFileLock is in its file, everywhere. So an empty list means that nobody can be seen, not that the lock is free.

    >>> from holdfast import holders
    >>> holders("nobody-has-ever-locked-this.lock")
    []
    """
    return look(path).holders


class Sight(NamedTuple):
    """Who was seen, holders first, and in words what could not be seen, or empty."""

    holders: list[Holder]
    unknown: str


def look(path: str | os.PathLike[str]) -> Sight:
    """What holders() tells, and what it cannot know."""
    path = os.fsdecode(path)
    modes, unknown = _kernel_says(path)
    owner = recorded_owner(path)
    found: list[Holder] = []
    for (pid, waiting), mode in modes.items():
        both = owner is not None and owner.host is None and owner.pid == pid and not waiting
        found.append(Holder(pid, command_of(pid), mode, started(pid), waiting, source="both" if both else "kernel"))
    if owner is not None and not any(holder.source == "both" for holder in found):
        found.append(owner)
    return Sight(sorted(found, key=lambda holder: holder.waiting), unknown)


def recorded_owner(path: str) -> Holder | None:
    """The living owner of the marker at `path`, if it is one."""
    from holdfast.owner import host_name, owner_of

    owner = owner_of(path)
    if owner is None or owner.is_gone():
        return None
    here = owner.host == host_name()
    return Holder(
        pid=owner.pid,
        command=command_of(owner.pid) if here else "",
        mode="exclusive",
        since=started(owner.pid) if here else None,
        waiting=False,
        host=None if here else owner.host,
        source="record",
    )


_Seen = dict[tuple[int, bool], _proc.Mode]  # by pid, and whether it waits


def _kernel_says(path: str) -> tuple[_Seen, str]:
    if sys.platform != "linux":
        return {}, "this system does not tell who holds a kernel lock"
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"the file cannot be looked at: {error.strerror}"
    devices = _proc.devices_of(path, status)
    try:
        lines, complete = _proc.locks_on(status.st_ino, devices)
    except OSError as error:
        return {}, f"/proc/locks cannot be read: {error.strerror}"
    return _Look(status.st_ino, devices).at(lines, complete)


class _Look:
    """Finding the processes behind the lines of /proc/locks about one file.

    The kernel names the process that took a lock. If that died, or closed its descriptor, and one it was inherited by
    lives on with another, that one has the lock now. OFD locks have no pid at all. There, what the descriptors of all
    processes carry tells.
    """

    def __init__(self, inode: int, devices: set[str] | None) -> None:
        self._inode = inode
        self._devices = devices
        self._seen: _Seen = {}

    def at(self, lines: list[_proc.Line], complete: bool) -> tuple[_Seen, str]:
        unknown = ""
        orphans: set[_proc.Line] = set()
        for line in filter(_concerns_us, lines):
            if line.waiting and line.pid <= 0:
                unknown = "the kernel does not tell who waits for an OFD lock"
            elif line.waiting or self._is_held_by_its_taker(line):
                self._seen[line.pid, line.waiting] = line.mode
            else:
                orphans.add(line)
        # In a pid namespace the kernel leaves out locks whose taker is dead.
        if orphans or (not self._seen and (not complete or in_namespace())):
            unknown = self._search(orphans) or unknown
        return self._seen, unknown

    def _is_held_by_its_taker(self, line: _proc.Line) -> bool:
        if line.pid <= 0 or process_start(line.pid) == -errno.ESRCH:
            return False
        if not _proc.has_few_descriptors(line.pid):
            return True  # very likely, and finding out would take too long
        try:
            return bool(self._carried_by(line.pid))
        except OSError:
            return True  # not for us to look at

    def _search(self, orphans: set[_proc.Line]) -> str:
        """Look for the locks at the descriptors of all processes. Returns what could not be seen."""
        missing = set(orphans)
        hidden = False
        for descriptors, pid in _proc.processes():
            if orphans and not missing and descriptors > _proc.FEW:
                break  # it might have inherited the lock, too, but finding out would take too long
            try:
                carried = self._carried_by(pid)
            except OSError:
                hidden = True
                continue
            for line in carried:
                self._seen[pid, False] = line.mode
                missing.discard(line)
        for line in list(missing):
            # Who took it may have released it just now, or the first of its threads has ended, which hides the others.
            if line.pid > 0 and process_start(line.pid) != -errno.ESRCH:
                self._seen[line.pid, False] = line.mode
                missing.discard(line)
        if missing and hidden:
            return "a process holds it that this one may not look at: that takes the rights of its user, or root's"
        if not self._seen and in_namespace():
            return "processes outside this container, or pid namespace, cannot be seen"
        return ""

    def _carried_by(self, pid: int) -> list[_proc.Line]:
        return [
            line
            for descriptor in _proc.descriptors(pid)
            for line in descriptor.locks()
            if line.inode == self._inode
            and _concerns_us(line)
            and (self._devices is None or line.device in self._devices)
        ]


def _concerns_us(line: _proc.Line) -> bool:
    """Whether the lock excludes holdfast's. On a local disk POSIX locks do not, and a lease is none."""
    return line.kind in ("flock", "ofd")


def in_namespace() -> bool:
    """Whether this process is in a pid namespace of its own, from which others cannot be seen."""
    from holdfast.owner import host_name

    return "?pidns-" in host_name()
