"""DocumentStore: a directory of documents, read from memory and written behind."""

from __future__ import annotations

import gc
import json
import os
import pickle
import threading
import unicodedata
import weakref
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from conftest import posix_only
from holdfast import FileLock
from holdfast._keys import key_of, name_of
from holdfast.documents import DocumentStore, StoreFull
from support import PATIENCE, Child, eventually, in_another_thread


@pytest.fixture
def path(tmp_path):
    """The path of a directory that does not exist yet."""
    return tmp_path / "sessions"


@pytest.fixture
def store(path):
    with DocumentStore(path) as store:
        yield store


def held(path):
    """While this is held, no store can write to the directory."""
    return FileLock(os.path.join(path, ".lock"), thread_local=False)


def files(path):
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


# ---------------------------------------------------------------------------------------------------------------------
# A mapping


def test_a_document_is_read_back(store):
    store["jo"] = {"theme": "dark"}
    assert store["jo"] == {"theme": "dark"}
    assert "jo" in store
    assert list(store) == ["jo"]
    assert len(store) == 1


def test_a_document_is_a_file_of_compact_json(store, path):
    store["jo"] = {"name": "Jürgen", "tags": [1, 2]}
    store.flush()
    assert (path / "jo.json").read_bytes() == '{"name":"Jürgen","tags":[1,2]}'.encode()


def test_another_store_reads_what_was_written(store, path):
    store["jo"] = 1
    store.flush()
    assert DocumentStore(path)["jo"] == 1


def test_a_missing_document_is_a_key_error(store):
    with pytest.raises(KeyError, match="jo"):
        store["jo"]
    with pytest.raises(KeyError, match="jo"):
        del store["jo"]
    assert store.get("jo") is None
    assert store.stats.pending == 0


def test_a_deleted_document_is_gone_at_once_and_from_the_disk(store, path):
    store["jo"] = 1
    store.flush()
    with held(path):
        del store["jo"]
        assert "jo" not in store
        assert list(store) == []
        with pytest.raises(KeyError):
            store["jo"]
        with pytest.raises(KeyError):
            del store["jo"]
    store.flush()
    assert files(path) == []


def test_what_is_queued_is_there_before_it_is_on_the_disk(store, path):
    with held(path):
        store["jo"] = 1
        assert dict(store) == {"jo": 1}
        assert files(path) == []


def test_changing_the_assigned_object_changes_nothing(store, path):
    document = {"tags": [1]}
    store["jo"] = document
    document["tags"].append(2)
    assert store["jo"] == {"tags": [1]}
    store.flush()
    assert json.loads((path / "jo.json").read_bytes()) == {"tags": [1]}


def test_readers_share_one_value(store):
    store["jo"] = {"tags": [1]}
    assert store["jo"] is store["jo"]


def test_reads_come_from_memory(store, path):
    store["jo"] = 1
    store.flush()
    assert store["jo"] == 1
    (path / "jo.json").unlink()
    assert store["jo"] == 1


def test_the_mixins_of_a_mapping_work(store):
    store.update(a=1, b=2)
    assert store.pop("a") == 1
    assert store.setdefault("b", 3) == 2
    assert store.setdefault("c", 3) == 3
    store.clear()
    assert dict(store.items()) == {}


def test_iteration_is_over_the_keys_there_were(store):
    store.update(a=1, b=2)
    for key in store:
        store[key + key] = 3
    assert set(store) == {"a", "b", "aa", "bb"}


@pytest.mark.parametrize("key", [1, None, b"jo"])
def test_a_key_is_text(store, key):
    with pytest.raises(TypeError, match="must be a str"):
        store[key] = 1
    with pytest.raises(TypeError, match="must be a str"):
        store[key]
    assert key not in store


def test_what_cannot_be_encoded_changes_nothing(store):
    store["jo"] = 1
    for bad in (float("nan"), object()):
        with pytest.raises((TypeError, ValueError)):
            store["jo"] = bad
    assert store["jo"] == 1


