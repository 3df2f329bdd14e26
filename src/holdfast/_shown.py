"""Texts that somebody else chose, such as file names and command lines, in messages for people."""

from __future__ import annotations

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_DIRECTIONS = (
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)  # with them, text can look reversed
_BYTES = range(0xDC80, 0xDD00)  # of a file name that is no text
_ESCAPES = {number: f"\\u{number:04x}" for number in (*_CONTROLS, *_DIRECTIONS, *_BYTES) if number != ord("\t")}


def harmless(text: str) -> str:
    r"""The text in one line, and with what a terminal would obey written as JSON does it.

    >>> from holdfast._shown import harmless
    >>> print(harmless("\033[2Jworker.py\n"))
    \u001b[2Jworker.py\u000a
    """
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)
