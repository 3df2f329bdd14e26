"""`make test-filesystems`: check one file system after the other, as root in a mount namespace of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tools"))
import mounts
from mounts import Mounted
from places import PLACES

import evidence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = "test-filesystems"

# The name, what is expected of it in places.py, and how it is made.
PLAIN: dict[str, Mounted] = {
    "ext4": partial(mounts.disk, "ext4"),
    "xfs": partial(mounts.disk, "xfs"),
    "btrfs": partial(mounts.disk, "btrfs"),
    "tmpfs": mounts.tmpfs,
    "overlay": mounts.overlay,
    "bindfs": mounts.bindfs,
    "sshfs": mounts.sshfs,
}

# Small ones, to be filled.
SMALL: dict[str, Mounted] = {
    "ext4": partial(mounts.disk, "ext4", megabytes=8),
    "tmpfs": partial(mounts.tmpfs, options="size=4m"),
}

# What the file system of faulty.c is told, which is its name in places.py, too.
FAULTY = ["", *[name for name in PLACES if "=" in name]]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for images and the like."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-filesystems-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(what: str, mounted: Mounted, script: str, *words: str) -> None:
    """Run a program of checks, with these arguments, on a file system, and note what it counts."""
    with scratch() as folder:
        try:
            with mounted(folder) as ways:
                counts = counted([sys.executable, str(HERE / script), *words, *ways])
        except mounts.Unavailable as error:
            print(f"SKIPPED {what}: {error}")
            evidence.row(TARGET, what, skipped=1, note=str(error))
            return
    evidence.row(TARGET, what, **counts)


def counted(words: list[str]) -> dict[str, int]:
    """What the last line of a program counts: 'ext4: 50 passed, 0 failed, 1 skipped'."""
    line = ""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    try:
        numbers = [int(part.split()[0]) for part in line.rpartition(":")[2].split(",")]
        return dict(zip(("passed", "failed", "skipped"), numbers, strict=True))
    except (ValueError, IndexError):
        return {"failed": 1}  # it ended before it had counted


def main() -> int:
    """Check them all, or those that the command line names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is unmounted
    chosen = sys.argv[1:]
    evidence.begin(TARGET)
    for name, mounted in PLAIN.items():
        if not chosen or name in chosen:
            check(name, mounted, "check.py", name)
    for name, mounted in SMALL.items():
        for group in ("full", "unwritable"):
            if not chosen or group in chosen:
                check(f"{name}, {group}", mounted, "faults.py", group, name)
    with scratch() as folder:
        program = mounts.build_faulty(folder)
        for faults in FAULTY:
            if not chosen or "faulty" in chosen or faults in chosen:
                mounted = partial(mounts.faulty, program, faults=faults)
                check(f"FUSE, {faults or 'faultless'}", mounted, "check.py", faults or "faulty")
        for group in ("full", "faulty"):
            if not chosen or "faulty" in chosen or group in chosen:
                check(f"FUSE, {group}", partial(mounts.faulty, program), "faults.py", group, "faulty")
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