def test_documents_can_be_encoded_in_other_ways(path):
    with DocumentStore(path, suffix=".pickle", encode=pickle.dumps, decode=pickle.loads) as store:
        store["jo"] = {1, 2}
        assert store["jo"] == {1, 2}
    assert files(path) == ["jo.pickle"]


def test_encode_must_return_text_or_bytes(path):
    with DocumentStore(path, encode=lambda value: value) as store, pytest.raises(TypeError, match="encode"):
        store["jo"] = 1


def test_a_damaged_document_is_an_error_with_its_path_until_it_is_assigned_anew(store, path):
    (path / "jo.json").write_bytes(b'{\n"theme": ')
    for _ in range(2):
        with pytest.raises(ValueError, match=r"jo\.json.*line 2"):
            store["jo"]
    store["jo"] = 1
    store.flush()
    assert (path / "jo.json").read_bytes() == b"1"


def test_only_so_many_documents_stay_in_memory(path):
    with DocumentStore(path, max_cached=2) as store:
        for number in range(5):
            store[str(number)] = number
        store.flush()
        assert [store[str(number)] for number in range(5)] == [0, 1, 2, 3, 4]
        for name in files(path):
            (path / name).write_bytes(b"-1")
        assert [store[str(number)] for number in (4, 3, 2, 1, 0)].count(-1) == 3


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"suffix": "json"}, ValueError),
        ({"suffix": "./x"}, ValueError),
        ({"suffix": 1}, TypeError),
        ({"debounce": -1}, ValueError),
        ({"debounce": "1"}, TypeError),
        ({"max_pending": 0}, ValueError),
        ({"max_pending_bytes": 1.5}, TypeError),
        ({"when_full": "wait"}, ValueError),
        ({"durable": 1}, TypeError),
        ({"max_cached": 0}, ValueError),
    ],
)
def test_wrong_settings_are_refused(path, settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        DocumentStore(path, **settings)


def test_a_copy_is_another_store_with_the_same_settings(path):
    with DocumentStore(path, suffix=".txt", max_pending=7) as store:
        store["jo"] = 1
        store.flush()
        with pickle.loads(pickle.dumps(store)) as other:
            assert other["jo"] == 1
            assert "jo.txt" in files(path)
        assert repr(store) == f"<DocumentStore {str(path)!r}>"


# ---------------------------------------------------------------------------------------------------------------------
# Keys


ODD_KEYS = ["", ".", "..", "../x", "a/b", "a\\b", "CON", "con", "nul.txt", "com1", "A", "a", "x.", "x ", ".lock", "\0"]
ODD_KEYS += ["é", "e\u0301", "\ud800", "~", "%41", "K" * 300, "漢" * 200, "K" * 299 + "k"]


def test_any_text_is_a_key(store, path):
    for number, key in enumerate(ODD_KEYS):
        store[key] = number
    store.flush()
    with DocumentStore(path) as other:
        assert dict(other) == {key: number for number, key in enumerate(ODD_KEYS)}
    store.clear()
    store.flush()
    assert files(path) == []


@settings(deadline=None)
@given(st.text(st.characters(codec=None)))
def test_a_key_can_be_told_from_its_name(key):
    name = name_of(key, ".json")
    assert len(name.encode("ascii")) <= 200
    assert not name.startswith(".")
    assert name.startswith("~long-") or key_of(name, ".json") == key


@settings(deadline=None)
@given(st.text(max_size=8), st.text(max_size=8))
def test_no_two_keys_share_a_name_on_any_disk(one, other):
    folded = [unicodedata.normalize("NFD", name_of(key, ".json")).casefold() for key in (one, other)]
    assert (folded[0] == folded[1]) == (one == other)


def test_other_files_are_no_documents(store, path):
    for name in ("notes.txt", "UPPER.json", "a.b.json", "%6ao.json", "con.json", "~long-1.json", ".x.json"):
        with suppress(OSError):  # Windows has no file of the name con
            (path / name).write_bytes(b"1")
    assert list(store) == []


# ---------------------------------------------------------------------------------------------------------------------
# The queue


def test_writes_to_one_document_become_one(store, path):
    with held(path):
        for number in range(100):
            store["jo"] = number
        assert store.stats.pending == 1
    store.flush()
    assert (path / "jo.json").read_bytes() == b"99"
    assert (store.stats.writes, store.stats.coalesced) == (1, 99)


@pytest.fixture
def steps(monkeypatch):
    """What is done to the disk, in order."""
    import holdfast.documents as module

    done = []
    write, unlink = module._put, os.unlink

    def note_write(path, data, **settings):
        write(path, data, **settings)
        done.append((os.path.basename(path), data))

    def note_unlink(path):
        unlink(path)
        if path.endswith(".json"):
            done.append((os.path.basename(path), None))

    monkeypatch.setattr(module, "_put", note_write)
    monkeypatch.setattr(module.os, "unlink", note_unlink)
    return done


def test_documents_reach_the_disk_in_the_order_of_their_first_write(store, path, steps):
    with held(path):
        for key in "abcab":
            store[key] = key
    store.flush()
    assert steps == [("a.json", b'"a"'), ("b.json", b'"b"'), ("c.json", b'"c"')]


def test_a_deletion_keeps_its_place_in_the_order(store, path, steps):
    store["a"] = 0
    store.flush()
    with held(path):
        store["a"] = 1  # superseded
        store["b"] = 2
        del store["a"]
        store["c"] = 3
        store["a"] = 4
    store.flush()
    assert steps[1:] == [("b.json", b"2"), ("a.json", None), ("c.json", b"3"), ("a.json", b"4")]
    assert store.stats.deletions == 1


def test_what_a_flush_waits_for_is_written_although_it_is_deleted_meanwhile(store, path, steps):
    with held(path):
        store["a"] = 1
        with pytest.raises(TimeoutError):
            store.flush(timeout=0.01)
        del store["a"]
    store.flush()
    assert steps == [("a.json", b"1"), ("a.json", None)]


def test_a_document_waits_for_more_writes_as_long_as_debounce_says(path):
    with DocumentStore(path, debounce=1e6) as store:
        for number in range(3):
            store["jo"] = number
        assert files(path) == []
        store.flush()
        assert (path / "jo.json").read_bytes() == b"2"
        store["jo"] = 3
    assert (path / "jo.json").read_bytes() == b"3"


def test_debounce_ends_by_itself(path):
    with DocumentStore(path, debounce=0.01) as store:
        store["jo"] = 1
        eventually(lambda: files(path) == ["jo.json"])


def test_a_full_store_raises_and_changes_nothing(path):
    with DocumentStore(path, max_pending=2, when_full="raise") as store:
        with held(path):
            store["a"] = store["b"] = 1
            with pytest.raises(StoreFull, match="'c' was not taken"):
                store["c"] = 1
            assert "c" not in store
            store["a"] = 2  # takes no more room
            assert store["a"] == 2
        store.flush()
        store["c"] = 1


def test_bytes_are_bounded_but_one_document_may_be_larger(path):
    with DocumentStore(path, max_pending_bytes=10, when_full="raise") as store, held(path):
        store["a"] = "x" * 100
        with pytest.raises(StoreFull):
            store["b"] = 1


def test_a_full_store_waits_for_room(path):
    with DocumentStore(path, max_pending=1, debounce=1e6) as store:
        store["a"] = 1
        store["b"] = 2  # so a cannot wait for more
        assert files(path) == ["a.json"]


def test_a_full_store_waits_only_so_long(path):
    with DocumentStore(path, max_pending=1, debounce=1e6, timeout=0.01) as store:
        with held(path):
            store["a"] = 1
            with pytest.raises(StoreFull):
                store["b"] = 2
        with suppress(TimeoutError):  # the writer did not get the lock either
            store.flush()


def test_a_full_store_drops_the_oldest_write_and_reads_what_is_on_the_disk(path):
    with DocumentStore(path, max_pending=2, when_full="drop_oldest") as store:
        store["a"] = 0
        store["z"] = 0
        store.flush()
        with held(path):
            del store["z"]
            store["a"] = 1
            store["b"] = 2  # drops the write of a, not the deletion
            assert store["a"] == 0
            assert store.stats.drops == 1
        store.flush()
        assert dict(store) == {"a": 0, "b": 2}


def test_stats_tell_how_long_the_oldest_waits(store, path):
    with held(path):
        store["a"] = "xyz"
        stats = store.stats
        assert (stats.pending, stats.pending_bytes) == (1, 5)
        assert stats.oldest_pending > 0
    store.flush()
    stats = store.stats
    assert (stats.pending, stats.pending_bytes, stats.oldest_pending) == (0, 0, 0)
    assert stats.write_seconds >= stats.longest_write > 0


# ---------------------------------------------------------------------------------------------------------------------
# The end


def test_flush_says_how_much_is_left_when_its_time_is_over(store, path):
    with held(path):
        store["a"] = store["b"] = 1
        with pytest.raises(TimeoutError, match="2 writes or deletions"):
            store.flush(timeout=0.01)
    store.flush()


def test_a_closed_store_refuses_everything(path):
    store = DocumentStore(path)
    store["jo"] = 1
    assert store["jo"] == 1
    store.close()
    store.close()
    for use in (lambda: store["jo"], lambda: store.update(jo=2), lambda: list(store), store.flush, store.refresh):
        with pytest.raises(ValueError, match="is closed"):
            use()
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-documents"]


def test_close_says_what_it_could_not_write(path):
    store = DocumentStore(path)
    with held(path):
        store["jo"] = 1
        with pytest.raises(TimeoutError, match="1 write or deletion"):
            store.close(timeout=0.01)


def test_a_block_that_raises_still_writes(path):
    with pytest.raises(ZeroDivisionError), DocumentStore(path) as store:
        store["jo"] = 1
        raise ZeroDivisionError
    assert files(path) == ["jo.json"]


def test_a_store_that_nobody_keeps_writes_first_and_goes_then(path):
    store = DocumentStore(path)
    with held(path):
        store["jo"] = 1
        gone = weakref.ref(store)
        del store
        gc.collect()
        assert gone() is not None
    eventually(lambda: files(path) == ["jo.json"])
    eventually(lambda: gc.collect() is None or gone() is None)


ENDS = {"returns": "", "exits": "sys.exit()", "raises": "raise SystemExit(0) from ValueError()"}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_writes_everything_first(path, end):
    code = f"""
    from holdfast.documents import DocumentStore
    store = DocumentStore(args[0], debounce=60)
    for number in range(500):
        store[str(number)] = number
    {ENDS[end]}
    """
    with Child(code, path) as child:
        child.join()
    with DocumentStore(path) as store:
        assert dict(store) == {str(number): number for number in range(500)}


# ---------------------------------------------------------------------------------------------------------------------
# Threads and forks


def test_threads_lose_no_update(path):
    mutex = threading.Lock()
    with DocumentStore(path, max_pending=3) as store:
        store["shared"] = 0

        def work(name):
            for number in range(100):
                store[name] = number
                assert store[name] == number
                with mutex:
                    store["shared"] += 1

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    with DocumentStore(path) as store:
        assert dict(store) == {"shared": 400, "t0": 99, "t1": 99, "t2": 99, "t3": 99}


@posix_only
def test_a_forked_child_has_an_empty_queue_and_writes_its_own(path):
    code = """
    import warnings
    warnings.simplefilter("ignore")
    from holdfast import FileLock
    from holdfast.documents import DocumentStore
    store = DocumentStore(args[0])
    lock = FileLock(args[0] + "/.lock")
    with lock:
        store["parent"] = 1
        pid = os.fork()
        if pid == 0:
            ok = store["parent"] == 1 and store.stats.pending == 0
            lock.close()
            store["child"] = 2
            say("held" if ok else "not empty")
            store.flush()
            os._exit(0)
        hear()
    assert os.waitpid(pid, 0)[1] == 0
    store.flush()
    say(sorted(store.items()))
    """
    with Child(code, path) as child:
        child.expect("held")
        child.tell()
        child.expect("[('child', 2), ('parent', 1)]")
        child.join()


@posix_only
def test_a_forked_child_may_change_what_its_parent_was_writing(path):
    code = """
    import warnings
    warnings.simplefilter("ignore")
    from holdfast.documents import DocumentStore
    store = DocumentStore(args[0], debounce=60)
    store["jo"] = 1
    to_child, from_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(to_child, 1)
        store["jo"] += 1
        store.flush()
        os._exit(0)
    store.flush()
    os.write(from_parent, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    """
    with Child(code, path) as child:
        child.join()
    assert (path / "jo.json").read_bytes() == b"2"


# ---------------------------------------------------------------------------------------------------------------------
# A model


class Model(RuleBasedStateMachine):
    """A store does as a dict does, also when it is opened again."""

    keys = st.sampled_from(["a", "B", "", "x/y", "L" * 300])
    values = st.one_of(st.none(), st.integers(), st.text(max_size=3))

    def __init__(self):
        super().__init__()
        from tempfile import TemporaryDirectory

        self.directory = TemporaryDirectory()
        self.store = DocumentStore(self.directory.name, max_cached=2, max_pending=3)
        self.model = {}

    @rule(key=keys, value=values)
    def assign(self, key, value):
        self.store[key] = self.model[key] = value

    @rule(key=keys)
    def pop(self, key):
        assert self.store.pop(key, "none") == self.model.pop(key, "none")

    @rule()
    def clear(self):
        self.store.clear()
        self.model.clear()

    @rule()
    def flush(self):
        self.store.flush()
        assert self.store.stats.pending == 0

    @rule()
    def reopen(self):
        self.store.close()
        self.store = DocumentStore(self.directory.name, max_cached=2, max_pending=3)

    @invariant()
    def they_are_equal(self):
        assert dict(self.store) == self.model
        assert len(self.store) == len(self.model)

    def teardown(self):
        self.store.close()
        self.directory.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_store_can_be_used_in_another_thread(store):
    store["jo"] = 1
    assert in_another_thread(lambda: store["jo"]) == 1


def test_pop_with_a_default_never_fails_and_gives_each_document_to_one_thread(path):
    with DocumentStore(path) as store:
        got = []

        def pop():
            for _ in range(300):
                got.append(store.pop("k", None))

        threads = [threading.Thread(target=pop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(200):
            store[f"other {number % 7}"] = store["k"] = number
        for thread in threads:
            thread.join()
        values = [value for value in got if value is not None]
        assert len(values) == len(set(values))


def test_setdefault_returns_the_document_and_not_what_was_passed(path):
    with DocumentStore(path) as store:
        mine = []
        theirs = store.setdefault("l", mine)
        mine.append(1)
        assert store["l"] == [] != mine
        assert store.setdefault("l", [5]) is theirs


def test_looking_for_documents_does_not_keep_more_than_may_be_kept(path):
    with DocumentStore(path) as store:
        store.update({str(number): number for number in range(100)})
    with DocumentStore(path, max_cached=10) as store:
        assert all(str(number) in store for number in range(100))
        assert all(store.revision(str(number)) for number in range(100))
        assert len(store._documents) <= 10


def test_refresh_does_not_report_what_this_store_wrote_itself(path):
    with DocumentStore(path) as store:
        for number in range(50):
            store["jo"] = number
            if number % 2:
                store.flush()
            assert store.refresh() == set()
