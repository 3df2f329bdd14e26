"""Let every system call of every operation go wrong in every plausible way, and see what holds afterwards.

`make test-faults` runs this; the full form does so under more settings. With arguments only the operations whose names
contain one of them: `bash tests/faults/run.sh .venv/bin/python tests/faults/inject.py append`
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from multiprocessing import get_context
from multiprocessing.pool import Pool

import table
import trap
import truth
from cases import Case, Operation, count, rehearse, take_all_places
from operations import operations
from trap import Call, Fault, Trap

import evidence

TARGET = "test-faults"
SHOWN = 8  # problems of an operation
SHARE = 50  # cases that a process runs at a time
SEED = 7
ATTEMPTS = 10  # at coming to a call: other threads may have been in the way
MAY_MISS = 0.02  # of those cases: about as many as strike one more look at the lock, for which there is seldom time
NOT_TRACED = "strace makes no file system lack anything, and what varies cannot be compared"
NO_SAMPLES = f"strace counts the calls of threads apart; {NOT_TRACED}"
POLLED = ("FileLock", "lock_all", "append")
NAMED = [part for part in sys.argv[1:] if part != "--polling"]
MOST = 2000  # cases of an operation in the short form

_operations: dict[str, Operation] = {}
_room = ""
_trap: Trap


def _chosen() -> list[Operation]:
    return [
        operation
        for operation in operations(evidence.FULL)
        if not NAMED or any(part in operation.name for part in NAMED)
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


def _begin_to_run() -> None:
    """Make this process one of those that run cases."""
    global _trap
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _trap = Trap()  # each process needs its own
    take_all_places()


def _count(name: str) -> tuple[str, list[Call], str]:
    """The calls of an operation. Where these vary, those of the way that it takes most often in some runs, and of the
    longer one if two are as frequent: to a rare one it would hardly come again.
    """
    operation = _operations[name]
    ways = [count(operation, _trap, _room) for _ in range(ATTEMPTS if operation.varies else 1)]
    times = Counter(len(calls) for calls, _ in ways)
    calls, problem = max(ways, key=lambda way: (way[1] != "", times[len(way[0])], len(way[0])))
    return name, calls, problem


def _run(share: tuple[str, list[tuple[Fault, Call]]]) -> tuple[str, Tally]:
    """Run some cases."""
    name, cases = share
    operation, tally = _operations[name], Tally()
    for fault, call in cases:
        for _ in range(ATTEMPTS):
            case = Case(operation, fault, call, _trap, _room)
            if case.hit or case.problem:
                break
        problem = case.problem or ("" if case.hit or operation.varies else "it never came to the call")
        tally.passed += case.hit and not problem
        tally.missed += not case.hit and not problem
        tally.littered += case.littered
        if problem:
            tally.problems.append(f"{name}: {table.in_words(fault, call)}: {problem} [{case.ending}]")
    return name, tally


def _compare(seen: tuple[str, list[Call]]) -> tuple[str, Counter[str]]:
    name, calls = seen
    problem, unseen = truth.compare(_operations[name], calls, _trap, _room)
    return f"{name}: {problem}" if problem else "", unseen


def _repeat(sample: tuple[str, Fault, Call]) -> str:
    name, fault, call = sample
    problem = truth.repeat(_operations[name], fault, call, _trap, _room)
    return f"{name}: {table.in_words(fault, call)}: {problem}" if problem else ""


class Tally:
    """What is known of an operation's cases."""

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls
        self.left = self.passed = self.missed = self.littered = 0
        self.problems: list[str] = []
        self.skipped: Counter[str] = Counter()

    def add(self, part: Tally) -> None:
        """Count what a share of the cases has come to."""
        self.left -= 1
        self.passed += part.passed
        self.missed += part.missed
        self.littered += part.littered
        self.problems += part.problems

    def conclude(self, name: str) -> None:
        """Make a row of all cases. When more than a few have missed their call, that is a failure."""
        cases = self.passed + self.missed + len(self.problems)
        notes = [f"{self.calls} system calls"]
        if self.littered:
            notes.append(f"in {self.littered} cases a temporary file stayed, for the next writer to remove")
        if self.missed:
            missed = f"{self.missed} of {cases} cases ({self.missed / cases:.1%}) never came to their call"
            self.skipped[f"the call was made in none of {ATTEMPTS} attempts"] = self.missed
            notes.append(missed)
            if self.missed > MAY_MISS * cases:
                self.problems.append(f"{name}: {missed}")
        self.note(name, "; ".join(notes))

    def note(self, name: str, note: str) -> None:
        """Say what was wrong and what was left out, and make a row of it."""
        for problem in self.problems[:SHOWN]:
            print(f"FAILED {problem}")
        for reason, times in sorted(self.skipped.items()):
            print(f"SKIPPED [{times}] {name}: {reason}")
        failed, skipped = len(self.problems), self.skipped.total()
        if os.environ.get("HOLDFAST_WAIT"):
            name = f"{name}, HOLDFAST_WAIT={os.environ['HOLDFAST_WAIT']}"
        evidence.row(TARGET, name, passed=self.passed, failed=failed, skipped=skipped, note=note)


