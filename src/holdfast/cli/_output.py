"""What all commands show alike: progress on a terminal, tables, and JSON for scripts."""

from __future__ import annotations

import json
import shutil
import sys
from time import monotonic

from holdfast._shown import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

_PAUSE = 0.1  # seconds between two pictures
_BAR = 24


class Progress:
    """A bar on stderr while a with block runs, if that is a terminal; otherwise nothing.

    >>> from holdfast.cli._output import Progress
    >>> with Progress(100, "MB", "reading") as bar:
    ...     bar.update(50)
    """

    def __init__(self, total: float, unit: str, what: str) -> None:
        self._total = total
        self._unit = unit
        self._what = harmless(what)
        self._shown = 0  # characters
        self._next = 0.0

    def update(self, done: float) -> None:
        """Show how much has been done. It costs little to call this often."""
        now = monotonic()
        if now >= self._next:
            self._next = now + _PAUSE
            if sys.stderr is not None and sys.stderr.isatty():
                self._draw(self._picture(done, _width()))

    def _picture(self, done: float, width: int) -> str:
        part = min(1.0, done / self._total) if self._total > 0 else 1.0
        bar = "#" * int(part * _BAR)
        picture = f" [{bar:{_BAR}}] {part:4.0%}  {done:,.0f} of {max(done, self._total):,.0f} {self._unit}"
        room = max(0, width - len(picture))
        what = self._what if len(self._what) <= room else f"...{self._what[len(self._what) + 3 - room :]}"
        return f"{what}{picture}"

    def _draw(self, picture: str) -> None:
        line = picture[: _width()].ljust(min(self._shown, _width()))
        self._shown = len(picture)
        print(f"\r{line}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._draw("")
            print("\r", end="", file=sys.stderr, flush=True)


def _width() -> int:
    return shutil.get_terminal_size().columns - 1


def progress(total: float, unit: str, what: str) -> Progress:
    """A bar for work of which `total` units are to be done.

    >>> from holdfast.cli._output import progress
    >>> with progress(3, "files", "verifying") as bar:
    ...     bar.update(1)
    """
    return Progress(total, unit, what)


def on_terminal() -> bool:
    """Whether what is printed goes to a terminal. There may be no stdout, if whoever started us has closed it.

    >>> from holdfast.cli._output import on_terminal
    >>> on_terminal()
    False
    """
    return sys.stdout is not None and sys.stdout.isatty()


def show(text: str, flush: bool = False) -> None:
    """Print a text. On a terminal, what somebody else put into it must not be obeyed; others get it as it is.

    >>> from holdfast.cli._output import show
    >>> show("events.jsonl: no damage.")
    events.jsonl: no damage.
    """
    if on_terminal():
        text = "\n".join(map(harmless, text.split("\n")))
    print(text, flush=flush)


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """Aligned text; columns of numbers to the right.

    >>> from holdfast.cli._output import table
    >>> print(table([("events.jsonl", 12), ("audit.jsonl", 7)], ("log", "records")))
    log           records
    events.jsonl       12
    audit.jsonl         7
    """
    cells = [[*row] for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[place], (int, float)) for row in cells) for place in range(len(header))
    ]
    texts = [[*header], *([_cell(cell) for cell in row] for row in cells)]
    widths = [max(len(row[place]) for row in texts) for place in range(len(header))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in texts
    )


def _cell(cell: object) -> str:
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "" if cell is None else " ".join(str(cell).splitlines())


def as_json(value: Any) -> str:
    """JSON for scripts. What JSON does not have, such as a date, becomes text.

    >>> from holdfast.cli._output import as_json
    >>> print(as_json({"ok": True}))
    {
      "ok": true
    }
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, AttributeError):  # a name of a file that is no text, or a terminal of another age
        return json.dumps(value, indent=2, default=str)
    return text
