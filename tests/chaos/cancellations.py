"""Tasks that are cancelled all the time: nothing is held, and every call says what became of it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from crew import Crew, Worker, cells, until
from holding import Counted

import evidence
from holdfast import AsyncFileLock, Timeout
from holdfast.aio import AsyncJsonlFile, AsyncReadWriteLock, AsyncStateFile, happened

STEPS = 10_000 if evidence.FULL else 200
PROCESSES = 3


async def storm(do: Callable[[], Awaitable[object]], tasks: int = 12, cancellations: float = math.inf) -> None:
    """Let tasks do something for ever, and cancel one of them after the other, each replaced by a new one."""

    async def forever() -> None:
        while True:
            await do()

    living = [asyncio.create_task(forever()) for _ in range(tasks)]
    while cancellations > 0:
        cancellations -= 1
        await asyncio.sleep(random.random() * 0.003)
        place = random.randrange(tasks)
        victim = living[place]
        victim.cancel()
        await asyncio.wait([victim])
        assert victim.cancelled(), "it ended otherwise, with what is raised here: " + repr(victim.exception())
        living[place] = asyncio.create_task(forever())


@pytest.mark.parametrize("kind", ["flock", "ofd"])
def test_cancelled_tasks_of_many_processes_hold_nothing(kind, tmp_path):
    path, counted = str(tmp_path / "the.lock"), Counted(PROCESSES)
    calm = cells(PROCESSES)

    def work(me: Worker) -> None:
        lock = AsyncFileLock(path, kind=kind)

        async def count() -> None:
            async with await lock.acquire(timeout=random.choice((-1, -1, -1, 0.002))):
                counted.change(me)
                await asyncio.sleep(0)

        async def patient() -> None:
            with suppress(Timeout):
                await count()
            me.done()

        asyncio.run(storm(patient, cancellations=50))
        lock.close()
        # What was needed for a storm goes with it.
        until(lambda: threading.active_count() == 1 and len(os.listdir("/proc/self/fd")) < 20)
        calm[me.slot] = 1
        asyncio.run(storm(patient))

    crew = Crew([("event loops", work)] * PROCESSES)
    crew.work(STEPS, lambda: until(lambda: all(calm)))
    counted.check(PROCESSES)


def test_cancelled_readers_and_writers_exclude_each_other(tmp_path):
    path, counted = str(tmp_path / "the.lock"), Counted(PROCESSES)

    def work(me: Worker) -> None:
        lock = AsyncReadWriteLock(path)

        async def use() -> None:
            if random.random() < 0.5:
                async with lock.write_lock():
                    counted.change(me)
                    await asyncio.sleep(0)
            else:
                async with lock.read_lock():
                    counted.look()
                    await asyncio.sleep(0)
            me.done()

        asyncio.run(storm(use))

    Crew([("event loops", work)] * PROCESSES).work(STEPS)
    counted.check(PROCESSES)


def test_a_cancelled_append_says_whether_it_has_happened(tmp_path):
    path = str(tmp_path / "events.jsonl")
    done, undone = cells(PROCESSES), cells(PROCESSES)

    def work(me: Worker) -> None:
        log = AsyncJsonlFile(path, timeout=60, durable=random.random() < 0.5)
        happenings = open(f"{path}.{me.number}", "w", buffering=1)  # noqa: SIM115 - until it is killed
        number = 0

        async def append() -> None:
            nonlocal number
            number += 1
            mine = number
            try:
                await log.append([me.number, mine])
            except asyncio.CancelledError as error:
                happenings.write(f"{mine} {happened(error)}\n")
                undone[me.slot] += 1
                raise
            happenings.write(f"{mine} True\n")
            done[me.slot] += 1
            me.done()

        asyncio.run(storm(append))

    Crew([("event loops", work)] * PROCESSES).work(STEPS)
    found = [tuple(json.loads(line)) for line in Path(path).read_bytes().splitlines()]
    assert len({*found}) == len(found)
    for number in range(PROCESSES):
        for line in Path(f"{path}.{number}").read_text().splitlines():
            which, what = line.split()
            # Not known is what durable=True says of an append that is being synced: then it is in the file.
            assert ((number, int(which)) in {*found}) == (what != "False"), f"{line}, and it is not so"
    assert sum(done) > 0
    assert sum(undone) > 0


def test_a_cancelled_change_of_a_state_says_whether_it_has_happened(tmp_path):
    path = str(tmp_path / "state.json")

    def work(me: Worker) -> None:
        state = AsyncStateFile(path, timeout=60, durable=False)
        happenings = open(f"{path}.{me.number}", "w", buffering=1)  # noqa: SIM115 - until it is killed
        number = 0

        async def change() -> None:
            nonlocal number
            number += 1
            mine = f"{me.number}-{number}"
            try:
                async with state.edit() as data:
                    data[mine] = 1
            except asyncio.CancelledError as error:
                happenings.write(f"{mine} {bool(happened(error))}\n")
                raise
            happenings.write(f"{mine} True\n")
            me.done()

        asyncio.run(storm(change, 4))

    Crew([("event loops", work)] * PROCESSES).work(STEPS // 5)
    data = json.loads(Path(path).read_bytes())
    for number in range(PROCESSES):
        for line in Path(f"{path}.{number}").read_text().splitlines():
            which, what = line.split()
            assert (which in data) == (what == "True"), f"{line}, and it is not so"
