"""What a disk may hold after a power cut: record() a workload, and states() are those that its files may be left in.

The model, which promises less than any file system that we know:

- A sync makes last what was done before it began, of the file or directory that is synced, and of nothing else. That of
  a new file does not bring its name to the disk, nor that of a directory the contents of its files. POSIX promises no
  more; ext4 and xfs bring along what is older in their journal, btrfs what it needs to find the file again.
- Names: any of the changes to a directory that were not synced may be missing, and the later ones be there, but that a
  change of a name follows the earlier ones of the same name. Journals keep all of them in order; without any order
  nothing could replace a file safely. A rename is whole.
- Contents: each sector, of 512 or 4096 bytes, is as it was after any of the writes that were not synced, by itself, and
  what was never written is zero. The size is that after any of these writes, or in the middle of one. With delayed
  allocation file systems write blocks in any order, and the size before or after them. A sector is written whole or
  not at all, and keeps those of its bytes that were synced.

So a rename may reach the disk long before the content of the file that it moves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).resolve().parent
PATIENCE = 300  # seconds that a workload may take
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where checks need not wait for their own syncs
SECTORS = (512, 4096)

Tree: TypeAlias = dict[str, bytes | None]  # the contents of files, by path; None is a directory


@dataclass(eq=False)
class File:
    """A file or directory, whatever its names: what was done to it, and when; when its syncs began and ended."""

    is_directory: bool = False
    changes: list[tuple[int, Any]] = field(default_factory=list)
    syncs: list[tuple[float, float]] = field(default_factory=list)

    def safe_until(self, cut: float) -> float:
        """What was done before this time is on the disk."""
        return max((began for began, ended in self.syncs if ended < cut), default=-1.0)


@dataclass(frozen=True)
class Naming:
    """A change of names in a directory: what each of them names from then on."""

    names: dict[str, File | None]


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes

    def applied(self, content: bytes) -> bytes:
        return content[: self.offset].ljust(self.offset, b"\0") + self.data + content[self.offset + len(self.data) :]


@dataclass(frozen=True)
class Truncation:
    size: int

    def applied(self, content: bytes) -> bytes:
        return content[: self.size].ljust(self.size, b"\0")


@dataclass(frozen=True)
class Recording:
    """What a workload did in a directory. A time is the number of a note."""

    root: File
    files: list[File]
    said: list[tuple[int, dict[str, Any]]]
    end: int

    def cuts(self) -> list[float]:
        """Before each change, before the end of each sync, and after all."""
        changes = {time for file in self.files for time, _ in file.changes}
        syncs = {ended for file in self.files for _, ended in file.syncs}
        return sorted({*changes, *syncs, self.end})

    def said_before(self, cut: float) -> int:
        return sum(time < cut for time, _ in self.said)


# Recording


def build(folder: Path) -> Path:
    """The shared object of the recorder."""
    made = folder / "recorder.so"
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(made)]
    subprocess.run([*command, str(HERE / "recorder.c"), "-ldl", "-lpthread"], check=True)
    return made


def record(workload: str, recorder: Path) -> Recording:
    """Let a workload run, and note what it does. Once more if a process ended between a change and the note of it."""
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=recorder.parent) as folder:
            directory, notes, mutex = (Path(folder, name) for name in ("directory", "notes", "mutex"))
            directory.mkdir()
            notes.touch()
            mutex.write_bytes(bytes(4096))
            paths = {"RECORDER_NOTES": str(notes), "RECORDER_MUTEX": str(mutex), "LD_PRELOAD": str(recorder)}
            _run(
                [sys.executable, str(HERE / "workload.py"), workload, str(directory)],
                {**os.environ, **paths, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            recording = _Reader(directory).read(notes.read_text().splitlines())
            if _everything(recording) == _found(directory):  # so nothing went past the recorder
                return recording
    raise AssertionError(f"{workload}: the recording is not what happened")


def _run(command: list[str], environment: dict[str, str]) -> None:
    """Run a program, and leave none of its processes behind."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        if process.wait(PATIENCE) != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Reader:
    """Makes a recording of notes."""

    def __init__(self, directory: Path) -> None:
        self.top = str(directory)
        self.root = File(is_directory=True)
        self.files = [self.root]
        self.by_inode = {directory.stat().st_ino: self.root}
        self.by_path: dict[str, File | None] = {self.top: self.root}
        self.began: dict[tuple[str, str], int] = {}
        self.said: list[tuple[int, dict[str, Any]]] = []

    def read(self, notes: list[str]) -> Recording:
        for time, note in enumerate(notes):
            what, *rest = note.split(" ")
            getattr(self, f"_{what}")(time, *rest)
        return Recording(self.root, self.files, self.said, len(notes))

    def _new(self, _: int, inode: str, __: str) -> None:
        self.by_inode[int(inode)] = file = File()
        self.files.append(file)

    def _mkdir(self, time: int, inode: str, path: str) -> None:
        self.by_inode[int(inode)] = file = File(is_directory=True)
        self.files.append(file)
        self._name(time, {path: file})

    def _link(self, time: int, inode: str, path: str) -> None:
        if self._is_ours(path):
            self._name(time, {path: self.by_inode[int(inode)]})

    def _unlink(self, time: int, path: str) -> None:
        self._name(time, {path: None})

    def _rename(self, time: int, one: str, other: str) -> None:
        if self._is_ours(one):
            self._name(time, {one: None, other: self.by_path[_text(one)]})

    def _write(self, time: int, inode: str, offset: str, data: str) -> None:
        self._change(time, inode, Write(int(offset), bytes.fromhex(data)))

    def _truncate(self, time: int, inode: str, size: str) -> None:
        self._change(time, inode, Truncation(int(size)))

    def _begin(self, time: int, inode: str, thread: str) -> None:
        self.began[inode, thread] = time

    def _end(self, time: int, inode: str, thread: str) -> None:
        if file := self.by_inode.get(int(inode)):
            file.syncs.append((self.began[inode, thread], time))

    def _said(self, time: int, line: str) -> None:
        self.said.append((time, json.loads(_text(line))))

    def _is_ours(self, path: str) -> bool:
        return _text(path).startswith(self.top + "/")

    def _name(self, time: int, changed: dict[str, File | None]) -> None:
        paths = {_text(path): file for path, file in changed.items()}
        directories = {os.path.dirname(path) for path in paths}
        directory = self.by_path.get(directories.pop())
        if directory is not None:
            assert not directories, "a rename from one directory to another: the model has none"
            self.by_path |= paths
            names = {os.path.basename(path): file for path, file in paths.items()}
            directory.changes.append((time, Naming(names)))

    def _change(self, time: int, inode: str, change: Write | Truncation) -> None:
        if file := self.by_inode.get(int(inode)):
            file.changes.append((time, change))


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode("utf-8", "surrogateescape")


