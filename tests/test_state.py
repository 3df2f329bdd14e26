"""StateFile: a mapping in a file that many processes change, without losing each other's changes."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import stat
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import linux_only, posix_only
from holdfast import DamagedState, FileLock, Snapshot, StateConflict, StateFile, Timeout, _contents, holders
from support import PATIENCE, WAITS_IN_KERNEL, Child, eventually, held_elsewhere, in_another_thread, is_free


@pytest.fixture
def path(tmp_path):
    """The path of a state that does not exist yet."""
    return tmp_path / "state.json"


def content(path):
    return json.loads(Path(path).read_bytes())


def until_it_is_waited_for(lock):
    """Wait until somebody waits for the lock, as far as the system shows that."""
    if sys.platform == "linux" and WAITS_IN_KERNEL:
        eventually(lambda: any(holder.waiting for holder in holders(lock)))
    else:
        time.sleep(0.1)


class Counting:
    """json, counting how often it reads."""

    def __init__(self):
        self.calls = Counter()

    def loads(self, text):
        self.calls["loads"] += 1
        return json.loads(text)

    def dumps(self, data):
        return json.dumps(data)


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def test_a_file_that_does_not_exist_is_the_default_at_revision_0(path):
    assert StateFile(path).load().data == {}
    snapshot = StateFile(path, default=lambda: {"theme": "dark"}).load()
    assert (snapshot.data, snapshot.revision) == ({"theme": "dark"}, 0)
    assert os.listdir(path.parent) == []


@posix_only
def test_a_state_without_a_name_on_its_file_server_is_missing(path, monkeypatch):
    """Over SMB, what was removed is shown until whoever has it open closes it."""
    StateFile(path).save({"n": 1})

    def open_what_is_removed(name, error, real=_contents.open_for_reading):
        descriptor, _ = real(name, error)
        os.unlink(name)
        return descriptor, True

    monkeypatch.setattr(_contents, "open_for_reading", open_what_is_removed)
    assert StateFile(path).load().revision == 0


def test_no_new_state_begins_while_the_old_one_is_where_a_file_server_left_it(path):
    rescued = Path(f"{path}.rescued")
    StateFile(path).save({"n": 1})
    os.rename(path, rescued)
    state = StateFile(path)
    for begin in (state.load, lambda: state.save({}), state.edit().__enter__):
        with pytest.raises(FileNotFoundError, match="rename that file to it") as raised:
            begin()
        assert repr(str(rescued)) in str(raised.value)
    os.rename(rescued, path)
    assert state.load().data == {"n": 1}


def test_a_file_without_a_revision_is_at_revision_0(path):
    path.write_text('{"theme": "dark"}')
    snapshot = StateFile(path).load()
    assert (snapshot.data, snapshot.revision) == ({"theme": "dark"}, 0)


def test_the_revision_is_in_the_file_and_not_in_the_data(path):
    path.write_text('{"revision": 7, "theme": "dark"}')
    snapshot = StateFile(path).load()
    assert (snapshot.data, snapshot.revision) == ({"theme": "dark"}, 7)


def test_the_revision_can_have_another_key(path):
    state = StateFile(path, revision_key="_v")
    state.save({"revision": "my own"})
    assert content(path) == {"_v": 1, "revision": "my own"}
    assert state.load().data == {"revision": "my own"}


@linux_only
def test_loading_waits_for_a_file_server_that_gives_back_its_lease(path):
    """As Samba and the NFS server of the kernel do, in some milliseconds."""
    with Child(
        """
        import fcntl, signal
        from holdfast import StateFile
        StateFile(args[0]).save({"n": 1})
        lease = os.open(args[0], os.O_RDONLY)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which it is asked
        time.sleep = lambda nap: fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)  # while the reader naps
        try:
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            say(f"there are no leases here: {error}")
        else:
            say(StateFile(args[0]).load().data)
        """,
        path,
    ) as child:
        heard = child.hear()
    if heard.startswith("there are no leases"):
        pytest.skip(heard)
    assert heard == "{'n': 1}"


def test_loading_takes_no_lock(path):
    StateFile(path).save({"theme": "dark"})
    with held_elsewhere(f"{path}.lock"):
        assert StateFile(path, timeout=0).load().data == {"theme": "dark"}


def test_the_data_of_a_snapshot_are_its_own(path):
    state = StateFile(path)
    state.save({"jobs": ["a"]})
    state.load().data["jobs"].append("b")
    assert state.load().data == {"jobs": ["a"]}


def test_what_was_saved_is_a_copy(path):
    state, jobs = StateFile(path), ["a"]
    state.save({"jobs": jobs})
    jobs.append("b")
    assert state.load().data == {"jobs": ["a"]}


def test_a_file_that_has_not_changed_is_not_parsed_again(path):
    codec = Counting()
    state = StateFile(path, format=codec)
    path.write_text('{"theme": "dark"}')
    for _ in range(5):
        assert state.load().data == {"theme": "dark"}
    assert codec.calls["loads"] == 1
    path.write_text('{"theme": "light"}')
    assert state.load().data == {"theme": "light"}
    assert codec.calls["loads"] == 2


@pytest.mark.parametrize("way", ["in place", "replaced"])
def test_changes_of_the_same_length_in_the_same_moment_are_noticed(path, way):
    """The times of a file have steps, of milliseconds or of seconds, in which many changes fit."""
    state = StateFile(path)
    for number in range(100, 400):
        if way == "in place":
            path.write_text(f'{{"n": {number}}}')
        else:
            other = path.with_suffix(".new")
            other.write_text(f'{{"n": {number}}}')
            os.replace(other, path)
        assert state.load().data == {"n": number}


def test_an_old_file_is_recognised_by_its_times_and_a_change_that_keeps_them_is_not_missed_by_a_save(path):
    path.write_text('{"n": 1}')
    os.utime(path, (1, 1))
    state = StateFile(path)
    before = state.load()
    path.write_text('{"n": 2}')
    os.utime(path, (1, 1))
    with pytest.raises(StateConflict):
        state.save({"n": 3}, expect=before)


def test_a_snapshot_can_be_pickled(path):
    state = StateFile(path)
    state.save({"theme": "dark"})
    twin = pickle.loads(pickle.dumps(state.load()))
    assert isinstance(twin, Snapshot)
    assert (twin.data, twin.revision) == ({"theme": "dark"}, 1)
    assert state.save({"theme": "light"}, expect=twin) == 2


def test_a_byte_order_mark_is_no_damage(path):
    path.write_bytes(b'\xef\xbb\xbf{"theme": "dark"}\r\n')
    assert StateFile(path).load().data == {"theme": "dark"}


# ---------------------------------------------------------------------------------------------------------------------
# Saving


def test_each_save_has_the_next_revision(path):
    state = StateFile(path)
    assert [state.save({"n": n}) for n in range(3)] == [1, 2, 3]
    assert content(path) == {"revision": 3, "n": 2}


def test_the_revision_goes_on_from_what_is_in_the_file(path):
    path.write_text('{"revision": 41, "theme": "dark"}')
    assert StateFile(path).save({"theme": "light"}) == 42


@pytest.mark.parametrize("by", ["snapshot", "revision"])
def test_a_save_that_expects_what_is_there_is_done(path, by):
    state = StateFile(path)
    state.save({"n": 1})
    found = state.load()
    assert state.save({"n": 2}, expect=found if by == "snapshot" else found.revision) == 2


@pytest.mark.parametrize("by", ["snapshot", "revision"])
def test_a_save_that_expects_what_has_changed_changes_nothing(path, by):
    mine, other = StateFile(path), StateFile(path)
    before = mine.load()
    other.save({"n": "other"})
    with pytest.raises(StateConflict) as caught:
        mine.save({"n": "mine"}, expect=before if by == "snapshot" else 0)
    assert (caught.value.path, caught.value.expected, caught.value.found) == (str(path), 0, 1)
    assert content(path)["n"] == "other"


@pytest.mark.parametrize("by", ["snapshot", "revision"])
def test_a_change_that_left_the_revision_alone_is_noticed(path, by):
    state = StateFile(path)
    state.save({"n": 1})
    before = state.load()
    path.write_text('{"revision": 1, "n": "edited"}')
    with pytest.raises(StateConflict, match="another program") as caught:
        state.save({"n": 2}, expect=before if by == "snapshot" else before.revision)
    assert caught.value.expected == caught.value.found == 1
    assert content(path)["n"] == "edited"


def test_a_number_as_returned_by_save_notices_that_too(path):
    state = StateFile(path)
    revision = state.save({"n": 1})
    path.write_text('{"revision": 1, "n": "edited"}')
    with pytest.raises(StateConflict):
        state.save({"n": 2}, expect=revision)


def test_a_file_that_was_removed_is_a_conflict(path):
    state = StateFile(path)
    state.save({"n": 1})
    before = state.load()
    path.unlink()
    with pytest.raises(StateConflict):
        state.save({"n": 2}, expect=before)
    assert not path.exists()


def test_a_file_that_appeared_is_a_conflict_also_without_a_revision(path):
    state = StateFile(path)
    before = state.load()
    path.write_text('{"n": "theirs"}')
    with pytest.raises(StateConflict):
        state.save({"n": "mine"}, expect=before)


def test_a_save_that_expects_nothing_overwrites(path):
    mine, other = StateFile(path), StateFile(path)
    mine.load()
    other.save({"n": "other"})
    assert mine.save({"n": "mine"}) == 2


def test_a_conflict_says_what_happened_and_what_to_do_and_can_be_pickled(path):
    conflict = pickle.loads(pickle.dumps(StateConflict(str(path), 3, 5)))
    assert isinstance(conflict, RuntimeError)
    assert repr(str(path)) in str(conflict)
    assert "revision 5" in str(conflict)
    assert "update()" in str(conflict)


def test_the_timeout_is_for_the_lock_beside_the_file(path):
    with held_elsewhere(f"{path}.lock"):
        with pytest.raises(Timeout) as caught:
            StateFile(path, timeout=0).save({})
        assert caught.value.lock_file == f"{path}.lock"
    assert not path.exists()


def test_the_default_timeout_comes_from_the_environment(path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_TIMEOUT", "0")
    with held_elsewhere(f"{path}.lock"), pytest.raises(Timeout), StateFile(path).edit():
        pass


def test_directories_that_are_missing_are_created(tmp_path):
    path = tmp_path / "some" / "where" / "state.json"
    StateFile(path).save({"theme": "dark"})
    assert content(path)["theme"] == "dark"


def test_a_relative_path_means_the_same_file_after_the_directory_was_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = StateFile("state.json")
    monkeypatch.chdir("/")
    state.save({})
    assert (tmp_path / "state.json").exists()


@posix_only
def test_permissions_are_kept(path):
    path.write_text("{}")
    path.chmod(0o640)
    StateFile(path).save({"theme": "dark"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix_only
def test_a_link_stays_and_leads_to_the_same_lock(tmp_path):
    real, link = tmp_path / "real" / "state.json", tmp_path / "state.json"
    real.parent.mkdir()
    link.symlink_to(real)
    StateFile(link).save({"n": 1})
    assert link.is_symlink()
    assert content(real) == {"revision": 1, "n": 1}
    with StateFile(real).edit(), pytest.raises(Timeout):
        in_another_thread(lambda: StateFile(link, timeout=0).save({}))


@posix_only
def test_a_link_that_leads_elsewhere_when_the_lock_has_come_is_followed_there(tmp_path):
    link, first, second = tmp_path / "state.json", tmp_path / "first.json", tmp_path / "second.json"
    for number, real in enumerate((first, second)):
        StateFile(real).save({"n": number})
    link.symlink_to(first)
    with held_elsewhere(f"{first}.lock") as holder, ThreadPoolExecutor(1) as pool:
        saving = pool.submit(StateFile(link).update, lambda data: {"n": data["n"] + 10})
        until_it_is_waited_for(f"{first}.lock")
        link.unlink()
        link.symlink_to(second)
        holder.tell()
        assert saving.result(PATIENCE) == 2
    assert (content(first)["n"], content(second)["n"]) == (0, 11)


@posix_only
def test_a_path_through_a_link_to_itself_is_an_error_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="mend it") as raised:
        StateFile(tmp_path / "loop" / "state.json").load()
    assert raised.value.errno == errno.ELOOP


def test_text_is_written_as_it_is_and_a_line_for_each_item(path):
    StateFile(path).save({"name": "Zoë", "jobs": {f"job {number}": {"done": False} for number in range(9)}})
    text = path.read_text(encoding="utf-8")
    assert '"name": "Zoë"' in text
    assert '\n    "job 3": {"done": false},\n' in text
    assert text.endswith("}\n")


def test_what_json_makes_of_keys_and_tuples_is_what_is_loaded_also_by_the_one_who_saved(path):
    state = StateFile(path)
    state.save({1: (2, 3), False: None, "deep": {None: 1.5, "long": list(range(90))}})
    expected = {"1": [2, 3], "false": None, "deep": {"null": 1.5, "long": list(range(90))}}
    assert state.load().data == StateFile(path).load().data == expected


def test_what_could_not_be_loaded_again_is_refused_and_changes_nothing(path):
    StateFile(path).save({"n": 1})
    with pytest.raises(ValueError, match="read again"):
        StateFile(path, revision_key="1").save({1: "a"})
    with pytest.raises(ValueError, match="read again"):
        StateFile(f"{path}.pickle", format=pickle).save({"n": 2})
    assert not os.path.exists(f"{path}.pickle")
    assert content(path) == {"revision": 1, "n": 1}


@pytest.mark.parametrize("depth", [100, 600, 100_000])
def test_data_that_are_nested_deeply_can_be_read_again_or_are_refused(path, depth):
    deep: dict = {}
    inner = deep
    for _ in range(depth):
        inner["n"] = inner = {}
    state = StateFile(path)
    state.save({"n": 1})
    try:  # how deep is too deep, and for which of the two ways, differs between versions of Python
        state.save(deep)
    except (ValueError, RecursionError):
        assert state.load().data == {"n": 1}
    else:
        assert "n" in state.load().data["n"]


@pytest.mark.parametrize("data", [{"n": float("nan")}, {"n": {1, 2}}, {"n": b""}, {(1, 2): 3}])
def test_what_cannot_be_written_is_refused_and_changes_nothing(path, data):
    state = StateFile(path)
    state.save({"n": 1})
    with pytest.raises((TypeError, ValueError)):
        state.save(data)
    assert state.load().revision == 1
    assert sorted(os.listdir(path.parent)) == ["state.json", "state.json.lock"]


def test_data_with_the_key_of_the_revision_are_refused(path):
    with pytest.raises(ValueError, match="revision_key"):
        StateFile(path).save({"revision": 5})


def test_a_state_is_a_mapping(path):
    with pytest.raises(TypeError, match="mapping"):
        StateFile(path).save([1, 2])


# ---------------------------------------------------------------------------------------------------------------------
# Editing


def test_an_edit_saves_what_the_block_made_of_the_data(path):
    state = StateFile(path, default=lambda: {"n": 1})
    with state.edit() as data:
        data["n"] += 1
    assert content(path) == {"revision": 1, "n": 2}


def test_nobody_else_saves_during_an_edit(path):
    state = StateFile(path)
    with state.edit():
        assert not in_another_thread(lambda: is_free(f"{path}.lock"))
    assert is_free(f"{path}.lock")


def test_an_exception_in_an_edit_saves_nothing(path):
    state = StateFile(path)
    state.save({"n": 1})
    with pytest.raises(KeyError), state.edit() as data:
        data["n"] = 2
        data["missing"]
    assert content(path) == {"revision": 1, "n": 1}
    assert is_free(f"{path}.lock")


def test_an_edit_that_changes_nothing_writes_nothing(path):
    state = StateFile(path)
    state.save({"n": 1, "list": [1, {"a": None}]})
    before = path.stat()
    with state.edit() as data:
        data["n"] = 1
    assert os.path.samestat(before, path.stat())
    assert state.load().revision == 1


def test_the_sign_of_zero_is_a_change(path):
    state = StateFile(path)
    state.save({"n": 0.0})
    with state.edit() as data:
        data["n"] = -0.0
    assert str(state.load().data["n"]) == "-0.0"


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_a_value_that_only_seems_equal_is_a_change(path, value):
    state = StateFile(path)
    state.save({"n": 1})
    with state.edit() as data:
        data["n"] = value
    found = state.load()
    assert (found.revision, type(found.data["n"])) == (2, type(value))


def test_another_order_is_a_change(path):
    state = StateFile(path)
    state.save({"a": 1, "b": 2})
    with state.edit() as data:
        data["a"] = data.pop("a")
    assert [*state.load().data] == ["b", "a"]


def test_the_first_edit_creates_the_file(path):
    with StateFile(path, default=lambda: {"theme": "dark"}).edit():
        pass
    assert content(path) == {"revision": 1, "theme": "dark"}


def test_a_save_inside_an_edit_is_not_overwritten_by_its_end(path):
    state = StateFile(path)
    with pytest.raises(StateConflict), state.edit() as data:
        state.save({"n": "inner"})
        data["n"] = "outer"
    assert content(path)["n"] == "inner"


def test_a_change_without_the_lock_during_an_edit_is_not_overwritten(path):
    state = StateFile(path)
    state.save({"n": 1})
    with pytest.raises(StateConflict), state.edit() as data:
        path.write_text('{"revision": 1, "n": 7}')
        data["n"] = 2
    assert content(path)["n"] == 7


@posix_only
def test_a_forked_child_does_not_save_its_parents_edit(path):
    with Child(
        """
        import os
        from holdfast import StateFile
        state = StateFile(args[0])
        try:
            with state.edit() as data:
                data["by"] = "parent"
                pid = os.fork()
                if pid:
                    os.waitpid(pid, 0)
                else:
                    data["by"] = "child"
        except RuntimeError as error:
            assert "forked" in str(error)
            os._exit(0)
        say(state.load().data["by"])
        say(state.load().revision)
        """,
        path,
    ) as child:
        child.expect("parent")
        child.expect("1")
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Updating


def test_an_update_takes_what_the_function_returns(path):
    state = StateFile(path)
    assert state.update(lambda data: {"n": data.get("n", 0) + 1}) == 1
    assert content(path) == {"revision": 1, "n": 1}


def test_an_update_takes_the_data_the_function_changed(path):
    StateFile(path).update(lambda data: data.update(n=1))
    assert content(path) == {"revision": 1, "n": 1}


def test_no_lock_is_held_while_the_function_runs_and_it_is_called_again_with_what_others_saved(path):
    state, other, seen = StateFile(path), StateFile(path, timeout=0), []

    def change(data):
        seen.append(dict(data))
        if len(seen) < 3:
            other.save({"n": len(seen) * 10})
        return {"n": data.get("n", 0) + 1}

    assert state.update(change) == 3
    assert seen == [{}, {"n": 10}, {"n": 20}]
    assert content(path)["n"] == 21


def test_an_update_gives_up_after_so_many_attempts(path):
    state, other, calls = StateFile(path), StateFile(path), []

    def change(data):
        calls.append(other.save({"n": len(calls)}))
        return {"n": "mine"}

    with pytest.raises(StateConflict):
        state.update(change, attempts=4)
    assert len(calls) == 4
    assert content(path)["n"] == 3


def test_an_exception_of_the_function_saves_nothing(path):
    def change(data):
        data["n"] = 1
        raise KeyError

    with pytest.raises(KeyError):
        StateFile(path).update(change)
    assert not path.exists()


def test_an_update_that_changes_nothing_writes_nothing(path):
    state = StateFile(path)
    state.save({"n": 1})
    assert state.update(lambda data: None) == 1


def test_no_attempt_at_all_is_a_mistake(path):
    with pytest.raises(ValueError, match="attempts"):
        StateFile(path).update(dict, attempts=0)


# ---------------------------------------------------------------------------------------------------------------------
# Damage

DAMAGE = {
    "cut off": (b'{"revision": 1,\n "n', 2),
    "empty": (b"", None),
    "only zeros": (bytes(4096), None),
    "not utf-8": (b'{"revision": 1,\n\n "n": "\xff"}', 3),
    "a list": (b"[1, 2]", None),
    "a conflict of git": (b'{"revision": 1,\n<<<<<<< HEAD\n "n": 1}', 2),
    "too deep": (b'{"n":' + b"[" * 100_000, None),
    "a revision of text": (b'{"revision": "1.2b"}', None),
    "a revision below zero": (b'{"revision": -1}', None),
    "a revision that is true": (b'{"revision": true}', None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_and_never_overwritten(path, name):
    damaged, line = DAMAGE[name]
    path.write_bytes(damaged)
    state = StateFile(path)

    def edit():
        with state.edit() as data:
            data["n"] = 2

    for attempt in state.load, lambda: state.save({"n": 2}), edit, lambda: state.update(lambda data: {"n": 2}):
        with pytest.raises(DamagedState) as caught:
            attempt()
        assert isinstance(caught.value, ValueError)
        assert (caught.value.path, caught.value.line) == (str(path), line)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == damaged
    assert is_free(f"{path}.lock")


def test_damage_is_reported_also_after_the_file_was_good(path):
    state = StateFile(path)
    state.save({"n": 1})
    state.load()
    path.write_text("{")
    with pytest.raises(DamagedState):
        state.load()
    path.write_text('{"revision": 1, "n": 1}')
    assert state.load().data == {"n": 1}


def test_damage_can_be_pickled():
    error = pickle.loads(pickle.dumps(DamagedState("state.json", 3, "it is empty")))
    assert "state.json, line 3" in str(error)


@posix_only
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_is_refused(path, kind):
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(OSError, match="directory" if kind == "directory" else "regular"):
        StateFile(path).load()


# ---------------------------------------------------------------------------------------------------------------------
# The object


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copy_is_another_object_for_the_same_file(path, copied):
    state = copied(StateFile(path, revision_key="v", timeout=3, durable=False))
    state.save({"n": 1})
    assert content(path) == {"v": 1, "n": 1}


@pytest.mark.parametrize(
    "settings",
    [{"default": {}}, {"durable": "no"}, {"history": 1}, {"revision_key": None}, {"format": 5}, {"type": "dict"}],
)
def test_arguments_of_the_wrong_type_are_refused(path, settings):
    with pytest.raises(TypeError, match=next(iter(settings))):
        StateFile(path, **settings)


@pytest.mark.parametrize("expect", [True, 1.5, "1", {}])
def test_an_expectation_is_a_snapshot_or_a_number(path, expect):
    with pytest.raises(TypeError, match="expect"):
        StateFile(path).save({}, expect=expect)


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StateFile("")


def test_paths_are_strings_bytes_or_path_objects(path):
    for given in path, str(path), os.fsencode(path):
        assert StateFile(given).path == str(path)


def test_the_lock_is_a_file_lock_that_others_can_take_too(path):
    state = StateFile(path)
    with FileLock(f"{path}.lock"):
        with pytest.raises(Timeout):
            in_another_thread(lambda: StateFile(path, timeout=0).save({}))
        # The same lock, and the same thread: two objects would wait for each other.
        with pytest.raises(Timeout):
            StateFile(path, timeout=0).save({})
    state.save({})
