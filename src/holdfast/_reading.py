"""Reading a log: record by record, over its segments and its active file, and on from where a reader stopped."""

from __future__ import annotations

import json
import os
import threading
from time import monotonic, sleep

from holdfast._base import resolve_poll_interval, resolve_timeout
from holdfast._checkpoint import BEGINNING, Mark, parse
from holdfast._lines import LogFile, careful, reason_of
from holdfast._segments import Segment, open_segment, segments_of
from holdfast._texts import Text, identity_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Self

    from holdfast._lines import Decode

SHORTEST_NAP = 0.001
DEFAULT_POLL_INTERVAL = 0.1
_LONGEST_SLEEP = 0.1


class DamagedLine(ValueError):
    """A line of a log is not a record.

    `path` and `offset` say where it is, `line` has its first 200 bytes, `reason` says what is wrong with it. The
    iterator that raised this goes on behind the line when it is asked for the next record.

    >>> from holdfast._reading import DamagedLine
    >>> print(DamagedLine("events.jsonl", 120, b"{oops", "Expecting property name"))  # doctest: +ELLIPSIS
    events.jsonl has a damaged line at byte 120: Expecting property name. It begins with b'{oops'. ...
    """

    def __init__(self, path: str, offset: int, line: bytes, reason: str) -> None:
        line = line[:200]
        super().__init__(path, offset, line, reason)
        self.path = path
        self.offset = offset
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.path} has a damaged line at byte {self.offset}: {self.reason}. It begins with {self.line[:40]!r}. "
            'Read on with errors="skip", find all damage with verify(), or move it out of the way with repair().'
        )


_decode_text = json.JSONDecoder().decode  # json.loads() without the look at what it was given


def decode_json(line: bytes) -> Any:
    """The record in a line, unless the log has a decoder of its own.

    >>> from holdfast._reading import decode_json
    >>> decode_json(b'{"a": 1}')
    {'a': 1}
    """
    return _decode_text(str(line, "utf-8"))


