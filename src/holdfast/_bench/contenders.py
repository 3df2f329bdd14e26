"""What is compared: locks, and ways to append an event to a file.

Everything here can be found by its name in a process that was started by "spawn". Other packages are imported when
they are measured, and not before.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import sys
from functools import partial
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

EVENT = {
    "time": "2026-11-21T09:41:07.318204Z",
    "level": "info",
    "event": "request",
    "host": "web-03",
    "method": "POST",
    "path": "/orders",
    "status": 201,
    "ms": 12.9,
    "user": "Zoe",
    "trace": "4bf92f3577b34da6",
}

OURS, BY_HAND, SYNC, NOTHING = "holdfast", "by hand", "bare sync", "nothing"
PATIENCE = 60  # seconds that a lock is waited for


def event(writer: int, number: int) -> dict[str, Any]:
    """The event with this number of a writer.

    >>> from holdfast._bench.contenders import event
    >>> event(3, 17)["number"]
    17
    """
    return {**EVENT, "writer": writer, "number": number}


def _nothing() -> None:
    pass


class Lock(NamedTuple):
    """A lock on a path, ready to be used."""

    acquire: Callable[[], object]
    release: Callable[[], object]
    close: Callable[[], object] = _nothing


class Appender(NamedTuple):
    """A way to append to a file, ready to be used. `finish` returns when what was appended is written."""

    append: Callable[[dict[str, Any]], object]
    finish: Callable[[], object] | None = None
    close: Callable[[], object] = _nothing


def lines(path: str) -> Iterator[bytes]:
    """The lines of a file."""
    with open(path, "rb") as file:
        yield from file


def rows(path: str) -> Iterator[bytes]:
    """The lines that a database has instead."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        for (text,) in connection.execute("SELECT text FROM events ORDER BY rowid"):
            yield f"{text}\n".encode()
    finally:
        connection.close()


class Contender(NamedTuple):
    """One way to append: how to make it for a path, and how to read what it has written."""

    make: Callable[[str], Appender]
    read: Callable[[str], Iterator[bytes]] | None = lines
    together: bool = True  # several processes can use it at once, each for itself
    shared: bool = True  # threads use one object, and not one each


def _module(name: str) -> Any:
    return importlib.import_module(name)


# Locks


def holdfast_lock(path: str) -> Lock:
    """Ours."""
    from holdfast import FileLock

    lock = FileLock(path, timeout=PATIENCE)
    return Lock(lock.acquire, lock.release, lock.close)


def bare_lock(path: str) -> Lock:
    """The system's own lock on a descriptor that stays open: no deadline, no look at the path, nothing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    close = partial(os.close, descriptor)
    if sys.platform == "win32":
        import msvcrt

        def acquire() -> None:
            while True:
                try:
                    return msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                except OSError as error:  # it gives up after ten seconds
                    if error.errno != errno.EDEADLK:
                        raise

        return Lock(acquire, lambda: msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1), close)
    else:  # noqa: RET505  so that type checkers leave it out on Windows
        from fcntl import LOCK_EX, LOCK_UN, flock

        return Lock(lambda: flock(descriptor, LOCK_EX), lambda: flock(descriptor, LOCK_UN), close)


def filelock_lock(path: str) -> Lock:
    """The filelock package's."""
    lock = _module("filelock").FileLock(path, timeout=PATIENCE)
    return Lock(lock.acquire, lock.release)


def portalocker_lock(path: str) -> Lock:
    """The portalocker package's."""
    lock = _module("portalocker").Lock(path, timeout=PATIENCE)
    return Lock(lock.acquire, lock.release)


def fasteners_lock(path: str) -> Lock:
    """The fasteners package's."""
    lock = _module("fasteners").InterProcessLock(path)
    return Lock(lock.acquire, lock.release)


# Appending


def holdfast_log(path: str, durable: bool = False) -> Appender:
    """Ours."""
    from holdfast import JsonlFile

    log = JsonlFile(path, durable=durable, timeout=PATIENCE)
    return Appender(log.append, close=log.close)


def recipe(make: Callable[[str], Lock], path: str, durable: bool = False) -> Appender:
    """What is found everywhere: a lock on a file beside, and under it the file opened, written and closed."""
    lock = make(f"{path}.lock")

    def append(record: dict[str, Any]) -> None:
        lock.acquire()
        try:
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                if durable:
                    sync(file.fileno())
        finally:
            lock.release()

    return Appender(append, close=lock.close)


