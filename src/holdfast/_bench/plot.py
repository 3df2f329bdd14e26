"""Figures as one SVG, which follows the reader's choice of light or dark."""

from __future__ import annotations

from html import escape
from math import log10
from typing import NamedTuple

from holdfast._bench.contenders import OURS
from holdfast._bench.report import SECTIONS, best, number, percentile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from holdfast._bench.plan import Figures
    from holdfast._bench.report import Results

    Points: TypeAlias = list[tuple[float, float]]

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 210, 56, 60  # margins of a panel; on the right the names
_NAME_HEIGHT = 17

# Contenders are told apart without colours, too: by dashes, and by their names at the lines' ends.
_LIGHT = ("#0b62c4", "#6b7280", "#c2410c", "#8a6d00", "#7c3aed", "#0f766e", "#be185d", "#4d7c0f", "#444b55")
_DARK = ("#6db3ff", "#9ca3af", "#fb923c", "#e5c100", "#b79bff", "#4fd1c5", "#f78bc0", "#a3d94a", "#c5cad1")
_DASHES = ("none", "none", "7 3", "2 3", "9 3 2 3", "none", "7 3", "2 3", "1 4")
_SHAPES = """\
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.title { font-size: 15px; font-weight: 600; }
.name { font-weight: 600; }
.grid { stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; }
.ours { stroke-width: 3.5; }
.link { fill: none; stroke-width: 1; stroke-opacity: 0.5; }
"""


def _style() -> str:
    dashes = "\n".join(f".line.c{place} {{ stroke-dasharray: {dash}; }}" for place, dash in enumerate(_DASHES))
    light = _colours("#1c1e21", "#d5d8dc", "#ffffff", _LIGHT)
    dark = _colours("#e6e8eb", "#3c4148", "#16181c", _DARK)
    return f"{_SHAPES}{dashes}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _colours(ink: str, faint: str, back: str, colours: Sequence[str]) -> str:
    rules = [f"text {{ fill: {ink}; }}", f".grid {{ stroke: {faint}; }}", f".back {{ fill: {back}; }}"]
    for place, colour in enumerate(colours):
        rules.append(f".line.c{place}, .link.c{place} {{ stroke: {colour}; }}")
        rules.append(f".dot.c{place}, .name.c{place} {{ fill: {colour}; }}")
    return "\n".join(rules)


class Panel(NamedTuple):
    """One of the pictures: a line for each contender, over places on the x axis that have names."""

    title: str
    across: str
    up: str
    places: list[tuple[float, str]]
    lines: dict[str, Points]


def panels(results: Results) -> dict[str, Panel]:
    """The pictures there are: throughput, latency and size."""
    sections = results["sections"]
    return {
        "throughput": _throughput(sections["appends"]),
        "latency": _latency(sections["paced"]),
        "size": _size(sections["size"]),
    }


def draw(results: Results, names: Sequence[str] = ("throughput", "latency", "size")) -> str:
    """An SVG of these pictures, one below the other."""
    chosen = panels(results)
    # The same colour for the same contender in all pictures, whichever of them are drawn.
    colours = {name: place for place, name in enumerate(dict.fromkeys(n for p in chosen.values() for n in p.lines))}
    body = [
        f'<g transform="translate(0 {place * HEIGHT})">\n{_panel(chosen[name], colours)}\n</g>'
        for place, name in enumerate(names)
    ]
    titles = "; ".join(chosen[name].title for name in names)
    height = HEIGHT * len(names)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(titles)}">\n<title>{escape(titles)}</title>\n<style>\n{_style()}\n</style>\n'
        f'<rect class="back" width="{WIDTH}" height="{height}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


# What is drawn


def _right(figures: Figures) -> list[str]:
    """Those whose answers were right in all conditions, ours first."""
    names = dict.fromkeys(name for of_condition in figures.values() for name in of_condition)
    wrong = {name for row in figures.values() for name, figure in row.items() if figure["wrong"] is not None}
    return [name for name in names if name not in wrong]


def _over_conditions(figures: Figures, kind: str) -> dict[str, Points]:
    lines: dict[str, Points] = {}
    for name in _right(figures):
        lines[name] = [
            (place, best("rate" if kind == "rate" else "cost", row[name]["raw"]))
            for place, row in enumerate(figures.values())
            if name in row and row[name]["raw"]
        ]
    return {name: points for name, points in lines.items() if points}


def _throughput(figures: Figures) -> Panel:
    places = [(float(place), count) for place, count in enumerate(figures)]
    title = "Appending as fast as possible"
    return Panel(title, "processes at once", "events a second", places, _over_conditions(figures, "rate"))


def _size(figures: Figures) -> Panel:
    places = [(float(place), size) for place, size in enumerate(figures)]
    return Panel(
        "Appending to a file that is large already",
        "size of the file",
        "microseconds",
        places,
        _over_conditions(figures, "cost"),
    )


