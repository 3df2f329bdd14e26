"""What cannot be locked: which exception says so, that it names the path, and that it says what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import textwrap

import pytest

from conftest import posix_only
from holdfast import FileLock
from support import Child, is_free


def failure_of(path, *words, error=OSError, number=None, **settings):
    """The exception of an acquire(), which names the path and contains the words."""
    lock = FileLock(path, **settings)
    with pytest.raises(error) as caught:
        lock.acquire(blocking=False)
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.filename == os.fspath(path)
    assert repr(os.fspath(path)) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert number in (None, caught.value.errno)
    assert lock.lock_counter == 0
    return caught.value


# ---------------------------------------------------------------------------------------------------------------------
# What the path names


def test_a_directory(tmp_path):
    failure_of(tmp_path, "is a directory", "name a file in it", error=IsADirectoryError)


@posix_only
def test_a_fifo_which_is_not_waited_for(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    failure_of(path, "not a regular file", "choose another path", number=errno.EINVAL)


@posix_only
def test_a_device():
    failure_of("/dev/null", "not a regular file", "choose another path", number=errno.EINVAL)


@posix_only
def test_a_socket(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        old = os.getcwd()
        os.chdir(tmp_path)  # the full path may be too long for a socket
        try:
            listener.bind("s")
        finally:
            os.chdir(old)
    failure_of(path, "not a regular file", "choose another path", number=errno.EINVAL)


@posix_only
def test_a_link_to_a_file(tmp_path):
    (tmp_path / "target").write_text("content")
    (tmp_path / "link").symlink_to("target")
    failure_of(tmp_path / "link", "symbolic link", "remove it or lock the file it points to", number=errno.ELOOP)
    assert (tmp_path / "target").read_text() == "content"


@posix_only
def test_a_dangling_link_whose_target_is_not_created(tmp_path):
    (tmp_path / "link").symlink_to("target")
    failure_of(tmp_path / "link", "symbolic link", number=errno.ELOOP)
    assert not (tmp_path / "target").exists()


@posix_only
def test_a_link_to_a_directory(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    failure_of(tmp_path / "link", "symbolic link", number=errno.ELOOP)


@posix_only
def test_a_link_to_itself(tmp_path):
    (tmp_path / "link").symlink_to("link")
    failure_of(tmp_path / "link", "symbolic link", number=errno.ELOOP)


@posix_only
def test_a_path_that_goes_through_a_file(tmp_path):
    (tmp_path / "file").touch()
    failure_of(tmp_path / "file" / "the.lock", "not a directory", "choose another path", error=NotADirectoryError)


@posix_only
def test_a_lock_path_that_ends_in_a_slash(tmp_path):
    with pytest.raises(OSError, match=f"{re.escape(str(tmp_path))}/sub/"):
        FileLock(f"{tmp_path}/sub/").acquire(blocking=False)


@posix_only
@pytest.mark.parametrize("path", ["x" * 256, "x/" * 2100 + "x"], ids=["the name", "the whole"])
def test_a_path_that_is_too_long(tmp_path, path):
    failure_of(f"{tmp_path}/{path}", "too long", "choose a shorter one", number=errno.ENAMETOOLONG)


def test_an_error_repeats_until_its_cause_is_gone(tmp_path):
    path = tmp_path / "the.lock"
    path.mkdir()
    lock = FileLock(path)
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            lock.acquire()
    path.rmdir()
    with lock:
        assert not is_free(path)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments: refused by the call they were given to


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="the path is empty"):
        FileLock("")


@pytest.mark.parametrize("path", ["a\0b", b"a\0b"])
def test_a_nul_in_the_path_is_refused(path):
    with pytest.raises(ValueError, match="NUL") as caught:
        FileLock(path)
    assert "a\\x00b" in str(caught.value)


@pytest.mark.parametrize("path", [None, 3, 1.5, object(), ["a"]])
def test_a_path_that_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="PathLike"):
        FileLock(path)


WRONG = [
    ("timeout", "1", TypeError),
    ("timeout", None, TypeError),
    ("timeout", True, TypeError),
    ("timeout", 1j, TypeError),
    ("timeout", float("nan"), ValueError),
    ("mode", "644", TypeError),
    ("mode", None, TypeError),
    ("mode", True, TypeError),
    ("mode", 0o1777, ValueError),
    ("mode", -1, ValueError),
    ("mode", 0o444, ValueError),
    ("mode", 0o200, ValueError),
    ("mode", 0, ValueError),
    ("blocking", 1, TypeError),
    ("blocking", None, TypeError),
    ("blocking", "yes", TypeError),
    ("poll_interval", "1", TypeError),
    ("poll_interval", None, TypeError),
    ("poll_interval", True, TypeError),
    ("poll_interval", -0.1, ValueError),
    ("poll_interval", float("nan"), ValueError),
    ("poll_interval", float("inf"), ValueError),
    ("kind", "posix", ValueError),
    ("kind", None, ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_a_wrong_argument_of_the_constructor_is_refused_and_named(path, name, value, error):
    with pytest.raises(error, match=name):
        FileLock(path, **{name: value})
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [wrong for wrong in WRONG if wrong[0] in ("timeout", "blocking", "poll_interval") and wrong[1] is not None],
)
def test_a_wrong_argument_of_acquire_is_refused_and_named_also_when_the_lock_is_free(path, name, value, error):
    lock = FileLock(path)
    with pytest.raises(error, match=name):
        lock.acquire(**{name: value})
    assert lock.lock_counter == 0


def test_a_number_too_large_for_a_timeout_is_a_value_error_or_waits(path):
    with FileLock(path, timeout=10**18).acquire(timeout=10**300):
        pass


@pytest.mark.parametrize("name", ["lock_files", "time_out", "poll_intervall"])
def test_an_unknown_argument_is_refused(path, name):
    with pytest.raises(TypeError, match=name):
        FileLock(path, **{name: 1})
    with pytest.raises(TypeError, match=name):
        FileLock(path).acquire(**{name: 1})


# ---------------------------------------------------------------------------------------------------------------------
# Permissions

PREPARE = """
    import errno, numbers, traceback
    from holdfast import FileLock, Timeout
    import holdfast._holders, holdfast.owner
    # Nobody may be unable to read what is imported later: that is why it is imported here.
    if os.geteuid() == 0:  # root may do everything: be nobody
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    path = args[0]
    def failure(**settings):
        try:
            FileLock(path, **settings).acquire(blocking=False)
        except OSError as error:
            assert not isinstance(error, TimeoutError), error
            return error
        raise AssertionError("it was locked")
