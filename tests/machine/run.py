"""`make test-machine`: what this machine's kernel has no drivers for is run in an emulated one, with Debian's kernel.

    python tests/machine/run.py [JOB]...

NFS, SMB and vfat, and power cuts on ext4, xfs and btrfs. Nothing of it reaches a network. It is slow: an emulated
processor is 10 to 20 times slower than the real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import evidence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = "test-machine"
JOBS = ("nfs4", "nfs3", "nolock", "cifs", "cifs2", "nobrl", "vfat", "ext4", "xfs", "btrfs", "control")
PATIENCE = 3 * 3600  # seconds, whatever the machine: then something waits for ever


def cached() -> Path:
    """Where the machine's system is kept. Another way to make it makes another one."""
    cache = Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache/holdfast")
    folder = cache / f"machine-{hashlib.sha256((HERE / 'image.sh').read_bytes()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pack(folder: Path, jobs: list[str]) -> Path:
    """The machine's second disk: the package as it would be installed, the tests, and what is to be run."""
    job = folder / "job"
    packages = job / "packages"
    (wheel,) = (ROOT / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages]
    subprocess.run([*install, "--no-deps", wheel], check=True)
    # For the machine's Python, which is not this one.
    ours = ["--platform=manylinux2014_x86_64", "--python-version=3.11", "--only-binary=:all:"]
    subprocess.run([*install, *ours, "cffi>=1.17"], check=True)
    shutil.copytree(ROOT / "tests", job / "tests", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (job / "jobs").write_text(" ".join(jobs), encoding="utf-8")
    image = folder / "job.img"
    subprocess.run(["mkfs.ext4", "-q", "-d", job, image, "200M"], check=True)
    return image


def start(system: Path, job: Path) -> subprocess.Popen[str]:
    """Switch the machine on. What it prints comes from stdout; it cannot change its system, nor reach anything."""
    words = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]
    words += ["-kernel", str(system / "vmlinuz"), "-initrd", str(system / "initrd.img")]
    words += ["-append", "root=/dev/vda rw console=ttyS0 quiet no_timer_check init=/start panic=-1"]
    words += ["-drive", f"file={system / 'system.img'},if=virtio,format=raw,snapshot=on"]
    words += ["-drive", f"file={job},if=virtio,format=raw,readonly=on"]
    words += ["-nographic", "-no-reboot", "-nic", "none"]
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def note_rows(machine: subprocess.Popen[str]) -> str:
    """Note what the machine says that it ran. Returns what is missing, if anything is."""
    assert machine.stdout is not None
    noted = 0
    for line in machine.stdout:
        _, found, told = line.rstrip().partition("@@")
        try:
            row = json.loads(told) if found else None
        except ValueError:  # the kernel writes to the same console
            row = None
        if isinstance(row, dict):
            evidence.row(TARGET, **row)
            noted += 1
        elif isinstance(row, int):
            return "" if row == noted else f"it told {row} rows, and {noted} could be read"
        else:
            print(line, end="", flush=True)
    return "it ended before its work was done"


def main() -> int:
    """Run the jobs that the command line names, or all."""
    evidence.begin(TARGET, sys.argv[1:])
    system = cached()
    subprocess.run(["bash", HERE / "image.sh", system], check=True)
    with tempfile.TemporaryDirectory() as folder:
        machine = start(system, pack(Path(folder), sys.argv[1:] or list(JOBS)))
        clock = threading.Timer(PATIENCE, machine.kill)
        clock.start()
        try:
            missing = note_rows(machine)
        finally:
            clock.cancel()
            machine.kill()
            machine.wait()
    if missing:
        evidence.row(TARGET, "the machine", failed=1, note=missing)
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
