"""`holdfast locks`: who holds which locks, who waits for whom, and who waits in a circle."""

from __future__ import annotations

import time

from holdfast._process import command_of, started
from holdfast._shown import harmless
from holdfast._survey import Circle, Lock, Survey, survey
from holdfast.cli._output import as_json, on_terminal, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
holdfast locks                     # on the whole machine
holdfast locks /var/lib/app        # at or below a path, soft locks too
holdfast locks --watch app.lock    # once a second, until Ctrl-C
"""

_HEADER = ["PATH", "KIND", "MODE", "PID", "COMMAND", "RUNS SINCE", ""]
_CLEAR_SCREEN = "\033[H\033[2J"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a lock file, or a directory; default: the machine")
    parser.add_argument("--watch", action="store_true", help="look again every second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each look")


def run(options: argparse.Namespace) -> int:
    """Print the locks. 0 if there are any, else 1."""
    if not options.watch:
        return _look(options)
    found = 1
    try:
        while True:
            found = _look(options)
            time.sleep(1)
    except KeyboardInterrupt:  # the way to end it
        return found


def _look(options: argparse.Namespace) -> int:
    seen = survey(options.paths)
    text = as_json(_as_dict(seen)) if options.json else "\n".join(_report(seen, options.paths))
    clear = _CLEAR_SCREEN if options.watch and not options.json and on_terminal() else ""
    print(clear, end="")
    show(text, flush=True)
    return 0 if seen.locks else 1


def _report(seen: Survey, paths: list[str]) -> list[str]:
    if seen.locks:
        lines = [table([_row(lock, seen.locks) for lock in seen.locks], _HEADER)]
    else:
        lines = [f"no locks {'at or below ' + ', '.join(paths) if paths else 'on this machine'}, as far as can be seen"]
    for circle in seen.circles:
        lines += ["", *_in_words(circle)]
    if seen.unknown:
        lines += ["", *(f"note: {note}" for note in seen.unknown)]
    return lines


def _row(lock: Lock, locks: list[Lock]) -> list[str]:
    mode: str = lock.mode
    if lock.start or lock.end is not None:
        mode += f", bytes {lock.start}-{'' if lock.end is None else lock.end}"
    return [
        harmless(lock.name),
        lock.kind,
        mode,
        "?" if lock.pid is None else str(lock.pid),
        _short_command(lock),
        _moment(_since(lock)),
        _state(lock, locks),
    ]


def _state(lock: Lock, locks: list[Lock]) -> str:
    if not lock.waiting:
        return "holds" if lock.host is None else f"holds, on host {harmless(lock.host)}"
    pids = ["?" if other.pid is None else str(other.pid) for other in locks if other.keeps_out(lock)]
    return f"waits for {', '.join(pids) or '?'}"


def _in_words(circle: Circle) -> list[str]:
    if circle.certain:
        lines = ["DEADLOCK: none of these can go on before one of them is ended or gives up"]
    else:
        lines = ["perhaps a deadlock: these wait for each other, unless another of their threads releases a lock"]
    for awaited, held in circle.waits:
        what = f"{harmless(held.name)}, held by pid {held.pid}"
        lines.append(f"  pid {awaited.pid} ({_short_command(awaited)}) waits for {what}")
    return lines


def _as_dict(seen: Survey) -> dict[str, object]:
    return {
        "locks": [_lock_as_dict(lock, seen.locks) for lock in seen.locks],
        "deadlocks": [_circle_as_dict(circle) for circle in seen.circles],
        "unknown": seen.unknown,
    }


def _lock_as_dict(lock: Lock, locks: list[Lock]) -> dict[str, object]:
    waits_for = [other.pid for other in locks if other.keeps_out(lock)] if lock.waiting else []
    return {**lock.__dict__, "command": _command(lock), "since": _since(lock), "waits_for": waits_for}


def _circle_as_dict(circle: Circle) -> dict[str, object]:
    waits = [{"pid": awaited.pid, "waits_for": held.name, "held_by": held.pid} for awaited, held in circle.waits]
    return {"certain": circle.certain, "waits": waits}


def _command(lock: Lock) -> str:
    return "" if lock.pid is None or lock.host is not None else command_of(lock.pid)


def _since(lock: Lock) -> float | None:
    return None if lock.pid is None or lock.host is not None else started(lock.pid)


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    moment = time.localtime(seconds)
    today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", moment)


def _short_command(lock: Lock) -> str:
    command = " ".join(harmless(_command(lock)).split())
    return command if len(command) <= 40 else f"{command[:37]}..."
