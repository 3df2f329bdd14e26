"""Values of YAML and TOML in JSON, such that they come back as they were: dates, bytes, NaN, keys that are no texts.

A value that JSON does not have is an object with one key that begins with a dollar sign. Objects that look like one of
these are written as lists of pairs.
"""

# What is in a container of anything is anything, and not unknown, as the strict mode has it.
# pyright: basic

from __future__ import annotations

from datetime import date, datetime, time
from math import isfinite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_READERS: dict[str, Callable[[Any], Any]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$float": float,
    "$bytes": bytes.fromhex,
    "$set": lambda items: {*map(untagged, items)},
    "$items": lambda items: {_key(untagged(key)): untagged(value) for key, value in items},
}


def tagged(value: Any) -> Any:
    """The value as JSON can have it.

    >>> from holdfast._tagged import tagged
    >>> tagged({1: float("inf"), "a": [None]})
    {'$items': [[1, {'$float': 'inf'}], ['a', [None]]]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else {"$float": str(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not value.keys() & _READERS.keys():
            return {key: tagged(item) for key, item in value.items()}
        return {"$items": [[tagged(key), tagged(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [*map(tagged, value)]
    return _tagged_scalar(value)


def _tagged_scalar(value: Any) -> dict[str, Any]:
    if isinstance(value, (datetime, date, time)):  # a datetime is a date, too
        kind = "datetime" if isinstance(value, datetime) else type(value).__name__
        return {f"${kind}": value.isoformat()}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, set):
        return {"$set": [*map(tagged, value)]}
    raise TypeError(f"a {type(value).__name__} cannot be recorded in a history")


def untagged(value: Any) -> Any:
    """The value that was tagged().

    >>> from holdfast._tagged import untagged
    >>> untagged({"when": {"$date": "2024-02-29"}})
    {'when': datetime.date(2024, 2, 29)}
    """
    if isinstance(value, list):
        return [*map(untagged, value)]
    if isinstance(value, dict):
        for tag, item in value.items() if len(value) == 1 else ():
            if tag in _READERS:
                return _READERS[tag](item)
        return {key: untagged(item) for key, item in value.items()}
    return value


def _key(value: Any) -> Any:
    return tuple(map(_key, value)) if isinstance(value, list) else value
