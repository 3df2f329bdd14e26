"""File systems to check: each a context manager that gives a directory on it, and the same reached other ways.

They need root, and a mount namespace of their own: what is mounted here nobody else sees, and it ends with the process.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

Ways = list[str]
Mounted = Callable[[Path], AbstractContextManager[Ways]]

PATIENCE = 600  # seconds for a file system to appear, whatever the machine

# What mount says where the kernel has no such file system, or no loop devices.
_NOT_HERE = ("unknown filesystem type", "failed to setup loop device")


class Unavailable(Exception):
    """This machine does not have it. Whatever else goes wrong with what it has is a RuntimeError."""


def _require(program: object) -> None:
    if shutil.which(str(program)) is None:
        raise Unavailable(f"there is no {program}")


def _do(*words: object) -> None:
    _require(words[0])
    result = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = f"{words[0]}: {(result.stderr or result.stdout).strip() or result.returncode}"
        raise Unavailable(said) if any(reason in said for reason in _NOT_HERE) else RuntimeError(said)


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


@contextmanager
def _mounted(point: Path, *words: object) -> Iterator[None]:
    _do("mount", *words, point)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=False)


@contextmanager
def disk(kind: str, scratch: Path, megabytes: int = 4000) -> Iterator[Ways]:
    """A file system in a file, which needs no more room than is written; the other way is a second mount."""
    image, here, there = scratch / "image", _folder(scratch, "here"), _folder(scratch, "there")
    with image.open("wb") as file:
        file.truncate(megabytes * 2**20)
    _do(f"mkfs.{kind}", "-q", image)
    with _mounted(here, "-o", "loop", "-t", kind, image), _mounted(there, "--bind", here):
        yield [str(here), str(there)]


@contextmanager
def tmpfs(scratch: Path, options: str = "mode=0755") -> Iterator[Ways]:
    """Memory; the other way is a second mount."""
    here, there = _folder(scratch, "here"), _folder(scratch, "there")
    with _mounted(here, "-t", "tmpfs", "-o", options, "tmpfs"), _mounted(there, "--bind", here):
        yield [str(here), str(there)]


@contextmanager
def overlay(scratch: Path) -> Iterator[Ways]:
    """A layer over another; the other way is the upper one itself. Below is ext4, because not every one will do."""
    with disk("ext4", _folder(scratch, "disk")) as (base, _):
        here, upper = _folder(scratch, "here"), _folder(Path(base), "upper")
        lower, work = _folder(Path(base), "lower"), _folder(Path(base), "work")
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with _mounted(here, "-t", "overlay", "-o", layers, "overlay"):
            yield [str(here), str(upper)]


@contextmanager
def _program(point: Path, *words: object) -> Iterator[None]:
    """A file system that a program makes."""
    if not os.path.exists("/dev/fuse"):
        raise Unavailable("there is no /dev/fuse")
    _require(words[0])
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe would be full some day
        program = subprocess.Popen([*map(str, words)], stdin=subprocess.DEVNULL, stderr=complaints)
        try:
            end = time.monotonic() + PATIENCE
            while not os.path.ismount(point):
                if program.poll() is not None or time.monotonic() > end:
                    complaints.seek(0)
                    raise RuntimeError(f"{words[0]}: {complaints.read().strip()}")
                time.sleep(0.01)
            yield
        finally:
            subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
            program.kill()
            program.wait()


@contextmanager
def bindfs(scratch: Path) -> Iterator[Ways]:
    """A directory shown by a program; the other ways are the directory, and a second such mount."""
    source, here, there = (_folder(scratch, name) for name in ("source", "here", "there"))
    with _program(here, "bindfs", "-f", source, here), _program(there, "bindfs", "-f", source, there):
        yield [str(here), str(source), str(there)]


@contextmanager
def sshfs(scratch: Path) -> Iterator[Ways]:
    """A directory over ssh; the other ways are the server's, and a second mount."""
    source, here, there = (_folder(scratch, name) for name in ("source", "here", "there"))
    with _ssh_server(_folder(scratch, "ssh")) as options:
        words = ["sshfs", "-f", f"root@127.0.0.1:{source}"]
        with _program(here, *words, here, *options), _program(there, *words, there, *options):
            yield [str(here), str(source), str(there)]


@contextmanager
def _ssh_server(folder: Path) -> Iterator[list[str]]:
    """A server with keys of its own, and how to reach it."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    _require(sshd or "sshd")
    for name in ("host", "user"):
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.makedirs("/run/sshd", exist_ok=True)  # it does not start without
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
        "UsePAM": "no",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()), encoding="ascii")
    with (folder / "log").open("w", encoding="ascii") as log:
        # By its whole path, as it wants it.
        server = subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while "listening" not in (folder / "log").read_text(encoding="ascii"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"sshd: {(folder / 'log').read_text(encoding='ascii').strip()}")
            time.sleep(0.01)
        options = [f"IdentityFile={folder}/user", "UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no"]
        yield ["-o", ",".join([*options, f"port={port}", "LogLevel=ERROR"])]
    finally:
        server.terminate()
        server.wait()


@contextmanager
def faulty(program: Path, scratch: Path, faults: str = "") -> Iterator[Ways]:
    """The file system that fails as it is told; the other way is the directory that it shows."""
    source, here = _folder(scratch, "source"), _folder(scratch, "here")
    with _program(here, program, source, here):
        os.setxattr(here, "user.faulty", faults.encode())
        yield [str(here), str(source)]


def build_faulty(folder: Path) -> Path:
    """The program of that file system."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True)
    source, program = Path(__file__).with_name("faulty.c"), folder / "faulty"
    words = ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program, *flags.stdout.split()]
    subprocess.run(words, check=True)
    return program
