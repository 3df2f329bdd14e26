"""One process's or thread's use of everything there is, and its own account of what must have come of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from holdfast import (
    DocumentStore,
    FileLock,
    JsonlFile,
    ReadWriteLock,
    SoftFileLock,
    StateFile,
    lock_all,
    write_text,
)


class Everything:
    """Operations in one folder, which others use at the same time. `me` is nobody else's name. `errors="skip"` reads on
    behind what is left of a line whose writer was killed.

    An operation that fails must have had no effect: whatever raised, the accounts are right.
    """

    def __init__(
        self, folder: str, me: str, *, timeout: float = 60, errors: Literal["raise", "skip"] = "raise", **log: Any
    ) -> None:
        self.folder, self.me = folder, me
        # Open already, so that the counting fails only if the lock does.
        self.numbers = {name: os.open(f"{folder}/{name}.number", os.O_RDWR | os.O_CREAT) for name in ("kernel", "soft")}
        self.lock = FileLock(f"{folder}/kernel.lock", timeout)
        self.soft_lock = SoftFileLock(f"{folder}/soft.lock", timeout, poll_interval=0.01)
        self.table = ReadWriteLock(f"{folder}/table.lock", timeout, is_singleton=False)
        self.log = JsonlFile(f"{folder}/events.jsonl", timeout=timeout, **log)
        self.state = StateFile(f"{folder}/state.json", history=True, timeout=timeout, durable=False)
        self.store = DocumentStore(f"{folder}/documents", timeout=timeout)
        self.timeout, self.errors = timeout, errors
        self.counted = {"kernel": 0, "soft": 0}
        self.appended = self.edits = self.replaced = self.assigned = self.read = 0
        self.checkpoint: str | None = None
        self.failures = 0
        self.relieve: Callable[[], object] = lambda: None
        """Gives back a little of what is short."""

    def operations(self) -> list[Callable[[], None]]:
        """All of them."""
        return [
            self.count, self.count_softly, self.share, self.take_all, self.append, self.extend, self.edit, self.replace,
            self.assign, self.read_on,
        ]  # fmt: skip

    def do(self, times: int, *expected: type[BaseException]) -> None:
        """Do some of them. The errors that are expected may come, and leave everything as it was."""
        for operation in random.choices(self.operations(), k=times):
            try:
                operation()
            except expected:
                self.failures += 1

    # Locks

    def count(self) -> None:
        """Add one to a number that all share."""
        with self.lock:
            self._increment("kernel")

    def count_softly(self) -> None:
        with self.soft_lock:
            self._increment("soft")

    def share(self) -> None:
        with self.table.read_lock():
            pass
        with self.table.write_lock():
            pass

    def take_all(self) -> None:
        """Both locks at once, which others take one by one."""
        locks = [self.soft_lock, self.lock]
        random.shuffle(locks)
        with lock_all(*locks, timeout=self.timeout):
            for name in self.numbers:
                self._increment(name)

    def _increment(self, name: str) -> None:
        number = int(os.pread(self.numbers[name], 12, 0) or b"0")
        os.pwrite(self.numbers[name], b"%012d" % (number + 1), 0)
        self.counted[name] += 1

    # Files

    def append(self) -> None:
        self.log.append([self.me, self.appended + 1, "x" * random.randrange(200)])
        self.appended += 1

    def extend(self) -> None:
        count = random.randrange(1, 20)
        self.log.extend([self.me, self.appended + 1 + number, ""] for number in range(count))
        self.appended += count

    def edit(self) -> None:
        try:
            with self.state.edit() as data:
                data[self.me] = data.get(self.me, 0) + 1
        except (OSError, MemoryError):
            # It may have been replaced all the same, as the error says.
            self.edits = self._seen(lambda: self.state.load().data.get(self.me, 0), self.edits)
            raise
        self.edits += 1

    def replace(self) -> None:
        path = f"{self.folder}/{self.me}.txt"
        try:
            write_text(path, str(self.replaced + 1), durable=random.random() < 0.2)
        except (OSError, MemoryError):
            self.replaced = self._seen(lambda: _number_in(path), self.replaced)
            raise
        self.replaced += 1

    def _seen(self, look: Callable[[], int], before: int) -> int:
        """What became of an attempt that failed."""
        while True:
            try:
                found = look()
            except (OSError, MemoryError):
                self.relieve()  # or it cannot even be seen
                continue
            assert found in (before, before + 1), f"{found} after {before}"
            return found

    def assign(self) -> None:
        self.store[self.me] = {"number": self.assigned + 1}
        self.assigned += 1
        if random.random() < 0.3:
            self.store.flush()

    def read_on(self) -> None:
        """Every record of ours comes exactly once, in order."""
        with self.log.records(since=self.checkpoint, errors=self.errors) as records:
            for writer, number, _ in records:
                if writer == self.me:
                    assert number == self.read + 1, f"{number} after {self.read}"
                    self.read = number
                self.checkpoint = records.checkpoint

    # The end

    def check(self) -> None:
        """Everything that was done is there, and nothing of ours that was not."""
        self.read_on()
        assert self.read == self.appended, f"{self.appended} appended, {self.read} read"
        assert self.state.load().data.get(self.me, 0) == self.edits
        assert _number_in(f"{self.folder}/{self.me}.txt") == self.replaced
        with suppress(OSError, MemoryError):  # of earlier attempts
            self.store.flush()
        self.store.flush()
        if self.assigned:
            assert _document(self.folder, self.me) == self.assigned
        assert not self.lock.is_locked
        assert not self.soft_lock.is_locked
        assert not self.table.is_locked

    def close(self) -> None:
        """Let go of everything."""
        self.store.close()
        self.log.close()
        for lock in self.lock, self.soft_lock, self.table:
            lock.close()
        for descriptor in self.numbers.values():
            os.close(descriptor)


def numbers_in(folder: str) -> dict[str, int]:
    """How often all together have counted."""
    found = {}
    for name in ("kernel", "soft"):
        with open(f"{folder}/{name}.number", encoding="ascii") as file:
            found[name] = int(file.read() or 0)
    return found


def litter_in(folder: str) -> list[str]:
    """Files that only an unfinished operation has."""
    names = [name for _, _, names in os.walk(folder) for name in names]
    return [name for name in names if name.endswith((".tmp", ".new")) or name == "soft.lock"]


def _number_in(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def _document(folder: str, me: str) -> int:
    with open(f"{folder}/documents/{me}.json", encoding="utf-8") as file:
        return int(json.load(file)["number"])
