"""A mix of everything in processes that live long, and whether anything grows: soak.py TARGET SECONDS.

Each process uses everything in three threads and in event loops, forks visitors that are killed, and now and then tells
how many descriptors and threads and how much memory it has. After a warm-up, the first quarter of these samples is
compared with the last. When a process has closed everything, none of its threads may be left.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from crew import alive, cells, ended, forked, kill, until
from everything import Everything, litter_in, numbers_in

import evidence
from holdfast import AsyncFileLock, DamagedLine, FileLock, JsonlFile, SoftFileLock, Timeout, write_text
from holdfast.aio import AsyncJsonlFile

PROCESSES, THREADS = 3, 2
SAMPLES = 400
WARM_UP = 0.2  # of the time
LEAST = 2  # samples in a quarter
HISTORY = 10 / 86_400  # days of it that are kept

MEASURES = ("descriptors", "threads", "memory, kB", "files")
SLACK = (3, 3, 3000, 5)  # what may come and go: a store's thread ends when it is idle, and there are three stores
GROWTH = 1.05
FOR_LOOPS = "holdfast-aio"  # threads that are not counted: up to 32 come at once, and stay for seconds

VISITOR = b'["visitor",'  # how the only lines begin that may be torn: visitors are killed


class Soak:
    """The processes, and what they have told."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.log = f"{folder}/events.jsonl"
        self.samples = [[cells(SAMPLES) for _ in MEASURES] for _ in range(PROCESSES)]
        self.operations = cells(PROCESSES)
        self.counted = cells(2 * PROCESSES)

    def run(self) -> None:
        """Let them work, and show how far they are. An error is one of theirs; it has been printed."""
        with alive():
            processes = [forked(lambda number=number: self._live(number)) for number in range(PROCESSES)]
            began = time.monotonic()
            while (passed := time.monotonic() - began) < self.seconds:
                time.sleep(min(self.seconds / 10, 60))
                last = ", ".join(f"{what} {self._last(number)}" for number, what in enumerate(MEASURES))
                print(f"{passed:5.0f} s: {sum(self.operations):,} operations; {last}", flush=True)
            assert ended(*processes), "a process has failed"
        numbers, counted = [*numbers_in(self.folder).values()], [sum(self.counted[place::2]) for place in range(2)]
        assert numbers == counted, f"{numbers} in the files, {counted} counted"
        write_text(f"{self.folder}/visited.txt", "")  # the next writer removes what visitors left
        with SoftFileLock(f"{self.folder}/visited.soft", timeout=0):
            pass
        assert not litter_in(self.folder), litter_in(self.folder)
        strange = [line for line in self._damaged() if not VISITOR.startswith(line[: len(VISITOR)])]
        assert not strange, strange

    def _damaged(self) -> Iterator[bytes]:
        """How the lines begin that are no records."""
        with JsonlFile(self.log).records() as records:
            while True:
                try:
                    for _ in records:
                        pass
                    return
                except DamagedLine as damaged:
                    yield damaged.line

    def _last(self, measure: int) -> list[int]:
        return [next(filter(None, samples[measure].tolist()[::-1]), 0) for samples in self.samples]

    def growth(self, measure: int) -> list[tuple[float, float]]:
        """What was usual in the first quarter after the warm-up and in the last, of all who had time for samples."""
        found = []
        for samples in self.samples:
            values = [value for value in samples[measure][int(SAMPLES * WARM_UP) :] if value]
            quarter = len(values) // 4
            if quarter >= LEAST:
                found.append((statistics.median(values[:quarter]), statistics.median(values[-quarter:])))
        return found

    def _live(self, process: int) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, that forking with threads is dangerous
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        users = [
            Everything(
                self.folder, f"{process}-{number}", errors="skip", max_bytes=1_000_000, backups=100, compress=True
            )
            for number in range(THREADS + 1)
        ]
        over = threading.Event()
        with ThreadPoolExecutor(THREADS) as pool:
            threads = [pool.submit(self._use, process, one, over) for one in users[1:]]
            began = time.monotonic()
            try:
                while (passed := time.monotonic() - began) < self.seconds and not any(map(Future.done, threads)):
                    self._step(users[0])
                    self.operations[process] += 1
                    self._sample(process, int(passed / self.seconds * SAMPLES))
            finally:
                over.set()
        for thread in threads:
            thread.result()
        self._settle(process, users)

    def _use(self, process: int, one: Everything, over: threading.Event) -> None:
        while not over.is_set():
            one.do(1)
            self.operations[process] += 1

    def _settle(self, process: int, users: list[Everything]) -> None:
        for one in users:
            one.check()
            for place, name in enumerate(one.counted):
                self.counted[2 * process + place] += one.counted[name]
            one.close()
        until(lambda: threading.active_count() == 1)  # those of event loops end when they have been idle for a while

    def _step(self, one: Everything) -> None:
        how = random.random()
        if how < 0.9:
            one.do(1)
        elif how < 0.93:
            one.state.prune_history(HISTORY)
        elif how < 0.96:
            asyncio.run(self._gather())
        else:
            visitor = forked(self._visit)
            time.sleep(random.random() * 0.02)
            assert kill(visitor), "a visitor ended by itself: what it said is above"

    def _visit(self) -> None:
        """What a process does that is killed soon."""
        while True:
            with FileLock(f"{self.folder}/visited.lock"):
                write_text(f"{self.folder}/visited.txt", "x" * random.randrange(10_000))
            with SoftFileLock(f"{self.folder}/visited.soft"):
                JsonlFile(self.log).append(["visitor", 0, "x" * random.randrange(10_000)])

    async def _gather(self) -> None:
        """Tasks, some of which are cancelled or give up."""
        lock, log = AsyncFileLock(f"{self.folder}/tasks.lock"), AsyncJsonlFile(self.log)

        async def work() -> None:
            try:
                async with await lock.acquire(timeout=random.choice((0.001, 60))):
                    await log.append(["task", 0, ""])
            except Timeout:
                pass

        tasks = [asyncio.create_task(work()) for _ in range(20)]
        await asyncio.sleep(random.random() * 0.002)
        for task in random.sample(tasks, 5):
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if result is not None and not isinstance(result, asyncio.CancelledError):
                raise result
        await log.close()

    def _sample(self, process: int, place: int) -> None:
        samples = self.samples[process]
        if place >= SAMPLES or samples[0][place]:
            return
        gc.collect()  # loops that have ended are garbage in circles, and keep what they had open
        names = [name for _, _, names in os.walk(self.folder) for name in names if not name.startswith("events.0")]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        values = (
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")) - [thread.name for thread in threading.enumerate()].count(FOR_LOOPS),
            pages * resource.getpagesize() >> 10,
            len(names),
        )
        for measure, value in enumerate(values):
            samples[measure][place] = value