"""


def run_unprivileged(code, *args):
    with Child(PREPARE + code + '\n    say("done")\n', *args) as child:
        child.expect("done")
        child.join()


@posix_only
def test_a_directory_in_which_nothing_may_be_created(public_directory):
    directory = public_directory / "d"
    directory.mkdir()
    os.chmod(directory, 0o555)
    run_unprivileged(
        """
    error = failure()
    assert type(error) is PermissionError, repr(error)
    assert error.filename == path
    assert "no permission to open or create the lock file" in str(error)
    assert "ask for write permission" in str(error)
    """,
        directory / "the.lock",
    )


@posix_only
def test_a_file_that_may_not_even_be_read(public_directory):
    path = public_directory / "the.lock"
    path.touch()
    os.chmod(path, 0)
    run_unprivileged(
        """
    error = failure()
    assert type(error) is PermissionError, repr(error)
    assert path in str(error) and "permission" in str(error)
    """,
        path,
    )


@posix_only
def test_a_directory_that_may_not_be_entered(public_directory):
    directory = public_directory / "d"
    directory.mkdir()
    os.chmod(directory, 0)
    run_unprivileged(
        """
    error = failure()
    assert type(error) is PermissionError, repr(error)
    assert path in str(error) and "permission" in str(error)
    """,
        directory / "the.lock",
    )


@posix_only
def test_parent_directories_that_may_not_be_created(public_directory):
    directory = public_directory / "d"
    directory.mkdir()
    os.chmod(directory, 0o555)
    run_unprivileged(
        """
    error = failure()
    assert type(error) is PermissionError, repr(error)
    assert os.path.dirname(path) in str(error)
    """,
        directory / "sub" / "the.lock",
    )


@posix_only
def test_a_read_only_file_can_be_locked(public_directory):
    path = public_directory / "the.lock"
    path.touch()
    os.chmod(path, 0o444)
    os.chmod(public_directory, 0o555)
    run_unprivileged(
        """
    with FileLock(path) as lock:
        assert lock.is_locked
        try:
            FileLock(path).acquire(blocking=False)
        except Timeout:
            pass
        else:
            raise AssertionError("held twice")
    with FileLock(path, shared=True), FileLock(path, shared=True):
        pass
    """,
        path,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such locks, or treat files differently")
def test_an_exclusive_ofd_lock_needs_a_writable_file(public_directory):
    path = public_directory / "the.lock"
    path.touch()
    os.chmod(path, 0o444)
    run_unprivileged(
        """
    error = failure(kind="ofd")
    assert type(error) is PermissionError, repr(error)
    assert path in str(error)
    assert "needs a lock file that can be written" in str(error) and "give yourself write permission" in str(error)
    with FileLock(path, kind="ofd", shared=True):
        pass
    """,
        path,
    )


READ_ONLY = """
    import errno, subprocess
    from holdfast import FileLock
    path, exists = args
    directory = os.path.dirname(path)
    if exists == "True":
        open(path, "w").close()
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
    say("mounted")
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        assert error.errno == errno.EROFS, error
        assert path in str(error)
        assert "the file system is read-only" in str(error) and "create it beforehand" in str(error)
        say("refused")
    else:
        say("locked")
