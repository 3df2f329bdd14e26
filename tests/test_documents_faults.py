"""DocumentStore when the disk fails, processes die, and others write to the same directory."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import threading
import time
from contextlib import suppress

import pytest

import holdfast.documents as module
from conftest import posix_only
from holdfast import DocumentConflict, FileLock, _core
from holdfast.documents import DocumentStore
from interposed import interposed
from support import ALARMS, Child, eventually


@pytest.fixture
def path(tmp_path):
    """The path of a directory that does not exist yet."""
    return tmp_path / "sessions"


@pytest.fixture
def full(monkeypatch):
    """The names of the files that the disk has no space for."""
    names = set()
    write = module._put

    def failing(path, data, **settings):
        if os.path.basename(path) in names:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, data, **settings)

    monkeypatch.setattr(module, "_put", failing)
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
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(kind))
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
    def put(path, data, **settings): raise OSError(28, "No space left on device", path)
    module._put = put
    store = module.DocumentStore(args[0])
    store["jo"] = 1
    """
    with Child(code, path) as child:
        said = child.hear()
        assert "1 write or deletion" in said
        assert repr(str(path)) in said
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


def test_a_conflict_stays_one_until_the_document_is_read(path, shared):
    written_elsewhere(path, 2)
    for number in (3, 4):
        shared["jo"] = number
        with pytest.raises(DocumentConflict):
            shared.flush()
    assert shared["jo"] == 2
    shared["jo"] = 5
    shared.flush()
    assert (path / "jo.json").read_bytes() == b"5"


def test_what_on_conflict_merged_is_not_overwritten_by_who_has_not_read_it(path):
    def merge(_key, mine, theirs):
        return {name: max(mine.get(name, 0), theirs.get(name, 0)) for name in {**theirs, **mine}}

    with DocumentStore(path, on_conflict=merge) as one, DocumentStore(path) as two:
        one["k"] = {"one": 1}
        one.flush()
        two["k"] = {**two["k"], "two": 1}
        two.flush()
        one["k"] = {"one": 2}
        one.flush()
        one["k"] = {"one": 3}  # from what was assigned, and not from what was merged
        one.flush()
        assert one["k"] == {"one": 3, "two": 1}
        one["k"] = {"one": 4}  # from what was merged: whoever removes something has seen it
        one.flush()
        two.refresh()
        assert two["k"] == {"one": 4}


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


# ---------------------------------------------------------------------------------------------------------------------
# What must not harm a store


def test_a_disk_that_fails_everything_is_left_alone_for_longer_and_longer(path, full):
    full.update(f"{number}.json" for number in range(100))
    failures = []
    with DocumentStore(path, on_error=lambda _key, _error: failures.append(time.monotonic())) as store:
        for number in range(100):
            store[str(number)] = number
        eventually(lambda: len(failures) >= 7)
        assert failures[6] - failures[0] > 0.3  # not as fast as a disk can fail
        full.clear()
        with pytest.raises(OSError, match="No space"):
            store.flush()
        store.flush()
    assert len(files(path)) == 100


def test_a_callback_that_wants_to_end_the_program_does_not_end_the_writer(path):
    def give_up(_key, _mine, _theirs):
        raise SystemExit("no way")

    with DocumentStore(path, on_conflict=give_up) as store:
        store["jo"] = 1
        store.flush()
        (path / "jo.json").write_text("7")
        store["jo"] = 2
        with pytest.raises(RuntimeError, match="no way"):
            store.flush()
        store["other"] = 3
        eventually(lambda: files(path) == ["jo.json", "other.json"])
        (path / "jo.json").write_text("1")  # as it was: no conflict any more
        with suppress(RuntimeError):
            store.flush()
        store.flush()


def test_theirs_that_is_damaged_is_a_conflict_which_nobody_can_decide(path):
    with DocumentStore(path, on_conflict=lambda _key, mine, _theirs: mine) as store:
        store["jo"] = 1
        store.flush()
        (path / "jo.json").write_text("{")
        store["jo"] = 2
        with pytest.raises(DocumentConflict) as caught:
            store.flush()
        assert isinstance(caught.value.__cause__, ValueError)
        store.flush()
    assert (path / "jo.json").read_text() == "{"


