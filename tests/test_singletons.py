"""is_singleton=True: one instance per class and lock file."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from pathlib import Path

import pytest

from conftest import posix_only
from holdfast import FileLock, SoftFileLock, Timeout
from support import PATIENCE, Child, in_another_thread, is_free


def test_the_same_path_gives_the_same_instance(path):
    assert FileLock(path, is_singleton=True) is FileLock(path, is_singleton=True)


def test_without_is_singleton_the_same_path_gives_different_instances(path):
    assert FileLock(path) is not FileLock(path)
    assert FileLock(path, is_singleton=True) is not FileLock(path)


def test_different_paths_give_different_instances(path):
    first = FileLock(path, is_singleton=True)
    assert FileLock(path + "2", is_singleton=True) is not first


def test_a_singleton_knows_that_it_is_one(path):
    lock = FileLock(path, is_singleton=True)
    assert lock.is_singleton
    assert not FileLock(path).is_singleton


def test_other_spellings_of_the_path_give_the_same_instance(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "the.lock")
    lock = FileLock(path, is_singleton=True)
    spellings = [Path(path), os.fsencode(path), "the.lock", "./the.lock", tmp_path / "sub" / ".." / "the.lock"]
    assert [FileLock(spelling, is_singleton=True) for spelling in spellings] == [lock] * len(spellings)


@posix_only
def test_a_linked_directory_gives_the_same_instance(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    lock = FileLock(tmp_path / "real" / "the.lock", is_singleton=True)
    assert FileLock(tmp_path / "link" / "the.lock", is_singleton=True) is lock


@posix_only
def test_a_link_at_the_path_itself_is_another_lock(tmp_path):
    lock = FileLock(tmp_path / "the.lock", is_singleton=True)
    (tmp_path / "link.lock").symlink_to("the.lock")
    assert FileLock(tmp_path / "link.lock", is_singleton=True) is not lock


def test_after_chdir_a_relative_path_gives_another_instance(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    lock = FileLock("the.lock", is_singleton=True)
    monkeypatch.chdir("sub")
    assert FileLock("the.lock", is_singleton=True) is not lock


def test_two_places_of_a_thread_nest_in_one_singleton(path):
    with FileLock(path, is_singleton=True) as lock, FileLock(path, is_singleton=True):
        assert lock.lock_counter == 2
    assert is_free(path)


def test_each_thread_still_holds_a_singleton_for_itself(path):
    with FileLock(path, is_singleton=True), pytest.raises(Timeout):
        in_another_thread(lambda: FileLock(path, is_singleton=True).acquire(blocking=False))


DIFFERENT = [
    {"timeout": 5},
    {"mode": 0o600},
    {"thread_local": False},
    {"blocking": False},
    {"poll_interval": 1},
    {"shared": True},
    {"kind": "ofd"},
]


@pytest.mark.parametrize("arguments", DIFFERENT, ids=str)
def test_different_arguments_are_refused_and_named(path, arguments):
    lock = FileLock(path, is_singleton=True)
    with pytest.raises(ValueError, match=next(iter(arguments))) as caught:
        FileLock(path, is_singleton=True, **arguments)
    assert repr(path) in str(caught.value)
    assert FileLock(path, is_singleton=True) is lock


@pytest.mark.parametrize("arguments", DIFFERENT, ids=str)
def test_the_same_unusual_arguments_give_the_same_instance(path, arguments):
    lock = FileLock(path, is_singleton=True, **arguments)
    assert FileLock(path, is_singleton=True, **arguments) is lock
    with pytest.raises(ValueError, match=next(iter(arguments))):
        FileLock(path, is_singleton=True)


@pytest.mark.parametrize("forever", [-1, -2.5, -1.0])
def test_all_negative_timeouts_mean_the_same(path, forever):
    lock = FileLock(path, is_singleton=True)
    assert FileLock(path, forever, is_singleton=True) is lock


def test_an_infinite_timeout_means_the_same_as_a_negative_one(path):
    lock = FileLock(path, is_singleton=True)
    assert FileLock(path, float("inf"), is_singleton=True) is lock


def test_a_changed_property_is_what_later_arguments_are_compared_with(path):
    lock = FileLock(path, is_singleton=True)
    lock.timeout = 5
    assert FileLock(path, 5, is_singleton=True) is lock
    with pytest.raises(ValueError, match="timeout"):
        FileLock(path, is_singleton=True)


def test_wrong_arguments_are_judged_before_the_instance_is_looked_up(path):
    lock = FileLock(path, is_singleton=True)
    with pytest.raises(TypeError):
        FileLock(path, is_singleton=True, timeout="soon")
    assert FileLock(path, is_singleton=True) is lock


def test_a_dropped_singleton_is_forgotten(path):
    FileLock(path, is_singleton=True, timeout=5).acquire()
    gc.collect()
    assert is_free(path)
    assert FileLock(path, is_singleton=True, timeout=6).timeout == 6


def test_each_class_has_singletons_of_its_own(path):
    class MyLock(FileLock):
        pass

    instances = [cls(path, is_singleton=True) for cls in (FileLock, MyLock, SoftFileLock)]
    assert [type(instance) for instance in instances] == [FileLock, MyLock, SoftFileLock]
    assert MyLock(path, is_singleton=True) is instances[1]


@pytest.mark.parametrize("duplicate", [copy.copy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_of_a_singleton_is_the_singleton(path, duplicate):
    lock = FileLock(path, is_singleton=True)
    assert duplicate(lock) is lock


def test_threads_that_ask_at_the_same_moment_get_the_same_instance(path):
    threads = 8
    for attempt in range(50):
        barrier = threading.Barrier(threads)
        got = []

        def ask(name=f"{path}{attempt}", barrier=barrier, got=got):
            barrier.wait(PATIENCE)
            got.append(FileLock(name, is_singleton=True))

        workers = [threading.Thread(target=ask) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(got) == threads
        assert len(set(map(id, got))) == 1


@posix_only
def test_a_forked_child_gets_a_singleton_that_holds_nothing(path):
    code = """
        from holdfast import FileLock
        lock = FileLock(args[0], is_singleton=True)
        lock.acquire()
        if os.fork() == 0:
            same = FileLock(args[0], is_singleton=True)
            say(f"{same is lock} {same.lock_counter}")
            os._exit(0)
        os.wait()
        say(lock.lock_counter)
    """
    with Child(code, path) as child:
        child.expect("True 0")
        child.expect("1")
        child.join()


@posix_only
def test_fork_does_not_inherit_the_moment_of_another_thread_that_makes_singletons(path):
    code = """
        from holdfast import FileLock
        FileLock(args[0], is_singleton=True)
        def make():
            while True:
                FileLock(args[0], is_singleton=True)
        for _ in range(2):
            threading.Thread(target=make, daemon=True).start()
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                FileLock(args[0] + "2", is_singleton=True)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        say("done")
        os._exit(0)
    """
    with Child(code, path) as child:
        child.expect("done")


@posix_only
def test_a_child_forked_while_the_first_singleton_is_made_can_make_one(path):
    code = """
        import random, signal
        from holdfast import FileLock
        threading.Thread(target=FileLock, args=(args[0],), kwargs={"is_singleton": True}, daemon=True).start()
        time.sleep(random.uniform(0, 0.002))
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)  # it takes microseconds
            FileLock(args[0] + "2", is_singleton=True)
            os._exit(0)
        say(os.waitpid(pid, 0)[1])
    """
    for _ in range(20):
        with Child(code, path) as child:
            child.expect("0")
