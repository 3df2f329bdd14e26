"""DocumentStore when the disk fails, processes die, and others write to the same directory."""

from __future__ import annotations

import errno
import json
import os
import threading
from contextlib import suppress

import pytest

import holdfast.documents as module
from conftest import posix_only
from holdfast import DocumentConflict, FileLock
from holdfast.documents import DocumentStore
from support import Child, eventually


@pytest.fixture
def path(tmp_path):
    """The path of a directory that does not exist yet."""
    return tmp_path / "sessions"


@pytest.fixture
def full(monkeypatch):
    """The names of the files that the disk has no space for."""
    names = set()
    write = module.write_bytes

    def failing(path, data, **settings):
        if os.path.basename(path) in names:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, data, **settings)

    monkeypatch.setattr(module, "write_bytes", failing)
    return names


def held(path):
    """While this is held, no store can write to the directory."""
    return FileLock(os.path.join(path, ".lock"), thread_local=False)


def files(path):
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


# ---------------------------------------------------------------------------------------------------------------------
# A disk that fails


def test_flush_raises_what_failed_and_the_write_is_tried_again(path, full):
    full.add("jo.json")
    with DocumentStore(path) as store:
        store["jo"] = 1
        with pytest.raises(OSError, match=r"No space left.*jo\.json"):
            store.flush()
        assert store["jo"] == 1
        assert store.stats.pending == 1
        full.clear()
        eventually(lambda: files(path) == ["jo.json"])
        eventually(lambda: store.stats.pending == 0)
        with suppress(OSError):  # a second failure, from before the disk was mended
            store.flush()
        store.flush()


def test_other_documents_go_on_when_one_fails(path, full):
    full.add("bad.json")
    with DocumentStore(path) as store:
        store["bad"] = 1
        store["good"] = 2
        eventually(lambda: files(path) == ["good.json"])
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.close()
    assert files(path) == ["bad.json", "good.json"]


def test_a_deletion_does_not_overtake_a_write_that_failed(path, full):
    with DocumentStore(path) as store:
        store["old"] = 1
        store.flush()
        full.add("new.json")
        store["new"] = store["old"]
        del store["old"]
        store["other"] = 2
        eventually(lambda: store.stats.errors >= 2 and "other.json" in files(path))
        assert files(path) == ["old.json", "other.json"]
        full.clear()
        eventually(lambda: files(path) == ["new.json", "other.json"])
        with pytest.raises(OSError, match="No space"):
            store.flush()


def test_a_write_that_failed_takes_the_last_value(path, full):
    full.add("jo.json")
    with DocumentStore(path) as store:
        store["jo"] = 1
        eventually(lambda: store.stats.errors)
        store["jo"] = 2
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.close()
    assert (path / "jo.json").read_bytes() == b"2"


def test_on_error_hears_of_each_failure_on_the_writer_thread(path, full):
    full.add("jo.json")
    heard = []
    with DocumentStore(
        path, on_error=lambda key, error: heard.append((key, error.errno, threading.current_thread().name))
    ) as store:
        store["jo"] = 1
        eventually(lambda: len(heard) >= 2)
        assert set(heard) == {("jo", errno.ENOSPC, "holdfast-documents")}
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.flush()


def test_an_on_error_that_raises_is_shown_and_the_writer_goes_on(path, full, monkeypatch):
    full.add("jo.json")
    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: shown.append(failure.exc_type))
    with DocumentStore(path, on_error=lambda _key, _error: 1 / 0) as store:
        store["jo"] = 1
        eventually(lambda: len(shown) >= 2)
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.flush()
    assert set(shown) == {ZeroDivisionError}
    assert files(path) == ["jo.json"]


def test_flush_cannot_be_called_by_on_error(path, full):
    full.add("jo.json")
    heard = []

    def flush(_key, _error):
        try:
            store.flush()
        except RuntimeError as error:
            heard.append(str(error))

    with DocumentStore(path, on_error=flush) as store:
        store["jo"] = 1
        eventually(lambda: heard)
        assert "writer thread" in heard[0]
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.flush()


