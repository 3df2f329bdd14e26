"""Threads that really run at the same time, as without the GIL: every object may be used by all of them at once."""

from __future__ import annotations

import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import linux_only
from holdfast import DocumentStore, FileLock, JsonlFile, ReadWriteLock, StateFile, metrics
from support import PATIENCE, Child

THREADS = 8
ROUNDS = 100


def all_at_once(work):
    """Run work(number) in threads that begin together, and raise what one of them raised."""
    together = threading.Barrier(THREADS)

    def run(number):
        together.wait(PATIENCE)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL")
def test_importing_holdfast_leaves_the_gil_off():
    everything = "holdfast, holdfast.aio, holdfast.cli, holdfast.documents, holdfast.filelock, holdfast.metrics"
    with Child(f"import {everything}; say(sys._is_gil_enabled())") as child:
        child.expect("False")


@pytest.mark.parametrize("kind", ["flock", pytest.param("ofd", marks=linux_only)])
def test_a_lock_guards_what_is_no_single_step(path, kind):
    lock = FileLock(path, kind=kind)
    counter = {"number": 0}

    def count(_):
        for _ in range(ROUNDS):
            with lock:
                number = counter["number"]
                counter.update(number=number + 1)

    all_at_once(count)
    assert counter["number"] == THREADS * ROUNDS
    assert not lock.is_locked


def test_readers_never_see_what_a_writer_has_half_done(path):
    lock = ReadWriteLock(path)
    pair = [0, 0]

    def work(number):
        for _ in range(ROUNDS):
            if number % 4 == 0:
                with lock.write_lock():
                    pair[0] += 1
                    pair[1] += 1
            else:
                with lock.read_lock():
                    assert pair[0] == pair[1]

    all_at_once(work)
    assert pair == [ROUNDS * THREADS // 4] * 2


def test_locks_are_made_used_closed_and_dropped_by_all(path):
    counters = [0] * 3

    def work(number):
        for turn in range(ROUNDS):
            which = (number + turn) % len(counters)
            lock = FileLock(f"{path}{which}")
            with lock:
                counters[which] += 1
            if turn % 2:
                lock.close()

    all_at_once(work)
    assert sum(counters) == THREADS * ROUNDS


def test_one_log_takes_every_record_of_every_thread_in_its_order(tmp_path):
    log = JsonlFile(tmp_path / "the.jsonl", max_bytes=2000)
    all_at_once(lambda number: [log.append({"thread": number, "turn": turn}) for turn in range(ROUNDS)])
    records = list(log)
    for number in range(THREADS):
        assert [each["turn"] for each in records if each["thread"] == number] == list(range(ROUNDS))
    assert len(records) == THREADS * ROUNDS
    assert log.verify().ok


def test_one_state_takes_every_edit(tmp_path):
    state = StateFile(tmp_path / "state.json")
    edits = ROUNDS // 10

    def work(number):
        for _ in range(edits):
            with state.edit() as values:
                values["all"] = values.get("all", 0) + 1
                values[str(number)] = values.get(str(number), 0) + 1

    all_at_once(work)
    values = state.load().data
    assert values["all"] == THREADS * edits
    assert all(values[str(number)] == edits for number in range(THREADS))


def test_one_store_keeps_what_each_thread_put_there_last(tmp_path):
    def work(number):
        for turn in range(ROUNDS):
            store[f"{number}"] = {"turn": turn}
            store[f"{number} {turn}"] = {}
            if turn % 2:
                del store[f"{number} {turn}"]
            assert store[f"{number}"] == {"turn": turn}
            list(store)

    with DocumentStore(tmp_path / "documents") as store:
        all_at_once(work)
        store.flush()  # however long that takes; leaving the block waits for some seconds only
    with DocumentStore(tmp_path / "documents") as store:
        assert len(store) == THREADS * (1 + ROUNDS // 2)
        assert all(store[f"{number}"] == {"turn": ROUNDS - 1} for number in range(THREADS))


def test_what_the_threads_do_is_counted_exactly(path):
    lock = FileLock(path, metrics="free threads")

    def work(number):
        own = FileLock(f"{path}{number}", metrics="free threads")
        for _ in range(ROUNDS):
            with lock, own:
                pass
            metrics.snapshot()

    all_at_once(work)
    found = metrics.snapshot()["free threads"]
    assert (found.acquisitions, found.holds.number) == (2 * THREADS * ROUNDS, 2 * THREADS * ROUNDS)
