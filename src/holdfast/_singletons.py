"""The locks made with is_singleton=True that are still alive."""

from __future__ import annotations

import os
from threading import RLock
from weakref import WeakValueDictionary

from holdfast._base import BaseLock, canonical

_mutex = RLock()
_instances: WeakValueDictionary[tuple[type, str], BaseLock] = WeakValueDictionary()


def find(candidate: BaseLock) -> BaseLock:
    """The instance for the candidate's class and file: an earlier one, made with the same arguments, or this."""
    key = type(candidate), canonical(candidate.lock_file)
    with _mutex:
        instance = _instances.get(key)
        # An instance with a relative path names another file once the working directory has changed.
        if instance is None or canonical(instance.lock_file) != key[1]:
            _instances[key] = candidate
            return candidate
    differing = [
        f"{name} is {ours!r} and not {theirs!r}"
        for (name, ours), theirs in zip(instance._settings().items(), candidate._settings().values(), strict=True)
        if ours != theirs
    ]
    if differing:
        raise ValueError(
            f"the singleton lock on {instance.lock_file!r} was made with other arguments: {', '.join(differing)}"
        )
    return instance


def _after_fork() -> None:
    global _mutex
    _mutex = RLock()  # a thread that is gone may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
