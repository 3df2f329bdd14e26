"""Holders of locks, and those who wait for them, killed at random."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from crew import ELSEWHERE, INSIDE, WAITING, Crew, Scenario, Worker, alive, cells, forked, kill, until

from holdfast import AsyncFileLock, FileLock, ReadWriteLock, SoftFileLock, Timeout, lock_all

Hold = Callable[[str, float], AbstractContextManager[object]]


@contextmanager
def _in_a_loop(path: str, timeout: float) -> Iterator[None]:
    loop, lock = asyncio.new_event_loop(), AsyncFileLock(path)
    try:
        loop.run_until_complete(lock.acquire(timeout))
        yield
        loop.run_until_complete(lock.release())
    finally:
        loop.close()


HOLDS: dict[str, Hold] = {
    "FileLock, flock": FileLock,
    "FileLock, OFD": lambda path, timeout: FileLock(path, timeout, kind="ofd"),
    "FileLock, shared": lambda path, timeout: FileLock(path, timeout, shared=True),
    "ReadWriteLock, writing": lambda path, timeout: ReadWriteLock(path).write_lock(timeout),
    "SoftFileLock": SoftFileLock,
    "lock_all": lambda path, timeout: lock_all(f"{path}.b", SoftFileLock(f"{path}.a"), path, timeout=timeout),
    "AsyncFileLock": _in_a_loop,
}


class Counted:
    """A number that is kept twice. Under a lock both are alike, or one step apart after a death."""

    def __init__(self, processes: int) -> None:
        self._numbers = cells(3)
        self._acknowledged = cells(processes)

    def change(self, me: Worker) -> None:
        """Add one, in steps between which others would come in if they could."""
        numbers = self._numbers
        token = random.getrandbits(62)
        numbers[2] = token
        first, second = numbers[0], numbers[1]
        assert first - second in (0, 1), f"{first} and {second}: two were inside"
        numbers[0] = second + 1
        time.sleep(random.choice((0, 0, 0.0005)))
        numbers[1] = second + 1
        assert numbers[2] == token, "somebody else was inside"
        self._acknowledged[me.number] += 1

    def look(self) -> None:
        """See that it does not change."""
        before = [*self._numbers]
        time.sleep(random.choice((0, 0, 0.0005)))
        assert [*self._numbers] == before, "a writer was inside beside readers"

    def check(self, kills: int) -> int:
        """Nothing is lost of what was acknowledged. Returns that."""
        acknowledged = sum(self._acknowledged)
        assert 0 < acknowledged <= self._numbers[1] <= acknowledged + kills
        return acknowledged


class Locks(Scenario):
    """Some count under one lock, most of which wait for it at any time."""

    lock: Callable[..., FileLock | SoftFileLock] = FileLock

    def __init__(self, folder: str, kills: int) -> None:
        self.path = f"{folder}/the.lock"
        roles = self.roles()
        self.processes = kills + len(roles)
        self.counted = Counted(self.processes)
        self.crew = Crew(roles)

    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return [("processes", self.work)] * 5 + [("impatient ones", self.work_impatiently)]

    def work(self, me: Worker) -> None:
        lock = type(self).lock(self.path)
        while True:
            me.at(WAITING)
            with lock:
                me.at(INSIDE)
                self.counted.change(me)
            me.at(ELSEWHERE)
            me.done()

    def work_impatiently(self, me: Worker) -> None:
        """With timeouts that are often too short, and the lock taken twice over."""
        lock = type(self).lock(self.path)
        while True:
            me.at(WAITING)
            try:
                with lock.acquire(timeout=random.random() * 0.005), lock:
                    me.at(INSIDE)
                    self.counted.change(me)
            except Timeout:
                time.sleep(0.001)
            me.at(ELSEWHERE)
            me.done()

    def check(self) -> Counter[str]:
        """Nothing counted is lost; the lock is free now, and nothing is left of it but the file of a FileLock."""
        counted = self.counted.check(self.processes)
        with type(self).lock(self.path, timeout=0) as lock:
            pass
        found = os.listdir(os.path.dirname(self.path))
        expected = [] if isinstance(lock, SoftFileLock) else [os.path.basename(self.path)]
        assert found == expected, f"left behind: {found}"
        return Counter({"critical sections": counted}) + self.crew.deaths


class OfdLocks(Locks):
    lock = functools.partial(FileLock, kind="ofd")


class SoftLocks(Locks):
    lock = SoftFileLock


class ReadWriteLocks(Locks):
    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return [("writers", self.write)] * 3 + [("readers", self.read)] * 3

    def write(self, me: Worker) -> None:
        lock = ReadWriteLock(self.path)
        while True:
            me.at(WAITING)
            with lock.write_lock():
                me.at(INSIDE)
                self.counted.change(me)
            me.at(ELSEWHERE)
            me.done()

    def read(self, me: Worker) -> None:
        lock = ReadWriteLock(self.path)
        while True:
            me.at(WAITING)
            with lock.read_lock():
                me.at(INSIDE)
                self.counted.look()
            me.at(ELSEWHERE)
            me.done()
            time.sleep(random.random() * 0.005)  # readers that never pause together leave no gap for a writer

    def check(self) -> Counter[str]:
        with ReadWriteLock(self.path).write_lock(timeout=0):
            return Counter({"critical sections": self.counted.check(self.processes)}) + self.crew.deaths


class ManyLocks(Locks):
    """Everybody takes some of four locks, in whatever order: nobody waits in a circle."""

    def __init__(self, folder: str, kills: int) -> None:
        super().__init__(folder, kills)
        self.each = [Counted(self.processes) for _ in range(4)]

    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return [("processes", self.work)] * 6

    def work(self, me: Worker) -> None:
        while True:
            some = random.sample(range(4), random.randrange(1, 4))
            me.at(WAITING)
            with lock_all(*(self._lock(number) for number in some)):
                me.at(INSIDE)
                for number in some:
                    self.each[number].change(me)
            me.at(ELSEWHERE)
            me.done()

    def _lock(self, number: int) -> FileLock | SoftFileLock:
        return SoftFileLock(f"{self.path}.soft") if number == 0 else FileLock(f"{self.path}.{number}")

    def check(self) -> Counter[str]:
        with lock_all(*map(self._lock, range(4)), timeout=0):
            counted = sum(each.check(self.processes) for each in self.each)
            return Counter({"critical sections": counted}) + self.crew.deaths


class AsyncLocks(Locks):
    """Three tasks in each process."""

    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return [("event loops", self.work)] * 5

    def work(self, me: Worker) -> None:
        async def task(lock: AsyncFileLock) -> None:
            while True:
                async with lock:
                    me.at(INSIDE)
                    self.counted.change(me)
                    await asyncio.sleep(0)
                me.at(WAITING)
                me.done()

        async def main() -> None:
            shared = AsyncFileLock(self.path)
            await asyncio.gather(task(shared), task(shared), task(AsyncFileLock(self.path)))

        asyncio.run(main())


class Deaths(Scenario):
    """When a holder is dead, the lock is free at once, or goes to somebody who waits for it."""

    def __init__(self, folder: str, kills: int) -> None:
        self.folder = folder

    def kill(self, kills: int) -> Counter[str]:
        killed: Counter[str] = Counter()
        for number in range(kills):
            name, hold = [*HOLDS.items()][number % len(HOLDS)]
            with alive():
                (self.kill_alone, self.kill_before_a_waiter)[number // len(HOLDS) % 2](f"{self.folder}/{name}", hold)
            killed[name] += 1
        return killed

    def kill_alone(self, path: str, hold: Hold) -> None:
        got = cells(1)
        holder = _holder(path, hold, got)
        until(lambda: got[0], holder)
        assert kill(holder)
        with alone(hold)(path, 0):
            pass

    def kill_before_a_waiter(self, path: str, hold: Hold) -> None:
        got = cells(2)
        holder = _holder(path, hold, got[:1])
        until(lambda: got[0], holder)
        waiter = _holder(path, alone(hold), got[1:])
        time.sleep(random.random() * 0.01)  # it may be anywhere on its way
        assert not got[1], "two have the lock"
        assert kill(holder)
        until(lambda: got[1], waiter)
        assert kill(waiter)

    def check(self) -> Counter[str]:
        """None of the locks is held."""
        for name, hold in HOLDS.items():
            with hold(f"{self.folder}/{name}", 0):
                pass
        return Counter()


def _holder(path: str, hold: Hold, got: memoryview) -> int:
    """A process that waits for a lock, says so when it has got it, and never lets go."""

    def work() -> None:
        with hold(path, 60):
            got[0] = 1
            while True:
                time.sleep(60)

    return forked(work)


def alone(hold: Hold) -> Hold:
    """The same lock, for one holder."""
    return HOLDS["FileLock, flock"] if hold is HOLDS["FileLock, shared"] else hold
