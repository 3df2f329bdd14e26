"""The examples: each runs as its users would run it, and the parts to copy keep what they promise."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import replaces_open_files
from holdfast import DocumentStore, JsonlFile, StateFile, Timeout
from support import PATIENCE, Child, eventually, held_elsewhere, in_another_thread, is_free

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, directory):
    """Run an example, patient with others as it must be on a machine that is busy. Returns what it printed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, directory],
        env={**os.environ, "HOLDFAST_TIMEOUT": str(PATIENCE), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example."""
    # Not syspath_prepend(): the invalidate_caches() that it calls fails in Python 3.11.9.
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    return importlib.import_module


def names_its_holder(error, child):
    """Whether an error names a process, where the system tells."""
    return sys.platform != "linux" or f"pid {child.pid} " in str(error)


# ---------------------------------------------------------------------------------------------------------------------
# chat_events.py


# ---------------------------------------------------------------------------------------------------------------------
# project_state.py


@pytest.fixture
def projects(example):
    pytest.importorskip("ruamel.yaml", reason="the state of the example is YAML")
    return example("project_state")


@replaces_open_files
def test_the_project_tool_loses_no_task_of_several_processes(projects, tmp_path):
    printed = run("project_state.py", tmp_path)
    titles = [task["title"] for task in StateFile(tmp_path / "project.yaml").load().data["tasks"]]
    assert sorted(titles) == [f"task {number} of worker {worker}" for number in range(5) for worker in range(4)]
    assert "not saved, because others changed tasks meanwhile" in printed


def test_the_answer_to_a_conflict_says_who_changed_what(projects, tmp_path):
    project = projects.open_project(tmp_path)
    seen = project.load()
    projects.add_task(projects.open_project(tmp_path), "paint it")
    answer = projects.set_phase(project, seen, "done")
    assert "others changed tasks" in answer
    assert f"process {os.getpid()} on" in answer
    assert "/tasks/0: added {'title': 'paint it', 'done': False}" in answer
    assert project.load().data["phase"] == "design"


def test_the_answer_to_a_conflict_with_an_editor_says_what_is_different(projects, tmp_path):
    project = projects.open_project(tmp_path)
    seen = project.load()
    file = tmp_path / "project.yaml"
    file.write_text(file.read_text("utf-8").replace("phase: design", "phase: build"), "utf-8")
    assert "others changed phase" in projects.set_phase(project, seen, "done")
    assert project.load().data["phase"] == "build"


def test_a_phase_is_set_by_whoever_has_seen_the_state(projects, tmp_path):
    project = projects.open_project(tmp_path)
    assert projects.set_phase(project, project.load(), "build") == "saved as revision 1"
    assert project.load().data["phase"] == "build"


def test_the_comments_in_the_state_are_kept(projects, tmp_path):
    projects.add_task(projects.open_project(tmp_path), "paint it")
    text = (tmp_path / "project.yaml").read_text("utf-8")
    assert text.startswith("# What the tool knows")
    assert "phase: design  # then build" in text


def test_opening_a_project_again_changes_nothing(projects, tmp_path):
    projects.add_task(projects.open_project(tmp_path), "paint it")
    assert projects.open_project(tmp_path).load().revision == 1


def test_going_back_is_a_change_that_can_be_undone(projects, tmp_path):
    project = projects.open_project(tmp_path)
    for title in "one", "two":
        projects.add_task(project, title)
    assert projects.go_back(project, 1) == 3
    assert [task["title"] for task in project.load().data["tasks"]] == ["one"]
    projects.go_back(project, 2)
    assert [task["title"] for task in project.load().data["tasks"]] == ["one", "two"]


def test_the_project_tool_waits_only_so_long_and_says_for_whom(projects, tmp_path):
    project = projects.open_project(tmp_path, timeout=0.05)
    with held_elsewhere(f"{project.path}.lock") as child, pytest.raises(Timeout, match=r"0\.05 seconds") as raised:
        projects.add_task(project, "in vain")
    assert names_its_holder(raised.value, child)
    assert project.load().revision == 0


# ---------------------------------------------------------------------------------------------------------------------
# task_tracker.py


@pytest.fixture
def tracking(example):
    return example("task_tracker")


def test_the_task_tracker_loses_no_task_although_an_agent_is_killed(tracking, tmp_path):
    run("task_tracker.py", tmp_path)
    tasks, done = tracking.Tracker(tmp_path).overview()
    assert sorted(map(int, [*tasks, *done])) == [*range(1, 41)]
    assert [task for task in done.values() if task["by"] == "the agent that was killed"]


def test_tasks_are_numbered_and_finished_in_turn(tracking, tmp_path):
    tracker = tracking.Tracker(tmp_path)
    assert [tracker.create("paint"), tracker.create("dry")] == ["1", "2"]
    assert [tracker.finish("jo"), tracker.create("show"), tracker.finish("al")] == ["1", "3", "2"]
    assert tracker.overview() == (
        {"3": {"title": "show"}},
        {"1": {"title": "paint", "by": "jo"}, "2": {"title": "dry", "by": "al"}},
    )


def test_without_open_tasks_there_is_nothing_to_finish(tracking, tmp_path):
    assert tracking.Tracker(tmp_path).finish("jo") is None


def test_an_agent_that_dies_between_two_files_leaves_the_task_done(tracking, tmp_path):
    class Dying(tracking.Tracker):
        def write(self, name, tasks):
            if name == "open":
                raise KeyboardInterrupt
            super().write(name, tasks)

    tracker = tracking.Tracker(tmp_path)
    tracker.create("paint")
    tracker.create("dry")
    with pytest.raises(KeyboardInterrupt):
        Dying(tmp_path).finish("jo")
    tasks, done = tracker.overview()
    assert ([*tasks], [*done]) == (["2"], ["1"])
    assert [tracker.create("show"), tracker.finish("al")] == ["3", "2"]


def test_readers_read_together_and_writers_wait(tracking, tmp_path):
    tracker, other = tracking.Tracker(tmp_path), tracking.Tracker(tmp_path, timeout=0)
    with tracker.locked(read=("open", "done")):
        assert in_another_thread(other.overview) == ({}, {})
        with pytest.raises(Timeout):
            in_another_thread(lambda: other.create("paint"))


def test_a_file_that_is_not_locked_keeps_nobody_waiting(tracking, tmp_path):
    tracker, other = tracking.Tracker(tmp_path), tracking.Tracker(tmp_path, timeout=0)
    with tracker.locked(write=("open",)):
        in_another_thread(lambda: other.locked(write=("done",)).release())


def test_agents_that_name_the_files_in_other_orders_do_not_deadlock(tracking, tmp_path):
    def take(*names):
        tracker = tracking.Tracker(tmp_path, timeout=PATIENCE)
        for _ in range(100):
            with tracker.locked(write=names):
                pass

    with Child(
        """
        sys.path.append(args[0])
        from pathlib import Path
        from task_tracker import Tracker
        tracker = Tracker(Path(args[1]), timeout=float(args[2]))
        for _ in range(100):
            with tracker.locked(write=("done", "open")):
                pass
        """,
        EXAMPLES,
        tmp_path,
        PATIENCE,
    ) as child:
        take("open", "done")
        child.join()


def test_an_agent_waits_as_long_as_the_environment_says_and_says_for_whom(tracking, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_TIMEOUT", "0.05")
    tracker = tracking.Tracker(tmp_path)
    with held_elsewhere(tmp_path / "open.lock") as child, pytest.raises(Timeout, match=r"0\.05 seconds") as raised:
        tracker.finish("jo")
    assert names_its_holder(raised.value, child)
    assert is_free(tmp_path / "done.lock"), "all or none"


# ---------------------------------------------------------------------------------------------------------------------
# session_store.py


@pytest.fixture
def serving(example, monkeypatch):
    monkeypatch.setenv("HOLDFAST_TIMEOUT", str(PATIENCE))
    return example("session_store")


def test_the_session_store_loses_no_item_and_no_last_visit(tmp_path):
    run("session_store.py", tmp_path)
    with DocumentStore(tmp_path / "carts") as carts, DocumentStore(tmp_path / "visits") as visits:
        assert len(carts) == 5
        for cart in carts.values():
            assert sorted(cart) == [f"item {number} of server {server}" for number in range(5) for server in range(4)]
        assert {user: visits[user] for user in visits} == {f"user {number}": 195.3 + number for number in range(5)}


def test_a_visit_reaches_the_disk_when_the_process_ends(serving, tmp_path):
    with Child(
        """
        sys.path.append(args[0])
        from pathlib import Path
        from session_store import Sessions
        sessions = Sessions(Path(args[1]))
        for moment in range(100):
            sessions.visit("jo", moment)
        """,
        EXAMPLES,
        tmp_path,
    ) as child:
        child.join()
    with DocumentStore(tmp_path / "visits") as visits:
        assert visits["jo"] == 99


def test_many_visits_become_one_write(serving, tmp_path):
    sessions = serving.Sessions(tmp_path)
    for moment in range(100):
        sessions.visit("jo", moment)
    sessions.visits.flush()
    stats = sessions.visits.stats
    assert stats.writes + stats.coalesced == 100
    assert stats.writes < 100
    sessions.close()


def test_what_two_servers_add_to_a_cart_is_in_it(serving, tmp_path):
    one, two = serving.Sessions(tmp_path), serving.Sessions(tmp_path)
    for number in range(3):
        one.add_to_cart("jo", f"a{number}")
        two.add_to_cart("jo", f"b{number}")
    everything = {f"{server}{number}" for server in "ab" for number in range(3)}
    assert set(one.cart("jo")) == set(two.cart("jo")) == everything
    one.close()
    two.close()


def test_a_cart_that_another_server_removed_stays_removed(serving, tmp_path):
    one, two = serving.Sessions(tmp_path), serving.Sessions(tmp_path)
    one.add_to_cart("jo", "tea")
    assert two.cart("jo") == ["tea"]
    del one.carts["jo"]
    one.carts.flush()
    two.add_to_cart("jo", "milk")
    assert one.cart("jo") == two.cart("jo") == []
    one.close()
    two.close()


def test_what_cannot_be_written_is_reported_and_written_later(serving, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOLDFAST_TIMEOUT", "0.05")
    sessions = serving.Sessions(tmp_path)
    with held_elsewhere(tmp_path / "carts" / ".lock"):
        with pytest.raises(Timeout):
            sessions.add_to_cart("jo", "tea")
        eventually(lambda: "session of jo: " in capsys.readouterr().err)
    eventually(lambda: sessions.carts.stats.pending == 0)
    with DocumentStore(tmp_path / "carts") as carts:
        assert carts["jo"] == ["tea"]
    with suppress(Timeout):  # which was raised again before the lock was free
        sessions.close()


@pytest.fixture
def branch(tmp_path):
    """A branch of a git repository, as git keeps it."""
    path = tmp_path / ".git" / "refs" / "heads" / "sessions"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a" * 40 + b"\n")
    return path


def test_a_branch_is_moved(serving, tmp_path, branch):
    serving.move_branch(tmp_path, "sessions", "b" * 40, expect="a" * 40)
    assert branch.read_bytes() == b"b" * 40 + b"\n"


def test_a_branch_that_others_moved_is_left_alone(serving, tmp_path, branch):
    with pytest.raises(RuntimeError, match="not at c"):
        serving.move_branch(tmp_path, "sessions", "b" * 40, expect="c" * 40)
    assert branch.read_bytes() == b"a" * 40 + b"\n"
    assert os.listdir(branch.parent) == ["sessions"]


def test_a_branch_that_git_is_moving_is_left_alone(serving, tmp_path, branch):
    lock = branch.with_name("sessions.lock")
    lock.touch()  # as git does
    with pytest.raises(Timeout, match="git"):
        serving.move_branch(tmp_path, "sessions", "b" * 40, expect="a" * 40, timeout=0.05)
    assert lock.exists()
    assert branch.read_bytes() == b"a" * 40 + b"\n"


# ---------------------------------------------------------------------------------------------------------------------
# event_pipeline.py


@pytest.fixture
def pipeline(example):
    return example("event_pipeline")


def requests(number, writer="web"):
    return [{"event": "request", "writer": writer, "number": each} for each in range(number)]


@replaces_open_files
def test_the_pipeline_counts_every_request_once_although_reader_and_writer_are_killed(tmp_path):
    pytest.importorskip("ctypes")  # multiprocessing shares numbers by it
    run("event_pipeline.py", tmp_path)
    found = defaultdict(list)
    log = JsonlFile(tmp_path / "events.jsonl")
    for event in log.records(lambda event: event["event"] == "request"):
        found[event["writer"]].append(event["number"])
    assert len(found) == 4
    assert all(numbers == [*range(len(numbers))] for numbers in found.values())
    counted = json.loads((tmp_path / "totals.json").read_text("utf-8"))["requests"]
    assert counted == {writer: len(numbers) for writer, numbers in found.items()}


@pytest.mark.parametrize("saved", [False, True], ids=["before", "after"])
def test_a_reader_that_dies_around_saving_counts_every_request_once(pipeline, tmp_path, saved):
    class Dying(pipeline.Totals):
        def save(self):
            if saved:
                super().save()
            raise KeyboardInterrupt

    log = pipeline.open_log(tmp_path)
    log.extend(requests(1200))
    with pytest.raises(KeyboardInterrupt):
        Dying(tmp_path).follow(last="end")
    log.append({"event": "end"})
    totals = pipeline.Totals(tmp_path)
    assert totals.requests["web"] == (500 if saved else 0)
    totals.follow(last="end")
    assert totals.requests == pipeline.Totals(tmp_path).requests == {"web": 1200}


def test_a_log_at_rest_is_counted_although_no_batch_is_full(pipeline, tmp_path):
    log = pipeline.open_log(tmp_path)
    log.extend(requests(3))
    with Child(
        """
        sys.path.append(args[0])
        from pathlib import Path
        from event_pipeline import Totals
        Totals(Path(args[1])).follow(last="end")
        """,
        EXAMPLES,
        tmp_path,
    ) as child:
        eventually(lambda: pipeline.Totals(tmp_path).requests["web"] == 3)
        log.append({"event": "end"})
        child.join()


@replaces_open_files
def test_a_torn_line_costs_no_other_event(pipeline, tmp_path):
    log = pipeline.open_log(tmp_path)
    log.extend(requests(3))
    with open(log.path, "ab") as file:
        file.write(b'{"event": "reque')
    log.append({"event": "end"})
    totals = pipeline.Totals(tmp_path)
    totals.follow(last="end")
    assert totals.requests["web"] == 3
    assert len(log.repair().damages) == 1
    assert log.verify().ok


def test_the_log_is_rotated(pipeline, tmp_path):
    log = pipeline.open_log(tmp_path)
    for _ in range(5):
        log.extend(requests(500))
    assert log.stats.rotations > 0
    assert log.verify().records == 2500
