"""Damage in a log: finding it, and moving it out of the way without losing a byte."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from dataclasses import dataclass, field
from gzip import GzipFile

from holdfast import _core
from holdfast._lines import LogFile, careful, reason_of
from holdfast._planted import is_planted
from holdfast._reading import decode_json, opened, whole
from holdfast._texts import Text, ZippedText, identity
from holdfast.atomic import replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import IO, Any, TypeAlias

    from holdfast._lines import Decode
    from holdfast._texts import Identity

    Locked: TypeAlias = Callable[[], AbstractContextManager[Any]]
    Progress: TypeAlias = Callable[[str, int], object]

_PIECE = 1 << 20
_SHOWN = 20
UNTERMINATED = "unterminated"


@dataclass(frozen=True)
class Damage:
    """A piece of a log's file that is not a record: where it is, how long, and what is wrong.

    In a compressed segment, offset and length are those of the decompressed text.

    >>> from holdfast._damage import Damage
    >>> print(Damage("events.jsonl", 120, 33, "not UTF-8"))
    events.jsonl, byte 120: 33 bytes, not UTF-8
    """

    path: str
    offset: int
    length: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset:,}: {self.length:,} bytes, {self.reason}"


@dataclass(frozen=True)
class Report:
    """What verify() or repair() found: how many files, records and bytes, and all damages.

    After repair(), `side_files` are where the damage went, and `moved` is how many bytes of it.

    >>> from holdfast._damage import Report
    >>> print(Report(files=1, records=3, bytes=120))
    1 file, 3 records, 120 bytes: no damage.
    """

    files: int = 0
    records: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list[Damage])
    side_files: list[str] = field(default_factory=list[str])
    moved: int = 0

    @property
    def ok(self) -> bool:
        """Whether there was no damage."""
        return not self.damages

    def __str__(self) -> str:
        checked = ", ".join(
            (_counted(self.files, "file"), _counted(self.records, "record"), _counted(self.bytes, "byte"))
        )
        if self.ok:
            return f"{checked}: no damage."
        lines = [f"{checked}: {_counted(len(self.damages), 'damaged piece')}."]
        lines += [f"  {damage}" for damage in self.damages[:_SHOWN]]
        if len(self.damages) > _SHOWN:
            lines.append(f"  and {len(self.damages) - _SHOWN:,} more")
        if self.side_files:
            lines.append(f"Moved {_counted(self.moved, 'byte')} to {', '.join(self.side_files)}.")
        return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Scan:
    """What is found in one file. It can be continued when the file has grown."""

    def __init__(self, file: LogFile, decode: Decode | None, progress: Progress | None = None) -> None:
        self.file = file
        self.path = file.text.path
        self.records = 0
        self.damages: list[Damage] = []
        self._decode = decode_json if decode is None else decode
        self._careful = careful(self._decode)
        self._progress = progress
        self._restarts = 0

    def go_on(self) -> None:
        """Look at all whole lines there are by now."""
        while lines := self.file.more():
            if self.file.restarts != self._restarts:
                self._restarts = self.file.restarts
                self.records = 0
                self.damages.clear()
            self._look_at(lines)
            if self._progress is not None:
                self._progress(self.path, self.file.end)

    def _look_at(self, lines: list[bytes]) -> None:
        decode = self._decode if self.file.is_clean() else self._careful
        offset = self.file.start
        for line in lines:
            try:
                if line.strip():
                    decode(line)
                    self.records += 1
            except (ValueError, RecursionError) as error:
                self._add(offset, len(line), reason_of(error))
            offset += len(line) + 1

    def _add(self, offset: int, length: int, reason: str) -> None:
        self.damages.append(Damage(self.path, offset, length, reason))

    def finish(self) -> None:
        """Judge what is behind the last newline, now that nobody is writing there."""
        rest = b"".join(self.file.remainder())
        if self.file.text.broken:
            self._add(self.file.end - len(rest), len(rest), self.file.text.broken)
        elif not rest.strip():
            pass
        elif self.file.final and self._is_record(rest):
            self.records += 1
        else:
            self._add(self.file.start, len(rest), UNTERMINATED)

    def _is_record(self, line: bytes) -> bool:
        try:
            self._careful(line)
        except (ValueError, RecursionError):
            return False
        return True


def verify(path: str, decode: Decode | None = None, progress: Progress | None = None, *, locked: Locked) -> Report:
    """Read all of a log, and report every line that is not a record.

    `locked()` holds the writers' lock for a moment if the active file seems to end in the middle of a line.
    `progress(path, offset)` is called now and then.

    >>> from contextlib import nullcontext
    >>> from holdfast._damage import verify
    >>> print(verify("events.jsonl", locked=nullcontext))
    0 files, 0 records, 0 bytes: no damage.
    """
    scans: list[_Scan] = []
    for file in _opened(path):
        scan = _Scan(file, decode, progress)
        scan.go_on()
        if file.final:
            scan.finish()
        elif file.has_remainder():
            with locked():
                _finish_active(scan, path)
        scans.append(scan)
    return _report(scans)


def _finish_active(scan: _Scan, path: str) -> None:
    """Under the writers' lock: what is in the file now is all there is."""
    scan.file.final = not scan.file.is_named_by(path)
    scan.go_on()
    scan.finish()


