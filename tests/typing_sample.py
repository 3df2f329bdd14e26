"""A user's program that uses every public name: type checkers accept it, and it runs. See test_package.py."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import holdfast
from holdfast import (
    AcquireReturnProxy,
    AsyncFileLock,
    Attempt,
    BaseFileLock,
    Change,
    Damage,
    DamagedLine,
    DamagedState,
    DocumentConflict,
    DocumentStats,
    DocumentStore,
    FileLock,
    Holder,
    JsonlFile,
    JsonlStats,
    LockSet,
    ReadWriteLock,
    Records,
    Report,
    Snapshot,
    SoftFileLock,
    StateConflict,
    StateFile,
    StoreFull,
    Timeout,
    ValueChange,
    atomic_write,
    holders,
    lock_all,
    retry,
    write_bytes,
    write_text,
)
from holdfast.aio import (
    AsyncAcquireReturnProxy,
    AsyncBaseLock,
    AsyncJsonlFile,
    AsyncReadWriteLock,
    AsyncRecords,
    AsyncStateFile,
    happened,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, kind):
        return value


class Named(FileLock):
    """A user's own kind of lock."""

    name: str = "?"


def file_locks() -> None:
    lock = FileLock("a.lock", 10, 0o600, False, blocking=True, is_singleton=False, poll_interval=0.1, lifetime=None)
    with lock as held:
        assert_type(held, FileLock)
    with lock.acquire(5, 0.1, blocking=True, cancel_check=lambda: False) as held:
        assert_type(held, FileLock)
    assert_type(lock.acquire(), "AcquireReturnProxy[FileLock]")
    assert_type(lock.acquire().lock, FileLock)
    lock.release()
    lock.release(force=True)
    lock.close()
    assert_type(lock.is_locked, bool)
    assert_type(lock.lock_counter, int)
    assert_type(lock.lock_file, str)
    assert_type(lock.timeout, float)
    assert_type(lock.blocking, bool)
    assert_type(lock.poll_interval, float)
    assert_type(lock.mode, int)
    assert_type(lock.is_singleton, bool)
    assert_type(lock.is_thread_local(), bool)
    assert_type(lock.shared, bool)
    assert_type(lock.lifetime, float | None)
    lock.timeout = 3
    lock.blocking = False
    lock.poll_interval = 0.5
    FileLock(Path("b.lock"), shared=True, kind="ofd")
    with Named("c.lock") as named, named.acquire() as again:
        assert_type(named.name, str)
        assert_type(again, Named)


@FileLock("d.lock")
def decorated(number: int, *, text: str = "") -> list[str]:
    return [text] * number


def soft_file_locks() -> None:
    lock = SoftFileLock("e.lock", timeout=1.5, lifetime=60)
    with lock as held:
        assert_type(held, SoftFileLock)
        assert_type(lock.pid, "int | None")
        assert_type(lock.is_lock_held_by_us, bool)
    assert_type(lock.acquire(blocking=False), "AcquireReturnProxy[SoftFileLock]")
    assert_type(lock.lifetime, "float | None")
    lock.release()


def read_write_locks() -> None:
    lock = ReadWriteLock("f.lock", -1, blocking=True, is_singleton=False)
    with lock.read_lock(1, blocking=True) as held:
        assert_type(held, ReadWriteLock)
    with lock.write_lock(timeout=None):
        pass
    assert_type(lock.acquire_read(1, blocking=False), "AcquireReturnProxy[ReadWriteLock]")
    lock.release()
    with lock.acquire_write() as held:
        assert_type(held, ReadWriteLock)
    assert_type(lock.is_locked, bool)
    assert_type(lock.lock_counter, int)
    lock.close()


def several() -> None:
    with lock_all("g.lock", Path("h.lock"), FileLock("i.lock"), SoftFileLock("j.lock"), timeout=10) as held:
        assert_type(held, LockSet)
        assert_type(held.locks, list[BaseFileLock])
        assert_type(held.is_locked, bool)
    held.release()


def any_lock(lock: BaseFileLock) -> AcquireReturnProxy[BaseFileLock]:
    return lock.acquire()


def who(path: str | Path) -> str:
    found = holders(path)
    assert_type(found, list[Holder])
    for holder in found:
        assert_type(holder.pid, int)
        assert_type(holder.command, str)
        assert_type(holder.mode, Literal["exclusive", "shared"])
        assert_type(holder.since, "float | None")
        assert_type(holder.waiting, bool)
        assert_type(holder.host, "str | None")
    return " ".join(map(str, found))


def timeouts() -> None:
    with FileLock("k.lock"):
        try:
            FileLock("k.lock", blocking=False).acquire()
        except Timeout as error:
            assert_type(error.lock_file, str)
            assert_type(error.timeout, "float | None")
            assert_type(error.holders, list[Holder])


def logs() -> None:
    log = JsonlFile("m.jsonl", durable=0.5, max_bytes="10 MB", max_age=3600, backups=5, compress=True, mode=0o600)
    log.append({"number": 1})
    log.append_bytes(b'{"number": 2}')
    assert_type(log.extend({"number": number} for number in range(3, 5)), int)
    assert_type(log.rotate(), "str | None")
    log.sync()
    records = log.records(lambda record: record["number"] > 1, since=None, errors="skip")
    assert_type(records, Records)
    assert_type(records.checkpoint, str)
    with log.follow(since=records.checkpoint, timeout=0) as more:
        try:
            assert [record["number"] for record in more] == [1, 2, 3, 4]
        except DamagedLine as error:
            assert_type(error.offset, int)
    report = log.verify()
    assert_type(report, Report)
    assert_type(log.repair().damages, list[Damage])
    assert_type(log.stats, JsonlStats)
    assert_type(log.stats.longest_wait, float)
    log.close()


