"""SoftFileLock: a lock whose file exists while it is held, and says by whom."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import signal
import stat
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import delays_signal_handlers, frees_names_of_open_files, linux_only, needs_waitid, posix_only
from holdfast import SoftFileLock, Timeout, _stamp, write_text
from interposed import interposed
from support import ALARMS, PATIENCE, Child, eventually, in_another_thread

# What who opens a marker may meet; on Windows a file that is just being moved or removed cannot be opened with open().
GONE = (FileNotFoundError,) if os.name == "posix" else (FileNotFoundError, PermissionError)

HOLD = """
    from holdfast import SoftFileLock
    with SoftFileLock(args[0]):
        say("held")
        hear()
    say("released")
"""

# A process that cannot see its namespaces tries to take a lock, and tries again when it sees them.
NAMESPACES_HIDDEN = """
    from holdfast import SoftFileLock, Timeout
    def hidden(path, *more, **others):
        if str(path).startswith("/proc/self/ns"):
            raise OSError(int(args[1]), "hidden", path)
        return shown(path, *more, **others)
    shown, os.stat = os.stat, hidden
    lock = SoftFileLock(args[0], blocking=False)
    for _ in range(2):
        try:
            lock.acquire()
            say("acquired" if lock.is_lock_held_by_us else "acquired, and not known as ours")
        except Timeout:
            say("refused")
        hear()
        os.stat = shown
"""

# What a process does with a lock to find out whether it is alone. mkdir() fails when somebody else is inside.
ALONE = """
    def alone(folder):
        os.mkdir(f"{folder}/inside")
        with open(f"{folder}/counter") as file:
            count = int(file.read())
        with open(f"{folder}/counter", "w") as file:
            file.write(str(count + 1))
        os.rmdir(f"{folder}/inside")
"""

# Replaces system calls of the core by functions that return an errno, or None to let the call through.
SYS = """
    from holdfast._native import ffi, lib
    kept = []
    def replace(name, signature, judge):
        real = ffi.cast(f"int (*)({signature})", lib.hf_sys_get(name.encode()))
        def call(*arguments):
            number = judge(*arguments)
            if number is None:
                rc = real(*arguments)
                return rc
            ffi.errno = number
            return -1
        callback = ffi.callback(f"int({signature})", call)
        kept.append(callback)
        assert lib.hf_sys_set(name.encode(), ffi.cast("void *", callback)) == 0
