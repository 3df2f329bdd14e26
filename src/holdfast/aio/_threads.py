"""Threads of our own for what would block an event loop, so that a full default executor can keep nothing waiting."""

from __future__ import annotations

import os
import threading
from asyncio import get_running_loop
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_IDLE = 5.0
"""Seconds after which a thread that nobody needs ends."""

_MOST = 32
"""How many calls are at work at a time. Waits for locks, and what ends by giving a lock back, do not count."""

_mutex = threading.Lock()
_idle: deque[_Worker] = deque()
_queue: deque[Callable[[], None]] = deque()
_at_work = 0


class _Worker:
    """A thread that does one piece of work after the other."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._wake = threading.Lock()  # held while there is nothing to do
        self._wake.acquire()
        threading.Thread(target=self._run, name="holdfast-aio", daemon=True).start()

    def give(self, work: Callable[[], None]) -> None:
        """Give an idle thread something to do."""
        self._work = work
        self._wake.release()

    def _run(self) -> None:
        while self._work is not None:
            self._work()
            self._work = None
            _idle.append(self)
            if not self._wake.acquire(timeout=_IDLE) and self._leave():
                return

    def _leave(self) -> bool:
        """Be idle no longer, unless somebody was just about to give this thread something to do."""
        with _mutex:
            if self in _idle:
                _idle.remove(self)
                return True
        self._wake.acquire()
        return False


def start(work: Callable[[], None]) -> None:
    """Have a thread do this work, which raises nothing: one that is idle, or a new one."""
    with _mutex:
        worker = _idle.pop() if _idle else None
    if worker is None:
        _Worker(work)
    else:
        worker.give(work)


def _start_in_turn(work: Callable[[], None]) -> None:
    global _at_work
    with _mutex:
        if _at_work == _MOST:
            _queue.append(work)
            return
        _at_work += 1
    try:
        start(lambda: _work_on(work))
    except BaseException:
        with _mutex:
            _at_work -= 1
        raise


def _work_on(work: Callable[[], None]) -> None:
    """Do this, and then what has queued up meanwhile."""
    global _at_work
    while True:
        work()
        with _mutex:
            if not _queue:
                _at_work -= 1
                return
            work = _queue.popleft()


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function in a thread, in the context of the caller. Its result, for the loop that is running."""
    future, work = _prepared(partial(function, *args, **kwargs))
    _start_in_turn(work)
    return future


def call_at_once(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """The same for what takes long, or must not wait for others because they may wait for it."""
    future, work = _prepared(partial(function, *args, **kwargs))
    start(work)
    return future


def _prepared(function: Callable[[], T]) -> tuple[Future[T], Callable[[], None]]:
    loop = get_running_loop()
    future: Future[T] = loop.create_future()
    context = copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # whoever asked was cancelled
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(raisable(error))

    def work() -> None:
        if future.cancelled():
            return  # while it was queued
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    return future, work


def raisable(error: BaseException) -> BaseException:
    """An error that a future can carry: StopIteration it cannot."""
    if not isinstance(error, StopIteration):
        return error
    other = RuntimeError("a function that was to be called raised StopIteration")
    other.__cause__ = error
    return other


def _after_fork() -> None:
    global _mutex, _at_work
    _mutex = threading.Lock()
    _idle.clear()
    _queue.clear()
    _at_work = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
