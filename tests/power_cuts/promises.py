"""Whether what workload.py was promised has been kept: check(workload, directory, said)

`said` are the lines that the workload had said when the power was cut, in their order, and `directory` is what the disk
held then. It is changed by the check, because a log or a state must be usable again. A broken promise is an
AssertionError, or whatever the library raises.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from workload import KEYS, document_of, record_of, state_of, text_of

from holdfast import DamagedState, DocumentStore, JsonlFile, SoftFileLock, StateFile, write_text
from holdfast.owner import Owner

Said: TypeAlias = list[dict[str, Any]]
Place: TypeAlias = tuple[int, int, int]  # of a record: its writer, its number, its part in a batch

NEW = 99  # the writer of what is appended after the power cut


def check(workload: str, directory: str, said: Said) -> None:
    _CHECKS[workload](directory, said)


def _promised(said: Said, promise: str) -> Said:
    return [line for line in said if line["promise"] == promise]


# Logs


def _places(records: list[Any]) -> list[Place]:
    """Where records belong, which have to be whole, in order for each writer, and none twice."""
    places = [(record["w"], record["n"], record["b"]) for record in records]
    for record, place in zip(records, places, strict=True):
        assert record == record_of(*place), f"a record that nobody wrote: {record}"
    for writer in {place[0] for place in places}:
        of_writer = [place for place in places if place[0] == writer]
        assert of_writer == sorted(set(of_writer)), f"writer {writer}: not in order, or twice: {of_writer}"
    return places


def _owed(said: Said) -> set[Place]:
    return {(line["w"], line["n"], part) for line in _promised(said, "there") for part in range(line["parts"])}


def _check_log(path: str, owed: set[Place]) -> None:
    """What is owed is there, before and after a repair, and the log can be appended to."""
    log = JsonlFile(path, durable=True)
    missing = owed - set(_places(list(log.records(errors="skip"))))
    assert not missing, f"records are lost: {sorted(missing)}"
    log.verify()
    log.append(record_of(NEW, 1))
    log.repair()
    report = log.verify()
    assert report.ok, f"there is damage after the repair: {report}"
    log.append(record_of(NEW, 2))
    missing = (owed | {(NEW, 1, 0), (NEW, 2, 0)}) - set(_places(list(log)))
    assert not missing, f"records are lost after the power cut: {sorted(missing)}"


def _log(directory: str, said: Said) -> None:
    _check_log(f"{directory}/events.jsonl", _owed(said))


def _bytes_of(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError):
        return content  # the workload had not synced it yet


def _repair(directory: str, said: Said) -> None:
    contents = {path.name: _bytes_of(path) for path in Path(directory).iterdir() if not path.name.startswith(".")}
    damages = {"tail": b'{"torn at the ta', "middle": bytes(700), "zipped": b"{damage in gzip}"}
    for line in _promised(said, "damage kept"):
        damage = line["damage"].encode()
        assert any(damage in content for content in contents.values()), f"bytes are lost: {damage!r}"
    for line in _promised(said, "repaired"):
        files = [name for name in contents if name.startswith(line["log"]) and not name.endswith(".damaged")]
        assert not any(damages[line["log"]] in contents[name] for name in files), f"{line['log']} is damaged again"
    owed = _owed(said)
    for writer, name in enumerate(damages, 1):
        _check_log(f"{directory}/{name}.jsonl", {place for place in owed if place[0] == writer})


def _checkpoints(directory: str, said: Said) -> None:
    handled = _promised(said, "handled")
    note = Path(directory, "place.json")
    assert note.exists() or not handled, "the checkpoint is lost"
    log = JsonlFile(f"{directory}/events.jsonl", durable=True)
    found = json.loads(note.read_text()) if note.exists() else {"since": None, "place": [0, 0]}
    assert not handled or found["place"] >= handled[-1]["place"], "the checkpoint is an older one"
    log.append(record_of(NEW, 0))
    there = _places(list(log.records(errors="skip")))
    rest = _places(list(log.records(since=found["since"], errors="skip")))
    owed = {place for place in {*there, *_owed(said)} if place[0] == NEW or [*place[1:]] > found["place"]}
    assert owed <= set(rest), f"a reader that goes on misses {sorted(owed - set(rest))}"
    _log(directory, said)


# Files


def _atomic(directory: str, said: Said) -> None:
    names = [*(f"{name}.txt" for name in ("block", "locked", "git")), *(f"new{number}.txt" for number in range(1, 7))]
    for name in names:
        least = max([0, *(line["n"] for line in _promised(said, "replaced") if line["file"] == name)])
        file = Path(directory, name)
        content = file.read_text() if file.exists() else None
        possible: list[str | None] = [text_of(number) for number in range(max(least, 1), 7)] + [None] * (not least)
        if name.startswith("new"):
            possible = [text_of(int(name[3])), None][: 1 if least else 2]
        assert content in possible, f"{name} should have version {least} or a later one, and has {content!r:.40}"
        Path(f"{file}.lock").unlink(missing_ok=True)  # as a person has to, for git's
        write_text(file, "after the power cut", lock="git" if name == "git.txt" else False)
        assert file.read_text() == "after the power cut"
    litter = [name for name in os.listdir(directory) if name.endswith(".tmp")]
    assert not litter, f"temporary files are left: {litter}"


def _atomic_careless(directory: str, said: Said) -> None:
    file = Path(directory, "block.txt")
    if not file.exists():
        assert not said, "the file is lost"
    else:
        content = file.read_bytes()
        versions = [text_of(number).encode() for number in range(1, 9)]
        assert any(_is_part(content, version) for version in versions), "the content is of no one version"
    write_text(file, "after the power cut")
    assert file.read_text() == "after the power cut"


def _is_part(content: bytes, version: bytes) -> bool:
    """Whether it is the version but for its end, and for pieces that are zero. The first version was synced."""
    if version == text_of(1).encode():
        return content == version
    return len(content) <= len(version) and all(found in (0, meant) for found, meant in zip(content, version))  # noqa: B905


# States


def _states(directory: str) -> StateFile[Any]:
    return StateFile(f"{directory}/state.json", history=True, default=lambda: state_of(0))


def _state(directory: str, said: Said) -> None:
    states = _states(directory)
    found = states.load()
    least = max([0, *(line["n"] for line in _promised(said, "saved"))])
    assert found.revision >= least, f"revision {least} was saved, and {found.revision} is there"
    assert found.data == state_of(found.revision), "it is no state that was saved"
    _check_history(states, found.revision)
    with states.edit() as data:
        data.update(state_of(found.revision + 1))
    for revision in range(found.revision or 1, found.revision + 2):
        assert states.at(revision).data == state_of(revision), f"revision {revision} is not in the history"
    _check_history(states, found.revision + 1)
    assert states.history_errors == 0


def _check_history(states: StateFile[Any], newest: int) -> None:
    """What the history has is right, whatever it has not."""
    revisions = [change.revision for change in states.history()]
    assert all(revision <= newest for revision in revisions), f"the history is ahead: {revisions}"
    assert revisions == sorted(revisions), f"the history is not in order: {revisions}"
    for revision in range(1, newest + 1):
        try:
            assert states.at(revision).data == state_of(revision), f"the history is wrong about revision {revision}"
        except LookupError:
            continue


def _state_careless(directory: str, _: Said) -> None:
    states = _states(directory)
    file = Path(directory, "state.json")
    try:
        found = states.load()
    except DamagedState:
        before = file.read_bytes()
        try:
            states.save(state_of(1))
        except DamagedState:
            assert file.read_bytes() == before, "a damaged file was changed"
            return
        raise AssertionError("a damaged file was overwritten") from None
    assert found.data == state_of(found.revision), "it is no state that was saved"
    states.save(state_of(found.revision + 1))
    assert states.load().data == state_of(found.revision + 1)
    assert states.at(found.revision + 1).data == state_of(found.revision + 1)


# Documents


def _documents(directory: str, said: Said) -> None:
    done = [line["done"] for line in _promised(said, "flushed")]
    least = done[-1] if done else [0] * len(KEYS)
    with DocumentStore(f"{directory}/deep/deeper/store", durable=True) as store:
        for key, number in zip(KEYS, least, strict=True):
            possible = [document_of(key, later) for later in range(number, 7)]  # before the first it is missing, too
            found = store.get(key)
            assert found in possible, f"{key:.9} should be at operation {number} or later, and is {found!r:.60}"
        listed = sorted(store)
        assert listed == sorted(key for key in KEYS if key in store), f"the keys are {listed}"
        _check_store(store)


def _documents_careless(directory: str, _: Said) -> None:
    with DocumentStore(f"{directory}/deep/deeper/store") as store:
        for key in KEYS:
            try:
                found = store.get(key)
            except ValueError:
                continue  # it says that the document is damaged
            assert found in [document_of(key, number) for number in range(7)], f"{key:.9} is no version: {found!r:.60}"
        _check_store(store)


def _check_store(store: DocumentStore) -> None:
    """All documents can be written again."""
    for key in KEYS:
        store[key] = {"after": "the power cut"}
    store.flush(60)
    assert sorted(store) == sorted(KEYS)


# Locks


def _markers(directory: str, _: Said) -> None:
    for name in "soft.lock", "kept.lock":
        marker = Path(directory, name)
        if marker.exists():
            assert Owner.parse(marker.read_bytes()), f"a marker names no owner: {marker.read_bytes()!r}"
        with SoftFileLock(marker, blocking=False):
            pass


_CHECKS: dict[str, Callable[[str, Said], None]] = {
    "log_durable": _log,
    "log_interval": _log,
    "log_synced": _log,
    "log_careless": _log,
    "repair": _repair,
    "checkpoints": _checkpoints,
    "checkpoints_careless": _checkpoints,
    "atomic": _atomic,
    "atomic_careless": _atomic_careless,
    "state": _state,
    "state_careless": _state_careless,
    "documents": _documents,
    "documents_careless": _documents_careless,
    "markers": _markers,
}