def _opened(path: str) -> Iterator[LogFile]:
    """One after the other, the files of a log that have not been pruned when their turn comes."""
    for file in whole(path):
        try:
            log_file = file if isinstance(file, LogFile) else opened(file)
        except FileNotFoundError:
            continue
        try:
            yield log_file
        finally:
            log_file.text.close()


def _report(scans: list[_Scan], side_files: list[str] | None = None, moved: int = 0) -> Report:
    return Report(
        files=len(scans),
        records=sum(scan.records for scan in scans),
        bytes=sum(scan.file.end for scan in scans),
        damages=[damage for scan in scans for damage in scan.damages],
        side_files=side_files or [],
        moved=moved,
    )


def repair(path: str, decode: Decode | None = None, *, locked: Locked) -> Report:
    """Move every line of a log that is not a record into a file beside, `<file name>.damaged`. No byte is lost.

    The active file is changed while `locked()` holds the writers' lock. Whoever reads it meanwhile begins it again.
    When this fails, or is killed, nothing is lost, and a part of the damage may be in the file beside twice.

    >>> from contextlib import nullcontext
    >>> from holdfast._damage import repair
    >>> print(repair("events.jsonl", locked=nullcontext))
    0 files, 0 records, 0 bytes: no damage.
    """
    repairs = _Repairs(path, decode, locked)
    try:
        while not repairs.do_all():
            pass
    except _Changed as error:
        raise OSError(error.errno, error.strerror, error.filename) from None  # of a class that users know
    return repairs.report()


class _Repairs:
    """The repair of all files of a log, in as many rounds as it takes while they are rotated, compressed and pruned."""

    def __init__(self, path: str, decode: Decode | None, locked: Locked) -> None:
        self._path = path
        self._decode = decode
        self._locked = locked
        self._done: dict[int, _Repair] = {}
        self._disturbed: set[Identity] = set()
        self._ahead = True

    def do_all(self) -> bool:
        """Repair all files that have not been yet. False when one is not what it was: the next look will tell."""
        for file in _opened(self._path):
            if file.number in self._done:
                continue
            one = _Repair(_Scan(file, self._decode))
            if not (self._do_segment(one) if file.final else self._do_active(one)):
                return False
            self._done[file.number] = one
        return True

    def _do_segment(self, one: _Repair) -> bool:
        """False when it was compressed, pruned, or repaired by somebody else: none of that comes to a file twice."""
        file = one.scan.file
        try:
            one.finish()
        except FileNotFoundError:
            return False
        except _Changed:
            if file.identity in self._disturbed:
                raise  # somebody appends to it, who kept it open when it was rotated, and may never end
            self._disturbed.add(file.identity)
            return False
        return True

    def _do_active(self, one: _Repair) -> bool:
        """False when it was rotated. It is read before writers are locked out: they wait for what came meanwhile."""
        if self._ahead:
            one.scan.go_on()
        with self._locked():
            if not one.scan.file.is_named_by(self._path):
                self._ahead = False  # writers that rotate all the time would always be faster
                return False
            one.finish()
        return True

    def report(self) -> Report:
        """What was found and moved in all of them."""
        done = list(self._done.values())
        side_files = [one.side_file for one in done if one.moved]
        return _report([one.scan for one in done], side_files, sum(one.moved for one in done))


class _Changed(OSError):
    """A file is not any more what was looked at."""


def _changed(path: str) -> _Changed:
    text = "The file was changed during its repair, by a program that does not take the lock; repair it again"
    return _Changed(errno.EBUSY, text, path)


