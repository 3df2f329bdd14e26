"""The bytes of a log's file, plain or compressed, from any offset on."""

from __future__ import annotations

import os

from holdfast._core import Naming, close_quietly, log_error, open_for_reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Identity: TypeAlias = tuple[int, int]

_PIECE = 1 << 16


def open_shared(path: str) -> int:
    """A descriptor to read a regular file with, which keeps nobody from renaming or removing it."""
    return open_for_reading(path, log_error)[0]


def identity(status: os.stat_result) -> Identity:
    """What tells a file from all others that exist at the same time."""
    return status.st_dev, status.st_ino


def identity_at(path: str) -> Identity | None:
    """Which file the path names; None if it names none."""
    try:
        return identity(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


class Text:
    """The bytes of a plain file."""

    broken = ""
    """Why the rest of the file cannot be read, if it cannot."""

    _descriptor = -1

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = open_shared(path)

    def status(self) -> os.stat_result:
        """What the system knows of the open file, which the path may not name any more."""
        with Naming(self.path):
            return os.fstat(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` on: `size` of them, or fewer at the end."""
        pieces: list[bytes] = []
        while size > 0 and (piece := self._read(offset, size)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read(self, offset: int, size: int) -> bytes:
        with Naming(self.path):
            if hasattr(os, "pread"):  # which a forked child's reading cannot disturb: they share the position
                piece: bytes = os.pread(self._descriptor, size, offset)
                return piece
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close_quietly(descriptor)

    def __del__(self) -> None:
        self.close()


class ZippedText(Text):
    """What is in a file compressed by gzip. To read forward is cheap, to go back is not.

    What cannot be decompressed counts as the end, and `broken` says why.
    """

    def __init__(self, path: str) -> None:
        import gzip
        import io

        super().__init__(path)
        raw = io.FileIO(self._descriptor, closefd=False)
        # The stubs would have a file that can be written, too.
        self._unzipped = gzip.GzipFile(fileobj=io.BufferedReader(raw))  # type: ignore[call-overload, unused-ignore]
        self._kept, self._kept_at = b"", 0

    def read(self, offset: int, size: int) -> bytes:
        """The decompressed bytes from `offset` on: `size` of them, or fewer at the end."""
        if offset < self._kept_at:
            self._rewind()
        pieces = [self._kept[offset - self._kept_at :]]
        end = self._kept_at + len(self._kept)
        while end < offset + size and (piece := self._next_piece()):
            pieces.append(piece[max(offset - end, 0) :])
            end += len(piece)
        self._kept, self._kept_at = b"".join(pieces), min(offset, end)
        return self._kept[:size]

    def _rewind(self) -> None:
        self._unzipped.seek(0)
        self._kept, self._kept_at = b"", 0
        self.broken = ""

    def _next_piece(self) -> bytes:
        import zlib

        if self.broken:
            return b""
        try:
            # Not read(), which loses what came before the damage; and always as much, to get as far each time.
            with Naming(self.path):
                return self._unzipped.read1(_PIECE)
        except (EOFError, OSError, zlib.error) as error:
            self._fail(error)
            return b""

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            raise error  # the disk's, and not the file's
        self.broken = f"cannot be decompressed: {error}"
