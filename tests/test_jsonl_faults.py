"""What a log does when the system fails: it says so, the file stays whole, and it goes on as soon as possible."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

import kills
from conftest import frees_names_of_open_files, linux_only, posix_only
from holdfast import JsonlFile
from support import PATIENCE, Child


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def numbers(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# The real thing


@posix_only
def test_a_file_that_may_not_grow_is_left_whole_and_grows_when_it_may(path):
    with Child(
        """
        import errno, resource
        from holdfast import JsonlFile
        log = JsonlFile(args[0])
        log.append("first")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            log.append("x" * 500)
        except OSError as error:
            assert error.errno == errno.EFBIG and "rotate" in str(error) and error.filename == args[0]
            say(open(args[0]).read().strip())
        log.append("small")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.append("y" * 500)
        say("done")
        """,
        path,
    ) as child:
        child.expect('"first"')
        child.expect("done")
    assert [len(record) for record in numbers(path)] == [5, 5, 500]


@linux_only
def test_a_full_disk_leaves_the_log_whole_and_it_goes_on_when_there_is_space(tmp_path, path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs to mount a small file system")
    try:
        (tmp_path / "ballast").write_bytes(bytes(30_000))
        log = JsonlFile(path, durable=True)
        appended = 0
        caught = None
        while caught is None:
            try:
                log.append("x" * 1000)
                appended += 1
            except OSError as error:
                caught = error
        assert "the disk is full" in str(caught)
        assert caught.errno == errno.ENOSPC
        assert caught.filename == str(path)
        assert len(numbers(path)) == appended
        assert path.read_bytes().endswith(b"\n")
        (tmp_path / "ballast").unlink()
        log.append("x" * 1000)
        assert len(numbers(path)) == appended + 1
        log.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@frees_names_of_open_files
def test_a_directory_that_has_gone_is_an_error_until_it_is_back(tmp_path):
    folder = tmp_path / "logs"
    log = JsonlFile(folder / "events.jsonl")
    with pytest.raises(FileNotFoundError, match="create it"):
        log.append(0)
    folder.mkdir()
    log.append(1)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="create it"):
        log.append(2)
    folder.mkdir()
    log.append(3)
    assert list(log) == [3]


def test_a_directory_in_the_place_of_the_file_is_an_error_while_it_is_there(path):
    log = JsonlFile(path)
    log.append(1)
    path.rename(path.with_name("old"))
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        log.append(2)
    path.rmdir()
    log.append(3)
    assert numbers(path) == [3]


@posix_only
def test_what_is_no_file_is_refused_and_never_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        JsonlFile(path).append(1)
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        JsonlFile(path).append(1)
    assert not path.exists()


@posix_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_permission_that_was_lost_is_an_error_until_it_is_back(public_directory):
    path = public_directory / "events.jsonl"
    with Child(
        """
        from holdfast import JsonlFile
        JsonlFile(args[0] + ".first").append(0)  # what Python has yet to load, this user may not be able to
        os.setgid(1234); os.setuid(1234)
        log = JsonlFile(args[0])
        log.append(1)
        os.rename(args[0], args[0] + ".1")
        os.chmod(args[1], 0o555) if os.stat(args[1]).st_uid == os.getuid() else None
        say("renamed"); hear()
        try:
            log.append(2)
        except PermissionError as error:
            say(error.filename)
        hear()
        log.append(3)
        say("done")
        """,
        path,
        public_directory,
    ) as child:
        child.expect("renamed")
        public_directory.chmod(0o755)
        child.tell()
        child.expect(str(path))
        public_directory.chmod(0o777)
        child.tell()
        child.expect("done")
    assert numbers(path) == [3]


@linux_only
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ("write", "ENOSPC", "the disk is full"),
        ("write", "EIO", "disk reports an error"),
        ("fdatasync", "EIO", "brought to the disk"),
        ("flock", "ENOLCK", "no locks"),
        ("renameat2", "EACCES", "could not be rotated"),
    ],
)
def test_what_the_kernel_refuses_is_said_and_changes_nothing(path, call, error, says):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    JsonlFile(path).append("x" * 90)
    before = path.read_bytes()
    code = (
        "import sys\n"
        "from holdfast import JsonlFile\n"
        f"log = JsonlFile({str(path)!r}, durable=True, max_bytes={94 if call == 'renameat2' else 1000})\n"
        "try: log.append(1)\n"
        "except OSError as error: sys.stderr.write(str(error)); sys.exit(3)\n"
    )
    inject = f"inject={call}:error={error}:when=1"
    done = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "-P", path, "-e", inject, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 3, done.stderr
    assert says in done.stderr
    assert path.read_bytes() == before if call != "fdatasync" else path.read_bytes().startswith(before)
    assert kills.sizes(path.parent).keys() == {path.name}
    log = JsonlFile(path)
    log.append("after")
    assert numbers(path)[-1] == "after"
