"""What was measured, as tables that say how much better holdfast is, or worse."""

from __future__ import annotations

import json
import re
from math import ceil
from typing import NamedTuple

from holdfast._bench.contenders import NOTHING, OURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal, TypeAlias, TypedDict

    from holdfast._bench.machine import Machine
    from holdfast._bench.plan import Figures

    class Results(TypedDict):
        """All of a run."""

        format: int
        machine: Machine
        versions: dict[str, str]
        missing: list[str]
        quick: bool
        sections: dict[str, Figures]
        notes: list[str]

    Kind: TypeAlias = Literal["cost", "rate", "latency"]

FORMAT = 1


class Section(NamedTuple):
    """How to show figures: the fastest round of a cost or rate, and percentiles of latencies.

    `compared` is the percentile by which latencies are compared; costs and rates are by their last column.
    """

    title: str
    unit: str
    kind: Kind
    columns: str  # what a column is called
    explanation: str
    compared: float = 0.5


SECTIONS = {
    "lock": Section(
        "Acquiring and releasing a lock that nobody else wants",
        "microseconds",
        "cost",
        "one process",
        "By hand is the system's lock on an open file: no time limit, no look whether the file was replaced.",
    ),
    "appends": Section(
        "Appending as fast as possible",
        "events a second, all processes together",
        "rate",
        "{} at once",
        "By hand is the usual recipe with the cheapest lock: lock, open, json.dumps, write, flush. filelock,\n"
        "portalocker and fasteners are that recipe with their locks. sqlite3 is in WAL mode, one commit an event.\n"
        "loguru is safe between processes only if one starts the others, and so is alone; its time is until all\n"
        "is written.",
    ),
    "paced": Section(
        "20 processes, 20 events a second each",
        "microseconds from when an event was due until it was written",
        "latency",
        "{}",
        "Nothing appends nothing: that is how late the machine wakes up a process.",
        0.99,
    ),
    "size": Section(
        "Appending an event to a file that is large already", "microseconds", "cost", "{}", "The files are sparse."
    ),
    "durable": Section(
        "Appending so that a power cut does no harm",
        "events a second, all threads together",
        "rate",
        "{} threads",
        "Bare sync is a write and a sync, without a lock. By hand is the usual recipe with a sync under its lock.",
    ),
    "hand-over": Section(
        "Handing a lock to a process that waits for it", "microseconds", "latency", "{}", "By hand waits in the kernel."
    ),
}
PERCENTILES = {"median": 0.5, "99 %": 0.99, "longest": 1.0}


class Shown(NamedTuple):
    """A section as a table."""

    header: list[str]
    rows: list[list[str]]
    problems: list[str]


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that so many are not above.

    >>> from holdfast._bench.report import percentile
    >>> percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 1)
    (2, 4)
    """
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


def best(kind: Kind, raw: Iterable[float]) -> float:
    """The fastest round: what others on the machine did not slow down."""
    return max(raw) if kind == "rate" else min(raw)


def show(name: str, figures: Figures) -> Shown:
    """A section as a table, and what was wrong."""
    section = SECTIONS[name]
    names = [*dict.fromkeys(name for of_condition in figures.values() for name in of_condition)]
    problems = {
        contender: figure["wrong"]
        for of_condition in figures.values()
        for contender, figure in of_condition.items()
        if figure["wrong"] is not None
    }
    values = {contender: _values(section, figures, contender, problems) for contender in names}
    compared = _compared(section)
    ours = values[OURS][compared]
    rows = [
        [
            contender,
            *(_cell(value, problems.get(contender)) for value in found),
            "" if contender in (OURS, NOTHING) else _verdict(section, found[compared], ours),
        ]
        for contender, found in values.items()
    ]
    columns = [*PERCENTILES] if section.kind == "latency" else [_title(section, condition) for condition in figures]
    last = f"holdfast is, at {columns[compared]}," if len(columns) > 1 else "holdfast is"
    return Shown(["", *columns, last], rows, [f"{who}: {why}" for who, why in problems.items()])


def _title(section: Section, condition: str) -> str:
    return section.columns.format(condition).replace("1 threads", "1 thread") if condition else section.columns


def _compared(section: Section) -> int:
    """The column by which the contenders are compared."""
    return [*PERCENTILES.values()].index(section.compared) if section.kind == "latency" else -1


def _values(section: Section, figures: Figures, contender: str, problems: dict[str, str]) -> list[float | None]:
    """A contender's row. Who was wrong once has no figures at all."""
    found: list[float | None] = []
    for of_condition in figures.values():
        raw = of_condition[contender]["raw"] if contender in of_condition and contender not in problems else []
        if section.kind == "latency":
            ordered = sorted(raw)
            found += [percentile(ordered, part) if ordered else None for part in PERCENTILES.values()]
        else:
            found.append(best(section.kind, raw) if raw else None)
    return found


def _cell(value: float | None, problem: str | None) -> str:
    if value is None:
        return problem.partition(":")[0] if problem is not None else "-"
    return number(value)


def number(value: float) -> str:
    """A number with as many digits as mean something.

    >>> from holdfast._bench.report import number
    >>> number(171234.5), number(2.345)
    ('171,000', '2.3')
    """
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 1 else f"{value:.1g}"


def _verdict(section: Section, value: float | None, ours: float | None) -> str:
    """How much better holdfast is than this."""
    if not value or not ours:
        return ""
    ratio = ours / value if section.kind == "rate" else value / ours
    better, worse = ("faster", "slower") if section.kind != "latency" else ("sooner", "later")
    if 0.95 < ratio < 1.05:
        return "the same"
    return f"{number(ratio)} times {better}" if ratio > 1 else f"{number(1 / ratio)} times {worse}"


def problems(results: Results) -> list[str]:
    """All that was wrong."""
    return [problem for name, figures in results["sections"].items() for problem in show(name, figures).problems]


def about(results: Results) -> list[str]:
    """The machine and what else the figures depend on, in lines."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    usable = f" ({machine['usable_cpus']} usable)" if machine["usable_cpus"] < machine["cpus"] else ""
    lines = [
        f"{machine['system']}, {machine['kernel']}, {machine['cpus']} CPUs{usable}: {machine['cpu']}",
        f"files on {machine['file_system']}; {machine['python']}",
        versions,
    ]
    if machine["in_memory"]:
        lines.append("These files are in memory, where durable means nothing. Name a directory on a disk.")
    if results["missing"]:
        lines.append(f"not installed, and so not compared: {', '.join(results['missing'])}")
    return lines


def busy(results: Results) -> str:
    """What else the machine did, if that was much."""
    load = results["machine"]["load"]
    if not load or load[0] <= 1:
        return ""
    return (
        f"The machine was busy with other things: its load was {load[0]:.1f} before this began, on"
        f" {results['machine']['usable_cpus']} CPUs. The\n"
        "contenders take turns, so that ratios still mean something; but longest times say little, and a figure is\n"
        "far off where others used the disk. Run it again when the machine is quiet."
    )


def as_text(results: Results) -> str:
    """A run as JSON, with the raw figures of each contender on one line."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}\"]+\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"


def from_text(text: str) -> Results:
    """The reverse."""
    results: Results = json.loads(text)
    if results["format"] != FORMAT:
        raise ValueError(f"these are results of another format: {results['format']}, and not {FORMAT}")
    return results
