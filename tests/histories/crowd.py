"""Many processes that go in and out of a lock."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from history import History, Section
from work import work

PATIENCE = 1200  # seconds after which nobody waits any more; nothing is measured with it


def start(job: Callable[[], object]) -> int:
    """Do something in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            job()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    return pid


@contextmanager
def processes() -> Iterator[list[int]]:
    """Room for the pids of processes; those that are still in it at the end are killed."""
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            kill(pid)


def kill(pid: int) -> int:
    """Kill a process. How it ended: it may have done so by itself before."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(pids: list[int]) -> list[str]:
    """Wait for processes to end. What went wrong with them."""
    wrong: list[str] = []
    end = time.monotonic() + PATIENCE
    while pids and time.monotonic() < end:
        pid, status = os.waitpid(pids[0], os.WNOHANG)
        if pid == 0:
            time.sleep(0.002)
            continue
        del pids[0]
        if status != 0:
            wrong.append(f"a process ended with {status}")
    return wrong + [f"process {pid} did not end" for pid in pids]


class Crowd(NamedTuple):
    """How many processes with how many threads or tasks go in and out how often, and how many are killed."""

    processes: int
    threads: int
    sections: int
    kills: int


class Found(NamedTuple):
    """What came of it."""

    sections: list[Section]
    wrong: list[str]
    """Besides what the history tells."""
    killed: int
    """How many processes, of those that were to be killed, had not come to their end before."""


def contend(lock: str, wait: str, crowd: Crowd, folder: str, tickets: str) -> Found:
    """Let processes go in and out, some of which are killed and replaced."""
    started, path = 0, f"{folder}/the.lock"
    places = (crowd.processes + crowd.kills) * crowd.threads
    noted = History(f"{folder}/history", tickets, places, crowd.sections)

    def start_one() -> int:
        nonlocal started
        mine = range(started * crowd.threads, (started + 1) * crowd.threads)
        started += 1
        return start(lambda: work(noted, lock, wait, path, [*mine], crowd.sections))

    statuses: list[int] = []
    with processes() as pids:
        pids += [start_one() for _ in range(crowd.processes)]
        for _ in range(crowd.kills):
            _wait_for_ticket(noted, noted.tickets + random.randrange(1, 60))
            statuses.append(kill(pids.pop(random.randrange(len(pids)))))
            pids.append(start_one())
        wrong = finish(pids)
    wrong += [
        f"a process ended with {status} before its kill" for status in statuses if status not in {0, -signal.SIGKILL}
    ]
    return Found(noted.sections(range(places)), wrong, statuses.count(-signal.SIGKILL))


def _wait_for_ticket(noted: History, ticket: int) -> None:
    end = time.monotonic() + 1  # they may all be done already
    while noted.tickets < ticket and time.monotonic() < end:
        time.sleep(0.0005)
