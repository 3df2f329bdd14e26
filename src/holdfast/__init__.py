"""File locks between processes: fast, waiting in the kernel, never leaking.

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
    from holdfast._holders import Holder as Holder
    from holdfast._holders import holders as holders
    from holdfast.locks import FileLock as FileLock
    from holdfast.lockset import LockSet as LockSet
    from holdfast.lockset import lock_all as lock_all
    from holdfast.rwlock import ReadWriteLock as ReadWriteLock
    from holdfast.softlock import SoftFileLock as SoftFileLock

__version__ = "0.1.0"

_HOME = {
    "AcquireReturnProxy": "_base",
    "BaseFileLock": "_base",
    "FileLock": "locks",
    "Holder": "_holders",
    "LockSet": "lockset",
    "ReadWriteLock": "rwlock",
    "SoftFileLock": "softlock",
    "Timeout": "_base",
    "holders": "_holders",
    "lock_all": "lockset",
}

__all__ = [
    "AcquireReturnProxy",
    "BaseFileLock",
    "FileLock",
    "Holder",
    "LockSet",
    "ReadWriteLock",
    "SoftFileLock",
    "Timeout",
    "holders",
    "lock_all",
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
