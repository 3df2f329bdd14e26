"""ReadWriteLock: many readers or one writer."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from conftest import posix_only
from holdfast import AcquireReturnProxy, ReadWriteLock, Timeout
from support import PATIENCE, Child, in_another_thread, until_it_waits

HOLD = """
    from holdfast import ReadWriteLock
    with getattr(ReadWriteLock(args[0]), args[1])():
        say("held")
        hear()
    say("released")
"""


@pytest.fixture
def lock(path):
    return ReadWriteLock(path)


def may(path, how):
    """Whether another instance, in another thread, can have the lock now. `how` is "read" or "write"."""
    other = ReadWriteLock(path, is_singleton=False)

    def attempt():
        try:
            getattr(other, f"acquire_{how}")(blocking=False)
        except Timeout:
            return False
        other.close()
        return True

    return in_another_thread(attempt)


# ---------------------------------------------------------------------------------------------------------------------
# Who excludes whom


@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [("read", "read", True), ("read", "write", False), ("write", "read", False), ("write", "write", False)],
)
def test_processes_share_reading_and_nothing_else(path, held, wanted, granted):
    with Child(HOLD, path, f"{held}_lock") as child:
        child.expect("held")
        assert may(path, wanted) is granted
        child.tell()
        child.expect("released")
    assert may(path, wanted)


@pytest.mark.parametrize("singleton", [True, False], ids=["one instance", "two instances"])
@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [("read", "read", True), ("read", "write", False), ("write", "read", False), ("write", "write", False)],
)
def test_threads_share_reading_and_nothing_else(path, lock, held, wanted, granted, singleton):
    other = lock if singleton else ReadWriteLock(path, is_singleton=False)
    with getattr(lock, f"{held}_lock")():

        def attempt():
            with getattr(other, f"{wanted}_lock")(blocking=False):
                return other.lock_counter

        if granted:
            assert in_another_thread(attempt) == 1
        else:
            with pytest.raises(Timeout):
                in_another_thread(attempt)


def test_readers_never_see_what_a_writer_has_not_finished(tmp_path, path):
    """A writer changes two files, one after the other; whoever reads them reads the same."""
    rounds, writers, readers = 60, 2, 3
    for name in ("one", "two"):
        (tmp_path / name).write_text("0")
    write = """
    from holdfast import ReadWriteLock
    lock = ReadWriteLock(args[0])
    say("ready"), hear()
    for _ in range(int(args[2])):
        with lock.write_lock(timeout=60):
            count = int(open(f"{args[1]}/one").read()) + 1
            for name in ("one", "two"):
                with open(f"{args[1]}/{name}", "w") as file:
                    file.write(str(count))
                time.sleep(0)
        time.sleep(0)
    """
    read = """
    from holdfast import ReadWriteLock
    lock = ReadWriteLock(args[0])
    say("ready"), hear()
    for _ in range(int(args[2])):
        with lock.read_lock(timeout=60):
            one = open(f"{args[1]}/one").read()
            time.sleep(0)
            two = open(f"{args[1]}/two").read()
            assert one == two != "", (one, two)
        time.sleep(0)
    """
    children = [Child(code, path, tmp_path, rounds) for code in [write] * writers + [read] * readers]
    for child in children:
        child.expect("ready")
    for child in children:
        child.tell()
    for child in children:
        with child:
            child.join()
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == str(rounds * writers)


def test_threads_read_together_and_write_alone(lock):
    readers, writers, wrong = [], [], []

    def read():
        for _ in range(50):
            with lock.read_lock(timeout=PATIENCE):
                readers.append(None)
                time.sleep(0)
                if writers:
                    wrong.append("a writer among readers")
                readers.pop()

    def write():
        for _ in range(50):
            with lock.write_lock(timeout=PATIENCE):
                writers.append(None)
                time.sleep(0)
                if readers or len(writers) > 1:
                    wrong.append("a writer who is not alone")
                writers.pop()

    threads = [threading.Thread(target=work) for work in (read, write, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_readers_hold_the_lock_at_the_same_time(path):
    everybody = threading.Barrier(4)

    def read():
        with ReadWriteLock(path, is_singleton=False).read_lock(timeout=PATIENCE):
            everybody.wait(PATIENCE)  # passes only while all of them hold the lock

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    read()
    for thread in threads:
        thread.join(PATIENCE)
    assert not everybody.broken


def test_a_writer_waits_for_the_last_reader(path, lock):
    with Child(HOLD, path, "read_lock") as one, Child(HOLD, path, "read_lock") as two:
        one.expect("held")
        two.expect("held")
        one.tell()
        one.expect("released")
        with pytest.raises(Timeout):
            lock.acquire_write(blocking=False)
        two.tell()
        with lock.write_lock(timeout=PATIENCE):
            assert lock.is_locked


def test_the_lock_of_a_killed_writer_is_free(path, lock):
    with Child(HOLD, path, "write_lock") as child:
        child.expect("held")
        child.kill()
        with lock.write_lock(timeout=PATIENCE):
            pass


@posix_only
def test_a_forked_child_holds_nothing_and_releases_nothing(path):
    with Child(
        """
        from holdfast import ReadWriteLock, Timeout
        lock = ReadWriteLock(args[0])
        with lock.write_lock():
            pid = os.fork()
            if pid == 0:
                assert not lock.is_locked
                lock.release(force=True)
                try:
                    lock.acquire_read(blocking=False)
                except Timeout:
                    lock.close()
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert lock.is_locked
            say("forked"), hear()
        """,
        path,
    ) as child:
        child.expect("forked")
        assert not may(path, "read")
        child.tell()
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Nesting


@pytest.mark.parametrize("how", ["read", "write"])
def test_holds_of_one_kind_nest(path, lock, how):
    acquire = getattr(lock, f"acquire_{how}")
    for count in (1, 2, 3):
        acquire()
        assert lock.lock_counter == count
    for count in (2, 1):
        lock.release()
        assert lock.lock_counter == count
        assert lock.is_locked
        assert not may(path, "write")
    lock.release()
    assert not lock.is_locked
    assert may(path, "write")


def test_nested_reading_needs_no_second_lock_and_cannot_wait(path, lock):
    with lock.read_lock(), Child(HOLD, path, "write_lock") as writer:
        until_it_waits(writer, path)
        with lock.read_lock(blocking=False):
            assert lock.lock_counter == 2


@pytest.mark.parametrize("arguments", [{}, {"blocking": False}, {"timeout": 0}, {"timeout": 5}])
@pytest.mark.parametrize(("held", "wanted"), [("read", "write"), ("write", "read")])
def test_neither_upgrade_nor_downgrade_is_possible(path, lock, held, wanted, arguments):
    with getattr(lock, f"{held}_lock")():
        with pytest.raises(RuntimeError, match="other mode"):
            getattr(lock, f"acquire_{wanted}")(**arguments)
        assert lock.lock_counter == 1
        assert may(path, "read") is (held == "read")
    assert may(path, "write")


@pytest.mark.parametrize(("held", "wanted"), [("read", "write"), ("write", "read"), ("write", "write")])
def test_a_thread_that_would_wait_for_its_other_instance_for_ever_gets_a_runtime_error(path, lock, held, wanted):
    other = ReadWriteLock(path, is_singleton=False)
    with getattr(lock, f"{held}_lock")(), pytest.raises(RuntimeError, match="Deadlock"):
        getattr(other, f"acquire_{wanted}")()
    assert not other.is_locked


def test_after_its_release_the_lock_can_be_held_in_the_other_mode(lock):
    with lock.read_lock():
        pass
    with lock.write_lock():
        pass
    with lock.read_lock():
        assert lock.is_locked


# ---------------------------------------------------------------------------------------------------------------------
# Releasing


def test_release_without_a_hold_does_nothing(lock):
    lock.release()
    lock.release(force=True)
    assert lock.lock_counter == 0


@pytest.mark.parametrize("how", ["read", "write"])
def test_force_releases_all_holds_of_the_thread(path, lock, how):
    getattr(lock, f"acquire_{how}")()
    getattr(lock, f"acquire_{how}")()
    lock.release(force=True)
    assert lock.lock_counter == 0
    assert may(path, "write")


def test_release_concerns_only_the_thread_that_calls_it(path, lock):
    with lock.read_lock():
        in_another_thread(lock.release)
        in_another_thread(lambda: lock.release(force=True))
        assert lock.is_locked
        assert in_another_thread(lambda: lock.is_locked) is False
        assert not may(path, "write")


@pytest.mark.parametrize("how", ["read", "write"])
def test_close_releases_and_the_lock_can_be_acquired_again(path, lock, how):
    getattr(lock, f"acquire_{how}")()
    getattr(lock, f"acquire_{how}")()
    lock.close()
    lock.close()
    assert may(path, "write")
    with getattr(lock, f"{how}_lock")():
        assert not may(path, "write")


def test_a_lock_that_is_forgotten_is_released(path):
    lock = ReadWriteLock(path, is_singleton=False)
    lock.acquire_write()
    del lock
    gc.collect()  # where nobody counts references, it happens then
    assert may(path, "write")


@pytest.mark.parametrize("how", ["read", "write"])
def test_an_exception_in_the_block_releases_the_lock(path, lock, how):
    with pytest.raises(KeyError), getattr(lock, f"{how}_lock")():
        raise KeyError
    assert may(path, "write")


# ---------------------------------------------------------------------------------------------------------------------
# Context managers


@pytest.mark.parametrize("how", ["read", "write"])
def test_acquire_returns_a_proxy_that_releases_and_does_not_acquire_again(path, lock, how):
    proxy = getattr(lock, f"acquire_{how}")()
    assert isinstance(proxy, AcquireReturnProxy)
    assert proxy.lock is lock
    with proxy as held:
        assert held is lock
        assert lock.lock_counter == 1
    assert may(path, "write")


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_context_manager_acquires_when_it_is_entered_and_not_before(lock, how):
    context = getattr(lock, f"{how}_lock")()
    assert not lock.is_locked
    with context as held:
        assert held is lock
        assert lock.is_locked
    assert not lock.is_locked


def test_a_context_manager_can_be_entered_again(lock):
    context = lock.read_lock()
    for _ in range(2):
        with context, context:
            assert lock.lock_counter == 2
    assert lock.lock_counter == 0


def test_a_failed_context_manager_releases_nothing(path, lock):
    with lock.read_lock():
        with pytest.raises(RuntimeError), lock.write_lock():
            pytest.fail("upgraded")
        assert lock.lock_counter == 1


# ---------------------------------------------------------------------------------------------------------------------
# Timeouts


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_timeout_comes_not_before_its_time(path, lock, how):
    with Child(HOLD, path, "write_lock") as child:
        child.expect("held")
        start = time.monotonic()
        with pytest.raises(Timeout) as caught:
            getattr(lock, f"acquire_{how}")(timeout=0.1)
        assert time.monotonic() - start >= 0.1
        assert caught.value.lock_file == path
        assert not lock.is_locked
        start = time.monotonic()
        with pytest.raises(Timeout), getattr(lock, f"{how}_lock")(timeout=0.1):
            pytest.fail("acquired")
        assert time.monotonic() - start >= 0.1


def test_the_timeout_of_the_lock_holds_where_none_is_given(path):
    with Child(HOLD, path, "write_lock") as child:
        child.expect("held")
        lock = ReadWriteLock(path, timeout=0.1)
        start = time.monotonic()
        with pytest.raises(Timeout):
            lock.acquire_read()
        with pytest.raises(Timeout), lock.write_lock():
            pytest.fail("acquired")
        assert time.monotonic() - start >= 0.2


def test_a_lock_that_does_not_block_tries_once(path):
    with Child(HOLD, path, "read_lock") as child:
        child.expect("held")
        lock = ReadWriteLock(path, blocking=False)
        with pytest.raises(Timeout):
            lock.acquire_write()
        with lock.acquire_read():
            assert lock.is_locked


def test_a_waiter_gets_the_lock_when_it_is_released(path, lock):
    with Child(HOLD, path, "write_lock") as child:
        child.expect("held")
        threading.Timer(0.02, child.tell).start()
        with lock.read_lock(timeout=PATIENCE):
            assert lock.is_locked


@pytest.mark.parametrize("bad", ["1", True])
def test_a_timeout_is_a_number(lock, path, bad):
    with pytest.raises(TypeError, match="timeout"):
        ReadWriteLock(path, timeout=bad, is_singleton=False)
    with pytest.raises(TypeError, match="timeout"):
        lock.acquire_read(timeout=bad)
    assert not lock.is_locked


def test_blocking_is_a_bool(lock):
    with pytest.raises(TypeError, match="blocking"):
        lock.acquire_read(blocking=1)
    assert not lock.is_locked


# ---------------------------------------------------------------------------------------------------------------------
# Instances


@posix_only
def test_there_is_one_instance_for_a_file_however_its_path_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    lock = ReadWriteLock(tmp_path / "real" / "the.lock")
    assert ReadWriteLock("real/the.lock") is lock
    assert ReadWriteLock("real/../link/./the.lock") is lock
    assert ReadWriteLock(os.fsencode(tmp_path / "link" / "the.lock")) is lock
    assert lock.is_singleton


def test_different_files_have_different_instances(tmp_path):
    assert ReadWriteLock(tmp_path / "a.lock") is not ReadWriteLock(tmp_path / "b.lock")


def test_without_singletons_each_call_makes_an_instance(path, lock):
    other = ReadWriteLock(path, is_singleton=False)
    assert other is not lock
    assert not other.is_singleton
    assert ReadWriteLock(path) is lock


@pytest.mark.parametrize("other", [{"timeout": 3}, {"blocking": False}])
def test_the_instance_asked_for_with_other_arguments_is_refused(path, lock, other):
    with pytest.raises(ValueError, match=f"{next(iter(other))} is "):
        ReadWriteLock(path, **other)
    assert ReadWriteLock(path) is lock


def test_an_instance_that_nobody_uses_any_more_does_not_bind_the_next(path):
    lock = ReadWriteLock(path, timeout=3)
    del lock
    gc.collect()  # where nobody counts references
    assert ReadWriteLock(path, timeout=5).timeout == 5


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
@pytest.mark.parametrize("singleton", [True, False])
def test_a_copy_is_a_lock_on_the_same_file(path, duplicate, singleton):
    lock = ReadWriteLock(path, 3, blocking=False, is_singleton=singleton)
    other = duplicate(lock)
    assert (other.lock_file, other.timeout, other.blocking, other.is_singleton) == (path, 3, False, singleton)
    assert (other is lock) is singleton


def test_the_file_and_its_directory_are_created(tmp_path):
    path = tmp_path / "some" / "where" / "the.lock"
    with ReadWriteLock(path).read_lock():
        assert path.exists()


def test_the_file_stays_when_the_lock_is_released(path, lock):
    with lock.write_lock():
        pass
    assert Path(path).read_bytes() == b""


def test_its_repr_names_the_file(path, lock):
    assert repr(lock) == f"<ReadWriteLock {path!r}>"


def test_it_can_be_held_while_a_function_runs(path, lock):
    @lock.read_lock()
    def read():
        assert lock.is_locked
        return "what was read"

    assert read() == "what was read"
    assert not lock.is_locked


def test_get_lock_is_the_constructor_by_filelocks_name(path):
    assert ReadWriteLock.get_lock(path, timeout=3) is ReadWriteLock(path, timeout=3)
