"""AsyncFileLock and AsyncReadWriteLock: locks that tasks hold."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import sys
import threading
import time
from contextlib import suppress

import pytest

from conftest import linux_only, posix_only
from holdfast import AsyncFileLock, FileLock, SoftFileLock, Timeout
from holdfast.aio import AsyncAcquireReturnProxy, AsyncReadWriteLock, _threads
from support import PATIENCE, Child, held_elsewhere, held_here, increment, is_free, number_in, started

pytestmark = pytest.mark.usefixtures("loop_kind")


def waiting_threads():
    """The threads of ours that are at work."""
    return [thread for thread in threading.enumerate() if thread.name == "holdfast-aio"]


async def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.001)


async def hold(lock, then):
    async with lock:
        await then.wait()


# ---------------------------------------------------------------------------------------------------------------------
# Who excludes whom


async def test_a_lock_is_held_inside_its_block_and_free_after_it(path):
    lock = AsyncFileLock(path)
    async with lock as entered:
        assert entered is lock
        assert lock.is_locked
        assert not is_free(path)
    assert not lock.is_locked
    assert is_free(path)


async def test_tasks_with_the_same_object_exclude_each_other(path):
    lock, inside = AsyncFileLock(path), 0

    async def work():
        nonlocal inside
        for _ in range(20):
            async with lock:
                assert inside == 0
                inside += 1
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*[work() for _ in range(20)])


@pytest.mark.parametrize("kind", ["flock", "ofd"])
async def test_tasks_threads_and_processes_exclude_each_other(path, tmp_path, kind):
    counter = str(tmp_path / "counter")
    code = """
        from holdfast import FileLock
        from support import increment
        lock = FileLock(args[0], kind=args[2])
        for _ in range(50):
            with lock: increment(args[1])
    """

    def in_thread():
        for _ in range(50):
            with FileLock(path, kind=kind):
                increment(counter)

    async def in_task(lock):
        for _ in range(10):
            async with lock:
                increment(counter)
                await asyncio.sleep(0)

    lock = AsyncFileLock(path, kind=kind)
    with Child(code, path, counter, kind) as child:
        thread = threading.Thread(target=in_thread)
        thread.start()
        await asyncio.gather(
            *[in_task(lock) for _ in range(5)], *[in_task(AsyncFileLock(path, kind=kind)) for _ in "ab"]
        )
        await asyncio.to_thread(thread.join)
        await asyncio.to_thread(child.join)
    assert number_in(counter) == 50 + 50 + 70


def test_loops_in_several_threads_exclude_each_other_with_one_object(path, tmp_path):
    counter, lock = str(tmp_path / "counter"), AsyncFileLock(path)

    async def work():
        for _ in range(10):
            async with lock:
                increment(counter)
                await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*[work() for _ in range(5)])

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert number_in(counter) == 200
    assert is_free(path)


def test_loops_that_share_an_object_and_a_hold_each_release_their_own(path):
    lock = AsyncFileLock(path, thread_local=False, shared=True)
    both = threading.Barrier(2)

    async def use():
        async with lock:
            await asyncio.to_thread(both.wait, PATIENCE)

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert is_free(path)


def test_a_lock_can_be_used_in_one_loop_after_the_other(path):
    lock = AsyncFileLock(path)

    async def use():
        with held_here(path) as release:
            task = (await started(hold(lock, _set())))[0]
            release()
            await task

    asyncio.run(use())
    asyncio.run(use())


def _set():
    event = asyncio.Event()
    event.set()
    return event


async def test_a_task_may_acquire_again_what_it_holds(path):
    lock = AsyncFileLock(path)
    async with lock:
        async with lock:
            assert lock.lock_counter == 2
        assert lock.lock_counter == 1
        assert not is_free(path)
    assert lock.lock_counter == 0


async def test_another_task_does_not_hold_it(path):
    lock = AsyncFileLock(path)

    async def look():
        return lock.is_locked, lock.lock_counter

    async with lock:
        assert await asyncio.create_task(look()) == (False, 0)


async def test_without_thread_local_all_tasks_share_one_hold(path):
    lock = AsyncFileLock(path, thread_local=False)

    async def nest():
        async with lock:
            return lock.lock_counter

    async with lock:
        assert await asyncio.create_task(nest()) == 2
    assert is_free(path)


async def test_shared_holders_share(path):
    lock = AsyncFileLock(path, shared=True)
    release = asyncio.Event()
    tasks = await started(hold(lock, release), hold(AsyncFileLock(path, shared=True), release))
    with pytest.raises(Timeout):
        await AsyncFileLock(path).acquire(blocking=False)
    release.set()
    await asyncio.gather(*tasks)
    assert is_free(path)


async def test_a_soft_lock_is_something_else(path):
    with SoftFileLock(path + ".soft"):
        async with AsyncFileLock(path):
            pass


# ---------------------------------------------------------------------------------------------------------------------
# Waiting


async def test_a_free_lock_is_acquired_without_giving_the_loop_back(path):
    others = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    async with AsyncFileLock(path), AsyncFileLock(path + "2"):
        pass
    assert others == []


async def test_tasks_come_in_their_order(path):
    lock, order = AsyncFileLock(path), []

    async def come(number):
        async with lock:
            order.append(number)
            await asyncio.sleep(0)

    with held_here(path) as release:
        tasks = await started(*[come(number) for number in range(100)])
        release()
        await asyncio.gather(*tasks)
    assert order == [*range(100)]


async def test_a_newcomer_does_not_overtake_those_who_wait(path):
    lock, order, release = AsyncFileLock(path), [], asyncio.Event()

    async def come(name):
        async with lock:
            order.append(name)

    async with lock:
        tasks = await started(come("first"))
    tasks += await started(come("second"))
    await asyncio.gather(*tasks)
    assert order == ["first", "second"]
    release.set()


async def test_a_thousand_tasks_wait_in_one_thread(path):
    before = len(waiting_threads())
    with held_here(path) as release:
        tasks = await started(*[AsyncFileLock(path).acquire() for _ in range(1000)])
        assert len(waiting_threads()) <= max(before, 1)
        release()
        for task in tasks:
            async with await task:
                pass


async def test_a_full_default_executor_keeps_nobody_waiting(path):
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    blocked = [loop.run_in_executor(None, stop.wait) for _ in range(100)]
    with held_here(path) as release:
        tasks = await started(hold(AsyncFileLock(path), _set()))
        release()
        await asyncio.gather(*tasks)
    stop.set()
    await asyncio.gather(*blocked)


async def test_the_loop_goes_on_while_tasks_wait(path):
    with held_here(path) as release:
        tasks = await started(hold(AsyncFileLock(path), _set()))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not tasks[0].done()
        release()
        await asyncio.gather(*tasks)


async def test_other_processes_get_their_turn_while_tasks_hand_a_lock_to_each_other(path):
    lock, stop = AsyncFileLock(path), asyncio.Event()
    code = """
        from holdfast import FileLock
        say("ready")
        hear()
        for _ in range(5):
            with FileLock(args[0]): pass
        say("done")
    """

    async def hog():
        while not stop.is_set():
            async with lock:
                await asyncio.sleep(0)

    with Child(code, path) as child:
        child.expect("ready")
        hogs = await started(*[hog() for _ in range(10)])
        child.tell()
        assert await asyncio.wait_for(asyncio.to_thread(child.hear), PATIENCE) == "done"
        stop.set()
        await asyncio.gather(*hogs)


async def test_a_wait_ends_when_its_time_is_over_and_says_who_holds_the_lock(path):
    with held_elsewhere(path) as child:
        with pytest.raises(Timeout) as raised:
            await AsyncFileLock(path).acquire(timeout=0.05)
        if sys.platform == "linux":
            assert [holder.pid for holder in raised.value.holders] == [child.pid]
        assert "within 0.05 seconds" in str(raised.value)


async def test_a_wait_behind_a_task_of_the_same_loop_ends_when_its_time_is_over(path):
    async with AsyncFileLock(path):
        task = asyncio.create_task(AsyncFileLock(path).acquire(timeout=0.01))
        with pytest.raises(Timeout):
            await task


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"blocking": False}])
async def test_a_single_try_does_not_wait(path, settings):
    with held_here(path), pytest.raises(Timeout):
        await AsyncFileLock(path, **settings).acquire()


async def test_who_tries_once_does_not_wait_for_those_who_wait(path):
    with held_here(path) as release:
        tasks = await started(hold(AsyncFileLock(path), _set()))
        with pytest.raises(Timeout):
            await AsyncFileLock(path).acquire(blocking=False)
        release()
        await asyncio.gather(*tasks)


async def test_cancel_check_gives_a_wait_up(path):
    asked = []

    def check():
        asked.append(1)
        return len(asked) > 3

    with held_here(path), pytest.raises(Timeout):
        await AsyncFileLock(path).acquire(poll_interval=0.001, cancel_check=check)
    assert len(asked) == 4


async def test_what_cancel_check_raises_ends_the_wait(path):
    def check():
        raise LookupError("no")

    lock = AsyncFileLock(path)
    with held_here(path) as release:
        with pytest.raises(LookupError):
            await lock.acquire(cancel_check=check)
        release()
    async with lock:
        pass


async def test_a_missing_directory_is_created(tmp_path):
    async with AsyncFileLock(tmp_path / "a" / "b" / "the.lock"):
        assert (tmp_path / "a" / "b").is_dir()


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation


async def test_a_cancelled_task_holds_nothing_and_keeps_nobody_waiting(path):
    lock, release = AsyncFileLock(path), asyncio.Event()
    holder, cancelled, other = await started(hold(lock, release), hold(lock, release), hold(lock, release))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    release.set()
    await asyncio.gather(holder, other)
    assert is_free(path)


async def test_a_wait_in_a_thread_is_cancelled_at_once_and_the_thread_is_free_again(path):
    before = len(waiting_threads())
    with held_elsewhere(path) as child:
        for _ in range(50):
            tasks = await started(hold(AsyncFileLock(path), _set()))
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
        child.tell()
        child.expect("released")
        await until(lambda: is_free(path))
    assert len(waiting_threads()) < before + 20


async def test_cancelling_at_any_moment_leaks_nothing(path):
    lock = AsyncFileLock(path)

    async def come(steps):
        with suppress(asyncio.CancelledError):
            async with lock:
                for _ in range(steps):
                    await asyncio.sleep(0)

    for number in range(200):
        tasks = [asyncio.create_task(come(step % 4)) for step in range(8)]
        for step, task in enumerate(tasks):
            if (number >> (step % 3)) % 2:
                task.cancel()
            if (number + step) % 3 == 0:
                await asyncio.sleep(0)
            if number % 5 == step:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert lock.lock_counter == 0
    assert is_free(path)


async def test_a_lock_granted_at_the_moment_of_the_cancellation_is_given_back(path):
    lock, other = AsyncFileLock(path), AsyncFileLock(path)
    holding = asyncio.Event()

    async def give():
        async with lock:
            await holding.wait()
        waiting.cancel()  # it has been granted the lock, and has not run yet

    giver = asyncio.create_task(give())
    await asyncio.sleep(0)
    (waiting,) = await started(hold(other, asyncio.Event()))
    holding.set()
    await giver
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert is_free(path)


async def test_an_exception_in_the_block_releases_the_lock(path):
    with pytest.raises(LookupError):
        async with AsyncFileLock(path):
            raise LookupError
    assert is_free(path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() came with Python 3.11")
async def test_asyncio_timeout_ends_a_wait(path):
    with held_here(path) as release:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.01), AsyncFileLock(path):
                pass
        assert not isinstance(raised.value, Timeout)
        release()
        async with asyncio.timeout(PATIENCE), AsyncFileLock(path):
            pass


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11")
async def test_a_task_group_that_fails_releases_everything(path):
    async def fail():
        raise LookupError

    lock = AsyncFileLock(path)
    with pytest.raises(BaseException, match="unhandled errors"):
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(hold(lock, asyncio.Event()))
            group.create_task(fail())
    assert is_free(path)


async def test_what_wait_for_acquired_can_be_released_after_it(path):
    lock = AsyncFileLock(path)
    await asyncio.wait_for(lock.acquire(), PATIENCE)  # until Python 3.12 in a task of its own
    assert lock.is_locked
    assert not is_free(path)
    await lock.release()
    assert is_free(path)


async def test_what_gather_acquired_is_released_by_its_proxies(path):
    async with (await asyncio.gather(AsyncFileLock(path).acquire()))[0] as lock:
        assert isinstance(lock, AsyncFileLock)
        assert not is_free(path)
    assert is_free(path)


async def test_a_proxy_releases_its_own_acquisition_and_no_later_one(path):
    lock = AsyncFileLock(path)
    release = asyncio.Event()
    async with await lock.acquire():
        await lock.release()
        (other,) = await started(hold(lock, release))
    assert not is_free(path)
    release.set()
    await other


async def test_a_cancellation_is_not_lost_when_cancel_check_raises_at_the_same_moment(path):
    def check():
        task.cancel()
        raise LookupError("no")

    with held_here(path):
        (task,) = await started(AsyncFileLock(path).acquire(poll_interval=0.001, cancel_check=iter([False]).__next__))
        task.cancel()  # which may come too late, or at the same moment
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await task
        task = asyncio.create_task(AsyncFileLock(path).acquire(cancel_check=check))
        with pytest.raises((asyncio.CancelledError, LookupError)):
            await task
    await until(lambda: is_free(path))


async def test_a_cancel_check_that_raises_stop_iteration_ends_the_wait(path):
    with held_here(path), pytest.raises(RuntimeError, match="StopIteration"):
        await AsyncFileLock(path).acquire(poll_interval=0.001, cancel_check=iter([False]).__next__)


async def test_closing_a_lock_that_was_just_granted_lets_its_task_wait_again(path):
    lock = AsyncFileLock(path)
    await lock.acquire()
    (task,) = await started(lock.acquire())
    await lock.release()
    lock.close()
    async with await task:
        assert not is_free(path)
    assert is_free(path)


@linux_only
async def test_waits_that_end_leave_no_descriptor_behind(path):
    def count():
        return len(os.listdir("/proc/self/fd"))

    with held_elsewhere(path):
        lock, before = AsyncFileLock(path), count()
        for _ in range(30):
            with pytest.raises(Timeout):
                await lock.acquire(timeout=0.001)
        await until(lambda: count() <= before + 2)


async def test_many_waits_that_end_at_once_need_few_threads(path):
    before = len(waiting_threads())
    with held_here(path):
        results = await asyncio.gather(
            *[AsyncFileLock(path).acquire(timeout=0.01) for _ in range(300)], return_exceptions=True
        )
        assert {type(result) for result in results} == {Timeout}
        assert len(waiting_threads()) < before + 50


async def test_without_a_thread_to_wait_in_acquiring_fails_and_later_it_succeeds(path, monkeypatch):
    lock = AsyncFileLock(path)
    with held_here(path) as release:
        with monkeypatch.context() as broken:
            broken.setattr(_threads, "start", _no_threads)
            with pytest.raises(RuntimeError, match="no threads"):
                await lock.acquire()
        release()
        async with lock:
            pass
    assert is_free(path)


def _no_threads(_work):
    raise RuntimeError("no threads")


# ---------------------------------------------------------------------------------------------------------------------
# Deadlocks


async def test_a_task_that_waits_for_itself_is_told(path):
    async with AsyncFileLock(path):
        with pytest.raises(RuntimeError, match="Deadlock"):
            await AsyncFileLock(path).acquire()


async def test_a_task_that_waits_for_itself_by_another_spelling_is_told(tmp_path):
    os.symlink(tmp_path, tmp_path / "link") if os.name == "posix" else None
    other = tmp_path / "link" / "the.lock" if os.name == "posix" else tmp_path / "." / "the.lock"
    async with AsyncFileLock(tmp_path / "the.lock"):
        with pytest.raises(RuntimeError, match="Deadlock"):
            await AsyncFileLock(other).acquire()


async def test_a_second_task_that_waits_is_no_deadlock(path):
    release = asyncio.Event()
    tasks = await started(hold(AsyncFileLock(path), release), hold(AsyncFileLock(path), release))
    release.set()
    await asyncio.gather(*tasks)


async def test_a_thread_that_waits_for_a_task_of_its_own_loop_is_told(path):
    async with AsyncFileLock(path):
        with pytest.raises(RuntimeError, match="Deadlock"):
            FileLock(path).acquire()


# ---------------------------------------------------------------------------------------------------------------------
# Releasing


async def test_releasing_what_is_not_held_does_nothing(path):
    lock = AsyncFileLock(path)
    await lock.release()
    async with lock:
        await asyncio.create_task(lock.release())
        assert lock.is_locked


async def test_force_undoes_all_acquisitions(path):
    lock = AsyncFileLock(path)
    await lock.acquire()
    await lock.acquire()
    await lock.release(force=True)
    assert is_free(path)


async def test_what_a_task_left_behind_can_be_released_by_any(path):
    lock = AsyncFileLock(path)
    await asyncio.create_task(lock.acquire())
    await asyncio.create_task(_nothing())
    await lock.release()
    assert is_free(path)


async def _nothing():
    pass


async def test_close_releases_what_all_tasks_hold_and_wakes_those_who_wait(path):
    lock, other = AsyncFileLock(path), AsyncFileLock(path)
    never = asyncio.Event()
    holder, waiter = await started(hold(lock, never), hold(other, _set()))
    lock.close()
    await waiter
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert is_free(path)


async def test_a_lock_that_is_collected_is_free_and_those_who_wait_get_it(path):
    lock = AsyncFileLock(path)
    await lock.acquire()
    (waiter,) = await started(AsyncFileLock(path).acquire())
    del lock
    gc.collect()
    async with await asyncio.wait_for(waiter, PATIENCE):
        pass


def test_a_lock_granted_to_a_loop_that_was_closed_is_given_up_when_it_is_closed(path):
    lock, loop = AsyncFileLock(path), asyncio.new_event_loop()
    with held_here(path) as release:
        task = loop.create_task(lock.acquire())
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        release()
        end = time.monotonic() + PATIENCE
        while is_free(path):  # until the waiting thread has it; the loop will not hear of that
            assert time.monotonic() < end
        loop.close()
    end = time.monotonic() + PATIENCE
    while not is_free(path):  # the thread may not have said yet that it has it
        lock.close()
        assert time.monotonic() < end
    task._log_destroy_pending = False


def test_a_lock_held_when_its_loop_ends_is_held_until_it_is_closed(path):
    lock = AsyncFileLock(path)
    asyncio.run(lock.acquire())
    assert lock.is_locked
    assert not is_free(path)
    lock.close()
    assert is_free(path)


def test_a_loop_that_is_closed_while_a_task_waits_leaves_the_lock_free(path):
    loop = asyncio.new_event_loop()
    lock = AsyncFileLock(path)
    with held_here(path) as release:
        task = loop.create_task(lock.acquire())
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        release()
    end = time.monotonic() + PATIENCE
    while not is_free(path):
        assert time.monotonic() < end
    task._log_destroy_pending = False  # it is what this is about
    del task
    with suppress(RuntimeError):
        gc.collect()


@posix_only
def test_a_forked_child_holds_nothing_and_can_acquire(path):
    with Child(
        """
