"""The first program in the emulated machine: run one job after the other, and tell the machine outside what came of it.

Lines of the console that begin with `@@` are rows for tools/evidence.py, as JSON; the last one is how many there were.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import disks
import servers

TESTS = Path(__file__).resolve().parent.parent
sys.path.append(str(TESTS / "filesystems"))
from counts import counted  # noqa: E402 - found only now

os.environ["PYTHONPATH"] = str(TESTS.parent / "packages")


told = 0


def row(what: str, **counts: Any) -> None:
    """Tell outside."""
    global told
    told += 1
    print(f"@@{json.dumps({'what': what, **counts})}", flush=True)


def up() -> str:
    """Seconds since the start."""
    return Path("/proc/uptime").read_text(encoding="ascii").split()[0]


def check(what: str, name: str, *ways: str) -> None:
    """Run the checks of a file system in the directory that can be reached in these ways."""
    words = [sys.executable, str(TESTS / "filesystems/check.py"), name, *ways]
    began = time.monotonic()
    row(what, **counted(words))
    print(f"-- {what}: {time.monotonic() - began:.0f} s, at {up()}", flush=True)


def main() -> None:
    """Run all jobs that were asked for, and go on when one fails."""
    print(f"-- up after {up()} s, Linux {os.uname().release}", flush=True)
    wanted = (TESTS.parent / "jobs").read_text(encoding="utf-8").split()
    jobs = {**servers.jobs(check), **disks.jobs(row)}
    for name in wanted:
        try:
            jobs[name]()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs are to run
            traceback.print_exc(file=sys.stdout)
            row(name, failed=1, note=f"{type(error).__name__}: {error}")
    print(f"@@{told}", flush=True)


if __name__ == "__main__":
    main()
