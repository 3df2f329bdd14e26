"""A wall clock that is set back and forth, and time namespaces.

The clock of the machine belongs to others: wall_clock.c, loaded into a process, sets that of this process alone.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import evidence
from support import Child

DAY = 86_400
JUMPS = (400 * DAY, -400 * DAY, 10 * 365 * DAY, -10 * 365 * DAY, 3601, -3601, 3, -3, 0)


class Clock:
    """The wall clock of processes that are started with its environment."""

    def __init__(self, library: Path, folder: Path) -> None:
        file = folder / "clock"
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._offset = memoryview(mmap.mmap(opened.fileno(), 8)).cast("q")
        self.env = os.environ | {"LD_PRELOAD": str(library), "WALL_CLOCK": str(file)}

    def set(self, seconds: int) -> None:
        """Set the clock off by so much."""
        self._offset[0] = seconds

    def jump(self) -> None:
        self.set(random.choice(JUMPS))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    built = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    source = Path(__file__).parent / "wall_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.fixture
def clock(library, tmp_path):
    folder = tmp_path / "clock"
    folder.mkdir()
    return Clock(library, folder)


def test_the_clock_of_these_tests_jumps_and_the_monotonic_one_does_not(clock):
    code = """
        wall, steady = time.time(), time.monotonic()
        say("ready"); hear()
        say(round((time.time() - wall) / 86400)); say(time.monotonic() - steady < 80_000)
    """
    with Child(code, env=clock.env) as child:
        child.expect("ready")
        clock.set(400 * DAY)
        child.tell()
        child.expect("400")
        child.expect("True")


LOCKS = {
    "FileLock": "holdfast.FileLock(args[0])",
    "OFD": "holdfast.FileLock(args[0], kind='ofd')",
    "SoftFileLock": "holdfast.SoftFileLock(args[0])",
    "ReadWriteLock": "holdfast.ReadWriteLock(args[0]).write_lock",
    "polling": "holdfast.FileLock(args[0])",
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_wait_is_not_made_longer_or_shorter_by_jumps(kind, tmp_path, clock):
    code = f"""
        import holdfast
        lock = {LOCKS[kind]}
        say("ready")
        while hear():
            began = time.monotonic()
            try:
                with (lock.acquire if hasattr(lock, "acquire") else lock)(timeout=0.4):
                    say("acquired")
            except holdfast.Timeout:
                say(time.monotonic() - began >= 0.4)
    """
    env = clock.env | ({"HOLDFAST_WAIT": "poll"} if kind == "polling" else {})
    path = tmp_path / "the.lock"
    with Child(code, path, env=env) as waiter, Child(code.replace('"acquired"', '"held"); hear('), path) as holder:
        waiter.expect("ready")
        holder.expect("ready")
        holder.tell("acquire")
        holder.expect("held")
        for _ in range(10 if evidence.FULL else 3):
            waiter.tell("acquire")
            for _ in range(20):
                clock.jump()
                time.sleep(0.01)
            waiter.expect("True")
        holder.tell("release")
        holder.kill()
        waiter.tell("acquire")
        waiter.expect("acquired")


def test_a_soft_lock_is_taken_over_from_the_dead_and_not_from_the_living_whatever_the_clock_says(tmp_path, clock):
    code = """
        from holdfast import SoftFileLock, Timeout
        lock = SoftFileLock(args[0])
        say("ready")
        while hear():
            try:
                lock.acquire(timeout=0)
                say("acquired")
            except Timeout:
                say("busy")
    """
    path = tmp_path / "soft.lock"
    with Child(code, path, env=clock.env) as contender:
        contender.expect("ready")
        for jump in JUMPS:
            clock.jump()
            with Child(code, path, env=clock.env) as owner:
                owner.expect("ready")
                owner.tell("acquire")
                owner.expect("acquired")
                clock.set(jump)
                contender.tell("acquire")
                contender.expect("busy")
                owner.kill()
        contender.tell("acquire")
        contender.expect("acquired")


def test_processes_in_time_namespaces_of_their_own_do_not_take_each_other_for_dead(tmp_path):
    code = """
        from holdfast import SoftFileLock, Timeout
        try:
            lock = SoftFileLock(sys.argv[1], timeout=0.3)
            lock.acquire()
            print("acquired", flush=True)
            sys.stdin.readline()
        except Timeout:
            print("busy", flush=True)
    """
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(code), str(tmp_path / "soft.lock")]
    ways = [[], *(["unshare", "--time", "--boottime", seconds] for seconds in ("100000", "77"))]
    if subprocess.run([*ways[1], "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("time namespaces need root and a kernel that has them")
    for way in ways:
        with subprocess.Popen([*way, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "acquired\n"
            for other in ways:
                assert subprocess.run([*other, *command], check=False, capture_output=True).stdout == b"busy\n"
            owner.kill()
    assert subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).stdout == b"acquired\n"


def test_a_log_that_is_rotated_by_age_loses_nothing(tmp_path, clock):
    # How often it is rotated says nothing here: the times of its files do not go with this clock.
    code = """
        from holdfast import JsonlFile
        log = JsonlFile(args[0], max_age=3600)
        number = 0
        say("ready")
        while hear():
            for _ in range(20):
                number += 1
                log.append([int(args[1]), number])
            say(log.stats.rotations)
    """
    path, jumps, numbers = tmp_path / "events.jsonl", 100 if evidence.FULL else 20, range(3)
    children = [Child(code, path, number, env=clock.env) for number in numbers]
    for child in children:
        child.expect("ready")
    for _ in range(jumps):
        clock.jump()
        for child in children:
            child.tell("append")
        rotations = sum(int(child.hear()) for child in children)
    for child in children:
        with child:
            child.tell()
            child.join()
    segments = sorted(each for each in tmp_path.glob("events.0*.jsonl"))
    assert len(segments) == rotations > 0
    found = [json.loads(line) for each in (*segments, path) for line in each.read_bytes().splitlines()]
    for number in numbers:
        assert [place for writer, place in found if writer == number] == [*range(1, 20 * jumps + 1)]


def test_a_history_is_whole_and_can_be_pruned_whatever_the_clock_says(tmp_path, clock):
    code = """
        from holdfast import StateFile
        state = StateFile(args[0], history=True, durable=False)
        say("ready")
        while order := hear():
            if order == "prune":
                state.prune_history(keep_days=200)
            with state.edit() as data:
                data["total"] = data.get("total", 0) + 1
            changes = state.history()
            for change in changes:
                assert state.at(change.revision).data["total"] == change.revision
            assert state.load().revision == changes[-1].revision == data["total"]
            say(data["total"])
    """
    with Child(code, tmp_path / "state.json", env=clock.env) as child:
        child.expect("ready")
        for number in range(1, 41):
            clock.jump()
            child.tell("prune" if number % 7 == 0 else "edit")
            child.expect(str(number))


def test_states_documents_and_readers_are_up_to_date_whatever_the_clock_says(tmp_path, clock):
    code = """
        from holdfast import DocumentStore, JsonlFile, StateFile
        state, log = StateFile(args[0] + "/state.json", durable=False), JsonlFile(args[0] + "/events.jsonl")
        store = DocumentStore(args[0] + "/documents")
        reader = JsonlFile(args[0] + "/events.jsonl").follow()
        say("ready")
        while what := hear():
            if what == "change":
                state.update(lambda data: {"n": data.get("n", 0) + 1})
                store["one"] = {"n": store.get("one", {"n": 0})["n"] + 1}
                store.flush()
                log.append(state.load().revision)
            store.refresh()
            assert next(reader) == state.load().revision == state.load().data["n"] == store["one"]["n"]
            say("ok")
    """
    with Child(code, tmp_path, env=clock.env) as writer, Child(code, tmp_path, env=clock.env) as reader:
        for child in writer, reader:
            child.expect("ready")
        for _ in range(200 if evidence.FULL else 40):
            clock.jump()
            writer.tell("change")
            writer.expect("ok")
            clock.jump()
            reader.tell("look")
            reader.expect("ok")