class Records:
    """An iterator over the records of a log, oldest first.

    What it reads is never half a line, and every record comes once, in order, also when the log is rotated, compressed
    or pruned meanwhile. It belongs to one thread at a time; only `close()` may be called from others.

    `where` chooses among the decoded records, `since` is the `checkpoint` of an earlier reader, and `errors="skip"`
    passes over damaged lines, which raise DamagedLine otherwise. After any other exception, such as one of `decode` or
    `where` or of a signal handler, the next record asked for is the one that it kept from being returned.

    With `following` it waits for more at the end, until there was no new record for `timeout` seconds: it looks again
    after a millisecond, and then less and less often, down to every `poll_interval` seconds.

    >>> from holdfast._reading import Records
    >>> with Records("events.jsonl", where=lambda event: event["level"] == "error") as errors:
    ...     for event in errors:
    ...         print(event["message"])
    """

    def __init__(
        self,
        path: str,
        decode: Decode | None = None,
        *,
        where: Callable[[Any], object] | None = None,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        following: bool = False,
        timeout: float | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
    ) -> None:
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors must be "raise" or "skip", not {errors!r}')
        self._path = path
        self._where = where
        self._raises = errors == "raise"
        self._following = following
        self._timeout = resolve_timeout(-1 if timeout is None else timeout, True)
        self._poll_interval = resolve_poll_interval(poll_interval)
        self._since = None if since is None else parse(since)

        self._plain_decode = decode_json if decode is None else decode
        self._careful_decode = careful(self._plain_decode)
        self._decode = self._plain_decode

        self._file: LogFile | None = None
        self._next: list[LogFile | Segment] = []  # what is to be read after the file
        self._lines: Iterator[bytes] = iter(())
        self._failed_at = -1  # the place of the line that the last error came from

        self._closed = False
        self._looking = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        waiting_since = None
        while True:
            try:
                for line in self._lines:
                    try:
                        record = self._decode(line)
                    except (ValueError, RecursionError) as error:
                        self._report(line, error)
                        continue
                    if self._where is None or self._where(record):
                        return record
            except BaseException:
                self._put_back()
                raise
            self._failed_at = -1
            waiting_since = self._wait(waiting_since)

    def _report(self, line: bytes, error: Exception) -> None:
        file = self._file
        if line.strip() and file and self._raises:
            self._failed_at = file.consumed()
            offset = file.offset_of(self._failed_at - 1)
            raise DamagedLine(file.text.path, offset, line, reason_of(error)) from error

    def _put_back(self) -> None:
        """After an exception, which may be that of a signal handler: a record that was not returned comes again."""
        file = self._file
        if file is not None and file.consumed() != self._failed_at:
            file.put_back()
            if not self._closed:
                self._lines = filter(bytes.strip, file.unread)

    @property
    def checkpoint(self) -> str:
        """Where this reader is: what it returned up to now has been handled, and `since=` this goes on after that.

        It stays valid when the log is rotated, compressed, repaired or pruned: a reader that cannot find the place
        any more begins earlier, with the oldest record that may not have been handled. A damaged line counts as handled
        when the next record has been asked for.

        >>> from holdfast._reading import Records
        >>> records = Records("events.jsonl")
        >>> for event in records:
        ...     saved = records.checkpoint
        >>> rest = list(Records("events.jsonl", since=records.checkpoint))
        """
        file = self._file
        if file is None:
            return str(self._since or BEGINNING)
        handled = file.consumed()
        return str(file.mark(handled - 1 if handled == self._failed_at else handled))

    def close(self) -> None:
        """End the iteration, also one that another thread waits in, and close the files. The checkpoint stays.

        >>> from holdfast._reading import Records
        >>> records = Records("events.jsonl", following=True)
        >>> records.close()
        >>> list(records)
        []
        """
        self._closed = True
        self._lines = iter(())
        if (
            not self._looking.locked()
        ):  # otherwise who is looking does the rest, perhaps this thread, in a signal handler
            with self._looking:  # and not acquire(), after which an exception of a signal handler would leave it locked
                self._release()

    def _release(self) -> None:
        for file in (self._file, *self._next):
            if isinstance(file, LogFile):
                file.text.close()
        self._next = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # From one chunk of lines to the next.

    def _wait(self, since: float | None) -> float | None:
        """Have more lines, or raise StopIteration. Returns when the waiting for a record began, if it did."""
        nap = SHORTEST_NAP
        while not self._look():
            if not self._following:
                self.close()
                raise StopIteration
            now = monotonic()
            since = now if since is None else since
            if self._timeout >= 0:
                left = since + self._timeout - now
                if left <= 0:
                    raise StopIteration
                nap = min(nap, left)
            self._sleep(min(nap, self._poll_interval))
            nap *= 2
        return since

    def _sleep(self, nap: float) -> None:
        """Sleep, but not for long after close(). An Event would do, if Ctrl-C could not leave it locked."""
        end = monotonic() + nap
        while not self._closed and (rest := end - monotonic()) > 0:
            sleep(min(rest, _LONGEST_SLEEP))

    def _look(self) -> bool:
        """Whether there are more lines. StopIteration after close()."""
        with self._looking:
            found = not self._closed and self._advance()
        if self._closed:
            self.close()
            raise StopIteration
        return found

    def _advance(self) -> bool:
        """Go on to the next lines, in this file or in a later one; False when there are none yet."""
        while True:
            file = self._file
            if file is not None and file.has_unread():  # a signal handler came between
                return self._show(file)
            if file is None or file.finished:
                if not self._open_next():
                    return False
            elif file.more():
                return self._show(file)
            elif not file.final:
                if file.is_named_by(self._path):
                    return False
                file.final = True  # after a last look: it may have grown before it was renamed
            else:
                rest = file.remainder()
                file.finished = True
                if file.text.broken:
                    file.unread = iter(())  # what there is of the line may look like a record, and is another one
                    self._report_broken(file, rest)
                elif rest:
                    return self._show(file)

    def _report_broken(self, file: LogFile, rest: list[bytes]) -> None:
        if self._raises:
            raise DamagedLine(file.text.path, file.end - sum(map(len, rest)), b"".join(rest), file.text.broken)

    def _show(self, file: LogFile) -> bool:
        self._decode = self._plain_decode if file.is_clean() else self._careful_decode
        self._lines = filter(bytes.strip, file.unread)
        return True

    def _open_next(self) -> bool:
        if not self._next:
            self._next = self._remaining()
        while self._next:
            following = self._next[0]
            try:
                file = following if isinstance(following, LogFile) else opened(following)
            except FileNotFoundError:
                del self._next[0]  # it has been pruned
                continue
            if self._file is not None:
                self._file.text.close()
            self._file = file
            del self._next[0]
            return True
        return False

    def _remaining(self) -> list[LogFile | Segment]:
        if self._file is not None:
            return _after(self._path, self._file)
        return _from(self._path, self._since or BEGINNING)


