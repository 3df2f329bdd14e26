"""Tasks of one event loop that want the same file: who holds it, who is next, and the one thread that waits for all."""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from contextlib import suppress
from functools import lru_cache
from threading import Lock as Mutex
from weakref import WeakKeyDictionary, WeakValueDictionary

from holdfast import _core
from holdfast._base import canonical
from holdfast.aio import _threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task
    from collections.abc import MutableMapping
    from typing import Any, TypeAlias

    from holdfast._core import Waiter

    # A task, or what stands for all tasks of a loop that share a hold.
    Owner: TypeAlias = "Task[Any] | tuple[object, AbstractEventLoop]"

_TURN = 0.02
"""Seconds after which tasks of one loop, handing a lock to each other, let other processes have it in between."""

_AT_ONCE = 64
"""How many turns may come one after the other before the loop is given back."""

AN_AGE = 10**18
"""Nanoseconds, 31 years. Not for ever: the core would then look whether the waiting thread itself holds the lock, which
it may have acquired before for a task of another loop."""


class Turn:
    """What a task wants to do as soon as it is its turn."""

    can_be_undone = True
    """Whether the task need not wait to hear whether it was done when it is too late, or cancelled."""

    def __init__(self, future: Future[int]) -> None:
        self.future = future
        """What came of it: a result of the core."""
        self.answer: int | None = None
        """The same, as a thread knows it, before the loop hears of it."""

    def attempt(self) -> int:
        """Do it if that needs no waiting: a result of the core."""
        raise NotImplementedError

    def wait(self, began: int, waiter: Waiter) -> int:
        """Wait for it, in a thread: a result of the core."""
        raise NotImplementedError

    def settle(self, rc: int, wanted: bool) -> None:
        """It has come to this; or if it is not wanted any more, undo it."""


class _Wait:
    """A thread's wait for the first turn of a line."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.waiter = _core.new_waiter()
        self.outcome = _core.BUSY  # what the turn comes to if the wait is ended

    def end(self, outcome: int) -> None:
        self.outcome = outcome
        _core.cancel_waiter(self.waiter)

    def go_on(self) -> int:
        """Wait, in the thread, to the end: a result of the core."""
        began, rc = _core.now(), _core.BUSY
        try:
            while rc in (_core.BUSY, _core.INTERRUPTED):
                rc = self.turn.wait(began, self.waiter)
        except MemoryError:
            return -errno.ENOMEM
        return self.outcome if rc == _core.CANCELLED else rc


class Line:
    """The tasks of one loop that want one file.

    Only the first of them asks the kernel: at once whenever a task of this loop has released the lock, and in a thread
    when it is not one of these that holds it. Everything here runs in the loop's thread, but where it says otherwise.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: OrderedDict[Turn, None] = OrderedDict()
        self._holding: dict[Owner, int] = {}
        self._wait: _Wait | None = None  # for the first of those, if a thread waits for it
        self._ours_since: float | None = None

    def holds(self, owner: Owner) -> bool:
        """Whether a task holds the lock, by whatever object."""
        return owner in self._holding

    def enter(self, owner: Owner) -> None:
        """Note that a task holds the lock."""
        self._holding[owner] = self._holding.get(owner, 0) + 1

    def leave(self, owner: Owner) -> None:
        """Note that a task has released it."""
        left = self._holding[owner] - 1
        if left:
            self._holding[owner] = left
        else:
            del self._holding[owner]
        if self.waiting:
            self._advance()

    def queue(self, turn: Turn) -> None:
        """Have a task wait for its turn."""
        self.waiting[turn] = None
        self._advance()

    def end(self, turn: Turn, outcome: int) -> None:
        """Let a turn come to this, unless it is done. If a thread asks for it just now, the thread may know better."""
        if self._wait is not None and turn is self._wait.turn:
            self._wait.end(outcome)
            if turn.can_be_undone and not turn.future.done():
                turn.future.set_result(outcome)
        elif turn in self.waiting:
            del self.waiting[turn]
            _settle(turn, outcome)
            self._advance()  # those behind it may want less

    def _advance(self) -> None:
        """Give the file to those whose turn it is, as far as it can be had at once; else wait for it."""
        turns = 0
        while self.waiting and self._wait is None:
            turn = next(iter(self.waiting))
            if turn.future.done():  # cancelled, and about to say so
                del self.waiting[turn]
                continue
            if turns == _AT_ONCE:
                self.loop.call_soon(self._advance)
                return
            rc = _core.BUSY if self._is_others_turn() else turn.attempt()
            if rc != _core.BUSY:
                turns += 1
                del self.waiting[turn]
                _settle(turn, rc)
            elif self._holding:
                return  # until they release it
            else:
                self._ask(turn)
        if not self.waiting:
            self._ours_since = None

    def _is_others_turn(self) -> bool:
        """Whether this loop has had the file for so long that other processes should get it."""
        now = time.monotonic()
        if self._ours_since is None:
            self._ours_since = now
        return now - self._ours_since > _TURN and not self._holding

    def _ask(self, turn: Turn) -> None:
        """Have a thread wait for the turn that is next."""
        self._ours_since = None
        wait = self._wait = _Wait(turn)

        def ask() -> None:
            rc = turn.answer = wait.go_on()
            try:
                self.loop.call_soon_threadsafe(self._answered, rc)
            except RuntimeError:  # the loop was closed meanwhile
                turn.settle(rc, wanted=False)

        try:
            _threads.start(ask)
        except RuntimeError as error:  # no more threads
            del self.waiting[turn]
            self._wait = None
            if not turn.future.done():
                turn.future.set_exception(error)

    def _answered(self, rc: int) -> None:
        turn, _ = self.waiting.popitem(last=False)
        self._wait = None
        _settle(turn, rc)
        self._advance()

    def forget(self, owner: Owner) -> None:
        """The same as leave(), from any thread, also after the end of the loop."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.leave, owner)


def _settle(turn: Turn, rc: int) -> None:
    wanted = not turn.future.done()
    turn.settle(rc, wanted)
    if wanted:
        turn.future.set_result(rc)


_mutex = Mutex()
_lines: WeakKeyDictionary[AbstractEventLoop, MutableMapping[str, Line]] = WeakKeyDictionary()


def line_of(loop: AbstractEventLoop, kind: str, path: str) -> Line:
    """The line for a file, of which there is one for each loop and kind of lock, however the path is spelled."""
    key = f"{kind}:{_canonical(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))}"
    with _mutex:
        lines = _lines.get(loop)
        if lines is None:
            lines = _lines[loop] = WeakValueDictionary()
        line = lines.get(key)
        if line is None:
            line = lines[key] = Line(loop)
        return line


# If a directory becomes a link meanwhile, tasks may queue in two lines, or in one for two files: no harm to the locks.
_canonical = lru_cache(1024)(canonical)


def _after_fork() -> None:
    global _mutex
    _mutex = Mutex()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
