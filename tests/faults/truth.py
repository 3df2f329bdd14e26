"""Whether the injection tells the truth: the core's table and strace see the same calls, strace's faults end alike."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trap
from cases import PATIENCE, Broken, Case, Operation, expect
from trap import MARK, NO_FAULT, READY, Call, Fault, Trap

from holdfast._native import ffi, lib
from interposed import interposed

# -- The core's table -------------------------------------------------------------------------------------------------

_KERNEL = {
    "open": "openat", "fstat": "newfstatat fstat", "lstat": "newfstatat lstat", "dup": "fcntl", "fcntl_lock": "fcntl",
    "pread": "pread64", "birth_time": "statx", "link_unnamed": "linkat", "rename_new": "renameat2",
    "thread_timer_create": "timer_create", "nanosleep": "clock_nanosleep",
}  # fmt: skip
"""What the kernel calls the functions of the table, where it has another name for them."""


class OfTheCore(Operation):
    """Functions of the core alone, whose calls must be those of its table, one by one."""

    def __init__(self, name: str, do: Callable[[bytes], Any]) -> None:
        self.name = f"the core's table: {name}"
        self.keeps = frozenset({"file"})
        self._do = do

    def act(self, folder: Path, trap: Trap) -> None:
        names: list[str] = []
        with interposed(names.append):
            before = len(trap.calls())  # of making the functions that stand between
            opened = self._do(os.fsencode(folder / "file"))
        with trap.paused():
            for descriptor in opened or []:
                os.close(descriptor)
            seen = [call.name for call in trap.calls()[before:]]
            same = len(seen) == len(names) and all(map(_means, names, seen))
            expect(same, f"the table had {names}, and the system {seen}")

    def found(self, folder: Path, ending: Any) -> str:
        return "new"


def _means(name: str, call: str) -> bool:
    return call in _KERNEL.get(name, name).split()


_pool = lib.hf_pool_new(1, 0)


def _lock(flags: int) -> Callable[[bytes], None]:
    def lock(path: bytes) -> None:
        made = lib.hf_lock_new(_pool, path, 0o644, flags)
        expect(lib.hf_try(made, lib.HF_EXCLUSIVE) == 0, "not locked")
        lib.hf_release(made)
        lib.hf_lock_free(made)

    return lock


def _log(path: bytes) -> None:
    log = lib.hf_log_new(_pool, path, 0o644, lib.HF_SYNCED, 1, 10**18)
    expect(lib.hf_log_append(log, b"1\n", 2, 1) == 0, "not appended")
    expect(lib.hf_log_sync(log, 1) == 0, "not synced")
    expect(lib.hf_log_append(log, b"2\n", 2, 1) == lib.HF_FULL, "not full")
    expect(lib.hf_log_try(log) == 0, "not locked")
    expect(lib.hf_log_move(log, path + b".1") == 0, "not moved")
    lib.hf_log_unlock(log)
    lib.hf_log_free(log)
    expect(lib.hf_remove(path + b".1") == 0, "not removed")


def _replace(flags: int) -> Callable[[bytes], list[int]]:
    def replace(path: bytes) -> list[int]:
        opened = ffi.new("int64_t[2]")
        for slot in opened + 0, opened + 1:
            expect(lib.hf_create(path + b".new", 0o600, slot) == 0, "not created")
            expect(lib.hf_replace(slot[0], path + b".new", path, flags) == 0, "not replaced")
        return list(opened)

    return replace


def _marker(path: bytes) -> None:
    slot = ffi.new("hf_marker **")
    expect(lib.hf_marker_create(path, path + b".new", b"1\n", 2, 0o644, 0, slot) == 0, "not created")
    expect(lib.hf_marker_remove(slot[0], 0) == 0, "not removed")
    lib.hf_marker_close(slot)


def of_the_core() -> list[Operation]:
    """What the core does, by itself."""
    return [
        OfTheCore("a lock", _lock(0)),
        OfTheCore("an OFD lock", _lock(lib.HF_OFD)),
        OfTheCore("a log", _log),
        OfTheCore("a file that is replaced", _replace(0)),
        OfTheCore("the same, durable", _replace(lib.HF_DURABLE)),
        OfTheCore("a marker", _marker),
    ]


# -- strace -----------------------------------------------------------------------------------------------------------


class Traced(Case):
    """A case whose fault is strace's, in a process that has no traps."""

    traced = True

    def __init__(self, operation: Operation, call: Call | None, which: int, error: str, shared: Trap, room: str):
        self._output = Path(room, f"strace.{os.getpid()}")
        self._options = ["-e", "trace=all"]
        if call is not None:
            self._options = ["-e", f"trace={call.name},access", "-e", f"inject={call.name}:error={error}:when={which}"]
        super().__init__(operation, NO_FAULT, None, shared, room)
        self.lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
        self.hit = any("(INJECTED)" in line for line in self.lines)

    def _watch(self, pid: int) -> None:
        command = ["strace", "-f", "-qq", "-s", "200", "-o", str(self._output), *self._options, "-p", str(pid)]
        deadline = time.monotonic() + PATIENCE
        while not self._trap.is_waited and time.monotonic() < deadline:
            time.sleep(0.001)
        self._output.write_bytes(b"")
        self._strace = subprocess.Popen(command)
        while READY.encode() not in self._output.read_bytes():
            expect(self._strace.poll() is None and time.monotonic() < deadline, "strace does not come")
            time.sleep(0.001)
        self._trap.let_go()

    def _end(self) -> None:
        self._strace.wait(PATIENCE)  # it ends with the process

    def names(self) -> list[str]:
        """The calls of the operation."""
        found = [name for name, inside in self._all() if inside]
        expect(found, "strace has not seen the operation")
        return found

    def _all(self) -> Iterator[tuple[str, bool]]:
        """All calls, and whether each is one of the operation."""
        inside = False
        for line in self.lines:
            match = re.match(r"\d+ +(\w+)\(", line)
            if f'"{MARK}"' in line:
                inside = not inside
            elif match:
                yield match[1], inside

    def place_of(self, call: Call) -> int:
        """How many calls of its name strace has seen when it comes to this one."""
        turn = place = 0
        for name, inside in self._all():
            turn += inside and name not in _LET_ALONE
            place += name == call.name
            if turn == call.turn:
                expect(name == call.name, f"where the traps see {call}, strace sees {name}")
                return place
        raise Broken("strace has not seen the call")


