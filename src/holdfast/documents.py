"""Directories of small documents that are read from memory and written behind."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from weakref import WeakValueDictionary

from holdfast import _contents, _core
from holdfast._base import check_bool, default_timeout, resolve_timeout, seconds
from holdfast._conflict import DocumentConflict
from holdfast._contents import Contents
from holdfast._keys import bytes_of, check_suffix, companion_of, document_of, is_long, key_of, name_of
from holdfast._write_behind import Document, Queue
from holdfast.atomic import Rescued, replacing
from holdfast.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Self

    from holdfast._write_behind import Operation

    Mapping = MutableMapping[str, Any]
else:
    Mapping = MutableMapping

_IDLE = 1.0
"""Seconds after which a writer thread without work ends; until then it keeps its store."""

_AT_EXIT = 10.0
"""Seconds that all stores together have at the end of the interpreter."""

_MEMORY = 10_000
"""Of how many documents that are not kept a store remembers what it saw of them."""

_COUNTERS = {
    "writes": _core.WRITES,
    "deletions": _core.DELETIONS,
    "coalesced": _core.COALESCED,
    "drops": _core.DROPS,
    "conflicts": _core.CONFLICTS,
    "errors": _core.ERRORS,
}

_WHEN_FULL = ("block", "raise", "drop_oldest")


class StoreFull(RuntimeError):
    """More is waiting to be written than the store may hold. The document was not taken.

    >>> from holdfast import StoreFull
    >>> issubclass(StoreFull, RuntimeError)
    True
    """


_NOTHING: Any = object()


class _Removed:
    """The type of DocumentStore.REMOVED."""

    def __repr__(self) -> str:
        return "DocumentStore.REMOVED"

    def __reduce__(self) -> str:
        return "_REMOVED"


_REMOVED = _Removed()


@dataclass(frozen=True)
class DocumentStats:
    """What one DocumentStore has done in this process, and what it has still to do.

    `pending` operations with `pending_bytes` are not on the disk yet, the oldest for `oldest_pending` seconds.
    `coalesced` are those that a later one made needless, `drops` those given up because the store was full, and
    `conflicts` the documents that another process had changed. Times are in seconds.

    >>> from holdfast import DocumentStore
    >>> with DocumentStore("sessions") as store:
    ...     store["jo"] = {"theme": "dark"}
    ...     store.flush()
    ...     store.stats.writes
    1
    """

    pending: int
    pending_bytes: int
    oldest_pending: float
    writes: int
    deletions: int
    coalesced: int
    drops: int
    conflicts: int
    errors: int
    write_seconds: float
    longest_write: float


class _Counts:
    """The numbers of DocumentStats that only grow."""

    def __init__(self) -> None:
        self.writes = self.deletions = self.coalesced = self.drops = self.conflicts = self.errors = 0
        self.write_seconds = self.longest_write = 0.0


class DocumentStore(Mapping):
    """A mapping from texts to documents, each in a file of its own: read from memory, and written behind.

    A write is visible at once. One thread brings the writes to the disk in their order, each file whole or not at all;
    several to one document that are still queued become one. `debounce` seconds is how long a document waits for more
    of them. flush() and close() wait for the disk, and raise what went wrong there; what failed is tried again.

    What you read is shared by all who read it: change a copy, and assign that. What you assign is copied.

    At most `max_pending` operations and `max_pending_bytes` bytes are queued. `when_full="block"` waits for room,
    `timeout` seconds (10, or HOLDFAST_TIMEOUT; negative for ever), and then raises StoreFull; `"raise"` does so at
    once; `"drop_oldest"` gives up the oldest write. `timeout` is also how long the thread waits for the lock of the
    directory, which several processes may share. `max_cached` is how many documents stay in memory.

    `encode` is any function from a document to str or bytes, and `decode` the reverse, from bytes; by default JSON.
    `on_error(key, error)` is called on the writer thread whenever a write fails. A document that another process has
    changed since this store saw it is not overwritten: with `on_conflict(key, mine, theirs)`, also on that thread, you
    return what to write, and otherwise it is a DocumentConflict. DocumentStore.REMOVED there stands for no document.

    With `durable=True` each write is synced. `metrics` is the name under which holdfast.metrics counts what is done.
    After a fork the child has an empty queue: the parent writes its own.

    >>> from holdfast import DocumentStore
    >>> with DocumentStore("sessions") as store:
    ...     store["jo"] = {"theme": "dark"}
    ...     store["jo"]
    {'theme': 'dark'}
    """

    REMOVED = _REMOVED

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        suffix: str = ".json",
        debounce: float = 0.0,
        max_pending: int = 10_000,
        max_pending_bytes: int = 64 * 2**20,
        when_full: Literal["block", "raise", "drop_oldest"] = "block",
        timeout: float | None = None,
        durable: bool = False,
        encode: Callable[[Any], str | bytes] | None = None,
        decode: Callable[[bytes], Any] | None = None,
        on_error: Callable[[str, Exception], object] | None = None,
        on_conflict: Callable[[str, Any, Any], Any] | None = None,
        max_cached: int | None = None,
        metrics: str | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "suffix": suffix,
            "debounce": debounce,
            "max_pending": max_pending,
            "max_pending_bytes": max_pending_bytes,
            "when_full": when_full,
            "timeout": timeout,
            "durable": durable,
            "encode": encode,
            "decode": decode,
            "on_error": on_error,
            "on_conflict": on_conflict,
            "max_cached": max_cached,
            "metrics": metrics,
        }
        check_bool("durable", durable)
        if when_full not in _WHEN_FULL:
            raise ValueError(f"when_full must be 'block', 'raise' or 'drop_oldest', not {when_full!r}")
        self._suffix = check_suffix(suffix)
        self._debounce = _debounce(debounce)
        self._max_pending = _positive("max_pending", max_pending)
        self._max_pending_bytes = _positive("max_pending_bytes", max_pending_bytes)
        self._max_cached = inf if max_cached is None else _positive("max_cached", max_cached)
        self._when_full = when_full
        self._timeout = default_timeout() if timeout is None else resolve_timeout(timeout, True)
        self._durable = durable
        self._encode: Callable[[Any], str | bytes] = _standard_encode() if encode is None else encode
        self._decode: Callable[[bytes], Any] = _standard_decode() if decode is None else decode
        self._on_error = on_error
        self._on_conflict = on_conflict
        self._meter = _core.meter_of(metrics)
        # Absolute: a daemon that changes its directory must not come to write elsewhere.
        self._directory = os.path.abspath(os.fsdecode(directory))
        _make_directory(self._directory, durable)
        self._lock = FileLock(os.path.join(self._directory, ".lock"), timeout=self._timeout, metrics=metrics)
        self._values: dict[str, Any] = {}
        self._documents: dict[str, Document] = {}
        self._clean: dict[str, Document] = {}  # those of them that have nothing queued, and may be forgotten
        self._remembered: dict[str, int] = {}  # the revisions of documents that were forgotten, or not there
        self._closed = self._ended = False
        self._begin()
        _stores[id(self)] = self

    def _begin(self) -> None:
        """Begin with an empty queue, and locks that are free."""
        # Reentrant: a value's __del__, or a signal handler, may come in at any time and use this store.
        self._mutex = threading.RLock()
        self._work = threading.Condition(self._mutex)
        self._progress = threading.Condition(self._mutex)
        self._queue = Queue()
        self._counts = _Counts()
        self._metered = 0  # how much is pending, as far as the meter knows
        self._has_removed_orphans = False
        self._writer: threading.Thread | None = None
        self._wakes_at = -inf  # when the writer will look by itself; -inf while it is at work
        self._forgotten = 0  # grows whenever a document is forgotten: what was read from the disk before may be old
        self._error: Exception | None = None  # the first that nobody has been told yet
        self._untold = 0

    @property
    def directory(self) -> str:
        """The path of the directory, absolute.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.directory  # doctest: +ELLIPSIS
        '...sessions'
        """
        return self._directory

    # Reading

    def __getitem__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            pass  # outside of this block, so that a KeyError from there has no context
        return self._load(key)

    def _load(self, key: str) -> Any:
        """Decode a document that nobody has read since it was written."""
        while True:
            document = self._document(key)
            with self._mutex:
                self._check_open()
                if key in self._values:
                    return self._values[key]
                data = document.data
                if not document.exists:
                    self._remember(key, 0)
                    raise KeyError(key)
            if data is not None:
                value = self._decoded(document, data)
                with self._mutex:
                    known = self._documents.get(key)
                    if known is document and document.data is data:
                        self._values[key] = value
                        document.data = None
                        document.assigned = None
                        return value
                    if known is None and document.data is data:
                        return value  # it has been forgotten again meanwhile

    def _decoded(self, document: Document, data: bytes) -> Any:
        try:
            return self._decode(data)
        except Exception as error:
            raise ValueError(
                f"the document {document.key!r} ({document.path}) is damaged: {error}. Mend the file, assign the "
                "document anew, or delete it"
            ) from error

    def _document(self, key: str, unread: bool = False) -> Document:
        """What is known of a key, after a look at the disk if that is nothing, which may be `unread` by the caller."""
        if not isinstance(key, str):
            raise TypeError(f"the key of a document must be a str, not {type(key).__name__}")
        document = self._documents.get(key)
        for _ in range(3):
            if document is not None:
                return document
            document = self._admitted(self._looked_up(key), unread)
        with self._mutex:  # others keep forgetting documents
            return document or self._admitted(self._looked_up(key), unread) or self._document(key, unread)

    def _looked_up(self, key: str) -> Document:
        self._check_open()
        looked = self._forgotten
        document = Document(key, os.path.join(self._directory, name_of(key, self._suffix)), looked)
        contents = _read(document.path)
        _see(document, contents)
        document.show(contents.data)
        return document

    def _admitted(self, document: Document, unread: bool) -> Document | None:
        """What is known of the key of a document that was looked up. None if that look may be too old by now."""
        with self._mutex:
            known = self._documents.get(document.key)
            if known is not None:
                return known
            if self._forgotten != document.looked:
                return None
            remembered = self._remembered.get(document.key, document.revision)
            if unread and remembered != document.revision:
                # Somebody else was here since, and whoever writes now does not know that.
                document.revision, document.seen = remembered, Contents(None, None)
            if document.exists:  # no others: keys that are asked for are endless
                self._remembered.pop(document.key, None)
                self._documents[document.key] = self._clean[document.key] = document
                self._evict()
            return document

    def _is_known(self, document: Document) -> bool:
        """Whether this is still what is known of its key, or was looked up just now."""
        known = self._documents.get(document.key)
        return document is known or (known is None and document.looked == self._forgotten)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the DocumentStore {self._directory!r} is closed; make another")

    def _forget(self, document: Document) -> None:
        if self._documents.pop(document.key, None) is not None:
            self._forgotten += 1
        self._clean.pop(document.key, None)
        self._values.pop(document.key, None)

    def _remember(self, key: str, revision: int) -> None:
        """Remember what was seen of a document that is not kept, so that a write does not overwrite a later one."""
        self._remembered.pop(key, None)
        self._remembered[key] = revision
        if len(self._remembered) > _MEMORY:
            del self._remembered[next(iter(self._remembered))]

    def _evict(self) -> None:
        """Forget documents beyond those that may stay, the oldest first."""
        while len(self._documents) > self._max_cached and self._clean:
            document = next(iter(self._clean.values()))
            self._remember(document.key, document.revision)
            self._forget(document)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self._values or self._document(key).exists)

    def pop(self, key: str, default: Any = _NOTHING) -> Any:
        """Delete a document and return it, or `default` if there is none.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.pop("nobody", None)
        """
        attempts = 0
        while True:
            attempts += 1
            with self._mutex if attempts > 3 else nullcontext():  # others keep writing or forgetting it
                try:
                    value = self[key]
                except KeyError:
                    if default is _NOTHING:
                        raise
                    return default
                if self._put(key, None, instead_of=value):
                    return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return a document, after having made it `default` if there was none.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.setdefault("jo", {"theme": "dark"})
        {'theme': 'dark'}
        """
        if key not in self:
            self._put(key, self._encoded(default), instead_of=_REMOVED)
        return self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def _keys(self) -> list[str]:
        """The keys there are now. What is coming is noted before the look at the disk, as it may arrive meanwhile."""
        with self._mutex:
            self._check_open()
            coming = {
                document.key: document.exists
                for document in self._documents.values()
                if document.operations or document.inherited
            }
        keys = {key: True for key in map(self._key_of, os.listdir(self._directory)) if key is not None}
        return [key for key, exists in {**keys, **coming}.items() if exists]

    def _key_of(self, name: str) -> str | None:
        if not is_long(name) or not name.endswith(self._suffix):
            return key_of(name, self._suffix)
        data = _read(os.path.join(self._directory, companion_of(name))).data
        if data is None:
            return None  # somebody has just removed the document
        with suppress(UnicodeDecodeError):
            key = data.decode("utf-8", "surrogatepass")
            if name_of(key, self._suffix) == name:
                return key
        return None

    # Writing

    def __setitem__(self, key: str, value: Any) -> None:
        self._put(key, self._encoded(value))

    def __delitem__(self, key: str) -> None:
        self._put(key, None)

    def clear(self) -> None:
        """Delete all documents there are now.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.clear()
        ...     len(store)
        0
        """
        for key in self._keys():
            with suppress(KeyError):  # somebody else was faster
                del self[key]

    def _encoded(self, value: Any) -> bytes:
        encoded = self._encode(value)
        data = encoded.encode() if isinstance(encoded, str) else encoded
        if not isinstance(data, bytes):
            raise TypeError(f"encode must return str or bytes, not {type(data).__name__}")
        return data

    def _put(self, key: str, data: bytes | None, instead_of: Any = _NOTHING) -> bool:
        """Queue a write, or a deletion for None, and let readers see it. False if this is not `instead_of` that."""
        deadline = None
        attempts = 0
        while True:
            attempts += 1
            document = self._document(key, unread=True) if attempts <= 3 else None
            with self._mutex:
                document = document or self._document(key, unread=True)  # others keep forgetting documents
                self._check_open()
                if not self._is_known(document):
                    continue
                if instead_of is not _NOTHING and self._shown(document) is not instead_of:
                    return False
                if data is None and not document.exists:
                    raise KeyError(key)
                if not self._has_room(document, data):
                    deadline = self._make_room(document, deadline)
                    continue
                try:
                    self._queue_up(document, data)
                except BaseException:  # of a signal handler
                    self._mend(document)
                    raise
                alone = not self._summon_writer()
            if alone:
                self._write_here(time.monotonic() + _AT_EXIT)
            return True

    def _shown(self, document: Document) -> Any:
        """What readers have been given of a document; REMOVED if there is none."""
        return self._values.get(document.key, _NOTHING) if document.exists else _REMOVED

    def _queue_up(self, document: Document, data: bytes | None) -> None:
        self._documents[document.key] = document
        self._remembered.pop(document.key, None)
        if document.assigned is not None:  # whoever writes now knows only what he assigned
            document.revision, document.seen = document.assigned, Contents(None, None)
            document.assigned = None
        self._clean.pop(document.key, None)
        self._enqueue(document, data)
        document.show(data)
        self._values.pop(document.key, None)
        self._evict()

    def _mend(self, document: Document) -> None:
        """Let readers see what is queued, whatever was interrupted."""
        self._queue.mend(document)
        if document.operations:
            document.show(document.operations[-1].data)
            self._values.pop(document.key, None)
        else:
            self._forget(document)

    def _has_room(self, document: Document, data: bytes | None) -> bool:
        superseded = self._queue.replaceable(document)
        count = 0 if superseded else 1
        size = len(data or b"") - (len(superseded.data or b"") if superseded else 0)
        others = len(self._queue) - (1 - count)
        return others == 0 or (
            len(self._queue) + count <= self._max_pending
            and (size <= 0 or self._queue.bytes + size <= self._max_pending_bytes)
        )

    def _enqueue(self, document: Document, data: bytes | None) -> None:
        now = time.monotonic()
        superseded = self._queue.replaceable(document)
        if superseded is not None and (data is not None or superseded.number > self._queue.awaited):
            self._tally("coalesced")
            if data is not None:
                self._queue.change(superseded, data)
                return
            self._queue.remove(superseded)
            if document.operations and document.operations[-1].data is None:
                return  # a deletion is queued already, and between it and this one there was nothing to be seen
        self._queue.add(document, data, now, now + self._debounce)
        self._tally_pending()

    def _make_room(self, document: Document, deadline: float | None) -> float | None:
        """Drop something, or wait until something is done, or raise. Returns when the wait has to end."""
        oldest = self._queue.droppable() if self._when_full == "drop_oldest" else None
        if oldest is not None:
            self._tally("drops")
            self._give_up(oldest)
            return deadline
        now = time.monotonic()
        if deadline is None:
            deadline = now + (inf if self._timeout < 0 else self._timeout)
        if self._when_full != "raise" and now < deadline and threading.current_thread() is not self._writer:
            self._hurry()
            self._progress.wait(min(deadline - now, threading.TIMEOUT_MAX))
            return deadline
        raise StoreFull(
            f"the document {document.key!r} was not taken: {_count(len(self._queue))} with {self._queue.bytes} "
            f"bytes wait to be written to {self._directory!r} already. Write less often, let more wait (max_pending, "
            "max_pending_bytes), or see with stats and on_error= why the disk does not keep up"
        )

    def _give_up(self, operation: Operation) -> None:
        """Do without an operation. Readers see what is queued before it, or what is on the disk."""
        document = operation.document
        was_last = document.operations[-1] is operation
        self._queue.remove(operation)
        self._tally_pending()
        if not document.operations:
            self._forget(document)
        elif was_last:
            document.show(document.operations[-1].data)
            self._values.pop(document.key, None)
        self._progress.notify_all()

    def _tally(self, what: str) -> None:
        """Count something, of the names in DocumentStats."""
        vars(self._counts)[what] += 1
        if self._meter is not None:
            _core.meter_add(self._meter, _COUNTERS[what], 1)

    def _tally_pending(self) -> None:
        if self._meter is not None and self._metered != len(self._queue):
            _core.meter_add(self._meter, _core.PENDING, len(self._queue) - self._metered)
            self._metered = len(self._queue)

    # Bringing it to the disk

    def _hurry(self) -> None:
        self._queue.hurry()
        self._work.notify_all()

    def _summon_writer(self) -> bool:
        """See to it that a thread writes what is queued. False when no thread can be started any more."""
        if _ending:
            return False  # a thread would be stopped in the middle
        if self._writer is not None:
            if self._wakes_at > time.monotonic() + self._debounce:
                self._work.notify_all()
            return True
        thread = threading.Thread(target=self._run, name="holdfast-documents", daemon=True)
        try:
            self._writer = thread
            thread.start()
        except BaseException as error:
            if thread.ident is None:
                self._writer = None
            if not isinstance(error, RuntimeError):
                raise
            return False  # the interpreter is about to end
        return True

    def _run(self) -> None:
        """Write, on the writer thread, until there has been nothing to write for a while."""
        try:
            while self._wait_for_work():
                self._step(self._timeout)
        finally:
            with self._mutex:
                if self._writer is threading.current_thread():
                    self._writer = None

    def _wait_for_work(self) -> bool:
        """Wait until an operation is due. False when it is time for the thread to end."""
        rested = False
        with self._mutex:
            while True:
                now = time.monotonic()
                operation, due = self._queue.next(now)
                if operation is not None:
                    return True
                if not self._queue.all and (rested or self._closed):
                    self._writer = None
                    return False
                self._wakes_at = due
                rested = not self._work.wait(min(due - now, _IDLE))
                self._wakes_at = -inf

    def _write_here(self, deadline: float) -> None:
        """Write what is queued, once each, in this thread, because there will be no other."""
        with self._mutex:
            self._queue.hurry()
            left = len(self._queue)
        while left > 0 and (rest := deadline - time.monotonic()) > 0:
            if self._step(rest if self._timeout < 0 else min(rest, self._timeout)) is None:
                return
            left -= 1

    def _step(self, timeout: float) -> bool | None:
        """Do the next operation, waiting so long for the lock. Whether that succeeded; None when none is due."""
        operation = None
        try:
            with self._lock.acquire(timeout):
                operation = self._take()
                found = None if operation is None else self._perform(operation)
            while operation is not None and found is not None:
                found = self._settle(operation, found, timeout)
        except BaseException as error:  # noqa: BLE001 - whoever flushes is told, and the thread goes on
            operation = operation or self._take()
            if operation is not None:
                self._fail(operation, _as_exception(error))
            return False
        return None if operation is None else True

    def _take(self) -> Operation | None:
        with self._mutex:
            operation, _ = self._queue.next(time.monotonic())
            if operation is not None:
                self._queue.start(operation)
            return operation

    def _perform(self, operation: Operation) -> Contents | None:
        """Write or delete a file, under the lock. What is in the file, if somebody else has changed it."""
        document = operation.document
        if os.path.islink(document.path) or not document.seen.is_current(document.path):
            found = _read(document.path)
            known = _revision(found.data) in (document.revision, *document.inherited)
            if not known and found.data != operation.data:
                return found
        began = time.monotonic()
        if operation.data is None:
            self._remove(document)
        else:
            self._write(document, operation.data)
        self._finish(operation, time.monotonic() - began)
        return None

    def _write(self, document: Document, data: bytes) -> None:
        if is_long(os.path.basename(document.path)):
            self._remove_orphans()
            companion, key = companion_of(document.path), bytes_of(document.key)
            if _read(companion).data != key:
                _put(companion, key, durable=self._durable)
        try:
            _put(document.path, data, durable=self._durable)
        except Rescued as error:
            with self._mutex:
                _see(document, Contents(None, None))  # nobody else has removed it
            _discard_rescued(document)
            document.rescued = error.rescued
            raise
        _discard_rescued(document)

    def _remove(self, document: Document) -> None:
        with suppress(FileNotFoundError):
            os.unlink(document.path)
        if self._durable:
            _core.sync_directory_of(document.path)
        if is_long(os.path.basename(document.path)):  # last: a document without it would not be listed
            with suppress(FileNotFoundError):
                os.unlink(companion_of(document.path))
            self._remove_orphans()

    def _remove_orphans(self) -> None:
        """Remove companions without a document, once: a process leaves one that dies between the two.

        Under the lock no other process is between them; one whose document could not be written writes both again.
        """
        if self._has_removed_orphans:
            return
        self._has_removed_orphans = True
        with suppress(OSError):  # no operation of the user's depends on it
            if self._durable:  # or a power cut could bring back a document without its companion
                _core.sync_directory_of(self._lock.lock_file)
            for name in os.listdir(self._directory):
                document = document_of(name)
                # Not by the list alone, which may lack what is renamed meanwhile.
                if document and _is_missing(os.path.join(self._directory, document)):
                    os.unlink(os.path.join(self._directory, name))

    def _finish(self, operation: Operation, took: float) -> None:
        document, counts = operation.document, self._counts
        revision = _revision(operation.data)
        with self._mutex:
            self._queue.remove(operation)
            self._tally_pending()
            document.seen, document.revision, document.inherited = Contents(None, None), revision, ()
            self._tally("deletions" if operation.data is None else "writes")
            counts.write_seconds += took
            counts.longest_write = max(counts.longest_write, took)
            if not document.operations:
                if document.exists:
                    self._clean[document.key] = document
                else:
                    self._remember(document.key, 0)
                    self._forget(document)
                self._evict()
            self._progress.notify_all()

    def _fail(self, operation: Operation, error: Exception) -> None:
        """Note an error, and try again later."""
        with self._mutex:
            self._queue.fail(operation, time.monotonic())
            self._note(error)
        self._tell(operation.document.key, error)

    def _note(self, error: Exception) -> None:
        """Note an error for whoever flushes or closes next."""
        self._tally("errors")
        self._error = self._error or error
        self._untold += 1
        self._progress.notify_all()

    def _tell(self, key: str, error: Exception) -> None:
        if self._on_error is not None:
            try:
                self._on_error(key, error)
            except BaseException as raised:  # noqa: BLE001 - the thread goes on, and says what happened
                sys.excepthook(type(raised), raised, raised.__traceback__)

    # Other processes

    def _settle(self, operation: Operation, found: Contents, timeout: float) -> Contents | None:
        """Decide a conflict. What is in the file, if it has been changed once more meanwhile."""
        document = operation.document
        with self._mutex:
            self._tally("conflicts")
        try:
            theirs = _REMOVED if found.data is None else self._decoded(document, found.data)
        except ValueError as error:
            self._refuse(operation, found, error)
            return None
        if self._on_conflict is None:
            self._refuse(operation, found, None)
            return None
        mine = _REMOVED if operation.data is None else self._decoded(document, operation.data)
        chosen = self._on_conflict(document.key, mine, theirs)
        data = None if chosen is _REMOVED else self._encoded(chosen)
        with self._mutex:
            _see(document, found)
            self._choose(operation, data)
        with self._lock.acquire(timeout):
            return self._perform(operation)

    def _refuse(self, operation: Operation, found: Contents, cause: Exception | None) -> None:
        """Give up a write that would undo what somebody else has written."""
        document = operation.document
        conflict = DocumentConflict(document.path, document.revision, _revision(found.data), document.key)
        conflict.__cause__ = cause
        with self._mutex:
            self._note(conflict)
            self._give_up(operation)
            if document.key not in self._documents:
                self._remember(document.key, document.revision)  # a conflict again, until somebody reads it
        self._tell(document.key, conflict)

    def _choose(self, operation: Operation, data: bytes | None) -> None:
        document = operation.document
        mine = operation.data
        self._queue.change(operation, data)
        if document.operations and document.operations[-1] is operation:
            document.assigned = _revision(mine) if data is not None and data != mine else None
            document.show(data)
            self._values.pop(document.key, None)

    def revision(self, key: str) -> int:
        """A number that tells what is on the disk from anything else, as this store last saw it. 0 for nothing.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.revision("nobody")
        0
        """
        document = self._document(key)
        self._check_open()
        return document.revision

    def refresh(self) -> set[str]:
        """Forget the documents that other processes have changed or removed, and return their keys.

        Only documents in memory are looked at, and none that is still to be written: that is a conflict, which the
        writer notices.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.refresh()
        set()
        """
        with self._mutex:
            self._check_open()
            documents = [(each, each.seen) for each in self._documents.values() if not each.operations]
        changed: set[str] = set()
        for document, seen in documents:
            if seen.is_current(document.path):
                continue
            contents = _read(document.path)
            with self._mutex:
                if document.seen is not seen or document.operations:
                    continue  # this store has written it meanwhile
                if _revision(contents.data) in (document.revision, *document.inherited):
                    _see(document, contents)
                elif self._documents.get(document.key) is document:
                    self._forget(document)
                    changed.add(document.key)
        return changed

    # The end

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything written so far is on the disk, within `timeout` seconds if they are given.

        Raises the first error since the last flush(), as soon as there is one; what failed stays queued and is tried
        again. Raises TimeoutError when the time is over.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store["jo"] = {"theme": "dark"}
        ...     store.flush(timeout=10)
        """
        deadline = self._deadline("flush", timeout)
        with self._mutex:
            self._check_open()
            last = self._queue.awaited = self._queue.last
        while True:
            self._drain(last, deadline, patient=False)
            with self._mutex:
                left = sum(number <= last for number in self._queue.all)
                error = self._told(f"{_count(left)} to be tried again" if left else "nothing waits any more")
            if error is not None:
                raise error
            if not left:
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{_count(left)} of the DocumentStore {self._directory!r} not on the disk after {timeout:g} "
                    "seconds: still queued. Flush again, or see who holds its lock"
                )
            # Another thread's flush() was told of the error that ended this wait.

    def close(self, timeout: float | None = 10.0) -> None:
        """Write what is queued, within `timeout` seconds, and end. The store cannot be used any more then.

        Raises the first error since the last flush(), and a TimeoutError if the time was too short: what is not on the
        disk then is lost.

        >>> from holdfast import DocumentStore
        >>> store = DocumentStore("sessions")
        >>> store["jo"] = {"theme": "dark"}
        >>> store.close()
        """
        deadline = self._deadline("close", timeout)
        if self._is_being_closed(deadline):
            return
        try:
            self._drain(self._queue.last, deadline, patient=True)
        except BaseException:  # of a signal handler: nothing is lost yet
            self._closed = False
            raise
        with self._mutex:
            left, writer = len(self._queue), self._writer
            error = self._told(f"{_count(left)} did not reach the disk" if left else "nothing waits any more")
            self._abandon()
        if writer is not None:
            writer.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        if error is not None:
            raise error
        if left:
            raise TimeoutError(
                f"{_count(left)} of the DocumentStore {self._directory!r} had not reached the disk when the time to "
                "close was over: lost. Allow more time"
            )

    def _is_being_closed(self, deadline: float) -> bool:
        """Whether another thread has begun to close the store; it is waited for."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                return False
            while self._closed and not self._ended and (rest := deadline - time.monotonic()) > 0:
                self._progress.wait(min(rest, threading.TIMEOUT_MAX))
            return True

    def _abandon(self) -> None:
        """Let go of everything, and let the writer end."""
        self._ended = True
        self._queue = Queue()
        self._tally_pending()
        self._documents, self._clean, self._values = {}, {}, {}
        self._work.notify_all()
        self._progress.notify_all()

    def _deadline(self, what: str, timeout: float | None) -> float:
        if threading.current_thread() is self._writer:
            raise RuntimeError(
                f"{what}() was called on the writer thread, by on_error or on_conflict; it would never end"
            )
        allowed = -1.0 if timeout is None else resolve_timeout(timeout, True)
        return inf if allowed < 0 else time.monotonic() + allowed

    def _drain(self, last: int, deadline: float, *, patient: bool) -> None:
        """Wait until everything up to a number is on the disk, or unless patient until something fails."""
        with self._mutex:
            errors = self._counts.errors
            alone = not self._begin_to_drain()
            while not alone and not self._queue.is_done(last) and (patient or self._counts.errors == errors):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                self._progress.wait(min(remaining, threading.TIMEOUT_MAX))
        while alone and self._queue and (rest := deadline - time.monotonic()) > 0:
            self._write_here(deadline)
            if not patient:
                return
            time.sleep(min(rest, 0.05))

    def _begin_to_drain(self) -> bool:
        """Let the writer begin at once. False if there can be none."""
        self._hurry()
        return not self._queue or self._summon_writer()

    def _told(self, outcome: str) -> Exception | None:
        """The first error that nobody has been told yet, with a note about the others."""
        error, untold = self._error, self._untold
        self._error, self._untold = None, 0
        if error is not None and sys.version_info >= (3, 11):
            others = f", and {untold - 1} more errors since the last flush()" if untold > 1 else ""
            error.add_note(f"This was on the writer thread of {self!r}{others}: {outcome}.")
        return error

    def _report_loss(self) -> None:
        """Say on stderr, at the end of the interpreter, what nobody else will be told."""
        with self._mutex:
            left, error = len(self._queue), self._error
        if (left or error is not None) and sys.stderr is not None:
            why = f": {type(error).__name__}: {error}" if error is not None else ", because the time was too short"
            print(
                f"holdfast: warning: {_count(left)} of the DocumentStore {self._directory!r} did not reach the disk "
                f"before the interpreter ended{why}"
                if left
                else f"holdfast: warning: a write of the DocumentStore {self._directory!r} failed{why}",
                file=sys.stderr,
            )

    # The rest

    @property
    def stats(self) -> DocumentStats:
        """What this store has done in this process, and what it has still to do.

        >>> from holdfast import DocumentStore
        >>> with DocumentStore("sessions") as store:
        ...     store.stats.pending
        0
        """
        with self._mutex:
            waiting = self._queue.all
            oldest = time.monotonic() - waiting[next(iter(waiting))].queued if waiting else 0.0
            return DocumentStats(
                pending=len(waiting), pending_bytes=self._queue.bytes, oldest_pending=oldest, **vars(self._counts)
            )

    def _after_fork(self) -> None:
        """Leave to the parent what it has to write, in a child that has just been forked."""
        for document in self._documents.values():
            document.inherited = tuple(_revision(operation.data) for operation in document.operations)
            document.operations = []
        self._clean = dict(self._documents)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DocumentStore {self._directory!r}>"

    def __reduce__(self) -> tuple[Callable[..., DocumentStore], tuple[type[DocumentStore], str, dict[str, Any]]]:
        """A copy, also one pickled to another process, is another store in the same directory, with an empty queue."""
        return _make, (type(self), self._directory, self._settings)


