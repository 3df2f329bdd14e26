"""What is done while calls fail: every operation of the package that changes files or holds locks."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cases import Broken, Ending, Operation, expect, is_free, is_free_soon
from trap import NUMBERS, Trap

from holdfast import (
    BaseFileLock,
    DocumentStore,
    FileLock,
    JsonlFile,
    ReadWriteLock,
    SoftFileLock,
    StateFile,
    Timeout,
    atomic_write,
    lock_all,
    write_bytes,
    write_text,
)

AT_MOST = 5  # seconds to wait for a lock that is free but for what goes wrong
SOON = 0.05  # to wait where what goes wrong may last

_DEAD = """
from holdfast._temporary import this_process
from holdfast.owner import Owner
print(this_process(), Owner.myself().record().hex())
"""


@cache
def _dead() -> tuple[str, bytes]:
    """What names of temporary files and markers say of a process that has ended."""
    said = subprocess.run([sys.executable, "-c", _DEAD], check=True, capture_output=True, text=True).stdout.split()
    return said[0], bytes.fromhex(said[1])


# -- Locks ------------------------------------------------------------------------------------------------------------


class Locking(Operation):
    """Acquire a lock, and release it."""

    def __init__(self, name: str, make: Callable[[Path], Any], there: bool) -> None:
        self.name = name
        self._make = make
        self._there = there
        self.keeps = frozenset({"a", "b", "c", "d", "d/a"})

    def path(self, folder: Path) -> Path:
        return folder / "a"

    def prepare(self, folder: Path) -> None:
        if self._there:
            self.path(folder).touch()

    def begin(self, folder: Path) -> None:
        self.lock = self._make(self.path(folder))

    def acquire(self) -> Any:
        return self.lock.acquire(timeout=AT_MOST)

    def act(self, folder: Path, trap: Trap) -> None:
        self.stage = "acquiring"
        held = self.acquire()
        with trap.paused():
            expect(self.is_held(folder), "it was acquired, and another process could acquire it, too")
        self.stage = "releasing"
        with held:
            pass
        self.stage = "released"

    def is_held(self, folder: Path) -> bool:
        return not is_free(self.path(folder))

    def found(self, folder: Path, ending: Ending) -> str:
        # A lock leaves nothing to be found: act() sees that it is held, and who watches that it is free again.
        return "new" if ending.how == "done" else "old"

    def again(self, folder: Path, ending: Ending) -> None:
        with self.acquire():
            expect(self.is_held(folder), "the next acquisition does not hold it")

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        self.begin(folder)
        with self.acquire():
            expect(self.is_held(folder), "another process's acquisition does not hold it")
        del self.lock


class InNewDirectory(Locking):
    """The same with a lock whose directory is missing."""

    def path(self, folder: Path) -> Path:
        return folder / "d" / "a"


class Reading(Locking):
    """Share a ReadWriteLock."""

    def acquire(self) -> Any:
        return self.lock.acquire_read(timeout=AT_MOST)


class Writing(Locking):
    """Have a ReadWriteLock alone."""

    def acquire(self) -> Any:
        return self.lock.acquire_write(timeout=AT_MOST)


class LockingAll(Locking):
    """Acquire three locks at once."""

    def begin(self, folder: Path) -> None:
        self.lock = [folder / name for name in "abc"]

    def acquire(self) -> Any:
        return lock_all(*self.lock, timeout=AT_MOST)

    def is_held(self, folder: Path) -> bool:
        return not any(is_free(folder / name) for name in "abc")


_HOLDING = """
import fcntl, sys
for line in sys.stdin:
    file = None
    if line.strip():
        file = open(line.strip(), "w")
        fcntl.flock(file, fcntl.LOCK_EX)
    print("done", flush=True)
