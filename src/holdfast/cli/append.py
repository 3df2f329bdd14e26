"""`holdfast append`: the lines of the standard input, each a record of a log."""

from __future__ import annotations

import json
import os
import sys

from holdfast import JsonlFile
from holdfast._core import Naming
from holdfast._lines import careful, reason_of
from holdfast.cli import DONE, NO, patience, say
from holdfast.cli._output import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import NoReturn

EXAMPLE = """\
docker logs --follow app | jq -c '{time, level}' | holdfast append events.jsonl

Lines that are there together are appended together; a line that comes alone is appended at once.
"""

_PIECE = 1 << 18
_SHOWN = 10  # lines that are no JSON


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("--durable", action="store_true", help="have the records on the disk before going on")
    parser.add_argument(
        "--raw", action="store_true", help="append any line that is not empty, also one that is no JSON"
    )
    parser.add_argument("file", metavar="FILE", help="the log; it is created if it is missing")


def run(options: argparse.Namespace) -> int:
    """Append until the input ends, and say how much that was."""
    # Not the 10 seconds of other programs: what has been read from a pipe cannot be given back to it.
    log = JsonlFile(options.file, durable=options.durable, encode=bytes, timeout=patience())
    checked = _Checked(options.raw)
    done, ended = 0, False
    try:
        for lines in _batches():
            log.extend(checked.records(lines))
            done += len(lines)
        log.close()
        ended = True
    finally:  # also after an error: whoever is to go on wants to know where
        if sys.stdout is not None:
            appended = log.stats.appends
            where = "" if ended else f"; lines of the input that were dealt with: {done:,}"
            show(f"{appended:,} record{'s' * (appended != 1)} appended to {options.file}{where}")
    if checked.refused > _SHOWN:
        say(f"{checked.refused:,} lines of the input are no JSON and were not appended")
    return NO if checked.refused else DONE


class _Checked:
    """What is to be appended of the input, and how many of its lines are not."""

    def __init__(self, raw: bool) -> None:
        self.refused = 0
        self._raw = raw
        self._seen = 0
        decode = json.JSONDecoder(parse_constant=_refuse).decode
        self._decode = careful(lambda line: decode(str(line, "utf-8")))

    def records(self, lines: list[bytes]) -> Iterator[bytes]:
        """The lines that are records. Empty ones are none, and no error."""
        for line in lines:
            self._seen += 1
            if not line.strip():
                continue
            if self._raw:
                yield line.removesuffix(b"\r") if os.name == "nt" else line  # which ends the lines of programs there
            elif self._is_record(line):
                yield line.strip()

    def _is_record(self, line: bytes) -> bool:
        try:
            self._decode(line)
        except (ValueError, RecursionError) as error:
            self.refused += 1
            if self.refused <= _SHOWN:
                say(f"line {self._seen:,} of the input is no JSON and was not appended: {reason_of(error)}")
            return False
        return True


def _refuse(constant: str) -> NoReturn:
    """NaN is in Python's JSON, and in no other."""
    raise ValueError(f"{constant} is no JSON")


def _read(descriptor: int) -> bytes:
    """Some more of the input, also when another program has made it one that does not wait."""
    while True:
        try:
            with Naming("the standard input"):  # otherwise Windows' EINVAL would be taken for that of the output
                return os.read(descriptor, _PIECE)
        except BlockingIOError:
            from select import select

            select([descriptor], [], [])


def _batches() -> Iterator[list[bytes]]:
    """The lines of the standard input, as many at a time as there are."""
    if sys.stdin is None:
        raise ValueError("there is no standard input; give this command the lines that are to be appended")
    descriptor = sys.stdin.fileno()
    pieces: list[bytes] = []  # of a line that has not come to its end
    while piece := _read(descriptor):
        whole, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield b"".join([*pieces, whole]).split(b"\n")
            pieces.clear()
        pieces.append(rest)
    if last := b"".join(pieces):
        yield [last]
