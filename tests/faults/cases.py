"""One case: an operation in a process of its own, in which one call goes wrong, and what must hold afterwards."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import table
from trap import FAIL, NO_FAULT, Call, Fault, Trap

from holdfast import _core, _temporary, write_text
from holdfast._native import lib

_temporary._REST = 10**18  # how soon a directory is searched again for litter does not depend on how fast that is
PATIENCE = 600  # seconds after which an operation hangs
PLACES = 128  # HF__METER_ROWS of the core
SOON = 10  # seconds after which a thread has let go of a lock


@dataclass
class Ending:
    """How the operation ended: it was done, it raised, or its process died."""

    how: str = "died"
    stage: str = ""
    kind: str = ""
    errno: int = 0
    text: str = ""
    warned: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.how} {self.kind} {self.text}".strip()


class Broken(AssertionError):
    """Something that must hold does not."""


class Operation:
    """What is done, what it is done to, and how to see whether it has happened.

    `prepare` and `elsewhere` are called in the process that watches, the others in the one that is meddled with.
    """

    name = ""
    lacking: frozenset[str] = frozenset()
    """What the file system cannot do."""
    keeps = frozenset[str]()
    """Names of files that may be there in the end."""
    environment: dict[str, str] = {}  # noqa: RUF012 - read only
    may_be_either = False
    """Whether an error leaves open if it has happened, as the documentation says."""

    has_threads = False
    varies = False
    """Whether it makes calls more or less often: tries in the time there is, reads of what others have locked."""
    stage = ""
    cleaning_up_fails = False
    """Whether what goes wrong may strike the removal of a temporary file."""
    disk_is_gone = False
    """Whether from some call on every one fails, also those that would take back what was done."""

    def prepare(self, folder: Path) -> None:
        """Make the files it is done to."""

    def begin(self, folder: Path) -> None:
        """Make the objects, and do whatever is done only once in a process."""

    def act(self, folder: Path, trap: Trap) -> None:
        """The operation."""
        raise NotImplementedError

    def found(self, folder: Path, ending: Ending) -> str:
        """Whether it has happened, from the files alone: "old" or "new"; Broken when it is neither."""
        raise NotImplementedError

    def is_unsure(self, ending: Ending) -> bool:
        """Whether this error says that it has, or may have, happened."""
        return self.may_be_either

    def may_be_locked(self, ending: Ending) -> bool:
        """Whether files may be locked afterwards."""
        return False

    def again(self, folder: Path, ending: Ending) -> None:
        """The next operation by the same objects."""

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        """The next operation by another process."""

    def end(self) -> None:
        """Close what is open."""


def expect(truth: object, otherwise: str) -> None:
    """Raise Broken unless something holds."""
    if not truth:
        raise Broken(otherwise)


def is_free(path: Path) -> bool:
    """Whether nobody has a lock of either kind on a file. Without the help of what is tested."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True  # a temporary file of a thread that tries again
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(descriptor, table.OFD_SETLK, whole)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_free_soon(path: Path) -> bool:
    """The same, if a thread is just letting go of it."""
    deadline = time.monotonic() + SOON
    while not is_free(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


class Case:
    """A run of an operation. `problem` says what was wrong afterwards, or is empty.

    `hit` is whether the fault struck, and `littered` whether a temporary file stayed.
    """

    traced = False
    """Whether it is strace that makes the call go wrong."""

    def __init__(self, operation: Operation, fault: Fault, call: Call | None, trap: Trap, room: str) -> None:
        self.ending = Ending()
        self.problem = ""
        self.seen: list[Call] = []
        self.hit = False
        self.littered = False
        self._operation, self._fault, self._trap = operation, fault, trap
        operation.cleaning_up_fails = call is not None and strikes_the_cleaning_up(fault, call)
        operation.disk_is_gone = fault.how == FAIL and fault.times == 0
        folder = Path(tempfile.mkdtemp(dir=room))
        try:
            operation.prepare(folder)
            self._there = set(folder.rglob("*"))
            self._run(folder)
        except Broken as broken:
            self.problem = str(broken)
        except Exception as error:  # noqa: BLE001 - whatever it is, it should not have been
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder)

    def _run(self, folder: Path) -> None:
        operation, trap = self._operation, self._trap
        trap.set(self._fault, operation.lacking)
        said, say = os.pipe()
        heard, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(said)
            os.close(tell)
            _Inside(operation, trap, folder, say, heard).run(self.traced)
        os.close(say)
        os.close(heard)
        status = None
        try:
            self._watch(pid)
            with open(said, encoding="utf-8") as lines:
                self.ending = Ending(**json.loads(lines.readline() or "{}"))
                if self.ending.how == "died":
                    status = _reaped(pid)
                self.hit = trap.hit
                if not self._fault.nth or not self.hit:
                    self.seen = trap.calls()
                self._look(folder)
                if self.ending.how != "died":
                    os.write(tell, b".")
                    self._hear(lines.readline())
        finally:
            os.close(tell)
            status = _reaped(pid) if status is None else status
        self._end()
        expected = -signal.SIGKILL if self.ending.how == "died" else 0
        expect(status == expected, f"its process ended with {status}")
        operation.elsewhere(folder, self.ending)
        self._look_for_litter(folder)

    def _watch(self, pid: int) -> None:
        """Do what is to be done before the operation begins."""

    def _end(self) -> None:
        """Do what is to be done when the process has ended."""

    def _hear(self, line: str) -> None:
        expect(line, "the process ended before the next operation had")
        problem = json.loads(line)
        expect(not problem, f"the next operation: {problem}")

    def _look(self, folder: Path) -> None:
        """What the files say, while the process is there, or when it has just died."""
        operation, ending = self._operation, self.ending
        if ending.how == "raised":
            expect(ending.errno or ending.kind == "Timeout", "not a documented error")
            told = table.told_as(self._fault, ending.text)
            expect(not self._fault.error or ending.errno in told, f"its errno is {ending.errno}")
            expect(str(folder) in ending.text, "the message does not name the path")
        for path in folder.rglob("*"):
            if path.is_file() and not operation.may_be_locked(ending):
                expect(is_free_soon(path), f"{path.name} is left locked")
        state = operation.found(folder, ending)
        if ending.how == "done":
            expect(state == "new", "it returned, and has not happened")
        elif ending.how == "raised" and not operation.is_unsure(ending):
            expect(state == "old", "it raised, and has happened")
        litter = [path.name for path in set(folder.rglob("*")) - self._there if path.suffix in {".tmp", ".new"}]
        self.littered = bool(litter)
        if ending.how != "died" and not operation.cleaning_up_fails:
            expect(not litter, f"{litter} left behind")

    def _look_for_litter(self, folder: Path) -> None:
        """What the next writers have not cleared away."""
        if any(path.suffix == ".tmp" for path in folder.rglob("*")):
            write_text(folder / "next", "")  # who replaces a file there clears up for all
            (folder / "next").unlink()
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - self._operation.keeps
        expect(not left, f"{sorted(left)} left behind for good")