def can_be_traced(operation: Operation) -> bool:
    """Whether an operation makes the same calls under strace, if it is the same."""
    return not operation.lacking and not operation.varies


_LET_ALONE = {name: reason for reason, names in trap.UNSEEN.items() for name in names.split()}


_OF_THREADS = ("flock", "clock_nanosleep")


def compare(operation: Operation, calls: list[Call], shared: Trap, room: str) -> tuple[str, Counter[str]]:
    """In what strace sees another operation, and how many calls are none of ours, by the reason."""
    case = Traced(operation, None, 0, "", shared, room)
    if case.problem:
        return case.problem, Counter()
    names = case.names()
    unseen = Counter(_LET_ALONE[name] for name in names if name in _LET_ALONE)
    theirs = [name for name in names if name not in _LET_ALONE]
    ours = [call.name for call in calls]
    if operation.has_threads:  # whose calls come in another order each time, and an unlocking perhaps too late
        unseen["what threads do more or less often each time"] += sum(map(_OF_THREADS.count, theirs))
        theirs, ours = (sorted(name for name in names if name not in _OF_THREADS) for names in (theirs, ours))
    return "" if theirs == ours else f"strace sees {theirs}, and the traps {ours}", unseen


def repeat(operation: Operation, fault: Fault, call: Call, shared: Trap, room: str) -> str:
    """In what a fault ends differently when it is strace's; empty if it does not."""
    inside = Case(operation, fault, call, shared, room)
    which = Traced(operation, None, 0, "", shared, room).place_of(call)
    error = "EOPNOTSUPP" if fault.error == errno.EOPNOTSUPP else errno.errorcode[fault.error]
    outside = Traced(operation, call, which, error, shared, room)
    if inside.problem or outside.problem or not (inside.hit and outside.hit):
        return f"{inside.problem} {outside.problem} {inside.hit} {outside.hit}"
    one, other = _plain(inside), _plain(outside)
    return "" if one == other else f"{one} inside, and {other} with strace"


def _plain(case: Case) -> str:
    """The ending, without what is different each time."""
    return re.sub(r"/\S*/tmp\w+|\.\d+-[0-9a-f-]+\.tmp", "", f"{case.ending.kind} {case.ending}")


def samples(operation: Operation, faults: list[tuple[Fault, Call]], number: int, seed: str) -> list[tuple[Fault, Call]]:
    """Some of the faults that strace can make, too."""
    if operation.has_threads or not can_be_traced(operation):
        return []
    able = [
        (fault, call)
        for fault, call in faults
        # strace does not close a descriptor that it lets close() fail for, as the system does
        if fault.how == trap.FAIL and fault.times == 1 and call.name not in {"close", "access"}
    ]
    return random.Random(seed).sample(able, min(number, len(able)))
