"""What goes in and out of locks: every kind of lock, every way to wait for it."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias, TypeVar

from history import History

from holdfast import (
    AsyncFileLock,
    DocumentStore,
    FileLock,
    JsonlFile,
    ReadWriteLock,
    SoftFileLock,
    StateFile,
    Timeout,
    atomic_write,
    lock_all,
)
from holdfast.aio import AsyncReadWriteLock, AsyncStateFile

Enter: TypeAlias = Callable[[bool], AbstractContextManager[object]]
EnterLater: TypeAlias = Callable[[bool], AbstractAsyncContextManager[object]]

Make: TypeAlias = Callable[[str, str], Enter]  # from a path and a way to wait; entering is told whether to write
MakeLater: TypeAlias = Callable[[str, str], EnterLater]
Made = TypeVar("Made")

MOMENT = 0.003  # seconds: about as long as a section
SOON = 0.001  # seconds between two looks
WAITS = ("waiting", "polling", "spinning", "timeouts", "cancelled")  # polling is HOLDFAST_WAIT=poll


def patience(wait: str) -> float:
    """The timeout for those who have no other way to say how they wait."""
    return {"spinning": 0, "timeouts": MOMENT}.get(wait, -1)


def terms(wait: str) -> dict[str, Any]:
    """The arguments of acquire()."""
    return {
        "spinning": {"blocking": False},
        "timeouts": {"timeout": MOMENT},
        "cancelled": {"cancel_check": lambda: random.random() < 0.3, "poll_interval": SOON},
    }.get(wait, {})


# Locks


def _exclusive(new: Callable[[str], Any]) -> Make:
    """How to enter a lock that has acquire()."""

    def make(path: str, wait: str) -> Enter:
        lock = new(path)
        return lambda _: lock.acquire(**terms(wait))

    return make


def _exclusive_later(new: Callable[[str], Any]) -> MakeLater:
    """The same in an event loop."""

    def make(path: str, wait: str) -> EnterLater:
        lock = new(path)

        @asynccontextmanager
        async def enter(_: bool) -> AsyncIterator[None]:
            async with await lock.acquire(**terms(wait)):
                yield

        return enter

    return make


def _bridge(name: str, **settings: Any) -> Callable[[str], Any]:
    return lambda path: getattr(import_module("holdfast.filelock"), name)(path, **settings)


def _shared(path: str, wait: str) -> Enter:
    locks = {writes: FileLock(path, shared=not writes, poll_interval=SOON) for writes in (True, False)}
    return lambda writes: locks[writes].acquire(**terms(wait))


def _readers_and_writers(new: Callable[[str], ReadWriteLock]) -> Make:
    def make(path: str, wait: str) -> Enter:
        lock = new(path)
        return lambda writes: (lock.write_lock if writes else lock.read_lock)(**terms(wait))

    return make


def _all(path: str, wait: str) -> Enter:
    """Two of three locks: any two pairs have one in common."""
    locks = [FileLock(path + ".1"), SoftFileLock(path + ".2", poll_interval=SOON), FileLock(path + ".3", kind="ofd")]
    return lambda _: lock_all(*random.sample(locks, 2), timeout=patience(wait))


def _state(path: str, wait: str) -> Enter:
    @contextmanager
    def enter(_: bool) -> Iterator[None]:
        with StateFile(path, durable=False, timeout=patience(wait), default=lambda: {"n": 0}).edit() as data:
            yield
            data["n"] += 1

    return enter


def _atomic(path: str, wait: str) -> Enter:
    return lambda _: atomic_write(path, durable=False, lock=True, timeout=patience(wait))


def _git(path: str, wait: str) -> Enter:
    return lambda _: atomic_write(path, durable=False, lock="git", timeout=patience(wait))


def _cancelled_later(make: MakeLater) -> MakeLater:
    """For what asks no cancel_check: who waits for it is cancelled as a task is, in the middle of entering."""

    def make_cancelled(path: str, wait: str) -> EnterLater:
        if wait != "cancelled":
            return make(path, wait)
        enter = make(path, "waiting")

        @asynccontextmanager
        async def enter_in_time(writes: bool) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                await _in_time(path, stack.enter_async_context(enter(writes)))
                yield

        return enter_in_time

    return make_cancelled


async def _in_time(path: str, entering: Coroutine[Any, Any, object]) -> None:
    """Wait for this, unless this task is cancelled soon. Not by wait_for(), which would wait in another task."""
    task = asyncio.current_task()
    assert task is not None
    cancel = asyncio.get_running_loop().call_later(random.random() * MOMENT, task.cancel)
    try:
        await entering
    except asyncio.CancelledError:
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise Timeout(path) from None
    finally:
        cancel.cancel()


def _async_readers_and_writers(path: str, wait: str) -> EnterLater:
    lock = AsyncReadWriteLock(path)
    return lambda writes: (lock.write_lock if writes else lock.read_lock)(**terms(wait))


def _async_state(path: str, wait: str) -> EnterLater:
    state: AsyncStateFile[Any] = AsyncStateFile(path, durable=False, timeout=patience(wait), default=lambda: {"n": 0})

    @asynccontextmanager
    async def enter(_: bool) -> AsyncIterator[None]:
        async with state.edit() as data:
            yield
            data["n"] += 1

    return enter


_ANY = WAITS
_BY_TIMEOUT = ("waiting", "polling", "spinning", "timeouts")
_AT_INTERVALS = ("waiting", "spinning", "timeouts", "cancelled")  # what has no kernel to wait in

LOCKS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "FileLock": (_exclusive(lambda path: FileLock(path, poll_interval=SOON)), _ANY),
    "FileLock, ofd": (_exclusive(lambda path: FileLock(path, kind="ofd", poll_interval=SOON)), _ANY),
    "FileLock, shared": (_shared, _ANY),
    "ReadWriteLock": (_readers_and_writers(ReadWriteLock), _BY_TIMEOUT),
    "SoftFileLock": (_exclusive(lambda path: SoftFileLock(path, poll_interval=SOON)), _AT_INTERVALS),
    "lock_all": (_all, _BY_TIMEOUT),
    "filelock.FileLock": (_exclusive(_bridge("FileLock", poll_interval=SOON)), _ANY),
    "filelock.SoftFileLock": (_exclusive(_bridge("SoftFileLock", poll_interval=SOON)), _AT_INTERVALS),
    "filelock.ReadWriteLock": (_readers_and_writers(_bridge("ReadWriteLock")), _BY_TIMEOUT),
    "StateFile.edit": (_state, _BY_TIMEOUT),
    "atomic_write": (_atomic, _BY_TIMEOUT),
    "atomic_write, git": (_git, ("waiting", "spinning", "timeouts")),
}

ASYNC_LOCKS: dict[str, tuple[MakeLater, tuple[str, ...]]] = {
    "AsyncFileLock": (_exclusive_later(lambda path: AsyncFileLock(path, poll_interval=SOON)), _ANY),
    # Without thread_local=True, all tasks share what one object holds, as in filelock.
    "filelock.AsyncFileLock": (_exclusive_later(_bridge("AsyncFileLock", poll_interval=SOON, thread_local=True)), _ANY),
    "AsyncReadWriteLock": (_cancelled_later(_async_readers_and_writers), _ANY),
    "AsyncStateFile.edit": (_cancelled_later(_async_state), _ANY),
}


def _shared_by_threads(path: str, _: str) -> Enter:
    lock = FileLock(path, thread_local=False)
    return lambda _: lock.acquire()


# What the check must catch
FAULTS: dict[str, Make] = {
    "no lock": lambda _, __: lambda _: nullcontext(),
    "writers share": lambda path, _: lambda _: FileLock(path, shared=True),
    "threads share": _shared_by_threads,
}

WITH_READERS = ("FileLock, shared", "ReadWriteLock", "filelock.ReadWriteLock", "AsyncReadWriteLock")
NO_KILLS = ("atomic_write, git",)  # a killed process leaves git's lock behind, as git does


def _rest() -> None:
    """Let others run, as the scheduler may at any time."""
    if random.random() < 0.2:
        time.sleep(MOMENT / 10)
    else:
        time.sleep(0)


def work(history: History, lock: str, wait: str, path: str, places: list[int], sections: int) -> None:
    """Go in and out, in a thread or a task for each place."""
    random.seed()
    if lock in ASYNC_LOCKS:
        asyncio.run(_work_in_tasks(history, lock, wait, path, places, sections))
        return
    make = FAULTS[lock] if lock in FAULTS else LOCKS[lock][0]
    enters = _for_each(places, lambda: make(path, wait))
    with ThreadPoolExecutor(len(places)) as pool:  # which tells of an exception, as a Thread does not
        list(pool.map(lambda place, enter: _work(history, enter, lock, place, sections), places, enters))


def _for_each(places: list[int], make: Callable[[], Made]) -> list[Made]:
    """An object for each thread or task, or one for all of them."""
    return [make()] * len(places) if random.random() < 0.5 else [make() for _ in places]


def _work(history: History, enter: Enter, lock: str, place: int, sections: int) -> None:
    number = 0
    while number < sections and not history.over:
        writes = lock not in WITH_READERS or random.random() < 0.4
        history.ask(place, number)
        try:
            with enter(writes):
                for _ in history.section(place, number, writes):
                    _rest()
        except Timeout:
            continue
        history.leave(place, number)
        number += 1


async def _work_in_tasks(history: History, lock: str, wait: str, path: str, places: list[int], sections: int) -> None:
    make, _ = ASYNC_LOCKS[lock]

    async def go(place: int, enter: EnterLater) -> None:
        number = 0
        while number < sections and not history.over:
            writes = lock not in WITH_READERS or random.random() < 0.4
            history.ask(place, number)
            try:
                async with enter(writes):
                    for _ in history.section(place, number, writes):
                        await asyncio.sleep(random.choice((0, 0, 0, MOMENT / 10)))
            except Timeout:
                await asyncio.sleep(0)
                continue
            history.leave(place, number)
            number += 1

    await asyncio.gather(*map(go, places, _for_each(places, lambda: make(path, wait))))


# What is locked from outside: while others are at work, whoever holds their lock sees nothing change.


def append(lock_file: str, history: History) -> None:
    log = JsonlFile(lock_file, timeout=-1, max_bytes=20_000, backups=3)
    while not history.over:
        log.append({"pid": os.getpid()})


def _which_and_how_long(lock_file: str) -> int:
    try:
        status = os.stat(lock_file)
    except FileNotFoundError:  # without a lock one sees it between two
        return 0
    return hash((status.st_ino, status.st_size)) % 2**64


def assign(lock_file: str, history: History) -> None:
    with DocumentStore(os.path.dirname(lock_file), timeout=-1, on_conflict=lambda _, mine, __: mine) as store:
        while not history.over:
            store[random.choice("abc")] = random.random()
            store.flush()


def _documents_beside(lock_file: str) -> int:
    found = [(entry.name, entry.inode()) for entry in os.scandir(os.path.dirname(lock_file))]
    return hash(tuple(sorted(each for each in found if each[0][0] != "."))) % 2**64


def watch(
    history: History, at_work: str, lock: AbstractContextManager[object], lock_file: str, place: int, sections: int
) -> None:
    """Note what is there at the beginning and at the end of sections."""
    look = AT_WORK[at_work].look
    for number in range(sections):
        history.ask(place, number)
        with lock:
            for _ in history.watch(place, number, lambda: look(lock_file)):
                _rest()
        history.leave(place, number)
        before, end = look(lock_file), time.monotonic() + 1
        while look(lock_file) == before and time.monotonic() < end:  # who locks again at once keeps others from working
            time.sleep(SOON)


class AtWork(NamedTuple):
    """Who is at work under which lock, and what nobody else may change while it is held from outside."""

    lock_file: str
    job: Callable[[str, History], None]
    look: Callable[[str], int]


AT_WORK = {
    "JsonlFile": AtWork("events.jsonl", append, _which_and_how_long),
    "DocumentStore": AtWork(".lock", assign, _documents_beside),
}