"""


@cache
def _holder(_watching: int) -> subprocess.Popen[bytes]:
    """A process that holds locks for the one that watches.

    Who waits looks at every descriptor of the holder, and the one that watches has now more and now fewer.
    """
    return subprocess.Popen([sys.executable, "-c", _HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _hold(path: Path | None) -> None:
    """Have that process hold this lock, or none, and no other."""
    holder = _holder(os.getpid())
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(b"%s\n" % (b"" if path is None else bytes(path)))
    holder.stdin.flush()
    holder.stdout.readline()


class Waiting(Locking):
    """Wait for a lock that another process holds, in vain."""

    varies = True

    def prepare(self, folder: Path) -> None:
        _hold(self.path(folder))

    def act(self, folder: Path, trap: Trap) -> None:
        try:
            self.lock.acquire(timeout=0.01)
        except Timeout as error:
            expect(str(self.path(folder)) in str(error), "the Timeout does not name the path")
        else:
            raise Broken("the lock of another process was acquired")

    def may_be_locked(self, ending: Ending) -> bool:
        return True

    def again(self, folder: Path, ending: Ending) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            return
        raise Broken("the lock of another process was acquired")

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        _hold(None)
        super().elsewhere(folder, ending)


class Soft(Locking):
    """A SoftFileLock, whose file is the lock."""

    def is_held(self, folder: Path) -> bool:
        return self.path(folder).exists()

    def acquire(self) -> Any:
        return self.lock.acquire(timeout=SOON)

    def may_be_locked(self, ending: Ending) -> bool:
        return ending.how == "raised" and ending.stage == "releasing"  # it is still held

    def found(self, folder: Path, ending: Ending) -> str:
        there = self.path(folder).exists()
        if ending.how == "done":
            expect(not there, "it was released, and its file is there")
        elif ending.how == "raised" and ending.stage == "releasing":
            expect(there, "it is still held, and its file has gone")
        elif ending.how == "raised" and not self._there:
            expect(not there or self.disk_is_gone, "it was not acquired, and there is a file")
        return "new" if ending.how == "done" else "old"

    def again(self, folder: Path, ending: Ending) -> None:
        if self.disk_is_gone and not self.lock.is_locked:
            self.path(folder).unlink(missing_ok=True)  # nobody could, while the disk took no more
        expect(self.lock.is_locked == (ending.stage == "releasing"), "it does not know whether it is held")
        self.lock.release()
        expect(self._there or not self.path(folder).exists(), "released at last, and its file is there")
        with self.lock.acquire(timeout=AT_MOST):
            expect(self.is_held(folder), "the next acquisition does not hold it")

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        super().elsewhere(folder, ending)
        expect(not self.path(folder).exists(), "the last one to release it left its file")


class Breaking(Soft):
    """Take over the SoftFileLock of an owner that has died."""

    def prepare(self, folder: Path) -> None:
        self.path(folder).write_bytes(_dead()[1])


# -- Logs -------------------------------------------------------------------------------------------------------------


def _line(number: int) -> bytes:
    return b'{"n":%d,"text":"%s"}\n' % (number, b"x" * 30)


_RECORDS = [_line(number) for number in range(30)]


def _lines_of(path: Path) -> list[bytes]:
    if path.exists():
        return path.read_bytes().splitlines(keepends=True)
    zipped = path.with_name(path.name + ".gz")
    return gzip.decompress(zipped.read_bytes()).splitlines(keepends=True) if zipped.exists() else []


class Logging(Operation):
    """Append the record 3 to a log that has 1 and 2."""

    files = tuple(f"events{number}.jsonl" for number in ("", *(f".{number:08}" for number in range(1, 9))))
    new: tuple[int, ...] = (3,)

    def __init__(self, name: str, content: bytes = _line(1) + _line(2), first: bool = True, **settings: Any) -> None:
        self.name = name
        self.keeps = frozenset({*self.files, *(f"{file}.gz" for file in self.files), "events.jsonl.damaged"})
        self.content = content
        self.first = first  # whether the operation is the first use of the file
        self.settings = settings

    def path(self, folder: Path) -> Path:
        return folder / "events.jsonl"

    def prepare(self, folder: Path) -> None:
        if self.content:
            self.path(folder).write_bytes(self.content)

    def begin(self, folder: Path) -> None:
        self.log = JsonlFile(self.path(folder), timeout=AT_MOST, **self.settings)
        if not self.first:
            self.log.append_bytes(_line(0))

    def act(self, folder: Path, trap: Trap) -> None:
        self.log.append_bytes(_line(3))

    def numbers(self, folder: Path) -> tuple[list[int], int]:
        """The numbers of the records, but 0, which comes and goes; and how many pieces are none."""
        found, torn = [], 0
        for file in (*self.files[1:], self.files[0]):
            for line in _lines_of(folder / file):
                if line in _RECORDS:
                    found.append(_RECORDS.index(line))
                else:
                    torn += 1
        return [number for number in found if number], torn

    def old(self) -> list[int]:
        return [_RECORDS.index(line) for line in self.content.splitlines(keepends=True) if line in _RECORDS]

    def found(self, folder: Path, ending: Ending) -> str:
        numbers, torn = self.numbers(folder)
        expect(torn == 0 or self.may_be_torn(ending), "there is a piece of a record")
        old = self.old()
        if numbers == old:
            return "old"
        if ending.how == "died" and numbers == old + list(self.new)[: len(numbers) - len(old)]:
            return "new"
        expect(numbers == [*old, *self.new], f"there are the records {numbers}")
        return "new"

    def may_be_torn(self, ending: Ending) -> bool:
        # What could not be taken back from a disk that has gone, or was torn before.
        return ending.how == "died" or self.disk_is_gone or not self._ends_well()

    def _ends_well(self) -> bool:
        return not self.content or self.content.endswith(b"\n")

    def is_unsure(self, ending: Ending) -> bool:
        return "brought to the disk" in ending.text

    def again(self, folder: Path, ending: Ending) -> None:
        if "make another" in ending.text:
            self.log = JsonlFile(self.path(folder), timeout=AT_MOST, **self.settings)
        self.log.append_bytes(_line(4))
        self.log.sync()
        expect(4 in self.numbers(folder)[0], "it is not there")

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        before = self.numbers(folder)[0]
        with JsonlFile(self.path(folder), timeout=0) as log:
            log.append_bytes(_line(5))
            numbers, torn = self.numbers(folder)
            # The newline that the next writer puts behind a torn record may have been all that it lacked.
            completed = [*self.old(), *self.new] if ending.how == "died" else before
            expect(numbers in ([*before, 5], [*completed, 5]), f"the next has {numbers}")
            expect(torn <= (ending.how == "died") + (not self._ends_well()), f"{torn} pieces of records")
            read = [record["n"] for record in log.records(errors="skip") if record["n"]]
            expect(read == numbers, f"a reader gets {read}")
            expect(len(log.verify().damages) == torn, "verify() counts other damage")

    def end(self) -> None:
        self.log.close()


class Batch(Logging):
    """Append three records at once."""

    new = (3, 13, 23)

    def act(self, folder: Path, trap: Trap) -> None:
        self.log.extend([json.loads(_line(number)) for number in self.new])


class Rotating(Logging):
    """Rotate a log, and clear up behind it."""

    old_segments = 0

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        for number in range(1, self.old_segments + 1):
            (folder / self.files[number]).write_bytes(_line(0))

    def act(self, folder: Path, trap: Trap) -> None:
        self.log.rotate()

    def is_unsure(self, ending: Ending) -> bool:
        return True  # what could not be cleared up is said, too

    def found(self, folder: Path, ending: Ending) -> str:
        numbers, torn = self.numbers(folder)
        expect((numbers, torn) == (self.old(), 0), f"there are the records {numbers}")
        return "old" if self.path(folder).exists() else "new"

    def may_be_torn(self, ending: Ending) -> bool:
        return False


class Pruning(Rotating):
    """Rotate, and remove old segments."""

    old_segments = 2


class Syncing(Logging):
    """Bring what was appended to the disk."""

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        self.log.append_bytes(_line(3))

    def act(self, folder: Path, trap: Trap) -> None:
        self.log.sync()

    def is_unsure(self, ending: Ending) -> bool:
        return True


def _sleeps(thread: threading.Thread) -> bool:
    call = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text()  # its number comes first
    return call.startswith(f"{NUMBERS['clock_nanosleep']} ")


class Closing(Syncing):
    """Close a durable log, whose thread sleeps until it has to sync it."""

    has_threads = True

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        thread = next(thread for thread in threading.enumerate() if thread.name == "holdfast-sync")
        while not _sleeps(thread):
            pass

    def act(self, folder: Path, trap: Trap) -> None:
        self.log.close()

    def again(self, folder: Path, ending: Ending) -> None:
        self.log = JsonlFile(self.path(folder), timeout=AT_MOST, **self.settings)
        super().again(folder, ending)


class Verifying(Logging):
    """Look for damage, of which there is none but at the end."""

    def act(self, folder: Path, trap: Trap) -> None:
        report = self.log.verify()
        expect((report.records, len(report.damages)) == (2, 0 if self._ends_well() else 1), f"it reports {report}")

    def found(self, folder: Path, ending: Ending) -> str:
        expect(self.path(folder).read_bytes() == self.content, "the file was changed")
        return "new" if ending.how == "done" else "old"


class Consuming(Verifying):
    """Read all records."""

    def act(self, folder: Path, trap: Trap) -> None:
        numbers = [record["n"] for record in self.log.records(errors="skip")]
        expect(numbers == [1, 2], f"it reads {numbers}")


_DAMAGE = b"{not a record, but not to be lost"


class Repairing(Logging):
    """Move damage to a file beside."""

    def __init__(self, name: str, where: str, zipped: bool = False) -> None:
        contents = {"middle": [_line(1), _DAMAGE + b"\n", _line(2)], "end": [_line(1), _line(2), _DAMAGE]}
        super().__init__(name, b"".join(contents[where]))
        self._zipped = zipped
        self.keeps |= {f"{file}.damaged" for file in (*self.keeps,)}

    def prepare(self, folder: Path) -> None:
        if self._zipped:
            (folder / f"{self.files[1]}.gz").write_bytes(gzip.compress(self.content))
        else:
            super().prepare(folder)

    def act(self, folder: Path, trap: Trap) -> None:
        report = self.log.repair()
        expect(report.moved == len(_DAMAGE), f"it reports {report}")

    def old(self) -> list[int]:
        return [1, 2]

    def is_unsure(self, ending: Ending) -> bool:
        return True

    def found(self, folder: Path, ending: Ending) -> str:
        numbers, torn = self.numbers(folder)
        expect(numbers == [1, 2], f"there are the records {numbers}")
        aside = any(_DAMAGE in path.read_bytes() for path in folder.glob("*.damaged"))
        expect(torn == 1 or aside, "the damage was lost")
        return "old" if torn else "new"

    def again(self, folder: Path, ending: Ending) -> None:
        self.log.repair()
        expect(self.found(folder, ending) == "new", "repaired again, and the damage is there")
        super().again(folder, ending)

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        with JsonlFile(self.path(folder), timeout=0) as log:
            log.repair()
        super().elsewhere(folder, ending)


class Checkpointing(Verifying):
    """Read a record and note how far one is, so that a record may come twice, but none be missed."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        with JsonlFile(self.path(folder)) as log:
            records = log.records()
            next(records)
            (folder / "checkpoint").write_text(records.checkpoint)
            records.close()
        self.keeps |= {"checkpoint"}

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        self.checkpoint = (folder / "checkpoint").read_text()
        write_text(folder / "warm", "")
        (folder / "warm").unlink()

    def act(self, folder: Path, trap: Trap) -> None:
        with self.log.records(since=self.checkpoint) as records:
            expect(next(records)["n"] == 2, "it reads another record")
            write_text(folder / "checkpoint", records.checkpoint)

    def found(self, folder: Path, ending: Ending) -> str:
        super().found(folder, ending)
        with JsonlFile(self.path(folder)) as log:
            rest = [record["n"] for record in log.records(since=(folder / "checkpoint").read_text())]
        expect(rest in ([], [2]), f"{rest} is left to be read")
        return "old" if rest else "new"

    def is_unsure(self, ending: Ending) -> bool:
        return "was replaced" in ending.text


