"""The lines of one file of a log, in chunks of whole lines, also while the file grows, shrinks or changes its name."""

from __future__ import annotations

from itertools import islice
from operator import length_hint

from holdfast._checkpoint import BEFORE, HEAD, Mark, digest
from holdfast._texts import Text, identity, identity_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Decode: TypeAlias = Callable[[bytes], Any]

_CHUNK = 1 << 18


class LogFile:
    """A file of a log, read line by line.

    A chunk always begins where a line does, and what is behind its last newline is read again with the next one: the
    half of a line may be taken back by its writer before somebody else writes another one there. It also begins with
    the last bytes of the one before, to see that these have not changed.
    """

    def __init__(self, text: Text, number: int, final: bool) -> None:
        self.text = text
        self.number = number
        self.final = final  # nobody writes into it any more
        self.finished = False
        self.identity = identity(text.status())
        self.restarts = 0  # how often it had been changed, and was read from its beginning again
        self._rewind()

    def _rewind(self) -> None:
        self.end = 0  # of the lines read so far
        self._head = b""
        self._show(b"", 0)

    def _show(self, data: bytes, skip: int) -> list[bytes]:
        """The lines of a piece of the file, which begin after `skip` bytes of it."""
        lines = data[skip:].removesuffix(b"\n").split(b"\n") if len(data) > skip else []
        unread = iter(lines)
        known = data[-BEFORE:]
        head = self._head if len(self._head) == HEAD else (self._head + data[skip : skip + HEAD])[:HEAD]
        end = self.end + len(data) - skip
        # From here on there is no call, and so no signal handler that could end this half way.
        self._data = data
        self._skip = skip
        self._head = head
        self._known = known
        self._lines = lines
        self._counted = (0, skip)
        self.unread = unread
        self.start = self.end
        self.end = end
        return lines

    def more(self) -> list[bytes]:
        """The next lines; none at the end of what has been written."""
        size = _CHUNK
        while True:
            skip = len(self._known)
            data = self.text.read(self.end - skip, skip + size)
            if not data.startswith(self._known):
                self.restarts += 1
                self._rewind()
                continue
            last = data.rfind(b"\n", skip)
            if last >= 0:
                return self._show(data[: last + 1], skip)
            if len(data) < skip + size:
                return []
            size *= 2  # a long line

    def has_remainder(self) -> bool:
        """Whether there is anything behind the lines that were read."""
        return bool(self.text.read(self.end, 1))

    def remainder(self) -> list[bytes]:
        """What is behind the last newline, of a file that nobody completes any more: a line, or none."""
        size = _CHUNK
        while len(rest := self.text.read(self.end, size)) == size:
            size *= 2
        skip = len(self._known)
        return self._show(self._known + rest, skip) if rest else []

    def is_clean(self) -> bool:
        """Whether the lines that were read last are UTF-8 without NUL bytes."""
        if b"\0" in self._data:
            return False
        try:
            return self._data.isascii() or bool(str(memoryview(self._data)[self._skip :], "utf-8"))
        except UnicodeDecodeError:
            return False

    def consumed(self) -> int:
        """How many of the lines that were read last have been taken out of `unread`."""
        return len(self._lines) - length_hint(self.unread)

    def put_back(self) -> None:
        """Have the line that was taken out of `unread` last in it again."""
        self.unread = iter(self._lines[self.consumed() - 1 :])

    def next_lines(self, size: int) -> Iterator[bytes]:
        """The first lines of `unread`: about so many bytes, but one at least."""
        return islice(self.unread, 1 + size * len(self._lines) // max(1, len(self._data)))

    def has_unread(self) -> bool:
        """Whether there are lines that nobody has taken out of `unread`."""
        return length_hint(self.unread) > 0

    def offset_of(self, line: int) -> int:
        """Where one of the lines that were read last begins, or ends if there are only so many."""
        counted, place = self._counted
        if line < counted:
            counted, place = 0, self._skip
        place += sum(map(len, self._lines[counted:line])) + line - counted
        self._counted = (line, place)
        return self.start - self._skip + min(place, len(self._data))  # the last line may lack its newline

    def mark(self, handled: int) -> Mark:
        """The place behind so many of the lines that were read last."""
        offset = self.offset_of(handled)
        place = offset - self.start + self._skip
        before = self._data[max(place - BEFORE, 0) : place]
        return Mark(self.identity, self.number, offset, (len(self._head), digest(self._head)), digest(before))

    def resume(self, mark: Mark) -> bool:
        """Go on at a place, if this is the file, and what is before the place is the same."""
        length, expected = mark.head
        head = self.text.read(0, max(length, min(HEAD, mark.offset)))
        if digest(head[:length]) != expected:
            return False
        first = max(mark.offset - BEFORE, 0)
        before = self.text.read(first, mark.offset - first)
        if digest(before) != mark.before or first + len(before) != mark.offset:
            return False
        self.end = mark.offset
        self._show(before, len(before))
        self._head = head[: min(HEAD, mark.offset)]
        return True

    def is_named_by(self, path: str) -> bool:
        """Whether the path names this file."""
        return identity_at(path) == self.identity


def careful(decode: Decode) -> Decode:
    """The same for lines that may have damage which some decoders overlook."""

    def decode_carefully(line: bytes) -> Any:
        if b"\0" in line:
            raise ValueError("NUL bytes")
        if not line.isascii():
            str(line, "utf-8")
        return decode(line)

    return decode_carefully


def reason_of(error: Exception) -> str:
    """What is wrong with a line, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__
