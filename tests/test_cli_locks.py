"""`holdfast locks`: a table of locks and waiters, and of circles in which processes wait for each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from conftest import linux_only, posix_only
from holdfast import FileLock, SoftFileLock
from support import PATIENCE, WAITS_IN_KERNEL, Child, eventually, held_elsewhere, until_it_waits

waits_can_be_seen = pytest.mark.skipif(
    sys.platform != "linux" or not WAITS_IN_KERNEL, reason="a wait that polls cannot be seen"
)
HOLD_ONE_AND_WAIT_FOR_ANOTHER = """
    from holdfast import FileLock
    with FileLock(args[0]):
        say("held")
        hear()
        with FileLock(args[1]):
            say("got both")
"""


def command(*arguments):
    return [sys.executable, "-m", "holdfast", "locks", *map(str, arguments)]


def locks(*arguments):
    """What the command prints, and its exit code."""
    result = subprocess.run(command(*arguments), capture_output=True, check=False, text=True, timeout=PATIENCE)
    assert result.stderr == ""
    return result.stdout, result.returncode


def found(*arguments):
    """What the command prints as JSON."""
    return json.loads(locks("--json", *arguments)[0])


def rows(*arguments):
    """The lines of the table, as words, without the header."""
    text, status = locks(*arguments)
    assert status == 0
    return [line.split() for line in text.partition("\n\n")[0].splitlines()[1:]]


# ---------------------------------------------------------------------------------------------------------------------
# Locks


@posix_only
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_without_an_output_the_exit_code_says_it(tmp_path, how):
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *command(tmp_path, *how)]
    result = subprocess.run(words, stderr=subprocess.PIPE, check=False, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stderr) == (1, "")


def test_without_locks_it_says_so_and_the_exit_code_is_1(tmp_path):
    text, status = locks(tmp_path)
    assert text.startswith(f"no locks at or below {tmp_path}")
    assert status == 1


def test_nobody_has_a_lock_on_a_file_that_does_not_exist(path):
    assert locks(path)[1] == 1
    assert not os.path.exists(path)


@linux_only
def test_a_lock_is_a_line_of_the_table_and_the_exit_code_is_0(path):
    with held_elsewhere(path) as child:
        (row,) = rows(path)
    assert row[:4] == [path, "flock", "exclusive", str(child.pid)]
    assert row[-1] == "holds"


@linux_only
def test_locks_below_a_directory(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in-front").mkdir()
    with FileLock(tmp_path / "in" / "a" / "deep.lock"), FileLock(tmp_path / "in-front" / "other.lock"):
        assert [row[0] for row in rows(tmp_path / "in")] == [f"{tmp_path}/in/a/deep.lock"]


@linux_only
def test_all_locks_of_the_machine_without_a_path(path):
    with held_elsewhere(path) as child:
        mine = [lock for lock in found()["locks"] if lock["path"] == path]
    assert [(lock["pid"], lock["waiting"]) for lock in mine] == [(child.pid, False)]


@linux_only
@pytest.mark.parametrize(("kind", "shared", "mode"), [("flock", True, "shared"), ("ofd", False, "exclusive")])
def test_kind_and_mode(path, kind, shared, mode):
    with FileLock(path, kind=kind, shared=shared):
        (lock,) = found(path)["locks"]
    assert (lock["kind"], lock["mode"], lock["pid"]) == (kind, mode, os.getpid())


@linux_only
def test_locks_of_bytes_of_a_file(path):
    import fcntl

    with open(path, "w", encoding="ascii") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
        (lock,) = found(path)["locks"]
        assert (lock["kind"], lock["start"], lock["end"]) == ("posix", 5, 14)
        assert "bytes 5-14" in locks(path)[0]


@linux_only
def test_the_lock_of_a_file_that_was_removed(path):
    with held_elsewhere(path):
        os.unlink(path)
        assert found(os.path.dirname(path))["locks"][0]["path"] == f"{path} (deleted)"


@linux_only
def test_a_link_to_a_directory_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with FileLock(tmp_path / "real" / "the.lock"):
        assert [row[0] for row in rows(tmp_path / "link")] == [f"{tmp_path}/real/the.lock"]


def test_soft_locks_below_a_directory(tmp_path):
    with SoftFileLock(tmp_path / "soft.lock"):
        (lock,) = found(tmp_path)["locks"]
    assert (lock["kind"], lock["pid"], lock["host"]) == ("soft", os.getpid(), None)


def test_the_soft_lock_of_another_host_is_shown_with_that_host(path):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\nelsewhere\n5\n")
    (row,) = rows(path)
    assert row[-4:] == ["holds,", "on", "host", "elsewhere"]


@linux_only
def test_a_command_cannot_send_codes_to_the_terminal(path):
    with Child("from holdfast import FileLock\nwith FileLock(args[0]): say('held'), hear()", path, "\033[31m") as child:
        child.expect("held")
        text, _ = locks(path)
    assert "\033" not in text


# ---------------------------------------------------------------------------------------------------------------------
# Waiting


@contextmanager
def deadlock(tmp_path):
    """Two processes that wait for each other."""
    x, y = tmp_path / "x.lock", tmp_path / "y.lock"
    with Child(HOLD_ONE_AND_WAIT_FOR_ANOTHER, x, y) as one, Child(HOLD_ONE_AND_WAIT_FOR_ANOTHER, y, x) as two:
        for child in (one, two):
            child.expect("held")
        for child in (one, two):
            child.tell()
        until_it_waits(one, y)
        until_it_waits(two, x)
        yield one, two


@waits_can_be_seen
def test_a_waiter_is_shown_with_whom_it_waits_for(path):
    with (
        held_elsewhere(path) as holder,
        Child("from holdfast import FileLock\nFileLock(args[0]).acquire()", path) as child,
    ):
        until_it_waits(child, path)
        eventually(lambda: len(found(path)["locks"]) == 2)  # a waiter is missing while it looks for signals
        first, second = found(path)["locks"]
        assert (first["pid"], first["waiting"], first["waits_for"]) == (holder.pid, False, [])
        assert (second["pid"], second["waiting"], second["waits_for"]) == (child.pid, True, [holder.pid])


@linux_only
def test_a_reader_does_not_wait_for_other_readers(path):
    code = """
        from holdfast import FileLock
        with FileLock(args[0], shared=True): say("held"), hear()
    """
    with Child(code, path) as one, Child(code, path) as two:
        one.expect("held"), two.expect("held")
        assert all(lock["waits_for"] == [] for lock in found(path)["locks"])


@waits_can_be_seen
def test_a_deadlock_of_two_processes_is_pointed_out(tmp_path):
    with deadlock(tmp_path) as (one, two):
        eventually(lambda: found(tmp_path)["deadlocks"])
        text, _ = locks(tmp_path)
        (circle,) = found(tmp_path)["deadlocks"]
    assert {(wait["pid"], wait["held_by"]) for wait in circle["waits"]} == {(one.pid, two.pid), (two.pid, one.pid)}
    assert {os.path.basename(wait["waits_for"]) for wait in circle["waits"]} == {"x.lock", "y.lock"}
    assert circle["certain"]
    assert "DEADLOCK" in text


@waits_can_be_seen
def test_a_deadlock_is_pointed_out_when_only_one_of_its_locks_is_asked_for(tmp_path):
    with deadlock(tmp_path):
        eventually(lambda: found(tmp_path / "x.lock")["deadlocks"])
        assert {os.path.basename(row[0]) for row in rows(tmp_path / "x.lock")} == {"x.lock"}


@waits_can_be_seen
def test_processes_with_other_threads_may_be_in_a_deadlock(tmp_path):
    x, y = tmp_path / "x.lock", tmp_path / "y.lock"
    code = "\n    threading.Thread(target=time.sleep, args=[3600], daemon=True).start()" + HOLD_ONE_AND_WAIT_FOR_ANOTHER
    with Child(code, x, y) as one, Child(HOLD_ONE_AND_WAIT_FOR_ANOTHER, y, x) as two:
        for child in (one, two):
            child.expect("held")
        for child in (one, two):
            child.tell()
        eventually(lambda: [circle["certain"] for circle in found(tmp_path)["deadlocks"]] == [False])


@waits_can_be_seen
def test_a_thread_that_waits_for_another_one_of_its_process_is_no_deadlock(path):
    code = """
        from holdfast import FileLock
        with FileLock(args[0]):
            threading.Thread(target=FileLock(args[0]).acquire, daemon=True).start()
            say("held"), hear()
    """
    with Child(code, path) as child:
        child.expect("held")
        until_it_waits(child, path)
        for _ in range(3):
            assert found(path)["deadlocks"] == []


@linux_only
def test_a_process_all_of_whose_threads_wait_for_itself_is_in_a_deadlock(path):
    code = """
        import fcntl
        files = [os.open(args[0], os.O_CREAT | os.O_RDWR) for _ in range(2)]
        fcntl.flock(files[0], fcntl.LOCK_EX)
        say("held")
        fcntl.flock(files[1], fcntl.LOCK_EX)
    """
    with Child(code, path) as child:
        child.expect("held")
        eventually(lambda: found(path)["deadlocks"])
        (circle,) = found(path)["deadlocks"]
    assert [(wait["pid"], wait["held_by"]) for wait in circle["waits"]] == [(child.pid, child.pid)]


# ---------------------------------------------------------------------------------------------------------------------
# Watching


@linux_only
def test_watching_looks_again_until_ctrl_c(path):
    with subprocess.Popen(command("--watch", path), stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout.readline().startswith("no locks")
            with held_elsewhere(path):
                eventually(lambda: program.stdout.readline().startswith("PATH"))
            program.send_signal(signal.SIGINT)
            assert program.wait(PATIENCE) in (0, 1)  # what the last look found
        finally:
            program.kill()


def test_the_help_shows_an_example():
    text, status = locks("--help")
    assert status == 0
    assert "holdfast locks --watch" in text
