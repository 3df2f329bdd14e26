"""The locks made with is_singleton=True that are still alive.

Made of the interpreter's own parts: threading and weakref would cost more than the rest of the import, and importing
them later, at the first use, could leave a child forked at that moment with a module that is never finished.
"""

from __future__ import annotations

import os
from _thread import RLock
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from holdfast._base import BaseLock

    L = TypeVar("L", bound=BaseLock)

_mutex = RLock()  # reentrant: a lock that is collected while it is held forgets itself
_instances: dict[tuple[type, str], ref[BaseLock]] = {}


def find(candidate: L, canonical: Callable[[str], str]) -> L:
    """The instance for the candidate's class and file: an earlier one, made with the same arguments, or this."""
    key = type(candidate), canonical(candidate.lock_file)
    with _mutex:
        reference = _instances.get(key)
        instance = None if reference is None else reference()
        # An instance with a relative path names another file once the working directory has changed.
        if instance is None or canonical(instance.lock_file) != key[1]:
            _instances[key] = ref(candidate, lambda reference: _forget(key, reference))
            return candidate
    theirs = candidate._settings()
    differing = [
        f"{name} is {ours!r} and not {theirs[name]!r}"
        for name, ours in instance._settings().items()
        if ours != theirs[name]
    ]
    if differing:
        raise ValueError(
            f"the singleton lock on {instance.lock_file!r} was made with other arguments: {', '.join(differing)}"
        )
    return instance  # type: ignore[return-value]  # of the same class, as the key says


def _forget(key: tuple[type, str], reference: ref[BaseLock]) -> None:
    with _mutex:
        if _instances.get(key) is reference:
            del _instances[key]


def _after_fork() -> None:
    global _mutex
    _mutex = RLock()  # a thread that is gone may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