# -- Files that are replaced ------------------------------------------------------------------------------------------


class Replacing(Operation):
    """Replace a file."""

    def __init__(self, name: str, there: bool = True, warm: bool = True, block: bool = False, **settings: Any) -> None:
        self.name = name
        self.keeps = frozenset({"file", "file.lock"} if settings.get("lock") is True else {"file"})
        self._there, self._warm, self._block, self._settings = there, warm, block, settings

    def prepare(self, folder: Path) -> None:
        if self._there:
            path = folder / "file"
            path.write_text("old")
            path.chmod(0o640)
            os.setxattr(path, "user.kept", b"yes")
        process = _dead()[0]
        (folder / f".file.{process}-{'0' * 16}.tmp").write_text("litter")

    def begin(self, folder: Path) -> None:
        if self._warm:
            write_text(folder / "warm", "")
            (folder / "warm").unlink()

    def write(self, folder: Path, text: str) -> None:
        with atomic_write(folder / "file", **self._settings) as file:
            for character in text:
                file.write(character)

    def act(self, folder: Path, trap: Trap) -> None:
        if self._block:
            self.write(folder, "new")
        else:
            write_bytes(folder / "file", b"new", **self._settings)

    def found(self, folder: Path, ending: Ending) -> str:
        path = folder / "file"
        if not path.exists():
            expect(not self._there, "the file is gone")
            return "old"
        if self._there:
            # Where the file system has no permissions to give, the file stays as it was created.
            expect(path.stat().st_mode & 0o777 in {0o640, 0o600}, "its permissions were lost")
        content = path.read_text()
        expect(content in {"old", "new"} if self._there else content == "new", f"it has {content!r}")
        return content

    def is_unsure(self, ending: Ending) -> bool:
        return "was replaced" in ending.text or ".lock" in ending.text

    def again(self, folder: Path, ending: Ending) -> None:
        self.elsewhere(folder, ending)

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        if self._settings.get("lock") == "git" and (folder / "file.lock").exists():
            expect(ending.how == "died" or self.cleaning_up_fails, "git's lock is left")
            (folder / "file.lock").unlink()  # which takes a person
        if not self._settings.get("overwrite", True):
            (folder / "file").unlink(missing_ok=True)
        self.write(folder, "next")
        expect((folder / "file").read_text() == "next", "the next content is not there")


