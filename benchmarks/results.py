"""Make docs/results.md and its plots from a run of `holdfast bench` that is committed beside this file.

holdfast bench --peers --json benchmarks/results.json
python benchmarks/results.py
"""

from __future__ import annotations

from pathlib import Path

from holdfast._bench import report
from holdfast._bench.plot import draw, panels
from holdfast._bench.report import SECTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast._bench.report import Results, Shown

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "benchmarks/results.json"

BEGIN = """\
# What it costs

<!-- Made by benchmarks/results.py from benchmarks/results.json: change those. -->

This is a run of `holdfast bench --peers`. Yours will differ: run it on your own disk. Everybody appends the same events
of about 200 bytes. The contenders take turns, in many short rounds, so that what else the machine does hits all of
them. Of the rounds the fastest counts; of latencies all count. What was written is read and compared afterwards: each
event once, whole, and in its writer's order; and a number that four processes count up under a lock. Who gets that
wrong has no figures here.
"""
PLOTS = {"appends": "throughput", "paced": "latency", "size": "size"}


def pages(results: Results) -> dict[str, str]:
    """The files below docs, by their names."""
    plots = {f"results/{name}.svg": draw(results, [name]) for name in PLOTS.values()}
    sections = [section(name, results) for name in results["sections"]]
    return {"results.md": "\n".join([BEGIN, machine(results), *sections]), **plots}


def machine(results: Results) -> str:
    """On what it was measured."""
    lines = [*report.about(results), *results["notes"], f"Measured on {results['machine']['date'][:10]}."]
    busy = report.busy(results).replace("\n", " ")
    return "\n".join(["```text", *lines, "```", *([f"\n{busy}"] if busy else []), ""])


def section(name: str, results: Results) -> str:
    """One table, and its plot if there is one."""
    about, shown = SECTIONS[name], report.show(name, results["sections"][name])
    unit = about.unit[0].upper() + about.unit[1:]
    plot = PLOTS.get(name)
    picture = [f"![{panels(results)[plot].title}](results/{plot}.svg)", ""] if plot else []
    return "\n".join(
        [f"## {about.title}", "", f"{unit}:", "", *table(shown), "", *shown.problems, about.explanation, "", *picture]
    )


def table(shown: Shown) -> list[str]:
    """A table in Markdown, ours in bold."""
    ruler = ["---", *("---:" for _ in shown.header[1:-1]), "---"]
    ours = [[f"**{cell}**" if cell else "" for cell in row] if row[0] == "holdfast" else row for row in shown.rows]
    return [f"| {' | '.join(row)} |" for row in ([*shown.header[:-1], shown.header[-1].rstrip(",")], ruler, *ours)]


def main() -> None:
    """Write them."""
    for name, text in pages(report.from_text(RUN.read_text(encoding="utf-8"))).items():
        path = ROOT / "docs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
