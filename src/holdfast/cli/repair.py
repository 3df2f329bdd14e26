"""`holdfast repair`: damaged lines are moved out of a log."""

from __future__ import annotations

from holdfast import JsonlFile
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import as_json, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
holdfast repair events.jsonl

Each line that is no record goes to a file beside the log, events.jsonl.damaged, with its place and
what is wrong with it. No byte is lost. Writers wait meanwhile, if the file they write to is damaged.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("--json", action="store_true", help="print a report")
    parser.add_argument("file", metavar="FILE", help="the log; its rotated files belong to it")


def run(options: argparse.Namespace) -> int:
    """Repair the log, and print what that was."""
    report = JsonlFile(options.file).repair()
    if report.files == 0:
        say(f"{options.file}: there is no such log")
        return NO
    if options.json:
        from holdfast.cli.verify import plain

        show(as_json({**plain(report), "moved": report.moved, "side_files": report.side_files}))
    else:
        show(f"{options.file}: {report}")
    return DONE
