"""The history of a StateFile: who changed what and when, and every recorded state again."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import counts_references, linux_only, posix_only, replaces_open_files
from holdfast import Change, JsonlFile, StateConflict, StateFile, ValueChange
from holdfast._history import History
from holdfast._texts import Text
from support import PATIENCE, Child


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


@pytest.fixture
def state(path):
    return StateFile(path, history=True, durable=False)


def log_of(path):
    return path.with_name(path.name + ".history.jsonl")


def records(path):
    return [json.loads(line) for line in log_of(path).read_bytes().splitlines()]


def rewrite(path, change):
    """Change the history as an editor would."""
    lines = [json.loads(line) for line in log_of(path).read_bytes().splitlines()]
    change(lines)
    log_of(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def grow_old(path, days):
    """Let so many first changes have happened so many days ago."""

    def change(lines):
        for line, age in zip(lines, days, strict=False):
            line["time"] = (datetime.now(timezone.utc) - timedelta(days=age)).isoformat()

    rewrite(path, change)


# ---------------------------------------------------------------------------------------------------------------------
# Recording


def test_without_history_none_is_written(path):
    StateFile(path).save({"n": 1})
    assert not log_of(path).exists()


def test_a_change_says_when_who_and_what(state):
    before = datetime.now(timezone.utc)
    state.save({"theme": "dark", "jobs": ["a"], "old": None})
    state.save({"theme": "light", "jobs": ["a", "b"]})
    change = state.history()[-1]
    assert isinstance(change, Change)
    assert (change.revision, change.pid) == (2, os.getpid())
    assert change.host
    assert before <= change.time <= datetime.now(timezone.utc)
    assert set(change.changes) == {
        ValueChange("/theme", "changed", "dark", "light"),
        ValueChange("/jobs/1", "added", new="b"),
        ValueChange("/old", "removed", old=None),
    }


def test_keys_with_slashes_and_tildes_are_told_apart(state):
    state.save({"a/b": {"~": 1}, "a": {"b": {"~": 2}}})
    state.save({"a/b": {"~": 3}, "a": {"b": {"~": 2}}})
    assert [change.path for change in state.history()[-1].changes] == ["/a~1b/~0"]
    assert state.at(2).data == {"a/b": {"~": 3}, "a": {"b": {"~": 2}}}


def test_edits_and_updates_are_recorded_too(state):
    with state.edit() as data:
        data["n"] = 1
    state.update(lambda data: {"n": 2})
    assert [change.revision for change in state.history()] == [1, 2]


def test_a_save_that_failed_is_not_recorded(state):
    state.save({"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        state.save({"n": float("inf")})
    assert [change.revision for change in state.history()] == [1]


@linux_only
@counts_references
def test_recording_leaves_no_descriptor_to_the_collector(path, state, monkeypatch):
    monkeypatch.delattr(Text, "__del__")  # as on PyPy, whose collector comes at some time
    descriptors = set()
    for number in range(5):
        StateFile(path, history=True).save({"n": number})
        descriptors.add(len(os.listdir("/proc/self/fd")))
    assert len(descriptors) == 1


def test_all_processes_write_one_history(path, state):
    state.save({"n": 0})
    with Child("from holdfast import StateFile; StateFile(args[0], history=True).save({'n': 1})", path) as child:
        child.join()
        state.save({"n": 2})
        assert [change.pid for change in state.history()] == [os.getpid(), child.pid, os.getpid()]
    assert [state.at(revision).data["n"] for revision in (1, 2, 3)] == [0, 1, 2]


def test_a_conflict_says_who_wrote_what_was_found(path, state):
    before = state.load()
    with Child("from holdfast import StateFile; StateFile(args[0], history=True).save({'n': 1})", path) as child:
        child.join()
        with pytest.raises(StateConflict, match=f"process {child.pid}") as caught:
            state.save({"n": 2}, expect=before)
    assert (caught.value.by.pid, caught.value.by.revision) == (child.pid, 1)


def test_a_change_by_an_editor_is_recorded_when_it_is_found(path, state):
    state.save({"n": 1})
    path.write_text('{"revision": 1, "n": "edited"}')
    state.save({"n": 2})
    assert [(change.revision, change.pid) for change in state.history()] == [
        (1, os.getpid()),
        (1, None),
        (2, os.getpid()),
    ]
    assert state.history()[-1].changes == (ValueChange("/n", "changed", "edited", 2),)
    assert state.at(1).data == {"n": "edited"}


def test_a_history_can_begin_later_than_the_file(path):
    StateFile(path).save({"n": 1})
    state = StateFile(path, history=True)
    state.save({"n": 2})
    assert state.at(1).data == {"n": 1}
    assert state.at(2).data == {"n": 2}


def test_a_history_that_missed_a_save_goes_on(path, state):
    state.save({"n": 1})
    StateFile(path).save({"n": 2})
    state.save({"n": 3})
    assert [state.at(revision).data["n"] for revision in (1, 2, 3)] == [1, 2, 3]


def test_a_file_that_was_removed_begins_again(path, state):
    for number in range(3):
        state.save({"n": number})
    path.unlink()
    state.save({"n": "anew"})
    assert state.at(1).data == {"n": "anew"}
    assert state.at(2).data == {"n": 1}


@posix_only
def test_a_history_is_not_more_open_than_the_file(path, state):
    path.write_text("{}")
    path.chmod(0o600)
    state.save({"secret": 1})
    assert stat.S_IMODE(log_of(path).stat().st_mode) == 0o600


@linux_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_history_belongs_to_those_to_whom_the_file_belongs(path, state):
    path.write_text("{}")
    path.chmod(0o640)
    os.chown(path, 1001, 3000)
    state.save({"secret": 1})
    status = log_of(path).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1001, 3000, 0o640)


@linux_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_history_whose_group_cannot_be_given_is_closed_to_its_own(public_directory, tmp_path):
    path = public_directory / "state.json"
    path.write_text("{}")
    path.chmod(0o660)
    os.chown(path, 1001, 3000)
    code = """
        from holdfast import StateFile
        StateFile(args[1], history=True).save({})  # which imports what this user may not be able to read
        os.setgroups([])
        os.setgid(2000)
        os.setuid(1001)
        StateFile(args[0], history=True).save({"secret": 1})
        """
    with Child(code, path, tmp_path / "other.json") as child:
        child.join()
    assert stat.S_IMODE(log_of(path).stat().st_mode) == 0o600


@replaces_open_files
def test_loading_in_other_threads_does_not_disturb_the_records(state):
    state.save({"n": 0})
    done = threading.Event()

    def load():
        while not done.is_set():
            state.load()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        state.save({"n": number})
    done.set()
    for thread in threads:
        thread.join()
    assert [(change.revision, change.pid) for change in state.history()] == [(n, os.getpid()) for n in range(1, 201)]
    assert all(state.at(number + 1).data == {"n": number} for number in range(0, 200, 9))


# ---------------------------------------------------------------------------------------------------------------------
# When it cannot be written


@pytest.fixture
def unwritable(path):
    """A history that cannot be written, because a directory is in its place."""
    log_of(path).mkdir()


@pytest.mark.usefixtures("unwritable")
def test_a_history_that_cannot_be_written_does_not_keep_a_save_from_being_done(path, state):
    for number in range(1, 3):
        with pytest.warns(RuntimeWarning, match=re.escape(repr(str(path)))):
            assert state.save({"n": number}) == number
        assert state.history_errors == number
    assert json.loads(path.read_text()) == {"revision": 2, "n": 2}


def test_memory_that_runs_out_while_a_change_is_recorded_does_not_make_a_save_fail(path, state, monkeypatch):
    def run_out(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(History, "add", run_out)
    with pytest.warns(RuntimeWarning, match="state.json.* is not in its history: MemoryError"):
        assert state.save({"n": 1}) == 1
    assert (state.load().data, state.history_errors) == ({"n": 1}, 1)


@pytest.mark.usefixtures("unwritable")
@pytest.mark.parametrize("way", ["save", "edit", "update"])
def test_the_warning_points_at_the_users_line(state, way):
    def edit():
        with state.edit() as data:
            data["n"] = 1

    ways = {"save": lambda: state.save({"n": 1}), "edit": edit, "update": lambda: state.update(lambda data: {"n": 1})}
    with pytest.warns(RuntimeWarning) as caught:
        ways[way]()
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.usefixtures("unwritable")
def test_what_could_not_be_recorded_is_made_up_for_later(path, state):
    with pytest.warns(RuntimeWarning):
        state.save({"n": 1})
    log_of(path).rmdir()
    state.save({"n": 2})
    assert [state.at(revision).data["n"] for revision in (1, 2)] == [1, 2]


def test_a_history_that_somebody_keeps_locked_delays_a_save_and_does_not_prevent_it(path, state):
    state.save({"n": 1})
    with Child(
        """
        import fcntl
        with open(args[0]) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            say("locked")
            hear()
        """
        if os.name == "posix"
        else """
        from holdfast import _core
        log = _core.new_log(args[0], 0o644, 0, 0, 0)
        assert _core.try_log(log) == 0
        say("locked")
        hear()
        """,
        log_of(path),
    ) as child:
        child.expect("locked")
        with pytest.warns(RuntimeWarning):
            assert state.save({"n": 2}) == 2
    assert state.save({"n": 3}) == 3
    assert [state.at(revision).data["n"] for revision in (1, 2, 3)] == [1, 2, 3]


def test_a_torn_record_costs_no_other(path, state):
    state.save({"n": 1})
    state.save({"n": 2})
    whole = log_of(path).read_bytes()
    log_of(path).write_bytes(whole[:-10])
    state.save({"n": 3})
    assert [state.at(revision).data["n"] for revision in (1, 2, 3)] == [1, 2, 3]


def test_half_a_record_that_another_one_follows_is_passed_over(path, state):
    state.save({"n": 1})
    state.save({"n": 2})
    log_of(path).write_bytes(log_of(path).read_bytes()[:-30])
    state.save({"n": 3})
    assert [change.revision for change in state.history()] == [1, 2, 3]
    assert [change.pid for change in state.history()][1] is None  # what was found, in the place of what was lost
    assert state.prune_history(keep_days=1) == 0


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_what_is_saved_after_a_power_cut_that_took_earlier_records_can_be_rebuilt(path, state, lost):
    for number in range(1, 6):
        state.save({"n": number, "other": 0})
    lines = log_of(path).read_bytes().splitlines(keepends=True)
    lines[lost] = bytes(len(lines[lost]))
    log_of(path).write_bytes(b"".join(lines))
    StateFile(path, history=True).save({"n": 6, "other": 0})
    assert [state.at(revision).data["n"] for revision in (1, 5, 6)] == [1, 5, 6]


@pytest.mark.parametrize("line", [b'{"behind":5}', b"[]", b"null", b'{"revision":9,"behind":0,"time":"2x","after":1}'])
def test_strange_lines_at_the_end_harm_nothing(path, state, line):
    before = state.load()
    state.save({"n": 1})
    with open(log_of(path), "ab") as file:
        file.write(line + b"\n")
    with pytest.raises(StateConflict):
        state.save({"n": 2}, expect=before)
    assert state.save({"n": 3}) == 2
    assert (state.at(1).data, state.at(2).data, state.history_errors) == ({"n": 1}, {"n": 3}, 0)
    assert {change.revision for change in state.history()} == {1, 2}
    assert state.prune_history(keep_days=1) == 0


def test_a_record_that_is_missing_in_the_middle_is_noticed(path, state):
    for number in range(1, 5):
        state.save({"n": number, "other": 0})
    rewrite(path, lambda lines: lines.pop(1))
    assert state.at(1).data["n"] == 1
    for revision in 2, 3, 4:
        with pytest.raises(LookupError, match=f"revision {revision} .*{re.escape(log_of(path).name)}"):
            state.at(revision)


def test_a_damaged_record_is_passed_over(path, state):
    for number in range(1, 4):
        state.save({"n": number})
    lines = log_of(path).read_bytes().splitlines(keepends=True)
    log_of(path).write_bytes(lines[0] + b'{"revision":2,"behind"\n' + b"\0\0\n\xff\n" + lines[2])
    assert [change.revision for change in state.history()] == [1, 3]
    with pytest.raises(LookupError):
        state.at(3)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_there_is_no_history_before_the_first_save(state):
    assert state.history() == []
    with pytest.raises(LookupError, match="revision 1"):
        state.at(1)


def test_the_last_changes_come_oldest_first(state):
    for number in range(5):
        state.save({"n": number})
    assert [change.revision for change in state.history(limit=2)] == [4, 5]
    assert [change.revision for change in state.history(since=3)] == [4, 5]
    assert [change.revision for change in state.history(limit=1, since=1)] == [5]
    assert state.history(limit=0) == []


def test_changes_after_a_revision_are_those_after_it_was_recorded_last(path, state):
    for number in range(4):
        state.save({"n": number})
    path.unlink()
    for number in range(3):
        state.save({"n": number})
    assert [change.revision for change in state.history(since=2)] == [3]
    assert [change.revision for change in state.history(since=4)] == [1, 2, 3]
    assert len(state.history(since=0)) == 7


def test_changes_can_be_asked_for_by_time(path, state):
    for number in range(4):
        state.save({"n": number})
    grow_old(path, [30, 20])
    since = datetime.now(timezone.utc) - timedelta(days=25)
    assert [change.revision for change in state.history(since=since)] == [2, 3, 4]
    local = datetime.now() - timedelta(days=10)  # without a zone: that of this place, as everywhere in Python
    assert [change.revision for change in state.history(since=local)] == [3, 4]


def test_a_past_state_can_be_restored(state):
    state.save({"n": 1})
    before = state.load()
    state.save({"n": 2})
    assert state.at(1).fingerprint == before.fingerprint
    assert state.save(state.at(1).data) == 3
    assert state.load().data == {"n": 1}


def test_an_object_that_records_nothing_can_read_a_history(path, state):
    state.save({"n": 1})
    assert StateFile(path).at(1).data == {"n": 1}


def test_a_large_history_has_whole_states_now_and_then(path, state):
    for number in range(300):
        state.save({"n": number, "text": "x" * 500 + str(number)})
    whole = [record["revision"] for record in records(path) if "state" in record]
    assert whole[0] == 1
    assert 3 <= len(whole) <= 10
    assert all(state.at(revision).data["n"] == revision - 1 for revision in (1, *whole, *(w - 1 for w in whole[1:])))


def test_a_large_state_is_not_recorded_whole_each_time(path, state):
    for number in range(20):
        state.save({"large": ["y" * 1000] * 200, "n": number})
    assert [record["revision"] for record in records(path) if "state" in record] == [1]
    assert state.at(20).data["n"] == 19


# ---------------------------------------------------------------------------------------------------------------------
# Pruning


@replaces_open_files
def test_pruning_removes_what_is_old_and_keeps_every_later_revision(path, state):
    for number in range(6):
        state.save({"n": number, "same": 1})
    grow_old(path, [100, 99, 98, 50])
    assert state.prune_history(keep_days=90) == 3
    assert [change.revision for change in state.history()] == [4, 5, 6]
    assert [state.at(revision).data["n"] for revision in (4, 5, 6)] == [3, 4, 5]
    with pytest.raises(LookupError):
        state.at(3)
    assert state.save({"n": 6}) == 7
    assert "state" not in records(path)[-1]  # it goes on where it was


@replaces_open_files
def test_the_last_change_is_never_pruned(path, state):
    state.save({"n": 1})
    state.save({"n": 2})
    grow_old(path, [100, 100])
    assert state.prune_history(keep_days=1) == 1
    assert state.at(2).data == {"n": 2}
    assert state.prune_history(keep_days=1) == 0


def test_pruning_what_is_not_there_does_nothing(path, state):
    assert state.prune_history(keep_days=1) == 0
    assert not log_of(path).exists()


@pytest.mark.parametrize("days", [float("inf"), 1e9])
def test_a_history_can_be_kept_for_ever(state, days):
    state.save({"n": 1})
    assert state.prune_history(days) == 0


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_a_time_to_keep_that_makes_no_sense_is_refused(state, days):
    with pytest.raises(ValueError, match="keep_days"):
        state.prune_history(days)


def test_a_history_that_was_rotated_is_read_and_not_pruned(path, state):
    state.save({"n": 1})
    JsonlFile(log_of(path)).rotate()
    state.save({"n": 2})
    assert [state.at(revision).data["n"] for revision in (1, 2)] == [1, 2]
    with pytest.raises(ValueError, match="rotated"):
        state.prune_history(keep_days=0)


@replaces_open_files
def test_a_saver_goes_on_after_another_process_has_pruned(path, state):
    for number in range(3):
        state.save({"n": number})
    grow_old(path, [9, 9])
    code = "from holdfast import StateFile; say(StateFile(args[0]).prune_history(5))"
    with Child(code, path) as child:
        child.expect("2")
        child.join()
    state.save({"n": 3})
    assert [change.revision for change in state.history()] == [3, 4]


@replaces_open_files
def test_a_new_object_that_saves_after_pruning_records_its_own_change_only(path, state):
    for number in range(4):
        state.save({"n": number})
    text = log_of(path).read_bytes()
    log_of(path).write_bytes(re.sub(rb'"time":"\d{4}', b'"time":"2001', text, count=2))
    assert state.prune_history(keep_days=1) == 2
    StateFile(path, history=True).save({"n": 4})
    assert [(change.revision, change.pid) for change in state.history()] == [(n, os.getpid()) for n in (3, 4, 5)]
    assert [state.at(revision).data["n"] for revision in (3, 4, 5)] == [2, 3, 4]


def test_pruning_keeps_lines_it_cannot_read_behind_what_is_kept(path, state):
    state.save({"n": 1})
    JsonlFile(log_of(path)).append("what is this")
    state.save({"n": 2})
    grow_old_lines = log_of(path).read_bytes().splitlines()
    assert len(grow_old_lines) == 4
    assert state.prune_history(keep_days=1) == 0
    assert log_of(path).read_bytes().splitlines() == grow_old_lines


# ---------------------------------------------------------------------------------------------------------------------
# Any states at all

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
states = st.dictionaries(st.text(max_size=3) | st.sampled_from(["$date", "$items", "a/b", "~"]), values, max_size=5)


@settings(max_examples=60, deadline=None)
@given(saved=st.lists(states, min_size=1, max_size=8))
def test_every_state_is_rebuilt_exactly(tmp_path_factory, saved):
    path = tmp_path_factory.mktemp("history") / "state.json"
    state = StateFile(path, history=True, durable=False, revision_key="the revision")
    for data in saved:
        state.save(data)
    assert [change.revision for change in state.history()] == [*range(1, len(saved) + 1)]
    for revision, data in enumerate(saved, 1):
        assert repr(state.at(revision).data) == repr(data)  # types and order, too
    assert state.history_errors == 0


@replaces_open_files
def test_writers_that_are_killed_leave_a_history_that_fits_the_file(path):
    code = """
        from holdfast import StateFile
        state = StateFile(args[0], history=True, durable=False)
        say("ready")
        while True:
            with state.edit() as data:
                data["n"] = data.get("n", 0) + 1
                data["text"] = "x" * (data["n"] % 700)
        """
    for _ in range(15):
        with Child(code, path) as child:
            child.expect("ready")
            state = StateFile(path, timeout=PATIENCE)
            start = state.load().revision
            while state.load().revision < start + 5:
                pass
            child.kill()
    state = StateFile(path, history=True)
    with state.edit() as data:  # whatever the last one could not record is recorded now
        data["end"] = True
    last = state.load().revision
    assert state.load().data["n"] == last - 1
    for revision in range(1, last):
        assert state.at(revision).data == {"n": revision, "text": "x" * (revision % 700)}
