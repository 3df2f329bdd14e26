"""`holdfast bench`: what things cost on this machine and disk, next to what one would otherwise use."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager

from holdfast import write_text
from holdfast._bench import plan, report
from holdfast._bench.contenders import field
from holdfast._bench.crew import Crew
from holdfast._bench.machine import describe, load
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import progress, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from holdfast._bench.contenders import Field
    from holdfast._bench.report import Results

EXAMPLE = """\
  holdfast bench --quick
  holdfast bench /var/log --peers --plot bench.svg

It takes two minutes, with --peers five; with --quick half a minute, which is good for a glimpse.
All that is written is checked: whose records were lost or torn, or whose lock let two in, is WRONG,
has no figures, and the exit code is 1.
"""

_ATTEMPTS = 20
"""At removing what was measured: on Windows a file stays while it is open, and an ended process takes time to go."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("directory", nargs="?", default=".", metavar="DIRECTORY", help="on which disk (default: here)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--peers", action="store_true", help="measure other packages, too, those that are installed")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw them")


def run(options: argparse.Namespace) -> int:
    """Measure, show, and say whether all that was written is right."""
    for path in options.json, options.plot:
        if path:  # rather now than in five minutes
            os.stat(os.path.dirname(os.path.abspath(path)))
    results = _measure(options.directory, field(options.peers), plan.QUICK if options.quick else plan.FULL)
    if options.json:
        write_text(options.json, report.as_text(results))
    if options.plot:
        from holdfast._bench.plot import draw

        write_text(options.plot, draw(results))
    wrong = report.problems(results)
    if wrong:
        say(f"{len(wrong)} answers were wrong, so their figures do not count")
    return NO if wrong else DONE


@contextmanager
def _room(directory: str) -> Generator[str]:
    """A folder for what is measured. If it cannot be removed, that is said, and the figures are not lost."""
    folder = tempfile.mkdtemp(prefix=".holdfast-bench-", dir=directory)
    try:
        yield folder
    finally:
        for _ in range(_ATTEMPTS):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                break
            time.sleep(0.1)
        else:
            say(f"'{folder}' could not be removed; some program may still use it: remove it later")


def _measure(directory: str, field: Field, effort: plan.Effort) -> Results:
    """Measure everything, and show each table when it is there."""
    os.stat(directory)  # what does not exist should be the error, and not that nothing can be created in it
    results: Results = {
        "format": report.FORMAT,
        "machine": describe(directory),
        "versions": field.versions,
        "missing": field.missing,
        "quick": effort is plan.QUICK,
        "sections": {},
        "notes": [],
    }
    print("\n".join(report.about(results)), flush=True)
    with _room(directory) as folder, Crew() as crew:
        bench = plan.Bench(folder, crew, field, effort)
        for name, steps in bench.sections().items():
            results["sections"][name] = figures = _take_all(name, [*steps()])
            print(_shown(name, figures), flush=True)
    results["notes"] = bench.notes
    results["machine"]["load"] += load()
    closing = [*bench.notes, report.busy(results)]
    print("".join(f"\n{line}\n" for line in closing if line), end="")
    return results


def _take_all(name: str, steps: list[plan.Step]) -> plan.Figures:
    figures: plan.Figures = {}
    with progress(len(steps), "measurements", name) as bar:
        for done, step in enumerate(steps):
            bar.update(done)
            plan.take(step, figures)
    return figures


def _shown(name: str, figures: plan.Figures) -> str:
    section, shown = report.SECTIONS[name], report.show(name, figures)
    width = max(len(cell) for row in (shown.header, *shown.rows) for cell in row[1:-1])
    header, *rows = (
        [row[0], *(cell.rjust(width) for cell in row[1:-1]), row[-1]] for row in (shown.header, *shown.rows)
    )
    return "\n".join(
        ["", f"{section.title}: {section.unit}", table(rows, header), *shown.problems, section.explanation]
    )
