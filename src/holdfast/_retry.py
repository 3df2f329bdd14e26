"""Trying again, after a pause, what somebody else was faster at."""

from __future__ import annotations

import random
import sys
import time

from holdfast._base import Timeout, resolve_timeout, seconds
from holdfast._conflict import StateConflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

    Errors = type[BaseException] | tuple[type[BaseException], ...]


class Attempt:
    """One of several attempts: a context manager that swallows the error if there will be another.

    >>> from holdfast import retry
    >>> for attempt in retry(attempts=3):
    ...     with attempt:
    ...         print(attempt.number)
    1
    """

    __slots__ = ("_course", "number")

    def __init__(self, course: _Course, number: int) -> None:
        self._course = course
        self.number = number
        """Which attempt this is, counted from 1."""

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return error is not None and self._course.goes_on_after(error)


class _Course:
    """The attempts of one call or loop."""

    def __init__(self, how: retry) -> None:
        self._how = how
        self._began = time.monotonic()
        self._number = 0
        self._pause: float | None = 0.0  # before the next attempt; None when there is none

    def next(self) -> Attempt:
        """The next attempt, to be made after the pause."""
        self._number += 1
        self._pause = None  # unless it fails
        return Attempt(self, self._number)

    @property
    def pause(self) -> float | None:
        """How long to wait before the next attempt, in seconds; None when there is none."""
        return self._pause

    def _left(self) -> float:
        return self._how.timeout - (time.monotonic() - self._began)

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether there is another attempt. If it was the last, the error says so."""
        how = self._how
        if not isinstance(error, how.errors):
            return False
        if self._number < how.attempts and self._left() > 0:
            if how.on_retry is not None:
                how.on_retry(self._number, error)
            left = self._left()  # what on_retry did may have taken long
            if left > 0:
                self._pause = min(how.pause_after(self._number), left)
                return True
        took = time.monotonic() - self._began
        if sys.version_info >= (3, 11):
            times = "1 attempt" if self._number == 1 else f"{self._number} attempts"
            error.add_note(f"This was the last of {times} in {took:.3g} seconds.")
        return False


class retry:  # noqa: N801 - it reads as a verb
    """Try again, after a pause, when somebody else was faster: a decorator, or what a loop runs over.

    Errors of the kinds `on` are answered with another attempt: by default Timeout and StateConflict. There are at most
    so many `attempts`, and none begins later than `timeout` seconds (None: any time) after the first. The last error is
    raised. The pause before an attempt is chosen at random below a limit that begins at `first_pause` seconds and
    doubles each time, up to `longest_pause`: so those who met once do not meet again at the same moment.
    `on_retry(attempt, error)` is called before each pause, with the number of the attempt that has failed.

    Coroutine functions are decorated in the same way, and `async for` takes the place of `for`.

    >>> from holdfast import FileLock, StateFile, retry
    >>> state = StateFile("state.json")

    >>> @retry(attempts=5, timeout=30)
    ... def dim():
    ...     before = state.load()
    ...     state.save({**before.data, "theme": "dark"}, expect=before)
    >>> dim()

    >>> for attempt in retry(attempts=5):
    ...     with attempt, FileLock("app.lock", timeout=1):
    ...         pass
    """

    def __init__(
        self,
        *,
        on: Errors = (Timeout, StateConflict),
        attempts: int = 10,
        timeout: float | None = 60.0,
        first_pause: float = 0.05,
        longest_pause: float = 5.0,
        on_retry: Callable[[int, BaseException], object] | None = None,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int):
            raise TypeError(f"attempts must be an int, not {type(attempts).__name__}")
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        self.errors = on
        self.attempts = attempts
        allowed = -1.0 if timeout is None else resolve_timeout(timeout, True)
        self.timeout = float("inf") if allowed < 0 else allowed
        self._first_pause = _pause("first_pause", first_pause)
        self._longest_pause = _pause("longest_pause", longest_pause)
        self.on_retry = on_retry

    def pause_after(self, number: int) -> float:
        """How long to wait after so many attempts, in seconds: never twice the same."""
        return random.uniform(0, min(self._first_pause * 2 ** min(number - 1, 100), self._longest_pause))

    def __iter__(self) -> Iterator[Attempt]:
        course = _Course(self)
        while (pause := course.pause) is not None:
            if pause:
                time.sleep(pause)
            yield course.next()

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        from asyncio import sleep

        course = _Course(self)
        while (pause := course.pause) is not None:
            if pause:
                await sleep(pause)
            yield course.next()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        from functools import wraps
        from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(f"{function!r} does not run when it is called; retry inside it")
        if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
            again: Callable[P, R] = self._decorated_async(function)
            return again

        @wraps(function)
        def trying(*args: P.args, **kwargs: P.kwargs) -> R:
            for attempt in self:
                with attempt:
                    return function(*args, **kwargs)
            raise AssertionError("the last attempt returned or raised")

        return trying

    def _decorated_async(self, function: Any) -> Any:
        from functools import wraps

        @wraps(function)
        async def trying(*args: Any, **kwargs: Any) -> Any:
            async for attempt in self:
                with attempt:
                    return await function(*args, **kwargs)
            raise AssertionError("the last attempt returned or raised")

        return trying


def _pause(name: str, value: float) -> float:
    pause = seconds(name, value)
    if not 0 <= pause < 1e9:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return pause
