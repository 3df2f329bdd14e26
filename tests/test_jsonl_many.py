"""Many writers of one log at once, some of them killed: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import os
import threading

import pytest

import kills
from conftest import replaces_open_files
from holdfast import JsonlFile
from support import PATIENCE, Child

KILLS = 60 if os.name == "posix" else 10  # where it takes long to start a process, fewer


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "events.jsonl")


@pytest.mark.parametrize("settings", [{}, {"max_bytes": 200_000}], ids=["one file", "rotated"])
def test_killed_writers_lose_nothing_that_was_acknowledged(path, settings):
    acknowledged, _ = kills.kill_writers(path, KILLS, **settings)
    records, torn = kills.check(path, acknowledged)
    assert records >= sum(acknowledged) > 0
    assert torn <= KILLS + kills.WRITERS


@replaces_open_files
def test_after_kills_a_repair_leaves_only_records(path):
    acknowledged, _ = kills.kill_writers(path, KILLS // 4, max_bytes=100_000)
    log = JsonlFile(path)
    log.repair()
    assert log.verify().ok
    assert kills.check(path, acknowledged)[1] == 0


def test_processes_and_threads_that_rotate_lose_nothing(path, tmp_path):
    code = """
        from holdfast import JsonlFile
        log = JsonlFile(args[0], max_bytes=5000, timeout=60)
        def write(thread):
            for number in range(250):
                log.append([int(args[1]), thread, number])
        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(3)]
        hear()
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        say(log.stats.rotations)
    """
    children = [Child(code, path, number) for number in range(5)]
    try:
        for child in children:
            child.tell()
        rotations = sum(int(child.hear()) for child in children)
        for child in children:
            child.join()
    finally:
        for child in children:
            child.__exit__()
    seen = {}
    for process, thread, number in JsonlFile(path):
        assert number == seen.get((process, thread), -1) + 1
        seen[process, thread] = number
    assert len(seen) == 15
    assert set(seen.values()) == {249}
    *segments, active = kills.sizes(tmp_path).values()
    assert rotations == len(segments)
    assert all(4950 < size <= 5000 for size in segments), "a file was rotated that was not full, or was written after"
    assert 0 < active <= 5000


def test_a_reader_racing_writers_and_rotators_sees_every_record_once_and_in_order(path):
    log = JsonlFile(path, max_bytes=3000, compress=True)
    writer = threading.Thread(target=lambda: [log.append(number) for number in range(5000)])
    with JsonlFile(path).follow(timeout=PATIENCE) as records:
        writer.start()
        found = [next(records) for _ in range(5000)]
    writer.join(PATIENCE)
    assert found == list(range(5000))
    assert list(log) == found
