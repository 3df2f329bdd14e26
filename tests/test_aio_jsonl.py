"""AsyncJsonlFile: logs that tasks append to and read."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import sys
import threading
from contextlib import suppress

import pytest

from conftest import posix_only
from holdfast import DamagedLine, JsonlFile, Timeout
from holdfast.aio import AsyncJsonlFile, happened
from support import PATIENCE, Child, log_held_here, started

pytestmark = pytest.mark.usefixtures("loop_kind")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "events.jsonl")


@pytest.fixture
def log(path):
    return AsyncJsonlFile(path)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# ---------------------------------------------------------------------------------------------------------------------
# Appending


async def test_what_was_appended_is_in_the_file(path, log):
    await log.append({"text": "grüße"})
    await log.append_bytes(b'{"n": 2}')
    assert await log.extend({"n": n} for n in (3, 4)) == 2
    assert await log.extend([]) == 0
    with open(path, encoding="utf-8") as file:
        assert file.read() == '{"text":"grüße"}\n{"n": 2}\n{"n":3}\n{"n":4}\n'


async def test_an_append_does_not_give_the_loop_back(log):
    others = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    await log.append({"n": 1})
    assert others == []


async def test_tasks_append_in_their_order_after_a_wait(path, log):
    await log.append({"n": -1})
    with log_held_here(path) as release:
        tasks = await started(*[log.append({"n": n}) for n in range(200)])
        assert len(lines(path)) == 1
        release()
        await asyncio.gather(*tasks)
    assert lines(path) == [{"n": n} for n in range(-1, 200)]


async def test_a_thousand_tasks_that_wait_share_one_thread(path, log):
    await log.append({"n": 0})
    with log_held_here(path) as release:
        tasks = await started(*[log.append({"n": n}) for n in range(1000)])
        assert sum(thread.name == "holdfast-aio" for thread in threading.enumerate()) == 1
        release()
        await asyncio.gather(*tasks)
    assert len(lines(path)) == 1001


async def test_many_processes_loops_and_tasks_lose_nothing(path):
    code = """
        import asyncio
        from holdfast.aio import AsyncJsonlFile
        async def main():
            log = AsyncJsonlFile(args[0])
            async def work(task):
                for n in range(50):
                    await log.append({"who": [args[1], task], "n": n, "x": "é" * (n * 37 % 3000)})
            await asyncio.gather(*[work(task) for task in range(10)])
        asyncio.run(main())
    """
    children = [Child(code, path, number) for number in range(3)]
    for child in children:
        with child:
            await asyncio.to_thread(child.join)
    found = {}
    async for record in AsyncJsonlFile(path):
        found.setdefault(tuple(record["who"]), []).append(record["n"])
    assert len(found) == 30
    assert all(numbers == [*range(50)] for numbers in found.values())


async def test_a_wait_ends_when_its_time_is_over(path):
    log = AsyncJsonlFile(path, timeout=0.02)
    await log.append({"n": 1})
    with log_held_here(path):
        results = await asyncio.gather(*[log.append({"n": 2}) for _ in range(3)], return_exceptions=True)
    assert [type(result) for result in results] == [Timeout] * 3
    assert lines(path) == [{"n": 1}]
    await log.append({"n": 3})
    assert lines(path) == [{"n": 1}, {"n": 3}]


async def test_with_timeout_0_nobody_waits(path):
    log = AsyncJsonlFile(path, timeout=0)
    await log.append({"n": 1})
    with log_held_here(path), pytest.raises(Timeout):
        await log.append({"n": 2})


async def test_a_record_that_cannot_be_encoded_is_refused_and_appends_nothing(path, log):
    with pytest.raises(TypeError):
        await log.append({"n": {1, 2}})
    with pytest.raises(ValueError, match="newline"):
        await log.append_bytes(b"a\nb")
    assert not os.path.exists(path)


async def test_any_encoder_will_do(path):
    log = AsyncJsonlFile(path, encode=lambda record: f'"{record}"', decode=lambda line: line.decode().strip('"'))
    await log.append("a")
    await log.extend(["b", "c"])
    assert [record async for record in log] == ["a", "b", "c"]


async def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        await AsyncJsonlFile(tmp_path / "missing" / "events.jsonl").append({})


async def test_a_full_log_is_rotated(path):
    log = AsyncJsonlFile(path, max_bytes=100)
    await asyncio.gather(*[log.append({"n": n}) for n in range(50)])
    assert len(os.listdir(os.path.dirname(path))) > 3
    assert sorted([record["n"] async for record in log]) == [*range(50)]
    assert await log.rotate() is not None


async def test_appending_to_a_closed_log_is_an_error(path):
    async with AsyncJsonlFile(path) as log:
        await log.append({"n": 1})
    with pytest.raises(ValueError, match="closed"):
        await log.append({"n": 2})
    assert [record async for record in log] == [{"n": 1}]


# ---------------------------------------------------------------------------------------------------------------------
# Syncing


async def test_tasks_share_syncs(path):
    log = AsyncJsonlFile(path, durable=True)
    await asyncio.gather(*[log.append({"n": n}) for n in range(200)])
    assert len(lines(path)) == 200
    assert 1 <= log.stats.syncs < 20


async def test_an_append_that_is_durable_returns_after_a_sync_that_began_after_it(path):
    log = AsyncJsonlFile(path, durable=True)
    for n in range(5):
        await log.append({"n": n})
        assert log.stats.syncs == n + 1


async def test_sync_brings_everything_to_the_disk(log):
    await log.append({"n": 1})
    await log.sync()
    assert log.stats.syncs == 1


async def test_durable_from_time_to_time_syncs_by_itself(path):
    log = AsyncJsonlFile(path, durable=0.01)
    await log.append({"n": 1})
    for _ in range(100 * PATIENCE):
        if log.stats.syncs:
            break
        await asyncio.sleep(0.01)
    assert log.stats.syncs
    await log.close()


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation


async def test_an_append_that_is_cancelled_while_it_waits_has_not_happened_and_says_so(path, log):
    await log.append({"n": 0})
    with log_held_here(path) as release:
        tasks = await started(*[log.append({"n": n}) for n in range(1, 4)])
        for task in tasks[:2]:  # one that a thread waits for, and one behind it
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            assert happened(raised.value) is False
        release()
        await tasks[2]
    assert lines(path) == [{"n": 0}, {"n": 3}]


async def test_an_append_that_is_cancelled_while_it_is_synced_has_happened_and_says_so(path):
    log = AsyncJsonlFile(path, durable=True)
    (task,) = await started(log.append({"n": 1}))
    if not task.done():  # the sync may have been faster
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert happened(raised.value) is True
    assert lines(path) == [{"n": 1}]


@pytest.mark.parametrize("durable", [False, True])
async def test_what_cancelled_appends_say_is_true(path, durable):
    log, said = AsyncJsonlFile(path, durable=durable), {}

    async def append(n):
        try:
            await log.append({"n": n})
            said[n] = True
        except asyncio.CancelledError as error:
            said[n] = happened(error)
            raise

    hog = JsonlFile(path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            hog.extend([{"n": None, "x": "y" * 5000}] * 20)

    thread = threading.Thread(target=write)
    thread.start()
    tasks = []
    for n in range(300):
        tasks.append(asyncio.create_task(append(n)))
        if n % 3 == 0:
            await asyncio.sleep(0.0001 * (n % 7))
        if n % 2:
            tasks[n // 2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stop.set()
    await asyncio.to_thread(thread.join)
    found = sorted(record["n"] for record in lines(path) if record["n"] is not None)
    assert found == sorted(n for n, there in said.items() if there)
    assert None not in said.values()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() came with Python 3.11")
async def test_the_error_of_asyncio_timeout_says_it_too(path, log):
    await log.append({"n": 0})
    with log_held_here(path):
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.01):
                await log.append({"n": 1})
        assert happened(raised.value) is False
        assert "had not happened" in str((raised.value.__cause__ or raised.value.__context__).__notes__)


async def test_the_error_of_wait_for_says_it_too(path, log):
    await log.append({"n": 0})
    with log_held_here(path):
        with pytest.raises(asyncio.TimeoutError) as raised:
            await asyncio.wait_for(log.append({"n": 1}), 0.01)
        assert happened(raised.value) is False


async def test_a_timeout_after_a_cancelled_append_does_not_speak_for_that(path, log):
    await log.append({"n": 0})

    async def work():
        try:
            await log.append({"n": 1})
        except asyncio.CancelledError:
            await AsyncJsonlFile(path, timeout=0.01).append({"n": 2})

    with log_held_here(path):
        (task,) = await started(work())
        task.cancel()
        with pytest.raises(Timeout) as raised:
            await task
    assert isinstance(raised.value.__context__, asyncio.CancelledError)
    assert happened(raised.value) is None


async def test_a_second_append_that_is_cancelled_speaks_for_itself(path):
    log, told = AsyncJsonlFile(path, durable=True), []
    await log.append({"n": 0})

    async def work():
        try:
            await log.append({"n": 1})
        except asyncio.CancelledError as error:
            told.append(happened(error))
            try:
                await log.append({"n": 2})
            except asyncio.CancelledError as second:
                told.append(happened(second))

    with log_held_here(path) as release:
        (task,) = await started(work())
        task.cancel()
        while not told:
            await asyncio.sleep(0.001)
        release()
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert told[0] is False
    if len(told) > 1:  # the second may have been faster
        assert told[1] is ({"n": 2} in lines(path))


def test_an_error_from_elsewhere_says_nothing():
    assert happened(asyncio.CancelledError()) is None


# ---------------------------------------------------------------------------------------------------------------------
# Reading


async def test_reading_gives_the_loop_back_now_and_then(path, log):
    await log.extend({"n": n} for n in range(20_000))
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    (counter,) = await started(count())
    assert [record["n"] async for record in log] == [*range(20_000)]
    counter.cancel()
    assert turns > 5


async def test_where_chooses_and_the_loop_is_given_back_also_when_nothing_is_chosen(path, log):
    await log.extend({"n": n} for n in range(20_000))
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    (counter,) = await started(count())
    assert [record async for record in log.records(where=lambda record: record["n"] < 0)] == []
    counter.cancel()
    assert turns > 5


async def test_a_log_that_does_not_exist_has_no_records(log):
    assert [record async for record in log] == []


async def test_a_damaged_line_is_an_error_after_which_reading_goes_on(path, log):
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"n":1}\n{oops\n{"n":2}\n')
    records = log.records()
    assert await anext(records) == {"n": 1}
    with pytest.raises(DamagedLine):
        await anext(records)
    assert await anext(records) == {"n": 2}
    assert [record["n"] async for record in log.records(errors="skip")] == [1, 2]


async def test_a_checkpoint_goes_on_behind_what_was_returned(path, log):
    await log.extend({"n": n} for n in range(5000))
    records = log.records()
    for _ in range(1234):
        await anext(records)
    assert [record["n"] async for record in log.records(since=records.checkpoint)] == [*range(1234, 5000)]


async def test_the_checkpoint_of_a_cancelled_reader_is_that_of_what_it_returned(path, log):
    await log.extend({"n": n} for n in range(100))
    seen, checkpoint = [], None

    async def read():
        nonlocal checkpoint
        async with log.follow() as records:
            try:
                async for record in records:
                    seen.append(record["n"])
            finally:
                checkpoint = records.checkpoint

    for number in range(100, 130):
        since = len(seen)
        (task,) = await started(read())
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if checkpoint is not None:
            rest = [record["n"] async for record in log.records(since=checkpoint)]
            assert seen[since:] + rest == [*range(100)]


async def test_an_iterator_goes_on_after_a_cancelled_look(path, log):
    await log.append({"n": 1})
    records = log.follow()
    assert await anext(records) == {"n": 1}
    (task,) = await started(anext_of(records))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.append({"n": 2})
    assert await anext(records) == {"n": 2}
    records.close()
    assert [record async for record in records] == []


async def anext_of(records):
    return await anext(records)


async def test_following_sees_what_another_process_appends_across_rotations(path):
    code = """
        from holdfast import JsonlFile
        log = JsonlFile(args[0], max_bytes=200)
        for n in range(100): log.append({"n": n})
    """
    found = []
    with Child(code, path) as child:
        async with AsyncJsonlFile(path).follow() as records:
            async for record in records:
                found.append(record["n"])
                if record["n"] == 99:
                    break
        await asyncio.to_thread(child.join)
    assert found == [*range(100)]


async def test_following_ends_when_nothing_comes(log):
    await log.append({"n": 1})
    assert [record["n"] async for record in log.follow(timeout=0.01, poll_interval=0.001)] == [1]


# ---------------------------------------------------------------------------------------------------------------------
# The rest


async def test_verify_and_repair(path, log):
    await log.append({"n": 1})
    with open(path, "a", encoding="utf-8") as file:
        file.write("{oops\n")
    seen = []
    assert not (await log.verify(progress=lambda *progress: seen.append(progress))).ok
    assert seen
    assert not (await log.repair()).ok
    assert (await log.verify()).ok


async def test_a_copy_is_another_writer_of_the_same_file(path):
    log = AsyncJsonlFile(path, max_bytes=1000)
    for other in (copy.copy(log), pickle.loads(pickle.dumps(log))):
        await other.append({"n": 1})
    assert len(lines(path)) == 2
    assert repr(log) == f"<AsyncJsonlFile {path!r}>"
    assert log.path == path


@posix_only
def test_a_forked_child_appends_for_itself(path):
    log = AsyncJsonlFile(path)
    asyncio.run(log.append({"n": 1}))
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(log.append({"n": 2}))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert lines(path) == [{"n": 1}, {"n": 2}]