class _Repair:
    """The repair of one file."""

    def __init__(self, scan: _Scan) -> None:
        self.scan = scan
        self.side_file = scan.path + ".damaged"
        self.moved = 0

    def finish(self) -> None:
        """Judge the end of the file, and move all damage, now that nobody is writing there."""
        self.scan.go_on()
        self.scan.finish()
        if self.scan.damages:
            self._expect_no_change()
            _refuse_link(self.scan.path)
            self.moved = self._set_aside()
            self._remove()

    def _expect_no_change(self) -> None:
        """Before anything is moved: each attempt would move all damage once more."""
        file = self.scan.file
        grown = not isinstance(file.text, ZippedText) and file.text.status().st_size != file.end
        if grown or not file.is_named_by(self.scan.path):
            raise _changed(self.scan.path)

    def _set_aside(self) -> int:
        """Add all damage to the file beside, and have it on the disk. Returns how many bytes that was."""
        text = self.scan.file.text
        damages = self.scan.damages
        if text.broken:  # nobody knows what the rest of it is
            text = Text(self.scan.path)
            damages = [Damage(self.scan.path, 0, text.status().st_size, text.broken)]
        mode = text.status().st_mode & 0o666
        with _core.Naming(self.side_file), _open_side_file(self.side_file, mode) as side_file:
            for damage in damages:
                header = {**vars(damage), "time": time.time()}
                side_file.write(json.dumps(header).encode() + b"\n")
                _copy(text, damage.offset, damage.offset + damage.length, side_file)
                side_file.write(b"\n")
            side_file.flush()
            os.fsync(side_file.fileno())
        _core.sync_directory_of(self.side_file)
        return sum(damage.length for damage in damages)

    def _remove(self) -> None:
        first = self.scan.damages[0].offset
        text = self.scan.file.text
        # A file with another name is not cut off: that may be somebody's who has nothing to do with this log.
        if not isinstance(text, ZippedText) and self._is_tail() and text.status().st_nlink == 1:
            _truncate(self.scan.file, first)
            return
        with replacing(self.scan.path) as file, _core.Naming(self.scan.path):
            if isinstance(text, ZippedText):
                with GzipFile(filename="", mode="wb", fileobj=file) as zipped:
                    self._copy_records(zipped)
            else:
                self._copy_records(file)

    def _is_tail(self) -> bool:
        """Whether there is nothing but damage from the first damage on."""
        place = self.scan.damages[0].offset
        for damage in self.scan.damages:
            if damage.offset != place:
                return False
            place += damage.length + 1
        return place >= self.scan.file.end

    def _copy_records(self, file: IO[bytes] | GzipFile) -> None:
        text = self.scan.file.text
        readable = not text.broken
        place = 0
        for damage in self.scan.damages:
            _copy(text, place, damage.offset, file)
            place = damage.offset + damage.length + 1
        if readable:
            _copy(text, place, None, file)


def _copy(text: Text, start: int, end: int | None, file: IO[bytes] | GzipFile) -> None:
    """Copy a range of a text, in pieces."""
    while piece := text.read(start, _PIECE if end is None else min(_PIECE, end - start)):
        file.write(piece)
        start += len(piece)
    if end is not None and start != end:
        raise _Changed(errno.EBUSY, "The file became shorter during its repair; repair it again", text.path)


_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT
_SAFELY = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NOCTTY", "O_NONBLOCK", "O_NOFOLLOW"))


def _refuse_link(path: str) -> None:
    if os.path.islink(path):
        text = "a symbolic link is in the place of this file, and what it leads to is not repaired; remove the link"
        raise OSError(errno.ELOOP, text, path)


def _open_side_file(path: str, mode: int) -> IO[bytes]:
    descriptor = os.open(path, _APPEND | _SAFELY, mode)
    file = os.fdopen(descriptor, "ab")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Damaged lines cannot be moved here: it is not a regular file; remove it", path)
        if is_planted(path, status):
            text = "Damaged lines are not moved here: it is somebody else's; remove it"
            raise PermissionError(errno.EACCES, text, path)
        if status.st_size > 0:
            os.lseek(descriptor, -1, os.SEEK_END)
            if os.read(descriptor, 1) != b"\n":
                file.write(b"\n")  # behind what somebody could not finish
    except BaseException:
        file.close()
        raise
    return file


def _truncate(file: LogFile, size: int) -> None:
    descriptor = os.open(file.text.path, os.O_WRONLY | _SAFELY)
    try:
        with _core.Naming(file.text.path):
            status = os.fstat(descriptor)
            if identity(status) != file.identity or status.st_size != file.end:
                raise _changed(file.text.path)
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
    finally:
        _core.close_quietly(descriptor)  # it is on the disk
