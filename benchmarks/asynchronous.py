"""What locks and logs cost in an event loop, and how long the loop is kept waiting, side by side in one run.

    python benchmarks/asynchronous.py [--quick] [--json FILE] [DIRECTORY]

The contenders take turns, many short rounds each, and the fastest round counts; of the loop's lags all count. What was
done under the lock is counted afterwards. Ratios hold better than absolute times.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import report
from holdfast import AsyncFileLock, FileLock
from holdfast.aio import AsyncJsonlFile
from locks import fastest_round
from report import Table, Target

MakeLock = Callable[[str], AbstractAsyncContextManager[Any]]
Steps = Callable[[int], Awaitable[object]]

TASKS = 1000
EVENT = {"event": "request", "path": "/orders/17", "ms": 12.9, "user": "jo", "text": "grüße " * 20}


def theirs(path: str) -> AbstractAsyncContextManager[Any]:
    from filelock import AsyncFileLock as FilelocksAsyncFileLock

    return FilelocksAsyncFileLock(path)


def per_step(loop: asyncio.AbstractEventLoop, steps: Steps) -> Callable[[int], float]:
    """A round of so many steps: seconds for each."""

    async def run(number: int) -> float:
        began = time.perf_counter()
        await steps(number)
        return (time.perf_counter() - began) / number

    return lambda number: loop.run_until_complete(run(number))


# -- A lock that is free ----------------------------------------------------------------------------------------------


async def cycles(lock: AbstractAsyncContextManager[Any], number: int) -> None:
    for _ in range(number):
        async with lock:
            pass


async def new_locks(make: MakeLock, path: str, number: int) -> None:
    for _ in range(number):
        async with make(path):
            pass


async def plain_cycles(lock: FileLock, number: int) -> None:
    for _ in range(number):
        with lock:
            pass


def uncontended(folder: Path, quick: bool) -> Table:
    path, rounds, loop = str(folder / "free.lock"), 5 if quick else 25, asyncio.new_event_loop()
    contenders: dict[str, tuple[Steps, Steps]] = {
        "holdfast AsyncFileLock": (partial(cycles, AsyncFileLock(path)), partial(new_locks, AsyncFileLock, path)),
        "filelock AsyncFileLock": (partial(cycles, theirs(path)), partial(new_locks, theirs, path)),
        "holdfast FileLock": (partial(plain_cycles, FileLock(path)), partial(plain_new_locks, path)),
    }
    kept, new = (
        fastest_round({name: per_step(loop, steps[which]) for name, steps in contenders.items()}, rounds, 0.02)
        for which in (0, 1)
    )
    loop.close()
    ours = "holdfast AsyncFileLock"
    return {
        name: {"kept": kept[name], "new": new[name], "kept, of ours": kept[name] / kept[ours]} for name in contenders
    }


async def plain_new_locks(path: str, number: int) -> None:
    for _ in range(number):
        with FileLock(path):
            pass


# -- A thousand tasks that want one lock ------------------------------------------------------------------------------


class Counter:
    """What only a lock keeps from losing counts."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, expected: int) -> None:
        if self.count != expected:
            raise SystemExit(f"{self.count} of {expected} steps under the lock were counted")


def tasks_contending(path: str, turns: int) -> float:
    counter, lock = Counter(), AsyncFileLock(path)

    async def work() -> None:
        for _ in range(turns):
            async with lock:
                count = counter.count
                await asyncio.sleep(0)
                counter.count = count + 1

    async def run() -> None:
        await asyncio.gather(*[work() for _ in range(TASKS)])

    began = time.perf_counter()
    asyncio.run(run())
    counter.check(TASKS * turns)
    return (time.perf_counter() - began) / TASKS / turns * 1e6


def threads_contending(path: str, turns: int) -> float:
    """The same in threads, on nothing but flock()."""
    counter = Counter()

    def work() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        for _ in range(turns):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            count = counter.count
            time.sleep(0)
            counter.count = count + 1
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    threads = [threading.Thread(target=work) for _ in range(TASKS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.check(TASKS * turns)
    return (time.perf_counter() - began) / TASKS / turns * 1e6


def contended(folder: Path, quick: bool) -> Table:
    path, turns = str(folder / "wanted.lock"), 2 if quick else 10
    contenders = {"holdfast, 1000 tasks": tasks_contending, "bare flock, 1000 threads": threads_contending}
    rounds = [{name: work(path, turns) for name, work in contenders.items()} for _ in range(2 if quick else 7)]
    found = {name: min(of[name] for of in rounds) for name in contenders}
    bare = found["bare flock, 1000 threads"]
    return {name: {"microseconds a turn": value, "of bare flock": value / bare} for name, value in found.items()}


# -- How long the loop is kept waiting --------------------------------------------------------------------------------


async def lags_of(seconds: float) -> list[float]:
    """By how much each of many short sleeps was too long, in milliseconds."""
    lags, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - began - 0.001) * 1e3)
    return sorted(lags)


