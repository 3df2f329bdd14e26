"""Many threads and processes change one StateFile, and no change is lost."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from conftest import replaces_open_files
from holdfast import StateFile
from support import PATIENCE, Child

WORKER = """
    from holdfast import StateFile
    state = StateFile(args[0], timeout=600, durable=False, history=args[3] == "history")
    def increment(data):
        data["n"] = data.get("n", 0) + 1
    say("ready")
    hear()
    for _ in range(int(args[2])):
        if args[1] == "edit":
            with state.edit() as data:
                increment(data)
        else:
            state.update(increment, attempts=100_000)
    assert state.history_errors == 0
"""


def run(path, processes, updates, way, history="no history"):
    """Let so many processes change the state, beginning at the same moment."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(WORKER, path, way, updates, history)) for _ in range(processes)]
        for child in children:
            child.expect("ready")
        for child in children:
            child.tell()
        for child in children:
            child.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


def check(path, expected):
    found = StateFile(path).load()
    assert (found.data["n"], found.revision) == (expected, expected)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_lose_no_edit(path, shared):
    ours = StateFile(path, timeout=PATIENCE, durable=False)

    def work(_):
        state = ours if shared else StateFile(path, timeout=PATIENCE, durable=False)
        for _ in range(5):
            with state.edit() as data:
                number = data.get("n", 0)
                time.sleep(0)
                data["n"] = number + 1

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(work, range(50)))
    check(path, 250)


def test_threads_lose_no_update(path):
    state = StateFile(path, timeout=PATIENCE, durable=False)

    def increment(data):
        time.sleep(random.random() / 1000)
        return {"n": data.get("n", 0) + 1}

    def work(_):
        for _ in range(5):
            state.update(increment, attempts=100_000)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(10)))
    check(path, 50)


@pytest.mark.parametrize("way", ["edit", "update"])
def test_processes_lose_nothing(path, way):
    run(path, 20, 20, way)
    check(path, 400)


def test_a_history_of_many_processes_is_complete(path):
    run(path, 10, 20, "edit", "history")
    check(path, 200)
    state = StateFile(path)
    assert [change.revision for change in state.history()] == [*range(1, 201)]
    assert all(state.at(revision).data == {"n": revision} for revision in range(1, 201, 7))


@replaces_open_files
def test_readers_see_every_state_whole_and_none_twice_in_the_wrong_order(path):
    """Reading takes no lock, and never fails nor goes back while others save."""
    StateFile(path).save({"n": 0, "text": ""})
    code = """
        from holdfast import StateFile
        state = StateFile(args[0], durable=False)
        say("ready")
        hear()
        for _ in range(300):
            with state.edit() as data:
                data["n"] += 1
                data["text"] = "x" * (data["n"] % 50)
        """
    with Child(code, path) as one, Child(code, path) as other:
        for child in one, other:
            child.expect("ready")
            child.tell()
        state, last = StateFile(path), 0
        while last < 600:
            found = state.load()
            assert last <= found.data["n"] == found.revision - 1
            assert found.data["text"] == "x" * (found.data["n"] % 50)
            last = found.data["n"]
        one.join()
        other.join()