def test_close_raises_what_failed_and_gives_up_in_time(path, full):
    full.add("jo.json")
    store = DocumentStore(path)
    store["jo"] = 1
    with pytest.raises(OSError, match="No space") as caught:
        store.close(timeout=0.2)
    if hasattr(caught.value, "__notes__"):
        assert "1 write or deletion did not reach the disk" in caught.value.__notes__[0]


def test_a_lock_that_cannot_be_had_is_an_error_and_tried_again(path):
    with DocumentStore(path, timeout=0.01) as store:
        with held(path):
            store["jo"] = 1
            with pytest.raises(TimeoutError, match=r"\.lock"):
                store.flush()
        eventually(lambda: files(path) == ["jo.json"])
        with suppress(TimeoutError):  # how often it was tried meanwhile is the machine's affair
            store.flush()


def test_what_could_not_be_written_at_the_end_is_said(path):
    code = """
    import holdfast.documents as module
    sys.stderr = sys.stdout
    module._AT_EXIT = 0.2
    def write_bytes(path, data, **settings): raise OSError(28, "No space left on device", path)
    module.write_bytes = write_bytes
    store = module.DocumentStore(args[0])
    store["jo"] = 1
    """
    with Child(code, path) as child:
        said = child.hear()
        assert "1 write or deletion" in said
        assert str(path) in said
        assert "No space left" in said
        child.join()