def sync(descriptor: int) -> None:
    """Have a file's data reach the disk, by whatever does that on this system."""
    if sys.platform == "darwin":
        from fcntl import F_FULLFSYNC, fcntl

        fcntl(descriptor, F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def bare_sync(path: str) -> Appender:
    """A write and a sync, each for itself: the floor of durable appends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)

    def append(record: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(record).encode() + b"\n")
        sync(descriptor)

    return Appender(append, close=partial(os.close, descriptor))


def nothing(_: str) -> Appender:
    """Nothing is written: what is left is how late the machine wakes up a process."""

    def append(_: dict[str, Any]) -> None:
        pass

    return Appender(append)


def concurrent_log_handler(path: str) -> Appender:
    """Logging by a handler that takes a lock."""
    import logging

    handler: logging.Handler = _module("concurrent_log_handler").ConcurrentRotatingFileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("events")
    logger.addHandler(handler)

    def append(record: dict[str, Any]) -> None:
        logger.info(json.dumps(record))

    return Appender(append, close=handler.close)


def loguru(path: str) -> Appender:
    """With enqueue=True, by which it is safe between processes. Its calls return before anything is written."""
    logger = _module("loguru").logger
    logger.remove()
    logger.add(path, format="{message}", enqueue=True)

    def append(record: dict[str, Any]) -> None:
        logger.info(json.dumps(record))

    return Appender(append, logger.complete, logger.remove)


def sqlite(path: str) -> Appender:
    """A database in WAL mode, one transaction for each event."""
    import sqlite3

    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    # Closed, because a statement that has rows left keeps the database locked; PyPy would leave it so for long.
    connection.execute("PRAGMA journal_mode=WAL").close()
    connection.execute("PRAGMA synchronous=NORMAL").close()
    connection.execute("CREATE TABLE IF NOT EXISTS events (text TEXT)").close()

    def append(record: dict[str, Any]) -> None:
        connection.execute("INSERT INTO events VALUES (?)", (json.dumps(record),))

    return Appender(append, close=connection.close)


# Who takes part


class Field(NamedTuple):
    """Everybody who takes part, by name, and the versions of what they come from. `missing` are not installed."""

    locks: dict[str, Callable[[str], Lock]]
    appenders: dict[str, Contender]
    durable: dict[str, Contender]
    versions: dict[str, str]
    missing: list[str]


_PEERS: dict[str, tuple[str, Callable[[str], Lock] | None, Contender]] = {
    "filelock": ("filelock", filelock_lock, Contender(partial(recipe, filelock_lock))),
    "portalocker": ("portalocker", portalocker_lock, Contender(partial(recipe, portalocker_lock))),
    "fasteners": ("fasteners", fasteners_lock, Contender(partial(recipe, fasteners_lock))),
    "concurrent-log-handler": ("concurrent_log_handler", None, Contender(concurrent_log_handler)),
    "loguru": ("loguru", None, Contender(loguru, together=False)),
    "sqlite3": ("_sqlite3", None, Contender(sqlite, rows)),  # without which a Python may be built
}


def field(peers: bool) -> Field:
    """Holdfast, what one can write by hand, and if wanted the other packages that are installed.

    >>> from holdfast._bench.contenders import field
    >>> sorted(field(peers=False).locks)
    ['by hand', 'holdfast']
    """
    from holdfast import __version__

    found = Field(
        {OURS: holdfast_lock, BY_HAND: bare_lock},
        {OURS: Contender(holdfast_log), BY_HAND: Contender(partial(recipe, bare_lock))},
        {
            OURS: Contender(partial(holdfast_log, durable=True)),
            SYNC: Contender(bare_sync),
            BY_HAND: Contender(partial(recipe, bare_lock, durable=True), shared=False),
        },
        {OURS: __version__},
        [],
    )
    for name, (module, lock, appender) in _PEERS.items() if peers else ():
        if importlib.util.find_spec(module) is None:
            found.missing.append(name)
            continue
        found.versions[name] = _version(name)
        found.appenders[name] = appender
        if lock is not None:
            found.locks[name] = lock
    return found


def _version(name: str) -> str:
    if name == "sqlite3":
        version: str = _module("sqlite3").sqlite_version
        return version
    from importlib.metadata import version as version_of

    return version_of(name)
