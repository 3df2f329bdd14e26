"""Where somebody stopped reading a log, in a form that survives the log's rotation, compression and pruning."""

from __future__ import annotations

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast._texts import Identity

HEAD = 1024
"""How many bytes of a file's beginning tell it from others."""

BEFORE = 256
"""How many bytes before an offset tell that the file has not been changed."""

_VERSION = 1


class Mark:
    """A place in a log: the file by several signs, and the offset up to which everything has been handled."""

    __slots__ = ("before", "file", "head", "number", "offset")

    def __init__(self, file: Identity, number: int, offset: int, head: tuple[int, str], before: str) -> None:
        self.file = file
        self.number = number
        self.offset = offset
        self.head = head
        self.before = before

    def __str__(self) -> str:
        fields = {
            "v": _VERSION,
            "file": self.file,
            "segment": self.number,
            "offset": self.offset,
            "head": self.head,
            "before": self.before,
        }
        return json.dumps(fields, separators=(",", ":"))


def digest(text: bytes) -> str:
    """A fingerprint of bytes and their number."""
    return hashlib.blake2b(b"%d:%b" % (len(text), text), digest_size=16).hexdigest()


BEGINNING = Mark((0, 0), 0, 0, (0, digest(b"")), digest(b""))
"""Nothing has been handled yet."""


def parse(checkpoint: str) -> Mark:
    """The place a checkpoint means. ValueError if it is none: it may come from a file that others can write."""
    if not isinstance(checkpoint, str):
        raise TypeError(f"a checkpoint is a str, not {type(checkpoint).__name__}")
    try:
        return _parsed(checkpoint)
    except (ValueError, KeyError, TypeError, RecursionError):
        shown = checkpoint if len(checkpoint) <= 80 else checkpoint[:77] + "..."
        raise ValueError(
            f"{shown!r} is not a checkpoint of this version; pass what .checkpoint gave, or none to read all"
        ) from None


def _parsed(checkpoint: str) -> Mark:
    if len(checkpoint) > 500:
        raise ValueError("too long")
    fields = json.loads(checkpoint)
    if fields["v"] != _VERSION or len(fields) != 6:
        raise ValueError("another version")
    device, inode = fields["file"]
    length, head = fields["head"]
    return Mark(
        (_number(device), _number(inode, 1 << 128)),
        _number(fields["segment"]),
        _number(fields["offset"], 1 << 62),
        (_number(length, HEAD + 1), _digest(head)),
        _digest(fields["before"]),
    )


def _number(value: Any, limit: int = 1 << 64) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("not a number that can be here")
    return value


def _digest(value: Any) -> str:
    if type(value) is not str or len(value) != 32 or not set(value) <= set("0123456789abcdef"):
        raise ValueError("not a fingerprint")
    return value
