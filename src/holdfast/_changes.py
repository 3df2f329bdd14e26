"""What differs between two states, and how to get from one to the other. States are made of what JSON and YAML have."""

# What is in a container of anything is anything, and not unknown, as the strict mode has it.
# pyright: basic

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import Any, Literal


@dataclass(frozen=True)
class ValueChange:
    """One value that changed from `old` to `new`, at a path such as `/tasks/3/title`: a JSON Pointer (RFC 6901).

    `kind` tells a value that was None from one that was not there.

    >>> from holdfast._changes import differences
    >>> for change in differences({"theme": "dark"}, {"theme": "light", "size": 12}):
    ...     print(change)
    /theme: 'dark' -> 'light'
    /size: added 12
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"{self.path}: {self.old!r} -> {self.new!r}"
        return f"{self.path}: {self.kind} {self.new if self.kind == 'added' else self.old!r}"


@dataclass(frozen=True)
class Change:
    """What a history knows of one revision: when and by which process it was saved, and what that changed.

    `time` is in UTC. If `pid` is None, another program had changed the file: nobody knows who, and `time` is when that
    was found.

    >>> from holdfast import StateFile
    >>> state = StateFile("state.json", history=True)
    >>> state.save({"theme": "dark"})
    1
    >>> print(*state.history()[0].changes)
    /theme: added 'dark'
    """

    revision: int
    time: datetime
    pid: int | None
    host: str | None
    changes: tuple[ValueChange, ...]


def identical(one: Any, other: Any, ordered: bool = True) -> bool:
    """Whether two values are the same when written to a file: 1, 1.0 and True are equal, and not the same.

    >>> from holdfast._changes import identical
    >>> identical([1, {"a": None}], [1, {"a": None}]), identical(1, True)
    (True, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        keys = [*one] == [*other] if ordered else one.keys() == other.keys()
        return keys and all(identical(value, other[key], ordered) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(identical(*pair, ordered) for pair in zip(one, other, strict=True))
    if isinstance(one, float):
        return repr(one) == repr(other)  # the sign of zero, and NaN
    if hasattr(one, "isoformat"):
        return bool(one.isoformat() == other.isoformat())  # the same moment may be another time
    return bool(one == other)


def differences(old: Any, new: Any, path: str = "") -> Iterator[ValueChange]:
    """The changes that lead from one value to another."""
    if isinstance(old, dict) and isinstance(new, dict) and _can_be_followed(old, new):
        yield from _differences_of_mappings(old, new, path)
    elif isinstance(old, list) and isinstance(new, list) and _is_aligned(old, new):
        yield from _differences_of_lists(old, new, path)
    elif not identical(old, new):
        yield ValueChange(path, "changed", old, new)


def _differences_of_mappings(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[ValueChange]:
    for key, value in old.items():
        if key not in new:
            yield ValueChange(_below(path, key), "removed", old=value)
    for key, value in new.items():
        if key in old:
            yield from differences(old[key], value, _below(path, key))
        else:
            yield ValueChange(_below(path, key), "added", new=value)


def _differences_of_lists(old: list[Any], new: list[Any], path: str) -> Iterator[ValueChange]:
    for index in reversed(range(len(new), len(old))):
        yield ValueChange(f"{path}/{index}", "removed", old=old[index])
    for index, value in enumerate(new):
        if index < len(old):
            yield from differences(old[index], value, f"{path}/{index}")
        else:
            yield ValueChange(f"{path}/{index}", "added", new=value)


def _is_aligned(old: list[Any], new: list[Any]) -> bool:
    """Whether lists are better compared item by item: not when something was put in or taken out before the end."""
    return len(old) == len(new) or identical(old[: len(new)], new[: len(old)])


def _can_be_followed(old: dict[Any, Any], new: dict[Any, Any]) -> bool:
    """Whether single changes lead from one mapping to the other, in the same order: YAML has keys that are no texts."""
    if not all(isinstance(key, str) for mapping in (old, new) for key in mapping):
        return False
    return [key for key in old if key in new] + [key for key in new if key not in old] == [*new]


def _below(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def applied(state: Any, change: ValueChange) -> Any:
    """The state after a change, which is made in place where it can be. ValueError if it does not fit the state.

    >>> from holdfast._changes import ValueChange, applied
    >>> applied({"tasks": [{"done": False}]}, ValueChange("/tasks/0/done", "changed", False, True))
    {'tasks': [{'done': True}]}
    """
    try:
        return _applied(state, change)
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"there is nothing at {change.path} that could be {change.kind}") from error


def _applied(state: Any, change: ValueChange) -> Any:
    whole = [state]  # so that the state, too, is something in a place
    place: Any = whole
    last: Any = 0
    for part in change.path.split("/")[1:]:
        place = place[last]
        last = int(part) if isinstance(place, list) else part.replace("~1", "/").replace("~0", "~")
    if change.kind == "added":
        _add(place, last, change.new)
    elif not identical(place[last], change.old):
        raise LookupError
    elif change.kind == "removed":
        del place[last]
    else:
        place[last] = change.new
    return whole[0]


def _add(place: Any, key: Any, value: Any) -> None:
    if isinstance(place, list) and key == len(place):
        place.append(value)
    elif isinstance(place, dict) and key not in place:
        place[key] = value
    else:
        raise LookupError(key)
