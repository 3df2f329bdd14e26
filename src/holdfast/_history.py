"""The history of a state: a JSONL log of changes, with the whole state now and then, from which any of it is rebuilt.

Every record says what the file contained before and after it, by fingerprints. When the file is not what the last
record left, because another program changed it or a record was lost with its writer, what was found is recorded first,
whole. So no gap goes unnoticed.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from holdfast._changes import Change, ValueChange, applied, differences
from holdfast._core import Naming
from holdfast._planted import is_planted
from holdfast._reading import Records
from holdfast._segments import segments_of
from holdfast._tagged import tagged, untagged
from holdfast._texts import Text
from holdfast.atomic import replacing
from holdfast.jsonl import JsonlFile
from holdfast.owner import host_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TypeVar

    Kind = TypeVar("Kind", int, str)

_PATIENCE = 1.0
"""Seconds that a save waits for somebody who keeps the history locked."""

_ROOM = 1 << 16
"""After so many bytes of changes the state is recorded whole again; or after as many as it has itself, if that is more.
So the history stays small, and a state is rebuilt from few records."""

_HEAD = re.compile(rb'\{"revision":(\d+),"behind":(\d+),"time":"([^"]*)",')


@dataclass(frozen=True)
class Version:
    """A state, and the file that holds it: the fingerprint and the size of its contents."""

    revision: int
    fingerprint: str
    size: int
    state: dict[Any, Any]


@dataclass(frozen=True)
class _Head:
    """What a record begins with."""

    revision: int
    behind: int
    time: datetime


@dataclass(frozen=True)
class _Record:
    """A line of the history."""

    head: _Head
    change: Change
    before: str
    after: str
    state: Any  # None if it is not recorded here

    @classmethod
    def parse(cls, line: bytes) -> _Record | None:
        """The record in a line. None if it is damaged: anybody may write into the file."""
        try:
            found = json.loads(line)
            head = _Head(int(found["revision"]), int(found["behind"]), _moment(found["time"]))
            changes = tuple(map(_value_change, found["changes"]))
            pid, host = _none_or(int, found["pid"]), _none_or(str, found["host"])
            change = Change(head.revision, head.time, pid, host, changes)
            state = untagged(found["state"]) if head.behind == 0 else None
            return cls(head, change, str(found["before"]), str(found["after"]), state)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


class History:
    """The log beside the file of a state. Whoever adds to it or prunes it has locked the state."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Not durable: what a power cut takes is missed, and recorded again.
        self._log = JsonlFile(path, timeout=_PATIENCE)
        self._looked = False

    # Writing

    def add(self, before: Version | None, after: Version, *, like: os.stat_result) -> None:
        """Record that a state was changed; `before` is None if there was no file. `like` is the file of the state."""
        found = before.fingerprint if before else ""
        line = _last_line(self.path)
        if line is None:
            _create(self.path, like)
        if is_planted(self.path, owner=like.st_uid):
            raise PermissionError(
                errno.EACCES, "the history is somebody else's, who could read it; remove it", self.path
            )
        last = _Record.parse(line or b"")
        if not self._looked and last is not None and not _has_all(self.path):
            last = None
        self._looked = True
        behind = 1 if last is None or last.head.behind == 0 else last.head.behind + len(line or b"")
        records: list[dict[str, Any]] = []
        if before is not None and (last is None or last.after != found):
            records.append(_record(before, "", 0, None, None, []))
            behind = 1
        if before is None or behind > max(_ROOM, after.size):
            behind = 0
        changes = [*differences({} if before is None else before.state, after.state)]
        records.append(_record(after, found, behind, os.getpid(), host_name(), changes))
        self._log.extend(records)

    def prune(self, before: datetime) -> int:
        """Remove what is older, but not the last record. Returns how many records that were."""
        if segments_of(self.path):
            raise ValueError(f"the history {self.path!r} was rotated; remove old files of it instead of pruning it")
        ages = [head.time >= before for head, _ in self._lines()]
        removed = min([*ages, True].index(True), len(ages) - 1)
        if removed < 1:
            return 0
        chain: list[bytes] = []
        with replacing(self.path) as file, Naming(self.path):
            for number, (head, line) in enumerate(self._lines()):
                if number <= removed:
                    _extend(chain, head, line)
                if number >= removed:
                    file.write((_made_whole(chain) if number == removed else line) + b"\n")
        return removed

    # Reading

    def changes(self, limit: int | None, since: int | datetime | None) -> list[Change]:
        """The last changes, oldest first: those after a time, or after a revision was recorded last."""
        after = since.astimezone() if isinstance(since, datetime) else None
        lines: deque[bytes] = deque(maxlen=limit)
        passed = not isinstance(since, int) or since == 0
        for head, line in self._lines():
            if head.revision == since:
                lines.clear()
                passed = True
            elif passed and (after is None or head.time > after):
                lines.append(line)
        return [record.change for record in map(_Record.parse, lines) if record is not None]

    def at(self, revision: int) -> tuple[dict[Any, Any], str]:
        """The state of a revision, and the fingerprint of the file that held it."""
        chain: list[bytes] = []
        found: list[bytes] = []
        for head, line in self._lines():
            _extend(chain, head, line)
            if head.revision == revision:
                found = [*chain]
        if not found:
            raise LookupError(f"revision {revision} is not in the history {self.path!r}: it never was, or was pruned")
        try:
            return _rebuilt(found)
        except ValueError as error:
            raise LookupError(
                f"revision {revision} cannot be rebuilt: records before it are missing from the history {self.path!r} "
                f"or damaged ({error}); see what JsonlFile(path).verify() reports"
            ) from error

    def which_left(self, fingerprint: str) -> Change | None:
        """The last change, if it is the one that left the file with contents of this fingerprint."""
        last = _Record.parse(_last_line(self.path) or b"")
        return last.change if last is not None and last.after == fingerprint else None

    def _lines(self) -> Iterator[tuple[_Head, bytes]]:
        for line in Records(self.path, bytes, errors="skip"):
            if head := _head(line):
                yield head, line