"""


@pytest.fixture(autouse=True)
def _no_litter(tmp_path):
    """Whatever a test did, no scratch file is left in the end."""
    yield
    left = [name for name in os.listdir(tmp_path) if name.endswith((".new", ".tmp"))]
    assert left == []


def record(path):
    """The lines of the marker."""
    return Path(path).read_text(encoding="ascii").splitlines()


def write_record(path, *lines):
    Path(path).write_bytes("".join(f"{line}\n" for line in lines).encode())


@pytest.fixture
def mine(tmp_path):
    """The record this process writes: pid, host, start."""
    with SoftFileLock(tmp_path / "mine.lock"):
        lines = record(tmp_path / "mine.lock")
    if len(lines) != 3:
        pytest.skip("this system does not tell when a process started")
    return lines


@pytest.fixture(scope="session")
def dead_pid():
    """A pid that no process has."""
    with Child("") as child:
        child.join()
        return child.pid


def refused(path, **arguments):
    """The error of a try that the file at `path` must refuse, leaving it as it is."""
    before = os.lstat(path)
    with pytest.raises(Timeout) as caught:
        SoftFileLock(path, **arguments).acquire(blocking=False)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    return caught.value


# ---------------------------------------------------------------------------------------------------------------------
# Acquiring and releasing


def test_the_file_exists_exactly_while_the_lock_is_held(path):
    lock = SoftFileLock(path)
    assert not os.path.exists(path)
    with lock:
        assert os.path.exists(path)
    assert not os.path.exists(path)


def test_the_with_statement_gives_the_lock_and_releases_it(path):
    with SoftFileLock(path) as lock:
        assert isinstance(lock, SoftFileLock)
        assert lock.is_locked
    assert not lock.is_locked


def test_an_exception_in_the_block_releases_the_lock(path):
    lock = SoftFileLock(path)
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert not lock.is_locked
    assert not os.path.exists(path)


def test_the_proxy_of_acquire_releases_what_was_acquired(path):
    lock = SoftFileLock(path)
    with lock.acquire() as held:
        assert held is lock
        assert lock.lock_counter == 1
    assert lock.lock_counter == 0


def test_the_lock_nests_and_is_free_after_the_last_release(path):
    lock = SoftFileLock(path)
    with lock:
        with lock:
            assert lock.lock_counter == 2
        assert lock.lock_counter == 1
        assert os.path.exists(path)
    assert lock.lock_counter == 0
    assert not os.path.exists(path)


def test_force_releases_all_nested_acquisitions(path):
    lock = SoftFileLock(path)
    lock.acquire()
    lock.acquire()
    lock.release(force=True)
    assert lock.lock_counter == 0
    assert not os.path.exists(path)


def test_a_release_of_what_is_not_held_does_nothing(path):
    lock = SoftFileLock(path)
    lock.release()
    lock.release(force=True)
    with SoftFileLock(path):
        lock.release()
        assert os.path.exists(path)


def test_close_releases_and_the_lock_can_be_acquired_again(path):
    lock = SoftFileLock(path)
    lock.acquire()
    lock.acquire()
    lock.close()
    assert not os.path.exists(path)
    with lock:
        assert lock.is_locked


def test_a_lock_that_is_forgotten_is_released(path):
    lock = SoftFileLock(path)
    lock.acquire()
    del lock
    gc.collect()  # where nobody counts references
    with SoftFileLock(path, timeout=PATIENCE):
        pass


def test_a_lock_decorates_a_function(path):
    lock = SoftFileLock(path)

    @lock
    def held():
        return lock.is_locked

    assert held() is True
    assert not lock.is_locked


def test_processes_exclude_each_other(tmp_path, path):
    (tmp_path / "counter").write_text("0")
    code = (
        ALONE
        + """
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0], poll_interval=0.002)
    for _ in range(100):
        with lock:
            alone(args[1])
    """
    )
    children = [Child(code, path, tmp_path) for _ in range(4)]
    for child in children:
        with child:
            child.join()
    assert (tmp_path / "counter").read_text() == "400"


def test_threads_exclude_each_other_through_one_instance(path):
    lock = SoftFileLock(path, poll_interval=0.001)
    inside, worst = [], []

    def work():
        for _ in range(50):
            with lock:
                inside.append(None)
                time.sleep(0)
                worst.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert worst == [1] * 200


def test_each_thread_holds_the_lock_for_itself(path):
    lock = SoftFileLock(path)
    with lock:
        assert in_another_thread(lambda: lock.is_locked) is False
        with pytest.raises(Timeout):
            in_another_thread(lambda: lock.acquire(blocking=False))
        in_another_thread(lock.release)
        assert lock.is_locked
        assert os.path.exists(path)


def test_without_thread_local_all_threads_share_one_hold(path):
    lock = SoftFileLock(path, thread_local=False)
    lock.acquire()
    assert in_another_thread(lambda: lock.acquire(blocking=False) and lock.lock_counter) == 2
    in_another_thread(lock.release)
    in_another_thread(lock.release)
    assert not lock.is_locked
    assert not os.path.exists(path)


def test_force_releases_what_a_thread_that_ended_still_holds(path):
    lock = SoftFileLock(path)
    in_another_thread(lock.acquire)
    assert os.path.exists(path)
    lock.release(force=True)
    assert not os.path.exists(path)


@pytest.mark.parametrize("spelling", [Path, os.fspath, os.fsencode])
def test_a_path_is_given_as_text_bytes_or_path(path, spelling):
    with SoftFileLock(spelling(path)) as lock:
        assert os.path.exists(path)
        assert lock.lock_file == path


def test_a_missing_directory_is_created(tmp_path):
    path = tmp_path / "some" / "where" / "the.lock"
    with SoftFileLock(path):
        assert path.exists()
    assert os.listdir(path.parent) == []


def test_a_relative_path_names_a_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SoftFileLock("the.lock"):
        assert (tmp_path / "the.lock").exists()
    assert os.listdir(tmp_path) == []


def test_a_change_of_the_working_directory_does_not_keep_a_lock_from_being_released(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with SoftFileLock("the.lock"):
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert not (tmp_path / "the.lock").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Waiting


def test_a_try_fails_at_once_while_another_process_holds_the_lock(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        with pytest.raises(Timeout):
            SoftFileLock(path).acquire(blocking=False)
        with pytest.raises(Timeout):
            SoftFileLock(path, blocking=False).acquire()
        with pytest.raises(Timeout):
            SoftFileLock(path, timeout=0).acquire()


@pytest.mark.parametrize("timeout", [0.05, 0.2])
def test_a_timeout_comes_not_before_its_time(path, timeout):
    with Child(HOLD, path) as child:
        child.expect("held")
        lock = SoftFileLock(path)
        start = time.monotonic()
        with pytest.raises(Timeout) as caught:
            lock.acquire(timeout=timeout)
        assert time.monotonic() - start >= timeout
        assert not lock.is_locked
        assert caught.value.lock_file == path
        assert [holder.pid for holder in caught.value.holders] == [child.pid]
        assert str(child.pid) in str(caught.value)


def test_a_waiter_gets_the_lock_when_it_is_released(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        waiting = threading.Event()

        def wait():
            waiting.set()
            with SoftFileLock(path, timeout=PATIENCE) as lock:
                return lock.is_locked

        threading.Thread(target=lambda: (waiting.wait(PATIENCE), child.tell())).start()
        assert in_another_thread(wait) is True


def test_cancel_check_ends_the_wait(path):
    asked = []

    def cancel():
        asked.append(None)
        return len(asked) == 3

    with Child(HOLD, path) as child:
        child.expect("held")
        lock = SoftFileLock(path)
        with pytest.raises(Timeout):
            lock.acquire(poll_interval=0.002, cancel_check=cancel)
        assert len(asked) == 3
        assert not lock.is_locked


def test_cancel_check_is_not_asked_when_the_lock_is_free(path):
    with SoftFileLock(path).acquire(cancel_check=lambda: pytest.fail("asked")):
        pass


@posix_only
def test_a_signal_handler_that_raises_ends_the_wait(path):
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        with Child(HOLD, path) as child:
            child.expect("held")
            lock = SoftFileLock(path)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                lock.acquire()
            assert not lock.is_locked
            child.tell()
            child.expect("released")
            with lock.acquire(timeout=PATIENCE):
                assert lock.lock_counter == 1
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_thread_that_would_wait_for_itself_for_ever_gets_a_runtime_error(path):
    with SoftFileLock(path):
        other = SoftFileLock(path)
        with pytest.raises(RuntimeError, match="Deadlock"):
            other.acquire()
        assert not other.is_locked
        assert os.path.exists(path)


def test_a_thread_that_waits_for_itself_with_a_timeout_gets_a_timeout(path):
    with SoftFileLock(path), pytest.raises(Timeout, match="this process"):
        SoftFileLock(path).acquire(timeout=0.05)


@posix_only
def test_a_thread_that_waits_for_itself_is_found_through_any_spelling_of_the_path(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with SoftFileLock(tmp_path / "real" / "the.lock"), pytest.raises(RuntimeError, match="Deadlock"):
        SoftFileLock(tmp_path / "link" / ".." / "link" / "the.lock").acquire()


def test_a_thread_may_wait_for_another_thread_of_its_process(path):
    held, finish = threading.Event(), threading.Event()

    def hold():
        with SoftFileLock(path):
            held.set()
            finish.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    threading.Timer(0.05, finish.set).start()
    with SoftFileLock(path):  # waits for ever, and is not taken for a deadlock
        assert finish.is_set()
    thread.join(PATIENCE)


def test_locks_made_by_other_threads_do_not_disturb_a_wait(tmp_path):
    code = """
    from holdfast import SoftFileLock
    sys.setswitchinterval(1e-6)
    others = [SoftFileLock(f"{args[0]}/{number}") for number in range(2000)]
    def make():
        while True:
            SoftFileLock(f"{args[0]}/another")
    for _ in range(2):
        threading.Thread(target=make, daemon=True).start()
    with SoftFileLock(f"{args[0]}/the.lock"):
        for _ in range(20):
            try:
                SoftFileLock(f"{args[0]}/the.lock").acquire()
            except RuntimeError as error:
                assert "Deadlock" in str(error), error
    say("undisturbed")
    sys.stdout.close()
    os._exit(0)
    """
    with Child(code, tmp_path) as child:
        child.expect("undisturbed")
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def test_the_arguments_can_be_read(path):
    lock = SoftFileLock(path, 5, 0o600, False, blocking=False, is_singleton=False, poll_interval=0.1, lifetime=60)
    assert (lock.lock_file, lock.timeout, lock.mode, lock.is_thread_local()) == (path, 5, 0o600, False)
    assert (lock.blocking, lock.is_singleton, lock.poll_interval, lock.lifetime) == (False, False, 0.1, 60)


@pytest.mark.parametrize("lifetime", [-1, float("inf"), float("nan")])
def test_a_lifetime_is_finite_and_not_negative(path, lifetime):
    with pytest.raises(ValueError, match="lifetime"):
        SoftFileLock(path, lifetime=lifetime)


@pytest.mark.parametrize("lifetime", [True, "1"])
def test_a_lifetime_is_a_number(path, lifetime):
    with pytest.raises(TypeError, match="lifetime"):
        SoftFileLock(path, lifetime=lifetime)


@pytest.mark.parametrize("bad", ["", "a\0b"])
def test_a_path_that_cannot_be_one_is_refused(bad):
    with pytest.raises(ValueError, match="the path"):
        SoftFileLock(bad)


@pytest.mark.parametrize(("given", "named"), [((), {}), (("a.lock",), {"bogus": 1})])
def test_wrong_arguments_raise_a_type_error_and_nothing_else(given, named, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with pytest.raises(TypeError):
        SoftFileLock(*given, **named)
    gc.collect()
    assert unraisable == []


def test_a_singleton_is_one_instance_for_all_spellings_of_the_path(path):
    lock = SoftFileLock(path, is_singleton=True)
    assert SoftFileLock(os.path.join(os.path.dirname(path), ".", "the.lock"), is_singleton=True) is lock
    assert SoftFileLock(path) is not lock
    with lock, SoftFileLock(path, is_singleton=True):
        assert lock.lock_counter == 2


@pytest.mark.parametrize("other", [{"lifetime": 5}, {"timeout": 3}, {"mode": 0o600}, {"thread_local": False}])
def test_a_singleton_asked_for_with_other_arguments_is_refused(path, other):
    lock = SoftFileLock(path, is_singleton=True)
    with pytest.raises(ValueError, match=f"{next(iter(other))} is "):
        SoftFileLock(path, is_singleton=True, **other)
    del lock


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_is_another_lock_on_the_same_file_and_holds_nothing(path, duplicate):
    lock = SoftFileLock(path, 3, 0o600, False, blocking=False, poll_interval=0.2, lifetime=60)
    with lock:
        other = duplicate(lock)
        assert not other.is_locked
        assert (other.lock_file, other.timeout, other.mode, other.is_thread_local()) == (path, 3, 0o600, False)
        assert (other.blocking, other.poll_interval, other.lifetime) == (False, 0.2, 60)
        with pytest.raises(Timeout):
            other.acquire()
    with other:
        assert not lock.is_locked


# ---------------------------------------------------------------------------------------------------------------------
# The record


def test_the_record_names_the_process_that_holds_the_lock(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        lines = record(path)
        assert int(lines[0]) == child.pid
        assert lines[1]
        assert len(lines) == 2 or lines[2].isdigit()
        assert SoftFileLock(path).pid == child.pid
        assert not SoftFileLock(path).is_lock_held_by_us


def test_a_lock_that_nobody_holds_has_no_pid(path):
    assert SoftFileLock(path).pid is None
    assert not SoftFileLock(path).is_lock_held_by_us


def test_a_process_knows_the_lock_it_holds_through_any_instance(path):
    with SoftFileLock(path):
        assert SoftFileLock(path).is_lock_held_by_us


# Between creating a file and writing the record, and between that and giving it its name, a process dawdles.
SLOW_WRITES = """
    def dawdle(*arguments):
        time.sleep(0.001)
    replace("fchmod", "int, unsigned int", dawdle)
    replace("fdatasync", "int", dawdle)
