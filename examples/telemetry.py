"""Processes append events to one log with rotation while they are killed at random. What was acknowledged is there."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import MutableSequence, Sequence
from ctypes import c_int64
from functools import partial
from pathlib import Path

import stage

from holdfast import JsonlFile

WRITERS = 8
KILLS = 50
SECONDS = 3.0
MAX_BYTES = "4 MB"


def write(number: int, path: str, acknowledged: MutableSequence[int]) -> None:
    """Append events until killed, and note in shared memory each one that append() has returned from."""
    log = JsonlFile(path, max_bytes=MAX_BYTES)
    while True:
        count = acknowledged[number]
        log.append(
            {"event": "request", "user": "Zoë", "ms": 12.9, "time": time.time(), "writer": number, "count": count}
        )
        acknowledged[number] = count + 1


def find_losses(path: str, acknowledged: Sequence[int]) -> tuple[int, int, int]:
    """Read everything. Returns how many events there are, are missing, and are there again or out of order."""
    found = lost = misplaced = 0
    expected = [0] * len(acknowledged)
    for record in JsonlFile(path).records(errors="skip"):
        writer, count = record["writer"], record["count"]
        lost += max(0, count - expected[writer])
        misplaced += count < expected[writer]
        expected[writer] = max(expected[writer], count + 1)
        found += 1
        if found % 5000 == 0:
            stage.show_progress(min(0.99, found / sum(acknowledged)), f"reading, {found} events")
    stage.show_progress(1, "")
    lost += sum(max(0, noted - known) for noted, known in zip(acknowledged, expected, strict=True))
    return found, lost, misplaced


def prove_durability() -> None:
    """Write and kill, and compare what was acknowledged with what is there."""
    print(
        f"{WRITERS} processes append events to one JSONL log, which is rotated every {MAX_BYTES}. Now and then one of"
    )
    print("them is killed with SIGKILL, wherever it is, and another takes its place.\n")
    acknowledged = multiprocessing.Array(c_int64, WRITERS + KILLS, lock=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "events.jsonl")
        killed = stage.kill_at_random(
            write, (path, acknowledged), WRITERS, KILLS, SECONDS, lambda: f"{sum(acknowledged[:]):,} events appended"
        )
        found, lost, misplaced = find_losses(path, acknowledged[:])
        report = JsonlFile(path).verify()
        started = time.perf_counter()
        JsonlFile(path).append({"event": "the end"})
        free = time.perf_counter() - started
    total = sum(acknowledged[:])
    print(f"  {total:9,} events acknowledged: append() had returned")
    print(f"  {found:9,} events in {report.files} files, so there were {report.files - 1} rotations")
    print(f"  {killed:9,} processes killed; the next append took {free * 1e3:.1f} ms")
    print(f"  {found - total + lost:9,} were written by a process that was killed before it could note that")
    print(f"  {len(report.damages):9,} torn lines: half written by a process that was killed, and never acknowledged")
    print(f"  {lost:9,} lost, {misplaced} twice or out of order")
    if lost or misplaced or found > total + killed or len(report.damages) > killed:
        raise SystemExit("this must not happen")


def show_costs() -> None:
    """Measure the log and the usual recipe in turns, and print a table."""
    import appends
    import contenders

    both = {name: contenders.ALONE[name] for name in ("holdfast append, json", "usual recipe")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def flat_out(count: int) -> list[float]:
            return [sum(appends.throughput(one, count, 0.5, folder)) for one in both.values()]

        def slowest_percent() -> list[float]:
            delays = [sorted(appends.delays(one, processes=50, times=40, folder=folder)) for one in both.values()]
            return [found[-len(found) // 100] * 1e3 for found in delays]

        loops = {name: partial(appends.appending, one) for name, one in both.items()}
        rows = {
            "microseconds to append one event of 215 bytes": [*appends.costs(loops, folder, 10).values()],
            "events a second, 8 processes at once": flat_out(8),
            "events a second, 50 processes at once": flat_out(50),
            "50 processes, 20 events a second each: 99 % within, ms": slowest_percent(),
        }
    print("\nWhat an append costs here, both with the standard library's json. The usual recipe:")
    print('with FileLock(path + ".lock"), open(path, "a") as file: file.write(json.dumps(event)), flush()')
    stage.show_table(("holdfast", "usual recipe"), rows)