"""


class ChildWithPrivateMounts(Child):
    """A child that may mount file systems which nobody else sees."""

    def __init__(self, code, *args):
        super().__init__(
            "os.execvp('unshare', ['unshare', '-m', sys.executable, '-c', *args])",
            self._PRELUDE + textwrap.dedent(code),
            *args,
        )


@pytest.mark.parametrize(("exists", "outcome"), [(False, "refused"), (True, "locked")])
def test_a_read_only_file_system(tmp_path, exists, outcome):
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("to make a file system read-only takes root and unshare(1)")
    with ChildWithPrivateMounts(READ_ONLY, tmp_path / "the.lock", exists) as child:
        if child.hear() != "mounted":
            pytest.skip("mounting is not allowed here")
        child.expect(outcome)
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Descriptors

EXHAUST = """
    import resource
    from holdfast import FileLock
    path = args[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    def exhaust():
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    def catch(**arguments):
        try:
            FileLock(path).acquire(**arguments)
        except BaseException as error:
            for descriptor in taken:  # to report it takes descriptors
                os.close(descriptor)
            return error
"""


@posix_only
def test_too_many_open_files(path):
    code = """
    import errno, numbers  # which the code under test would otherwise import at a bad moment
    exhaust()
    error = catch()
    assert type(error) is OSError and error.errno == errno.EMFILE, repr(error)
    assert error.filename == path
    assert "too many open files" in str(error) and "ulimit -n" in str(error)
    with FileLock(path):
        say("done")
    """
    with Child(EXHAUST + code, path) as child:
        child.expect("done")
        child.join()


@posix_only
def test_too_many_open_files_are_reported_without_opening_one(path):
    code = """
    exhaust()
    error = catch()
    assert getattr(error, "filename", None) == path, repr(error)
    say("done")
    """
    with Child(EXHAUST + code, path) as child:
        child.expect("done")
        child.join()


MAKE_ROOM = """
    idle = [FileLock(f"{path}.{n}") for n in range(30)]
    for lock in idle:
        with lock:
            pass
    exhaust()
    held = [FileLock(f"{path}.held{n}") for n in range(20)]
    for lock in held:
        lock.acquire()  # each in the place of an idle one
    for lock in idle[:5]:
        with lock:
            pass
    say("done")
"""


@posix_only
def test_descriptors_of_idle_locks_make_room(path):
    with Child(EXHAUST + MAKE_ROOM, path) as child:
        child.expect("done")
        child.join()


@posix_only
def test_descriptors_of_idle_locks_make_room_for_an_acquire_with_a_timeout(path):
    with Child(EXHAUST + MAKE_ROOM.replace("lock.acquire()", "lock.acquire(timeout=1)"), path) as child:
        child.expect("done")
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# What the system refuses

REFUSE = """
    import errno
    from holdfast import FileLock, SoftFileLock
    from holdfast._native import ffi, lib
    path, number, name, kind = args[0], int(args[1]), args[2], args[3]
    SIGNATURES = {
        "flock": "int(*)(int, int)",
        "fcntl_lock": "int(*)(int, int, void *)",
        "open": "int(*)(const char *, int, unsigned)",
    }
    @ffi.callback(SIGNATURES[name])
    def refuse(*_):
        ffi.errno = number
        return -1
    real = lib.hf_sys_get(name.encode())
    assert lib.hf_sys_set(name.encode(), refuse) == 0
    lock = FileLock(path, kind=kind)
    for arguments in ({}, {"blocking": False}, {"timeout": 1000}):
        try:
            lock.acquire(**arguments)
        except OSError as error:
            say(error.errno)
            say(error)
        assert lock.lock_counter == 0
    lib.hf_sys_set(name.encode(), real)
    with lock:
        say("usable")
"""


def refused(path, number, name="flock", kind="flock"):
    """The errno and the message of the exception when a system call fails with this errno, however it is called."""
    with Child(REFUSE, path, number, name, kind) as child:
        found = {(int(child.hear()), child.hear()) for _ in range(3)}
        child.expect("usable")
        child.join()
    assert len(found) == 1
    number, text = found.pop()
    assert path in text
    return number, text


@posix_only
@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("flock", "flock"),
        pytest.param("fcntl_lock", "ofd", marks=pytest.mark.skipif(sys.platform != "linux", reason="OFD")),
    ],
)
def test_a_file_system_without_locks(path, name, call, kind):
    number, text = refused(path, getattr(errno, name), call, kind)
    assert number == errno.ENOTSUP
    assert "has no locks" in text
    assert "put the lock file on another file system, or use SoftFileLock" in text


@posix_only
def test_a_lock_call_that_fails_for_another_reason(path):
    assert refused(path, errno.EIO)[0] == errno.EIO


@posix_only
def test_a_full_disk(path):
    number, text = refused(path, errno.ENOSPC, "open")
    assert number == errno.ENOSPC
    assert "free some space" in text


@posix_only
def test_a_system_with_too_many_open_files(path):
    number, text = refused(path, errno.ENFILE, "open")
    assert number == errno.ENFILE
    assert "raise its limit" in text


@posix_only
@pytest.mark.parametrize("way", ["release", "the end of a with block"])
def test_an_unlock_that_is_refused_is_reported_and_the_lock_is_free_all_the_same(path, way):
    code = """
        import errno
        from holdfast import FileLock
        from holdfast._native import ffi, lib
        lock = FileLock(args[0])
        lock.__enter__()
        @ffi.callback("int(*)(int, int)")
        def refuse(*_):
            ffi.errno = errno.EIO
            return -1
        real = lib.hf_sys_get(b"flock")
        lib.hf_sys_set(b"flock", refuse)
        try:
            if args[1] == "release":
                lock.release()
            else:
                lock.__exit__(None, None, None)
        except OSError as error:
            say(error.errno)
            say(error)
        lib.hf_sys_set(b"flock", real)
        say(lock.lock_counter)
        hear()
        with lock:
            say("usable")
    """
    with Child(code, path, way) as child:
        child.expect(str(errno.EIO))
        assert path in child.hear()
        child.expect("0")
        assert is_free(path)
        child.tell()
        child.expect("usable")
        child.join()
