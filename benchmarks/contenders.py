"""What is compared: locks, each a function to acquire and one to release, and ways to append an event to a file."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Cycle = Callable[[], object]
Pair = tuple[Cycle, Cycle]


def bare_flock(path: str) -> Pair:
    """A blocking flock() on a held descriptor: no deadline, no check, nothing."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    flock = fcntl.flock
    return lambda: flock(fd, fcntl.LOCK_EX), lambda: flock(fd, fcntl.LOCK_UN)


def holdfast(path: str) -> Pair:
    from holdfast import FileLock

    lock = FileLock(path, timeout=60)
    return lock.acquire, lock.release


def holdfast_forever(path: str) -> Pair:
    from holdfast import FileLock

    lock = FileLock(path)
    return lock.acquire, lock.release


def filelock(path: str) -> Pair:
    from filelock import FileLock

    lock = FileLock(path, timeout=60)
    return lock.acquire, lock.release


def fasteners(path: str) -> Pair:
    from fasteners import InterProcessLock

    lock = InterProcessLock(path)
    return lock.acquire, lock.release


def portalocker(path: str) -> Pair:
    from portalocker import Lock

    lock = Lock(path, timeout=60)
    return lock.acquire, lock.release


def _with_new(make: Callable[[str], AbstractContextManager[object]], path: str) -> Cycle:
    def cycle() -> None:
        with make(path):
            pass

    return cycle


def new_holdfast(path: str) -> Cycle:
    from holdfast import FileLock

    return _with_new(FileLock, path)


def new_filelock(path: str) -> Cycle:
    from filelock import FileLock

    return _with_new(FileLock, path)


def new_portalocker(path: str) -> Cycle:
    from portalocker import Lock

    return _with_new(Lock, path)


def new_fasteners(path: str) -> Cycle:
    from fasteners import InterProcessLock

    return _with_new(InterProcessLock, path)


HELD: dict[str, Callable[[str], Pair]] = {
    "holdfast": holdfast,
    "filelock": filelock,
    "fasteners": fasteners,
    "portalocker": portalocker,
}
SLEEPERS = {"filelock", "fasteners", "portalocker"}
"""Those that wait by sleeping between tries."""

NEW: dict[str, Callable[[str], Cycle]] = {
    "holdfast": new_holdfast,
    "filelock": new_filelock,
    "fasteners": new_fasteners,
    "portalocker": new_portalocker,
}


# -- Appending --------------------------------------------------------------------------------------------------------


