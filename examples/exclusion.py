"""Processes count up one number in a file under one lock while they are killed at random. No step is lost."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import MutableSequence
from ctypes import c_int64

import stage

from holdfast import FileLock

WORKERS = 6
SECONDS = 1.5
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


def hammer(number: int, folder: str, begun: MutableSequence[int], done: MutableSequence[int], locked: bool) -> None:
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


def run(folder: str, seconds: float, kills: int, locked: bool) -> tuple[int, int, int, int]:
    """Let processes count. Returns what they began and did, what the file says, and how many were killed."""
    begun, done = (multiprocessing.Array(c_int64, WORKERS + kills, lock=False) for _ in range(2))
    killed = stage.kill_at_random(
        hammer, (folder, begun, done, locked), WORKERS, kills, seconds, lambda: f"{sum(done[:]):,} increments"
    )
    return sum(begun[:]), sum(done[:]), Counter(f"{folder}/counter").read(), killed


def prove_exclusion() -> None:
    """Count without the lock and with it, and check the sums."""
    print(f"\n{WORKERS} processes count up one number in a file, each step a read and a write under one FileLock,")
    print("while processes are killed at random, some of them inside the lock.\n")
    with tempfile.TemporaryDirectory() as folder:
        begun, done, counted, _ = run(folder, SECONDS / 3, 0, locked=False)
        print(f"  without the lock: {done:9,} increments done, {counted:9,} in the file: {done - counted:,} lost")
        if counted >= done:
            raise SystemExit("the check itself is broken: nothing was lost without the lock")
    with tempfile.TemporaryDirectory() as folder:
        begun, done, counted, killed = run(folder, SECONDS, KILLS, locked=True)
        print(f"  with the lock:    {done:9,} increments done, {counted:9,} in the file, {killed} processes killed")
        # A process killed between its write and its note of it counted once more than it did.
        if not done <= counted <= begun:
            raise SystemExit(f"increments were lost: {done} done, {begun} begun, {counted} counted")
        started = time.perf_counter()
        with FileLock(f"{folder}/the.lock", timeout=10):
            free = time.perf_counter() - started
        print(f"  nothing lost; and the lock is free at once ({free * 1e6:.0f} microseconds)")


def show_costs() -> None:
    """Measure the lock and its best-known peer in turns, and print a table."""
    import contenders
    import locks

    names = ("holdfast", "filelock")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/cost.lock"
        held = {name: locks.acquire_and_release(contenders.HELD[name](path)) for name in names}
        new = {name: locks.timed(contenders.NEW[name](path)) for name in names}
        costs = {
            "microseconds to acquire and release": locks.fastest_round(held, 10, 0.02),
            "the same with a new object": locks.fastest_round(new, 10, 0.02),
            "hand-off to a waiting process, median": {
                name: statistics.median(locks.hand_off(contenders.HELD[name], f"{path}.{name}", times)) * 1e6
                for name, times in zip(names, (200, 20), strict=True)
            },
        }
    stage.show_table(names, {title: [row[name] for name in names] for title, row in costs.items()})