# -- States -----------------------------------------------------------------------------------------------------------


class Changing(Operation):
    """Change a state from 1 to 2."""

    def __init__(self, name: str, how: str, suffix: str = ".json", **settings: Any) -> None:
        self.name = name
        self.file = f"state{suffix}"
        self.keeps = frozenset({self.file, f"{self.file}.lock", f"{self.file}.history.jsonl"})
        self._how = how
        self._settings = settings
        self.revision = 2 if settings.get("history") else 1

    def begin(self, folder: Path) -> None:
        self.state = StateFile(folder / self.file, timeout=AT_MOST, **self._settings)
        self.state.save({"n": 1})
        if self._settings.get("history"):
            self.state.save({"n": 1, "more": "x" * 100})
        self.snapshot = self.state.load()

    def act(self, folder: Path, trap: Trap) -> None:
        getattr(self, self._how)()

    def save(self) -> None:
        self.state.save({"n": 2}, expect=self.snapshot)

    def edit(self) -> None:
        with self.state.edit() as data:
            data["n"] = 2

    def update(self) -> None:
        self.state.update(lambda data: {**data, "n": 2})

    def found(self, folder: Path, ending: Ending) -> str:
        state = StateFile(folder / self.file).load()
        expect((state.data["n"], state.revision) in {(1, self.revision), (2, self.revision + 1)}, f"it is {state}")
        return "old" if state.data["n"] == 1 else "new"

    def is_unsure(self, ending: Ending) -> bool:
        return "was replaced" in ending.text or ".lock" in ending.text

    def _change(self, state: StateFile[Any], number: int) -> None:
        revision = state.load().revision
        with state.edit() as data:
            data["n"] = number
        found = state.load()
        expect((found.data["n"], found.revision) == (number, revision + 1), f"the next state is {found}")
        if self._settings.get("history"):
            expect(state.at(found.revision).data["n"] == number, "the next state is not in the history")
            expect(state.at(1).data == {"n": 1}, "the first state is not in the history")
            expect(state.at(2).data["n"] == 1, "the second state is not in the history")

    def again(self, folder: Path, ending: Ending) -> None:
        self._change(self.state, 3)

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        if (folder / self.file).exists():
            self._change(StateFile(folder / self.file, timeout=AT_MOST, **self._settings), 4)


