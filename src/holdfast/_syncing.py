"""Logs with durable= a number of seconds: a thread for each that is written to, which syncs it so often."""

from __future__ import annotations

import atexit
import time
from threading import Thread
from weakref import WeakSet, ref

from holdfast import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.jsonl import JsonlFile

_written_to: WeakSet[JsonlFile] = WeakSet()


def sync_from_time_to_time(log: JsonlFile, interval: float) -> bool:
    """Start the thread. False when it is too late for that, because the interpreter is about to end."""
    _written_to.add(log)
    try:
        # A daemon: it must not keep the process alive. What it would have synced then, _sync_all() does.
        Thread(target=_sync, args=(ref(log), interval), name="holdfast-sync", daemon=True).start()
    except RuntimeError:
        return False
    return True


def _sync(reference: ref[JsonlFile], interval: float) -> None:
    synced = 0
    while True:
        time.sleep(interval)
        log = reference()
        if log is None:
            return
        written = _core.log_written(log._log)
        if written == synced:
            log._synced_by = 0  # the next append starts another thread; one that came just now may have missed that
            if _core.log_written(log._log) == written:
                return
        if not _bring_to_disk(log):
            return
        synced = written
        del log


def _bring_to_disk(log: JsonlFile) -> bool:
    """Sync a log. When that fails, the next append raises."""
    written = _core.log_written(log._log)
    while (rc := _core.sync_log(log._log, written)) == _core.INTERRUPTED:
        pass
    return rc == 0


@atexit.register
def _sync_all() -> None:
    """Bring to the disk what was appended last. It is safe from anything but a power cut already, so errors wait."""
    for log in list(_written_to):
        _bring_to_disk(log)
