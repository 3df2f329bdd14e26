"""`holdfast verify`: whether logs are undamaged."""

from __future__ import annotations

import os

from holdfast import JsonlFile
from holdfast._segments import segments_of
from holdfast._texts import Text
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import as_json, progress, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from holdfast import Report
    from holdfast.cli._output import Progress

EXAMPLE = """\
holdfast verify events.jsonl audit.jsonl

Every line of a log and of its rotated files is read. Nothing is changed, and writers go on.
"""

_MB = 1e6


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("--json", action="store_true", help="print a list with a report for each log")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a log; its rotated files belong to it")


def run(options: argparse.Namespace) -> int:
    """Verify the logs, and print what was found."""
    reports: dict[str, Report] = {file: _verify(file) for file in options.files}
    missing = [file for file, report in reports.items() if report.files == 0]
    if options.json:
        listed = [
            {"path": file, **plain(report), "ok": report.ok and report.files > 0} for file, report in reports.items()
        ]
        show(as_json(listed))
    else:
        for file, report in reports.items():
            if report.files:
                show(f"{file}: {report}")
    for file in missing:
        say(f"{file}: there is no such log")
    return DONE if not missing and all(report.ok for report in reports.values()) else NO


def _verify(file: str) -> Report:
    log = JsonlFile(file)
    with progress(_size(log.path) / _MB, "MB", f"verifying {file}") as bar:
        return log.verify(_Sum(bar).update)


class _Sum:
    """Adds up what has been read of several files."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._read: dict[str, int] = {}

    def update(self, path: str, read: int) -> None:
        self._read[path] = read
        self._bar.update(sum(self._read.values()) / _MB)


def _size(path: str) -> int:
    """How many bytes there are to be read."""
    return sum(map(_size_of, [*(segment.file_name for segment in segments_of(path)), path]))


def _size_of(file: str) -> int:
    try:
        if not file.endswith(".gz"):
            return os.path.getsize(file)
        zipped = Text(file)  # which does not wait for a FIFO
        try:
            return int.from_bytes(zipped.read(max(zipped.status().st_size - 4, 0), 4), "little")  # how long it was
        finally:
            zipped.close()
    except OSError:
        return 0  # it is missing, or cannot be read: verify() will say so


def plain(report: Report) -> dict[str, Any]:
    """A report as JSON can have it.

    >>> from holdfast import Report
    >>> from holdfast.cli.verify import plain
    >>> plain(Report(files=1, records=3, bytes=120))
    {'ok': True, 'files': 1, 'records': 3, 'bytes': 120, 'damages': []}
    """
    return {
        "ok": report.ok,
        "files": report.files,
        "records": report.records,
        "bytes": report.bytes,
        "damages": [vars(damage) for damage in report.damages],
    }