import asyncio
from holdfast import AsyncFileLock, FileLock
from holdfast import Timeout
lock = AsyncFileLock(args[0])
asyncio.run(lock.acquire())
pid = os.fork()
if pid == 0:
    code = 1
    try:
        assert not lock.is_locked
        async def main():
            try:
                await lock.acquire(timeout=0.01)
            except Timeout:
                say("busy")
            say("waiting")
            async with lock:
                say("got it")
        asyncio.run(main())
        code = 0
    finally:
        os._exit(code)
hear()
lock.close()
os.waitpid(pid, 0)
""",
        path,
    ) as child:
        child.expect("busy")
        child.expect("waiting")
        child.tell()
        child.expect("got it")
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


async def test_the_names_of_file_lock_are_there(path):
    lock = AsyncFileLock(path, 5, 0o600, False, blocking=False, poll_interval=0.01, shared=True)
    assert (lock.lock_file, lock.timeout, lock.mode, lock.blocking) == (path, 5, 0o600, False)
    assert (lock.poll_interval, lock.shared, lock.lifetime) == (0.01, True, None)
    assert not lock.is_thread_local()
    assert not lock.is_singleton
    lock.timeout = 3
    assert lock.timeout == 3


async def test_mode_is_that_of_the_new_file(path):
    async with AsyncFileLock(path, mode=0o600):
        assert os.name == "nt" or os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("timeout", "1", TypeError),
        ("mode", 0o1000, ValueError),
        ("thread_local", 1, TypeError),
        ("shared", 1, TypeError),
        ("kind", "x", ValueError),
        ("poll_interval", -1, ValueError),
    ],
)
async def test_a_wrong_argument_is_refused(path, name, value, error):
    with pytest.raises(error, match=name):
        AsyncFileLock(path, **{name: value})


async def test_wrong_arguments_of_acquire_are_refused_although_the_lock_is_free(path):
    with pytest.raises(TypeError):
        await AsyncFileLock(path).acquire(timeout="1")


async def test_a_path_that_is_a_directory_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        await AsyncFileLock(tmp_path).acquire()


async def test_is_singleton_gives_one_instance_and_lets_a_task_nest(path):
    async with AsyncFileLock(path, is_singleton=True), AsyncFileLock(path, is_singleton=True) as lock:
        assert lock.lock_counter == 2


async def test_a_copy_is_another_lock(path):
    lock = AsyncFileLock(path, timeout=3)
    for other in (copy.copy(lock), pickle.loads(pickle.dumps(lock))):
        assert (other.lock_file, other.timeout) == (path, 3)
        async with lock:
            with pytest.raises(Timeout):
                await other.acquire(blocking=False)


async def test_a_decorated_coroutine_function_holds_the_lock(path):
    @AsyncFileLock(path)
    async def locked(number):
        assert not is_free(path)
        return number

    assert await locked(3) == 3
    assert is_free(path)


async def test_a_plain_function_is_not_decorated(path):
    with pytest.raises(TypeError, match="coroutine function"):
        AsyncFileLock(path)(lambda: None)


async def test_acquire_returns_a_proxy(path):
    proxy = await AsyncFileLock(path).acquire()
    assert isinstance(proxy, AsyncAcquireReturnProxy)
    async with proxy as lock:
        assert lock is proxy.lock
    assert is_free(path)


@linux_only
async def test_descriptors_of_many_locks_are_not_kept(tmp_path):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    locks = [AsyncFileLock(tmp_path / f"{number}.lock") for number in range(300)]
    for lock in locks:
        async with lock:
            pass
    assert count() < before + 100


# ---------------------------------------------------------------------------------------------------------------------
# AsyncReadWriteLock


async def test_readers_read_together_and_writers_write_alone(path):
    lock, reading, most, writing = AsyncReadWriteLock(path), 0, 0, False

    async def read():
        nonlocal reading, most
        async with lock.read_lock():
            assert not writing
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0)
            reading -= 1

    async def write():
        nonlocal writing
        async with lock.write_lock():
            assert not writing
            assert not reading
            writing = True
            await asyncio.sleep(0)
            writing = False

    await asyncio.gather(*[task for _ in range(20) for task in (read(), read(), write())])
    assert most > 1


async def test_a_reader_does_not_overtake_a_writer_that_waits(path):
    lock, order = AsyncReadWriteLock(path), []

    async def come(name, how):
        async with how():
            order.append(name)

    async with lock.read_lock():
        tasks = await started(come("writer", lock.write_lock), come("reader", lock.read_lock))
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["writer", "reader"]


async def test_readers_behind_a_writer_that_gives_up_need_not_wait(path):
    lock = AsyncReadWriteLock(path)

    async def read():
        async with lock.read_lock():
            pass

    async with lock.read_lock():
        for timeout in (0.01, -1):
            writer, reader = await started(lock.acquire_write(timeout=timeout), read())
            if timeout < 0:
                writer.cancel()
            await asyncio.wait_for(reader, PATIENCE)
            with pytest.raises((Timeout, asyncio.CancelledError)):
                await writer


async def test_tasks_that_share_a_hold_do_not_overtake_a_writer(path):
    order = []

    async def come(name, lock):
        async with lock:
            order.append(name)

    async with AsyncFileLock(path, shared=True, thread_local=False):
        tasks = await started(
            come("writer", AsyncFileLock(path)), come("reader", AsyncFileLock(path, shared=True, thread_local=False))
        )
    await asyncio.gather(*tasks)
    assert order == ["writer", "reader"]


async def test_a_reader_may_read_again_although_a_writer_waits(path):
    lock = AsyncReadWriteLock(path)

    async def write():
        async with lock.write_lock():
            pass

    async with lock.read_lock():
        tasks = await started(write())
        async with lock.read_lock(), AsyncReadWriteLock(path, is_singleton=False).read_lock():
            pass
    await asyncio.gather(*tasks)


async def test_changing_from_one_kind_to_the_other_is_refused(path):
    lock = AsyncReadWriteLock(path)
    async with await lock.acquire_read():
        with pytest.raises(RuntimeError, match="other mode"):
            await lock.acquire_write()
    async with await lock.acquire_write():
        with pytest.raises(RuntimeError, match="other mode"):
            await lock.acquire_read()


async def test_there_is_one_instance_for_each_file(path):
    assert AsyncReadWriteLock(path) is AsyncReadWriteLock.get_lock(path)
    assert AsyncReadWriteLock(path, is_singleton=False) is not AsyncReadWriteLock(path)


async def test_a_writer_waits_for_a_reader_in_another_process(path):
    code = """
        from holdfast import ReadWriteLock
        with ReadWriteLock(args[0]).read_lock():
            say("held")
            hear()
    """
    lock = AsyncReadWriteLock(path)
    with Child(code, path) as child:
        child.expect("held")
        async with await lock.acquire_read(blocking=False):
            pass
        with pytest.raises(Timeout):
            await lock.acquire_write(timeout=0.01)
        child.tell()
        async with lock.write_lock(timeout=PATIENCE):
            pass
