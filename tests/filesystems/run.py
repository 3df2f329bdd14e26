"""`make test-filesystems`: check one file system after the other, as root in a mount namespace of its own."""

from __future__ import annotations

import os
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
from counts import counted
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

# The groups of faults.py.
GROUPS = {"full": "no space left", "unwritable": "not to be written", "faulty": "calls that fail"}

# What the file system of faulty.c is told, which is its name in places.py, too.
FAULTY = [
    "busy=EACCES short=1 delay=1",
    "deaf=1",
    "flock=ENOLCK lock=ENOLCK",
    "link=ENOSYS symlink=ENOSYS rename2=ENOSYS",
]
if evidence.FULL:
    FAULTY += [name for name in PLACES if "=" in name and name not in FAULTY]

# Where the tests run in the full form.
SUITE = ("ext4", "xfs", "btrfs", "overlay")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for images and the like."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-filesystems-"))
    folder.chmod(0o755)  # some tests become somebody else
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(what: str, mounted: Mounted, script: str, *words: str) -> None:
    """Run a program of checks, with these arguments, on a file system, and note what it counts."""
    with scratch() as folder, noted_if_not_mounted(what):
        with mounted(folder) as ways:
            counts = counted([sys.executable, str(HERE / script), *words, *ways])
        evidence.row(TARGET, what, **counts)


@contextmanager
def noted_if_not_mounted(what: str) -> Iterator[None]:
    """Note what this machine does not have, and what went wrong with what it has; the others are to be checked, too."""
    try:
        yield
    except mounts.Unavailable as reason:
        print(f"SKIPPED {what}: {reason}")
        evidence.row(TARGET, what, skipped=1, note=str(reason))
    except (RuntimeError, OSError) as error:
        evidence.row(TARGET, what, failed=1, note=str(error))


def run_suite(name: str, mounted: Mounted) -> None:
    """Run the tests of the package with all their files on a file system."""
    what = f"{name}, the test suite"
    with scratch() as folder, noted_if_not_mounted(what):
        report = folder / "report.xml"
        with mounted(folder) as (here, *_):
            words = ["-m", "pytest", "-q", "--basetemp", f"{here}/pytest", "--junitxml", str(report)]
            environment = {**os.environ, "TMPDIR": here}
            ended = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=False)
        evidence.pytest(TARGET, what, str(report), ended.returncode)


def chosen(*words: str) -> bool:
    """Whether something is to be checked: everything is, unless the command line names some of it."""
    return len(sys.argv) == 1 or not {*words}.isdisjoint(sys.argv[1:])


def check_plain() -> None:
    """File systems as they are, and small ones."""
    for name, mounted in PLAIN.items():
        if chosen(name):
            check(name, mounted, "check.py", name)
    for name, mounted in SMALL.items():
        for group in ("full", "unwritable"):
            if chosen(group):
                check(f"{name}, {GROUPS[group]}", mounted, "faults.py", group, name)


def check_faulty() -> None:
    """The file system that fails as it is told."""
    with scratch() as folder:
        program = mounts.build_faulty(folder)
        for faults in FAULTY:
            if chosen("faulty", faults):
                check(f"FUSE, {faults}", partial(mounts.faulty, program, faults=faults), "check.py", faults)
        for group in ("full", "faulty"):
            if chosen("faulty", group):
                check(f"FUSE, {GROUPS[group]}", partial(mounts.faulty, program), "faults.py", group, "faulty")


def main() -> int:
    """Check them all, or what the command line names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is unmounted
    evidence.begin(TARGET, sys.argv[1:])
    check_plain()
    check_faulty()
    for name in SUITE:
        if evidence.FULL and chosen("suite"):
            run_suite(name, PLAIN[name])
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
