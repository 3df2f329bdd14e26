"""AsyncStateFile: states that tasks read and change."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
from dataclasses import dataclass

import pytest

from conftest import needs_symlinks
from holdfast import FileLock, StateConflict, StateFile, Timeout, _stamp
from holdfast.aio import AsyncJsonlFile, AsyncStateFile, happened
from support import Child, held_here, started

pytestmark = pytest.mark.usefixtures("loop_kind")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state.json")


@pytest.fixture
def state(path):
    return AsyncStateFile(path, durable=False)


async def test_what_was_saved_is_loaded(path, state):
    assert await state.save({"theme": "dark"}) == 1
    snapshot = await state.load()
    assert (snapshot.data, snapshot.revision) == ({"theme": "dark"}, 1)
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == {"revision": 1, "theme": "dark"}


async def test_a_state_that_has_not_changed_is_loaded_without_giving_the_loop_back(state, monkeypatch):
    monkeypatch.setattr(_stamp, "SETTLED", -1e9)  # what has just been written is looked at more closely otherwise
    await state.save({"n": 1})
    await state.load()
    others = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    await state.load()
    assert others == []


async def test_edits_of_tasks_and_processes_are_not_lost(path, state):
    code = """
        from holdfast import StateFile
        state = StateFile(args[0], durable=False)
        for _ in range(30):
            with state.edit() as data: data["n"] = data.get("n", 0) + 1
    """

    async def work(state):
        for _ in range(10):
            async with state.edit() as data:
                n = data.get("n", 0)
                await asyncio.sleep(0)
                data["n"] = n + 1

    with Child(code, path) as child:
        await asyncio.gather(*[work(state) for _ in range(4)], work(AsyncStateFile(path, durable=False)))
        await asyncio.to_thread(child.join)
    snapshot = await state.load()
    assert snapshot.data == {"n": 80}
    assert snapshot.revision == 80


async def test_an_exception_in_the_block_saves_nothing(path, state):
    with pytest.raises(LookupError):
        async with state.edit() as data:
            data["n"] = 1
            raise LookupError
    assert not os.path.exists(path)


async def test_a_cancelled_edit_saves_nothing_and_releases_the_lock(path, state):
    async def edit():
        async with state.edit() as data:
            data["n"] = 1
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    (task,) = await started(edit())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.path.exists(path)
    assert await state.save({"n": 2}) == 1


async def test_saving_what_somebody_else_has_changed_is_a_conflict(path, state):
    before = await state.load()
    StateFile(path).save({"n": 1})
    with pytest.raises(StateConflict):
        await state.save({"n": 2}, expect=before)
    assert await state.save({"n": 2}, expect=await state.load()) == 2


async def test_updates_are_repeated_until_nobody_was_faster(state):
    async def later(data):
        await asyncio.sleep(0)
        return {"n": data.get("n", 0) + 1}

    def at_once(data):
        data["n"] = data.get("n", 0) + 1

    await asyncio.gather(*[state.update(later) for _ in range(10)], *[state.update(at_once) for _ in range(10)])
    assert (await state.load()).data == {"n": 20}


async def test_an_update_that_changes_nothing_saves_nothing(state):
    await state.save({"n": 1})
    assert await state.update(lambda data: None) == 1
    assert (await state.load()).revision == 1


async def test_an_update_gives_up_after_so_many_attempts(path, state):
    def change(data):
        other = StateFile(path, durable=False)
        other.save({"n": other.load().data.get("n", 0) + 1})
        data["mine"] = 1

    with pytest.raises(StateConflict):
        await state.update(change, attempts=2)
    assert (await state.load()).data == {"n": 2}
    with pytest.raises(ValueError, match="attempts"):
        await state.update(change, attempts=0)


async def test_a_lock_that_is_held_too_long_is_a_timeout(path):
    with FileLock(path + ".lock"), pytest.raises(Timeout):
        await AsyncStateFile(path, timeout=0.01).save({"n": 1})
    assert not os.path.exists(path)


async def test_a_save_that_is_cancelled_says_whether_it_happened(path):
    for step in range(30):
        state = AsyncStateFile(path)
        revision = (await state.load()).revision
        task = asyncio.create_task(state.save({"step": step}))
        for _ in range(step % 6):
            await asyncio.sleep(0.0002 * (step % 5))
        task.cancel()
        try:
            await task
            saved = True
        except asyncio.CancelledError as error:
            saved = happened(error) or False
        assert (await state.load()).revision == revision + saved


async def test_a_cancellation_tells_of_the_last_call_and_not_of_one_before(path, tmp_path):
    log, state = AsyncJsonlFile(tmp_path / "events.jsonl", durable=True), AsyncStateFile(path, timeout=-1)
    told = []

    async def work():
        try:
            await log.append({"n": 1})
        except asyncio.CancelledError as error:
            told.append(happened(error))
            try:
                await state.save({"n": 1})
            except asyncio.CancelledError as second:
                told.append(happened(second))

    with held_here(path + ".lock"):
        (task,) = await started(work())
        if not task.done():
            task.cancel()
            while len(told) < 1:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await task
            assert told == [True, False]
    assert not os.path.exists(path)


async def test_a_default_that_raises_stop_iteration_ends_a_load(path):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await AsyncStateFile(path, default=iter([]).__next__).load()


async def test_history_is_there(path):
    state = AsyncStateFile(path, history=True)
    for theme in ("dark", "light"):
        await state.save({"theme": theme})
    assert [change.revision for change in await state.history()] == [1, 2]
    assert (await state.at(1)).data == {"theme": "dark"}
    assert await state.prune_history(keep_days=1) == 0
    assert state.history_errors == 0


async def test_data_have_a_type(tmp_path):
    pytest.importorskip("msgspec")
    state = AsyncStateFile(tmp_path / "state.json", type=Settings, default=Settings)
    async with state.edit() as data:
        data.size = 3
    assert (await state.load()).data == Settings(3)


@dataclass
class Settings:
    size: int = 1


@needs_symlinks
async def test_links_lead_to_one_lock(tmp_path):
    os.symlink(tmp_path / "state.json", tmp_path / "link.json")
    a, b = AsyncStateFile(tmp_path / "state.json"), AsyncStateFile(tmp_path / "link.json")

    async def work(state):
        for _ in range(5):
            async with state.edit() as data:
                data["n"] = data.get("n", 0) + 1

    await asyncio.gather(work(a), work(b))
    assert (await a.load()).data == {"n": 10}
    assert os.path.islink(tmp_path / "link.json")


async def test_a_copy_is_another_object_for_the_same_file(path, state):
    await state.save({"n": 1})
    for other in (copy.copy(state), pickle.loads(pickle.dumps(state))):
        assert (await other.load()).data == {"n": 1}
        assert other.path == path
        assert repr(other) == f"<AsyncStateFile {path!r}>"