def replaced_files() -> None:
    with atomic_write("n.txt") as text:
        text.write("text")
    with atomic_write("n.bin", "wb", durable=False, lock="git") as binary:
        binary.write(b"bytes")
    write_text("n.txt", "text", newline="\n", lock=True, timeout=1)
    write_bytes("n.bin", bytearray(2), overwrite=True, dangling=True)


@dataclass
class Plan:
    """A user's own kind of state."""

    title: str = "a plan"
    done: bool = False


def states() -> None:
    state = StateFile("o.json", default=lambda: {"n": 0}, timeout=1, durable=False, history=True)
    snapshot = state.load()
    assert_type(snapshot, Snapshot[dict[str, Any]])
    assert_type(snapshot.data, dict[str, Any])
    assert_type(state.save({"n": 1}, expect=snapshot), int)
    with state.edit() as data:
        assert_type(data, dict[str, Any])
        data["n"] += 1
    assert_type(state.update(lambda data: {"n": data["n"] + 1}), int)
    try:
        state.save({}, expect=1)
    except StateConflict as conflict:
        assert_type(conflict.found, int)
        assert_type(conflict.by, "Change | None")
    changes = state.history(limit=5, since=1)
    assert_type(changes, list[Change])
    assert_type(changes[0].changes, tuple[ValueChange, ...])
    assert_type(state.at(1).data, dict[str, Any])
    assert_type(state.prune_history(keep_days=30), int)
    plans = StateFile("p.json", type=Plan)
    assert_type(plans.load().data, Plan)
    with plans.edit() as plan:
        assert_type(plan, Plan)
        plan.done = True
    try:
        plans.load()
    except DamagedState as error:
        assert_type(error.line, "int | None")


def documents() -> None:
    with DocumentStore("q", debounce=0.1, when_full="raise", on_conflict=lambda key, mine, theirs: mine) as store:
        assert_type(store, DocumentStore)
        try:
            store["jo"] = {"theme": "dark"}
        except StoreFull as full:
            raise SystemExit from full
        for key, document in store.items():
            assert_type(key, str)
            assert_type(document, Any)
        assert_type(store.pop("nobody", None), Any)
        try:
            store.flush(timeout=10)
        except DocumentConflict as conflict:
            assert_type(conflict.key, str)
        assert_type(store.revision("jo"), int)
        assert_type(store.refresh(), set[str])
        assert_type(store.stats, DocumentStats)
        assert_type(store.stats.oldest_pending, float)


@retry(on=Timeout, attempts=3, timeout=5)
def retried(number: int) -> str:
    return str(number)


@retry(attempts=3, timeout=None, first_pause=0.1, longest_pause=1)
async def retried_coroutine(number: int) -> str:
    return str(number)


async def attempts() -> None:
    assert_type(retried(3), str)
    assert_type(await retried_coroutine(3), str)
    for attempt in retry(on=(Timeout, StateConflict), on_retry=print):
        with attempt:
            assert_type(attempt, Attempt)
    async for attempt in retry():
        with attempt:
            assert_type(attempt.number, int)


@AsyncFileLock("m.lock")
async def decorated_coroutine(number: int) -> str:
    return str(number)


async def asynchronous_locks() -> None:
    lock = AsyncFileLock("m.lock", 10, 0o600, True, poll_interval=0.1)
    async with lock as held:
        assert_type(held, AsyncFileLock)
    async with await lock.acquire(5, blocking=True) as held:
        assert_type(held, AsyncFileLock)
    assert_type(await lock.acquire(), "AsyncAcquireReturnProxy[AsyncFileLock]")
    await lock.release(force=True)
    lock.close()
    assert_type(lock.is_locked, bool)
    assert_type(await decorated_coroutine(3), str)
    both = AsyncReadWriteLock("n.lock", 5)
    async with both.read_lock(timeout=1) as reading:
        assert_type(reading, AsyncReadWriteLock)
    base: AsyncBaseLock = both
    proxy: AsyncAcquireReturnProxy[AsyncReadWriteLock] = await both.acquire_write()
    async with proxy:
        assert_type(base.lock_counter, int)


async def asynchronous_files() -> None:
    async with AsyncJsonlFile("y.jsonl", durable=0.5, max_bytes="1 GB") as log:
        try:
            await log.append({"n": 1})
        except BaseException as error:
            assert_type(happened(error), "bool | None")
            raise
        assert_type(await log.extend([{"n": 2}]), int)
        records = log.records(where=lambda record: record["n"] > 1)
        assert_type(records, AsyncRecords)
        async for record in records:
            assert_type(record, Any)
        assert_type(records.checkpoint, str)
        assert_type(await log.verify(), Report)
        assert_type(log.stats, JsonlStats)
    state = AsyncStateFile("y.json")
    async with state.edit() as data:
        assert_type(data, dict[str, Any])
        data["n"] = 1
    assert_type((await state.load()).data, dict[str, Any])
    plans = AsyncStateFile("z.json", type=Plan, default=Plan)
    assert_type(await plans.save(Plan(), expect=await plans.load()), int)

    async def change(plan: Plan) -> None:
        plan.done = True

    assert_type(await plans.update(change), int)


if __name__ == "__main__":
    file_locks()
    assert_type(decorated(2, text="x"), list[str])
    soft_file_locks()
    read_write_locks()
    several()
    with any_lock(FileLock("l.lock")) as base:
        assert_type(base, BaseFileLock)
        who("l.lock")
    timeouts()
    logs()
    replaced_files()
    states()
    documents()
    asyncio.run(asynchronous_locks())
    asyncio.run(asynchronous_files())
    asyncio.run(attempts())
    assert_type(holdfast.__version__, str)