@posix_only
def test_a_link_in_the_place_of_a_document_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text('"secret"')
    with DocumentStore(path) as store:
        (path / "jo.json").symlink_to(victim)
        with pytest.raises(OSError, match="link"):
            store["jo"]
        with pytest.raises(OSError, match="link"):
            store["jo"] = 1
        store["mo"] = 1
        store.flush()
        (path / "mo.json").unlink()
        (path / "mo.json").symlink_to(victim)
        store["mo"] = 2
        with pytest.raises(OSError, match="link"):
            store.flush()
        (path / "mo.json").unlink()
        with pytest.raises((OSError, DocumentConflict)):
            store.close()
    assert victim.read_text() == '"secret"'


def test_a_document_that_was_not_there_and_then_came_from_elsewhere_is_a_conflict(path):
    with DocumentStore(path) as store, DocumentStore(path) as other:
        number = store.get("n", 0)
        other["n"] = 5
        other.flush()
        store["n"] = number + 1
        with pytest.raises(DocumentConflict):
            store.flush()
        assert store["n"] == 5


def test_a_document_that_was_read_and_is_not_kept_any_more_is_remembered(path):
    with DocumentStore(path, max_cached=1) as store, DocumentStore(path) as other:
        store.update(n=1, m=1)
        store.flush()
        number = store["n"]
        assert store["m"] == 1
        other["n"] = 100
        other.flush()
        store["n"] = number + 1
        with pytest.raises(DocumentConflict):
            store.flush()
        store["n"] = store["n"] + 1  # read again
        store.flush()
    assert json.loads((path / "n.json").read_text()) == 101


def test_a_companion_of_a_long_key_that_is_wrong_is_mended(path):
    key = "k" * 1000
    with DocumentStore(path) as store:
        store[key] = 1
        store.flush()
        (companion,) = (path / name for name in files(path) if name.endswith("~key"))
        companion.write_bytes(b"")
        assert list(store) == []
        store[key] = 2
        store.flush()
        assert list(store) == [key]


@pytest.mark.parametrize("deletes", [False, True], ids=["write", "deletion"])
def test_a_companion_whose_document_has_gone_goes_with_the_next_change_of_a_long_key(path, deletes):
    with DocumentStore(path) as store:
        store["k" * 1000] = store["l" * 1000] = 1
        store.flush()
        orphan = max(files(path))
        os.unlink(path / orphan.removesuffix("~key"))
    with DocumentStore(path) as store:
        (key,) = store
        if deletes:
            del store[key]
        else:
            store[key] = 2
        store.flush()
        assert orphan not in files(path)
        assert list(store) == ([] if deletes else [key])


def test_a_document_that_the_file_server_does_not_answer_for_keeps_its_long_key(path, monkeypatch):
    kept, changed = "k" * 1000, "l" * 1000
    with DocumentStore(path) as store:
        store[kept] = 1
        store.flush()
        unanswered = {str(path / name) for name in files(path)}
        store[changed] = 1
    lstat = os.lstat

    def forgetful(name, **settings):
        if name in unanswered:
            raise OSError(errno.ESTALE, "stale", name)
        return lstat(name, **settings)

    with DocumentStore(path) as store, monkeypatch.context() as patched:
        patched.setattr(os, "lstat", forgetful)
        store[changed] = 2
        store.flush()
    with DocumentStore(path) as store:
        assert set(store) == {kept, changed}


@posix_only
def test_a_document_that_a_file_server_has_removed_is_written_again_and_nothing_stays_beside(path, monkeypatch):
    document = path / "n.json"

    def replace(self, scratch, target, flags, real=_core.NewFile.replace):
        if target != str(document):
            return real(self, scratch, target, flags)
        document.unlink(missing_ok=True)  # Linux' client of SMB, before it tries again
        return _core.BUSY

    with DocumentStore(path) as store:
        store["n"] = 1
        store.flush()
        with monkeypatch.context() as denied:
            denied.setattr(_core, "_PATIENCE", 0)
            denied.setattr(_core.NewFile, "replace", replace)
            store["n"] = 2
            with pytest.raises(PermissionError, match="The new content is in"):
                store.flush()
        store.flush()
        assert store["n"] == 2
    assert files(path) == ["n.json"]