def _head(line: bytes) -> _Head | None:
    """What a record begins with. None if the line is damaged there."""
    if match := _HEAD.match(line):
        try:
            return _Head(int(match[1]), int(match[2]), _moment(match[3].decode()))
        except ValueError:
            return None
    record = _Record.parse(line)  # another program may have written it anew, in its own way
    return record.head if record else None


def _moment(text: str) -> datetime:
    """A time that can be compared with any other, and shown in any time zone."""
    moment = datetime.fromisoformat(text)
    if not datetime.min.year < moment.year < datetime.max.year:
        raise ValueError("no time at which anything was saved")
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _none_or(kind: type[Kind], value: Any) -> Kind | None:
    """A value that must be None or of a kind: TypeError if it is not."""
    if value is None or type(value) is kind:
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def _record(
    version: Version, before: str, behind: int, pid: int | None, host: str | None, changes: Iterable[ValueChange]
) -> dict[str, Any]:
    record = {
        "revision": version.revision,
        "behind": behind,  # bytes of changes since the state was recorded whole; 0 if that is here
        "time": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "pid": pid,
        "host": host,
        "before": before,
        "after": version.fingerprint,
        "changes": [_as_object(change) for change in changes],
    }
    if behind == 0:
        record["state"] = tagged(version.state)
    return record


def _as_object(change: ValueChange) -> dict[str, Any]:
    values = {"old": tagged(change.old), "new": tagged(change.new)}
    if change.kind != "changed":
        del values["old" if change.kind == "added" else "new"]
    return {"path": change.path, **values}


def _value_change(found: dict[str, Any]) -> ValueChange:
    old, new = untagged(found.get("old")), untagged(found.get("new"))
    return ValueChange(str(found["path"]), _KINDS["old" in found, "new" in found], old, new)


_KINDS: dict[tuple[bool, bool], Any] = {(True, True): "changed", (True, False): "removed", (False, True): "added"}


def _extend(chain: list[bytes], head: _Head, line: bytes) -> None:
    """Add a record to those from which a state is rebuilt, which begin with one that has it whole."""
    if head.behind == 0:
        chain.clear()
    chain.append(line)


def _rebuilt(chain: list[bytes]) -> tuple[dict[Any, Any], str]:
    """The state after the last of these records, and the fingerprint of the file that held it. Raises ValueError."""
    state: Any = None
    left = None
    for line in chain:
        record = _Record.parse(line)
        if record is None:
            raise ValueError("a line is damaged")
        if record.head.behind == 0:
            state = record.state
        elif record.before != left:
            raise ValueError(f"what was before revision {record.head.revision} is not there")
        else:
            for change in record.change.changes:
                state = applied(state, change)
        left = record.after
    return state, left or ""


def _made_whole(chain: list[bytes]) -> bytes:
    """The last of these records, with the whole state."""
    try:
        state, _ = _rebuilt(chain)
    except ValueError:
        return chain[-1]  # it is lost already
    record = {**json.loads(chain[-1]), "behind": 0, "state": tagged(state)}
    return json.dumps(record, separators=(",", ":")).encode()  # in ASCII: half of a character can be written so, too


def _has_all(path: str) -> bool:
    """Whether the last state can be rebuilt. A power cut may have taken records before the last line, and left that."""
    chain: list[bytes] = []
    with closing(Text(path)) as text:
        place = text.status().st_size
        # Not by what `behind` says, which counts also what has been pruned.
        while line := _line_before(text, place):
            chain.append(line)
            place -= len(line)
            head = _head(line)
            if head is None or head.behind == 0:
                break
    try:
        _rebuilt(chain[::-1])
    except ValueError:
        return False
    return True


def _last_line(path: str) -> bytes | None:
    """The last line of a file, empty if there is none or it has no end. None if there is no file."""
    try:
        text = Text(path)
    except FileNotFoundError:
        return None
    with closing(text):
        return _line_before(text, text.status().st_size)


def _line_before(text: Text, end: int) -> bytes:
    """The line that ends at a place, empty if none does."""
    length = 4096
    while True:
        tail = text.read(max(end - length, 0), min(length, end))
        start = tail.rfind(b"\n", 0, -1) + 1
        if start or length >= end:
            return tail[start:] if tail.endswith(b"\n") else b""
        length *= 8


def _create(path: str, like: os.stat_result) -> None:
    """Create the history for those who may read the state, and nobody else: the same is in both."""
    if os.name == "nt":
        return  # who may read it is up to its directory, as for the state
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        mode = like.st_mode & 0o666 | 0o600
        new = os.fstat(descriptor)
        if (new.st_uid, new.st_gid) != (like.st_uid, like.st_gid) and not _gave(descriptor, like):
            mode = mode & ~0o060 | (mode & 0o006) << 3  # its group is another: it may do what everybody may
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _gave(descriptor: int, like: os.stat_result) -> bool:
    """Give a file to the owner and the group of another, or at least to the group."""
    for owner in like.st_uid, -1:
        with suppress(OSError):
            os.fchown(descriptor, owner, like.st_gid)
            return True
    return False