class Looking(Changing):
    """Load a state, or look into its history."""

    def load(self) -> None:
        found = StateFile(self.state.path).load()
        expect((found.revision, found.data["n"]) == (self.revision, 1), f"it is {found}")

    def history(self) -> None:
        found = self.state.history()
        expect([change.revision for change in found] == [1, 2], f"there are {found}")

    def at(self) -> None:
        expect(self.state.at(1).data == {"n": 1}, "it is another state")

    def found(self, folder: Path, ending: Ending) -> str:
        expect(super().found(folder, ending) == "old", "looking has changed it")
        return "new" if ending.how == "done" else "old"


class PruningHistory(Looking):
    """Remove what is old from a history."""

    def prune(self) -> None:
        expect(self.state.prune_history(0) == 1, "it removed something else")

    def found(self, folder: Path, ending: Ending) -> str:
        super().found(folder, ending)
        found = [change.revision for change in StateFile(folder / self.file, history=True).history()]
        expect(found in ([1, 2], [2]), f"there are the revisions {found}")
        return "old" if found == [1, 2] else "new"

    def _change(self, state: StateFile[Any], number: int) -> None:
        with state.edit() as data:
            data["n"] = number
        expect(state.at(2).data["n"] == 1, "the state before is not in the history")


# -- Documents --------------------------------------------------------------------------------------------------------


