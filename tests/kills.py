"""Writers of one log that are killed at random, and what must hold afterwards."""

from __future__ import annotations

import gzip
import json
import mmap
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast import JsonlFile
from support import Child

WRITERS = 8


def write_until_killed(path: str, writer: int, acknowledged: memoryview, settings: dict[str, object]) -> None:
    """Append records and batches, and note the number of each after it was appended."""
    log = JsonlFile(path, timeout=60, durable=(False, 0.05)[writer % 2], **settings)  # type: ignore[arg-type]
    choose = random.Random(writer)
    number = 0
    while True:
        number += 1
        if choose.random() < 0.1:
            log.extend({"w": writer, "n": number, "b": b, "x": "z" * choose.randrange(9000)} for b in range(3))
        else:
            log.append({"w": writer, "n": number, "b": 0, "x": "é" * choose.randrange(50)})
        acknowledged[writer] = number


def kill_writers(path: str, kills: int, **settings: object) -> tuple[list[int], float]:
    """Let writers run, kill so many of them one after the other, each replaced by a new one, and in the end all.

    Returns how many appends of each were acknowledged, and the seconds it took.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        notes = os.path.join(folder, "acknowledged")
        with open(notes, "wb") as file:
            file.truncate(8 * (kills + WRITERS))
        with _noted(notes) as acknowledged:

            def start(writer: int) -> Callable[[], None]:
                return (_fork if hasattr(os, "fork") else _spawn)(path, writer, notes, settings)

            living: dict[int, Callable[[], None]] = {}
            try:
                for writer in range(WRITERS):
                    living[writer] = start(writer)
                for writer in range(WRITERS, WRITERS + kills):
                    time.sleep(random.random() * 0.02)
                    living.pop(random.choice([*living]))()
                    living[writer] = start(writer)
            finally:
                with ExitStack() as last:  # kills all, also when one has failed
                    for kill in living.values():
                        last.callback(kill)
            return acknowledged.tolist(), time.monotonic() - began


@contextmanager
def _noted(notes: str) -> Iterator[memoryview]:
    """The numbers that the writers have noted, in memory that all processes share."""
    # Not struct.pack_into: it clears a number before it writes it, and a kill may come between.
    with (
        open(notes, "r+b") as file,
        mmap.mmap(file.fileno(), 0) as shared,
        memoryview(shared) as raw,
        raw.cast("q") as acknowledged,
    ):
        yield acknowledged


def _fork(path: str, writer: int, notes: str, settings: dict[str, object]) -> Callable[[], None]:
    """Start a writer, and return what kills it."""
    pid = os.fork()
    if pid == 0:
        try:
            with _noted(notes) as acknowledged:
                write_until_killed(path, writer, acknowledged, settings)
        finally:
            os._exit(1)

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), "a writer ended by itself, with an error"

    return kill


def _spawn(path: str, writer: int, notes: str, settings: dict[str, object]) -> Callable[[], None]:
    """The same where there is no fork: it writes when this returns, or is about to."""
    code = """
        import json, kills
        with kills._noted(args[2]) as acknowledged:
            say("writes")
            kills.write_until_killed(args[0], int(args[1]), acknowledged, json.loads(args[3]))
    """
    child = Child(code, path, writer, notes, json.dumps(settings))
    child.expect("writes")

    def kill() -> None:
        assert child.process.poll() is None, "a writer ended by itself, with an error"
        with child:
            child.kill()

    return kill


def check(path: str, acknowledged: list[int]) -> tuple[int, int]:
    """Every acknowledged record is there once, in order, batches whole. Returns how many there are, and torn lines.

    The files are read here without the help of what is tested.
    """
    places: dict[int, int] = dict.fromkeys(range(len(acknowledged)), 0)
    batch: list[int] = []
    records = torn = 0
    for line in lines_of(path):
        try:
            record = json.loads(line)
        except ValueError:
            torn += 1
            continue
        records += 1
        writer, number, part = record["w"], record["n"], record["b"]
        if part == 0:
            assert number == places[writer] + 1, f"writer {writer}: {number} after {places[writer]}"
            places[writer] = number
            batch = [writer, number, 0]
        else:
            assert batch == [writer, number, part - 1], "a batch is not together"
            batch[2] = part
    for writer, number in enumerate(acknowledged):
        # One that was killed between its append and its note has one more in the file.
        assert number <= places[writer] <= number + 1, f"writer {writer}: {number} acknowledged, {places[writer]} found"
    return records, torn


def sizes(folder: str | os.PathLike[str]) -> dict[str, int]:
    """The files in a folder, and how large they are."""
    return {name: os.path.getsize(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def lines_of(path: str | os.PathLike[str]) -> list[bytes]:
    """All lines of a log that are not empty, oldest first."""
    folder, name = os.path.split(path)
    found: list[bytes] = []
    candidates = sizes(folder)
    for candidate in candidates:
        if candidate.endswith(".gz") and candidate.removesuffix(".gz") in candidates:
            continue  # who compressed it has ended before the plain file went
        if candidate.startswith(name.removesuffix("jsonl")) and candidate.endswith((".jsonl", ".jsonl.gz")):
            data = Path(folder, candidate).read_bytes()
            found += filter(None, (gzip.decompress(data) if candidate.endswith(".gz") else data).split(b"\n"))
    return found
