"""What a DocumentStore still has to bring to the disk, in which order, and when.

Nothing here locks or waits: the store does, and calls this under its mutex.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import inf

from holdfast._contents import MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast._contents import Contents

_FIRST_RETRY = 0.05
_LAST_RETRY = 5.0


class Document:
    """What a store knows of one key."""

    __slots__ = ("data", "exists", "inherited", "key", "looked", "operations", "path", "revision", "seen")

    def __init__(self, key: str, path: str, looked: int) -> None:
        self.key = key
        self.path = path
        self.looked = looked
        """How many documents the store had forgotten when it looked at the file."""
        self.exists = False
        """Whether there is a document, as readers see it."""
        self.data: bytes | None = None
        """Its bytes, until they are decoded."""
        self.seen: Contents = MISSING
        """The file as this store last saw it, without its bytes."""
        self.revision = 0
        self.inherited: int | None = None
        """The revision that the parent of this process was about to write when it forked."""
        self.operations: list[Operation] = []

    def show(self, data: bytes | None) -> None:
        """Let readers see these bytes; None for no document."""
        self.exists = data is not None
        self.data = data


class Operation:
    """A document to be written, or deleted when `data` is None."""

    __slots__ = ("attempts", "data", "document", "due", "number", "queued", "running")

    def __init__(self, document: Document, data: bytes | None, number: int, queued: float, due: float) -> None:
        self.document = document
        self.data = data
        self.number = number
        self.queued = queued
        self.due = due
        self.attempts = 0
        self.running = False

    def __lt__(self, other: Operation) -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Queue:
    """Operations in the order in which they were asked for."""

    def __init__(self) -> None:
        self.all: OrderedDict[int, Operation] = OrderedDict()
        self.bytes = 0
        self.last = 0
        self._ready: OrderedDict[int, Operation] = OrderedDict()
        self._failed: list[Operation] = []  # a heap, by when they are due

    def __len__(self) -> int:
        return len(self.all)

    def add(self, document: Document, data: bytes | None, now: float, due: float) -> None:
        """Queue an operation at the end."""
        self.last += 1
        operation = Operation(document, data, self.last, now, due)
        self.all[self.last] = self._ready[self.last] = operation
        document.operations.append(operation)
        self.bytes += len(data or b"")

    def remove(self, operation: Operation) -> None:
        """Forget an operation: it is done, superseded or given up."""
        if self.all.pop(operation.number, None) is None:
            return
        self.bytes -= len(operation.data or b"")
        operation.document.operations.remove(operation)
        if self._ready.pop(operation.number, None) is None and not operation.running:
            self._failed.remove(operation)
            heapify(self._failed)

    def replaceable(self, document: Document) -> Operation | None:
        """The write of a document that a later operation may supersede."""
        last = document.operations[-1] if document.operations else None
        return last if last is not None and last.data is not None and not last.running else None

    def droppable(self) -> Operation | None:
        """The oldest write that is not being written, or if there is none the oldest deletion."""
        idle = None
        for operation in self.all.values():
            if not operation.running:
                if operation.data is not None:
                    return operation
                idle = idle or operation
        return idle

    def next(self, now: float) -> tuple[Operation | None, float]:
        """The operation whose turn it is, or None and when to look again."""
        if self._failed and self._failed[0].due <= now:
            return self._failed[0], now
        for operation in self._ready.values():
            if operation.due > now:
                return None, min(operation.due, self._failed[0].due if self._failed else inf)
            if self._may_run(operation):
                return operation, now
        return None, self._failed[0].due if self._failed else inf

    def _may_run(self, operation: Operation) -> bool:
        if operation.document.operations[0] is not operation:
            return False
        # A deletion may rely on what was written before it, so it does not overtake a write that failed.
        return operation.data is not None or not any(
            failed.data is not None and failed.number < operation.number for failed in self._failed
        )

    def start(self, operation: Operation) -> None:
        """Take the operation whose turn it is."""
        operation.running = True
        if self._ready.pop(operation.number, None) is None:
            heappop(self._failed)

    def fail(self, operation: Operation, now: float) -> None:
        """Put back an operation that failed, to be tried again after a while."""
        operation.running = False
        if operation.number not in self.all:
            return
        from random import uniform

        pause = min(_FIRST_RETRY * 2 ** min(operation.attempts, 20), _LAST_RETRY)
        operation.attempts += 1
        operation.due = now + pause * uniform(0.75, 1.25)
        heappush(self._failed, operation)

    def hurry(self, now: float) -> None:
        """Make everything due."""
        for operation in self.all.values():
            operation.due = min(operation.due, now)
        heapify(self._failed)

    def change(self, operation: Operation, data: bytes | None) -> None:
        """Let an operation do something else."""
        self.bytes += len(data or b"") - len(operation.data or b"")
        operation.data = data

    def is_done(self, number: int) -> bool:
        """Whether everything up to this number has left the queue."""
        return not self.all or next(iter(self.all)) > number
