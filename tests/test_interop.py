"""FileLock and SoftFileLock exclude the filelock package's locks, and FileLock excludes flock(1), both ways."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

import pytest

import holdfast
from conftest import posix_only
from support import PATIENCE, Child, is_free, number_in, until_it_waits

filelock = pytest.importorskip("filelock", reason="the filelock package is not installed")

CLASSES = ["FileLock", "SoftFileLock"]
HOLD_WITH = """
    import importlib
    module, name, path = args
    lock = getattr(importlib.import_module(module), name)(path)
    lock.acquire()
    say("held")
    hear()
    lock.release()
    say("released")
"""


def lock_of(module, name, path, **settings):
    return getattr(module, name)(path, **settings)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("holder", "other"), [("filelock", holdfast), ("holdfast", filelock)], ids=["wait for", "excluded"]
)
def test_our_locks_and_filelocks_exclude_each_other(path, name, holder, other):
    with Child(HOLD_WITH, holder, name, path) as child:
        child.expect("held")
        with pytest.raises(other.Timeout):
            lock_of(other, name, path).acquire(timeout=0.05)
        child.tell()
        child.expect("released")
        with lock_of(other, name, path, timeout=PATIENCE):
            pass


@pytest.mark.parametrize("name", CLASSES)
def test_our_locks_and_filelocks_exclude_each_other_under_load(path, name):
    code = """
        import importlib
        from support import increment
        module, name, path = args
        lock = getattr(importlib.import_module(module), name)(path, poll_interval=0.001)
        for _ in range(100):
            with lock:
                increment(path + ".number")
    """
    children = [Child(code, module, name, path) for module in ("filelock", "holdfast") * 2]
    for child in children:
        with child:
            child.join()
    assert number_in(path + ".number") == 400


# In a process of 32 bits, filelock takes the number of that system call from the kernel's processor, which has 64.
exchanges_names = pytest.mark.skipif(
    sys.maxsize < 2**32 or not getattr(filelock._util, "exchange_supported", lambda: True)(),
    reason="filelock breaks no soft lock, nor its own, where it cannot exchange two names",
)


@pytest.mark.parametrize(
    ("dead", "heir"),
    [
        pytest.param("filelock", holdfast, id="by us"),
        pytest.param("holdfast", filelock, id="by filelock", marks=exchanges_names),
    ],
)
def test_the_soft_lock_of_a_dead_process_is_broken(path, dead, heir):
    with Child(HOLD_WITH, dead, "SoftFileLock", path) as child:
        child.expect("held")
        child.kill()
    assert os.path.exists(path)
    with heir.SoftFileLock(path, timeout=PATIENCE) as lock:
        assert lock.is_lock_held_by_us
        assert lock.pid == os.getpid()
    assert not os.path.exists(path)


@pytest.mark.parametrize(("alive", "other"), [("filelock", holdfast), ("holdfast", filelock)])
def test_the_soft_lock_of_a_living_process_is_not_broken_and_its_owner_is_read(path, alive, other):
    with Child(HOLD_WITH, alive, "SoftFileLock", path) as child:
        child.expect("held")
        lock = other.SoftFileLock(path)
        with pytest.raises(other.Timeout):
            lock.acquire(timeout=0.1)
        assert lock.pid == child.pid
        assert not lock.is_lock_held_by_us
        child.tell()
        child.expect("released")


def test_arguments_of_filelock_mean_the_same(path):
    for module in (filelock, holdfast):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lock = module.FileLock(
                path, 5, 0o600, False, blocking=False, is_singleton=False, poll_interval=0.1, lifetime=3
            )
        assert (lock.timeout, lock.blocking, lock.poll_interval, lock.lifetime) == (5, False, 0.1, None)
        assert not lock.is_thread_local()


# ---------------------------------------------------------------------------------------------------------------------
# flock(1)

flock_command = shutil.which("flock")
needs_flock = pytest.mark.skipif(flock_command is None, reason="flock(1), of util-linux, is not installed")


def flock_says(path, *options):
    """The exit status of flock(1) on the path: 0 when it got the lock, 1 when not."""
    return subprocess.run([flock_command, *options, path, "true"], check=False).returncode


class HeldByFlock:
    """flock(1) holds the lock until the block ends."""

    def __init__(self, path, *options):
        script = "echo held; read line"
        self.process = subprocess.Popen(
            [flock_command, *options, path, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        assert self.process.stdout.readline() == "held\n"
        return self

    def release(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __exit__(self, *_):
        self.process.communicate()  # end of input ends the script


@posix_only
@needs_flock
def test_flock_does_not_get_what_we_hold(path):
    with holdfast.FileLock(path):
        assert flock_says(path, "-n") == 1
    assert flock_says(path, "-n") == 0


@posix_only
@needs_flock
def test_we_do_not_get_what_flock_holds_and_wait_until_it_releases(path):
    with HeldByFlock(path) as holder:
        with pytest.raises(holdfast.Timeout):
            holdfast.FileLock(path).acquire(timeout=0.05)
        with Child(
            "from holdfast import FileLock\nlock = FileLock(args[0])\nlock.acquire()\nsay('got')\nhear()", path
        ) as child:
            until_it_waits(child, path)
            holder.release()
            child.expect("got")
            assert flock_says(path, "-n") == 1


@posix_only
@needs_flock
def test_shared_locks_are_shared_with_flock(path):
    with holdfast.FileLock(path, shared=True):
        assert flock_says(path, "-n", "-s") == 0
        assert flock_says(path, "-n", "-x") == 1
    with HeldByFlock(path, "-s"):
        assert is_free(path, shared=True)
        assert not is_free(path)


@posix_only
@needs_flock
def test_the_lock_flock_waits_for_is_its_after_our_release(path):
    with holdfast.FileLock(path):
        waiting = subprocess.Popen([flock_command, path, "true"])
        assert waiting.poll() is None
    assert waiting.wait(PATIENCE) == 0
