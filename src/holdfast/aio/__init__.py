"""The same for asyncio: what is free is had at once, and what is not is waited for without blocking the loop.

>>> import asyncio
>>> from holdfast.aio import AsyncFileLock, AsyncJsonlFile
>>> async def main():
...     await AsyncJsonlFile("events.jsonl").append({"event": "started"})
...     async with AsyncFileLock("app.lock", timeout=10):
...         pass  # one task of one process at a time
>>> asyncio.run(main())
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.aio._cancelled import happened as happened
    from holdfast.aio.jsonl import AsyncJsonlFile as AsyncJsonlFile
    from holdfast.aio.jsonl import AsyncRecords as AsyncRecords
    from holdfast.aio.locks import AsyncAcquireReturnProxy as AsyncAcquireReturnProxy
    from holdfast.aio.locks import AsyncBaseLock as AsyncBaseLock
    from holdfast.aio.locks import AsyncFileLock as AsyncFileLock
    from holdfast.aio.locks import AsyncReadWriteLock as AsyncReadWriteLock
    from holdfast.aio.state import AsyncStateFile as AsyncStateFile

_HOME = {
    "AsyncAcquireReturnProxy": "locks",
    "AsyncBaseLock": "locks",
    "AsyncFileLock": "locks",
    "AsyncJsonlFile": "jsonl",
    "AsyncReadWriteLock": "locks",
    "AsyncRecords": "jsonl",
    "AsyncStateFile": "state",
    "happened": "_cancelled",
}

__all__ = [
    "AsyncAcquireReturnProxy",
    "AsyncBaseLock",
    "AsyncFileLock",
    "AsyncJsonlFile",
    "AsyncReadWriteLock",
    "AsyncRecords",
    "AsyncStateFile",
    "happened",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a lock needs no JSON."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
