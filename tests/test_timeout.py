"""The error when a lock was not acquired in time, and holders(): who has it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import pytest

from conftest import linux_only, needs_waitid
from holdfast import FileLock, Holder, ReadWriteLock, SoftFileLock, Timeout, _holders, holders
from support import PATIENCE, WAITS_IN_KERNEL, Child, eventually, held_elsewhere, until_it_waits

HOLD_SHARED = """
    from holdfast import FileLock
    with FileLock(args[0], shared=True):
        say("held")
        hear()
"""
WAIT = """
    from holdfast import FileLock
    say("ready")
    with FileLock(args[0], shared="shared" in args, kind="ofd" if "ofd" in args else "flock"):
        say("held")
        hear()
"""
HOLD_SOFT = """
    from holdfast import SoftFileLock
    with SoftFileLock(args[0]):
        say("held")
        hear()
"""


def timeout_of(path, **arguments):
    """The Timeout of a lock that somebody else holds."""
    with pytest.raises(Timeout) as caught:
        FileLock(path).acquire(**arguments)
    return caught.value


def interrupt(*_):
    raise KeyboardInterrupt


def holder(path):
    """The one holder there is. Other locks that come and go may disturb a look: see below."""
    found = []
    eventually(lambda: len(found.append(holders(path)) or found[-1]) == 1)
    return found[-1][0]


@contextmanager
def commotion(tmp_path):
    """Other processes that take and release other locks all the time."""
    code = """
    from holdfast import FileLock
    locks = [FileLock(f"{args[0]}/{number}") for number in range(60)]
    say("ready")
    while True:
        for lock in locks:
            lock.acquire()
        for lock in locks:
            lock.release()
    """
    folders = [tmp_path / "one", tmp_path / "two"]
    with Child(code, folders[0]) as one, Child(code, folders[1]) as two:
        one.expect("ready")
        two.expect("ready")
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Timeout


def test_a_timeout_is_a_timeout_error(path):
    with held_elsewhere(path):
        error = timeout_of(path, timeout=0.01)
    assert isinstance(error, TimeoutError)
    assert issubclass(Timeout, OSError)


def test_it_knows_the_lock_file_and_the_seconds(path):
    with held_elsewhere(path):
        error = timeout_of(path, timeout=0.01)
    assert error.lock_file == path
    assert error.timeout == 0.01


@linux_only
def test_it_names_the_path_the_seconds_and_the_holder(path):
    with held_elsewhere(path) as child:
        error = timeout_of(path, timeout=0.01)
        text = str(error)
        assert f"'{path}'" in text
        assert "0.01 seconds" in text
        assert f"pid {child.pid} ({sys.executable} -c " in text
        assert [holder.pid for holder in error.holders] == [child.pid]


@linux_only
def test_it_keeps_the_holders_of_the_moment_it_gave_up(path):
    with held_elsewhere(path) as child:
        error = timeout_of(path, timeout=0.01)
        child.kill()
    assert [holder.pid for holder in error.holders] == [child.pid]
    assert f"pid {child.pid}" in str(error)


@linux_only
@pytest.mark.parametrize("arguments", [{"blocking": False}, {"timeout": 0}])
def test_the_error_of_a_single_try_names_no_seconds_and_looks_the_holders_up_when_asked(path, arguments):
    with held_elsewhere(path) as child:
        error = timeout_of(path, **arguments)
        assert "within" not in str(error)
        assert [holder.pid for holder in error.holders] == [child.pid]
        assert f"pid {child.pid}" in str(error)


@linux_only
def test_a_look_for_the_holders_that_was_interrupted_is_made_again(path, monkeypatch):
    with held_elsewhere(path) as child:
        error = timeout_of(path, timeout=0)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(_holders, "look", interrupt)
            _ = error.holders
        assert [holder.pid for holder in error.holders] == [child.pid]


@linux_only
def test_it_names_several_holders(path):
    with Child(HOLD_SHARED, path) as one, Child(HOLD_SHARED, path) as two:
        one.expect("held")
        two.expect("held")
        error = timeout_of(path, timeout=0.01)
        assert {holder.pid for holder in error.holders} == {one.pid, two.pid}
        for child in (one, two):
            assert f"pid {child.pid}" in str(error)


@linux_only
def test_it_says_so_when_this_process_itself_is_the_holder(path):
    with FileLock(path):
        assert f"this process (pid {os.getpid()})" in str(timeout_of(path, timeout=0.01))


@linux_only
@pytest.mark.skipif(not WAITS_IN_KERNEL, reason="a wait that polls cannot be seen")
def test_those_who_wait_are_not_named_as_holders(path):
    with held_elsewhere(path) as child, Child(WAIT, path) as waiter:
        waiter.expect("ready")
        until_it_waits(waiter, path)
        error = timeout_of(path, timeout=0.01)
        assert [holder.pid for holder in error.holders] == [child.pid]
        assert str(waiter.pid) not in str(error).replace(path, "")


def test_it_can_be_raised_in_the_words_of_filelock(path):
    assert str(Timeout(path, "pid 1 on a.host")) == (
        f"The file lock '{path}' could not be acquired. It is held by pid 1 on a.host."
    )


def test_it_says_so_when_the_holder_cannot_be_seen(path):
    error = Timeout(path, timeout=5)
    assert error.holders == []
    assert str(error).startswith(
        f"The file lock '{path}' could not be acquired within 5 seconds. Who holds it cannot be seen from here."
    )


def test_why_the_holder_cannot_be_seen_is_pickled_with_it(tmp_path):
    (tmp_path / "file").touch()
    error = Timeout(str(tmp_path / "file" / "the.lock"))
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error)
    assert str(error).endswith(".)")


def test_a_cancelled_wait_without_a_timeout_names_no_seconds(path):
    with held_elsewhere(path):
        assert "within" not in str(timeout_of(path, cancel_check=lambda: True))


def test_its_repr_names_the_path(path):
    assert repr(Timeout(path)) == f"Timeout({path!r})"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_says_the_same(path, duplicate):
    with held_elsewhere(path):
        error = timeout_of(path, timeout=0.01)
    other = duplicate(error)
    assert type(other) is Timeout
    assert (other.lock_file, other.timeout, other.holders) == (error.lock_file, error.timeout, error.holders)
    assert str(other) == str(error)


def test_pickling_looks_the_holders_up_where_they_can_be_found(path):
    with held_elsewhere(path):
        found = holders(path)
        text = pickle.dumps(timeout_of(path, blocking=False))
    assert pickle.loads(text).holders == found


def test_it_comes_back_from_a_worker_process_with_its_holders(path):
    with FileLock(path), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(Timeout) as caught:
            pool.submit(FileLock(path).acquire, 0.01).result(PATIENCE)
        assert caught.value.lock_file == path
        assert caught.value.timeout == 0.01
        assert caught.value.holders == holders(path)


# ---------------------------------------------------------------------------------------------------------------------
# holders()


def test_nobody_holds_a_file_that_does_not_exist(path):
    assert holders(path) == []
    assert not os.path.exists(path)


def test_nobody_holds_a_lock_that_was_released(path):
    with FileLock(path):
        pass
    assert holders(path) == []


def test_nobody_holds_a_lock_whose_directory_does_not_exist(tmp_path):
    assert holders(tmp_path / "missing" / "the.lock") == []


def test_a_path_may_be_a_path_object(tmp_path):
    with SoftFileLock(tmp_path / "the.lock"):
        assert holder(tmp_path / "the.lock").pid == os.getpid()


@linux_only
def test_the_holder_of_a_file_lock(path):
    before = time.time()
    with held_elsewhere(path) as child:
        found = holder(path)
        assert isinstance(found, Holder)
        assert found.pid == child.pid
        assert found.command.startswith(f"{sys.executable} -c import os")
        assert found.mode == "exclusive"
        assert not found.waiting
        assert found.host is None
        # By the clock of the kernel's ticks, whose boot time is given in whole seconds.
        assert before - 2 < found.since < time.time() + 2
    assert holders(path) == []


@linux_only
def test_this_process_as_the_holder(path):
    with FileLock(path):
        assert holder(path).pid == os.getpid()


@linux_only
def test_shared_holders(path):
    with Child(HOLD_SHARED, path) as one, Child(HOLD_SHARED, path) as two:
        one.expect("held")
        two.expect("held")
        found = holders(path)
        assert {holder.pid for holder in found} == {one.pid, two.pid}
        assert {holder.mode for holder in found} == {"shared"}


@linux_only
def test_a_reader_and_a_writer_of_a_read_write_lock(path):
    lock = ReadWriteLock(path)
    with lock.read_lock():
        assert holder(path).mode == "shared"
    with lock.write_lock():
        assert holder(path).mode == "exclusive"


@linux_only
@pytest.mark.skipif(not WAITS_IN_KERNEL, reason="a wait that polls cannot be seen")
@pytest.mark.parametrize("mode", ["exclusive", "shared"])
def test_those_who_wait_come_after_the_holder(path, mode):
    with held_elsewhere(path) as child, Child(WAIT, path, mode) as one, Child(WAIT, path, mode) as two:
        eventually(lambda: len(holders(path)) == 3)
        found = holders(path)
        assert [holder.waiting for holder in found] == [False, True, True]
        assert found[0].pid == child.pid
        assert {holder.pid for holder in found[1:]} == {one.pid, two.pid}
        assert {holder.mode for holder in found[1:]} == {mode}


@linux_only
def test_the_holder_of_an_ofd_lock(path):
    with FileLock(path, kind="ofd"):
        assert holder(path).pid == os.getpid()


@linux_only
@pytest.mark.skipif(not WAITS_IN_KERNEL, reason="a wait that polls cannot be seen")
def test_a_holder_of_an_ofd_lock_is_not_said_to_wait_for_itself(path):
    with FileLock(path, kind="ofd"), Child(WAIT, path, "ofd") as waiter:
        waiter.expect("ready")
        eventually(lambda: len(ofd_lines(path)) == 2)
        assert [holder.pid for holder in holders(path) if not holder.waiting] == [os.getpid()]
        assert os.getpid() not in [holder.pid for holder in holders(path) if holder.waiting]


def ofd_lines(path):
    with open("/proc/locks", encoding="ascii") as file:
        return [line for line in file if "OFDLCK" in line and f":{os.stat(path).st_ino} " in line]


@linux_only
@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock(1) here")
def test_flock_1_as_the_holder(path):
    command = ["flock", path, "sh", "-c", "echo held; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "held\n"
        found = holder(path)
        assert found.pid == program.pid
        assert found.command.startswith(f"flock {path} sh -c ")
        with pytest.raises(Timeout, match=f"pid {program.pid} .flock "):
            FileLock(path, blocking=False).acquire()
        program.stdin.close()
        assert program.wait(PATIENCE) is not None


LEAVE_TO_A_CHILD = """
    import fcntl
    fd = os.open(args[0], os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.fork() == 0:
        say(os.getpid())
        hear()
        os._exit(0)
"""


@linux_only
def test_a_lock_inherited_over_a_fork_has_the_child_as_its_holder_once_the_taker_is_dead(path):
    with Child(LEAVE_TO_A_CHILD, path) as taker:
        heir = int(taker.hear())
        taker.join()
        assert holder(path).pid == heir
        taker.tell()
        eventually(lambda: holders(path) == [])


@linux_only
@needs_waitid
def test_a_lock_inherited_over_a_fork_does_not_have_a_zombie_as_its_holder(path):
    with Child(LEAVE_TO_A_CHILD, path) as taker:
        heir = int(taker.hear())
        os.waitid(os.P_PID, taker.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        try:
            assert holder(path).pid == heir
        finally:
            taker.tell()


def test_the_owner_of_a_soft_file_lock(path):
    with Child(HOLD_SOFT, path) as child:
        child.expect("held")
        found = holder(path)
        assert (found.pid, found.mode, found.waiting, found.host) == (child.pid, "exclusive", False, None)
        if sys.platform == "linux":
            assert found.command.startswith(f"{sys.executable} -c ")
        child.tell()
        child.join()
    assert holders(path) == []


def test_the_owner_of_a_soft_file_lock_on_another_host(path):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\nelsewhere\n5\n")
    assert holder(path) == Holder(os.getpid(), "", "exclusive", None, False, "elsewhere")


def test_a_file_that_is_no_marker_has_no_owner(path):
    with open(path, "w", encoding="ascii") as file:
        file.write("not a record\n")
    assert holders(path) == []


def test_a_holder_as_text():
    assert str(Holder(12, "make all", "exclusive", None, False)) == "pid 12 (make all)"
    assert str(Holder(12, "", "exclusive", None, False)) == "pid 12"
    assert str(Holder(12, "", "exclusive", None, False, "elsewhere")) == "pid 12 on host elsewhere"
    assert str(Holder(os.getpid(), "x", "shared", 1.0, False)) == f"this process (pid {os.getpid()})"
    assert str(Holder(os.getpid(), "", "shared", 1.0, False, "elsewhere")) == f"pid {os.getpid()} on host elsewhere"


@linux_only
def test_a_holder_is_named_once_although_other_locks_come_and_go(tmp_path, path):
    with FileLock(path), commotion(tmp_path):
        for _ in range(2000):
            assert len(holders(path)) <= 1


@linux_only
@pytest.mark.skipif(not WAITS_IN_KERNEL, reason="nobody waits in the kernel with HOLDFAST_WAIT=poll")
def test_a_holder_is_not_missed_although_many_wait_for_another_lock(tmp_path, path):
    """The kernel tells of a lock and all who wait for it at once, so that few locks may come in two pieces."""
    code = """
        from holdfast import FileLock
        def wait():
            FileLock(args[0]).acquire()
        for _ in range(45):
            threading.Thread(target=wait, daemon=True).start()
        hear()
    """
    with FileLock(path), FileLock(f"{path}2"), Child(code, f"{path}2") as child, commotion(tmp_path):
        until_it_waits(child, f"{path}2")
        for _ in range(1000):
            assert holders(path)


@linux_only
def test_a_holder_is_not_missed_although_other_locks_come_and_go(tmp_path, path):
    with FileLock(path), commotion(tmp_path):
        for _ in range(2000):
            assert holders(path)


@contextmanager
def held_in_private(path):
    """A lock that was inherited, so that only a look into the holder's /proc entry, which is private, shows it."""
    import fcntl

    with open(path, "w", encoding="ascii") as file:
        fcntl.fcntl(file, 37, b"\1\0" + bytes(30))  # F_OFD_SETLK, F_WRLCK: these locks have no pid
        yield


@linux_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can become somebody else")
def test_those_who_may_not_look_see_less_and_get_no_error(tmp_path, path):
    code = """
    from holdfast import FileLock, SoftFileLock, Timeout, holders
    os.chdir(args[0])
    with FileLock("public.lock"), SoftFileLock("public.soft.lock"):
        assert holders("public.lock") and holders("public.soft.lock")  # imports all it needs while it may
    say("ready"), hear()
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    found = {name: holders(name) for name in ("the.lock", "private.lock", "soft.lock", "hidden/the.lock")}
    for name, several in found.items():
        say(f"{name} " + " ".join(str(holder.pid) for holder in several))
    """
    (tmp_path / "hidden").mkdir(0o700)
    tmp_path.chmod(0o755)
    with (
        Child(code, tmp_path) as child,
        FileLock(path),
        held_in_private(tmp_path / "private.lock"),
        SoftFileLock(tmp_path / "soft.lock"),
        FileLock(tmp_path / "hidden" / "the.lock"),
    ):
        child.expect("ready")
        child.tell()
        child.expect(f"the.lock {os.getpid()}")
        child.expect("private.lock")
        child.expect(f"soft.lock {os.getpid()}")
        child.expect("hidden/the.lock")
        child.join()