class Storing(Operation):
    """Change a document, and have it on the disk."""

    may_be_either = True  # what failed is tried again
    has_threads = True

    def __init__(self, name: str, how: str, key: str = "jo", **settings: Any) -> None:
        self.name = name
        self._how, self._key, self._settings = how, key, settings

    def begin(self, folder: Path) -> None:
        self.store = DocumentStore(folder / "store", timeout=AT_MOST, **self._settings)
        self.store["other"] = [1]
        self.store[self._key] = ["old"]
        self.store.flush()
        is_free_soon(folder / "store" / ".lock")

    def act(self, folder: Path, trap: Trap) -> None:
        getattr(self, self._how)()
        with trap.paused():
            is_free_soon(folder / "store" / ".lock")  # the thread lets go of it when all is done

    def assign(self) -> None:
        self.store[self._key] = ["new"]
        self.store.flush()

    def delete(self) -> None:
        del self.store[self._key]
        self.store.flush()

    def read(self) -> None:
        self.store.refresh()
        expect(self.store[self._key] == ["old"], "it reads another document")
        expect(sorted(self.store) == sorted(["other", self._key]), "there are other keys")

    def found(self, folder: Path, ending: Ending) -> str:
        with DocumentStore(folder / "store") as store:
            content = store.get(self._key)
            expect(store["other"] == [1], "another document was changed")
        values = {"assign": (["old"], ["new"]), "delete": (["old"], None), "read": (["old"], ["old"])}[self._how]
        expect(content in values, f"it is {content}")
        if self._how == "read":
            return "new" if ending.how == "done" else "old"
        return "new" if content == values[1] else "old"

    def again(self, folder: Path, ending: Ending) -> None:
        while True:  # each time an error is told that came before this, perhaps only as the thread let go of the lock
            try:
                self.store.flush()
                self.store[self._key] = ["next"]
                self.store.flush()
                break
            except OSError:
                pass
        expect(DocumentStore(folder / "store")[self._key] == ["next"], "the next document is not there")
        self.store.close()

    def elsewhere(self, folder: Path, ending: Ending) -> None:
        if (folder / "store").exists():
            with DocumentStore(folder / "store") as store:
                for key in [*store]:
                    del store[key]
                last = "last" * len(self._key)  # a long one, if what is left of a long one is to be cleared away
                store[last] = 1
                store.flush()
                del store[last]
        self.keeps = frozenset({"store", "store/.lock"})


def _soft(path: Path) -> BaseFileLock:
    return SoftFileLock(path)


def operations(full: bool) -> list[Operation]:
    """All of them, under the usual settings, and `full` under others, too."""
    return [*_usual(), *(_others() if full else [])]


def _lacking(what: str, operation: Operation) -> Operation:
    operation.lacking = frozenset({what})
    return operation


def _others() -> list[Operation]:
    return [
        Locking("FileLock, shared", lambda path: FileLock(path, shared=True), there=True),
        Locking("FileLock, for all threads", lambda path: FileLock(path, thread_local=False), there=True),
        Locking("FileLock, mode", lambda path: FileLock(path, mode=0o600), there=False),
        Locking("FileLock, metrics", lambda path: FileLock(path, metrics="faults"), there=True),
        Locking("FileLock, ofd, a new file", lambda path: FileLock(path, kind="ofd"), there=False),
        Soft("SoftFileLock, mode", lambda path: SoftFileLock(path, mode=0o600), there=False),
        Soft("SoftFileLock, metrics", lambda path: SoftFileLock(path, metrics="faults"), there=False),
        _lacking("unnamed files", Breaking("SoftFileLock of a dead owner, no unnamed files", _soft, there=True)),
        Logging("append, metrics", metrics="faults"),
        Logging("append, durable, metrics, an old file", durable=True, metrics="faults"),
        Logging("append, mode", b"", mode=0o600),
        Batch("extend, durable", durable=True),
        Batch("extend, behind a torn line", _line(1) + _line(2)[:20]),
        Logging("append with rotation, durable", max_bytes=120, durable=True),
        Batch("extend with rotation", max_bytes=120),
        Pruning("rotate, pruning by size", backups="50 B"),
        Pruning("rotate, compressing and pruning", backups=1, compress=True),
        Rotating("rotate, durable", durable=True),
        Replacing("replace, the first of a process, in a block", warm=False, block=True),
        Replacing("replace, with git's lock, not durable", lock="git", durable=False),
        Replacing("replace, with a lock, not durable", lock=True, timeout=AT_MOST, durable=False),
        Changing("state: save, not durable", "save", durable=False),
        Changing("state: save, metrics", "save", metrics="faults"),
        Changing("state: update with history, not durable", "update", history=True, durable=False),
        Changing("state: edit, yaml", "edit", ".yaml"),
        Changing("state: edit with history, yaml", "edit", ".yaml", history=True),
        Changing("state: save, toml", "save", ".toml"),
        Looking("state: load, yaml", "load", ".yaml"),
        Looking("state: load, toml", "load", ".toml"),
        Storing("document: assign, metrics", "assign", metrics="faults"),
        Storing("document: delete, durable", "delete", durable=True),
        Storing("document: delete, a long key", "delete", key="k" * 300),
        Storing("document: read, a long key", "read", key="k" * 300),
    ]


