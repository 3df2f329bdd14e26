"""Files that are replaced, states with histories, and stores of documents, whose writers are killed at random."""

from __future__ import annotations

import json
import os
import random
import time
import warnings
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from crew import ELSEWHERE, INSIDE, Crew, Scenario, Worker, cells

from holdfast import DocumentStore, StateConflict, StateFile, atomic_write


class Step:
    """How far a slot has come: what it began, and what was acknowledged, whichever of its processes did it."""

    def __init__(self, count: int) -> None:
        self.begun, self.acknowledged = cells(count), cells(count)

    def see(self, place: int, number: int) -> None:
        """What is found was begun, and is not older than what was acknowledged."""
        acknowledged, begun = self.acknowledged[place], self.begun[place]
        assert acknowledged <= number <= begun, f"{place}: {acknowledged} acknowledged, {begun} begun, {number} found"


class Replaced(Scenario):
    """A number in a file that is replaced under a lock, and readers who always find it whole."""

    editors = 4
    lock: Any = True

    def __init__(self, folder: str, kills: int) -> None:
        self.folder, self.path = folder, f"{folder}/number.txt"
        Path(self.path).write_text(_padded(0))
        self.steps = Step(self.editors)
        self.crew = Crew([("writers", self.write)] * self.editors + [("readers", self.read)] * 2, self.after_kill)

    def after_kill(self, slot: int) -> None:
        pass

    def write(self, me: Worker) -> None:
        while True:
            with atomic_write(self.path, lock=self.lock, durable=random.random() < 0.1) as file:
                me.at(INSIDE)
                number = _whole(self.path)
                self.steps.begun[me.slot] += 1
                file.write(_padded(number + 1))
            me.at(ELSEWHERE)
            self.steps.acknowledged[me.slot] += 1
            me.done()

    def read(self, me: Worker) -> None:
        last = 0
        while True:
            number = _whole(self.path)
            assert number >= last, f"{number} after {last}"
            last = number
            me.done()
            time.sleep(0.0005)

    def check(self) -> Counter[str]:
        """The number is not less than what was acknowledged; a last writer leaves nothing but the file and its lock."""
        acknowledged, begun = sum(self.steps.acknowledged), sum(self.steps.begun)
        assert 0 < acknowledged <= _whole(self.path) <= begun
        with atomic_write(self.path, lock=self.lock, timeout=0) as file:
            file.write(_padded(0))
        left = {*os.listdir(self.folder)} - {"number.txt", "number.txt.lock"}
        assert not left, f"left behind: {left}"
        return Counter({"replacements": acknowledged}) + self.crew.deaths


class ReplacedLikeGit(Replaced):
    """With git's lock a killed writer leaves the lock behind, and a person has to remove it. That is who kills here."""

    editors = 1
    lock = "git"

    def after_kill(self, slot: int) -> None:
        if slot == 0:
            with suppress(FileNotFoundError):
                os.unlink(self.path + ".lock")


def _padded(number: int) -> str:
    return f"{number} {'x' * random.randrange(20_000)} {number}"


def _whole(path: str) -> int:
    first, *_, last = Path(path).read_text().split(" ")
    assert first == last, "a file was seen half written"
    return int(first)


class States(Scenario):
    """A state that some edit in all ways there are, with a history."""

    editors = 5

    def __init__(self, folder: str, kills: int) -> None:
        self.folder, self.path = folder, f"{folder}/state.json"
        self.steps = Step(self.editors)
        self.crew = Crew([("editors", self.edit)] * self.editors + [("readers", self.read)])

    def edit(self, me: Worker) -> None:
        warnings.simplefilter("error")  # such as that a change was not recorded
        state = StateFile(self.path, history=True, timeout=60, durable=random.random() < 0.2)

        def change(data: dict[str, Any]) -> None:
            by = data.setdefault("by", {})
            by[str(me.slot)] = by.get(str(me.slot), 0) + 1
            data["total"] = data.get("total", 0) + 1
            data["text"] = "x" * random.randrange(3000)

        def save() -> None:
            before = state.load()
            change(before.data)
            state.save(before.data, expect=before)

        def edit() -> None:
            with state.edit() as data:
                change(data)

        number = state.load().data.get("by", {}).get(str(me.slot), 0)
        self.steps.see(me.slot, number)
        while True:
            self.steps.begun[me.slot] = number + 1
            try:
                random.choice((save, edit, lambda: state.update(change)))()
            except StateConflict:
                continue  # somebody was faster than save()
            number += 1
            self.steps.acknowledged[me.slot] = number
            me.done()

    def read(self, me: Worker) -> None:
        state, last = StateFile(self.path), 0
        while True:
            found = state.load()
            assert found.revision >= last
            if found.revision:
                _consistent(found.revision, found.data)
            last = found.revision
            me.done()

    def check(self) -> Counter[str]:
        """The state has all that was acknowledged; no gap in its history goes unseen, and the rest can be rebuilt."""
        data = json.loads(Path(self.path).read_text())
        revision = data.pop("revision")
        _consistent(revision, data)
        for slot in range(self.editors):
            self.steps.see(slot, data["by"].get(str(slot), 0))
        state = StateFile(self.path, history=True, timeout=0)
        with state.edit() as last:
            last["total"] += 1
            last["by"]["0"] = last["by"].get("0", 0) + 1
        lines = Path(self.path + ".history.jsonl").read_bytes().splitlines()
        records = [json.loads(line) for line in lines if _is_json(line)]
        recorded = [record["revision"] for record in records]
        assert recorded[-1] == revision + 1
        assert recorded == sorted({*recorded}), "the history is not in order"
        for before, after in pairwise(records):
            assert after["before"] in (before["after"], ""), "a gap in the history that does not show"
        rebuilt = random.sample(recorded, min(50, len(recorded)))
        for each in rebuilt:
            _consistent(each, state.at(each).data)
        left = {*os.listdir(self.folder)} - {"state.json", "state.json.lock", "state.json.history.jsonl"}
        assert not left, f"left behind: {left}"
        return Counter({"revisions": revision, "recorded": len(recorded), "rebuilt": len(rebuilt)})