def _cases_of(name: str, calls: list[Call], tally: Tally) -> list[tuple[Fault, Call]]:
    """All cases of an operation, or as many as there is time for, chosen by chance."""
    cases = [(fault, call) for call in calls for fault in table.faults_of(call, tally.skipped)]
    if len(cases) > MOST and not evidence.FULL:
        tally.skipped[f"only {MOST} cases of an operation, chosen with the seed {SEED}; FULL=1 runs all"] = (
            len(cases) - MOST
        )
        cases = random.Random(SEED).sample(cases, MOST)
    return cases


def _count_all(pool: Pool) -> dict[str, list[Call]]:
    """The calls of each operation. One that goes wrong by itself has none, and makes a row that says so."""
    seen = {}
    for name, calls, problem in pool.imap(_count, _operations):
        seen[name] = calls
        if problem:
            print(f"FAILED {name}, with no fault: {problem}")
            evidence.row(TARGET, name, failed=1)
            del seen[name]
    return seen


def _inject(pool: Pool, seen: dict[str, list[Call]]) -> None:
    """Run all cases of all operations."""
    tallies = {name: Tally(len(calls)) for name, calls in seen.items()}
    shares = []
    for name, tally in tallies.items():
        cases = _cases_of(name, seen[name], tally)
        parts = [(name, cases[start : start + SHARE]) for start in range(0, len(cases), SHARE)]
        tally.left = len(parts)
        shares += parts
    for name, part in pool.imap_unordered(_run, shares):
        tallies[name].add(part)
        if tallies[name].left == 0:
            tallies[name].conclude(name)


def _check_truth(pool: Pool, seen: dict[str, list[Call]]) -> None:
    """Compare what the traps see and do with what strace does."""
    compared, alone, repeated = Tally(), Tally(), Tally()
    comparable = [(name, calls) for name, calls in seen.items() if truth.can_be_traced(_operations[name])]
    alone.skipped[NOT_TRACED] = len(seen) - len(comparable)
    for problem, unseen in pool.imap_unordered(_compare, comparable):
        compared.passed += not problem
        compared.problems += [problem] if problem else []
        compared.skipped += unseen
    if comparable or not seen:  # where there is nothing to run at all, this row says so
        compared.note("strace sees the same calls", "operations; skipped are calls that are let alone")
    if alone.skipped.total():
        alone.note("strace does not see", "operations")
    samples = []
    for name, calls in seen.items():
        faults = [(fault, call) for call in calls for fault in table.faults_of(call, Counter())]
        chosen = truth.samples(_operations[name], faults, 10 if evidence.FULL else 1, f"{SEED} {name}")
        samples += [(name, *sample) for sample in chosen]
        if not chosen:
            repeated.skipped[NO_SAMPLES] += 1
    for problem in pool.imap_unordered(_repeat, samples):
        repeated.passed += not problem
        repeated.problems += [problem] if problem else []
    repeated.note("strace's faults end alike", f"chosen with the seed {SEED}")


def _check_table() -> None:
    tally = Tally()
    for operation in truth.of_the_core():
        _, problem = count(operation, _trap, _room)
        tally.passed += not problem
        tally.problems += [f"{operation.name}: {problem}"] if problem else []
    tally.note("the core's table sees the same calls", "functions of the core")


def _inject_polling() -> None:
    """The same in a process whose locks wait by polling, which is decided when it starts."""
    polling = {**os.environ, "HOLDFAST_WAIT": "poll"}
    if subprocess.run([sys.executable, __file__, "--polling", *POLLED], env=polling, check=False).returncode != 0:
        evidence.row(TARGET, "with HOLDFAST_WAIT=poll", failed=1, note="it did not come to its end")


def inject() -> None:
    """See whether the traps tell the truth, and what they then tell."""
    room = tempfile.mkdtemp(prefix="holdfast-faults-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        _get_ready(room)
        _check_table()
        with get_context("fork").Pool(os.cpu_count(), _begin_to_run) as pool:
            seen = _count_all(pool)
            _check_truth(pool, seen)
            _inject(pool, seen)
            pool.close()  # to end its processes by itself: killed ones may have a lock that it waits for
            pool.join()
    finally:
        shutil.rmtree(room, ignore_errors=True)


def main() -> int:
    """Run what can be run here, and end with the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clear up
    if "--polling" in sys.argv:  # see _inject_polling()
        inject()
        return 0
    evidence.begin(TARGET, sys.argv[1:])
    reason = trap.missing()
    if reason:
        print(f"SKIPPED {TARGET}: {reason}")
        evidence.row(TARGET, "every operation", skipped=1, note=reason)
    else:
        trap.build()
        inject()
        if evidence.FULL and not NAMED:
            _inject_polling()
    return evidence.end(TARGET)


if __name__ == "__main__":
    sys.exit(main())
