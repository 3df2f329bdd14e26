"""What the kernel's dm-log-writes recorded: every write that reached a disk, in its order, with its flushes and marks.

Its format is described in the kernel's Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/
dm-log-writes.c: a super block, then entries of one sector each, every one followed by its data. Numbers are
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_SUPER = struct.Struct("<QQQI")  # magic, version, entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of what is behind the entry in its own sector
_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Entry:
    """One write, discard, flush or mark."""

    offset: int  # on the disk
    length: int
    flags: int
    data: int  # where in the log
    mark: str

    @property
    def is_promise(self) -> bool:
        """Whether the disk has promised to keep everything until here."""
        return bool(self.flags & (_FLUSH | _FUA))


def entries(log: BinaryIO) -> Iterator[Entry]:
    """All entries of a log."""
    magic, version, count, size = _SUPER.unpack(log.read(_SUPER.size))
    assert (magic, version) == (_MAGIC, 1), "no log of dm-log-writes"
    place = size
    for _ in range(count):
        log.seek(place)
        sector, sectors, flags, length = _ENTRY.unpack(log.read(_ENTRY.size))
        mark = log.read(length).rstrip(b"\0").decode() if flags & _MARK else ""
        yield Entry(sector * size, sectors * size, flags, place + size, mark)
        place += size
        if not flags & _DISCARD:  # of which there is no data
            place += sectors * size


def replay(entry: Entry, log: BinaryIO, disk: BinaryIO) -> None:
    """Do to a disk what was done then."""
    disk.seek(entry.offset)
    if entry.flags & _DISCARD:
        left = entry.length
        while left > 0:
            left -= disk.write(bytes(min(left, 1 << 20)))
    elif entry.length and not entry.mark:
        log.seek(entry.data)
        disk.write(log.read(entry.length))