def test_without_a_thread_the_caller_writes(path, monkeypatch):
    def start(_thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with DocumentStore(path) as store:
        monkeypatch.setattr(threading.Thread, "start", start)
        store["jo"] = 1
        assert files(path) == ["jo.json"]
        monkeypatch.undo()


# ---------------------------------------------------------------------------------------------------------------------
# Processes that die


@posix_only
def test_a_kill_leaves_each_document_old_or_new_and_never_half(path):
    code = """
    from holdfast.documents import DocumentStore
    store = DocumentStore(args[0])
    round = 0
    while True:
        round += 1
        for number in range(5):
            store[str(number)] = {"round": round, "text": "x" * 5000}
        if round == 3:
            say("writing")
        store.flush()
    """
    for _ in range(5):
        with Child(code, path) as child:
            child.expect("writing")
            child.kill()
        for name in files(path):
            assert len(json.loads((path / name).read_bytes())["text"]) == 5000
        with DocumentStore(path) as store:
            assert sorted(store) == list("01234")


# ---------------------------------------------------------------------------------------------------------------------
# Several processes

WRITE = """
    from holdfast.documents import DocumentStore
    with DocumentStore(args[0]) as store:
        if args[1] == "delete":
            del store["jo"]
        else:
            store["jo"] = int(args[1])
"""


def written_elsewhere(path, value):
    """Another process has assigned this to jo, or deleted it."""
    with Child(WRITE, path, value) as child:
        child.join()


@pytest.fixture
def shared(path):
    with DocumentStore(path) as store:
        store["jo"] = 1
        store.flush()
        assert store["jo"] == 1
        yield store


def test_what_another_process_wrote_is_not_overwritten(path, shared):
    seen = shared.revision("jo")
    written_elsewhere(path, 2)
    shared["jo"] = 3
    with pytest.raises(DocumentConflict, match="'jo'") as caught:
        shared.flush()
    assert (caught.value.key, caught.value.expected) == ("jo", seen)
    assert (path / "jo.json").read_bytes() == b"2"
    assert shared["jo"] == 2
    assert shared.stats.conflicts == 1
    assert shared.revision("jo") == caught.value.found
    shared["jo"] = 4
    shared.flush()
    assert (path / "jo.json").read_bytes() == b"4"


def test_what_another_process_wrote_is_not_deleted(path, shared):
    written_elsewhere(path, 2)
    del shared["jo"]
    with pytest.raises(DocumentConflict):
        shared.flush()
    assert shared["jo"] == 2


def test_a_document_that_was_created_meanwhile_is_a_conflict(path):
    with DocumentStore(path) as store:
        with held(path):
            store["jo"] = 1
            (path / "jo.json").write_bytes(b"2")
        with pytest.raises(DocumentConflict):
            store.flush()
        assert store["jo"] == 2


def test_both_deleting_is_no_conflict(path, shared):
    written_elsewhere(path, "delete")
    del shared["jo"]
    shared.flush()
    assert files(path) == []


def test_on_conflict_decides_what_is_written(path):
    with DocumentStore(path, on_conflict=lambda key, mine, theirs: [key, mine, theirs]) as store:
        store["jo"] = 1
        store.flush()
        written_elsewhere(path, 2)
        store["jo"] = 3
        store.flush()
        assert store["jo"] == ["jo", 3, 2]
        assert store.stats.conflicts == 1
    assert (path / "jo.json").read_bytes() == b'["jo",3,2]'


def test_on_conflict_sees_removed_documents_and_may_remove_them(path):
    seen = []

    def decide(_key, mine, theirs):
        seen.append((mine, theirs))
        return DocumentStore.REMOVED

    with DocumentStore(path, on_conflict=decide) as store:
        store["jo"] = 1
        store.flush()
        written_elsewhere(path, "delete")
        store["jo"] = 2
        store.flush()
        assert "jo" not in store
        store["jo"] = 3
        store.flush()
        written_elsewhere(path, 4)
        del store["jo"]
        store.flush()
    assert seen == [(2, DocumentStore.REMOVED), (DocumentStore.REMOVED, 4)]
    assert files(path) == []


def test_a_change_while_on_conflict_decides_is_another_conflict(path):
    others = iter([b"20", b"30"])

    def decide(_key, mine, theirs):
        change = next(others, None)
        if change:
            (path / "jo.json").write_bytes(change)
        return mine + theirs

    with DocumentStore(path, on_conflict=decide) as store:
        store["jo"] = 1
        store.flush()
        written_elsewhere(path, 2)
        store["jo"] = 100
        store.flush()
        assert store.stats.conflicts == 3
    assert int((path / "jo.json").read_bytes()) == 152


def test_refresh_forgets_what_others_have_changed_or_removed(path, shared):
    shared["stays"] = 1
    shared["goes"] = 1
    shared.flush()
    assert shared.refresh() == set()
    written_elsewhere(path, 2)
    (path / "goes.json").unlink()
    assert shared.refresh() == {"jo", "goes"}
    assert dict(shared) == {"jo": 2, "stays": 1}
    assert shared.refresh() == set()


def test_a_revision_tells_one_content_from_another(path, shared):
    one = shared.revision("jo")
    assert 0 < one < 2**64
    shared["jo"] = 2
    shared.flush()
    two = shared.revision("jo")
    shared["jo"] = 1
    shared.flush()
    assert two != one == shared.revision("jo")
    assert shared.revision("nobody") == 0


def test_two_processes_that_merge_lose_nothing(path):
    code = """
    from holdfast.documents import DocumentStore
    def merge(key, mine, theirs):
        return sorted({*mine, *(theirs or [])})
    with DocumentStore(args[0], on_conflict=merge) as store:
        hear()
        for number in range(50):
            store.refresh()
            store["all"] = sorted({*store.get("all", []), f"{args[1]}{number}"})
            store.flush()
    """
    with DocumentStore(path) as store:
        store["all"] = []
    with Child(code, path, "a") as one, Child(code, path, "b") as other:
        for child in (one, other):
            child.tell()
        for child in (one, other):
            child.join()
    with DocumentStore(path) as store:
        assert set(store["all"]) == {f"{name}{number}" for name in "ab" for number in range(50)}
