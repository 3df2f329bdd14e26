"""atomic_write: a file that is replaced whole, or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from conftest import linux_only, needs_symlinks, posix_only
from holdfast import FileLock, Timeout, _core, atomic_write, write_bytes, write_text
from support import ALARMS, PATIENCE, Child, held_elsewhere, in_another_thread

# Begins to replace a file, and waits in the middle.
BEGIN = """
    from holdfast import atomic_write
    with atomic_write(args[0]) as file:
        file.write("half")
        file.flush()
        say("writing")
        hear()
    say("done")
"""

sets_attributes = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="there is no os.setxattr() here")


@pytest.fixture
def target(tmp_path):
    """A file with content."""
    file = tmp_path / "settings.json"
    file.write_text("old", encoding="utf-8")
    return file


def only(path):
    """Whether a file is alone in its directory."""
    return os.listdir(path.parent) == [path.name]


# ---------------------------------------------------------------------------------------------------------------------
# What is written


def test_the_file_has_the_new_content_when_the_block_has_ended(target):
    with atomic_write(target) as file:
        file.write("new")
        file.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert only(target)


def test_a_file_that_was_missing_is_created(tmp_path):
    write_text(tmp_path / "new.txt", "text")
    assert (tmp_path / "new.txt").read_text() == "text"
    assert only(tmp_path / "new.txt")


def test_text_is_utf_8_and_other_encodings_are_asked_for(target):
    write_text(target, "Jürgen")
    assert target.read_bytes() == "Jürgen".encode()
    write_text(target, "Jürgen", encoding="latin-1")
    assert target.read_bytes() == "Jürgen".encode("latin-1")


def test_newlines_are_those_asked_for(target):
    write_text(target, "a\nb\n", newline="\r\n")
    assert target.read_bytes() == b"a\r\nb\r\n"


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
def test_bytes_are_written_as_they_are(target, data):
    write_bytes(target, data)
    assert target.read_bytes() == b"bytes"


def test_the_file_can_be_moved_in_while_it_is_written(target):
    with atomic_write(target, "wb") as file:
        file.write(b"aXc")
        file.seek(1)
        file.write(b"b")
    assert target.read_bytes() == b"abc"


def test_closing_the_file_early_is_no_error(target):
    with atomic_write(target) as file:
        file.write("new")
        file.close()
    assert target.read_text() == "new"


def test_a_path_may_be_relative_bytes_or_an_object(target, monkeypatch):
    monkeypatch.chdir(target.parent)
    write_text(target.name, "relative")
    assert target.read_text() == "relative"
    write_text(os.fsencode(target), "bytes")
    assert target.read_text() == "bytes"


@posix_only
def test_a_name_as_long_as_the_file_system_allows_is_possible(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("mode", ["a", "r", "x", "w+", "rb", "", "ab"])
def test_a_mode_that_does_not_write_anew_is_refused(target, mode):
    with pytest.raises(ValueError, match="'w' or 'wb'"):
        atomic_write(target, mode)


@pytest.mark.parametrize("setting", [{"lock": "svn"}, {"timeout": float("nan")}])
def test_settings_that_mean_nothing_are_refused(target, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        atomic_write(target, **setting)


@pytest.mark.parametrize("setting", [{"overwrite": "no"}, {"durable": 1}, {"dangling": None}])
def test_switches_that_are_none_are_refused(target, setting):
    with pytest.raises(TypeError, match=next(iter(setting))):
        atomic_write(target, **setting)


def test_an_atomic_write_is_used_once(target):
    once = atomic_write(target)
    with once as file:
        file.write("new")
    with pytest.raises(RuntimeError, match="used already"), once:
        pass
    assert target.read_text() == "new"


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong leaves the old content, and no litter


def test_an_exception_leaves_the_file_as_it_was(target):
    def fail():
        with atomic_write(target) as file:
            file.write("new" * 100_000)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert only(target)


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "new.txt"):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_encoded_leaves_the_file_as_it_was(target):
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text() == "old"
    assert only(target)


@posix_only
def test_a_file_that_grows_too_large_leaves_the_file_as_it_was(target):
    with Child(
        """
        import errno, resource
        from holdfast import write_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_bytes(args[0], bytes(1_000_000))
        except OSError as error:
            say(errno.errorcode[error.errno])
        """,
        target,
    ) as child:
        child.expect("EFBIG")
        child.join()
    assert target.read_text() == "old"
    assert only(target)


@linux_only
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs to mount a small file system")
    try:
        file = tmp_path / "settings.json"
        write_text(file, "old")
        with pytest.raises(OSError, match="the disk is full") as caught:
            write_bytes(file, bytes(1_000_000))
        assert caught.value.errno == errno.ENOSPC
        assert file.read_text() == "old"
        assert only(file)
        write_text(file, "new")
        assert file.read_text() == "new"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_killed_writer_leaves_the_old_content_and_the_next_one_sweeps(target):
    with Child(BEGIN, target) as child:
        child.expect("writing")
        child.kill()
    assert target.read_text() == "old"
    assert not only(target)
    write_text(target, "new")
    assert target.read_text() == "new"
    assert only(target)


def test_the_next_writer_of_any_file_in_the_directory_sweeps(target):
    with Child(BEGIN, target) as child:
        child.expect("writing")
        child.kill()
    write_text(target.with_name("other.json"), "text")
    assert sorted(os.listdir(target.parent)) == ["other.json", "settings.json"]


def test_the_temporary_of_a_living_writer_is_left_alone(target):
    with Child(BEGIN, target) as child:
        child.expect("writing")
        write_text(target, "new")
        assert target.read_text() == "new"
        child.tell()
        child.expect("done")
    assert target.read_text() == "half"
    assert only(target)


def test_files_that_are_nobodys_temporaries_are_left_alone(target):
    names = [".settings.json.tmp", ".settings.json.1-2-3.tmp", "a.tmp", f".x.1-{'0' * 16}--{'0' * 16}.tmp"]
    for name in names:
        target.with_name(name).write_text("somebody's")
    write_text(target, "new")
    assert sorted(os.listdir(target.parent)) == sorted([*names, target.name])


@posix_only
def test_a_handler_that_raises_at_any_moment_leaves_the_old_content_or_the_new(target):
    with Child(
        ALARMS
        + """
