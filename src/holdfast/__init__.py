"""Files that many processes write, and locks between them: fast, safe, never leaking.

>>> from holdfast import JsonlFile
>>> JsonlFile("events.jsonl").append({"event": "started"})  # whole or not at all, from any number of processes

>>> from holdfast import FileLock
>>> with FileLock("app.lock", timeout=10):
...     pass  # one process at a time
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast._base import AcquireReturnProxy as AcquireReturnProxy
    from holdfast._base import BaseFileLock as BaseFileLock
    from holdfast._base import Timeout as Timeout
    from holdfast._changes import Change as Change
    from holdfast._changes import ValueChange as ValueChange
    from holdfast._conflict import DocumentConflict as DocumentConflict
    from holdfast._conflict import StateConflict as StateConflict
    from holdfast._damage import Damage as Damage
    from holdfast._damage import Report as Report
    from holdfast._holders import Holder as Holder
    from holdfast._holders import holders as holders
    from holdfast._reading import DamagedLine as DamagedLine
    from holdfast._reading import Records as Records
    from holdfast._retry import Attempt as Attempt
    from holdfast._retry import retry as retry
    from holdfast.aio.locks import AsyncFileLock as AsyncFileLock
    from holdfast.atomic import atomic_write as atomic_write
    from holdfast.atomic import write_bytes as write_bytes
    from holdfast.atomic import write_text as write_text
    from holdfast.documents import DocumentStats as DocumentStats
    from holdfast.documents import DocumentStore as DocumentStore
    from holdfast.documents import StoreFull as StoreFull
    from holdfast.jsonl import JsonlFile as JsonlFile
    from holdfast.jsonl import JsonlStats as JsonlStats
    from holdfast.locks import FileLock as FileLock
    from holdfast.lockset import LockSet as LockSet
    from holdfast.lockset import lock_all as lock_all
    from holdfast.rwlock import ReadWriteLock as ReadWriteLock
    from holdfast.softlock import SoftFileLock as SoftFileLock
    from holdfast.state import DamagedState as DamagedState
    from holdfast.state import Snapshot as Snapshot
    from holdfast.state import StateFile as StateFile

__version__ = "0.1.0"

_HOME = {
    "AcquireReturnProxy": "_base",
    "AsyncFileLock": "aio.locks",
    "Attempt": "_retry",
    "BaseFileLock": "_base",
    "Change": "_changes",
    "Damage": "_damage",
    "DamagedLine": "_reading",
    "DamagedState": "state",
    "DocumentConflict": "_conflict",
    "DocumentStats": "documents",
    "DocumentStore": "documents",
    "FileLock": "locks",
    "Holder": "_holders",
    "JsonlFile": "jsonl",
    "JsonlStats": "jsonl",
    "LockSet": "lockset",
    "ReadWriteLock": "rwlock",
    "Records": "_reading",
    "Report": "_damage",
    "Snapshot": "state",
    "SoftFileLock": "softlock",
    "StateConflict": "_conflict",
    "StateFile": "state",
    "StoreFull": "documents",
    "Timeout": "_base",
    "ValueChange": "_changes",
    "atomic_write": "atomic",
    "holders": "_holders",
    "lock_all": "lockset",
    "retry": "_retry",
    "write_bytes": "atomic",
    "write_text": "atomic",
}

__all__ = [
    "AcquireReturnProxy",
    "AsyncFileLock",
    "Attempt",
    "BaseFileLock",
    "Change",
    "Damage",
    "DamagedLine",
    "DamagedState",
    "DocumentConflict",
    "DocumentStats",
    "DocumentStore",
    "FileLock",
    "Holder",
    "JsonlFile",
    "JsonlStats",
    "LockSet",
    "ReadWriteLock",
    "Records",
    "Report",
    "Snapshot",
    "SoftFileLock",
    "StateConflict",
    "StateFile",
    "StoreFull",
    "Timeout",
    "ValueChange",
    "atomic_write",
    "holders",
    "lock_all",
    "retry",
    "write_bytes",
    "write_text",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import holdfast` costs next to nothing."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"holdfast.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
