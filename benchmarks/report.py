"""How figures are shown: as tables, with the targets they met or missed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Table = dict[str, dict[str, float]]
Sections = dict[str, Callable[[], Table]]


class Target(NamedTuple):
    """What a figure, here one over another, should be."""

    what: str
    figure: tuple[str, str]
    limit: float
    over: tuple[str, str] | None = None
    at_least: bool = False

    def show(self, table: Table) -> None:
        value = table[self.figure[0]][self.figure[1]] / (table[self.over[0]][self.over[1]] if self.over else 1)
        met = value >= self.limit if self.at_least else value <= self.limit
        bound = "at least" if self.at_least else "at most"
        print(f"  {'met   ' if met else 'MISSED'}  {self.what}: {shown(value)} ({bound} {shown(self.limit)})")


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(title: str, table: Table, targets: Sequence[Target] = ()) -> None:
    columns = {column: max(9, len(column)) + 2 for column in next(iter(table.values()))}
    print(f"\n{title}\n{'':32}" + "".join(f"{column:>{width}}" for column, width in columns.items()))
    for name, row in table.items():
        print(f"  {name:30}" + "".join(f"{shown(row[column]):>{width}}" for column, width in columns.items()))
    for target in targets:
        target.show(table)


def main(
    description: str | None, sections: Callable[[Path, bool], Sections], targets: Mapping[str, Sequence[Target]]
) -> None:
    """Measure and show each section, as the command line says."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory", nargs="?", type=Path, help="where the files go (default: a temporary one)")
    options.add_argument("--quick", action="store_true", help="fewer rounds: a glimpse, not a figure to quote")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = options.parse_args()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {os.cpu_count()} CPUs")
    report = {}
    with tempfile.TemporaryDirectory(dir=chosen.directory) as temporary:
        for title, measure in sections(Path(temporary), chosen.quick).items():
            report[title] = measure()
            show(title, report[title], targets.get(title, ()))
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2))