def soak(target: str, seconds: float) -> None:
    """Soak for so long, and note what grew."""
    with tempfile.TemporaryDirectory(prefix="holdfast-soak-") as folder:
        one = Soak(folder, seconds)
        try:
            one.run()
        except Exception as error:  # noqa: BLE001 - it is a row of the table
            traceback.print_exc()
            evidence.row(target, "soak", failed=1, note=str(error).splitlines()[0][:200])
            return
        evidence.row(target, "soak", passed=sum(one.operations), note=f"operations in {seconds:,.0f} s")
        for measure, what in enumerate(MEASURES):
            growth = one.growth(measure)
            grown = [last > GROWTH * first + SLACK[measure] for first, last in growth]
            found = "; ".join(f"{first:g} at first, {last:g} at last" for first, last in growth)
            note = f"{found or 'no time for enough samples'}; {GROWTH - 1:.0%} and {SLACK[measure]:,} may come and go"
            unknown = PROCESSES - len(growth)
            if unknown:
                print(f"SKIPPED soak, {what}: {unknown} of {PROCESSES} processes had no time for enough samples")
            counts = {"passed": grown.count(False), "failed": grown.count(True), "skipped": unknown}
            evidence.row(target, f"soak: {what}", **counts, note=note)


def main() -> int:
    """Soak, as a target of its own."""
    evidence.begin("soak")
    soak("soak", float(sys.argv[1]))
    return min(evidence.end("soak"), 1)


if __name__ == "__main__":
    sys.exit(main())
