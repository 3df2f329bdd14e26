"""A thousand signals a second, with handlers that raise: nothing is held by mistake, and nobody waits for ever."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from crew import Crew, Worker, cells
from holding import Counted
from scenarios import SCENARIOS

import evidence
from holdfast import FileLock, JsonlFile, ReadWriteLock, SoftFileLock, Timeout, holders

STEPS = 10_000 if evidence.FULL else 1000


class Alarm(Exception):
    """What a signal handler raises."""


class Storm:
    """A timer of 1 kHz whose handler raises while it may, now and then: always, and nothing slow would succeed."""

    def __init__(self) -> None:
        self.may = False
        self.raised = 0
        signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def _handle(self, *_: object) -> None:
        if self.may and random.random() < 0.2:
            self.may = False
            self.raised += 1
            raise Alarm


KINDS: dict[str, Callable[[str], FileLock | SoftFileLock]] = {
    "flock": FileLock,
    "OFD": lambda path: FileLock(path, kind="ofd"),
    "soft": lambda path: SoftFileLock(path, poll_interval=0.005),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timeout", [-1, 0.02], ids=["for ever", "with a deadline"])
def test_an_acquisition_that_a_signal_handler_ends_holds_nothing(kind, timeout, tmp_path):
    counted, raised = Counted(8), cells(8)
    holders("nothing")  # a Timeout imports it, and an import that a signal handler ends fails in ways of Python's own

    def work(me: Worker) -> None:
        lock, storm = KINDS[kind](str(tmp_path / "the.lock")), Storm()
        while True:
            storm.may = True
            try:
                lock.acquire(timeout)
                storm.may = False
            except (Alarm, Timeout):
                storm.may = False
                if sys.version_info >= (3, 11):  # before, it may come as acquire() returns
                    assert not lock.is_locked
                lock.release(force=True)
                raised[me.number] = storm.raised
            else:
                counted.change(me)
                lock.release()
                me.done()
            assert not lock.is_locked

    Crew([("processes", work)] * 4).work(STEPS)
    counted.check(8)
    assert sum(raised) > 0
    with KINDS[kind](str(tmp_path / "the.lock")).acquire(timeout=0):
        pass


def test_readers_and_writers_that_signal_handlers_interrupt_exclude_each_other(tmp_path):
    counted = Counted(8)

    def work(me: Worker) -> None:
        lock, storm = ReadWriteLock(str(tmp_path / "the.lock")), Storm()
        writes = me.slot % 2 == 0
        while True:
            storm.may = True
            try:
                (lock.acquire_write if writes else lock.acquire_read)()
                storm.may = False
            except Alarm:
                lock.release(force=sys.version_info < (3, 11))
                continue
            (counted.change(me) if writes else counted.look())
            lock.release()
            assert not lock.is_locked
            me.done()
            time.sleep(0.001 * (not writes))  # readers that never pause leave no gap for a writer

    Crew([("processes", work)] * 4).work(STEPS)
    counted.check(8)


def test_an_append_that_a_signal_handler_ends_has_happened_whole_or_not_at_all(tmp_path):
    path = str(tmp_path / "events.jsonl")
    certain = cells(8)

    def work(me: Worker) -> None:
        log, storm = JsonlFile(path, timeout=60), Storm()
        number = 0
        while True:
            number += 1
            storm.may = True
            try:
                log.append([me.number, number, 1])
                storm.may = False
                certain[me.number] += 1
            except Alarm:
                pass
            log.extend([[me.number, number, 2], [me.number, number, 3]])
            certain[me.number] += 2
            me.done()

    Crew([("processes", work)] * 4).work(STEPS)
    found = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
    assert len({*map(tuple, found)}) == len(found), "something is there twice"
    counts = Counter(writer for writer, _, _ in found)
    for writer in range(4):
        assert [each for each in found if each[0] == writer] == sorted(each for each in found if each[0] == writer)
        assert counts[writer] >= certain[writer] > 0


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_signals_from_outside_disturb_nobody(scenario, tmp_path):
    one = scenario(str(tmp_path), 0)
    one.crew.pester(20_000 if evidence.FULL else 1000)
    print(dict(one.check()))
