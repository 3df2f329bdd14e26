"""lock_all(): several locks, all or none; and HOLDFAST_DEBUG=order, for those who take them one by one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conftest import posix_only
from holdfast import FileLock, LockSet, SoftFileLock, Timeout, lock_all
from support import PATIENCE, Child, held_elsewhere, is_free


@pytest.fixture
def paths(tmp_path):
    return [str(tmp_path / f"{name}.lock") for name in "abc"]


def free(paths):
    """The paths that somebody else could lock now."""
    return [path for path in paths if is_free(path)]


# ---------------------------------------------------------------------------------------------------------------------
# All or none


def test_all_are_held_in_the_block_and_none_after(paths):
    with lock_all(*paths) as held:
        assert isinstance(held, LockSet)
        assert held.is_locked
        assert free(paths) == []
    assert not held.is_locked
    assert free(paths) == paths


def test_they_are_held_from_the_call_on(paths):
    held = lock_all(*paths)
    assert free(paths) == []
    held.release()
    assert free(paths) == paths


def test_an_exception_in_the_block_releases_all(paths):
    with pytest.raises(KeyError), lock_all(*paths):
        raise KeyError
    assert free(paths) == paths


def test_a_second_release_does_nothing(paths):
    held = lock_all(*paths)
    held.release()
    with FileLock(paths[0]) as lock:
        held.release()
        assert lock.is_locked
        assert free(paths) == paths[1:]


def test_no_locks_are_held_at_once(paths):
    with lock_all() as held:
        assert held.locks == []
    held.release()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_when_one_cannot_be_had_none_is_held_and_the_error_names_it(paths, missing):
    with held_elsewhere(paths[missing]) as child:
        with pytest.raises(Timeout) as caught:
            lock_all(*paths, timeout=0.05)
        assert caught.value.lock_file == paths[missing]
        assert caught.value.timeout == 0.05
        assert free(paths) == [path for path in paths if path != paths[missing]]
        if sys.platform == "linux":
            assert [holder.pid for holder in caught.value.holders] == [child.pid]


def test_an_error_other_than_a_timeout_leaves_none_held_either(tmp_path, paths):
    (tmp_path / "z.lock").mkdir()
    with pytest.raises(IsADirectoryError):
        lock_all(*paths, tmp_path / "z.lock")
    assert free(paths) == paths


def test_the_timeout_is_one_deadline_for_all(paths):
    """What is left for each lock, added to the moment it is asked for, is the same for all."""
    earliest, latest = [], []
    before = time.monotonic()

    class Watched(FileLock):
        def acquire(self, timeout=None, **rest):
            nonlocal before
            earliest.append(before + timeout)
            latest.append(time.monotonic() + timeout)
            proxy = super().acquire(timeout, **rest)
            before = time.monotonic()
            return proxy

    with lock_all(*map(Watched, paths), timeout=100):
        assert len(earliest) == 3
        assert max(earliest) <= min(latest)


def test_the_timeout_comes_not_before_its_time(paths):
    with held_elsewhere(paths[2]):
        start = time.monotonic()
        with pytest.raises(Timeout, match=r"within 0\.1 seconds"):
            lock_all(*paths, timeout=0.1)
        assert time.monotonic() - start >= 0.1


def test_a_timeout_of_zero_tries_each_once(paths):
    with lock_all(*paths, timeout=0):
        assert free(paths) == []
    with held_elsewhere(paths[1]), pytest.raises(Timeout) as caught:
        lock_all(*paths, timeout=0)
    assert caught.value.lock_file == paths[1]


def test_the_one_deadline_replaces_what_the_locks_say_themselves(paths):
    """A lock that would give up at once by itself is waited for."""
    with held_elsewhere(paths[0]) as child:
        child.tell()
        with lock_all(FileLock(paths[0], blocking=False), FileLock(paths[1], timeout=0), timeout=PATIENCE):
            assert free(paths) == paths[2:]


@pytest.mark.parametrize("bad", ["1", True])
def test_a_timeout_is_a_number(paths, bad):
    with pytest.raises(TypeError, match="timeout"):
        lock_all(*paths, timeout=bad)
    assert free(paths) == paths


def test_what_is_neither_a_lock_nor_a_path_is_refused(paths):
    with pytest.raises(TypeError):
        lock_all(*paths, 5)
    assert free(paths) == paths


# ---------------------------------------------------------------------------------------------------------------------
# Order


def test_the_order_is_that_of_the_paths_whatever_the_order_given(paths):
    a, b, c = paths
    for given in ([a, b, c], [c, b, a], [b, c, a]):
        with lock_all(*given) as held:
            assert [lock.lock_file for lock in held.locks] == paths


@posix_only
def test_the_order_is_that_of_the_resolved_paths(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "m").mkdir()
    with lock_all(tmp_path / "a" / "the.lock", tmp_path / "m" / "the.lock") as held:
        assert [Path(lock.lock_file).parent.name for lock in held.locks] == ["m", "a"]


@pytest.mark.parametrize("make", ["FileLock", "SoftFileLock", "str"])
def test_processes_that_ask_in_opposite_orders_never_deadlock(tmp_path, paths, make):
    for name in "abc":
        (tmp_path / name).write_text("0")
    rounds = 60
    code = """
    from holdfast import FileLock, SoftFileLock, lock_all
    make = {"FileLock": FileLock, "str": str, "SoftFileLock": lambda path: SoftFileLock(path, poll_interval=0.002)}
    os.chdir(args[0])
    locks = [make[args[1]](f"{name}.lock") for name in args[3]]
    say("ready"), hear()
    for _ in range(int(args[2])):
        with lock_all(*locks, timeout=60):
            for name in args[3]:
                with open(name) as file:
                    count = int(file.read())
                with open(name, "w") as file:
                    file.write(str(count + 1))
    """
    children = [Child(code, tmp_path, make, rounds, order) for order in ("abc", "cba", "bca", "ca")]
    for child in children:
        child.expect("ready")
    for child in children:
        child.tell()
    for child in children:
        with child:
            child.join()
    assert [int((tmp_path / name).read_text()) for name in "abc"] == [rounds * 4, rounds * 3, rounds * 4]


# ---------------------------------------------------------------------------------------------------------------------
# What is given


def test_a_path_given_twice_counts_once(paths):
    with lock_all(paths[0], paths[1], paths[0]) as held:
        assert [lock.lock_file for lock in held.locks] == paths[:2]
    assert free(paths) == paths


def test_a_lock_given_twice_is_acquired_once(paths):
    lock = FileLock(paths[0])
    with lock_all(lock, lock):
        assert lock.lock_counter == 1
    assert lock.lock_counter == 0


def test_other_spellings_of_a_path_count_once(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with lock_all(paths[0], "a.lock", "./a.lock", Path(paths[0]), f"{tmp_path}/x/../a.lock") as held:
        assert len(held.locks) == 1


@posix_only
def test_a_path_through_a_linked_directory_counts_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with lock_all(tmp_path / "link" / "the.lock", tmp_path / "real" / "the.lock") as held:
        assert len(held.locks) == 1
    assert is_free(tmp_path / "real" / "the.lock")


def test_a_lock_and_its_path_count_once_and_it_is_the_lock_that_is_held(paths):
    lock = FileLock(paths[0])
    with lock_all(lock, paths[0]) as held:
        assert held.locks == [lock]
        assert lock.is_locked


def test_locks_of_all_kinds_and_paths_can_be_mixed(paths):
    a, b, c = paths
    kernel, soft = FileLock(b), SoftFileLock(c)
    with lock_all(soft, a, kernel) as held:
        assert held.locks[1:] == [kernel, soft]
        assert kernel.is_locked
        assert soft.is_locked
        assert not is_free(a)
    assert not kernel.is_locked
    assert not os.path.exists(c)


def test_shared_locks_stay_shared(paths):
    with lock_all(FileLock(paths[0], shared=True), paths[1]):
        assert is_free(paths[0], shared=True)
        assert not is_free(paths[0])


def test_locks_that_are_held_already_are_nested_and_stay_held(paths):
    a, b = FileLock(paths[0]), FileLock(paths[1])
    with b:
        with lock_all(a, b):
            assert (a.lock_counter, b.lock_counter) == (1, 2)
        assert (a.lock_counter, b.lock_counter) == (0, 1)
        assert free(paths) == [paths[0], paths[2]]


def test_a_timeout_leaves_the_locks_held_before_as_they_were(paths):
    a = FileLock(paths[0])
    with a, held_elsewhere(paths[1]):
        with pytest.raises(Timeout):
            lock_all(a, paths[1], timeout=0)
        assert a.lock_counter == 1


def test_a_path_that_this_thread_holds_through_another_instance_is_a_runtime_error_and_no_deadlock(paths):
    with FileLock(paths[1]):
        with pytest.raises(RuntimeError, match="Deadlock"):
            lock_all(*paths)
        assert free(paths) == [paths[0], paths[2]]


def test_a_path_asked_for_shared_and_alone_is_held_alone(paths):
    with lock_all(FileLock(paths[0], shared=True), FileLock(paths[0])):
        assert not is_free(paths[0], shared=True)


def test_its_repr_names_the_files_and_says_whether_they_are_held(paths):
    held = lock_all(*paths)
    assert repr(held) == f"<LockSet {paths!r} held>"
    held.release()
    assert repr(held) == f"<LockSet {paths!r} not held>"


# ---------------------------------------------------------------------------------------------------------------------
# HOLDFAST_DEBUG=order


PROGRAM = """\
import os, sys, threading
from holdfast import FileLock, ReadWriteLock, SoftFileLock, lock_all
a, b, c = FileLock("a.lock"), FileLock("b.lock"), FileLock("c.lock")
"""


@pytest.fixture
def run(tmp_path):
    """Run a program with HOLDFAST_DEBUG: its standard error, empty when all went well."""

    def run(code, debug="order"):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM + textwrap.dedent(code))
        env = {name: value for name, value in os.environ.items() if name != "HOLDFAST_DEBUG"}
        if debug is not None:
            env["HOLDFAST_DEBUG"] = debug
        result = subprocess.run(
            [sys.executable, program],
            cwd=tmp_path,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (result.returncode == 0) is (result.stderr == "")
        return result.stderr

    return run


def place(tmp_path, mark):
    """The place of the line that ends in a comment, as file:line."""
    program = tmp_path / "program.py"
    lines = program.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}")]
    return f"{program}:{number}"


def test_two_orders_are_an_error_that_shows_all_four_places(run, tmp_path):
    error = run("""
        with a:  # first
            with b:  # second
                pass
        with b:  # third
            with a:  # fourth
                pass
    """)
    assert "LockOrderError" in error
    message = error.splitlines()[-1]
    for mark in ("first", "second", "third", "fourth"):
        assert place(tmp_path, mark) in message
    assert "lock_all" in message


@pytest.mark.parametrize(
    "take", ["{0}.acquire()", "{0}.acquire(timeout=5)", "FileLock({0}.lock_file).__enter__()", "lock_all({0})"]
)
def test_two_orders_are_found_however_the_locks_are_taken(run, tmp_path, take):
    error = run(f"""
        with a, b:
            pass
        kept = [{take.format("b")}]
        kept.append({take.format("a")})  # here
    """)
    assert "LockOrderError" in error
    assert place(tmp_path, "here") in error.splitlines()[-1]


def test_the_error_comes_instead_of_the_lock_and_in_the_thread_that_asks(run):
    assert not run("""
        with a, b:
            pass
        errors = []
        def other():
            with b:
                try:
                    a.acquire()
                except RuntimeError as error:
                    errors.append(error)
                assert not a.is_locked and b.is_locked
        thread = threading.Thread(target=other)
        thread.start(), thread.join()
        assert len(errors) == 1
        with a, b:
            pass
    """)


def test_a_cycle_of_three_is_found(run):
    assert "LockOrderError" in run("""
        with a, b:
            pass
        with b, c:
            pass
        with c, a:
            pass
    """)


def test_all_kinds_of_locks_are_watched(run):
    assert "LockOrderError" in run("""
        soft, shared = SoftFileLock("soft.lock"), ReadWriteLock("shared.lock")
        with soft, shared.read_lock():
            pass
        with shared.write_lock(), soft:
            pass
    """)


def test_one_order_is_no_error(run):
    assert not run("""
        for _ in range(3):
            with a, b, c:
                pass
            with a, c:
                pass
            with b, c:
                pass
        with b:
            pass
        with a:
            pass
    """)


def test_locks_that_are_not_held_together_have_no_order(run):
    assert not run("""
        for first, second in ((a, b), (b, a)):
            with first:
                pass
            with second:
                pass
    """)


def test_a_lock_is_held_until_its_last_release(run):
    assert "LockOrderError" in run("""
        with a, b:
            pass
        b.acquire(), b.acquire(), b.release()
        with a:
            pass
    """)


def test_a_try_that_does_not_block_is_exempt(run):
    assert not run("""
        with a, b:
            pass
        with b:
            with a.acquire(blocking=False):
                pass
            with FileLock("a.lock", blocking=False):
                pass
    """)


def test_a_try_with_a_timeout_of_zero_is_exempt(run):
    assert not run("""
        with a, b:
            pass
        with b:
            with a.acquire(timeout=0):
                pass
            with FileLock("a.lock", timeout=0):
                pass
    """)


def test_a_try_sets_no_order(run):
    assert not run("""
        with a:
            with b.acquire(blocking=False):
                pass
        with b, a:
            pass
    """)


def test_taking_a_held_lock_once_more_is_no_order(run):
    assert not run("""
        with a, b, a:
            pass
    """)


def test_a_lock_of_all_threads_may_be_released_by_another_thread(run):
    assert not run("""
        common = FileLock("common.lock", thread_local=False)
        common.acquire()
        thread = threading.Thread(target=common.release)
        thread.start(), thread.join()
        with a:
            pass
        with a, common:
            pass
    """)


def test_a_lock_that_was_not_acquired_sets_no_order(run):
    assert not run("""
        def hold():
            with b:
                ready.set()
                done.wait()
        ready, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=hold)
        thread.start(), ready.wait()
        with a:
            try:
                b.acquire(timeout=0.01)
            except TimeoutError:
                pass
        done.set(), thread.join()
        with b, a:
            pass
    """)


def test_lock_all_never_trips(run):
    assert not run("""
        for order in ((a, b, c), (c, b, a), (b, "a.lock", "c.lock"), ("c.lock", SoftFileLock("d.lock"), a)):
            with lock_all(*order):
                pass
            lock_all(*order).release()
    """)


@posix_only
def test_a_forked_child_holds_nothing(run):
    assert not run("""
        with a, b:
            pass
        with b:
            pid = os.fork()
            if pid == 0:
                with a:
                    pass
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    """)


@pytest.mark.parametrize("debug", [None, "", "other"])
def test_without_the_variable_nothing_is_watched(run, debug):
    assert not run(
        """
        with a, b:
            pass
        with b, a:
            pass
        assert "holdfast._order" not in sys.modules
        assert not hasattr(FileLock.acquire, "__wrapped__")
        """,
        debug,
    )


def test_order_may_be_one_word_of_several(run):
    assert "LockOrderError" in run("with a, b: pass\nwith b, a: pass\n", "other,order")


def test_a_timeout_keeps_what_the_missing_lock_had_to_say(tmp_path):
    path = tmp_path / "foreign.lock"
    path.touch()
    with pytest.raises(Timeout) as caught:
        lock_all(SoftFileLock(path), timeout=0.01)
    assert "within 0.01 seconds" in str(caught.value)
    assert "names no owner" in str(caught.value)