"""


def test_the_record_is_complete_whenever_the_file_exists(tmp_path, path):
    code = """
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0], mode=0o640, poll_interval=0.001)
    while not os.path.exists(args[1]):
        with lock:
            pass
    """
    stop = tmp_path / "stop"
    children = [Child(poor(SLOW_WRITES if os.name == "posix" else "", code), path, stop) for _ in range(2)]
    pids = {child.pid for child in children}
    seen = []
    end = time.monotonic() + PATIENCE
    try:
        while len(seen) < 500:  # without a pause: the file comes and goes quickly
            assert time.monotonic() < end
            with suppress(*GONE):
                seen.append(Path(path).read_bytes())
    finally:
        stop.touch()
        for child in children:
            with child:
                child.join()
    for text in set(seen):
        lines = text.decode("ascii").splitlines()
        assert text.endswith(b"\n")
        assert len(lines) in (2, 3)
        assert int(lines[0]) in pids
    assert len({len(text.splitlines()) for text in seen}) == 1


@posix_only
@pytest.mark.parametrize(
    ("umask", "arguments", "expected"),
    [
        (0o000, {}, 0o644),
        (0o077, {}, 0o600),
        (0o077, {"mode": 0o640}, 0o640),
        (0o000, {"mode": 0o666}, 0o644),
        (0o000, {"mode": 0o664}, 0o644),
        (0o000, {"mode": 0o600}, 0o600),
    ],
)
def test_the_file_is_never_writable_by_others(path, umask, arguments, expected):
    previous = os.umask(umask)
    try:
        with SoftFileLock(path, **arguments):
            assert stat.S_IMODE(os.stat(path).st_mode) == expected
    finally:
        os.umask(previous)


# ---------------------------------------------------------------------------------------------------------------------
# Owners that died, and owners that did not


def test_the_lock_of_a_killed_process_is_taken_over(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        child.kill()
    assert os.path.exists(path)
    with SoftFileLock(path, blocking=False):
        assert int(record(path)[0]) == os.getpid()


@needs_waitid
def test_the_lock_of_a_zombie_is_taken_over(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        with SoftFileLock(path, blocking=False):
            assert int(record(path)[0]) == os.getpid()


def test_the_lock_of_a_living_process_is_not_taken_over(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        error = refused(path)
        assert f"pid {child.pid}" in str(error)
        child.tell()
        child.expect("released")


def test_the_lock_of_a_process_on_another_host_is_not_taken_over_and_the_error_says_whose_it_is(path, mine, dead_pid):
    write_record(path, dead_pid, "elsewhere", mine[2])
    error = refused(path)
    assert f"pid {dead_pid} on host elsewhere" in str(error)
    assert [(holder.pid, holder.host) for holder in error.holders] == [(dead_pid, "elsewhere")]


@posix_only
def test_a_lock_is_free_that_was_released_while_its_file_was_looked_at_over_a_network(path):
    looks = 0

    def meddle(call):
        nonlocal looks
        looks += call == "fstat"
        if looks != 2:  # the one before is to see that it is a regular file
            return None
        looks += 1
        os.unlink(path)
        return errno.ESTALE

    with Child(HOLD, path) as holder:
        holder.expect("held")
        with interposed(meddle), SoftFileLock(path, blocking=False):
            assert looks > 2


@pytest.mark.parametrize("content", [b"", b"\n", b"somebody else's file\n"])
def test_a_file_that_is_not_a_marker_is_not_taken_over(path, content):
    Path(path).write_bytes(content)
    error = refused(path)
    assert error.holders == []
    assert "names no owner" in str(error)
    assert Path(path).read_bytes() == content


def test_the_record_of_the_dead_is_taken_over_on_this_host(path, mine, dead_pid):
    """The counter-example to the tests that follow: without it they could pass for a wrong reason."""
    write_record(path, dead_pid, mine[1], mine[2])
    with SoftFileLock(path, blocking=False):
        pass


@linux_only
@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOENT], ids=["not allowed", "no /proc"])
def test_who_cannot_see_which_pid_namespace_it_is_in_finds_nobody_dead_until_it_can(path, mine, dead_pid, error):
    write_record(path, dead_pid, mine[1], mine[2])
    with Child(NAMESPACES_HIDDEN, path, error) as child:
        child.expect("refused")
        child.tell()
        child.expect("acquired")


@linux_only
@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOENT], ids=["not allowed", "no /proc"])
def test_nobody_finds_dead_who_could_not_see_which_pid_namespace_it_is_in(path, error):
    with Child(NAMESPACES_HIDDEN, path, error) as child:
        child.expect("acquired")
        child.tell()
        child.expect("acquired")  # once more, now that it sees
        child.kill()
    refused(path)


def test_a_record_without_a_start_is_taken_over_when_its_process_is_gone(path, mine, dead_pid):
    write_record(path, dead_pid, mine[1])
    with SoftFileLock(path, blocking=False):
        pass


def test_a_record_without_a_start_is_respected_while_its_pid_lives(path, mine):
    write_record(path, mine[0], mine[1])
    refused(path)


def test_the_record_of_this_very_process_is_respected(path, mine):
    write_record(path, *mine)
    refused(path)


def test_a_pid_that_belongs_to_a_later_process_by_now_is_taken_over(path, mine):
    write_record(path, mine[0], mine[1], int(mine[2]) + 1)
    with SoftFileLock(path, blocking=False):
        assert record(path) == mine


@linux_only
def test_a_record_from_another_boot_is_taken_over(path, mine):
    write_record(path, mine[0], mine[1], int(mine[2]) ^ 1 << 64)
    with SoftFileLock(path, blocking=False):
        assert record(path) == mine


@linux_only
def test_a_record_whose_writer_could_not_see_the_boot_is_judged_by_the_start_alone(path, mine):
    write_record(path, mine[0], mine[1], int(mine[2]) % 2**64)
    refused(path)


# Each of these would be taken over if it were read more generously: the process is dead.
HOSTILE = {
    "no newline at the end": "{pid}\n{host}\n{start}",
    "a line too many": "{pid}\n{host}\n{start}\n{start}\n",
    "a line too few": "{pid}\n",
    "huge": "{pid}\n{host}\n{start}\n" + "\n" * 2000,
    "a huge start": "{pid}\n{host}\n" + "9" * 5000 + "\n",
    "a negative pid": "-{pid}\n{host}\n{start}\n",
    "pid 0": "0\n{host}\n{start}\n",
    "a pid above all": "2147483648\n{host}\n{start}\n",
    "a pid above 64 bits": "1" + "0" * 900 + "\n{host}\n{start}\n",
    "a signed pid": "+{pid}\n{host}\n{start}\n",
    "a pid with spaces": " {pid}\n{host}\n{start}\n",
    "a pid with an underscore": "1_0{pid}\n{host}\n{start}\n",
    "a NUL": "{pid}\0\n{host}\n{start}\n",
    "a NUL in the start": "{pid}\n{host}\n{start}\0\n",
    "Arabic digits": "\N{ARABIC-INDIC DIGIT ONE}\n{host}\n{start}\n",
    "superscript digits": "\N{SUPERSCRIPT TWO}\n{host}\n{start}\n",
    "fullwidth digits": "\N{FULLWIDTH DIGIT NINE}{pid}\n{host}\n{start}\n",
    "a start that is no number": "{pid}\n{host}\nyesterday\n",
    "a negative start": "{pid}\n{host}\n-{start}\n",
    "another host": "{pid}\n{host}x\n{start}\n",
    "no host": "{pid}\n\n{start}\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_record_is_not_taken_over(path, mine, dead_pid, text):
    content = text.format(pid=dead_pid, host=mine[1], start=mine[2]).encode()
    Path(path).write_bytes(content)
    str(refused(path))
    assert Path(path).read_bytes() == content


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=1500) | st.lists(st.text(max_size=30), max_size=5).map(lambda x: "\n".join(x).encode()))
def test_no_content_whatever_breaks_anything(path, content):
    Path(path).write_bytes(content)
    lock = SoftFileLock(path)
    assert lock.pid is None or lock.pid > 0
    assert not lock.is_lock_held_by_us
    try:
        lock.acquire(blocking=False)
    except Timeout as caught:
        error = caught
    else:  # the record of a dead process, by chance
        lock.release()
        return
    assert path in str(error)
    assert Path(path).read_bytes() == content


def test_a_record_cannot_put_control_characters_into_the_message(path):
    Path(path).write_bytes(b"99\nhost\x1b[31m\x07\n5\n")
    assert str(refused(path)).isprintable()


@posix_only
def test_a_symbolic_link_at_the_path_is_not_followed(tmp_path, path):
    os.symlink("target", path)
    with pytest.raises(OSError, match="lock"):
        SoftFileLock(path).acquire(timeout=0.02)
    assert os.path.islink(path)
    assert not (tmp_path / "target").exists()


@posix_only
def test_a_link_to_the_record_of_the_dead_is_not_followed(tmp_path, path, mine, dead_pid):
    write_record(tmp_path / "target", dead_pid, *mine[1:])
    os.symlink("target", path)
    with pytest.raises(OSError, match="lock"):
        SoftFileLock(path, lifetime=0).acquire(timeout=0.02)
    assert os.path.islink(path)
    assert (tmp_path / "target").exists()


def test_a_directory_at_the_path_is_left_alone(path):
    os.mkdir(path)
    with pytest.raises(OSError, match="lock"):
        SoftFileLock(path, lifetime=0).acquire(timeout=0.02)
    assert os.path.isdir(path)


@posix_only
def test_a_fifo_at_the_path_hangs_nobody(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="lock"):
        SoftFileLock(path).acquire(timeout=0.02)
    assert stat.S_ISFIFO(os.lstat(path).st_mode)


def test_release_does_nothing_when_somebody_removed_the_file(path):
    lock = SoftFileLock(path)
    lock.acquire()
    os.unlink(path)
    lock.release()
    assert not lock.is_locked
    with lock:
        assert os.path.exists(path)


@frees_names_of_open_files
def test_release_does_not_remove_a_file_that_came_in_place_of_ours(path):
    lock = SoftFileLock(path)
    lock.acquire()
    os.unlink(path)
    with Child(HOLD, path) as child:
        child.expect("held")
        lock.release()
        assert int(record(path)[0]) == child.pid


@linux_only
def test_somebody_who_locks_the_file_of_a_marker_does_not_make_its_release_fail_in_riddles(path):
    import fcntl

    lock = SoftFileLock(path)
    lock.acquire()
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            lock.release()
            said = ""
        except OSError as error:
            said = str(error)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
            lock.release()
    assert "Unknown error" not in said


# ---------------------------------------------------------------------------------------------------------------------
# Lifetime


def age(path, seconds):
    """Make a marker older."""
    os.utime(path, (time.time() - seconds,) * 2)


def test_an_overdue_marker_of_a_living_owner_is_taken_over(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        age(path, 100)
        with SoftFileLock(path, lifetime=50, blocking=False):
            assert int(record(path)[0]) == os.getpid()


def test_the_release_of_the_overdue_owner_does_not_remove_the_marker_of_the_next(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        age(path, 100)
        with SoftFileLock(path, lifetime=50, blocking=False):
            child.tell()
            child.expect("released")
            child.join()
            assert int(record(path)[0]) == os.getpid()
        assert not os.path.exists(path)


def test_a_marker_is_not_taken_over_before_its_time(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        age(path, 50)
        refused(path, lifetime=100)
        refused(path)


def test_a_marker_is_not_taken_over_a_fraction_of_a_second_before_its_time(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        eventually(lambda: time.time() % 1 < 0.3)  # only to have a moment until the marker is indeed overdue
        written = int(time.time()) - 0.01
        os.utime(path, (written, written))
        try:
            refused(path, lifetime=1)
        except BaseException:
            if time.time() - written < 1:
                raise
            pytest.skip("the machine was too slow for this test")


def test_an_empty_file_is_taken_over_when_it_is_overdue(path):
    Path(path).touch()
    age(path, 100)
    with SoftFileLock(path, lifetime=50, blocking=False):
        assert int(record(path)[0]) == os.getpid()


def test_a_waiter_takes_the_lock_over_when_its_time_has_come(path):
    with Child(HOLD, path) as child:
        child.expect("held")
        written = os.stat(path).st_mtime
        with SoftFileLock(path, lifetime=1, timeout=PATIENCE):
            assert time.time() - written >= 0  # when exactly: see above
            assert int(record(path)[0]) == os.getpid()


# ---------------------------------------------------------------------------------------------------------------------
# Waiters that have looked at a marker once


@pytest.fixture
def refused_once(path, monkeypatch):
    """A lock that has met the marker of a living process, and that process."""
    monkeypatch.setattr(_stamp, "settles_in", lambda _: -1e9)  # otherwise a new marker is read twice
    with Child(HOLD, path) as holder:
        holder.expect("held")
        lock = SoftFileLock(path, blocking=False)
        with pytest.raises(Timeout):
            lock.acquire()
        yield lock, holder


@posix_only
def test_a_waiter_reads_a_marker_only_once(refused_once):
    lock, _ = refused_once
    calls = []
    with interposed(calls.append), pytest.raises(Timeout):
        lock.acquire()
    assert "lstat" in calls
    assert "pread" not in calls


def test_a_waiter_finds_out_that_the_owner_has_died_since(refused_once):
    lock, holder = refused_once
    holder.kill()
    with lock:
        assert lock.pid == os.getpid()


def test_a_waiter_finds_out_that_the_marker_is_another_one_by_now(path, mine, dead_pid, refused_once):
    lock, holder = refused_once
    holder.tell()
    holder.expect("released")
    write_record(path, dead_pid, *mine[1:])
    age(path, 100)  # or it could have the number and the times of the first
    with lock:
        assert lock.pid == os.getpid()


@posix_only
@pytest.mark.parametrize(("seconds", "reads"), [(0, [True, True, False]), (1e9, [True, False, False])])
def test_a_waiter_reads_a_marker_once_more_when_another_one_would_have_another_time(path, monkeypatch, seconds, reads):
    monkeypatch.setattr(_stamp, "settles_in", lambda _: seconds)
    with Child(HOLD, path) as holder:
        holder.expect("held")
        lock = SoftFileLock(path, blocking=False)
        for read in reads:
            calls = []
            with interposed(calls.append), pytest.raises(Timeout):
                lock.acquire()
            assert ("pread" in calls) is read


def test_the_times_of_a_file_are_trusted_sooner_where_they_have_fractions(path):
    Path(path).touch()
    os.utime(path, ns=(0, 1_700_000_000_123_000_000))
    fine = _stamp.settles_in(_stamp.stamp_of(os.stat(path)))
    os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    assert fine < _stamp.settles_in(_stamp.stamp_of(os.stat(path))) == _stamp.SETTLED


@posix_only
def test_a_waiter_that_could_not_read_a_marker_once_reads_it_again(path, monkeypatch, mine, dead_pid):
    monkeypatch.setattr(_stamp, "settles_in", lambda _: -1e9)
    write_record(path, dead_pid, *mine[1:])
    lock = SoftFileLock(path, blocking=False)
    with interposed(lambda call: errno.EACCES if call == "pread" else None), pytest.raises(Timeout):
        lock.acquire()
    with lock:
        assert lock.pid == os.getpid()


def test_a_waiter_finds_out_that_the_time_of_a_living_owner_is_up(path, refused_once):
    lock, _ = refused_once
    lock.lifetime = 0
    with lock:
        assert lock.pid == os.getpid()


# ---------------------------------------------------------------------------------------------------------------------
# Processes that fork, end, or are killed


@posix_only
def test_a_forked_child_holds_nothing_and_its_end_does_not_remove_the_marker(path):
    with Child(
        """
        from holdfast import SoftFileLock, Timeout
        lock = SoftFileLock(args[0])
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            assert not lock.is_locked and lock.lock_counter == 0 and not lock.is_lock_held_by_us
            lock.release()
            lock.release(force=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                del lock
                sys.exit(7)  # in good order, with all that runs then
            sys.exit("acquired")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert lock.is_locked and os.path.exists(args[0])
        lock.release()
        assert not os.path.exists(args[0])
        """,
        path,
    ) as child:
        child.join()


@posix_only
def test_a_forked_child_can_acquire_the_lock_afresh(path):
    with Child(
        """
        from holdfast import SoftFileLock
        lock = SoftFileLock(args[0])
        lock.acquire()
        ready, wake = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(ready, 1)
            with lock.acquire(timeout=60):
                os._exit(0 if open(args[0]).read().startswith(f"{os.getpid()}\\n") else 1)
        lock.release()
        os.write(wake, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        """,
        path,
    ) as child:
        child.join()
    with SoftFileLock(path, blocking=False):  # os._exit() left its marker, and is dead
        pass


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "sys.exit(0)",
        "del lock",
        "threading.Thread(target=lock2.acquire).start()",
        "threading.Thread(target=lambda kept: time.sleep(60), args=[lock], daemon=True).start()",
    ],
)
def test_the_end_of_the_interpreter_removes_the_markers(tmp_path, path, end):
    with Child(
        f"""
        from holdfast import SoftFileLock
        lock, lock2 = SoftFileLock(args[0]), SoftFileLock(args[1])
        lock.acquire()
        assert os.path.exists(args[0])
        {end}
        """,
        path,
        tmp_path / "second.lock",
    ) as child:
        child.join()
    assert os.listdir(tmp_path) == []


# While it looks at a file, a process dawdles now and then: much can happen between its look and what it does then.
SLOW_LOOKS = """
    import random
    def dawdle(fd, status):
        if random.random() < 0.3:
            time.sleep(random.random() * 0.003)
    replace("fstat", "int, void *", dawdle)
"""


@posix_only
def test_many_breakers_of_one_stale_marker_never_hold_the_lock_together(tmp_path, path, mine, dead_pid):
    rounds, breakers = 60, 6
    (tmp_path / "counter").write_text("0")
    code = (
        ALONE
        + """
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0], timeout=60, poll_interval=0.001)
    say("ready")
    while hear():
        with lock:
            alone(args[1])
        say("done")
    """
    )
    children = [Child(poor(SLOW_LOOKS, code), path, tmp_path) for _ in range(breakers)]
    try:
        for child in children:
            child.expect("ready")
        for _ in range(rounds):
            write_record(tmp_path / "stale", dead_pid, *mine[1:])
            os.rename(tmp_path / "stale", path)
            for child in children:
                child.tell("go")
            for child in children:
                child.expect("done")
    finally:
        for child in children:
            child.__exit__()
    assert (tmp_path / "counter").read_text() == str(rounds * breakers)
    assert sorted(os.listdir(tmp_path)) == ["counter"]


def unnamed_files_work(directory):
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR))
    except (OSError, AttributeError):
        return False
    return True


KILL = """
    import random, signal
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0], timeout=60)
    times = int(args[1])
    for _ in range(times):
        started, start = os.pipe()
        pid = os.fork()
        if pid == 0:
            with lock:
                os.write(start, b"x")
            while True:
                with lock:
                    pass
        assert os.read(started, 1) == b"x"
        time.sleep(random.random() * 0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(started), os.close(start)
        with lock:
            say(f"acquired")
"""


@posix_only
def test_processes_killed_at_any_moment_leave_nothing_that_blocks(tmp_path, path):
    with Child(KILL, path, 50) as child:
        for _ in range(50):
            child.expect("acquired")
        child.join()
    left = os.listdir(tmp_path)
    if unnamed_files_work(tmp_path):
        assert left == []
    for name in left:
        os.unlink(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------------
# Poor file systems


NO_UNNAMED = """
    import errno
    replace("link_unnamed", "int, char *", lambda fd, to: errno.EOPNOTSUPP)
"""
NO_LINKS = (
    NO_UNNAMED
    + """
    def no_link(source, target):
        used.append("link")
        return errno.EOPNOTSUPP
    used = []
    replace("link", "char *, char *", no_link)
    replace("rename_new", "char *, char *", lambda source, target: used.append("rename_new"))
"""
)


def poor(rules, code):
    """A program that runs on a file system that lacks something."""
    return "".join([*(f"{part}\n" for part in (SYS, rules)), code])


@linux_only
@pytest.mark.parametrize("rules", [NO_UNNAMED, NO_LINKS], ids=["no unnamed files", "no links at all"])
def test_a_lock_works_without_unnamed_files_and_without_links(tmp_path, path, rules):
    code = """
    from holdfast import SoftFileLock, Timeout
    with SoftFileLock(args[0]) as lock:
        assert open(args[0]).read().startswith(f"{os.getpid()}\\n")
        assert os.listdir(args[1]) == ["the.lock"], os.listdir(args[1])
        assert os.stat(args[0]).st_nlink == 1
        try:
            SoftFileLock(args[0]).acquire(blocking=False)
        except Timeout:
            say("refused")
    assert os.listdir(args[1]) == []
    """
    with Child(poor(rules, code), path, tmp_path) as child:
        child.expect("refused")
        child.join()


@linux_only
def test_where_there_are_no_links_the_scratch_file_is_renamed_and_replaces_nothing(tmp_path, path):
    code = """
    from holdfast import SoftFileLock
    (SoftFileLock(args[0])).acquire()
    assert used == ["link", "rename_new"], used
    # Somebody else is faster, between the look at the path and the rename.
    def late(source, target):
        open(args[1], "w").close()
    replace("rename_new", "char *, char *", late)
    try:
        SoftFileLock(args[1]).acquire(blocking=False)
    except TimeoutError:
        say("refused")
    """
    with Child(poor(NO_LINKS, code), path, tmp_path / "late.lock") as child:
        child.expect("refused")
        child.join()
    assert os.listdir(tmp_path) == ["late.lock"]
    assert (tmp_path / "late.lock").read_bytes() == b""


@linux_only
def test_a_file_system_that_cannot_do_any_of_it_is_an_error_that_leaves_nothing(tmp_path, path):
    rules = (
        NO_UNNAMED
        + """
    replace("link", "char *, char *", lambda source, target: errno.EPERM)
    replace("rename_new", "char *, char *", lambda source, target: errno.EINVAL)
    """
    )
    code = """
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0])
    try:
        lock.acquire()
    except OSError as error:
        assert not isinstance(error, TimeoutError) and error.filename == args[0]
        say("refused")
    assert not lock.is_locked
    """
    with Child(poor(rules, code), path) as child:
        child.expect("refused")
        child.join()
    assert os.listdir(tmp_path) == []


NO_FLOCK = """
    import errno
    refused = []
    def judge(fd, operation):
        if os.path.dirname(os.readlink(f"/proc/self/fd/{fd}").replace(" (deleted)", "")) == os.environ["POOR"]:
            refused.append(operation)
            return errno.ENOLCK
    replace("flock", "int, int", judge)
