"""The first thing to run: processes that hammer one lock while some of them are killed, and what a lock costs here.

make demo
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from ctypes import c_int64
from pathlib import Path
from typing import Any

from holdfast import FileLock

WORKERS = 6
SECONDS = 3.0
KILLS = 12


class Counter:
    """A number in a file. Changing it takes a read and a write, and between the two anything can happen."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def read(self) -> int:
        """Return what the file says."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        return int(os.read(self.fd, 20) or 0)

    def write(self, value: int) -> None:
        """Make the file say this, in one write that no signal cuts in two."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        os.write(self.fd, b"%020d" % value)


def hammer(folder: str, number: int, begun: Any, done: Any, locked: bool) -> None:
    """Count up until killed, and keep a book of what was begun and what was done."""
    lock, counter = FileLock(f"{folder}/the.lock"), Counter(f"{folder}/counter")
    while True:
        if locked:
            lock.acquire()
        begun[number] += 1
        value = counter.read()
        time.sleep(0)  # let the others in, if they can get in
        counter.write(value + 1)
        done[number] += 1
        if locked:
            lock.release()


def show_progress(part: float, text: str) -> None:
    """Draw a bar, if somebody is looking."""
    if sys.stdout.isatty():
        print(f"\r  [{'#' * int(part * 30):30}] {text}", end="" if part < 1 else "\r\033[K", flush=True)


def run(folder: str, seconds: float, kills: int, locked: bool) -> tuple[int, int, int, int]:
    """Let processes count. Returns what they began and did, what the file says, and how many were killed."""
    places = WORKERS + kills
    begun, done = (multiprocessing.Array(c_int64, places, lock=False) for _ in range(2))

    def start(number: int) -> multiprocessing.Process:
        process = multiprocessing.Process(target=hammer, args=(folder, number, begun, done, locked), daemon=True)
        process.start()
        return process

    workers = [start(number) for number in range(WORKERS)]
    began, killed = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        show_progress(elapsed / seconds, f"{sum(done[:])} increments, {killed} processes killed")
        time.sleep(0.02)
        if killed < kills * elapsed / seconds:
            victim = random.randrange(WORKERS)
            workers[victim].kill()
            workers[victim].join()
            workers[victim] = start(WORKERS + killed)
            killed += 1
    show_progress(1, "")
    for worker in workers:
        worker.kill()
        worker.join()
    return sum(begun[:]), sum(done[:]), Counter(f"{folder}/counter").read(), killed + WORKERS


def prove_exclusion() -> None:
    """Count without the lock and with it, and check the sums."""
    print(f"{WORKERS} processes count up one number in a file, each step a read and a write under one lock,")
    print("while processes are killed with SIGKILL at random, some of them inside the lock.\n")
    with tempfile.TemporaryDirectory() as folder:
        begun, done, counted, _ = run(folder, SECONDS / 6, 0, locked=False)
        print(f"  without the lock: {done:7} increments done, {counted:7} in the file: {done - counted} lost")
        if counted >= done:
            raise SystemExit("the check itself is broken: nothing was lost without the lock")
    with tempfile.TemporaryDirectory() as folder:
        begun, done, counted, killed = run(folder, SECONDS, KILLS, locked=True)
        print(f"  with the lock:    {done:7} increments done, {counted:7} in the file, {killed} processes killed")
        # A process killed between its write and its note of it counted once more than it did.
        if not done <= counted <= begun:
            raise SystemExit(f"increments were lost: {done} done, {begun} begun, {counted} counted")
        started = time.monotonic()
        with FileLock(f"{folder}/the.lock", timeout=10):
            print(
                f"  nothing lost; and the lock is free at once ({(time.monotonic() - started) * 1e6:.0f} microseconds)"
            )


def show_costs() -> None:
    """Measure the lock and its best-known peer in turns, and print a table."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import contenders
    import locks

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/cost.lock"
        held = {name: locks.acquire_and_release(contenders.HELD[name](path)) for name in ("holdfast", "filelock")}
        new = {name: locks.timed(contenders.NEW[name](path)) for name in ("holdfast", "filelock")}
        rows = {
            "acquire and release, microseconds": locks.fastest_round(held, 10, 0.02),
            "the same with a new object": locks.fastest_round(new, 10, 0.02),
        }
        delays = {
            name: [delay * 1e6 for delay in locks.hand_off(contenders.HELD[name], f"{path}.{name}", times)]
            for name, times in (("holdfast", 200), ("filelock", 20))
        }
        rows["hand-off to a waiting process, median"] = {name: statistics.median(d) for name, d in delays.items()}
        rows["the slowest hand-off"] = {name: max(d) for name, d in delays.items()}
    print(f"\n  {'':40}{'holdfast':>10}{'filelock':>12}")
    for title, row in rows.items():
        print(f"  {title:40}{row['holdfast']:10.1f}{row['filelock']:12.1f}{row['filelock'] / row['holdfast']:8.0f} x")


def main() -> None:
    """Run both parts."""
    prove_exclusion()
    try:
        import filelock  # noqa: F401
    except ImportError:
        print("\n(Install filelock to see what both cost on this machine.)")
    else:
        show_costs()


if __name__ == "__main__":
    main()
