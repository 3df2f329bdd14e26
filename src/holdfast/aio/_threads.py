"""Threads of our own for what would block an event loop, so that a full default executor can keep nothing waiting."""

from __future__ import annotations

import os
import threading
from asyncio import get_running_loop
from collections import deque
from contextlib import suppress
from contextvars import copy_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_IDLE = 5.0
"""Seconds after which a thread that nobody needs ends."""

_mutex = threading.Lock()
_idle: deque[_Worker] = deque()


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


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function in a thread, in the context of the caller. Its result, for the loop that is running."""
    loop = get_running_loop()
    future: Future[T] = loop.create_future()
    context = copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # whoever asked was cancelled
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    start(work)
    return future


def _after_fork() -> None:
    global _mutex
    _mutex = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