def _latency(figures: Figures) -> Panel:
    lines = {name: _distribution(figures[""][name]["raw"]) for name in _right(figures)}
    most = max((points[-1][0] for points in lines.values()), default=1.0)
    shares = [(log10(2), "50 %"), (1, "90 %"), (2, "99 %"), (3, "99.9 %"), (4, "99.99 %")]
    places = [(place, name) for place, name in shares if place <= most]
    return Panel(
        SECTIONS["paced"].title + ": how late an event is",
        "of the events are not later than",
        "microseconds",
        places,
        lines,
    )


def _distribution(raw: Sequence[float]) -> Points:
    """Percentiles, those near the end as far apart as the others: each step to the right is a tenth of the rest."""
    ordered = sorted(raw)
    steps = int(log10(max(len(ordered), 2)) * 20)
    return [(step / 20, percentile(ordered, 1 - 10 ** (-step / 20))) for step in range(steps + 1)]


# Drawing it


def _panel(panel: Panel, colours: dict[str, int]) -> str:
    values = [value for points in panel.lines.values() for _, value in points]
    marks = _marks(min(values, default=1), max(values, default=10))
    last = max([place for place, _ in panel.places] + [x for points in panel.lines.values() for x, _ in points] + [1])
    x = _scale(0, last, LEFT, WIDTH - RIGHT)
    y = _scale(_power(marks[0]), _power(marks[-1]), HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            f'<text class="title" x="16" y="26">{escape(panel.title)}</text>',
            f'<text x="16" y="{TOP - 10}">{escape(panel.up)}</text>',
            *(_horizontal(y(_power(mark)), number(mark)) for mark in marks),
            *(_vertical(x(place), name) for place, name in panel.places),
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">'
            f"{escape(panel.across)}</text>",
            *_curves(panel, colours, x, y),
        ]
    )


def _power(value: float) -> float:
    """Of ten. A clock that counts in steps may have measured nothing."""
    return log10(max(value, 0.001))


def _scale(first: float, last: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - first) / (last - first) * (end - start)


def _marks(least: float, most: float) -> list[float]:
    """Round numbers on a logarithmic axis: from one that is below all values to one that is above."""
    for digits in (1, 2, 5), (1,):
        marks = [digit * 10.0**power for power in range(-3, 10) for digit in digits]
        first = max(place for place, mark in enumerate(marks) if mark <= max(least, marks[0]))
        last = max(first + 1, min(place for place, mark in enumerate(marks) if mark >= min(most, marks[-1])))
        if last - first < 9:
            return marks[first : last + 1]
    return marks[first : last + 1]


def _horizontal(y: float, name: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
    )


def _vertical(x: float, name: str) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(name)}</text>'
    )


def _curves(
    panel: Panel, colours: dict[str, int], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    """The lines, ours on top, each with its name at its end."""
    ends = {name: (x(points[-1][0]), y(_power(points[-1][1]))) for name, points in panel.lines.items()}
    edge = max((end for end, _ in ends.values()), default=0)
    heights = _apart({name: height for name, (end, height) in ends.items() if end == edge})
    drawn: list[str] = []
    for name in sorted(panel.lines, key=lambda name: name == OURS):
        points = [(x(place), y(_power(value))) for place, value in panel.lines[name]]
        colour = f"c{colours[name] % len(_LIGHT)}"
        ours = " ours" if name == OURS else ""
        path = " ".join(f"{'L' if place else 'M'}{px:.1f} {py:.1f}" for place, (px, py) in enumerate(points))
        if len(points) > 1:
            drawn.append(f'<path class="line {colour}{ours}" d="{path}"/>')
        if len(points) <= len(panel.places):
            drawn += [f'<circle class="dot {colour}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>' for px, py in points]
        drawn += _name(name, colour, points[-1], heights.get(name))
    return drawn


def _name(name: str, colour: str, end: tuple[float, float], height: float | None) -> list[str]:
    """A name in the margin, with a link to its line; or at the line's end, where that is elsewhere."""
    if height is None:
        return [f'<text class="name {colour}" x="{end[0] + 10:.1f}" y="{end[1] + 4:.1f}">{escape(name)}</text>']
    text = WIDTH - RIGHT + 26
    return [
        f'<path class="link {colour}" d="M{end[0] + 5:.1f} {end[1]:.1f} L{text - 4} {height:.1f}"/>',
        f'<text class="name {colour}" x="{text}" y="{height + 4:.1f}">{escape(name)}</text>',
    ]


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """Where names go, so that none covers another: each as near to its line's end as there is room."""
    placed: dict[str, float] = {}
    below = float(TOP - _NAME_HEIGHT)
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        below = placed[name] = max(height, below + _NAME_HEIGHT)
    above = float(HEIGHT - BOTTOM + _NAME_HEIGHT)
    for name in reversed(placed):
        above = placed[name] = min(placed[name], above - _NAME_HEIGHT)
    return placed
