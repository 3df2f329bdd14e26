"""`holdfast tail`: the last records of a log, and those to come."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from argparse import ArgumentTypeError
from collections import deque

from holdfast import DamagedLine, JsonlFile
from holdfast._checkpoint import BEFORE, HEAD, Mark, digest
from holdfast._reading import decode_json, whole
from holdfast._segments import Segment, open_segment, segments_of
from holdfast._texts import ZippedText, identity
from holdfast.cli import DONE, INTERRUPTED, NO, NO_READER, say
from holdfast.cli._output import on_terminal, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn, TypeAlias

    from holdfast import Records
    from holdfast._texts import Text

    Entry: TypeAlias = tuple[bytes, Any]
    """A line, and the record in it."""

    Item: TypeAlias = Entry | DamagedLine

EXAMPLE = """\
holdfast tail -f -n 100 --where level=error --where request.path=/orders events.jsonl

Records come out as they are in the file, one a line. Rotated files belong to the log.
"""

_DEFAULT_NUMBER = 10
_ALL = sys.maxsize
_FIRST_LOOK = 1 << 16  # bytes before the end
_PIECE = 1 << 16
_GLANCE = 1.0  # seconds between two looks whether anybody reads what we write


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with the records to come, until Ctrl-C")
    parser.add_argument(
        "-n",
        "--number",
        type=_number,
        metavar="N",
        help="how many records, or `all` (the default: 10, or with --since all after that)",
    )
    parser.add_argument(
        "--where",
        type=_condition,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only records that have this; KEY may be a path such as request.user, VALUE is JSON, or else text; "
        "several must all be true",
    )
    parser.add_argument(
        "--since", metavar="CHECKPOINT", help="begin behind a place that a program saved: Records.checkpoint"
    )
    parser.add_argument("file", metavar="FILE", help="the log")


def run(options: argparse.Namespace) -> int:
    """Show what is asked for."""
    log = JsonlFile(options.file, decode=_entry)
    if not (options.follow or os.path.lexists(log.path) or segments_of(log.path)):
        say(f"{options.file}: there is no such log")
        return NO
    conditions: list[Callable[[Any], bool]] = options.where
    tail = _Tail(log, lambda entry: all(condition(entry[1]) for condition in conditions), options.since, options.follow)
    if options.follow and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    number: int | None = options.number
    if number is None and options.since is None:
        number = _DEFAULT_NUMBER
    tail.show_last(None if number == _ALL else number)
    if options.follow:
        tail.follow()
        return NO_READER
    return NO if tail.damaged else DONE


class _Tail:
    """What is shown of a log, and how far that has come."""

    def __init__(self, log: JsonlFile, where: Callable[[Entry], bool], since: str | None, following: bool) -> None:
        self.damaged = False
        self._following = following
        self._log = log
        self._where = where
        self._since = since

    def show_last(self, number: int | None) -> None:
        """Show the last records, or all."""
        if number is None:
            records = self._log.records(self._where, since=self._since)
            for item in _items(records):
                self._show(item)
        else:
            items, records = self._last(number)
            for item in items:
                self._show(item)
        self._since = records.checkpoint
        _flush()

    def _last(self, number: int) -> tuple[deque[Item], Records]:
        """The last records there are, and what is damaged between them. A long log is not read from its beginning."""
        size = _FIRST_LOOK
        while True:
            since = self._since or _before_end(self._log.path, size)
            records = self._log.records(self._where, since=since)
            found = 0
            items: deque[Item] = deque()
            for item in _items(records):
                items.append(item)
                found += not isinstance(item, DamagedLine)
                while found > number:
                    found -= not isinstance(items.popleft(), DamagedLine)
            if found == number or since == self._since:
                return items if number else deque(), records
            size *= 8

    def follow(self) -> None:
        """Show what comes, until nobody reads it any more."""
        with self._log.follow(self._where, since=self._since, timeout=_GLANCE) as records:
            while not _is_abandoned():
                for item in _items(records):
                    self._show(item)

    def _show(self, item: Item) -> None:
        if isinstance(item, DamagedLine):
            self.damaged = True
            _flush()  # so that it is told at its place
            say(f"{item.path}, byte {item.offset:,}: {item.reason}; left out: {item.line[:40]!r}")
        elif on_terminal():
            show(str(item[0], "utf-8"))
        elif sys.stdout is not None:
            sys.stdout.buffer.write(item[0] + b"\n")  # in the file's encoding, whatever the terminal's is
            if self._following:
                _flush()


def _items(records: Records) -> Iterator[Item]:
    """The records and the damaged lines, in their order."""
    while True:
        try:
            yield from records
            return
        except DamagedLine as error:
            yield error


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _end(number: int, frame: object) -> NoReturn:
    """End at once. An exception may be lost, if it comes while something is finalized, and then nothing would end."""
    del number, frame
    os._exit(INTERRUPTED)


def _is_abandoned() -> bool:
    """Whether whoever read our output has gone, as far as the system says so before something is written."""
    if sys.platform == "win32" or sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


# The beginning


def _before_end(path: str, size: int) -> str | None:
    """The checkpoint of a line about so many bytes before the end; None if the log is not longer."""
    for file in reversed(whole(path)):
        try:
            text = open_segment(file) if isinstance(file, Segment) else file.text
        except FileNotFoundError:
            return None  # it has been pruned, and all before it
        try:
            length = text.status().st_size
            if length > size:
                # A compressed one can only be read from its beginning.
                offset = 0 if isinstance(text, ZippedText) else _line_after(text, length - size)
                return str(_mark(text, file.number, offset))
        finally:
            text.close()
        size -= length
    return None


def _line_after(text: Text, offset: int) -> int:
    """Where the next line begins; if none does, where the file does."""
    while piece := text.read(offset, _PIECE):
        newline = piece.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        offset += len(piece)
    return 0


def _mark(text: Text, number: int, offset: int) -> Mark:
    head = text.read(0, min(offset, HEAD))
    first = max(offset - BEFORE, 0)
    before = text.read(first, offset - first)
    return Mark(identity(text.status()), number, offset, (len(head), digest(head)), digest(before))


# Arguments


def _entry(line: bytes) -> Entry:
    return line, decode_json(line)


def _number(text: str) -> int:
    if text == "all":
        return _ALL
    if not text.isdecimal():
        raise ArgumentTypeError(f"must be a number of records, or `all`, not {text!r}")
    return int(text)


def _condition(text: str) -> Callable[[Any], bool]:
    """A function that says whether a record is as KEY=VALUE has it."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ArgumentTypeError(f"must be KEY=VALUE, not {text!r}")
    try:
        wanted = json.loads(value)
    except ValueError:
        wanted = value

    def is_so(record: Any) -> bool:
        return any(
            found == wanted and isinstance(found, bool) == isinstance(wanted, bool)  # 1 is not true
            for found in _values(record, key)
        )

    return is_so


# What is in a record is anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false


def _values(record: Any, key: str) -> Iterator[Any]:
    """What a record has under a key, or under a path of keys and places in lists."""
    if isinstance(record, dict) and key in record:
        yield record[key]
    first, dot, rest = key.partition(".")
    if not dot:
        first, rest = key, ""
    if isinstance(record, dict) and dot and first in record:
        yield from _values(record[first], rest)
    elif isinstance(record, list) and first.isdecimal() and int(first) < len(record):
        item = record[int(first)]
        yield from _values(item, rest) if dot else (item,)
