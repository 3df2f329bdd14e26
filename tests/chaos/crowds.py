"""A thousand that wait for one lock, and many that take many."""

from __future__ import annotations

import asyncio
import os
import random
import threading

import pytest
from crew import Crew, Worker, cells, ended, forked
from holding import HOLDS, Counted, alone

import evidence
from holdfast import AsyncFileLock, FileLock, JsonlFile, ReadWriteLock, lock_all

# A soft lock is looked at again and again by all who wait for it, so a thousand would take minutes.
CROWDS = {name: 1000 if evidence.FULL and name != "SoftFileLock" else 100 for name in HOLDS} | {"FileLock, flock": 1000}


@pytest.mark.parametrize("name", HOLDS)
def test_each_of_a_crowd_of_waiting_processes_gets_the_lock(name, tmp_path):
    path, hold, crowd = str(tmp_path / "the.lock"), alone(HOLDS[name]), CROWDS[name]
    inside, total = cells(1), cells(1)

    def work():
        with hold(path, -1):
            assert inside[0] == 0, "two are inside"
            inside[0] = 1
            total[0] += 1
            inside[0] = 0

    with hold(path, 0):
        waiters = [forked(work) for _ in range(crowd)]
    assert ended(*waiters)
    assert total[0] == crowd


def test_each_of_a_crowd_of_readers_and_writers_gets_the_lock(tmp_path):
    path, crew, counted = str(tmp_path / "the.lock"), Crew([]), Counted(200)

    def write(number):
        with ReadWriteLock(path).write_lock():
            counted.change(Worker(crew, 0, number))

    def read(_):
        with ReadWriteLock(path).read_lock():
            counted.look()

    with ReadWriteLock(path).write_lock():
        waiters = [forked(lambda number=number: (write, read)[number % 2](number)) for number in range(200)]
    assert ended(*waiters)
    assert counted.check(0) == 100


def test_each_of_a_thousand_threads_gets_the_lock(tmp_path):
    path, total = str(tmp_path / "the.lock"), cells(1)

    def work():
        shared = FileLock(path)

        def count(lock):
            with lock:
                total[0] += 1

        threads = [
            threading.Thread(target=count, args=(shared if number % 2 else FileLock(path),)) for number in range(1000)
        ]
        with shared:
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        del threads
        assert len(os.listdir("/proc/self/fd")) < 100, "descriptors are kept"

    assert ended(forked(work))
    assert total[0] == 1000


def test_each_of_a_thousand_tasks_in_each_of_four_processes_gets_the_lock(tmp_path):
    path, total = str(tmp_path / "the.lock"), cells(1)

    def work():
        async def count(lock):
            async with lock:
                total[0] += 1

        async def main():
            lock = AsyncFileLock(path)
            await asyncio.gather(*[count(lock) for _ in range(1000)])

        asyncio.run(main())

    assert ended(*[forked(work) for _ in range(4)])
    assert total[0] == 4000


def test_each_of_a_crowd_of_processes_appends_its_record(tmp_path):
    path, crowd = str(tmp_path / "events.jsonl"), 1000 if evidence.FULL else 200

    def append(number):
        JsonlFile(path, timeout=-1, max_bytes=5000).append(number)

    assert ended(*[forked(lambda number=number: append(number)) for number in range(crowd)])
    assert sorted(JsonlFile(path)) == [*range(crowd)]


def test_threads_of_processes_that_take_many_locks_in_any_order_never_wait_in_a_circle(tmp_path):
    processes, threads, locks = 4, 4, 5
    counted = [Counted(processes * threads) for _ in range(locks)]

    def work(me: Worker) -> None:
        def take(number: int) -> None:
            mine = [FileLock(tmp_path / f"{name}.lock") for name in range(locks)]
            account = Worker(crew, me.slot, me.number * threads + number)
            while True:
                some = random.sample(range(locks), random.randrange(1, locks))
                with lock_all(*(mine[each] for each in some)), mine[some[0]]:  # and one of them once more
                    for each in some:
                        counted[each].change(account)
                me.done()

        for number in range(1, threads):
            threading.Thread(target=take, args=(number,), daemon=True).start()
        take(0)

    crew = Crew([("processes", work)] * processes)
    crew.work(10_000 if evidence.FULL else 500)
    for each in counted:
        each.check(processes * threads)