def _found(directory: Path) -> Tree:
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in directory.rglob("*")
    }


def _everything(recording: Recording) -> Tree:
    return _Disk(recording, recording.end, random.Random()).tree(None, _Disk.all)


# States


class _Disk:
    """A disk whose power is cut at a certain time."""

    def __init__(self, recording: Recording, cut: float, choose: random.Random) -> None:
        self._root = recording.root
        self._cut = cut
        self._choose = choose
        self._versions: dict[File, list[bytes]] = {}

    def unsynced(self) -> set[int]:
        """The changes of names that need not be on the disk."""
        found: set[int] = set()
        for file in [self._root, *self._reachable(None).values()]:
            if file.is_directory:
                safe = file.safe_until(self._cut)
                found |= {time for time, _ in file.changes if safe <= time < self._cut}
        return found

    def tree(self, there: set[int] | None, content: Callable[[_Disk, File], bytes]) -> Tree:
        """What it holds if of the unsynced changes of names these are there, or for None all."""
        files = self._reachable(there)
        return {path: None if file.is_directory else content(self, file) for path, file in files.items()}

    def _reachable(self, there: set[int] | None) -> dict[str, File]:
        found: dict[str, File] = {}
        rest = [("", self._root)]
        while rest:
            path, directory = rest.pop()
            for name, file in self._names(directory, there).items():
                if file is not None:
                    found[path + name] = file
                    if file.is_directory:
                        rest.append((f"{path}{name}/", file))
        return found

    def _names(self, directory: File, there: set[int] | None) -> dict[str, File | None]:
        safe = directory.safe_until(self._cut)
        names: dict[str, File | None] = {}
        lost: set[str] = set()
        for time, change in directory.changes:
            if time >= self._cut:
                break
            if time < safe or there is None or (time in there and not lost & change.names.keys()):
                names |= change.names
            else:
                lost |= change.names.keys()
        return names

    # What a file may contain

    def versions(self, file: File) -> list[bytes]:
        """The content that is on the disk for sure, and those after each of the writes since."""
        if file not in self._versions:
            content = b""
            versions = [content]
            safe = file.safe_until(self._cut)
            for time, change in file.changes:
                if time < self._cut:
                    content = change.applied(content)
                    versions = [content] if time < safe else [*versions, content]
            self._versions[file] = versions
        return self._versions[file]

    def all(self, file: File) -> bytes:
        return self.versions(file)[-1]

    def nothing(self, file: File) -> bytes:
        return self.versions(file)[0]

    def only_the_size(self, file: File) -> bytes:
        versions = self.versions(file)
        return versions[0][: len(versions[-1])].ljust(len(versions[-1]), b"\0")

    def first_half(self, file: File) -> bytes:
        """The writes in their order, up to the middle of one."""
        versions = self.versions(file)
        content = self._choose.choice(versions)
        return content[: max(len(versions[0]), len(content) - self._choose.randrange(len(content) // 2 + 1))]

    def sectors(self, file: File) -> bytes:
        """Each sector as it was at a time of its own."""
        versions = self.versions(file)
        if len(versions) == 1:
            return versions[0]
        size = len(self._choose.choice(versions))
        if self._choose.random() < 0.3:
            size = min(size, max(len(versions[-2]), self._choose.randrange(size + 1)))
        sector = self._choose.choice(SECTORS)
        pieces = (self._choose.choice(versions)[start : start + sector] for start in range(0, size, sector))
        return b"".join(piece.ljust(sector, b"\0") for piece in pieces)[:size]

    def any_way(self, file: File) -> bytes:
        ways = (_Disk.all, _Disk.nothing, _Disk.only_the_size, _Disk.first_half, _Disk.sectors, _Disk.sectors)
        return self._choose.choice(ways)(self, file)


FEW = 5
"""Of so many changes of names every combination is tried."""


def states(recording: Recording, cut: float, samples: int, choose: random.Random) -> Iterator[Tree]:
    """What the disk may hold when the power is cut: extremes, all combinations of a few names, and samples."""
    disk = _Disk(recording, cut, choose)
    unsynced = disk.unsynced()
    if len(unsynced) <= FEW:
        chosen = [set(some) for count in range(len(unsynced) + 1) for some in combinations(sorted(unsynced), count)]
    else:
        chosen = [set(), unsynced, *(unsynced - {time} for time in unsynced)]
    for there in chosen:
        for content in (_Disk.all, _Disk.nothing, _Disk.only_the_size, _Disk.sectors):
            yield disk.tree(there, content)
    for _ in range(samples):
        odds = choose.random()
        yield disk.tree({time for time in unsynced if choose.random() < odds}, _Disk.any_way)


def put(tree: Tree, directory: str) -> None:
    """Make a directory hold a state."""
    for path, content in sorted(tree.items()):
        if content is None:
            Path(directory, path).mkdir()
        else:
            Path(directory, path).write_bytes(content)
