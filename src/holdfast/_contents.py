"""Whole files as they were when somebody read them, and whether they still are."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from hashlib import blake2b

from holdfast._core import Naming, close_quietly, open_for_reading, read_error
from holdfast._stamp import settled_stamp_of, stamp_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast._stamp import Stamp

_ATTEMPTS = 100
"""To read a file that is replaced meanwhile: on network file systems an open one may then be a stale handle."""


@dataclass(frozen=True)
class Contents:
    """The bytes of a file, and the marks by which to recognise it. A file that does not exist has no bytes: None.

    >>> from holdfast._contents import read
    >>> read("missing.json").data is None
    True
    """

    data: bytes | None
    stamp: Stamp | None
    """None when the file changed so shortly before it was read that another change might not show in its times, or when
    another machine has it, whose changes may take a minute to show."""

    def is_current(self, path: str) -> bool:
        """Whether the path surely still names a file with these contents. False also when only the bytes can tell."""
        try:
            return self.stamp == stamp_of(os.stat(path)) if self.stamp else False
        except OSError:
            return False


MISSING = Contents(None, None)


def read(path: str) -> Contents:
    """What is in the file that the path names.

    >>> from holdfast import write_text
    >>> from holdfast._contents import read
    >>> write_text("settings.json", "{}")
    >>> read("settings.json").data
    b'{}'
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _read(path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read(path)


def _read(path: str) -> Contents:
    try:
        descriptor, elsewhere = open_for_reading(path, read_error)
    except FileNotFoundError:
        return MISSING
    try:
        with Naming(path):
            before = os.fstat(descriptor)
            if elsewhere and before.st_nlink == 0:
                return MISSING  # a server of SMB has removed it, and lets go of it when whoever has it open closes it
            data = _read_all(descriptor, before.st_size)
    finally:
        close_quietly(descriptor)
    # The stamp is from before: what changes while it is read will not be recognised.
    return Contents(data, None if elsewhere else settled_stamp_of(before))


def _read_all(descriptor: int, size: int) -> bytes:
    """What is in a file that had this size a moment ago."""
    data = os.read(descriptor, size + 1)
    # It may have grown; and a read may give less than there is, where a network is between.
    while len(data) != size and (piece := os.read(descriptor, size + 1)):
        data += piece
    return data


def fingerprint(data: bytes | None) -> str:
    """A text that tells contents from all others; empty for a file that does not exist.

    >>> from holdfast._contents import fingerprint
    >>> fingerprint(b"{}")
    '2afb9b83f9314e5d029766197f539792'
    """
    return "" if data is None else blake2b(data, digest_size=16).hexdigest()
