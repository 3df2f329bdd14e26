"""What the heavy targets ran: rows that they note, the table they end with, and docs/evidence.md made from them.

tools/evidence.py begin test-windows                                 before the target's first row
tools/evidence.py row test-windows "C core, amd64" --passed 183      what a script counted itself
tools/evidence.py pytest test-windows "CPython 3.14" report.xml 0    what pytest counted (--junitxml), and its status
tools/evidence.py end test-windows                                   the table; its status says whether anything failed
tools/evidence.py keep                                               the latest runs into docs/evidence, and the page

A row counts what passed, failed and was skipped, and may have a note: why something was skipped, or what was counted.
It has the day and the commit of its run, for later runs of parts take the place of some rows. The rows of a target are
in build/evidence/TARGET.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, cast
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/evidence"
KEPT = ROOT / "docs/evidence"
PAGE = ROOT / "docs/evidence.md"

# The long form of every target: `make TARGET FULL=1`.
FULL = os.environ.get("HOLDFAST_FULL") == "1"


class Row(TypedDict):
    """One thing that was run."""

    what: str
    passed: int
    failed: int
    skipped: int
    note: str
    ran: str


class Run(TypedDict):
    """A run of a target, or of what was chosen of it."""

    target: str
    full: bool
    chosen: list[str]
    ended: bool
    began: float
    seconds: float
    machine: str
    ran: str
    rows: list[Row]


def begin(target: str, chosen: Sequence[str] = ()) -> None:
    """Start a run of a target, or of what was chosen of it: what an earlier one noted is forgotten."""
    machine = f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}"
    _write(
        {
            "target": target,
            "full": FULL,
            "chosen": [*chosen],
            "ended": False,
            "began": time.time(),
            "seconds": 0.0,
            "machine": machine,
            "ran": f"{time.strftime('%Y-%m-%d', time.gmtime())}, {_commit()}",
            "rows": [],
        }
    )


def _commit() -> str:
    """What was checked out, and whether that had been changed."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def row(target: str, what: str, *, passed: int = 0, failed: int = 0, skipped: int = 0, note: str = "") -> None:
    """Note what was run, and print it. Nothing at all is a failure."""
    if not passed and not failed and not skipped:
        failed, note = 1, f"nothing was run; {note}".rstrip("; ")
    run = _read(target)
    noted: Row = {
        "what": what,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "note": note,
        "ran": run["ran"],
    }
    run["rows"].append(noted)
    run["seconds"] = round(time.time() - run["began"], 1)
    _write(run)
    print(_line(noted, 0), flush=True)


def pytest(target: str, what: str, report: str, status: int, note: str = "") -> None:
    """Note what a run of pytest counted, and print why it skipped what it skipped.

    No report is a failure, and so is a status that the report does not account for: then it has only what was done
    until pytest ended.
    """
    if not Path(report).exists():
        row(target, what, failed=1, note=f"pytest ended with {status} before it had a report; {note}".rstrip("; "))
        return
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    reasons = Counter(_reasons(cases))
    for reason, times in sorted(reasons.items()):
        print(f"SKIPPED [{times}] {what}: {reason}")
    skipped = reasons.total()
    passed = len(cases) - failed - skipped
    if status != min(failed, 1):
        failed, note = failed + 1, f"pytest ended with {status}; {note}".rstrip("; ")
    row(target, what, passed=passed, failed=failed, skipped=skipped, note=note)


def end(target: str) -> int:
    """Print the table of a run, and return how many rows failed; a run in which nothing passed has shown nothing."""
    run = _read(target)
    run["ended"] = True
    _write(run)
    width = max((len(each["what"]) for each in run["rows"]), default=0)
    print(f"\n=== {target}, {'full' if run['full'] else 'short'} form, {run['seconds']:.0f} s")
    for each in run["rows"]:
        print(_line(each, width))
    if not any(each["passed"] for each in run["rows"]):
        print("FAILED: nothing has passed")
        return 1
    return sum(each["failed"] > 0 for each in run["rows"])