def strikes_the_cleaning_up(fault: Fault, call: Call) -> bool:
    """Whether a temporary file may stay, as what would remove it fails, too."""
    if fault.how != FAIL:
        return False
    looks_at_litter = call.name in {"fstat", "newfstatat", "lstat"} and call.path.endswith((".tmp", ".new"))
    return fault.times == 0 or call.name == "unlink" or looks_at_litter


def _reaped(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Inside:
    """What the process does that is meddled with."""

    def __init__(self, operation: Operation, trap: Trap, folder: Path, say: int, hear: int) -> None:
        self._operation, self._trap, self._folder = operation, trap, folder
        self._say, self._hear = say, hear

    def run(self, traced: bool) -> None:
        """Never returns."""
        status = 1
        try:
            signal.alarm(PATIENCE)
            before = _descriptors()
            if not traced:
                self._trap.begin()
            self._operation.begin(self._folder)
            _temporary._sweep_again.clear()  # usually a directory is searched for litter only now and then
            if traced:
                self._trap.wait()
            ending = self._act()
            os.write(self._say, json.dumps(vars(ending)).encode() + b"\n")
            if os.read(self._hear, 1):
                os.write(self._say, json.dumps(self._go_on(ending, before)).encode() + b"\n")
            status = 0
        except BaseException as error:  # noqa: BLE001 - a forked child must not get into its parent's code
            print(f"{self._operation.name}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)

    def _act(self) -> Ending:
        operation, ending = self._operation, Ending("done")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                with self._trap.armed():
                    operation.act(self._folder, self._trap)
            except Exception as error:  # noqa: BLE001 - which is judged by the one that watches
                ending = Ending("raised", kind=type(error).__name__, text=str(error))
                ending.errno = getattr(error, "errno", None) or 0
        ending.stage = operation.stage
        ending.warned = [str(warning.message) for warning in warned]
        return ending

    def _go_on(self, ending: Ending, before: dict[str, str]) -> str:
        """What is wrong with the next operation, or with what this one has left in the process."""
        try:
            self._operation.again(self._folder, ending)
        except Exception as error:  # noqa: BLE001 - as above
            return f"{type(error).__name__}: {error}"
        self._operation.end()
        self._operation.__dict__.clear()
        gc.collect()
        after = _descriptors()
        return "" if after == before else f"descriptors: {sorted(set(after.items()) ^ set(before.items()))}"


def rehearse(operation: Operation, trap: Trap, room: str) -> None:
    """Run an operation once in this process, so that everything it imports is there in those that are forked."""
    folder = Path(tempfile.mkdtemp(dir=room))
    try:
        operation.prepare(folder)
        operation.begin(folder)
        operation.act(folder, trap)
        operation.again(folder, Ending("done"))
        operation.elsewhere(folder, Ending("done"))
        operation.end()
    finally:
        shutil.rmtree(folder)


def take_all_places() -> None:
    """Have metrics of this process's own, in which every place but its own is that of a process that has ended.

    So each case takes such a place over, and comes to it by the same calls, whatever has run before or runs beside it.
    """
    _core._pool = lib.hf_pool_new(_core._MAX_IDLE, lib.HF_POLL_ONLY if os.environ.get("HOLDFAST_WAIT") == "poll" else 0)
    meter = _core.meter_of("faults")
    _core.meter_add(meter, _core.WRITES, 0)  # who counts takes a place
    for _ in range(PLACES - 1):
        pid = os.fork()
        if pid == 0:
            _core.meter_add(meter, _core.WRITES, 0)
            os._exit(0)
        os.waitpid(pid, 0)


def count(operation: Operation, trap: Trap, room: str) -> tuple[list[Call], str]:
    """The calls that an operation makes when nothing goes wrong, and what was wrong all the same."""
    case = Case(operation, NO_FAULT, None, trap, room)
    return case.seen, "" if not case.problem and case.ending.how == "done" else f"{case.problem} [{case.ending}]"
