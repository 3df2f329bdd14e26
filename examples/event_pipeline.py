"""A telemetry pipeline: many processes append events to one log, and a reader counts each of them once, killed or not.

For services that write events at a high rate, and a program that follows them to aggregate or to send them on. Try it:

    python examples/event_pipeline.py [directory]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, MutableSequence
from dataclasses import asdict
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from holdfast import JsonlFile, write_text

# -- The part to copy -------------------------------------------------------------------------------------------------


def open_log(directory: Path) -> JsonlFile:
    """The log. It takes up to 100 backups of 64 KB: a reader that is further behind than that misses events."""
    return JsonlFile(directory / "events.jsonl", max_bytes="64 KB", backups=100)


class Totals:
    """How many requests each writer had, and up to which place in the log they are counted."""

    def __init__(self, directory: Path) -> None:
        self.log = open_log(directory)
        self.path = directory / "totals.json"
        self.requests: Counter[str] = Counter()
        self.checkpoint: str | None = None
        if self.path.exists():
            saved = json.loads(self.path.read_text("utf-8"))
            self.requests, self.checkpoint = Counter(saved["requests"]), saved["checkpoint"]

    def follow(self, last: str) -> None:
        """Count events, from where this or an earlier process stopped, until one that is called `last`."""
        ended = False
        while not ended:
            # The time limit is for a log at rest: what has come is counted then, although it is not a whole batch.
            with self.log.follow(since=self.checkpoint, errors="skip", timeout=0.2) as events:
                if batch := list(islice(events, 500)):
                    self.count(batch)
                    self.checkpoint = events.checkpoint
                    self.save()
                    ended = any(event["event"] == last for event in batch)

    def count(self, events: Iterable[dict[str, Any]]) -> None:
        """Do with events what there is to be done."""
        self.requests.update(event["writer"] for event in events if event["event"] == "request")

    def save(self) -> None:
        """Save both in one file, replaced whole: so they belong together, whenever the reader is killed."""
        write_text(self.path, json.dumps({"requests": self.requests, "checkpoint": self.checkpoint}))


# -- Trying it --------------------------------------------------------------------------------------------------------

REQUESTS = (3000, 3000, 3000, 20_000)  # of each writer; the last one is killed before that


def write(directory: Path, names: list[str], writer: int, acknowledged: MutableSequence[int]) -> None:
    """Serve requests, tell the log about each of them, and in the end how that went."""
    with open_log(directory) as log:
        for number in range(REQUESTS[writer]):
            log.append({"event": "request", "writer": names[writer], "number": number, "user": "Zoë", "ms": 12.9})
            acknowledged[writer] = number + 1
        log.append({"event": "stats", "writer": names[writer], **asdict(log.stats)})


def read(directory: Path, last: str) -> None:
    """What the reader's process does."""
    Totals(directory).follow(last)


def kill(process: BaseProcess) -> None:
    """End a process wherever it is, without a chance to tidy up."""
    process.kill()
    process.join()


def wait_for_totals(directory: Path, name: str) -> int:
    """Wait until the reader has counted some requests of a writer."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := Totals(directory).requests[name]:
            return found
        time.sleep(0.01)
    raise SystemExit("the reader counts nothing")


def run(directory: Path, names: list[str], last: str) -> list[int]:
    """Write and read, and kill a reader and a writer meanwhile. Returns how many appends of each writer returned."""
    processes = multiprocessing.get_context("spawn")
    acknowledged: MutableSequence[int] = processes.RawArray("q", len(names))
    arguments = [(directory, names, writer, acknowledged) for writer in range(len(names))]
    *writers, victim = (processes.Process(target=write, args=each) for each in arguments)
    first, second = (processes.Process(target=read, args=(directory, last)) for _ in range(2))
    for process in (first, *writers, victim):
        process.start()
    counted = wait_for_totals(directory, names[-1])
    kill(first)
    print(f"The reader is killed when it has counted {counted:,} requests of {names[-1]}; another one takes over.")
    second.start()
    kill(victim)
    for process in writers:
        process.join()
    log = open_log(directory)
    with open(log.path, "ab") as file:
        file.write(b'{"event": "reque')  # what a program leaves that was killed, or had no space, in mid-line
    log.append({"event": last})
    second.join()
    return [*acknowledged]


def main(directory: Path) -> None:
    """Let processes write and read, and compare what was appended with what was counted."""
    names = [f"writer {number} of {os.getpid()}" for number in range(len(REQUESTS))]
    acknowledged = run(directory, names, last=f"end of {os.getpid()}")
    log, requests = open_log(directory), Totals(directory).requests
    for name, number in zip(names, acknowledged, strict=True):
        print(f"  {name}: {number:7,} requests appended, {requests[name]:7,} counted")
    for stats in log.records(lambda event: event["event"] == "stats" and event["writer"] in names, errors="skip"):
        print(f"  {stats['writer']}: waited {stats['waits']} times, at most {stats['longest_wait'] * 1000:.1f} ms")

    damage = log.verify()
    print(f"\nThen the log is checked. {damage}\nAfter repair: {log.repair() and log.verify()}")

    # Whoever is killed between an append and the note of it has appended one more.
    exact = all(requests[name] == number for name, number in zip(names[:-1], acknowledged[:-1], strict=True))
    if not exact or requests[names[-1]] - acknowledged[-1] not in (0, 1) or not log.verify().ok:
        raise SystemExit("this must not happen: events were lost, or counted twice")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        main(Path(sys.argv[1] if sys.argv[1:] else temporary))
