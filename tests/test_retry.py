"""retry: another attempt, after a pause, when somebody else was faster."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from holdfast import FileLock, StateConflict, StateFile, Timeout, retry
from support import held_here


class Failing:
    """Fails so many times, and then returns its argument."""

    def __init__(self, times, error=None):
        self.times = times
        self.error = error or Timeout("app.lock")
        self.calls = 0

    def __call__(self, value=None):
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return value


at_once = {"first_pause": 0}


def test_a_function_is_called_again_until_it_succeeds():
    function = Failing(3)
    assert retry(**at_once)(function)("done") == "done"
    assert function.calls == 4


def test_the_last_error_is_raised_after_so_many_attempts():
    function = Failing(100)
    with pytest.raises(Timeout) as raised:
        retry(attempts=3, **at_once)(function)()
    assert function.calls == 3
    assert raised.value is function.error
    if sys.version_info >= (3, 11):
        assert "3 attempts" in raised.value.__notes__[0]


def test_no_attempt_begins_when_the_time_is_over():
    function = Failing(100)
    with pytest.raises(Timeout):
        retry(timeout=0)(function)()
    assert function.calls == 1


def test_pauses_end_with_the_time():
    function = Failing(100)
    began = time.monotonic()
    with pytest.raises(Timeout):
        retry(attempts=1000, timeout=0.1, first_pause=1000, longest_pause=1000)(function)()
    assert time.monotonic() - began >= 0.1
    assert function.calls >= 2


def test_what_on_retry_takes_counts_too():
    function = Failing(100)
    with pytest.raises(Timeout):
        retry(timeout=0.05, on_retry=lambda _number, _error: time.sleep(0.06), **at_once)(function)()
    assert function.calls == 1


def test_other_errors_are_raised_at_once():
    function = Failing(1, LookupError("no"))
    with pytest.raises(LookupError):
        retry()(function)()
    assert function.calls == 1


@pytest.mark.parametrize("error", [Timeout("app.lock"), StateConflict("state.json", 1, 2)])
def test_a_timeout_or_a_conflict_is_answered_by_default(error):
    function = Failing(1, error)
    retry(**at_once)(function)()
    assert function.calls == 2


def test_on_says_what_is_answered():
    function = Failing(1, LookupError("no"))
    retry(on=LookupError, **at_once)(function)()
    assert function.calls == 2


def test_a_loop_makes_attempts_until_its_block_succeeds():
    function, numbers = Failing(2), []
    for attempt in retry(**at_once):
        with attempt:
            numbers.append(attempt.number)
            function()
    assert numbers == [1, 2, 3]


def test_a_loop_raises_the_last_error():
    function = Failing(100)
    with pytest.raises(Timeout):
        for attempt in retry(attempts=2, **at_once):
            with attempt:
                function()
    assert function.calls == 2


def test_one_retry_serves_many_loops():
    both = retry(attempts=2, **at_once)
    for _ in range(3):
        function = Failing(1)
        for attempt in both:
            with attempt:
                function()
        assert function.calls == 2


def test_the_limit_of_pauses_doubles_up_to_the_longest():
    how = retry(first_pause=0.1, longest_pause=0.4)
    for number, limit in [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.4), (10_000, 0.4)]:
        pauses = [how.pause_after(number) for _ in range(200)]
        assert all(0 <= pause <= limit for pause in pauses)
        assert max(pauses) > limit / 2
        assert len(set(pauses)) > 100


def test_on_retry_is_called_before_each_pause():
    function, seen = Failing(2), []
    retry(on_retry=lambda number, error: seen.append((number, error)), **at_once)(function)()
    assert seen == [(1, function.error), (2, function.error)]


async def test_a_coroutine_function_is_called_again_until_it_succeeds():
    function = Failing(2)

    @retry(**at_once)
    async def work(value):
        await asyncio.sleep(0)
        return function(value)

    assert await work("done") == "done"
    assert function.calls == 3


async def test_an_object_with_an_asynchronous_call_is_called_again():
    function = Failing(2)

    class Work:
        async def __call__(self, value):
            return function(value)

    assert await retry(**at_once)(_named(Work()))("done") == "done"


def _named(work):
    work.__name__ = "work"
    return work


def test_a_generator_function_is_refused():
    def generate():
        yield 1

    with pytest.raises(TypeError, match="retry inside it"):
        retry()(generate)


async def test_async_for_makes_attempts_without_blocking_the_loop():
    function, turns = Failing(3), 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    async for attempt in retry(first_pause=0.02):
        with attempt:
            function()
    counter.cancel()
    assert turns > 0
    assert function.calls == 4


async def test_a_cancellation_ends_it():
    @retry(first_pause=1000, longest_pause=1000, timeout=None)
    async def work():
        raise Timeout("app.lock")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_lock_is_had_at_last(path):
    with held_here(path) as release:

        @retry(first_pause=0.001, on_retry=lambda _number, _error: release())
        def work():
            with FileLock(path, timeout=0.01):
                return "done"

        assert work() == "done"


def test_a_state_is_saved_at_last(tmp_path):
    state, other = StateFile(tmp_path / "state.json"), StateFile(tmp_path / "state.json")
    disturbances = iter([1, 2])

    @retry(**at_once)
    def change():
        before = state.load()
        for number in disturbances:
            other.save({"theirs": number})
            break
        state.save({**before.data, "mine": 1}, expect=before)

    change()
    assert state.load().data == {"theirs": 2, "mine": 1}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.5}, TypeError),
        ({"timeout": "1"}, TypeError),
        ({"first_pause": -1}, ValueError),
        ({"longest_pause": float("nan")}, ValueError),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error):
    with pytest.raises(error):
        retry(**arguments)