"""


@linux_only
def test_without_kernel_locks_breakers_take_turns_elsewhere(tmp_path, mine, dead_pid):
    """The locks of the file system fail in the folder of the lock file; those of the temporary directory work."""
    (tmp_path / "poor").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "counter").write_text("0")
    path = tmp_path / "poor" / "the.lock"
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "POOR": str(tmp_path / "poor")}
    code = (
        ALONE
        + """
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0], timeout=60, poll_interval=0.001)
    say("ready")
    while hear():
        with lock:
            alone(args[1])
        say("done")
    assert refused
    """
    )
    children = [Child(poor(NO_FLOCK, code), path, tmp_path, env=env) for _ in range(4)]
    try:
        for child in children:
            child.expect("ready")
        for _ in range(20):
            write_record(tmp_path / "stale", dead_pid, *mine[1:])
            os.rename(tmp_path / "stale", path)
            for child in children:
                child.tell("go")
            for child in children:
                child.expect("done")
        for child in children:
            child.tell()
            child.join()
    finally:
        for child in children:
            child.__exit__()
    assert (tmp_path / "counter").read_text() == "80"
    assert os.listdir(tmp_path / "poor") == []


@posix_only
@pytest.mark.parametrize("rules", ["", NO_UNNAMED], ids=["unnamed", "scratch"])
def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, path, rules):
    code = """
    import resource
    from holdfast import SoftFileLock
    lock = SoftFileLock(args[0])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        lock.acquire()
    except OSError as error:
        assert not isinstance(error, TimeoutError) and error.filename == args[0], error
        say("refused")
    assert not lock.is_locked and os.listdir(args[1]) == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with lock:
        say("acquired")
    """
    with Child(poor(rules, code), path, tmp_path) as child:
        child.expect("refused")
        child.expect("acquired")
        child.join()
    assert os.listdir(tmp_path) == []


@linux_only
def test_processes_killed_at_any_moment_leave_nothing_that_blocks_even_without_unnamed_files(tmp_path, path):
    with Child(poor(NO_UNNAMED, KILL), path, 20) as child:
        for _ in range(20):
            child.expect("acquired")
        child.join()
    write_text(tmp_path / "next", "")  # whoever writes a file there clears up
    assert os.listdir(tmp_path) == ["next"]


def test_break_lock_removes_the_file_whoever_holds_it(path):
    with Child(HOLD, path) as holder:
        holder.expect("held")
        SoftFileLock(path).break_lock()
        assert not os.path.exists(path)
    SoftFileLock(path).break_lock()  # nothing to break is no error


def test_after_a_change_of_the_working_directory_it_still_knows_its_owner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SoftFileLock("relative.lock") as lock:
        monkeypatch.chdir("/")
        assert lock.pid == os.getpid()
        assert lock.is_lock_held_by_us


def test_a_path_that_names_a_directory_by_its_slash_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        SoftFileLock(f"{tmp_path}/there/")


@posix_only
@delays_signal_handlers
def test_a_signal_handler_that_raises_leaves_neither_a_marker_nor_a_hold(path):
    """The signal comes at any moment of acquiring and releasing."""
    code = """
        import random
        from holdfast import SoftFileLock
        lock = SoftFileLock(args[0])
        interrupted = 0
        while interrupted < 300:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 8e-4))
            end = time.monotonic() + 1e-3
            while time.monotonic() < end:
                try:
                    armed = True
                    lock.acquire()
                    armed = False
                except Alarm:
                    interrupted += 1
                    assert lock.lock_counter == 0
                    assert not os.path.exists(args[0])
                    continue
                assert os.path.exists(args[0])
                try:
                    armed = True
                    lock.release()
                    armed = False
                except Alarm:
                    interrupted += 1
                    assert (lock.lock_counter == 1) <= os.path.exists(args[0])
                    lock.release(force=True)
        say("done")
    """
    with Child(ALARMS + textwrap.dedent(code), path) as child:
        child.expect("done")


@posix_only
def test_a_signal_handler_may_not_acquire_in_the_middle_of_an_acquisition(path):
    code = """
        import signal
        from holdfast import SoftFileLock
        lock = SoftFileLock(args[0])
        refused = held_alone = 0
        def use(*_):
            global refused, held_alone
            try:
                with lock:
                    assert os.path.exists(args[0])
                    held_alone += 1
            except RuntimeError:
                refused += 1
        signal.signal(signal.SIGALRM, use)
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        while not (refused > 20 and held_alone > 20):
            with lock:
                assert os.path.exists(args[0])
                assert lock.lock_counter == 1
        say("done")
    """
    with Child(code, path) as child:
        child.expect("done")


@linux_only
def test_a_process_whose_first_thread_has_ended_is_alive(path):
    pytest.importorskip("ctypes")
    code = """
        import ctypes
        from holdfast import SoftFileLock
        def hold():
            with SoftFileLock(args[0]):
                say("held")
                hear()
            say("released")
            os._exit(0)
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    with Child(code, path) as child:
        child.expect("held")
        eventually(lambda: Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").split()[2] == "Z")
        with pytest.raises(Timeout):
            SoftFileLock(path).acquire(blocking=False)
        child.tell()
        child.expect("released")
