"""The history of a state: a JSONL log of changes, with the whole state now and then, from which any of it is rebuilt.

Every record says what the file contained before and after it, by fingerprints. When the file is not what the last
record left, because another program changed it or a record was lost with its writer, what was found is recorded first,
whole. So no gap goes unnoticed.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone

from holdfast._changes import Change, ValueChange, applied, differences
from holdfast._reading import Records
from holdfast._tagged import tagged, untagged
from holdfast._texts import Text
from holdfast.atomic import atomic_write
from holdfast.jsonl import JsonlFile
from holdfast.owner import host_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_PATIENCE = 1.0
"""Seconds that a save waits for somebody who keeps the history locked."""

_ROOM = 1 << 16
"""After so many bytes of changes the state is recorded whole again; or after as many as it has itself, if that is more.
So the history stays small, and a state is rebuilt from few records."""

_HEAD = re.compile(rb'\{"revision":(\d+),"behind":(\d+),"time":"([^"]*)",')


@dataclass(frozen=True)
class _Head:
    """What a record begins with."""

    revision: int
    behind: int
    time: str


@dataclass(frozen=True)
class Version:
    """A state, and the file that holds it: the fingerprint and the size of its contents."""

    revision: int
    fingerprint: str
    size: int
    state: dict[Any, Any]


class History:
    """The log beside the file of a state. Whoever adds to it or prunes it has locked the state."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._log: JsonlFile | None = None

    # Writing

    def add(self, before: Version | None, after: Version, mode: int) -> None:
        """Record that a state was changed; `before` is None if there was no file. `mode` is for a new history."""
        if self._log is None:
            # Not durable: what a power cut takes is missed, and recorded again. 0o600: who may write need be able to.
            self._log = JsonlFile(self.path, timeout=_PATIENCE, mode=mode | 0o600)
        found = before.fingerprint if before else ""
        last, behind = self._last()
        records: list[dict[str, Any]] = []
        if before is not None and (last is None or last["after"] != found):
            records.append(_record(before, "", 0, None, None, []))
            behind = 1
        if before is None or behind > max(_ROOM, after.size):
            behind = 0
        changes = [*differences({} if before is None else before.state, after.state)]
        records.append(_record(after, found, behind, os.getpid(), host_name(), changes))
        self._log.extend(records)

    def prune(self, before: datetime) -> int:
        """Remove what is older, but not the last record. Returns how many records that were."""
        ages = [_time(head.time) >= before for head, _ in self._lines()]
        removed = min([*ages, True].index(True), len(ages) - 1)
        if removed < 1:
            return 0
        chain: list[bytes] = []
        with atomic_write(self.path, "wb") as file:
            for number, (head, line) in enumerate(self._lines()):
                if number <= removed:
                    _extend(chain, head, line)
                if number >= removed:
                    file.write((_made_whole(chain) if number == removed else line) + b"\n")
        return removed

    # Reading

    def changes(self, limit: int | None, since: int | datetime | None) -> list[Change]:
        """The last changes, oldest first: those of revisions, or of times, after `since`."""
        lines = (line for head, line in self._lines() if _is_after(head, since))
        return [_change(json.loads(line)) for line in deque(lines, limit)]

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
        except (ValueError, KeyError, TypeError) as error:
            raise LookupError(
                f"revision {revision} cannot be rebuilt: records before it are missing from the history {self.path!r} "
                f"or damaged ({error}); see what JsonlFile(path).verify() reports"
            ) from error

    def which_left(self, fingerprint: str) -> Change | None:
        """The last change, if it is the one that left the file with contents of this fingerprint."""
        last, _ = self._last()
        return _change(last) if last is not None and last["after"] == fingerprint else None

    def _lines(self) -> Iterator[tuple[_Head, bytes]]:
        for line in Records(self.path, bytes, errors="skip"):
            if head := _head(line):
                yield head, line

    def _last(self) -> tuple[dict[str, Any] | None, int]:
        """The last record, and how many bytes of changes there are since the state was recorded whole."""
        line = _last_line(self.path)
        try:
            record = json.loads(line)
            return record, int(record["behind"]) + len(line) if record["behind"] else 1
        except (ValueError, KeyError, TypeError):
            return None, 0  # nothing, or torn: like a record that is missing


def _head(line: bytes) -> _Head | None:
    """What a record begins with. None if the line is damaged."""
    if match := _HEAD.match(line):
        return _Head(int(match[1]), int(match[2]), match[3].decode())
    try:  # another program may have written it anew, in its own way
        record = json.loads(line)
        return _Head(record["revision"], record["behind"], record["time"])
    except (ValueError, KeyError, TypeError):
        return None


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
    return ValueChange(found["path"], _KINDS["old" in found, "new" in found], old, new)


_KINDS: dict[tuple[bool, bool], Any] = {(True, True): "changed", (True, False): "removed", (False, True): "added"}


def _change(record: dict[str, Any]) -> Change:
    changes = tuple(map(_value_change, record["changes"]))
    return Change(record["revision"], _time(record["time"]), record["pid"], record["host"], changes)


def _extend(chain: list[bytes], head: _Head, line: bytes) -> None:
    """Add a record to those from which a state is rebuilt, which begin with one that has it whole."""
    if head.behind == 0:
        chain.clear()
    chain.append(line)


def _rebuilt(chain: list[bytes]) -> tuple[dict[Any, Any], str]:
    """The state after the last of these records, and the fingerprint of the file that held it."""
    state: Any = None
    left = ""
    for line in chain:
        record = json.loads(line)
        if "state" in record:
            state = untagged(record["state"])
        elif record["before"] != left:
            raise ValueError(f"what was before revision {record['revision']} is not there")
        else:
            for change in record["changes"]:
                state = applied(state, _value_change(change))
        left = record["after"]
    return state, left


def _made_whole(chain: list[bytes]) -> bytes:
    """The last of these records, with the whole state."""
    try:
        state, _ = _rebuilt(chain)
    except (ValueError, KeyError, TypeError):
        return chain[-1]  # it is lost already
    record = {**json.loads(chain[-1]), "behind": 0, "state": tagged(state)}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _is_after(head: _Head, since: int | datetime | None) -> bool:
    if isinstance(since, datetime):
        return _time(head.time) > since.astimezone()
    return since is None or head.revision > since


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _last_line(path: str) -> bytes:
    """The last line of a file; empty if there is none, or if it has no end."""
    try:
        text = Text(path)
    except FileNotFoundError:
        return b""
    size, length = text.status().st_size, 4096
    while True:
        tail = text.read(max(size - length, 0), min(length, size))
        start = tail.rfind(b"\n", 0, -1) + 1
        if start or length >= size:
            return tail[start:] if tail.endswith(b"\n") else b""
        length *= 8
