"""FileLock, as one process sees it, with a second one where exclusion is meant."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import stat
import sys
import threading
import time
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest

from conftest import linux_only, needs_symlinks, posix_only
from holdfast import AcquireReturnProxy, FileLock, Timeout
from support import PATIENCE, Child, eventually, held_elsewhere, in_another_thread, is_free, until_it_waits

# ---------------------------------------------------------------------------------------------------------------------
# Acquiring and releasing


def test_acquire_takes_the_lock_and_release_gives_it_back(path):
    lock = FileLock(path)
    lock.acquire()
    assert lock.is_locked
    assert not is_free(path)
    lock.release()
    assert not lock.is_locked
    assert is_free(path)


SEE_THE_MARK = """
    from holdfast import FileLock
    with FileLock(args[0], kind=args[1]):
        say("after" if os.path.exists(args[2]) else "too early")
"""


def test_a_second_process_waits_until_the_first_releases(path):
    mark = Path(path + ".mark")
    lock = FileLock(path)
    lock.acquire()
    with Child(SEE_THE_MARK, path, "flock", mark) as child:
        until_it_waits(child, path)
        mark.touch()  # the last thing done under the lock
        lock.release()
        child.expect("after")
        child.join()


def test_a_with_statement_holds_the_lock_in_its_block_only(path):
    lock = FileLock(path)
    with lock:
        assert lock.is_locked
        assert not is_free(path)
    assert not lock.is_locked
    assert is_free(path)


def test_a_with_statement_gives_the_lock_itself(path):
    lock = FileLock(path)
    with lock as entered:
        assert entered is lock


def test_a_with_statement_releases_when_its_block_raises_and_lets_the_exception_out(path):
    with pytest.raises(KeyError), FileLock(path):
        raise KeyError
    assert is_free(path)


def test_acquire_returns_a_proxy_that_releases_at_the_end_of_its_block(path):
    lock = FileLock(path)
    with lock.acquire() as entered:
        assert entered is lock
        assert lock.lock_counter == 1
    assert not lock.is_locked
    assert is_free(path)


def test_the_proxy_knows_its_lock(path):
    lock = FileLock(path)
    proxy = lock.acquire()
    assert isinstance(proxy, AcquireReturnProxy)
    assert proxy.lock is lock
    lock.release()


def test_a_lock_can_be_taken_again_and_again(path):
    lock = FileLock(path)
    for _ in range(100):
        with lock:
            assert not is_free(path)
        assert is_free(path)


# ---------------------------------------------------------------------------------------------------------------------
# Nesting


def test_nested_acquisitions_are_counted(path):
    lock = FileLock(path)
    counts = [lock.lock_counter]
    for step in (lock.acquire, lock.acquire, lock.acquire, lock.release, lock.release, lock.release):
        step()
        counts.append(lock.lock_counter)
    assert counts == [0, 1, 2, 3, 2, 1, 0]


def test_the_lock_is_free_only_after_the_last_of_nested_releases(path):
    lock = FileLock(path)
    with lock:
        with lock:
            with lock.acquire():
                assert not is_free(path)
            assert not is_free(path)
        assert not is_free(path)
    assert is_free(path)


def test_nesting_needs_no_waiting(path):
    with FileLock(path, timeout=0) as lock, lock.acquire(blocking=False), lock.acquire(timeout=0):
        assert lock.lock_counter == 3


def test_release_does_nothing_when_the_lock_is_not_held(path):
    lock = FileLock(path)
    lock.release()
    lock.release(force=True)
    with lock:
        pass
    lock.release()
    assert lock.lock_counter == 0


def test_release_by_one_who_does_not_hold_it_leaves_the_holders_lock_alone(path):
    holder, other = FileLock(path), FileLock(path)
    with holder:
        other.release()
        other.release(force=True)
        in_another_thread(holder.release)
        in_another_thread(lambda: holder.release(force=True))
        assert holder.lock_counter == 1
        assert not is_free(path)


def test_a_forced_release_undoes_all_acquisitions(path):
    lock = FileLock(path)
    for _ in range(5):
        lock.acquire()
    lock.release(force=True)
    assert lock.lock_counter == 0
    assert is_free(path)


def test_a_with_block_survives_a_release_in_it(path):
    lock = FileLock(path)
    with lock:
        lock.release()
        assert is_free(path)
    assert lock.lock_counter == 0


# ---------------------------------------------------------------------------------------------------------------------
# As a decorator


def test_a_decorated_function_runs_with_the_lock_held(path):
    lock = FileLock(path)

    @lock
    def function(a, *, b):
        """Its docstring."""
        assert not is_free(path)
        return a, b, lock.lock_counter

    assert function(1, b=2) == (1, 2, 1)
    assert is_free(path)
    assert function.__name__ == "function"
    assert function.__doc__ == "Its docstring."


def test_a_decorated_function_that_raises_releases_the_lock(path):
    @FileLock(path)
    def function():
        raise KeyError

    with pytest.raises(KeyError):
        function()
    assert is_free(path)


def test_a_decorated_function_may_call_itself(path):
    lock = FileLock(path)

    @lock
    def depth(more):
        return depth(more - 1) if more else lock.lock_counter

    assert depth(3) == 4
    assert is_free(path)


async def a_coroutine(): ...


def a_generator():
    yield


async def an_async_generator():
    yield


@pytest.mark.parametrize("function", [a_coroutine, a_generator, an_async_generator])
def test_the_decorator_refuses_functions_that_do_not_run_when_called(path, function):
    with pytest.raises(TypeError, match=r"take the lock inside"):
        FileLock(path)(function)


# ---------------------------------------------------------------------------------------------------------------------
# Threads


def test_each_thread_holds_the_lock_for_itself(path):
    lock = FileLock(path)
    with lock:
        assert in_another_thread(lambda: (lock.is_locked, lock.lock_counter)) == (False, 0)
        with pytest.raises(Timeout):
            in_another_thread(lambda: lock.acquire(blocking=False))
    with in_another_thread(lock.acquire):
        assert not lock.is_locked
    in_another_thread(lock.close)


def test_without_thread_local_all_threads_share_one_hold(path):
    lock = FileLock(path, thread_local=False)
    assert not lock.is_thread_local()
    lock.acquire()
    assert in_another_thread(lambda: (lock.is_locked, lock.lock_counter)) == (True, 1)
    in_another_thread(lambda: lock.acquire(blocking=False))
    assert lock.lock_counter == 2
    lock.release()
    assert not is_free(path)
    in_another_thread(lock.release)
    assert not lock.is_locked
    assert is_free(path)


def test_without_thread_local_a_thread_waits_while_another_acquires_and_then_shares(path):
    lock = FileLock(path, thread_local=False)
    with held_elsewhere(path) as holder:
        threads = [threading.Thread(target=lock.acquire) for _ in range(4)]
        for thread in threads:
            thread.start()
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.05)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        holder.tell()
        for thread in threads:
            thread.join(PATIENCE)
    assert lock.lock_counter == 4
    lock.release(force=True)
    assert is_free(path)


def leave_held_by_a_thread_that_ends(lock):
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()


def test_a_forced_release_frees_what_a_thread_held_that_ended(path):
    lock = FileLock(path)
    leave_held_by_a_thread_that_ends(lock)
    assert not is_free(path)

    def force():
        lock.release(force=True)
        return is_free(path)

    eventually(force)  # an ended thread is noticed when the system has cleaned up behind it


def test_a_forced_release_frees_what_a_joined_thread_held_at_once(path):
    lock = FileLock(path)
    for _ in range(2000):
        leave_held_by_a_thread_that_ends(lock)
        lock.release(force=True)
        assert is_free(path)


def test_a_plain_release_leaves_what_a_thread_held_that_ended(path):
    lock = FileLock(path)
    leave_held_by_a_thread_that_ends(lock)
    lock.release()
    assert not is_free(path)


def test_a_waiter_that_gives_up_leaves_what_another_thread_acquired_meanwhile(path):
    lock = FileLock(path, thread_local=False)

    def let_another_thread_have_it():
        elsewhere.tell()
        elsewhere.expect("released")
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        return True

    with held_elsewhere(path) as elsewhere, pytest.raises(Timeout):
        lock.acquire(cancel_check=let_another_thread_have_it)
    assert lock.lock_counter == 1
    assert not is_free(path)


def test_a_with_statement_uses_the_acquire_and_release_of_a_subclass(path):
    class Noting(FileLock):
        calls: ClassVar[list[str]] = []

        def acquire(self, *args, **kwargs):
            self.calls.append("acquire")
            return super().acquire(*args, **kwargs)

        def release(self, force=False):
            self.calls.append("release")
            super().release(force)

    with Noting(path) as lock:
        assert lock.is_locked
    assert Noting.calls == ["acquire", "release"]
    assert is_free(path)


@pytest.mark.parametrize("name", ["thread_local", "shared", "is_singleton"])
def test_a_switch_must_be_a_bool(path, name):
    with pytest.raises(TypeError, match=name):
        FileLock(path, **{name: "no"})


@pytest.mark.parametrize(("lifetime", "error"), [(-1, ValueError), ("1", TypeError), (True, TypeError)])
def test_a_lifetime_is_checked_although_it_is_ignored(path, lifetime, error):
    with pytest.raises(error, match="lifetime"):
        FileLock(path, lifetime=lifetime)


def test_the_core_knows_threads_by_pythons_numbers(path):
    """So that a forced release need not wait for a holder that is well alive."""
    from holdfast import _core

    lock = FileLock(path, shared=True)
    lock.acquire()
    number, held = in_another_thread(
        lambda: (lock.acquire(), threading.get_ident(), _core.holding_threads(lock._core))[1:]
    )
    assert held == {threading.get_ident(), number}


def test_a_forced_release_leaves_what_a_living_thread_holds(path):
    lock = FileLock(path)
    done = threading.Event()
    held = threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    lock.release(force=True)
    assert not is_free(path)
    done.set()
    thread.join()
    assert is_free(path)


def test_dropping_the_lock_frees_what_threads_held_that_ended(path):
    lock = FileLock(path)
    leave_held_by_a_thread_that_ends(lock)
    assert not is_free(path)
    del lock
    gc.collect()
    assert is_free(path)


def test_dropping_the_lock_releases_it(path):
    lock = FileLock(path)
    lock.acquire()
    lock.acquire()
    assert not is_free(path)
    del lock
    gc.collect()
    assert is_free(path)


def test_a_lock_in_a_reference_cycle_is_released_by_the_garbage_collector(path):
    cycle = [FileLock(path)]
    cycle[0].acquire()
    cycle.append(cycle)
    assert not is_free(path)
    del cycle
    gc.collect()
    assert is_free(path)


# ---------------------------------------------------------------------------------------------------------------------
# Two instances in one thread


def test_two_instances_exclude_each_other(path):
    with FileLock(path), pytest.raises(Timeout):
        FileLock(path).acquire(blocking=False)


def test_an_endless_wait_for_oneself_raises_runtime_error(path):
    other = FileLock(path)
    with FileLock(path), pytest.raises(RuntimeError, match="Deadlock") as caught:
        other.acquire()
    assert path in str(caught.value)
    assert not isinstance(caught.value, OSError)
    with other:  # it was not harmed
        assert other.lock_counter == 1


def test_a_wait_for_oneself_under_another_spelling_of_the_path_raises_too(tmp_path, path):
    (tmp_path / "sub").mkdir()
    with FileLock(path), pytest.raises(RuntimeError, match="Deadlock"):
        FileLock(tmp_path / "sub" / ".." / "the.lock").acquire()


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_finite_wait_for_oneself_times_out(path, timeout):
    with FileLock(path), pytest.raises(Timeout):
        FileLock(path, timeout=timeout).acquire()


def test_an_endless_wait_for_another_thread_is_no_deadlock(path):
    lock = FileLock(path)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with FileLock(path):
            held.set()
            go_on.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    threading.Timer(0.05, go_on.set).start()
    with lock:
        assert go_on.is_set()
    thread.join()


# ---------------------------------------------------------------------------------------------------------------------
# Timeouts


def tries_of(path, **arguments):
    """How long acquire() took until it raised Timeout, in seconds."""
    lock = FileLock(path)
    start = time.monotonic()
    with pytest.raises(Timeout):
        lock.acquire(**arguments)
    taken = time.monotonic() - start
    assert not lock.is_locked
    return taken


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.3, Decimal("0.1"), Fraction(1, 10)])
def test_a_timeout_is_never_early(path, seconds):
    with held_elsewhere(path):
        assert seconds <= tries_of(path, timeout=seconds) < PATIENCE


@pytest.mark.parametrize("arguments", [{"blocking": False}, {"timeout": 0}, {"timeout": 1e6, "blocking": False}])
def test_a_single_try_raises_timeout_at_once(path, arguments):
    with held_elsewhere(path):
        assert tries_of(path, **arguments) < PATIENCE


def test_blocking_false_beats_a_wait_without_end(path):
    with held_elsewhere(path):
        assert tries_of(path, blocking=False, timeout=-1) < PATIENCE


def test_a_single_try_takes_a_free_lock(path):
    with FileLock(path).acquire(blocking=False) as lock:
        assert lock.is_locked
    with FileLock(path).acquire(timeout=0) as lock:
        assert lock.is_locked


@pytest.mark.parametrize("forever", [-1, -0.5, float("inf"), 1e300])
def test_a_negative_or_infinite_timeout_waits_until_the_lock_is_free(path, forever):
    with held_elsewhere(path) as holder:
        threading.Timer(0.05, holder.tell).start()
        with FileLock(path, timeout=forever) as lock:
            assert lock.is_locked


def test_the_constructors_timeout_is_the_default_of_acquire(path):
    with held_elsewhere(path), pytest.raises(Timeout):
        FileLock(path, timeout=0.01).acquire()


def test_the_constructors_timeout_applies_to_with_and_decorator(path):
    lock = FileLock(path, timeout=0.01)
    with held_elsewhere(path):
        with pytest.raises(Timeout), lock:
            pass
        with pytest.raises(Timeout):
            lock(lambda: None)()


def test_the_timeout_of_acquire_beats_the_constructors(path):
    with held_elsewhere(path), pytest.raises(Timeout):
        FileLock(path, timeout=-1).acquire(timeout=0.01)


def test_the_constructors_blocking_is_the_default_of_acquire(path):
    with held_elsewhere(path) as holder:
        lock = FileLock(path, blocking=False)
        with pytest.raises(Timeout):
            lock.acquire()
        holder.tell()
        lock.acquire(blocking=True)
        lock.release()


def test_a_failed_acquire_leaves_nothing_behind(path):
    lock = FileLock(path)
    with held_elsewhere(path) as holder:
        for arguments in ({"timeout": 0.01}, {"blocking": False}):
            with pytest.raises(Timeout):
                lock.acquire(**arguments)
            assert lock.lock_counter == 0
        holder.tell()
        holder.expect("released")
    assert is_free(path)


def test_timeout_is_a_timeout_error_that_names_the_file(path):
    assert issubclass(Timeout, TimeoutError)
    with held_elsewhere(path), pytest.raises(Timeout) as caught:
        FileLock(path).acquire(timeout=0.01)
    assert caught.value.lock_file == path
    assert caught.value.timeout == 0.01
    assert path in str(caught.value)
    assert "0.01 seconds" in str(caught.value)


@linux_only
@pytest.mark.parametrize("arguments", [{"timeout": 0.01}, {"blocking": False}])
def test_the_message_of_timeout_names_the_holder(path, arguments):
    with held_elsewhere(path) as holder:
        with pytest.raises(Timeout) as caught:
            FileLock(path).acquire(**arguments)
        assert f"pid {holder.pid}" in str(caught.value)
        assert [found.pid for found in caught.value.holders] == [holder.pid]


def test_timeout_can_be_pickled(path):
    with held_elsewhere(path), pytest.raises(Timeout) as caught:
        FileLock(path).acquire(timeout=0.01)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, Timeout)
    assert (again.lock_file, again.timeout, again.holders) == (path, 0.01, caught.value.holders)
    assert str(again) == str(caught.value)


def test_a_cancel_check_that_says_yes_ends_the_wait_with_timeout(path):
    calls = []

    def enough():
        calls.append(time.monotonic())
        return len(calls) == 3

    with held_elsewhere(path), pytest.raises(Timeout):
        FileLock(path, poll_interval=0.01).acquire(cancel_check=enough)
    assert len(calls) == 3


def test_a_cancelled_wait_does_not_claim_that_a_timeout_passed(path):
    with held_elsewhere(path), pytest.raises(Timeout) as caught:
        FileLock(path).acquire(cancel_check=lambda: True)
    assert "-1" not in str(caught.value).replace(path, "")


def test_a_cancel_check_is_not_asked_when_the_lock_is_free(path):
    with FileLock(path).acquire(cancel_check=lambda: pytest.fail("asked")):
        pass


def test_a_cancel_check_that_says_no_leaves_the_timeout_in_force(path):
    with held_elsewhere(path):
        assert tries_of(path, timeout=0.1, poll_interval=0.01, cancel_check=lambda: False) >= 0.1


def test_a_cancel_check_that_says_no_leaves_the_wait_to_succeed(path):
    with held_elsewhere(path) as holder:
        asked = []

        def no():
            asked.append(True)
            if len(asked) == 3:
                holder.tell()
            return False

        with FileLock(path).acquire(poll_interval=0.001, cancel_check=no) as lock:
            assert lock.is_locked


def test_a_cancel_check_that_raises_ends_the_wait_and_nothing_is_held(path):
    def refuse():
        raise KeyError

    lock = FileLock(path)
    with held_elsewhere(path), pytest.raises(KeyError):
        lock.acquire(cancel_check=refuse)
    assert not lock.is_locked


@pytest.mark.parametrize(
    "interval",
    [
        0,
        0.001,
        1,
        1e6,
        Fraction(1, 100),
        1e12,
        Decimal("0.01"),
    ],
)
def test_any_poll_interval_waits_no_longer_than_the_timeout(path, interval):
    with held_elsewhere(path):
        assert 0.05 <= tries_of(path, timeout=0.05, poll_interval=interval) < PATIENCE


# ---------------------------------------------------------------------------------------------------------------------
# Properties


def test_the_properties_give_the_arguments_back(path):
    lock = FileLock(path, 5, 0o600, False, blocking=False, poll_interval=0.2, shared=True)
    assert lock.lock_file == path
    assert lock.timeout == 5
    assert lock.mode == 0o600
    assert not lock.is_thread_local()
    assert lock.blocking is False
    assert lock.poll_interval == 0.2
    assert lock.shared is True
    assert lock.is_singleton is False
    assert lock.lifetime is None


def test_the_defaults_are_those_of_filelock(path):
    lock = FileLock(path)
    assert lock.timeout == -1
    assert lock.mode == 0o644
    assert lock.is_thread_local()
    assert lock.blocking is True
    assert lock.poll_interval == 0.05
    assert lock.shared is False
    assert lock.is_singleton is False


def test_timeout_blocking_and_poll_interval_can_be_set(path):
    lock = FileLock(path)
    with held_elsewhere(path):
        lock.timeout = 0.01
        with pytest.raises(Timeout):
            lock.acquire()
        lock.timeout = -1
        lock.blocking = False
        with pytest.raises(Timeout):
            lock.acquire()
    lock.poll_interval = 0.5
    assert (lock.timeout, lock.blocking, lock.poll_interval) == (-1, False, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("timeout", "1", TypeError),
        ("timeout", None, TypeError),
        ("timeout", True, TypeError),
        ("timeout", float("nan"), ValueError),
        ("blocking", 1, TypeError),
        ("blocking", None, TypeError),
        ("poll_interval", -1, ValueError),
        ("poll_interval", float("inf"), ValueError),
        ("poll_interval", "1", TypeError),
    ],
)
def test_the_setters_refuse_wrong_values_and_keep_the_old(path, name, value, error):
    lock = FileLock(path)
    before = getattr(lock, name)
    with pytest.raises(error, match=name):
        setattr(lock, name, value)
    assert getattr(lock, name) == before


@pytest.mark.parametrize("name", ["lock_file", "is_locked", "lock_counter", "mode", "shared", "is_singleton"])
def test_the_other_properties_cannot_be_set(path, name):
    with pytest.raises(AttributeError):
        setattr(FileLock(path), name, 1)


def test_the_repr_shows_the_path_and_whether_it_is_held(path):
    lock = FileLock(path)
    free = repr(lock)
    with lock:
        held = repr(lock)
        with lock:
            twice = repr(lock)
    assert free == repr(lock) == f"<FileLock {path!r} not held>"
    assert held == f"<FileLock {path!r} held>"
    assert twice == f"<FileLock {path!r} held 2 times>"


# ---------------------------------------------------------------------------------------------------------------------
# The file


def test_nothing_is_created_before_the_lock_is_acquired(tmp_path):
    FileLock(tmp_path / "not" / "yet.lock")
    assert list(tmp_path.iterdir()) == []


def test_parent_directories_are_created(tmp_path):
    path = tmp_path / "a" / "b" / "c.lock"
    with FileLock(path):
        assert path.is_file()


def test_the_lock_file_stays_after_release(path):
    with FileLock(path):
        pass
    assert os.path.exists(path)


def test_what_is_in_the_file_stays_as_it_was(path):
    Path(path).write_text("content")
    with FileLock(path):
        pass
    assert Path(path).read_text() == "content"


@pytest.fixture
def umask():
    old = os.umask(0)
    os.umask(old)
    yield os.umask
    os.umask(old)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@posix_only
@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o644), (0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_the_default_mode_is_narrowed_by_the_umask(path, umask, mask, mode):
    umask(mask)
    with FileLock(path):
        assert mode_of(path) == mode


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o640])
def test_an_explicit_mode_is_exact_whatever_the_umask(path, umask, mode):
    umask(0o077)
    with FileLock(path, mode=mode):
        assert mode_of(path) == mode


@posix_only
def test_the_mode_of_an_existing_file_is_left_alone(path):
    Path(path).touch()
    os.chmod(path, 0o604)
    with FileLock(path, mode=0o666):
        pass
    assert mode_of(path) == 0o604


def test_lifetime_is_refused_with_a_warning_that_points_to_the_caller(path):
    with pytest.warns(UserWarning, match="lifetime is ignored") as caught:
        lock = FileLock(path, lifetime=5)
    assert caught[0].filename == __file__
    assert lock.lifetime is None
    with lock:
        assert not is_free(path)


def test_no_lifetime_warns_of_nothing(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FileLock(path, lifetime=None)


# ---------------------------------------------------------------------------------------------------------------------
# Shared locks, and the two kinds


@pytest.mark.parametrize("kind", ["flock", "ofd"])
def test_shared_holders_share(path, kind):
    with (
        FileLock(path, shared=True, kind=kind),
        Child(
            "from holdfast import FileLock\nwith FileLock(args[0], shared=True, kind=args[1], timeout=0): say('in')",
            path,
            kind,
        ) as child,
    ):
        child.expect("in")
        child.join()


@pytest.mark.parametrize("kind", ["flock", "ofd"])
def test_shared_and_exclusive_holders_exclude_each_other(path, kind):
    with FileLock(path, shared=True, kind=kind):
        assert is_free(path, kind=kind, shared=True)
        assert not is_free(path, kind=kind)
    with FileLock(path, kind=kind):
        assert not is_free(path, kind=kind, shared=True)
    assert is_free(path, kind=kind)


def test_a_shared_lock_nests(path):
    lock = FileLock(path, shared=True)
    with lock, lock:
        assert lock.lock_counter == 2
    assert is_free(path)


@linux_only
def test_ofd_locks_exclude_each_other_between_processes(path):
    mark = Path(path + ".mark")
    lock = FileLock(path, kind="ofd")
    lock.acquire()
    with Child(SEE_THE_MARK, path, "ofd", mark) as child:  # the system does not tell who waits for such a lock
        assert not is_free(path, kind="ofd")
        mark.touch()
        lock.release()
        child.expect("after")
        child.join()
    assert is_free(path, kind="ofd")


@linux_only
def test_ofd_and_flock_do_not_see_each_other(path):
    with FileLock(path, kind="ofd"), FileLock(path, kind="flock", timeout=0):
        assert not is_free(path, kind="ofd")
        assert not is_free(path, kind="flock")


def test_other_kinds_are_refused(path):
    with pytest.raises(ValueError, match="kind"):
        FileLock(path, kind="posix")


# ---------------------------------------------------------------------------------------------------------------------
# Closing, copying


def test_close_releases_however_often_the_lock_was_acquired(path):
    lock = FileLock(path)
    lock.acquire()
    lock.acquire()
    lock.close()
    assert lock.lock_counter == 0
    assert is_free(path)


def test_a_closed_lock_can_be_used_again(path):
    lock = FileLock(path)
    lock.close()
    with lock:
        assert not is_free(path)
    lock.close()
    lock.close()
    with lock:
        assert not is_free(path)


@linux_only
def test_close_closes_the_descriptor(path):
    lock = FileLock(path)
    with lock:
        pass
    assert path in open_files()
    lock.close()
    assert path not in open_files()


def open_files():
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # the one that listed the directory
    return found


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_is_another_lock_on_the_same_file_and_holds_nothing(path, duplicate):
    lock = FileLock(path, 7, 0o600, blocking=False, poll_interval=0.3, shared=True, thread_local=False)
    with lock:
        other = duplicate(lock)
        assert other is not lock
        assert type(other) is FileLock
        assert other.lock_counter == 0
        assert lock.lock_counter == 1
        for name in ("lock_file", "timeout", "mode", "blocking", "poll_interval", "shared"):
            assert getattr(other, name) == getattr(lock, name)
        assert other.is_thread_local() == lock.is_thread_local()
        other.release()
        assert not is_free(path)


@linux_only
def test_a_copy_is_of_the_same_kind(path):
    other = copy.copy(FileLock(path, kind="ofd"))
    with FileLock(path, kind="ofd"), pytest.raises(Timeout):
        other.acquire(blocking=False)


# ---------------------------------------------------------------------------------------------------------------------
# Spellings of the path


@pytest.mark.parametrize("spell", [str, Path, os.fsencode, os.fspath])
def test_a_path_may_be_a_str_bytes_or_path(path, spell):
    lock = FileLock(spell(path))
    assert lock.lock_file == path
    with lock:
        assert not is_free(path)


def test_a_path_may_be_any_path_like(path):
    class Somewhere:
        def __fspath__(self):
            return os.fsencode(path)

    with FileLock(Somewhere()):
        assert not is_free(path)


@pytest.mark.parametrize(
    "name", ["grüße.lock", "锁.lock", "🔒", "-rf", *(pytest.param(name, marks=posix_only) for name in (" ", "a\nb"))]
)
def test_any_name_will_do(tmp_path, name):
    path = tmp_path / name
    with FileLock(path):
        assert path.is_file()
        assert not is_free(path)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode here")
def test_a_name_that_is_not_unicode_will_do(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.lock"
    with FileLock(path) as lock:
        assert os.fsencode(lock.lock_file) == path
        assert os.path.isfile(path)
        with pytest.raises(Timeout) as caught:
            FileLock(os.fsdecode(path)).acquire(timeout=0.01)
    assert ascii(str(caught.value))


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spelling", ["the.lock", "./the.lock", "sub/../the.lock"])
def test_a_relative_path_is_one_in_the_working_directory(in_tmp_path, spelling):
    (in_tmp_path / "sub").mkdir()
    with FileLock(spelling) as lock:
        assert lock.lock_file == spelling
        assert not is_free(in_tmp_path / "the.lock")


def test_a_lock_with_a_relative_path_can_be_released_after_chdir(in_tmp_path, monkeypatch):
    (in_tmp_path / "sub").mkdir()
    lock = FileLock("the.lock")
    with lock:
        monkeypatch.chdir("sub")
        assert not is_free(in_tmp_path / "the.lock")
    assert is_free(in_tmp_path / "the.lock")


def test_a_relative_path_is_looked_up_anew_by_each_acquire(in_tmp_path, monkeypatch):
    (in_tmp_path / "sub").mkdir()
    lock = FileLock("the.lock")
    with lock:
        pass
    monkeypatch.chdir("sub")
    with lock:
        assert is_free(in_tmp_path / "the.lock")
        assert not is_free(in_tmp_path / "sub" / "the.lock")


@needs_symlinks
def test_a_linked_directory_leads_to_the_same_lock(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    with FileLock(tmp_path / "real" / "the.lock"):
        assert not is_free(tmp_path / "link" / "the.lock")


@linux_only
def test_holding_the_other_kind_of_lock_on_the_file_is_no_deadlock(path):
    with held_elsewhere(path) as holder, FileLock(path, kind="ofd"):
        lock = FileLock(path)
        waiting = threading.Thread(target=holder.tell)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        waiting.start()
        with lock:  # the kinds do not see each other: this thread waits for the other process only
            holder.expect("released")
        waiting.join()
