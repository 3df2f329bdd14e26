"""kill -9 for everybody at random moments, and what must hold afterwards: `make test-kills`.

Each scenario keeps its own record of what was acknowledged, in memory that the processes share, and reads the files
without the library's help where that is possible. A row of the table counts the kills of one role.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
import tempfile
import traceback
from collections import Counter

from commands import Appends, Runs
from crew import Scenario
from files import Documents, Replaced, ReplacedLikeGit, States
from holding import AsyncLocks, Deaths, Locks, ManyLocks, OfdLocks, ReadWriteLocks, SoftLocks
from logs import CompressedLogs, DurableLogs, Logs, PrunedLogs, RepairedLogs, RotatedLogs

import evidence
import holdfast

TARGET = "test-kills"
ROUND = 100  # kills, after which everything is checked and begun anew

SCENARIOS: list[tuple[str, type[Scenario], int]] = [  # of a thousand kills
    ("log", Logs, 60),
    ("log, durable", DurableLogs, 60),
    ("log, rotated", RotatedLogs, 80),
    ("log, compressed", CompressedLogs, 50),
    ("log, pruned", PrunedLogs, 60),
    ("log, repaired", RepairedLogs, 60),
    ("FileLock, flock", Locks, 60),
    ("FileLock, OFD", OfdLocks, 60),
    ("SoftFileLock", SoftLocks, 60),
    ("ReadWriteLock", ReadWriteLocks, 60),
    ("lock_all", ManyLocks, 60),
    ("AsyncFileLock", AsyncLocks, 50),
    ("death of a holder", Deaths, 112),
    ("StateFile with history", States, 60),
    ("DocumentStore", Documents, 58),
    ("atomic_write(lock=True)", Replaced, 40),
    ("atomic_write(lock='git')", ReplacedLikeGit, 20),
    ("command", Runs, 10),
    ("command", Appends, 10),
]


def play(name: str, scenario: type[Scenario], kills: int) -> None:
    """Kill so many, in rounds, and note what was killed and checked."""
    killed: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    error = ""
    while killed.total() < kills and not error:
        descriptors = _descriptors()
        with tempfile.TemporaryDirectory(prefix="holdfast-kills-") as folder:
            try:
                one = scenario(folder, min(ROUND, kills))
                dead = one.kill(min(ROUND, kills))
                checked += one.check()
                assert _descriptors() == descriptors, f"descriptors are left open: {_descriptors()}"
                killed += dead  # which count when all is as it should be afterwards
            except Exception as caught:  # noqa: BLE001 - the others are killed all the same
                traceback.print_exc()
                error = f"{type(caught).__name__}: {caught}".splitlines()[0][:200]
    note = ", ".join(f"{count:,} {what}" for what, count in checked.items() if count)
    for role, count in sorted(killed.items()):
        evidence.row(TARGET, f"{name}: {role}", passed=count, note=note)
        note = ""
    if error:
        evidence.row(TARGET, name, failed=1, note=error)


def _descriptors() -> list[str]:
    gc.collect()
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.islink(link))  # not that of the list itself


def main() -> int:
    """Kill ten thousand processes, or in the short form a thousand; or those of the scenarios that are named."""
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)  # once, and not in each of the forked processes
    evidence.begin(TARGET, sys.argv[1:])
    wanted = " ".join(sys.argv[1:])
    for name, scenario, share in SCENARIOS:
        if wanted in name:
            play(name, scenario, share * 10 if evidence.FULL else share)
    return evidence.end(TARGET)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