@posix_only
def test_a_durable_deletion_is_synced(path):
    calls = []
    with DocumentStore(path, durable=True) as store:
        store["jo"] = 1
        store.flush()
        with interposed(calls.append):
            del store["jo"]
            store.flush()
    assert "fsync" in calls


@posix_only
def test_closing_that_is_interrupted_can_be_done_again_and_loses_nothing(path):
    with Child(
        ALARMS
        + """
from holdfast import DocumentStore, FileLock
store = DocumentStore(args[0])
lock = FileLock(args[0] + "/.lock")
lock.acquire()
for number in range(50):
    store[str(number)] = number
armed = True
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    store.close()
except Alarm:
    say("interrupted")
lock.release()
store.close()
say(len(os.listdir(args[0])) - 1)
""",
        path,
    ) as child:
        child.expect("interrupted")
        child.expect("50")
        child.join()


@posix_only
def test_threads_that_fork_at_the_same_time_do_not_wait_for_each_other(path):
    with Child(
        """
        from holdfast import DocumentStore
        stores = [DocumentStore(f"{args[0]}/{number}") for number in range(3)]
        def fork():
            for number in range(20):
                stores[number % 3][str(number)] = number
                pid = os.fork()
                if pid == 0:
                    clean = all(store.stats.pending == 0 for store in stores)
                    os._exit(0 if clean else 1)
                assert os.waitpid(pid, 0)[1] == 0
        threads = [threading.Thread(target=fork) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        for store in stores: store.close()
        say("done")
        """,
        path,
    ) as child:
        child.expect("done")
        child.join()


@posix_only
def test_a_child_sees_what_its_parent_is_about_to_write(path):
    with Child(
        """
        from holdfast import DocumentStore, FileLock
        store = DocumentStore(args[0])
        store["old"] = 0
        store.flush()
        lock = FileLock(args[0] + "/.lock")
        lock.acquire()
        store["new"] = 1
        del store["old"]
        pid = os.fork()
        if pid == 0:
            fine = list(store) == ["new"] and len(store) == 1 and store["new"] == 1 and "old" not in store
            os._exit(0 if fine and store.refresh() <= {"new", "old"} else 1)
        say(os.waitpid(pid, 0)[1])
        lock.release()
        store.close()
        """,
        path,
    ) as child:
        child.expect("0")
        child.join()


def test_what_is_written_at_the_very_end_of_the_interpreter_arrives(path):
    with Child(
        """
        import atexit
        @atexit.register
        def late():
            store["late"] = 2
        from holdfast import DocumentStore
        store = DocumentStore(args[0])
        store["early"] = 1
        """,
        path,
    ) as child:
        child.join()
    assert files(path) == ["early.json", "late.json"]


def test_a_value_may_use_the_store_when_it_goes(path):
    with DocumentStore(path, decode=lambda data: Leaving(store, data)) as store:
        store["jo"] = 1
        assert isinstance(store["jo"], Leaving)
        store["jo"] = 2  # the old value goes, and its end is noted
        gc.collect()  # where nobody counts references
        assert store["gone"].data == b"true"


@posix_only
def test_what_a_file_server_has_removed_instead_of_replacing_it_is_written_again_and_is_no_conflict(path, monkeypatch):
    denied = []

    def replace(self, scratch, target, flags, real=_core.NewFile.replace):
        if denied or not target.endswith("jo.json"):
            return real(self, scratch, target, flags)
        denied.append(target)
        os.unlink(target)
        return _core.BUSY

    with DocumentStore(path) as store:
        store["jo"] = 1
        store.flush()
        monkeypatch.setattr(_core, "_PATIENCE", 0)
        monkeypatch.setattr(_core.NewFile, "replace", replace)
        store["jo"] = 2
        with pytest.raises(PermissionError, match="removed it"):
            store.flush()
        store.flush()
    assert denied
    with DocumentStore(path) as store:
        assert store["jo"] == 2


class Leaving:
    def __init__(self, store, data):
        self.store, self.data = store, data

    def __del__(self):
        if self.data == b"1":
            self.store["gone"] = True