def _usual() -> list[Operation]:
    return [*_locks(), *_logs(), *_files(), *_states(), *_documents()]


def _locks() -> list[Operation]:
    return [
        Locking("FileLock, a new file", FileLock, there=False),
        Locking("FileLock", FileLock, there=True),
        InNewDirectory("FileLock, a new directory", FileLock, there=False),
        Locking("FileLock, ofd", lambda path: FileLock(path, kind="ofd"), there=True),
        Waiting("FileLock, waiting", FileLock, there=True),
        Reading("ReadWriteLock, reading", ReadWriteLock, there=True),
        Writing("ReadWriteLock, writing", ReadWriteLock, there=True),
        LockingAll("lock_all", FileLock, there=False),
        Soft("SoftFileLock", _soft, there=False),
        Breaking("SoftFileLock of a dead owner", _soft, there=True),
        _lacking("unnamed files", Soft("SoftFileLock, no unnamed files", _soft, there=False)),
    ]


def _logs() -> list[Operation]:
    return [
        Logging("append, a new file", b""),
        Logging("append"),
        Logging("append, the next one", first=False),
        Logging("append, behind a torn line", _line(1) + _line(2)[:20]),
        Logging("append, durable", b"", durable=True),
        Batch("extend"),
        Logging("append with rotation", max_bytes=120),
        Logging("append with rotation by age", max_age=3600),
        Rotating("rotate"),
        Pruning("rotate, pruning", backups=1),
        Rotating("rotate, compressing", compress=True),
        _lacking("rename flags", Rotating("rotate, no rename that keeps what is there")),
        Syncing("sync"),
        Closing("close, durable", durable=3600.0),
        Consuming("read a log"),
        Verifying("verify"),
        Verifying("verify, a torn line", _line(1) + _line(2) + b"{"),
        Repairing("repair, in the middle", "middle"),
        Repairing("repair, at the end", "end"),
        Repairing("repair, compressed", "middle", zipped=True),
        Checkpointing("checkpoint"),
    ]


def _files() -> list[Operation]:
    return [
        Replacing("replace, the first of a process", warm=False),
        Replacing("replace"),
        Replacing("replace, a new file", there=False),
        Replacing("replace, not durable", durable=False),
        Replacing("replace, in a block", block=True),
        Replacing("replace, with a lock", lock=True, timeout=AT_MOST),
        Replacing("replace, with git's lock", lock="git", block=True),
        Replacing("replace, nothing", there=False, overwrite=False),
    ]


def _states() -> list[Operation]:
    return [
        Changing("state: save", "save"),
        Changing("state: edit", "edit"),
        Changing("state: update", "update"),
        Changing("state: save with history", "save", history=True),
        Looking("state: load", "load"),
        Looking("state: history", "history", history=True),
        Looking("state: at", "at", history=True),
        PruningHistory("state: prune history", "prune", history=True),
    ]


def _documents() -> list[Operation]:
    return [
        Storing("document: assign", "assign"),
        Storing("document: assign, a long key", "assign", key="k" * 300),
        Storing("document: assign, durable", "assign", durable=True),
        Storing("document: delete", "delete"),
        Storing("document: read", "read"),
    ]