async def lag_alone(_path: str, seconds: float) -> list[float]:
    return await lags_of(seconds)


async def lag_while_waiting(path: str, seconds: float) -> list[float]:
    """While a thousand tasks wait for a lock that somebody else has."""
    holder = FileLock(path, thread_local=False)
    holder.acquire()
    tasks = [asyncio.create_task(cycles(AsyncFileLock(path), 1)) for _ in range(TASKS)]
    lags = await lags_of(seconds)
    holder.release()
    await asyncio.gather(*tasks)
    return lags


async def lag_while_handing_on(path: str, seconds: float) -> list[float]:
    """While a thousand tasks hand a lock to each other."""
    lock, stop = AsyncFileLock(path), asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            async with lock:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(work()) for _ in range(TASKS)]
    lags = await lags_of(seconds)
    stop.set()
    await asyncio.gather(*tasks)
    return lags


async def lag_while_reading(path: str, seconds: float) -> list[float]:
    """While a log is read from its beginning to its end, again and again."""
    log = AsyncJsonlFile(path + ".jsonl")
    await log.extend([EVENT] * 20_000)

    async def read() -> None:
        while True:
            async for _ in log:
                pass

    reader = asyncio.create_task(read())
    lags = await lags_of(seconds)
    reader.cancel()
    return lags


def lags(folder: Path, quick: bool) -> Table:
    table: Table = {}
    for name, measure in {
        "an idle loop": lag_alone,
        "1000 tasks wait": lag_while_waiting,
        "1000 tasks hand on": lag_while_handing_on,
        "a log is read": lag_while_reading,
    }.items():
        found = asyncio.run(measure(str(folder / "lag.lock"), 1 if quick else 10))
        table[name] = {"median": found[len(found) // 2], "p99": found[len(found) * 99 // 100], "longest": found[-1]}
    return table


# -- Appending --------------------------------------------------------------------------------------------------------


async def append_ours(log: AsyncJsonlFile, number: int) -> None:
    for _ in range(number):
        await log.append(EVENT)


async def append_recipe(path: str, number: int) -> None:
    """What people write by hand: a lock, and a thread for the file."""
    lock = theirs(path + ".lock")

    def write() -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(EVENT, ensure_ascii=False) + "\n")

    for _ in range(number):
        async with lock:
            await asyncio.to_thread(write)


def appends(folder: Path, quick: bool) -> Table:
    loop = asyncio.new_event_loop()
    ours, recipe = folder / "ours.jsonl", folder / "recipe.jsonl"
    found = fastest_round(
        {
            "holdfast AsyncJsonlFile": per_step(loop, partial(append_ours, AsyncJsonlFile(ours))),
            "recipe, with filelock": per_step(loop, partial(append_recipe, str(recipe))),
        },
        5 if quick else 25,
        0.02,
    )
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    for path in (ours, recipe):
        for line in path.read_text("utf-8").splitlines():
            if json.loads(line) != EVENT:
                raise SystemExit(f"{path} has a line that is no event")
    best = found["holdfast AsyncJsonlFile"]
    return {name: {"microseconds": value, "of ours": value / best} for name, value in found.items()}


FREE = "a lock that is free: microseconds to acquire and release it, lock object kept or new"
CONTENDED = "a lock that a thousand want"
LAGS = "milliseconds by which the loop is late"
TARGETS = {
    FREE: [
        Target(
            "filelock, of ours",
            ("filelock AsyncFileLock", "kept"),
            60,
            over=("holdfast AsyncFileLock", "kept"),
            at_least=True,
        ),
        Target(
            "filelock, of ours, new objects",
            ("filelock AsyncFileLock", "new"),
            60,
            over=("holdfast AsyncFileLock", "new"),
            at_least=True,
        ),
    ],
    CONTENDED: [Target("of bare flock", ("holdfast, 1000 tasks", "of bare flock"), 1.5)],
    LAGS: [
        Target("p99 while a thousand tasks wait", ("1000 tasks wait", "p99"), 2),
        Target("p99 while a thousand tasks hand on", ("1000 tasks hand on", "p99"), 2),
    ],
}


def sections(folder: Path, quick: bool) -> report.Sections:
    return {
        FREE: partial(uncontended, folder, quick),
        CONTENDED: partial(contended, folder, quick),
        LAGS: partial(lags, folder, quick),
        "appending an event": partial(appends, folder, quick),
    }


if __name__ == "__main__":
    report.main(__doc__, sections, TARGETS)
