"""Let every system call of every operation go wrong in every plausible way, and see what holds afterwards.

`make test-faults` runs this; the full form does so under more settings. With arguments only the operations whose names
contain one of them: `PYTHONPATH=tools .venv/bin/python tests/faults/inject.py append`
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from multiprocessing import get_context

import table
import trap
from cases import Case, Operation, count, rehearse
from operations import operations
from trap import Call, Fault, Trap

import evidence

TARGET = "test-faults"
SHOWN = 8  # problems of an operation
SHARE = 50  # cases that a process runs at a time
SEED = 7
ATTEMPTS = 3  # at coming to a call, where threads take turns
MOST = 2000  # cases of an operation in the short form

_operations: dict[str, Operation] = {}
_room = ""
_trap: Trap


def _chosen() -> list[Operation]:
    return [
        operation
        for operation in operations(evidence.FULL)
        if not sys.argv[1:] or any(part in operation.name for part in sys.argv[1:])
    ]


def _get_ready(room: str) -> None:
    """Make this process one whose children run cases."""
    global _operations, _room, _trap
    _room, _trap = room, Trap()
    for operation in _chosen():
        rehearse(operation, _trap, room)
    _operations = {operation.name: operation for operation in _chosen()}
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again in every case


def _get_trap() -> None:
    global _trap
    _trap = Trap()  # each process needs its own


def _count(name: str) -> tuple[str, list[Call], str]:
    return name, *count(_operations[name], _trap, _room)


def _run(share: tuple[str, list[tuple[Fault, Call]]]) -> tuple[str, int, int, list[str]]:
    """Run some cases: how many there were, how many never came to their call, and what was wrong."""
    name, cases = share
    missed, problems = 0, []
    for fault, call in cases:
        for _ in range(ATTEMPTS):
            case = Case(_operations[name], fault, call, _trap, _room)
            if case.hit or case.problem:
                break
        missed += not case.hit
        if case.problem:
            problems.append(f"{name}: {table.in_words(fault, call)}: {case.problem} [{case.ending}]")
    return name, len(cases), missed, problems


class Tally:
    """What is known of an operation's cases."""

    def __init__(self) -> None:
        self.calls = self.passed = self.left = 0
        self.problems: list[str] = []
        self.skipped: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """Say what was wrong and what was left out, and make a row of it."""
        for problem in self.problems[:SHOWN]:
            print(f"FAILED {problem}")
        for reason, times in sorted(self.skipped.items()):
            print(f"SKIPPED [{times}] {name}: {reason}")
        failed, skipped = len(self.problems), self.skipped.total()
        evidence.row(
            TARGET, name, passed=self.passed, failed=failed, skipped=skipped, note=f"{self.calls} system calls"
        )


def _cases_of(name: str, calls: list[Call], tally: Tally) -> list[tuple[Fault, Call]]:
    """All cases of an operation, or as many as there is time for, chosen by chance."""
    cases = [(fault, call) for call in calls for fault in table.faults_of(call, tally.skipped)]
    if len(cases) > MOST and not evidence.FULL:
        tally.skipped[f"only {MOST} cases of an operation, chosen with the seed {SEED}; FULL=1 runs all"] = (
            len(cases) - MOST
        )
        cases = random.Random(SEED).sample(cases, MOST)
    return cases


def inject() -> None:
    """Run all cases of all operations."""
    room = tempfile.mkdtemp(prefix="holdfast-faults-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        _get_ready(room)
        with get_context("fork").Pool(os.cpu_count(), _get_trap) as pool:
            tallies: dict[str, Tally] = {}
            shares = []
            for name, calls, problem in pool.imap(_count, _operations):
                tally = tallies[name] = Tally()
                tally.calls = len(calls)
                if problem:
                    tally.problems.append(f"{name}, with no fault: {problem}")
                    tally.note(name)
                    continue
                cases = _cases_of(name, calls, tally)
                parts = [(name, cases[start : start + SHARE]) for start in range(0, len(cases), SHARE)]
                tally.left = len(parts)
                shares += parts
            for name, ran, missed, problems in pool.imap_unordered(_run, shares):
                tally = tallies[name]
                tally.left -= 1
                tally.passed += ran - missed - len(problems)
                tally.problems += problems
                if missed:
                    tally.skipped["the operation took another way this time, and did not come to the call"] += missed
                if tally.left == 0:
                    tally.note(name)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def main() -> int:
    """Run what can be run here, and end with the table."""
    evidence.begin(TARGET)
    reason = trap.missing()
    if reason:
        print(f"SKIPPED {TARGET}: {reason}")
        evidence.row(TARGET, "every operation", skipped=1, note=reason)
    else:
        trap.build()
        inject()
    return evidence.end(TARGET)


if __name__ == "__main__":
    sys.exit(main())