def _consistent(revision: int, data: dict[str, Any]) -> None:
    assert data["total"] == sum(data["by"].values()) == revision, f"revision {revision} is {data}"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


OWN = 6  # documents of each slot
GONE = 4  # the one of them that is deleted every other time
LONG = "k" * 300  # so long that the key needs a file of its own


class Documents(Scenario):
    """Stores of several processes in one directory: documents of their own, and one that all of them change."""

    slots = 4

    def __init__(self, folder: str, kills: int) -> None:
        self.folder = folder
        self.own, self.common = Step(self.slots * OWN), Step(self.slots)
        self.crew = Crew([("stores", self.work)] * self.slots)

    def work(self, me: Worker) -> None:
        store = DocumentStore(
            self.folder, debounce=random.choice((0, 0.002)), timeout=60, durable=random.random() < 0.2,
            on_conflict=_merged,
        )  # fmt: skip
        mine = [self._found(store, me.slot, place) for place in range(OWN)]
        common = self._found_in_common(store, me.slot)
        while True:
            for _ in range(random.randrange(1, 20)):
                place = random.randrange(OWN)
                mine[place] += 1
                self.own.begun[me.slot * OWN + place] = mine[place]
                _assign(store, me.slot, place, mine[place])
            store.flush()  # or a conflict might be merged just between reading the document and assigning it
            common += 1
            self.common.begun[me.slot] = common
            store["common"] = {**store.get("common", {}), str(me.slot): common}
            if random.random() < 0.5:
                time.sleep(random.random() * 0.005)
                continue
            store.flush()
            for place in range(OWN):
                self.own.acknowledged[me.slot * OWN + place] = mine[place]
            self.common.acknowledged[me.slot] = common
            store.refresh()
            me.done()

    def _found(self, store: DocumentStore, slot: int, place: int) -> int:
        """How far the slot's last process came with a document: not less than it knew of, and not more than it did."""
        where = slot * OWN + place
        document = store.get(_key(slot, place))
        if document is None:
            # Deleted, or never written: that was an even number.
            number = self.own.acknowledged[where]
            number += number % 2 if place == GONE else 0
            assert place == GONE or number == 0, f"{_key(slot, place)} is lost"
        else:
            number = document["number"]
        self.own.see(where, number)
        self.own.acknowledged[where] = self.own.begun[where] = number
        return int(number)

    def _found_in_common(self, store: DocumentStore, slot: int) -> int:
        number = store.get("common", {}).get(str(slot), 0)
        self.common.see(slot, number)
        self.common.acknowledged[slot] = self.common.begun[slot] = number
        return int(number)

    def check(self) -> Counter[str]:
        """Every file is a whole document, and has what was acknowledged; a last write leaves no litter."""
        for name in os.listdir(self.folder):
            if name.endswith(".json"):
                document = json.loads(Path(self.folder, name).read_text())
                assert document.get("length", 0) == len(document.get("text", ""))
        with DocumentStore(self.folder, timeout=0) as store:
            acknowledged = sum(self.own.acknowledged) + sum(self.common.acknowledged)
            for slot in range(self.slots):
                for place in range(OWN):
                    self._found(store, slot, place)
                self._found_in_common(store, slot)
            store["last"] = {}
            assert {*store} >= {"common", "last"}
            keys = len(store)
        files = [name for name in os.listdir(self.folder) if name != ".lock"]
        assert sum(name.endswith(".json") for name in files) == keys, f"not all of these are documents: {files}"
        assert not [name for name in files if name.endswith(".tmp")], f"left behind: {files}"
        return Counter({"versions acknowledged": acknowledged})


def _key(slot: int, place: int) -> str:
    return f"{slot}/{place}{LONG if place == OWN - 1 else ''}"


def _assign(store: DocumentStore, slot: int, place: int, number: int) -> None:
    if place == GONE and number % 2 == 0:
        del store[_key(slot, place)]
        return
    text = "x" * random.randrange(5000)
    store[_key(slot, place)] = {"number": number, "length": len(text), "text": text}


def _merged(key: str, mine: Any, theirs: Any) -> Any:
    assert key == "common", f"nobody else writes {key}"
    if DocumentStore.REMOVED in (mine, theirs):
        return theirs if mine is DocumentStore.REMOVED else mine
    return {slot: max(mine.get(slot, 0), theirs.get(slot, 0)) for slot in {**mine, **theirs}}
