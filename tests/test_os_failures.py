"""Calls to the system that Python makes itself: what a failure, or half of a success, of one of them does.

tests/faults/ lets each call of each operation fail in each way. Here is what that has shown, one by one.
"""

from __future__ import annotations

import errno
import os
import sys

import pytest

from conftest import linux_only, posix_only
from holdfast import DocumentStore, FileLock, JsonlFile, SoftFileLock, StateFile, Timeout, write_text
from support import Child

if os.name == "posix":
    from interposed import Failure, interposed


def failing(monkeypatch, name, error=errno.EIO):
    """Let a function of the module os fail, which is made all the same if it closes something."""
    real = getattr(os, name)

    def fail(*arguments, **settings):
        if name == "close":
            real(*arguments, **settings)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, name, fail)


READERS = {
    "a state": lambda folder: StateFile(folder / "file.json").load().data,
    "a log": lambda folder: list(JsonlFile(folder / "file.json"))[-1],
    "a log's check": lambda folder: {"n": JsonlFile(folder / "file.json").verify().records},
    "a document": lambda folder: DocumentStore(folder)["file"],
}


@pytest.fixture
def folder(tmp_path):
    write_text(tmp_path / "file.json", '{"n":1}\n')
    return tmp_path


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("call", ["fstat", "read", "pread"])
@posix_only
def test_an_error_while_a_file_is_read_says_which_file_it_is(folder, read, call, monkeypatch):
    assert read(folder) == {"n": 1}
    said = ""
    with monkeypatch.context() as context:
        failing(context, call)
        try:
            read(folder)
        except OSError as error:
            said = str(error)
    assert not said or str(folder / "file.json") in said  # not everybody makes that call


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@posix_only
def test_an_error_of_closing_what_was_only_read_is_none(folder, read, monkeypatch):
    with monkeypatch.context() as context:
        failing(context, "close", errno.EINTR)
        assert read(folder) == {"n": 1}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@posix_only
def test_a_read_that_gives_less_than_there_is_is_continued(folder, read, monkeypatch):
    for name in "read", "pread":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda file, size, *where, real=real: real(file, min(size, 3), *where))
    assert read(folder) == {"n": 1}


@posix_only
def test_what_a_file_system_says_only_of_a_close_leaves_the_old_file(folder):
    with Failure("close", errno.EDQUOT, 1).injected(), pytest.raises(OSError, match=r"quota.*file\.json"):
        write_text(folder / "file.json", "new", durable=False)
    assert (folder / "file.json").read_text() == '{"n":1}\n'
    assert os.listdir(folder) == ["file.json"]


@posix_only
@pytest.mark.parametrize("durable", [False, True])
def test_an_error_of_the_last_close_of_a_file_that_has_been_replaced_is_none(folder, durable, monkeypatch):
    with monkeypatch.context() as context:
        failing(context, "close", errno.EINTR)
        write_text(folder / "file.json", "new", durable=durable)
    assert (folder / "file.json").read_text() == "new"


@posix_only
@pytest.mark.parametrize("what", ["repair", "delete"])
def test_a_file_system_that_syncs_no_directories_is_none_that_fails(folder, what, monkeypatch):
    real = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    with interposed(lambda name: errno.EINVAL if name == "fsync" else None):
        if what == "repair":
            (folder / "file.json").write_text('{"n":1}\n{oops\n')
            assert JsonlFile(folder / "file.json").repair().moved == 5
        else:
            with DocumentStore(folder, durable=True) as store:
                del store["file"]
                store.flush()
                assert not (folder / "file.json").exists()


DEAD_OWNER = "from holdfast import SoftFileLock\nlock = SoftFileLock(args[0])\nlock.acquire()\nsay('held')\nos._exit(0)"


@posix_only
def test_a_marker_that_cannot_be_read_is_an_error_that_names_it(path):
    with Child(DEAD_OWNER, path) as child:
        child.expect("held")
        child.join()
    with Failure("fstat", errno.EIO, 3).injected(), pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        SoftFileLock(path).acquire()
    assert caught.value.filename == path
    with SoftFileLock(path, timeout=10):
        pass


@linux_only
def test_a_timeout_that_cannot_find_out_who_holds_the_lock_is_one_all_the_same(path):
    with Child("from holdfast import FileLock\nwith FileLock(args[0]): say('held'), hear()", path) as child:
        child.expect("held")
        with Failure("fstat", errno.EIO, 3).injected(), pytest.raises(Timeout, match=r"the\.lock"):
            FileLock(path).acquire(timeout=0.01)
        child.tell()


def test_a_timeout_is_one_also_when_there_is_no_descriptor_left_to_import_anything(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "holdfast._holders", None)
    with FileLock(path), pytest.raises(Timeout, match=r"the\.lock") as caught:
        FileLock(path).acquire(timeout=0.01)
    assert caught.value.holders == []


@posix_only
def test_who_dies_while_rotating_where_no_rename_keeps_what_is_there_leaves_each_record_once(tmp_path):
    turn, died = 0, True
    while died:
        turn += 1
        path = tmp_path / str(turn) / "events.jsonl"
        path.parent.mkdir()
        JsonlFile(path).append(1)
        pid = os.fork()
        if pid == 0:
            left = iter(range(turn))

            def meddle(name, left=left):
                if next(left, None) is None:
                    os._exit(3)
                return errno.EINVAL if name == "rename_new" else None

            with interposed(meddle):
                JsonlFile(path).rotate()
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert list(JsonlFile(path)) == [1]
    assert len(os.listdir(path.parent)) == 1
    assert turn > 5
