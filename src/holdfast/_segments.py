"""The files that a log consists of: their names, their order, and what happens to old ones.

The log `events.jsonl` is the active file of that name, and what was rotated away before: `events.00000001.jsonl`, later
perhaps compressed to `events.00000001.jsonl.gz`, `events.00000002.jsonl` and so on. Names sort in the order of writing,
with the active file last.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress

from holdfast._core import Naming, sync_directory_of
from holdfast._texts import Text, ZippedText, identity, identity_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

_PIECE = 1 << 20
_LARGEST = 10**18 - 1  # as _look() finds them


class Segment:
    """A part of a log that nobody appends to any more.

    >>> from holdfast._segments import Segment
    >>> Segment(7, "events.00000007.jsonl").file_name
    'events.00000007.jsonl'
    """

    __slots__ = ("compressed", "number", "path")

    def __init__(self, number: int, path: str, compressed: bool = False) -> None:
        self.number = number
        self.path = path  # without the .gz
        self.compressed = compressed

    @property
    def file_name(self) -> str:
        """The path of its file, as it was listed."""
        return self.zipped if self.compressed else self.path

    @property
    def zipped(self) -> str:
        """The path it has when it is compressed."""
        return self.path + ".gz"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segment) and (self.number, self.file_name) == (other.number, other.file_name)

    def __hash__(self) -> int:
        return hash((self.number, self.file_name))

    def __repr__(self) -> str:
        return f"Segment({self.number}, {self.path!r}, compressed={self.compressed})"


def segment_path(path: str, number: int) -> str:
    """The path of a log's segment.

    >>> from holdfast._segments import segment_path
    >>> segment_path("events.jsonl", 12)
    'events.00000012.jsonl'
    """
    stem, suffix = os.path.splitext(path)
    return f"{stem}.{number:08}{suffix}"


def segments_of(path: str) -> list[Segment]:
    """All segments of a log, oldest first.

    >>> from holdfast._segments import segments_of
    >>> segments_of("there-is-no-such.jsonl")
    []
    """
    # A directory that changes while it is listed may hide a segment that is compressed at that moment: the new name is
    # behind us, and the old one gone when we come to it. No second look can miss the same one.
    found = _look(path)
    while True:
        again = _look(path)
        if again.keys() == found.keys():
            return [again[number] for number in sorted(again)]
        found = again


def _look(path: str) -> dict[int, Segment]:
    directory, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    matches = re.compile(
        rf"{re.escape(stem)}\.([0-9]{{8}}|[1-9][0-9]{{8,17}}){re.escape(suffix)}(\.gz)?",
        re.IGNORECASE if os.name == "nt" else 0,
    ).fullmatch
    found: dict[int, Segment] = {}
    try:
        names = os.listdir(directory or os.curdir)
    except (FileNotFoundError, NotADirectoryError):
        return found
    for match in filter(None, map(matches, names)):
        number, compressed = int(match[1]), bool(match[2])
        if number not in found or not compressed:  # where both are, the plain one counts
            found[number] = Segment(number, segment_path(path, number), compressed)
    return found


def next_segment_path(path: str) -> str:
    """The path that a log's active file gets when it is rotated now."""
    segments = segments_of(path)
    number = segments[-1].number + 1 if segments else 1
    if number > _LARGEST:  # under such a name nobody would find it
        text = "the log cannot be rotated, because no number is left behind this one; rename this file, or remove it"
        raise OSError(errno.EEXIST, text, segments[-1].file_name)
    return segment_path(path, number)


def open_segment(segment: Segment) -> Text:
    """The bytes of a segment, whether it has been compressed meanwhile or not; FileNotFoundError when it is gone."""
    try:
        return Text(segment.path)
    except FileNotFoundError:
        return ZippedText(segment.zipped)  # which is there before the plain file goes


def prune(path: str, keep: int | None = None, keep_bytes: int | None = None) -> list[Segment]:
    """Remove the oldest segments, until at most `keep` are left and they take at most `keep_bytes` on disk.

    The newest one stays, however large, unless `keep` is 0: its number tells what the next one's is. Returns what was
    removed. An error leaves older segments removed and newer ones alone.

    >>> from holdfast._segments import prune
    >>> prune("there-is-no-such.jsonl", keep=3)
    []
    """
    segments = segments_of(path)
    surplus = 0 if keep is None else max(len(segments) - keep, 0)
    if keep_bytes is not None:
        surplus = max(surplus, _first_within(segments, keep_bytes))
    for segment in segments[:surplus]:
        _unlink(segment.zipped)
        _unlink(segment.path)
    return segments[:surplus]


def _first_within(segments: list[Segment], limit: int) -> int:
    """The place of the oldest segment that can stay when all from there on may take `limit` bytes."""
    total = 0
    for place in range(len(segments) - 1, -1, -1):
        total += _size(segments[place])
        if total > limit:
            return min(place + 1, len(segments) - 1)
    return 0


def _size(segment: Segment) -> int:
    for name in (segment.path, segment.zipped):
        try:
            return os.stat(name).st_size
        except FileNotFoundError:
            continue
    return 0


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):  # somebody else was faster
        os.unlink(path)


class _Superseded(Exception):
    """The plain file is not what it was when its compression began."""


def compress(segment: Segment) -> None:
    """Replace a segment's plain file by a compressed one, with the same permissions and time of last change.

    Any number of processes may do that at once, and again. On an error the plain file is still there.

    >>> from holdfast._segments import Segment, compress
    >>> compress(Segment(1, "pruned-meanwhile.00000001.jsonl"))
    """
    from holdfast.atomic import replacing

    try:
        plain = Text(segment.path)
    except FileNotFoundError:
        return
    try:
        with replacing(segment.zipped) as file, Naming(segment.zipped):
            _compress_into(file, plain)
            # The plain file must not come back under the name that it had before it was rotated, with the same records.
            sync_directory_of(segment.path)
            if identity_at(segment.path) != identity(plain.status()):
                raise _Superseded  # pruned, repaired, or compressed by somebody else: theirs is to stay
        _unlink(segment.path)
    except _Superseded:
        pass
    finally:
        plain.close()


def _permissions(descriptor: int, plain: os.stat_result) -> int:
    """Those of the plain file; a group that is not the plain file's may do no more than everybody."""
    try:
        os.fchown(descriptor, -1, plain.st_gid)
    except OSError:
        return plain.st_mode & (0o707 | (plain.st_mode & 0o7) << 3)
    return plain.st_mode & 0o777


def _compress_into(file: IO[bytes], plain: Text) -> None:
    from gzip import GzipFile

    status = plain.status()
    # Before there is anything to read in it. Where files have no owner, modes say nothing, even if fchmod() is there.
    if hasattr(os, "fchown"):
        os.fchmod(file.fileno(), _permissions(file.fileno(), status))
    offset = 0
    with GzipFile(filename="", mode="wb", fileobj=file, mtime=int(status.st_mtime)) as zipped:
        while piece := plain.read(offset, _PIECE):
            zipped.write(piece)
            offset += len(piece)
    file.flush()
    if os.utime in os.supports_fd:
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