def _make(cls: type[DocumentStore], directory: str, settings: dict[str, Any]) -> DocumentStore:
    return cls(directory, **settings)


def _see(document: Document, contents: Contents) -> None:
    """Note what is in a document's file, without its bytes."""
    document.seen = Contents(None, contents.stamp)
    document.revision = _revision(contents.data)
    document.inherited = ()


def _read(path: str) -> Contents:
    """What is in a file that is not a link: whoever made that would choose what is read and written."""
    if os.path.islink(path):
        raise OSError(
            errno.ELOOP, "a symbolic link is in the place of a document, and is not followed; remove it", path
        )
    return _contents.read(path)


def _put(path: str, data: bytes, *, durable: bool) -> None:
    """Replace a file of a store, which is no link, also when there was none a moment ago."""
    replacing(path, durable).write(data)


def _discard_rescued(document: Document) -> None:
    """Remove what a file server did not let take its place, and a later version has replaced."""
    rescued, document.rescued = document.rescued, ""  # once: what is written must not wait for it again and again
    if rescued:
        with suppress(FileNotFoundError):
            os.unlink(rescued)


def _is_missing(path: str) -> bool:
    """Whether there is certainly nothing at a path: a file server that does not answer says nothing."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _as_exception(error: BaseException) -> Exception:
    """What to raise elsewhere: a SystemExit, for example, must not end whoever flushes."""
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(f"{type(error).__name__} was raised on the writer thread: {error}")
    wrapped.__cause__ = error
    return wrapped


def _make_directory(path: str, durable: bool) -> None:
    """Create a directory, and those above it that are missing."""
    created = [path]  # also if it is there: somebody may have created it just now
    while not os.path.isdir(above := os.path.dirname(created[-1])) and above != created[-1]:
        created.append(above)
    os.makedirs(path, exist_ok=True)
    if durable:
        for directory in created:
            _core.sync_directory_of(directory)


def _revision(data: bytes | None) -> int:
    if data is None:
        return 0
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") or 1


def _count(number: int) -> str:
    return "1 write or deletion" if number == 1 else f"{number} writes or deletions"


def _standard_encode() -> Callable[[Any], str]:
    from json import JSONEncoder

    return JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _standard_decode() -> Callable[[bytes], Any]:
    from json import loads

    return loads


def _debounce(debounce: float) -> float:
    pause = seconds("debounce", debounce)
    if not 0 <= pause < 1e9:
        raise ValueError(f"debounce must be a number of seconds, 0 or more, not {debounce!r}")
    return pause


def _positive(name: str, number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


# -- Forks, and the end of the interpreter ----------------------------------------------------------------------------

_stores: WeakValueDictionary[int, DocumentStore] = WeakValueDictionary()  # by id: a mapping has no hash
_forking: list[DocumentStore] = []
_one_fork = threading.Lock()
_ending = False  # no thread would live to write anything any more


def _living_stores() -> list[DocumentStore]:
    return [store for reference in _stores.valuerefs() if (store := reference()) is not None]


def _before_fork() -> None:
    _one_fork.acquire()
    _forking[:] = _living_stores()
    for store in _forking:
        store._mutex.acquire()


def _after_fork_in_parent() -> None:
    for store in _forking:
        store._mutex.release()
    _forking.clear()
    _one_fork.release()


def _after_fork_in_child() -> None:
    for store in _forking:
        store._after_fork()
    _forking.clear()
    _one_fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@atexit.register
def _drain_all() -> None:
    """Write what is queued in all stores that nobody has closed."""
    global _ending
    deadline = time.monotonic() + _AT_EXIT
    stores = [store for store in _living_stores() if not store._closed]
    for store in stores:
        with store._mutex:
            store._begin_to_drain()  # they work side by side
    for store in stores:
        store._drain(store._queue.last, deadline, patient=True)
        store._report_loss()
    _ending = True
