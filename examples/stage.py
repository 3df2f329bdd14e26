"""What the parts of the demonstration share: processes that are killed, a progress bar, and a table."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The contenders of the tables are those of the benchmarks.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))


def kill_at_random(
    target: Callable[..., object],
    args: tuple[Any, ...],
    workers: int,
    kills: int,
    seconds: float,
    text: Callable[[], str],
) -> int:
    """Run processes, kill one now and then, and start another in its place. Returns how many were killed.

    Each calls `target(number, *args)` with a number of its own, which is below `workers + kills`, and never returns.
    """

    def start(number: int) -> multiprocessing.Process:
        process = multiprocessing.Process(target=target, args=(number, *args), daemon=True)
        process.start()
        return process

    running = [start(number) for number in range(workers)]
    began, killed = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        show_progress(elapsed / seconds, f"{text()}, {killed} processes killed")
        time.sleep(0.02)
        if killed < kills * elapsed / seconds:
            victim = random.randrange(workers)
            end(running[victim])
            running[victim] = start(workers + killed)
            killed += 1
    show_progress(1, "")
    for process in running:
        end(process)
    return killed + workers


def end(process: multiprocessing.Process) -> None:
    """Kill a process with SIGKILL, which it cannot catch."""
    if not process.is_alive():
        raise SystemExit(f"a process has ended by itself, with exit code {process.exitcode}")
    process.kill()
    process.join()


def show_progress(part: float, text: str) -> None:
    """Draw a bar, if somebody is looking."""
    if sys.stdout.isatty():
        print(f"\r\033[K  [{'#' * int(part * 30):30}] {text}", end="" if part < 1 else "\r\033[K", flush=True)


def show_table(names: tuple[str, str], rows: dict[str, list[float]]) -> None:
    """Show the figures of two contenders, and how many times the larger one is the smaller one."""
    print(f"\n  {'':58}{names[0]:>10}{names[1]:>14}")
    for title, (ours, theirs) in rows.items():
        ratio = max(ours, theirs) / max(1e-9, min(ours, theirs))
        print(f"  {title:58}{shown(ours):>10}{shown(theirs):>14}{ratio:9,.0f} x")


def shown(value: float) -> str:
    """Write a number with the digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
