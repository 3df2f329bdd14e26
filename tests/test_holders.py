"""Who holds a lock: what Linux tells about locks of other programs, inherited locks, and locks that cannot be seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from conftest import counts_references, linux_only
from holdfast import FileLock, SoftFileLock, holders
from holdfast._holders import look
from support import PATIENCE, Child, eventually, held_elsewhere

HOLD_OFD = """
    from holdfast import FileLock
    with FileLock(args[0], kind="ofd"):
        say("held")
        hear()
"""
as_root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may do this")


def holding(path):
    """The pids of those who hold the lock."""
    return [holder.pid for holder in holders(path) if not holder.waiting]


# ---------------------------------------------------------------------------------------------------------------------
# Who says so


@linux_only
def test_of_a_kernel_lock_the_kernel_says_so(path):
    with held_elsewhere(path):
        assert [holder.source for holder in holders(path)] == ["kernel"]


def test_of_a_soft_lock_the_record_in_its_file_says_so(path):
    with SoftFileLock(path):
        assert [holder.source for holder in holders(path)] == ["record"]


@linux_only
def test_of_a_soft_lock_whose_file_its_owner_has_locked_both_say_so(path):
    import fcntl

    with SoftFileLock(path), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [(holder.pid, holder.source) for holder in holders(path)] == [(os.getpid(), "both")]


@linux_only
def test_the_owner_of_a_soft_lock_is_named_beside_another_process_that_has_locked_its_file(path):
    code = """
        import fcntl
        file = open(args[0], "rb")
        fcntl.flock(file, fcntl.LOCK_EX)
        say("locked"), hear()
    """
    with SoftFileLock(path), Child(code, path) as child:
        child.expect("locked")
        found = {(holder.pid, holder.source) for holder in holders(path)}
    assert found == {(os.getpid(), "record"), (child.pid, "kernel")}


def test_who_says_so_makes_no_difference_between_holders(path):
    from dataclasses import replace

    with SoftFileLock(path):
        (found,) = holders(path)
    assert replace(found, source="both") == found


# ---------------------------------------------------------------------------------------------------------------------
# Locks of other programs


@linux_only
def test_the_holder_of_a_lock_of_the_filelock_package(path):
    pytest.importorskip("filelock", reason="the filelock package is not installed")
    code = """
        import filelock
        with filelock.FileLock(args[0]):
            say("held"), hear()
    """
    with Child(code, path) as child:
        child.expect("held")
        assert holding(path) == [child.pid]


@linux_only
def test_the_holder_of_an_ofd_lock_of_another_process(path):
    with Child(HOLD_OFD, path) as child:
        child.expect("held")
        assert holding(path) == [child.pid]


@linux_only
@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock(1) here")
def test_a_shell_that_let_flock_1_lock_its_descriptor_is_the_holder(path):
    command = ["sh", "-c", 'exec 9>"$0"; flock 9; echo held; read line', path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout.readline() == "held\n"
        assert holding(path) == [shell.pid]
        shell.stdin.close()
        assert shell.wait(PATIENCE) is not None


@linux_only
@counts_references  # who has many descriptors open, as PyPy has, gives its children a large table of them
def test_an_heir_is_the_holder_although_the_taker_lives_on_without_the_lock(path):
    code = """
        import fcntl
        file = os.open(args[0], os.O_CREAT | os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        ours, theirs = os.pipe()
        heir = os.fork()
        if heir == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        os.close(file)
        say(heir), hear()
        os.close(theirs), os.waitpid(heir, 0)
    """
    with Child(code, path) as taker:
        heir = int(taker.hear())
        assert holding(path) == [heir]
        taker.tell()
        taker.join()
    assert holders(path) == []


@linux_only
def test_several_heirs_of_a_dead_taker_all_hold_the_lock(path):
    code = """
        import fcntl
        file = os.open(args[0], os.O_CREAT | os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        heirs = []
        for _ in range(2):
            heirs.append(os.fork())
            if heirs[-1] == 0:
                hear()
                os._exit(0)
        say(" ".join(map(str, heirs)))
    """
    with Child(code, path) as taker:
        heirs = {int(pid) for pid in taker.hear().split()}
        taker.join()
        assert set(holding(path)) == heirs
        taker.process.stdin.close()
        eventually(lambda: holders(path) == [])


# ---------------------------------------------------------------------------------------------------------------------
# Which file


IN_A_MOUNT_NAMESPACE = """
    import subprocess, ctypes
    if ctypes.CDLL(None).unshare(0x00020000) != 0:  # CLONE_NEWNS
        say("no"), sys.exit()
    def mount(*words):
        if subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode:
            say("no"), sys.exit()
    mount("--make-rprivate", "/")
    os.chdir(args[0])
"""


@contextmanager
def in_a_mount_namespace(code, folder):
    pytest.importorskip("ctypes")
    import textwrap

    with Child(textwrap.dedent(IN_A_MOUNT_NAMESPACE) + textwrap.dedent(code), folder) as child:
        yield child
        answer = child.hear()
        if answer == "no":
            pytest.skip("this process may not mount file systems")
        assert answer == "yes"


@linux_only
@as_root_only
def test_files_with_the_same_inode_on_two_file_systems_without_a_disk_are_told_apart(tmp_path):
    code = """
        from holdfast import FileLock, holders
        for name in ("one", "two"):
            os.mkdir(name)
            mount("-t", "tmpfs", "none", name)
            open(f"{name}/the.lock", "w").close()
        same = os.stat("one/the.lock").st_ino == os.stat("two/the.lock").st_ino
        with FileLock("one/the.lock"):
            say("yes" if same and holders("one/the.lock") and not holders("two/the.lock") else "wrong")
    """
    with in_a_mount_namespace(code, tmp_path):
        pass


@linux_only
@as_root_only
def test_the_holder_of_a_lock_on_an_overlay_is_found(tmp_path):
    code = """
        from holdfast import FileLock, holders
        os.mkdir("tmp")
        mount("-t", "tmpfs", "none", "tmp")
        os.chdir("tmp")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(name)
        open("lower/old.lock", "w").close()
        mount("-t", "overlay", "-o", "lowerdir=lower,upperdir=upper,workdir=work", "none", "merged")
        with FileLock("merged/old.lock"), FileLock("merged/new.lock"):
            found = [holder.pid for name in ("old", "new") for holder in holders(f"merged/{name}.lock")]
        say("yes" if found == [os.getpid()] * 2 else found)
    """
    with in_a_mount_namespace(code, tmp_path):
        pass


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be known


@pytest.mark.skipif(sys.platform == "linux", reason="Linux tells more")
def test_elsewhere_than_on_linux_it_says_that_the_system_does_not_tell(path):
    with FileLock(path):
        assert "does not tell" in look(path).unknown


@linux_only
def test_nothing_is_unknown_when_the_holder_was_found(path):
    with held_elsewhere(path):
        assert look(path).unknown == ""


@linux_only
@as_root_only
def test_who_may_not_look_at_the_holder_is_told_so(tmp_path, path):
    code = """
        from holdfast import FileLock
        from holdfast._holders import look
        os.chdir(args[0])
        with FileLock("mine.lock", kind="ofd"):
            look("mine.lock")  # imports all it needs while it may
        say("ready"), hear()
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        say(look("the.lock").unknown)
    """
    tmp_path.chmod(0o755)
    with Child(code, tmp_path) as child, FileLock(path, kind="ofd"):
        child.expect("ready")
        child.tell()
        assert "may not look at" in child.hear()


@linux_only
@as_root_only
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1) here")
def test_in_a_pid_namespace_of_its_own_it_says_that_others_cannot_be_seen(path):
    code = "import sys; from holdfast._holders import look; print(look(sys.argv[1]))"
    command = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", code, path]
    with held_elsewhere(path):
        result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE)
    if result.returncode:
        pytest.skip(f"unshare: {result.stderr.strip()}")
    assert "outside this container" in result.stdout
    assert "holders=[]" in result.stdout


@linux_only
@as_root_only
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1) here")
def test_in_a_pid_namespace_of_its_own_it_finds_an_heir_whose_taker_the_kernel_does_not_show(path):
    code = """
import fcntl, os, sys
ours, theirs = os.pipe()
if os.fork() == 0:
    file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)
    if os.fork() == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os._exit(0)
os.wait()
from holdfast import holders
print("holders", len(holders(sys.argv[1])))
"""
    command = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", code, path]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE)
    if result.returncode:
        pytest.skip(f"unshare: {result.stderr.strip()}")
    assert result.stdout == "holders 1\n"
