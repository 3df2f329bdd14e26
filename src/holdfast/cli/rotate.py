"""`holdfast rotate`: the next record begins a new file."""

from __future__ import annotations

from holdfast import JsonlFile
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
gzip "$(holdfast rotate events.jsonl)"

The file is renamed under its writers' lock, and its new name printed. Nobody has to be told: no
record is written to it afterwards. Readers know the renamed file, and the compressed one, too.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("file", metavar="FILE", help="the log")


def run(options: argparse.Namespace) -> int:
    """Rotate the log, and print what its file is called now."""
    moved = JsonlFile(options.file).rotate()
    if moved is None:
        say(f"{options.file}: there is nothing to rotate; it is empty or missing")
        return NO
    show(moved)
    return DONE