def keep() -> None:
    """Keep the latest run of each target for the page.

    A short one does not replace a full one; and one of a part adds its rows, in the place of those that there were.
    """
    KEPT.mkdir(exist_ok=True)
    for latest in sorted(FOLDER.glob("*.json")):
        run, kept = _load(latest), KEPT / latest.name
        before = _load(kept) if kept.exists() else None
        if not run["ended"]:
            print(f"{run['target']}: the latest run did not come to its end; not kept")
        elif before is not None and before["full"] != run["full"] and (before["full"] or run["chosen"]):
            print(f"{run['target']}: the run that is kept was of another form; not replaced")
        else:
            _save(_joined(before, run) if before is not None and run["chosen"] else run, kept)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _joined(before: Run, part: Run) -> Run:
    """A run, with the rows of a later one of a part of it."""
    rows = {each["what"]: each for each in [*before["rows"], *part["rows"]]}
    # A part that is added to the whole leaves it whole.
    chosen = [*dict.fromkeys([*before["chosen"], *part["chosen"]])] if before["chosen"] else []
    return {**before, "chosen": chosen, "seconds": before["seconds"] + part["seconds"], "rows": [*rows.values()]}


def page(text: str) -> str:
    """The text of the page, in which the table after each `<!-- run: TARGET -->` is that of the run that was kept."""

    def table(mark: re.Match[str]) -> str:
        return f"<!-- run: {mark[1]} -->\n{_table(_load(KEPT / f'{mark[1]}.json'))}<!-- end -->\n"

    return re.sub(r"<!-- run: (\S+) -->\n.*?<!-- end -->\n", table, text, flags=re.DOTALL)


def _table(run: Run) -> str:
    """A run for the page. Where rows are of different runs, each has the day and commit of its own."""
    ran = sorted({each["ran"] for each in run["rows"]})
    several = len(ran) > 1
    command = f"`make {run['target']}{' FULL=1' if run['full'] else ''}`"
    parts = f" of {', '.join(run['chosen'])}" if run["chosen"] else ""
    when = "in parts" if several else ran[0]
    lines = [f"{command}{parts}, {when}, {run['machine']}, {run['seconds']:,.0f} s", ""]
    lines += [f"| what | passed | failed | skipped | |{' run |' * several}"]
    lines += [f"| --- | ---: | ---: | ---: | --- |{' --- |' * several}"]
    for each in run["rows"]:
        note = each["note"].replace("|", "\\|")
        of = f" {each['ran']} |" if several else ""
        counts = f"{each['passed']:,} | {each['failed']:,} | {each['skipped']:,}"
        lines.append(f"| {each['what']} | {counts} | {note} |{of}")
    return "\n".join([*lines, ""])


def _reasons(cases: list[ElementTree.Element]) -> Iterator[str]:
    for case in cases:
        skipped = case.find("skipped")
        if skipped is not None:
            yield skipped.get("message") or "no reason given"


def _line(each: Row, width: int) -> str:
    verdict = "FAILED" if each["failed"] else "passed" if each["passed"] else "SKIPPED"
    counts = f"{each['passed']:>8,} passed {each['failed']:>4,} failed {each['skipped']:>5,} skipped"
    return f"{verdict:8}{each['what']:{width}}  {counts}  {each['note']}".rstrip()


def _read(target: str) -> Run:
    return _load(FOLDER / f"{target}.json")


def _write(run: Run) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    _save(run, FOLDER / f"{run['target']}.json")


def _load(path: Path) -> Run:
    return cast("Run", json.loads(path.read_text(encoding="utf-8")))


def _save(run: Run, path: Path) -> None:
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Do what a script asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keep")
    for name in ("begin", "row", "pytest", "end"):
        command = commands.add_parser(name)
        command.add_argument("target")
        if name in {"row", "pytest"}:
            command.add_argument("what")
            command.add_argument("--note", default="")
    commands.choices["begin"].add_argument("chosen", nargs="*")
    commands.choices["pytest"].add_argument("report")
    commands.choices["pytest"].add_argument("status", type=int)
    for count in ("--passed", "--failed", "--skipped"):
        commands.choices["row"].add_argument(count, type=int, default=0)
    options = vars(parser.parse_args())
    actions: list[Callable[..., int | None]] = [begin, row, pytest, end, keep]
    action = {each.__name__: each for each in actions}[options.pop("command")]
    return min(action(**options) or 0, 1)


if __name__ == "__main__":
    sys.exit(main())
