"""Power cuts on ext4, xfs and btrfs: the kernel records what a workload writes, and any state of the disk comes again.

The workloads, and what they were promised, are those of the simulation: ../power_cuts/workload.py and promises.py.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from block_log import Entry, entries, replay
from shell import do

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS.parent / "packages"), str(TESTS / "power_cuts")]
from workload import WORKLOADS  # noqa: E402 - found only now

SCRATCH = Path("/tmp/disks")
SIZE = "320M"  # the least for xfs
KINDS = ("ext4", "xfs", "btrfs")
CUTS = 10
"""States that are looked at for each workload and file system: a mount and a check of each takes seconds here."""

# The same workload on a system whose syncs do nothing.
CARELESS = """
import os, runpy, sys
from holdfast._native import ffi, lib
os.fsync = os.fdatasync = lambda descriptor: None
nothing = ffi.callback("int (*)(int)", lambda descriptor: 0)
for name in (b"fsync", b"fdatasync"):
    lib.hf_sys_set(name, ffi.cast("void *", nothing))
program = sys.argv[1]
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, os.path.dirname(program))
runpy.run_path(program, run_name="__main__")
"""


def prepare() -> None:
    """Load what is needed, once."""
    if SCRATCH.exists():
        return
    SCRATCH.mkdir()
    do("for each in loop dm-log-writes ext4 xfs btrfs; do modprobe $each; done; mkdir -p /mnt/disk")


def sectors(path: str) -> str:
    """The size of a device."""
    return subprocess.check_output(["blockdev", "--getsz", path], text=True).strip()


@contextmanager
def recorded(disk: Path, log: Path) -> Iterator[str]:
    """A device whose writes to the disk are recorded in the log."""
    loops = [subprocess.check_output(["losetup", "-f", "--show", path], text=True).strip() for path in (disk, log)]
    try:
        do(f"dmsetup create recorded --table '0 {sectors(loops[0])} log-writes {loops[0]} {loops[1]}'")
        do("dmsetup mknodes recorded")  # there is no udev
        try:
            yield "/dev/mapper/recorded"
        finally:
            do("dmsetup remove --retry recorded")
    finally:
        do(f"losetup -d {' '.join(loops)}")


@contextmanager
def mounted(device: str | Path, options: str = "rw") -> Iterator[str]:
    """A mounted disk."""
    do(f"mount -o {options} {device} /mnt/disk")
    try:
        yield "/mnt/disk"
    finally:
        do("umount /mnt/disk")


def record(workload: str, disk: Path, log: Path, careful: bool) -> list[dict[str, Any]]:
    """Run a workload on the disk. Each promise that it was given is a mark in the log, by its number."""
    said: list[dict[str, Any]] = []
    program = str(TESTS / "power_cuts/workload.py")
    words = [sys.executable, program] if careful else [sys.executable, "-c", CARELESS, program]
    with recorded(disk, log) as device, mounted(device) as folder:
        directory = f"{folder}/work"
        os.mkdir(directory)
        do(f"sync -f {folder}")
        do("dmsetup message recorded 0 mark begin")
        with subprocess.Popen([*words, workload, directory], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(json.loads(line))
                do(f"dmsetup message recorded 0 mark {len(said)}")
        assert process.returncode == 0, f"the workload {workload} failed"
    return said


def cuts(recording: list[Entry], choose: random.Random) -> list[int]:
    """Entries after which the power is cut: where the disk has just promised something, marks, and any others."""
    begin = next(number for number, entry in enumerate(recording) if entry.mark == "begin")
    after = range(begin + 1, len(recording) + 1)
    promises = [number for number in after if recording[number - 1].is_promise or recording[number - 1].mark]
    chosen = {len(recording)}
    chosen.update(choose.sample(promises, min(CUTS // 2, len(promises))))
    chosen.update(choose.sample(after, min(CUTS - CUTS // 2, len(after))))
    return sorted(chosen)


def look(workload: str, disk: Path, said: list[dict[str, Any]]) -> str:
    """Mount what a power cut left, as a machine does that starts again, and check the promises."""
    code = (
        "import json, sys; sys.path.append(sys.argv[1]); import promises;"
        "promises.check(sys.argv[2], sys.argv[3], json.load(sys.stdin))"
    )
    with mounted(disk, "loop") as folder:
        words = [sys.executable, "-c", code, str(TESTS / "power_cuts"), workload, f"{folder}/work"]
        result = subprocess.run(words, input=json.dumps(said), capture_output=True, text=True, check=False)
    return result.stderr.strip() if result.returncode else ""


def broken_promises(kind: str, workload: str, careful: bool = True) -> tuple[int, list[str]]:
    """How many states of the disk were looked at, and what was wrong with some of them."""
    base, disk, log, state = (SCRATCH / name for name in ("base", "disk", "log", "state"))
    for path in (base, disk, log, state):
        path.unlink(missing_ok=True)
    do(f"truncate -s {SIZE} {base}; truncate -s 1G {log}; mkfs.{kind} -q {base}; cp --sparse=always {base} {disk}")
    said = record(workload, disk, log, careful)
    choose = random.Random(f"{kind} {workload}")
    wrong = []
    with log.open("rb") as file, base.open("r+b") as replayed:
        recording = list(entries(file))
        chosen = cuts(recording, choose)
        promised = 0
        for number, entry in enumerate(recording, 1):
            replay(entry, file, replayed)
            promised = int(entry.mark) if entry.mark.isdecimal() else promised
            if number in chosen:
                replayed.flush()
                do(f"cp --sparse=always {base} {state}")
                if found := look(workload, state, said[:promised]):
                    wrong.append(f"{kind}, {workload}, after {number} of {len(recording)} writes: {found}")
    return len(chosen), wrong


def cut_power(row: Callable[..., None], kind: str) -> None:
    """All workloads on one file system."""
    prepare()
    states = 0
    wrong: list[str] = []
    for workload in WORKLOADS:
        number, found = broken_promises(kind, workload)
        states += number
        wrong += found
        print(f"-- {kind}: {workload}: {number} states, {len(found)} of them wrong", *found, sep="\n", flush=True)
    note = f"states after a power cut, of {len(WORKLOADS)} workloads"
    row(f"power cuts on {kind}", passed=states - len(wrong), failed=len(wrong), note=note)


def control(row: Callable[..., None]) -> None:
    """Where syncs do nothing, promises are broken, and that is seen."""
    prepare()
    for workload in ("log_durable", "atomic", "state", "documents"):
        states, wrong = broken_promises("ext4", workload, careful=False)
        note = f"{len(wrong)} of {states} states were found broken, as they must be"
        row(f"control: {workload} on ext4 without syncs", passed=bool(wrong), failed=not wrong, note=note)


def jobs(row: Callable[..., None]) -> dict[str, Callable[[], Any]]:
    """What can be run, by name."""
    return {kind: partial(cut_power, row, kind) for kind in KINDS} | {"control": partial(control, row)}