import gc
from holdfast import write_text
def descriptors():
    gc.collect()  # PyPy closes what an exception dropped when its collector comes
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
before, interrupted, at_first = "old", 0, descriptors()
for number in range(600):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number * 1e-6)
        write_text(args[0], f"new {number}", durable=False)
        armed = False
    except Alarm:
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    with open(args[0]) as file:
        content = file.read()
    assert content in (before, f"new {number}"), content
    before = content
say(f"{descriptors() - at_first} {interrupted}")
""",
        target,
    ) as child:
        left, interrupted = map(int, child.hear().split())
        # One that comes between opening a file and noting that is out of reach. They come then if opening takes long.
        assert left <= interrupted / 4
        child.join()
    # One that comes as the block ends, before __exit__() has begun, leaves a temporary file until its process has gone.
    write_text(target, "the end")
    assert only(target)


# ---------------------------------------------------------------------------------------------------------------------
# Others at the same time


def test_readers_see_the_old_content_or_the_new_and_nothing_between(target):
    texts = ["a" * 100_000, "b" * 50_000]
    write_text(target, texts[0])
    stop = threading.Event()
    written = []

    def write():
        while not stop.is_set():
            for text in texts:
                # Nor is there a moment to rename it on Windows, if somebody has it open time and again; see below.
                with suppress(PermissionError) if os.name == "nt" else nullcontext():
                    written.append(write_text(target, text, durable=False))

    def read():
        while True:
            try:
                return target.read_text()
            except PermissionError:
                # Who does not share deletion, as open() does not, is refused at the moment of the renaming.
                assert os.name == "nt"

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            assert read() in texts
    finally:
        stop.set()
        writer.join(PATIENCE)
    assert written


def test_of_many_that_do_not_overwrite_exactly_one_wins(tmp_path):
    file = tmp_path / "once"
    code = """
        from holdfast import write_text
        say("ready"); hear()
        try:
            write_text(args[0], args[1], overwrite=False)
            say("won")
        except FileExistsError:
            say("lost")
    """
    children = [Child(code, file, number) for number in range(6)]
    try:
        for child in children:
            child.expect("ready")
        for child in children:
            child.tell()
        heard = [child.hear() for child in children]
        assert sorted(heard) == ["lost"] * 5 + ["won"]
        assert file.read_text() == str(heard.index("won"))
    finally:
        for child in children:
            child.__exit__()
    assert only(file)


def test_not_overwriting_leaves_a_file_alone_that_came_meanwhile(tmp_path):
    file = tmp_path / "once"

    def be_late():
        with atomic_write(file, overwrite=False) as ours:
            ours.write("ours")
            file.write_text("theirs")

    with pytest.raises(FileExistsError):
        be_late()
    assert file.read_text() == "theirs"
    assert only(file)


@needs_symlinks
def test_not_overwriting_leaves_a_link_alone_that_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "link", "text", overwrite=False)
    assert os.listdir(tmp_path) == ["link"]


def test_with_a_lock_writers_exclude_each_other(target):
    with held_elsewhere(f"{target}.lock"):
        with pytest.raises(Timeout):
            write_text(target, "new", lock=True, timeout=0.05)
        assert target.read_text() == "old"
        write_text(target, "without a lock")
    write_text(target, "with it", lock=True)
    assert target.read_text() == "with it"


def test_the_lock_is_held_during_the_block_and_released_after_it(target):
    with atomic_write(target, lock=True), pytest.raises(Timeout):
        in_another_thread(lambda: FileLock(f"{target}.lock", blocking=False).acquire())
    with pytest.raises(ZeroDivisionError), atomic_write(target, lock=True):
        _ = 1 / 0
    with FileLock(f"{target}.lock", blocking=False):
        pass


def test_the_environment_says_how_long_to_wait_for_the_lock(target):
    code = """
        from holdfast import Timeout, write_text
        try:
            write_text(args[0], "new", lock=True)
        except Timeout as error:
            say(error.timeout)
    """
    with held_elsewhere(f"{target}.lock"), Child(code, target, env={**os.environ, "HOLDFAST_TIMEOUT": "0.05"}) as child:
        child.expect("0.05")


@posix_only
def test_a_child_that_leaves_the_block_changes_nothing(target):
    writer = atomic_write(target)
    file = writer.__enter__()
    file.write("parent")
    pid = os.fork()
    if pid == 0:
        try:
            writer.__exit__(None, None, None)
        except RuntimeError:
            os._exit(0 if target.read_text() == "old" else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    writer.__exit__(None, None, None)
    assert target.read_text() == "parent"
    assert only(target)


# ---------------------------------------------------------------------------------------------------------------------
# What the file is like


@posix_only
def test_a_new_file_honours_the_umask(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            write_text(tmp_path / f"{mode}", "text")
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / f"{mode}").st_mode) == mode


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755, 0o444])
def test_permissions_are_kept(target, mode):
    target.chmod(mode)
    write_text(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == mode


@posix_only
def test_nobody_may_read_the_new_file_while_it_is_written_who_may_not_read_the_old(target):
    target.chmod(0o600)
    with atomic_write(target):
        names = [name for name in os.listdir(target.parent) if name != target.name]
        assert [stat.S_IMODE(os.stat(target.parent / name).st_mode) for name in names] == [0o600]


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")


@needs_root
def test_the_owner_is_kept_where_that_is_allowed(target):
    os.chown(target, 12345, 23456)
    target.chmod(0o4640)
    write_text(target, "new")
    status = target.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o4640)


@needs_root
def test_where_the_group_cannot_be_kept_it_may_do_no_more_than_everybody(public_directory):
    target = public_directory / "settings.json"
    target.touch()
    os.chown(target, 0, 23456)
    target.chmod(0o2664)
    with Child(
        """
        from holdfast import write_text
        write_text(f"{args[0]}.first", "")  # what Python has yet to load, this user may not be able to
        os.setgid(1234); os.setuid(1234)
        write_text(args[0], "new")
        say("done")
        """,
        target,
    ) as child:
        child.expect("done")
    status = target.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 1234, 0o644)


@sets_attributes
def test_extended_attributes_are_kept(target):
    try:
        os.setxattr(target, "user.origin", b"elsewhere")
    except OSError as error:
        pytest.skip(f"the file system has no extended attributes: {error}")
    write_text(target, "new")
    assert os.getxattr(target, "user.origin") == b"elsewhere"


@sets_attributes
def test_access_control_lists_are_kept(target):
    # Version 2; owner rw, user 1234 r, group -, mask r, others -: tag, permissions, id.
    entries = [(1, 6, 2**32 - 1), (2, 4, 1234), (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, bits, who in entries
    )
    try:
        os.setxattr(target, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"the file system has no access control lists: {error}")
    write_text(target, "new")
    assert os.getxattr(target, "system.posix_acl_access") == acl


# ---------------------------------------------------------------------------------------------------------------------
# What the path may name


@posix_only
def test_a_link_is_followed_and_stays(target):
    link = target.parent / "link"
    link.symlink_to(target.name)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@posix_only
def test_a_link_into_another_directory_is_followed_there(target, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "link").symlink_to(target)
    write_text(other / "link", "new")
    assert target.read_text() == "new"
    assert os.listdir(other) == ["link"]


@posix_only
def test_links_are_followed_to_their_end_each_from_its_own_directory(target, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "two").mkdir()
    (tmp_path / "shortcut").symlink_to("one/two")
    (tmp_path / "one" / "two" / "link").symlink_to(f"../../{target.relative_to(tmp_path)}")
    (tmp_path / "first").symlink_to("shortcut/link")
    write_text(tmp_path / "first", "new")
    assert target.read_text() == "new"
    assert sorted(os.listdir(tmp_path / "one" / "two")) == ["link"]


@posix_only
def test_a_link_that_leads_nowhere_is_an_error_unless_asked_for(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="dangling=True"):
        write_text(link, "text")
    assert os.listdir(tmp_path) == ["link"]
    write_text(link, "text", dangling=True)
    assert (tmp_path / "nothing").read_text() == "text"


@posix_only
def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="link"):
        write_text(tmp_path / "a", "text", dangling=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_directory_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        write_text(tmp_path, "text")


@posix_only
def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("fifo", "socket"):
            with pytest.raises(OSError, match="not a regular file"):
                write_text(tmp_path / name, "text")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "socket"]


def test_a_directory_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "file", "text")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_cannot_be_one_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        write_text(path, "text")


# ---------------------------------------------------------------------------------------------------------------------
# git's protocol


def git(folder, *arguments):
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    assert git(tmp_path, "init").returncode == 0
    (tmp_path / "file").write_text("one")
    assert git(tmp_path, "add", "file").returncode == 0
    return tmp_path


def test_git_leaves_the_index_alone_while_we_have_it(repository):
    index = repository / ".git" / "index"
    content = index.read_bytes()
    (repository / "file").write_text("two")
    with atomic_write(index, "wb", lock="git") as file:
        refused = git(repository, "add", "file")
        assert refused.returncode != 0
        assert "index.lock" in refused.stderr
        file.write(content)
    assert index.read_bytes() == content
    assert git(repository, "add", "file").returncode == 0


def test_we_leave_the_index_alone_while_git_has_it(repository):
    # A hook runs while git commit has the index.
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.write_text(
        f"#!{sys.executable}\n"
        "from holdfast import Timeout, write_bytes\n"
        "try:\n"
        "    write_bytes('.git/index', b'ours', lock='git')\n"
        "except Timeout as error:\n"
        "    open('refused', 'w').write(str(error))\n"
    )
    hook.chmod(0o755)
    # With a path on the command line, git keeps the lock during the hook.
    committed = git(repository, "commit", "-m", "message", "file")
    assert committed.returncode == 0, committed.stderr
    assert "index.lock" in (repository / "refused").read_text()
    assert git(repository, "status").returncode == 0


def test_with_a_timeout_we_wait_for_git(target):
    lock = Path(f"{target}.lock")
    lock.touch()
    threading.Timer(0.05, lock.unlink).start()
    write_text(target, "new", lock="git", timeout=PATIENCE)
    assert target.read_text() == "new"
    assert only(target)


def test_a_git_lock_of_somebody_else_is_never_removed(target):
    lock = Path(f"{target}.lock")
    lock.write_text("theirs")
    with pytest.raises(Timeout, match="remove it"):
        write_text(target, "new", lock="git")
    assert lock.read_text() == "theirs"
    assert target.read_text() == "old"


def test_an_exception_gives_gits_lock_back(target):
    with pytest.raises(ZeroDivisionError), atomic_write(target, lock="git"):
        _ = 1 / 0
    assert target.read_text() == "old"
    assert only(target)


# ---------------------------------------------------------------------------------------------------------------------
# What the system refuses


@linux_only
@pytest.mark.parametrize(
    ("call", "error"),
    [("fsync", "EIO"), ("rename", "EACCES"), ("rename", "EXDEV"), ("write", "ENOSPC"), ("fchmod", "EIO")],
)
def test_what_the_kernel_refuses_leaves_the_old_content(target, call, error):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    code = f"from holdfast import write_bytes; write_bytes({str(target)!r}, bytes(10_000_000))"
    when = "" if call == "write" else ":when=1"
    done = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "-e", f"inject={call}:error={error}{when}", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert target.read_text() == "old"
    assert only(target)


@pytest.fixture(params=["gone", "shown without a name"])
def denied(request, target, monkeypatch):
    """A server of SMB that does not replace `target`, because somebody has it open, but removes it."""
    removed = []

    def replace(self, scratch, path, flags, real=_core.NewFile.replace):
        if path != str(target):
            return real(self, scratch, path, flags)
        if request.param == "gone":
            target.unlink(missing_ok=True)  # which is Linux' client that tries again
        removed.append(path)
        return _core.BUSY

    def lstat(path, *, lstat=os.lstat, **settings):
        status = lstat(path, **settings)
        return os.stat_result([*status[:3], 0, *status[4:]]) if path in removed else status

    monkeypatch.setattr(_core, "_PATIENCE", 0)
    monkeypatch.setattr(_core.NewFile, "replace", replace)
    monkeypatch.setattr(os, "lstat", lstat)
    return monkeypatch


@posix_only
def test_new_content_is_kept_beside_when_a_file_server_has_removed_the_old(target, denied):
    for name in ("settings.json.rescued", "settings.json.rescued-2"):
        target.write_text("old")
        with pytest.raises(
            PermissionError, match=re.escape(f"The new content is in '{target.with_name(name)}'")
        ) as caught:
            write_text(target, name)
        assert caught.value.filename == str(target)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # for another process
        assert target.with_name(name).read_text() == name
    assert {name for name in os.listdir(target.parent) if "rescued" in name} == {
        "settings.json.rescued",
        "settings.json.rescued-2",
    }


@posix_only
def test_who_is_interrupted_while_it_waits_for_a_file_server_keeps_the_new_content_too(target, denied):
    def interrupt(call, *_):
        call()
        raise KeyboardInterrupt

    denied.setattr(_core, "patiently", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(target, "new")
    assert target.with_name("settings.json.rescued").read_text() == "new"


@posix_only
def test_a_file_that_was_missing_before_is_not_kept_beside(target, denied):
    target.unlink()
    with pytest.raises(PermissionError, match="another program has the file open"):
        write_text(target, "new")
    assert os.listdir(target.parent) == []


@posix_only
def test_nothing_is_left_open(target):
    with Child(
        """
        import resource
        from holdfast import atomic_write
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        for number in range(200):
            try:
                with atomic_write(args[0], durable=False) as file:
                    if number % 2:
                        raise KeyError
            except KeyError:
                pass
        say("done")
        """,
        target,
    ) as child:
        child.expect("done")