EVENT: dict[str, Any] = {
    "time": "2026-11-21T09:41:07.318204Z",
    "level": "info",
    "event": "request",
    "host": "web-03",
    "method": "POST",
    "path": "/orders",
    "status": 201,
    "ms": 12.9,
    "user": "Zoë",
    "trace": "4bf92f3577b34da6",
    "writer": 100,
    "number": 1_000_000,
}
LINE = json.dumps(EVENT, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
assert len(LINE) == 215

Append = Callable[[Any], object]
Numbered = Callable[[int], Any]


class Appender(NamedTuple):
    """What appends a record, and what returns when all records are written."""

    append: Append
    drain: Cycle = lambda: None


def events(writer: int) -> Numbered:
    """A writer's events, each as long as the next: always the same dictionary, with another number."""
    event = {**EVENT, "writer": EVENT["writer"] + writer}

    def numbered(number: int) -> dict[str, Any]:
        event["number"] = EVENT["number"] + number
        return event

    return numbered


def encoded_events(writer: int) -> Numbered:
    """The same as lines, for those that encode nothing."""
    line = LINE.replace(b'"writer":%d' % EVENT["writer"], b'"writer":%d' % (EVENT["writer"] + writer))
    before, after = line.split(b"%d" % EVENT["number"])
    return lambda number: b"%b%d%b" % (before, EVENT["number"] + number, after)


def lines(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def rows(path: str) -> Iterator[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        for (text,) in connection.execute("SELECT text FROM events ORDER BY rowid"):
            yield text.encode()


class Contender(NamedTuple):
    """A way to append: what it appends with, what it is given, and how to read what it has written."""

    make: Callable[[str], Appender]
    records: Callable[[int], Numbered] = events
    read: Callable[[str], Iterable[bytes]] = lines


def jsonl_bytes(path: str, durable: bool = False) -> Appender:
    from holdfast import JsonlFile

    return Appender(JsonlFile(path, durable=durable).append_bytes)


def jsonl_orjson(path: str) -> Appender:
    import orjson

    from holdfast import JsonlFile

    return Appender(JsonlFile(path, encode=orjson.dumps).append)


def jsonl_json(path: str) -> Appender:
    from holdfast import JsonlFile

    return Appender(JsonlFile(path).append)


def recipe(path: str) -> Appender:
    """What is found everywhere: a lock file beside, and the file opened, written and closed under it."""
    from filelock import FileLock

    def append(event: object) -> None:
        with FileLock(path + ".lock"), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()

    return Appender(append)


def recipe_with_kept_lock(path: str) -> Appender:
    from filelock import FileLock

    lock = FileLock(path + ".lock")

    def append(event: object) -> None:
        with lock, open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()

    return Appender(append)


def _logging_to(handler: logging.Handler) -> Appender:
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("events")
    logger.addHandler(handler)
    return Appender(lambda event: logger.info(json.dumps(event)))


def file_handler(path: str) -> Appender:
    return _logging_to(logging.FileHandler(path, encoding="utf-8"))


def concurrent_log_handler(path: str) -> Appender:
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    return _logging_to(ConcurrentRotatingFileHandler(path, encoding="utf-8"))


def loguru(path: str) -> Appender:
    """With enqueue=True, by which it is safe between processes. Its calls return before anything is written."""
    from loguru import logger

    logger.remove()
    logger.add(path, format="{message}", enqueue=True)
    return Appender(lambda event: logger.info(json.dumps(event)), logger.complete)


def sqlite(path: str) -> Appender:
    """One transaction for each event."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS events (text TEXT)")
    return Appender(lambda event: connection.execute("INSERT INTO events VALUES (?)", (json.dumps(event),)))


def fdatasync(path: str) -> Appender:
    """The floor of durable appends: each syncs for itself."""
    sync = getattr(os, "fdatasync", os.fsync)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(line: bytes) -> None:
        os.write(fd, line)
        sync(fd)

    return Appender(append)


ALONE: dict[str, Contender] = {
    "holdfast append_bytes": Contender(jsonl_bytes, encoded_events),
    "holdfast append, orjson": Contender(jsonl_orjson),
    "holdfast append, json": Contender(jsonl_json),
    "usual recipe": Contender(recipe),
    "usual recipe, lock kept": Contender(recipe_with_kept_lock),
    "logging.FileHandler": Contender(file_handler),
    "concurrent-log-handler": Contender(concurrent_log_handler),
    "loguru, until written": Contender(loguru),
    "sqlite3, WAL": Contender(sqlite, read=rows),
}
TOGETHER = {
    name: ALONE[name]
    for name in (
        "holdfast append_bytes",
        "holdfast append, orjson",
        "usual recipe",
        "concurrent-log-handler",
        "sqlite3, WAL",
    )
}
"""Those that several processes can use at once, each for itself."""

DURABLE: dict[str, Contender] = {
    "holdfast": Contender(partial(jsonl_bytes, durable=True), encoded_events),
    "fdatasync": Contender(fdatasync, encoded_events),
}


# -- The floor --------------------------------------------------------------------------------------------------------


def floor() -> ctypes.CDLL:
    """The C loops of floor.c, compiled now."""
    source = Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "floor.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        loaded = ctypes.CDLL(str(library))
    for loop in (loaded.held, loaded.unchecked, loaded.opened):
        loop.restype = ctypes.c_double
        loop.argtypes = [ctypes.c_char_p, ctypes.c_int]
    loaded.appended.restype = ctypes.c_double
    loaded.appended.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    return loaded
