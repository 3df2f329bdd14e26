"""What is at work when the power is cut: python workload.py NAME DIRECTORY

A workload writes in the directory, and says on stdout, a line of JSON each time, what has been promised to it by then.
promises.py checks these promises, on whatever a disk may hold later. Nothing here knows how the power is cut.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast import DocumentStore, JsonlFile, SoftFileLock, StateFile, atomic_write, write_bytes, write_text
from holdfast.aio import AsyncJsonlFile, AsyncStateFile

PATIENCE = 120  # seconds after which what must come will not come

LONG_KEY = "key " * 80  # too long for the name of a file
KEYS = ("plain", "Ünïcode/..", LONG_KEY)


def say(promise: str, **facts: Any) -> None:
    """Say what is promised from now on, with one write."""
    os.write(1, json.dumps({"promise": promise, **facts}).encode() + b"\n")


# What is written: all of it follows from a few numbers, so that whoever finds it can tell whether it is whole.


def record_of(writer: int, number: int, part: int = 0) -> dict[str, Any]:
    return {"w": writer, "n": number, "b": part, "x": f"{writer}.{number}.{part} " * (1 + number * 37 % 90)}


def text_of(number: int) -> str:
    """The content of a file: of every size from nothing to several blocks."""
    return f"version {number}\n" * (number * 211 % 700) if number % 5 else ""


def state_of(revision: int) -> dict[str, Any]:
    return {
        "n": revision,
        "theme": ["dark", "light"][revision % 2],
        "jobs": {f"job {job}": "x" * job for job in range(revision % 7 * 5)},
    }


def document_of(key: str, number: int) -> dict[str, Any] | None:
    """What a document is after so many operations on it; None when it has been deleted."""
    return {"key": key, "n": number, "x": "y" * (number * 97 % 1500)} if number % 4 else None


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _together(*jobs: Callable[[], object]) -> None:
    """Do each in a process of its own, all at once."""
    pids: list[int] = []
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            try:
                job()
                os._exit(0)
            finally:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(statuses), "a process failed"


# Logs


def _append(log: JsonlFile, writer: int, number: int, parts: int = 1) -> None:
    """Append a record, or several at once."""
    if parts == 1:
        log.append(record_of(writer, number))
    else:
        log.extend(record_of(writer, number, part) for part in range(parts))


def _say_there(writer: int, number: int, parts: int = 1) -> None:
    say("there", w=writer, n=number, parts=parts)


def _append_some(log: JsonlFile, writer: int, numbers: range) -> None:
    """Append records and batches, each of which is promised when the call returns."""
    for number in numbers:
        parts = 1 if number % 4 else 3
        _append(log, writer, number, parts)
        _say_there(writer, number, parts)


def log_durable(directory: str) -> None:
    """Threads of several processes append to a log, which is rotated and compressed; one of them never syncs."""
    path = f"{directory}/events.jsonl"
    settings: dict[str, Any] = {"max_bytes": 5000, "compress": True, "timeout": PATIENCE}

    def durably(first: int) -> None:
        with JsonlFile(path, durable=True, **settings) as log, ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda writer: _append_some(log, writer, range(1, 9)), (first, first + 1)))
            log.rotate()  # and compresses, in this thread

    def carelessly() -> None:
        log = JsonlFile(path, **settings)
        for number in range(1, 16):
            _append(log, 9, number)

    async def in_tasks() -> None:
        async with AsyncJsonlFile(path, durable=True, **settings) as log:

            async def append(number: int) -> None:
                await log.append(record_of(number, 1))
                _say_there(number, 1)

            await asyncio.gather(*map(append, range(5, 9)))

    _together(lambda: durably(1), lambda: durably(3), carelessly, lambda: asyncio.run(in_tasks()))


def log_interval(directory: str) -> None:
    """A log that syncs by itself from time to time, at close(), and at the end of the interpreter."""
    path = f"{directory}/events.jsonl"
    with JsonlFile(path, durable=0.02) as log:
        for number in range(1, 7):
            _append(log, 1, number)
            began, end = log.stats.syncs, time.monotonic() + PATIENCE
            while log.stats.syncs < began + 2:  # so that one of them began after the append
                assert time.monotonic() < end, "nobody syncs"
                _append(log, 2, log.stats.appends)
                time.sleep(0.005)
            _say_there(1, number)
        _append(log, 1, 7, parts=3)
    _say_there(1, 7, parts=3)
    code = "import sys, workload; workload.append_and_end(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, path], cwd=os.path.dirname(os.path.abspath(__file__)), check=True)
    _say_there(3, 1)


def append_and_end(path: str) -> None:
    """Append to a log that would sync in an hour."""
    _append(JsonlFile(path, durable=3600.0), 3, 1)


def log_synced(directory: str) -> None:
    """A log that syncs when it is told to."""
    log = JsonlFile(f"{directory}/events.jsonl")
    for number in range(1, 25):
        _append(log, 1, number)
        if number % 6 == 0:
            log.sync()
            for synced in range(number - 5, number + 1):
                _say_there(1, synced)


def log_careless(directory: str) -> None:
    """A log that promises nothing but to be usable again."""
    log = JsonlFile(f"{directory}/events.jsonl", max_bytes=3000, compress=True, backups=2)
    for number in range(1, 25):
        _append(log, 1, number)
    log.rotate()


def repair(directory: str) -> None:
    """Logs that are damaged at the end, in the middle, and in a compressed part, are repaired."""

    def lines(writer: int) -> list[bytes]:
        return [json.dumps(record_of(writer, number)).encode() + b"\n" for number in range(1, 6)]

    files = {
        "tail": (1, b"".join([*lines(1), b'{"torn at the ta'])),
        "middle": (2, b"".join([*lines(2)[:3], bytes(700) + b"\n", *lines(2)[3:], b"no record\n"])),
        "zipped": (3, gzip.compress(b"".join([b"{damage in gzip}\n", *lines(3)]))),
    }
    for name, (_, content) in files.items():
        with open(f"{directory}/{name}" + (".00000001.jsonl.gz" if name == "zipped" else ".jsonl"), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(directory)
    for writer in 1, 2, 3:
        for number in range(1, 6):
            _say_there(writer, number)
    for damage in '{"torn at the ta', "\0" * 700, "no record", "{damage in gzip}":
        say("damage kept", damage=damage)
    for name, (writer, _) in files.items():
        log = JsonlFile(f"{directory}/{name}.jsonl", durable=True)
        assert not log.repair().ok
        say("repaired", log=name)
        _append_some(log, writer, range(6, 8))


def _read_on(directory: str, durable: bool) -> None:
    log = JsonlFile(f"{directory}/events.jsonl", durable=durable, max_bytes=2500, compress=True)
    since = None
    for turn in range(6):
        for number in range(turn * 4 + 1, turn * 4 + 5):
            _append(log, 1, number, parts=2)
            if durable:
                _say_there(1, number, parts=2)
        if turn == 3:
            log.rotate()
        records = log.records(since=since)
        for _, record in zip(range(7), records, strict=False):
            since = records.checkpoint
            place = [record["n"], record["b"]]
        write_text(f"{directory}/place.json", json.dumps({"since": since, "place": place}))
        say("handled", place=place)


def checkpoints(directory: str) -> None:
    """A reader of a durable log that is rotated notes where it is, whenever it has handled a few records."""
    _read_on(directory, durable=True)


def checkpoints_careless(directory: str) -> None:
    """The same of a log that is not durable: what is lost may have been handled."""
    _read_on(directory, durable=False)


# Files


def atomic(directory: str) -> None:
    """Files are replaced in every way there is, and each time that is promised to be on the disk."""
    for number in range(1, 7):
        with atomic_write(f"{directory}/block.txt") as file:
            file.write(text_of(number))
        say("replaced", file="block.txt", n=number)
        write_bytes(f"{directory}/locked.txt", text_of(number).encode(), lock=True)
        say("replaced", file="locked.txt", n=number)
        write_text(f"{directory}/git.txt", text_of(number), lock="git")
        say("replaced", file="git.txt", n=number)
        write_text(f"{directory}/new{number}.txt", text_of(number), overwrite=False)
        say("replaced", file=f"new{number}.txt", n=number)


def atomic_careless(directory: str) -> None:
    """A file that was on the disk is replaced without syncs."""
    write_text(f"{directory}/block.txt", text_of(1))
    say("replaced", file="block.txt", n=1)
    for number in range(2, 9):
        write_text(f"{directory}/block.txt", text_of(number), durable=False)


# States


def _change(path: str, times: int, **settings: Any) -> None:
    states: StateFile[Any] = StateFile(path, history=True, timeout=PATIENCE, default=lambda: state_of(0), **settings)
    durable = settings.get("durable", True)
    for turn in range(times):
        with states.edit() as data:
            revision = data["n"] + 1
            data.update(state_of(revision))
        if durable:
            say("saved", n=revision)
        if turn % 3 == 1:
            revision = states.update(lambda data: state_of(data["n"] + 1), attempts=1000)
            if durable:
                say("saved", n=revision)


async def _change_in_tasks(path: str, times: int) -> None:
    states: AsyncStateFile[Any] = AsyncStateFile(path, history=True, timeout=PATIENCE, default=lambda: state_of(0))

    async def change() -> None:
        async with states.edit() as data:
            revision = data["n"] + 1
            data.update(state_of(revision))
        say("saved", n=revision)

    await asyncio.gather(*(change() for _ in range(times)))


def state(directory: str) -> None:
    """Several processes change a state with a history, the old of which is removed once."""
    path = f"{directory}/state.json"
    _change(path, 3)
    _together(lambda: _change(path, 4), lambda: asyncio.run(_change_in_tasks(path, 4)))
    StateFile(path, history=True).prune_history(keep_days=0)
    _change(path, 3)


def state_careless(directory: str) -> None:
    """A state that is saved without syncs."""
    _change(f"{directory}/state.json", 8, durable=False)


# Documents


def _operate(store: DocumentStore, key: str, number: int) -> None:
    document = document_of(key, number)
    if document is None:
        del store[key]
    else:
        store[key] = document


def _keep(directory: str, durable: bool) -> None:
    done = [0] * len(KEYS)
    # The directories are new, too.
    with DocumentStore(f"{directory}/deep/deeper/store", durable=durable, timeout=PATIENCE) as store:
        for turn in range(1, 19):
            which = turn % len(KEYS)
            done[which] += 1
            _operate(store, KEYS[which], done[which])
            if turn % 2 == 0:
                store.flush(PATIENCE)
                if durable:
                    say("flushed", done=done)
    if durable:
        say("flushed", done=done)


def documents(directory: str) -> None:
    """A durable store in a new directory: documents are assigned, deleted and flushed."""
    _keep(directory, durable=True)


def documents_careless(directory: str) -> None:
    """A store that does not sync."""
    _keep(directory, durable=False)


# Locks


def markers(directory: str) -> None:
    """Soft locks are taken and given back, which is promised to nobody for longer than the power is there."""

    def take(times: int) -> None:
        for _ in range(times):
            with SoftFileLock(f"{directory}/soft.lock", timeout=PATIENCE):
                pass

    take(3)
    threads = [threading.Thread(target=take, args=(2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    SoftFileLock(f"{directory}/kept.lock").acquire()
    os._exit(0)  # without giving it back


WORKLOADS: dict[str, Callable[[str], None]] = {
    workload.__name__: workload
    for workload in (
        log_durable,
        log_interval,
        log_synced,
        log_careless,
        repair,
        checkpoints,
        checkpoints_careless,
        atomic,
        atomic_careless,
        state,
        state_careless,
        documents,
        documents_careless,
        markers,
    )
}


if __name__ == "__main__":
    WORKLOADS[sys.argv[1]](os.path.abspath(sys.argv[2]))
