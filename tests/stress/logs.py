"""Writers, rotators and readers of one log, killed at random."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from crew import Crew, Scenario, Worker, cells

from holdfast import JsonlFile, write_text


class Account:
    """What somebody has read of a log: that nothing acknowledged is missing, nothing is twice, and order is kept.

    A record tells its writer's slot and number, its own number, and which part it is of how many of a batch.
    """

    def __init__(
        self,
        acknowledged: memoryview,
        slots: memoryview,
        seen: dict[str, Any] | None = None,
        pruned: bool = False,
    ) -> None:
        self.pruned = pruned  # then some may be missing, and what there is is still in order
        self.acknowledged = acknowledged
        self.slots = slots
        self.records = 0
        seen = seen or {"last": None, "writers": {}}
        self.last: list[int] | None = seen["last"]
        self.writers: dict[str, list[int]] = seen["writers"]

    def seen(self) -> dict[str, Any]:
        """All there is to know, to go on with it later."""
        return {"last": self.last, "writers": self.writers}

    def see(self, record: list[Any]) -> None:
        """The next record."""
        slot, writer, number, part, parts = record[:5]
        before = self.writers.get(str(slot))
        if part:
            assert self.last == [slot, writer, number, part - 1, parts], f"{record[:5]} after {self.last}: a torn batch"
        elif self.pruned:
            assert before is None or [writer, number] > before[1:3], f"{record[:5]} after {before}"
        elif before is not None and before[1] == writer:
            assert number == before[2] + 1, f"{record[:5]} after {before}"
            assert before[3] == before[4] - 1, f"{before} was acknowledged, or followed, and is not whole"
        else:
            assert number == 1, f"{record[:5]}, the first of its writer"
            self.end(slot, before, writer)
        self.last = self.writers[str(slot)] = record[:5]
        self.records += 1

    def end(self, slot: int, last: list[int] | None, until: int) -> None:
        """Nothing more comes of the writers of a slot before this one, of which that was the last record."""
        first = 0
        if last is not None:
            _, writer, number, part, parts = last
            acknowledged = self.acknowledged[writer]
            # One that was killed between its append and its note has one more in the file.
            assert acknowledged <= number <= acknowledged + 1, f"{acknowledged} acknowledged, {last} the last found"
            assert number > acknowledged or part == parts - 1, f"{last} was acknowledged and is not whole"
            first = writer + 1
        for writer in range(first, until):
            mine = self.slots[writer] == slot + 1
            assert not (mine and self.acknowledged[writer]), f"nothing of writer {writer} was found"


class Logs(Scenario):
    """Some write, some rotate and compress, some read on from where the one before them stopped."""

    durable: tuple[bool | float, ...] = (False,)
    settings: ClassVar[dict[str, Any]] = {}
    rotators = 0
    readers = 1  # of either kind
    pause = 0.001  # seconds at most between two appends, so that those who read can keep up
    pruned = False

    def __init__(self, folder: str, kills: int) -> None:
        self.folder = folder
        self.path = f"{folder}/log/events.jsonl"
        roles = self.roles()
        processes = kills + len(roles)
        self.acknowledged, self.slots, self.read = cells(processes), cells(processes), cells(processes)
        os.mkdir(f"{folder}/log")
        self.crew = Crew(roles)

    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return (
            [("writers", self.write)] * 4
            + [("rotators", self.rotate)] * self.rotators
            + [("readers", self.iterate), ("followers", self.follow)] * self.readers
        )

    def write(self, me: Worker) -> None:
        self.slots[me.number] = me.slot + 1
        log = JsonlFile(self.path, timeout=60, durable=random.choice(self.durable), **self.settings)
        number = 0
        while True:
            number += 1
            parts = random.choice((1, 1, 1, 1, 3, 20))
            lines = [[me.slot, me.number, number, part, parts, "é" * _length()] for part in range(parts)]
            if parts == 1:
                log.append(lines[0])
            else:
                log.extend(lines)
            self.acknowledged[me.number] = number
            me.done()
            time.sleep(random.random() * self.pause)

    def rotate(self, me: Worker) -> None:
        log = JsonlFile(self.path, timeout=60, compress=True)
        while True:
            log.rotate()
            me.done()
            time.sleep(random.random() * 0.02)

    def follow(self, me: Worker) -> None:
        self._read(me, lambda since: JsonlFile(self.path).follow(since=since, errors="skip", poll_interval=0.01))

    def iterate(self, me: Worker) -> None:
        while True:
            self._read(me, lambda since: JsonlFile(self.path).records(since=since, errors="skip"))
            time.sleep(0.001)

    def _read(self, me: Worker, open_reader: Any) -> None:
        """Read on, and save place and account together now and then: so each record must come exactly once."""
        file = Path(f"{self.folder}/reader{me.slot}")
        checkpoint, seen = json.loads(file.read_text()) if file.exists() else (None, None)
        account = self.account(seen)
        with open_reader(checkpoint) as records:
            for record in records:
                account.see(record)
                self.read[me.number] = account.records
                if random.random() < 0.05:
                    _save(file, [records.checkpoint, account.seen()])
                    me.done()
            _save(file, [records.checkpoint, account.seen()])
            me.done()

    def check(self) -> Counter[str]:
        """Every acknowledged record is in the files, and reaches readers; a last operation leaves no litter."""
        account, torn = self.read_files()
        for file in Path(self.folder).glob("reader*[0-9]"):
            checkpoint, seen = json.loads(file.read_text())
            reader = self.account(seen)
            for record in JsonlFile(self.path).records(since=checkpoint, errors="skip"):
                reader.see(record)
            self._finish(reader)
            assert self.pruned or reader.writers == account.writers, "a reader has seen other records than are there"
        log = JsonlFile(self.path, compress=True)
        log.append([0])
        log.rotate()
        found = sorted(os.listdir(f"{self.folder}/log"))
        assert all(name.endswith(".jsonl.gz") for name in found), f"left behind: {found}"
        return Counter(
            {"acknowledged": sum(self.acknowledged), "records": account.records, "read": sum(self.read), "torn": torn}
        )

    def account(self, seen: dict[str, Any] | None = None) -> Account:
        return Account(self.acknowledged, self.slots, seen, self.pruned)

    def read_files(self) -> tuple[Account, int]:
        """What is in the files, and how many lines are torn."""
        account, torn = self.account(), 0
        for line in _lines(f"{self.folder}/log"):
            try:
                record = json.loads(line)
            except ValueError:
                torn += 1
                continue
            account.see(record)
        self._finish(account)
        return account, torn

    def _finish(self, account: Account) -> None:
        for slot in {*self.slots} - {0}:
            account.end(slot - 1, account.writers.get(str(slot - 1)), len(self.slots))


class DurableLogs(Logs):
    durable = (True, 0.01)


class RotatedLogs(Logs):
    settings: ClassVar[dict[str, Any]] = {"max_bytes": 100_000}
    rotators = 2


class CompressedLogs(Logs):
    settings: ClassVar[dict[str, Any]] = {"max_bytes": 100_000, "compress": True}


class PrunedLogs(Logs):
    """Of which so little is kept that readers miss some of it, above all those that were dead for a while."""

    settings: ClassVar[dict[str, Any]] = {"max_bytes": 30_000, "backups": 3, "compress": True}
    pruned = True

    def _finish(self, account: Account) -> None:
        """What is missing may have been pruned."""


class RepairedLogs(CompressedLogs):
    """With lines that are no records, which are moved into files beside. A reader would begin anew each time."""

    readers = 0
    pause = 0.02  # a repair reads everything, and while it does the log grows for the next one

    def __init__(self, folder: str, kills: int) -> None:
        super().__init__(folder, kills)
        self.spoilt = cells(len(self.acknowledged))

    def roles(self) -> list[tuple[str, Callable[[Worker], None]]]:
        return [*super().roles(), ("spoilers", self.spoil), ("repairers", self.repair), ("repairers", self.repair)]

    def spoil(self, me: Worker) -> None:
        log = JsonlFile(self.path, timeout=60, max_bytes=100_000)
        while True:
            number = self.spoilt[me.number] + 1
            log.append_bytes(b"spoilt %d %d" % (me.number, number))
            self.spoilt[me.number] = number
            me.done()
            time.sleep(random.random() * self.pause)

    def repair(self, me: Worker) -> None:
        while True:
            JsonlFile(self.path, timeout=60).repair()
            me.done()

    def check(self) -> Counter[str]:
        """No byte is lost, of records and of damage."""
        account, _ = self.read_files()
        files = [*Path(self.folder, "log").iterdir()]
        text = b"\n".join(map(_content, files))
        found = {*re.findall(rb"^spoilt \d+ \d+$", text, re.MULTILINE)}
        expected = {
            b"spoilt %d %d" % (writer, number + 1)
            for writer, spoilt in enumerate(self.spoilt)
            for number in range(spoilt)
        }
        assert expected <= found, f"lost: {expected - found}"
        log = JsonlFile(self.path)
        log.repair()
        assert log.verify().ok
        assert self.read_files()[0].writers == account.writers
        write_text(f"{self.folder}/log/file", "")  # removes what the killed have left
        left = [file.name for file in Path(self.folder, "log").iterdir() if file.name.endswith(".tmp")]
        assert not left, f"left behind: {left}"
        return Counter({"records": account.records, "damaged lines": len(expected)})


def _length() -> int:
    """Of a record's text: mostly short, sometimes more than a page, as a kill cuts a write between pages."""
    return random.randrange(6000) if random.random() < 0.05 else random.randrange(50)


def _save(file: Path, content: Any) -> None:
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(content))
    os.replace(scratch, file)


def _lines(folder: str) -> list[bytes]:
    """All lines of the log, oldest first, read by ourselves. Of a segment in both forms the plain one counts."""
    names = {*os.listdir(folder)}
    lines: list[bytes] = []
    for name in sorted(names):
        if name.startswith(".") or name.endswith(".damaged") or name.removesuffix(".gz") in names - {name}:
            continue
        lines += filter(None, _content(Path(folder, name)).split(b"\n"))
    return lines


def _content(file: Path) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if file.suffix == ".gz" else data
