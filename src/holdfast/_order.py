"""HOLDFAST_DEBUG=order: remember in which order locks are taken, and object to two orders that could deadlock.

A thread that takes B while it holds A adds the edge A -> B to a graph that the whole process shares. Taking A while
holding B, where the graph leads from A to B, is the other order: two threads doing the two at once could wait for each
other for ever, whether or not they do so today. Tries that do not wait are exempt.
"""

from __future__ import annotations

import inspect
import os
import sys
from functools import wraps
from threading import RLock, local
from weakref import ref

from holdfast._base import canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from holdfast._base import BaseLock

_PACKAGE = os.path.dirname(__file__)


class LockOrderError(RuntimeError):
    """Two places in the code take the same locks in orders that could deadlock.

    >>> from holdfast._order import LockOrderError
    >>> issubclass(LockOrderError, RuntimeError)
    True
    """


class _Held(local):
    """The locks this thread holds, in the order it took them: where each was taken, and the lock."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[str, ref[BaseLock]]] = {}

    def places(self) -> dict[str, str]:
        """Where each lock was taken that is still held: another thread may have released one, or it was dropped."""
        self.taken = {
            key: (place, lock)
            for key, (place, lock) in self.taken.items()
            if (alive := lock()) is not None and alive.lock_counter > 0
        }
        return {key: place for key, (place, _) in self.taken.items()}


_held = _Held()
_mutex = RLock()  # a signal handler may take a lock while this thread is in here
_edges: dict[str, dict[str, tuple[str, str]]] = {}  # from -> to -> where both were taken


def watch(cls: type[BaseLock], taking: tuple[str, ...], giving: tuple[str, ...]) -> None:
    """Make a class of locks report what it takes and gives back."""
    for name in taking:
        setattr(cls, name, _watched_taking(getattr(cls, name)))
    for name in giving:
        setattr(cls, name, _watched_giving(getattr(cls, name)))


def _watched_taking(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @wraps(method)
    def taking(self: BaseLock, *args: Any, **kwargs: Any) -> Any:
        key, place = canonical(self.lock_file), _caller()
        held = _held.places()
        waits = key not in held and _may_wait(self, signature.bind(self, *args, **kwargs).arguments)
        if waits:
            _check(key, place, held)
        result = method(self, *args, **kwargs)
        if waits:
            _remember(key, place, held)
        _held.taken.setdefault(key, (place, ref(self)))
        return result

    return taking


def _may_wait(lock: BaseLock, arguments: Mapping[str, Any]) -> bool:
    """Whether an acquisition waits if it must. One that does not is no part of a deadlock."""
    timeout, blocking = arguments.get("timeout"), arguments.get("blocking")
    return bool(
        (lock.timeout if timeout is None else timeout) != 0 and (lock.blocking if blocking is None else blocking)
    )


def _watched_giving(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def giving(self: BaseLock, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        finally:
            if self.lock_counter == 0:
                _held.taken.pop(canonical(self.lock_file), None)

    return giving


def _caller() -> str:
    """The place in the user's code that calls us."""
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == _PACKAGE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _check(key: str, place: str, places: dict[str, str]) -> None:
    """Object if a lock is taken that, elsewhere, was held before one of those held now."""
    with _mutex:
        for held, since in places.items():
            if (other := _first_step(key, held)) is not None:
                raise LockOrderError(
                    f"two orders of the same locks could deadlock: here {held!r} (taken at {since}) is held while "
                    f"{key!r} is taken at {place}, but elsewhere {key!r} (taken at {other[0]}) was held when the "
                    f"other was taken at {other[1]}. Take them in one order, or together with lock_all()."
                )


def _first_step(start: str, goal: str) -> tuple[str, str] | None:
    """Where the first edge was seen on a way from one lock to another, or None if there is no way."""
    for step, places in _edges.get(start, {}).items():
        seen = {start, step}
        front = [step]
        while front:
            lock = front.pop()
            if lock == goal:
                return places
            following = _edges.get(lock, {}).keys() - seen
            seen |= following
            front.extend(following)
    return None


def _remember(key: str, place: str, places: dict[str, str]) -> None:
    with _mutex:
        for held, since in places.items():
            _edges.setdefault(held, {}).setdefault(key, (since, place))


def _after_fork() -> None:
    global _held, _mutex
    _held, _mutex = _Held(), RLock()  # the child holds nothing, and a thread that is gone may have held the mutex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