def opened(segment: Segment) -> LogFile:
    """A segment, to be read; FileNotFoundError when it has been pruned."""
    return LogFile(open_segment(segment), segment.number, final=True)


def whole(path: str) -> list[LogFile | Segment]:
    """All files of a log as they are at one moment: its segments, and last the active file if there is one."""
    active = _active(path)
    while True:
        segments = segments_of(path)
        if active is not None and active.is_named_by(path):
            active.number = segments[-1].number + 1 if segments else 1
            return [*segments, active]
        before, active = active, _active(path)
        if before is not None:
            before.text.close()
        elif active is None:
            return [*segments]


def _active(path: str) -> LogFile | None:
    """The active file of a log, open. Windows may still list one that was removed, and that cannot be opened again."""
    try:
        return LogFile(Text(path), 0, final=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _from(path: str, mark: Mark) -> list[LogFile | Segment]:
    """What is to be read after a checkpoint, which may be old, or of a log that was copied here."""
    files = whole(path)
    for place in sorted(range(len(files)), key=lambda place: _unlikeliness(files[place], mark)):
        if mark.offset == 0 and files[place].number != mark.number:
            continue  # nothing tells which file it was
        found = _resumed(files[place], mark)
        if found:
            return [found, *files[place + 1 :]]
    return _newer(files, mark)


def _after(path: str, done: LogFile) -> list[LogFile | Segment]:
    """What is to be read after a file that was read to its end, and that the path does not name any more."""
    files = whole(path)
    mark = done.mark(done.consumed())
    for place, file in enumerate(files):
        if isinstance(file, Segment) and (
            _is_same(file, mark) or _was_compressed(file, done, mark) or _was_renumbered(file, done, mark)
        ):
            return files[place + 1 :]
    return _newer(files, mark)


def _was_renumbered(segment: Segment, done: LogFile, mark: Mark) -> bool:
    """Whether the segment is the file with another inode number, which over sshfs comes with the new name."""
    if segment.number != mark.number:
        return False
    try:
        there, ours = os.stat(segment.path), done.text.status()
    except OSError:
        return False
    if (there.st_size, there.st_mtime_ns) != (ours.st_size, ours.st_mtime_ns):
        return False
    found = _resumed(segment, mark)
    if found is not None:
        found.text.close()
    return found is not None


def _is_same(file: LogFile | Segment, mark: Mark) -> bool:
    if isinstance(file, LogFile):
        return file.identity == mark.file
    return mark.file in (identity_at(file.path), identity_at(file.zipped))


def _was_compressed(segment: Segment, done: LogFile, mark: Mark) -> bool:
    """Whether the segment is a compressed copy of a file. If so it is taken for the file from now on."""
    if segment.number != mark.number or identity_at(segment.path) is not None:
        return False  # a plain file with the same text may be another one
    found = _resumed(segment, mark)
    if found is None:
        return False
    done.identity = found.identity
    found.text.close()
    return True


def _newer(files: list[LogFile | Segment], mark: Mark) -> list[LogFile | Segment]:
    """What may have been written after a mark whose file is gone, or was changed."""
    newest = max((file.number for file in files if isinstance(file, Segment)), default=0)
    if mark.number > newest + 1:
        return files  # all segments have been removed, and their numbers began again
    return [file for file in files if isinstance(file, LogFile) or file.number >= mark.number]


def _unlikeliness(file: LogFile | Segment, mark: Mark) -> int:
    return 0 if _is_same(file, mark) else 1 if file.number == mark.number else 2


def _resumed(file: LogFile | Segment, mark: Mark) -> LogFile | None:
    """The file, read on from the mark; None if it is another one, or was changed."""
    if isinstance(file, LogFile):
        return file if file.resume(mark) else None
    try:
        found = opened(file)
    except FileNotFoundError:
        return None
    if found.resume(mark):
        return found
    found.text.close()
    return None
