"""Names of files for keys: any text is a key, and no two keys share a file, on any disk."""

from __future__ import annotations

import re
from hashlib import blake2b

_LONGEST = 200
"""Bytes of a name with its suffix. File systems take 255, and temporary files need some for themselves."""

_EMPTY = "~"
_LONG = "~long-"
_COMPANION = "~key"
_PLAIN = re.compile(r"[a-z0-9_-]+")
_ESCAPED = re.compile(r"(?:[a-z0-9_-]|%[0-9a-f]{2})+")
_RESERVED = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")
_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9_-]+)+")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")


def check_suffix(suffix: str) -> str:
    """A suffix, checked: one that cannot be mistaken for part of a key's name."""
    if not isinstance(suffix, str):
        raise TypeError(f"suffix must be a str such as '.json', not {type(suffix).__name__}")
    if not _SUFFIX.fullmatch(suffix) or len(suffix) > 50:
        raise ValueError(
            f"suffix must be a dot and then ASCII letters, digits, '_' or '-', 50 at most, such as '.json', "
            f"not {suffix!r}"
        )
    return suffix


def name_of(key: str, suffix: str) -> str:
    """The name of the file for a key.

    >>> from holdfast._keys import name_of
    >>> name_of("Jo/42", ".json")
    '%4ao%2f42.json'
    """
    if _PLAIN.fullmatch(key):
        name = _escape_first(key) if _RESERVED.fullmatch(key) else key
    else:
        name = "".join([chr(byte) if byte in _KEPT else f"%{byte:02x}" for byte in bytes_of(key)]) or _EMPTY
    if len(name) + len(suffix) > _LONGEST:
        name = _LONG + blake2b(bytes_of(key), digest_size=32).hexdigest()
    return name + suffix


def key_of(name: str, suffix: str) -> str | None:
    """The key whose file has this name. None if it is no file of a key, or of one that is too long for a name.

    >>> from holdfast._keys import key_of
    >>> key_of("%4ao%2f42.json", ".json")
    'Jo/42'
    """
    if not name.endswith(suffix):
        return None
    stem = name[: -len(suffix)]
    if stem == _EMPTY:
        return ""
    if not _ESCAPED.fullmatch(stem):
        return None
    try:
        key = _unescape(stem).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if name_of(key, suffix) == name else None


def is_long(name: str) -> bool:
    """Whether a name stands for a key that is too long for it, and that its companion holds."""
    return name.startswith(_LONG)


def companion_of(name: str) -> str:
    """The name of the small file that holds a long key."""
    return name + _COMPANION


def document_of(name: str) -> str | None:
    """The name of the document whose companion has this name. None if it is no name of a companion.

    >>> from holdfast._keys import document_of
    >>> document_of("~long-6f.json~key")
    '~long-6f.json'
    """
    return name.removesuffix(_COMPANION) if is_long(name) and name.endswith(_COMPANION) else None


def bytes_of(key: str) -> bytes:
    """A key as bytes, also one that is no valid Unicode."""
    return key.encode("utf-8", "surrogatepass")


def _escape_first(name: str) -> str:
    return f"%{ord(name[0]):02x}{name[1:]}"


def _unescape(stem: str) -> bytes:
    first, *others = stem.split("%")
    return first.encode() + b"".join([bytes.fromhex(other[:2]) + other[2:].encode() for other in others])
