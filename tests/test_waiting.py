"""How a wait for another process ends, and what happens to the lock file meanwhile."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from conftest import delays_signal_handlers, linux_only, posix_only
from holdfast import FileLock, Timeout, holders
from support import (
    ALARMS,
    PATIENCE,
    WAITS_IN_KERNEL,
    Child,
    eventually,
    held_elsewhere,
    is_free,
    number_in,
    until_it_waits,
)

kernel_wait_only = pytest.mark.skipif(not WAITS_IN_KERNEL, reason="HOLDFAST_WAIT=poll: there is no wait in the kernel")

WAIT = """
    from holdfast import FileLock
    lock = FileLock(args[0], timeout=float(args[1]) if len(args) > 1 else -1)
    lock.acquire()
    say("acquired")
    hear()
"""

# ---------------------------------------------------------------------------------------------------------------------
# Ends


@pytest.mark.parametrize("timeout", [-1, PATIENCE], ids=["endless", "timed"])
@pytest.mark.parametrize("ending", ["release", "kill", "exit"])
def test_a_wait_ends_when_the_holder_does(path, ending, timeout):
    code = """
        from holdfast import FileLock
        lock = FileLock(args[0])
        lock.acquire()
        say("held")
        if hear() == "release":
            lock.release()
            hear()
        os._exit(0)
    """
    with Child(code, path) as holder:
        holder.expect("held")
        with Child(WAIT, path, timeout) as waiter:
            until_it_waits(waiter, path)
            assert not is_free(path)
            if ending == "kill":
                holder.kill()
            else:
                holder.tell(ending)
            waiter.expect("acquired")
            assert not is_free(path)


def test_a_wait_ends_when_the_holder_closes_its_lock(path):
    lock = FileLock(path)
    lock.acquire()
    with Child(WAIT, path) as waiter:
        until_it_waits(waiter, path)
        lock.close()
        waiter.expect("acquired")


def test_a_wait_for_shared_holders_ends_when_the_last_has_released(path):
    first, second = FileLock(path, shared=True), FileLock(path, shared=True)
    first.acquire()
    second.acquire()
    with Child(WAIT, path) as waiter:
        until_it_waits(waiter, path)
        first.release()
        assert not is_free(path)
        second.release()
        waiter.expect("acquired")


def test_a_waiter_that_is_killed_leaves_nothing(path):
    with held_elsewhere(path) as holder:
        with Child(WAIT, path) as waiter:
            until_it_waits(waiter, path)
            waiter.kill()
        holder.tell()
        holder.expect("released")
        assert is_free(path)


def test_every_waiter_gets_the_lock_though_others_are_killed(path):
    with held_elsewhere(path) as holder:
        waiters = [Child(WAIT, path) for _ in range(5)]
        for waiter in waiters:
            until_it_waits(waiter, path)
        waiters[1].kill()
        waiters[3].kill()
        holder.tell()
        for survivor in (waiters[0], waiters[2], waiters[4]):
            survivor.tell()  # release as soon as it has acquired, by ending
        for survivor in (waiters[0], waiters[2], waiters[4]):
            survivor.expect("acquired")
            survivor.join()
        for waiter in waiters:
            waiter.__exit__()
    assert is_free(path)


def test_no_one_of_many_timed_waits_ends_early(path):
    early = []
    ended = []

    def wait(timeout):
        start = time.monotonic()
        try:
            FileLock(path).acquire(timeout=timeout)
        except Timeout:
            taken = time.monotonic() - start
            ended.append(timeout)
            if taken < timeout:
                early.append((timeout, taken))

    with held_elsewhere(path):
        timeouts = [0.05 + n / 100 for n in range(30)]
        threads = [threading.Thread(target=wait, args=(timeout,)) for timeout in timeouts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not early
    assert sorted(ended) == timeouts


def test_a_wait_that_timed_out_can_be_tried_again(path):
    lock = FileLock(path)
    with held_elsewhere(path) as holder:
        for _ in range(3):
            with pytest.raises(Timeout):
                lock.acquire(timeout=0.01)
        holder.tell()
        with lock.acquire(timeout=PATIENCE):
            assert not is_free(path)


def test_a_wait_goes_on_to_its_deadline_when_the_lock_changes_hands(path):
    """Each time the lock becomes free, a shared holder takes over from another, so that it never is for the waiter."""
    code = """
        from holdfast import FileLock, Timeout
        start = time.monotonic()
        try:
            FileLock(args[0]).acquire(timeout=0.3)
        except Timeout:
            assert time.monotonic() - start >= 0.3
            say("timeout")
    """
    locks = [FileLock(path, shared=True), FileLock(path, shared=True)]
    locks[0].acquire()
    with Child(code, path) as waiter:
        while waiter.process.poll() is None:
            locks[1].acquire()
            locks[0].release()
            locks.reverse()
        waiter.expect("timeout")


# ---------------------------------------------------------------------------------------------------------------------
# Signals


class SignalledChild(Child):
    """A child whose code has a lock, says `ready` when a signal may come, and then waits for the lock."""

    def __init__(self, code: str, path: str, *args: object) -> None:
        prelude = "import signal\nfrom holdfast import FileLock, Timeout\nlock = FileLock(args[0])\n"
        super().__init__(prelude + textwrap.dedent(code), path, *args)
        self.expect("ready")
        until_it_waits(self, path)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)


@posix_only
@pytest.mark.parametrize("timeout", [-1, 1000], ids=["endless", "timed"])
def test_ctrl_c_ends_a_wait_and_nothing_is_held(path, timeout):
    code = """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        try:
            say("ready")
            lock.acquire(timeout=float(args[1]))
        except KeyboardInterrupt:
            say("interrupted")
        say(lock.lock_counter)
        hear()
        with lock:
            say("usable")
    """
    with held_elsewhere(path) as holder, SignalledChild(code, path, timeout) as waiter:
        waiter.send(signal.SIGINT)
        waiter.expect("interrupted")  # although the lock is still held elsewhere
        waiter.expect("0")
        holder.tell()
        holder.expect("released")
        assert is_free(path)
        waiter.tell()
        waiter.expect("usable")
        waiter.join()


@posix_only
@pytest.mark.parametrize("timeout", [-1, 1000], ids=["endless", "timed"])
def test_another_signals_handler_runs_during_the_wait_and_the_wait_goes_on(path, timeout):
    code = """
        signal.signal(signal.SIGUSR1, lambda *_: say("handled"))
        say("ready")
        lock.acquire(timeout=float(args[1]))
        say("acquired")
    """
    with held_elsewhere(path) as holder, SignalledChild(code, path, timeout) as waiter:
        for _ in range(3):
            until_it_waits(waiter, path)
            waiter.send(signal.SIGUSR1)
            waiter.expect("handled")
        assert not is_free(path)
        holder.tell()
        waiter.expect("acquired")
        waiter.join()


@posix_only
def test_no_signal_is_overlooked_whenever_it_comes(path):
    code = """
        signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"!"))
        say("ready")
        lock.acquire()
    """
    with held_elsewhere(path), SignalledChild(code, path) as waiter:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            waiter.send(signal.SIGUSR1)
            ready, _, _ = select.select([waiter.process.stdout], [], [], PATIENCE)
            assert ready, "the handler did not run"
            os.read(waiter.process.stdout.fileno(), 100)


@posix_only
def test_an_exception_of_a_signal_handler_ends_the_wait_and_nothing_is_held(path):
    code = """
        class Alarm(Exception): pass
        def alarm(*_): raise Alarm
        signal.signal(signal.SIGALRM, alarm)
        try:
            say("ready")
            with lock:
                say("acquired")
        except Alarm:
            say("alarm")
        say(lock.lock_counter)
        hear()
    """
    with held_elsewhere(path) as holder, SignalledChild(code, path) as waiter:
        waiter.send(signal.SIGALRM)
        waiter.expect("alarm")
        waiter.expect("0")
        holder.tell()
        holder.expect("released")
        assert is_free(path)


@posix_only
def test_signals_do_not_make_a_timed_wait_longer_or_shorter(path):
    code = """
        import signal
        from holdfast import FileLock, Timeout
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        start = time.monotonic()
        try:
            FileLock(args[0]).acquire(timeout=0.3)
        except Timeout:
            taken = time.monotonic() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        say("early" if taken < 0.3 else "on time")
    """
    with held_elsewhere(path), Child(code, path) as waiter:
        waiter.expect("on time")
        waiter.join()


@posix_only
def test_a_signal_handler_may_use_the_lock_that_is_being_waited_for(path):
    code = """
        def handler(*_):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                say("busy")
        signal.signal(signal.SIGUSR1, handler)
        say("ready")
        lock.acquire()
        say(lock.lock_counter)
    """
    with held_elsewhere(path) as holder, SignalledChild(code, path) as waiter:
        waiter.send(signal.SIGUSR1)
        waiter.expect("busy")
        holder.tell()
        waiter.expect("1")
        waiter.join()


@posix_only
@delays_signal_handlers
def test_acquire_holds_nothing_when_a_signal_handler_makes_it_raise(path):
    """The signal comes at any moment of an acquire() that needs no waiting."""
    code = """
        import random
        from holdfast import FileLock
        lock = FileLock(args[0])
        interrupted = 0
        while interrupted < 1000:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 8e-5))
            end = time.monotonic() + 2e-4
            while time.monotonic() < end:
                try:
                    armed = True
                    lock.acquire()
                    armed = False
                except Alarm:
                    interrupted += 1
                    assert lock.lock_counter == 0
                else:
                    lock.release()
        say("done")
    """
    with Child(ALARMS + textwrap.dedent(code), path) as child:
        child.expect("done")


# ---------------------------------------------------------------------------------------------------------------------
# What a wait costs, and where it can be seen


@posix_only
@kernel_wait_only
def test_a_waiting_process_sleeps(path):
    code = """
        import resource
        from holdfast import FileLock
        lock = FileLock(args[0], timeout=1000)
        begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        lock.acquire()
        end, now = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        say((now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / (end - begin))
        say(now.ru_nvcsw - used.ru_nvcsw)
    """
    with held_elsewhere(path) as holder, Child(code, path) as waiter:
        until_it_waits(waiter, path)
        time.sleep(1)  # so that there is something to measure
        holder.tell()
        share_of_a_processor, times_woken = float(waiter.hear()), int(waiter.hear())
        waiter.join()
    assert share_of_a_processor < 0.2
    if sys.platform == "linux":
        assert times_woken < 20  # it looks for signals at ever longer intervals


@linux_only
@kernel_wait_only
@pytest.mark.parametrize("kind", ["flock", "ofd"])
def test_a_wait_is_visible_in_proc_locks(path, kind):
    code = "from holdfast import FileLock\nFileLock(args[0], kind=args[1], timeout=1000).acquire()"
    with FileLock(path, kind=kind), Child(code, path, kind):
        inode = os.stat(path).st_ino

        def a_waiter_is_there():
            return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())

        eventually(a_waiter_is_there)


@linux_only
@kernel_wait_only
def test_a_wait_that_timed_out_is_gone_from_proc_locks(path):
    with held_elsewhere(path):
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0.05)
        assert not any(holder.waiting for holder in holders(path))


# ---------------------------------------------------------------------------------------------------------------------
# The lock file is removed or moved

DISTURB = {
    "unlinked": os.unlink,
    "renamed": lambda path: os.rename(path, path + ".old"),
    "replaced": lambda path: (Path(path + ".new").touch(), os.rename(path + ".new", path)),
}


@posix_only
@pytest.mark.parametrize("disturb", DISTURB.values(), ids=DISTURB)
def test_a_lock_file_that_goes_while_it_is_held_can_be_released_and_locked_again(path, disturb):
    lock = FileLock(path)
    with lock:
        disturb(path)
        assert lock.is_locked
    with lock:
        assert os.path.exists(path)
        assert not is_free(path)
    assert is_free(path)


@posix_only
@pytest.mark.parametrize("disturb", DISTURB.values(), ids=DISTURB)
def test_a_lock_file_that_goes_between_two_holds_is_not_locked_by_mistake(path, disturb):
    lock = FileLock(path)
    with lock:
        pass
    disturb(path)
    with lock:
        assert os.path.exists(path)
        assert not is_free(path)


@posix_only
@pytest.mark.parametrize("disturb", DISTURB.values(), ids=DISTURB)
def test_a_waiter_for_a_file_that_went_does_not_hold_the_lock_beside_another(path, disturb):
    mark = Path(path + ".mark")
    code = """
        from holdfast import FileLock
        lock = FileLock(args[0])
        lock.acquire()
        say("after" if os.path.exists(args[1]) else "too early")
        hear()
    """
    with held_elsewhere(path) as old_holder, Child(code, path, mark) as waiter:
        until_it_waits(waiter, path)
        disturb(path)
        with FileLock(path):  # on what the path names now
            old_holder.tell()
            old_holder.expect("released")
            until_it_waits(waiter, path)  # and not on the file that went
            mark.touch()
        waiter.expect("after")
        assert not is_free(path)


@posix_only
def test_a_waiter_for_a_file_that_was_unlinked_creates_it_again(path):
    with held_elsewhere(path) as holder, Child(WAIT, path) as waiter:
        until_it_waits(waiter, path)
        os.unlink(path)
        holder.tell()
        waiter.expect("acquired")
        assert os.path.exists(path)
        assert not is_free(path)


@posix_only
@pytest.mark.parametrize("shared_object", [False, True], ids=["a new object each time", "one object"])
def test_nothing_is_lost_while_holders_remove_the_lock_file(path, shared_object):
    """Whoever holds the lock may remove its file as the last thing before the release."""
    code = """
        import random
        from holdfast import FileLock
        from support import increment
        choice = random.Random(args[1])
        one = FileLock(args[0])
        for n in range(200):
            lock = one if args[2] == "True" else FileLock(args[0])
            with lock:
                increment(args[0] + ".number")
                what = choice.choice(["keep", "keep", "unlink", "rename", "replace"])
                if what == "unlink":
                    os.unlink(args[0])
                elif what == "rename":
                    os.rename(args[0], f"{args[0]}.old{args[1]}")
                elif what == "replace":
                    open(f"{args[0]}.new{args[1]}", "w").close()
                    os.rename(f"{args[0]}.new{args[1]}", args[0])
    """
    workers = [Child(code, path, random.random(), shared_object) for _ in range(4)]
    for worker in workers:
        with worker:
            worker.join()
    assert number_in(path + ".number") == 4 * 200


@posix_only
def test_a_directory_renamed_while_the_lock_is_held_does_not_hinder_the_release(tmp_path):
    (tmp_path / "old").mkdir()
    lock = FileLock(tmp_path / "old" / "the.lock")
    with lock:
        os.rename(tmp_path / "old", tmp_path / "new")
        assert not is_free(tmp_path / "new" / "the.lock")
    assert is_free(tmp_path / "new" / "the.lock")
    with lock:  # where the path says, not where the file went
        assert is_free(tmp_path / "new" / "the.lock")
        assert not is_free(tmp_path / "old" / "the.lock")


@linux_only
@kernel_wait_only
def test_a_wait_in_a_directory_that_is_renamed_fails_and_nothing_is_held(tmp_path):
    """As filelock does: to create the directory again could split the lock in two."""
    path = tmp_path / "old" / "the.lock"
    code = """
        from holdfast import FileLock
        lock = FileLock(args[0])
        try:
            lock.acquire()
        except FileNotFoundError as error:
            assert error.filename == args[0]
            say("not found")
        say(lock.lock_counter)
        hear()
    """
    with held_elsewhere(path) as holder, Child(code, path) as waiter:
        until_it_waits(waiter, path)
        os.rename(tmp_path / "old", tmp_path / "new")
        holder.tell()
        waiter.expect("not found")
        waiter.expect("0")
        assert not (tmp_path / "old").exists()
        assert is_free(tmp_path / "new" / "the.lock")
