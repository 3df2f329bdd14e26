"""All locks on a machine, or below some paths: who holds them, who waits for whom, and who waits in a circle."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import NamedTuple

from holdfast import _proc
from holdfast._core import process_start
from holdfast._holders import in_namespace, recorded_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Lock:
    """A lock that a process holds, or waits for. What cannot be known is None.

    `pid` is the process that has the lock now, though another may have taken it. `start` and `end` are the bytes that
    are locked, `end` being None for the rest of the file.
    """

    path: str | None
    device: str
    inode: int
    kind: _proc.Kind
    mode: _proc.Mode
    pid: int | None
    waiting: bool
    start: int = 0
    end: int | None = None
    host: str | None = None

    @property
    def name(self) -> str:
        """The path, or else the device and inode."""
        return self.path or f"{self.device}:{self.inode}"

    def keeps_out(self, other: Lock) -> bool:
        """Whether this one, being held, is what `other` waits for.

        >>> from holdfast._survey import Lock
        >>> held = Lock("a.lock", "fe:00", 5, "flock", "exclusive", 4711, waiting=False)
        >>> held.keeps_out(Lock("a.lock", "fe:00", 5, "flock", "shared", 4712, waiting=True))
        True
        """
        return (
            not self.waiting
            and (self.device, self.inode) == (other.device, other.inode)
            and "exclusive" in (self.mode, other.mode)
            # On a local disk flock and the locks of fcntl do not see each other.
            and (self.kind == other.kind or {self.kind, other.kind} == {"ofd", "posix"})
            and (self.end is None or other.start <= self.end)
            and (other.end is None or self.start <= other.end)
        )


class Circle(NamedTuple):
    """Processes each of which waits for a lock that the next one holds, the last one for one of the first.

    It is `certain` when no thread is left that could release anything. Otherwise a process has other threads, and the
    system does not tell which of them holds the lock.
    """

    waits: list[tuple[Lock, Lock]]  # what a process waits for, and the lock of the next one that keeps it out
    certain: bool


class Survey(NamedTuple):
    """The locks that were seen, circles in which one of them is waited for, and in words what could not be seen."""

    locks: list[Lock]
    circles: list[Circle]
    unknown: list[str]


def survey(paths: Iterable[str] = ()) -> Survey:
    """The locks at or below the paths, or without any on the whole machine.

    The owners of SoftFileLocks are found in files at the paths, and in those named *.lock below them.
    """
    everything, unknown, hidden = _kernel_locks()
    found = circles(everything)
    roots = [os.path.realpath(path) for path in paths]
    if not roots:
        locks = everything
    else:
        files, problems = _files_at(roots, {lock.inode for lock in everything})
        locks = _only_below(everything, roots, files) + [owner for file in files for owner in _owner_in(file)]
        unknown += problems
        shown = {(lock.device, lock.inode) for lock in locks}
        found = [circle for circle in found if any((held.device, held.inode) in shown for _, held in circle.waits)]
    locks = sorted(locks, key=lambda lock: (lock.name, lock.waiting, lock.pid or 0))
    return Survey(locks, found, unknown + _blind_spots(locks, hidden))


def circles(locks: list[Lock]) -> list[Circle]:
    """The circles in which processes wait for each other, the certain ones first."""
    waits = _waits(locks)
    stuck = _stuck(waits)
    found: dict[frozenset[int], Circle] = {}
    for pid in waits:
        for certain in (True, False):
            circle = _circle_from(pid, waits, stuck if certain else set(waits))
            # A process that waits for another thread of its own is an everyday thing.
            if circle and (certain or len(circle) > 1):
                members = frozenset(lock.pid for lock, _ in circle if lock.pid is not None)
                found.setdefault(members, Circle(circle, certain))
                break
    return sorted(found.values(), key=lambda circle: not circle.certain)


_Waits = dict[int, list[tuple[Lock, list[Lock]]]]  # by pid: each lock it waits for, and those that keep it out


def _waits(locks: list[Lock]) -> _Waits:
    held: defaultdict[tuple[str, int], list[Lock]] = defaultdict(list)
    for lock in locks:
        if not lock.waiting:
            held[lock.device, lock.inode].append(lock)
    waits: _Waits = {}
    for lock in locks:
        if lock.waiting and lock.pid is not None:
            blockers = [other for other in held[lock.device, lock.inode] if other.keeps_out(lock)]
            waits.setdefault(lock.pid, []).append((lock, blockers))
    return waits


def _stuck(waits: _Waits) -> set[int]:
    """The processes that can never go on: all their threads wait, each for a lock of another such process."""
    stuck = {pid for pid, its in waits.items() if len(its) >= _proc.threads(pid) > 0}
    while True:
        free = {
            pid for pid in stuck if not all(any(lock.pid in stuck for lock in blockers) for _, blockers in waits[pid])
        }
        if not free:
            return stuck
        stuck -= free


def _circle_from(first: int, waits: _Waits, among: set[int]) -> list[tuple[Lock, Lock]]:
    """A shortest way from a process over those that it waits for back to itself; empty if there is none."""
    ways: list[list[tuple[Lock, Lock]]] = [[]]
    reached: set[int] = set()
    for way in ways:
        here = way[-1][1].pid if way else first
        if here is None or here not in among:
            continue
        for lock, blockers in waits[here]:
            for blocker in blockers:
                if blocker.pid == first:
                    return [*way, (lock, blocker)]
                if blocker.pid is not None and blocker.pid not in reached:
                    reached.add(blocker.pid)
                    ways.append([*way, (lock, blocker)])
    return []


def _kernel_locks() -> tuple[list[Lock], list[str], int]:
    """All that are known, in words what is not, and how many processes could not be looked at."""
    if sys.platform != "linux":
        return [], ["this system does not tell who holds kernel locks; only owners of SoftFileLocks are shown"], 0
    try:
        lines = Counter(_proc.all_locks())
    except OSError as error:
        return [], [f"/proc/locks cannot be read: {error.strerror}"], 0
    seen = _Descriptors(lines)
    if in_namespace():
        # There the kernel leaves out locks whose taker is dead, though whoever inherited them may be seen.
        lines.update(seen.carriers.keys() - lines.keys())
    locks = [
        Lock(seen.path_of(line), line.device, line.inode, line.kind, line.mode, pid, line.waiting, line.start, line.end)
        for line, times in lines.items()
        for pid in _pids_of(line, seen)
        for _ in range(times if line.waiting else 1)  # several threads of a process may wait
    ]
    return locks, [], seen.hidden


class _Descriptors:
    """What the descriptors of all processes tell about locks: who carries them, and the paths of their files."""

    def __init__(self, lines: Iterable[_proc.Line]) -> None:
        self.carriers: dict[_proc.Line, list[int]] = {}
        self.hidden = 0  # processes that may not be looked at
        self._paths: dict[tuple[int, str], str] = {}  # by inode and device
        self._awaited: dict[int, str] = {}  # by inode alone: the device of a descriptor without a lock is not told
        waiting = {line.pid for line in lines if line.waiting}
        inodes = {line.inode for line in lines if line.waiting}
        for _, pid in _proc.processes():
            try:
                for descriptor in _proc.descriptors(pid):
                    self._note_locks(pid, descriptor)
                    if pid in waiting and (inode := descriptor.inode()) in inodes and inode not in self._awaited:
                        self._awaited[inode] = _proc.file_behind(pid, descriptor.number)
            except OSError:
                self.hidden += 1

    def _note_locks(self, pid: int, descriptor: _proc.Descriptor) -> None:
        for line in descriptor.locks():
            self.carriers.setdefault(line, []).append(pid)
            if (line.inode, line.device) not in self._paths:
                self._paths[line.inode, line.device] = _proc.file_behind(pid, descriptor.number)

    def path_of(self, line: _proc.Line) -> str | None:
        """The path of the file that is locked, if a process can be seen that has it open."""
        return self._paths.get((line.inode, line.device)) or self._awaited.get(line.inode) or None


def _pids_of(line: _proc.Line, seen: _Descriptors) -> list[int | None]:
    """Who has a lock: the process that took it, if that has it still, or else those that inherited it."""
    if line.waiting:
        return [line.pid if line.pid > 0 else None]
    carriers = seen.carriers.get(line, [])
    if line.pid in carriers:
        return [line.pid]
    if carriers:
        return [*dict.fromkeys(carriers)]
    return [line.pid if line.pid > 0 and process_start(line.pid) != -errno.ESRCH else None]


def _blind_spots(locks: list[Lock], hidden: int) -> list[str]:
    found: list[str] = []
    if hidden and any(lock.path is None or (lock.pid is None and not lock.waiting) for lock in locks):
        found.append(f"{hidden} processes may not be looked at, so some paths or holders are missing; root sees all")
    if any(lock.pid is None and lock.waiting for lock in locks):
        found.append("the kernel does not tell who waits for an OFD lock")
    if in_namespace():
        found.append("processes outside this container, or pid namespace, cannot be seen, nor can their locks")
    return found


class _File(NamedTuple):
    path: str
    inode: int
    devices: set[str] | None


def _files_at(roots: list[str], inodes: set[int]) -> tuple[list[_File], list[str]]:
    """The files at the paths, and those below that have one of the inodes or may be markers; and what was not seen."""
    found: list[_File] = []
    problems: list[str] = []
    todo = list(roots)
    for path in todo:
        try:
            if not os.path.isdir(path):
                found.append(_file(path))
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.inode() in inodes or entry.name.endswith(".lock"):
                        found.append(_file(entry.path))
        except FileNotFoundError:
            continue  # it was removed meanwhile, or nobody has ever locked it
        except OSError as error:
            problems.append(f"{path} cannot be looked at: {error.strerror}")
    return found, problems


def _file(path: str) -> _File:
    status = os.lstat(path)
    devices = _proc.devices_of(path, status) if sys.platform == "linux" else None
    return _File(path, status.st_ino, devices)


def _only_below(locks: list[Lock], roots: list[str], files: list[_File]) -> list[Lock]:
    """The locks on the files, with these paths, and those on files that had been below the roots and have gone."""
    by_inode: defaultdict[int, list[_File]] = defaultdict(list)
    for file in files:
        by_inode[file.inode].append(file)
    found: list[Lock] = []
    for lock in locks:
        names = [f.path for f in by_inode[lock.inode] if f.devices is None or lock.device in f.devices]
        if names:
            found.append(replace(lock, path=names[0]))
        elif lock.path and any(_is_below(lock.path.removesuffix(" (deleted)"), root) for root in roots):
            found.append(lock)
    return found


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _owner_in(file: _File) -> list[Lock]:
    """The owner of a SoftFileLock, if this is the file of one."""
    owner = recorded_owner(file.path)
    if owner is None:
        return []
    device = min(file.devices or {""})
    return [Lock(file.path, device, file.inode, "soft", "exclusive", owner.pid, waiting=False, host=owner.host)]
