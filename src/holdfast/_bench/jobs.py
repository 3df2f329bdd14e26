"""What is measured, each with a look at what was written: a fast wrong answer is a wrong answer."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep
from typing import NamedTuple

from holdfast._bench.contenders import event
from holdfast._bench.crew import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from holdfast._bench.contenders import Appender, Contender, Lock
    from holdfast._bench.crew import Connection, Crew, Work

_WARM_UP = 20
PERIOD = 0.05  # seconds between two events of one that has time


class WrongAnswer(Exception):
    """What a contender did is not what it was asked to do."""


# Checking


def check(lines: Iterable[bytes], written: Sequence[int]) -> None:
    r"""See that of each writer so many events are there, whole, once, and in order.

    >>> from holdfast._bench.jobs import check
    >>> check([b'{"number": 0}\n'], [1])
    Traceback (most recent call last):
        ...
    holdfast._bench.jobs.WrongAnswer: this is no event that was written: b'{"number": 0}\n'
    """
    found = [0] * len(written)
    for line in lines:
        writer = _writer(line, len(written))
        if json.loads(line) != event(writer, found[writer]):
            raise WrongAnswer(f"writer {writer}'s event {found[writer]} is missing, doubled or damaged: {line[-40:]!r}")
        found[writer] += 1
    if found != [*written]:
        raise WrongAnswer(f"{sum(written):,} events were written, and {sum(found):,} are there")


def _writer(line: bytes, writers: int) -> int:
    try:
        writer: object = json.loads(line)["writer"]
    except (ValueError, TypeError, LookupError):
        writer = None
    if not line.endswith(b"\n") or not isinstance(writer, int) or not 0 <= writer < writers:
        raise WrongAnswer(f"this is no event that was written: {line[:60]!r}")
    return writer


# One process


def cost_of_lock(make: Callable[[str], Lock], path: str, seconds: float) -> list[float]:
    """Microseconds for acquiring and releasing a lock that nobody else wants."""
    lock = make(path)
    acquire, release = lock.acquire, lock.release

    def loop(times: int) -> float:
        start = perf_counter()
        for _ in range(times):
            acquire()
            release()
        return perf_counter() - start

    try:
        times = _times(loop(_WARM_UP), seconds)
        return [loop(times) / times * 1e6]
    finally:
        lock.close()


def _times(warm_up: float, seconds: float) -> int:
    return max(_WARM_UP, int(seconds * _WARM_UP / max(warm_up, 1e-9)))


def cost_of_append(contender: Contender, path: str, seconds: float) -> list[float]:
    """Microseconds for appending an event to a file that is there, and is then as it was before."""
    before = os.path.getsize(path)
    try:
        number, took = _append_for(contender.make(path), seconds)
        check(_lines_behind(path, before), [number])
    finally:
        os.truncate(path, before)
    return [took * 1e6]


def _append_for(appender: Appender, seconds: float) -> tuple[int, float]:
    """How many events were appended, and the seconds for each."""
    append, finish = appender.append, appender.finish

    def loop(first: int, times: int) -> float:
        start = perf_counter()
        for number in range(first, first + times):
            append(event(0, number))
        if finish is not None:
            finish()
        return perf_counter() - start

    try:
        times = _times(loop(0, _WARM_UP), seconds)
        return _WARM_UP + times, loop(_WARM_UP, times) / times
    finally:
        appender.close()


def _lines_behind(path: str, place: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(place)
        yield from file


def make_large(path: str, size: int) -> None:
    """Make a file that is so long, though on most file systems it takes no room, and whose last line is ended."""
    with open(path, "wb") as file:
        if size:
            file.seek(size - 1)
            file.write(b"\n")


# Several at once


class FlatOut(NamedTuple):
    """Append until the time is over. Results: how many events, and how many a second."""

    contender: Contender
    path: str
    seconds: float

    def prepare(self, number: int) -> Work:
        """Open the file."""
        appender = self.contender.make(self.path)

        def work(begin: float, _: object) -> list[float]:
            results = self.do(appender, number, begin)
            appender.close()
            return results

        return work

    def do(self, appender: Appender, number: int, begin: float) -> list[float]:
        """Append to what is open."""
        wait_until(begin)
        append, end, written = appender.append, begin + self.seconds, 0
        while True:
            append(event(number, written))
            written += 1
            if perf_counter() >= end:
                break
        if appender.finish is not None:
            appender.finish()
        return [written, written / (perf_counter() - begin)]


def rate_of_processes(crew: Crew, contender: Contender, path: str, count: int, seconds: float) -> list[float]:
    """Events a second of so many processes that append as fast as they can."""
    results = crew.do(count, FlatOut(contender, path, seconds))
    return [_checked_rate(contender, path, results)]


def rate_of_threads(contender: Contender, path: str, count: int, seconds: float) -> list[float]:
    """The same of threads."""
    job = FlatOut(contender, path, seconds)
    one = contender.make(path) if contender.shared else None
    appenders = [one or contender.make(path) for _ in range(count)]
    begin = perf_counter() + 0.05 + 0.005 * count
    with ThreadPoolExecutor(count) as pool:
        results = [*pool.map(job.do, appenders, range(count), [begin] * count)]
    for appender in dict.fromkeys(appenders):
        appender.close()
    return [_checked_rate(contender, path, results)]


def _checked_rate(contender: Contender, path: str, results: list[list[float]]) -> float:
    if contender.read is not None:
        check(contender.read(path), [int(written) for written, _ in results])
    return sum(rate for _, rate in results)


class Paced(NamedTuple):
    """Append an event each period. Results: how long after it was due each one was written, in microseconds."""

    contender: Contender
    path: str
    times: int

    def prepare(self, number: int) -> Work:
        """Open the file."""
        appender = self.contender.make(self.path)

        def work(begin: float, _: object) -> list[float]:
            due = max(begin, perf_counter()) + random.random() * PERIOD
            delays: list[float] = []
            for count in range(self.times):
                wait_until(due)
                appender.append(event(number, count))
                delays.append((perf_counter() - due) * 1e6)
                due += PERIOD  # and not from now: who is late has the next one waiting
            appender.close()
            return delays

        return work


def delays(crew: Crew, contender: Contender, path: str, count: int, seconds: float) -> list[float]:
    """How late each event of so many processes was."""
    times = round(seconds / PERIOD)
    results = crew.do(count, Paced(contender, path, times))
    if contender.read is not None:
        check(contender.read(path), [times] * count)
    return [delay for process in results for delay in process]


# Locks that others want


class CountUp(NamedTuple):
    """Add one to a number in a file, under a lock, until the time is over. Result: how often."""

    make: Callable[[str], Lock]
    path: str
    seconds: float

    def prepare(self, number: int) -> Work:
        """Open the lock."""
        lock = self.make(f"{self.path}.lock")

        def work(begin: float, _: object) -> list[float]:
            wait_until(begin)
            counted = 0
            while perf_counter() < begin + self.seconds:
                lock.acquire()
                _write_number(self.path, _read_number(self.path) + 1)
                lock.release()
                counted += 1
            lock.close()
            return [counted]

        return work


def exclusion(crew: Crew, make: Callable[[str], Lock], path: str, count: int, seconds: float) -> list[float]:
    """See that a lock keeps others out. No figure comes of it."""
    _write_number(path, 0)
    counted = int(sum(result for (result,) in crew.do(count, CountUp(make, path, seconds))))
    found = _read_number(path)
    if found != counted:
        raise WrongAnswer(f"{count} processes counted to {counted:,} under the lock, and the file says {found:,}")
    return []


def _read_number(path: str) -> int:
    with open(path, "rb") as file:
        return int(file.read())


def _write_number(path: str, number: int) -> None:
    with open(path, "r+b" if number else "wb") as file:
        file.write(b"%d" % number)


class TakeOver(NamedTuple):
    """Wait for the lock each time one is told to, and say when it came."""

    make: Callable[[str], Lock]
    path: str

    def prepare(self, number: int) -> Work:
        """Open the lock."""
        lock = self.make(self.path)

        def work(_: float, connection: Connection) -> list[float]:
            while connection.recv():
                connection.send((True, None))
                lock.acquire()
                moment = perf_counter()
                lock.release()
                connection.send((True, moment))
            lock.close()
            return []

        return work


def hand_overs(crew: Crew, make: Callable[[str], Lock], path: str, seconds: float) -> list[float]:
    """Microseconds from a release here to the acquisition by a process that was waiting for it."""
    lock = make(path)
    try:
        (member,) = crew.get(1)
        crew.prepare(member, TakeOver(make, path), 0)
        member.tell(perf_counter())
        delays: list[float] = []
        end = perf_counter() + seconds
        while not delays or perf_counter() < end:
            lock.acquire()
            member.tell(True)
            member.hear()
            sleep(random.uniform(0.001, 0.005))  # by now it waits; and not always as long, for those that look again
            released = perf_counter()
            lock.release()
            delays.append((member.hear() - released) * 1e6)
        member.tell(False)
        member.hear()
    except BaseException:
        crew.dismiss()
        raise
    finally:
        lock.close()
    if min(delays) < 0:
        raise WrongAnswer("a process got the lock while another held it")
    return delays
