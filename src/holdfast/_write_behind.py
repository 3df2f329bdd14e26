"""What a DocumentStore still has to bring to the disk, in which order, and when.

Nothing here locks or waits: the store does, and calls this under its mutex.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import inf
from random import uniform

from holdfast._contents import MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast._contents import Contents

_FIRST_RETRY = 0.05
_LAST_RETRY = 5.0


class Document:
    """What a store knows of one key."""

    __slots__ = (
        "assigned",
        "data",
        "exists",
        "inherited",
        "key",
        "looked",
        "operations",
        "path",
        "rescued",
        "revision",
        "seen",
    )

    def __init__(self, key: str, path: str, looked: int) -> None:
        self.key = key
        self.path = path
        self.looked = looked
        """How many documents the store had forgotten when it looked at the file: another one may be this."""
        self.exists = False
        """Whether there is a document, as readers see it."""
        self.data: bytes | None = None
        """Its bytes, until they are decoded."""
        self.seen: Contents = MISSING
        """The file as this store last saw it, without its bytes."""
        self.revision = 0
        self.inherited: tuple[int, ...] = ()
        """The revisions that the parent of this process was about to write when it forked."""
        self.assigned: int | None = None
        """The revision that was assigned, if on_conflict made another of it that nobody has read yet."""
        self.rescued = ""
        """Where it is, if a file server did not let it take its place."""
        self.operations: list[Operation] = []

    def show(self, data: bytes | None) -> None:
        """Let readers see these bytes; None for no document."""
        self.exists = data is not None
        self.data = data


class Operation:
    """A document to be written, or deleted when `data` is None."""

    __slots__ = ("attempts", "data", "document", "due", "failed", "number", "queued", "running")

    def __init__(self, document: Document, data: bytes | None, number: int, queued: float, due: float) -> None:
        self.document = document
        self.data = data
        self.number = number
        self.queued = queued
        self.due = due
        self.attempts = 0
        self.running = False
        self.failed = False

    def __lt__(self, other: Operation) -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Queue:
    """Operations in the order in which they were asked for.

    None overtakes another on its document, and no deletion is done while there are writes that failed: it may rely on
    what was written before it. Everything else goes on beside these.
    """

    def __init__(self) -> None:
        self.all: OrderedDict[int, Operation] = OrderedDict()
        self.bytes = 0
        self.last = 0
        self.awaited = 0
        """The number up to which somebody waits for everything to be done: nothing may take the place of that."""
        self._urgent = 0  # the number up to which nothing waits for more to come
        self._ready: OrderedDict[int, Operation] = OrderedDict()
        self._blocked: dict[int, Operation] = {}
        self._failed: list[Operation] = []  # a heap, by when they are due; some are done with already
        self._failed_writes = 0
        self._in_a_row = 0  # attempts that failed
        self._pause_until = -inf
        self._was_retry = False

    def __len__(self) -> int:
        return len(self.all)

    def add(self, document: Document, data: bytes | None, now: float, due: float) -> None:
        """Queue an operation at the end."""
        operation = Operation(document, data, self.last + 1, now, due)
        document.operations.append(operation)
        self.last += 1
        self.bytes += len(data or b"")
        self._ready[self.last] = operation
        self.all[self.last] = operation

    def mend(self, document: Document) -> None:
        """Make everything fit again after an exception, from a signal handler, in the middle of a change."""
        document.operations = [operation for operation in document.operations if operation.number in self.all]
        self.bytes = sum(len(operation.data or b"") for operation in self.all.values())
        self._blocked = {}
        self._ready = OrderedDict(
            (number, operation)
            for number, operation in self.all.items()
            if not operation.running and not operation.failed
        )

    def remove(self, operation: Operation) -> None:
        """Forget an operation: it is done, superseded or given up."""
        if self.all.pop(operation.number, None) is None:
            return
        self.bytes -= len(operation.data or b"")
        operation.document.operations.remove(operation)
        self._ready.pop(operation.number, None)
        self._blocked.pop(operation.number, None)
        if operation.failed:
            operation.failed = False
            self._failed_writes -= operation.data is not None
        if operation.running:
            self._in_a_row = 0
        if self._blocked and not self._failed_writes:
            self._ready = OrderedDict(sorted({**self._ready, **self._blocked}.items()))
            self._blocked = {}

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
        if now < self._pause_until:
            return None, self._pause_until
        while self._failed and not self._failed[0].failed:
            heappop(self._failed)
        again_at = self._failed[0].due if self._failed else inf
        if again_at <= now and not self._was_retry:  # in turns: many that fail must not keep others waiting
            return self._failed[0], now
        fresh, due = self._first_ready(now)
        if fresh is None and again_at <= now:
            return self._failed[0], now
        return fresh, min(due, again_at)

    def _first_ready(self, now: float) -> tuple[Operation | None, float]:
        while self._ready:
            operation = next(iter(self._ready.values()))
            if operation.due > now and operation.number > self._urgent:
                return None, operation.due
            is_first = operation.document.operations[0] is operation
            if is_first and (operation.data is not None or not self._failed_writes):
                return operation, now
            self._blocked[operation.number] = self._ready.pop(operation.number)
        return None, inf

    def start(self, operation: Operation) -> None:
        """Take the operation whose turn it is."""
        self._was_retry = operation.failed
        operation.running = True
        if operation.failed:
            heappop(self._failed)
            operation.failed = False
            self._failed_writes -= operation.data is not None
        else:
            del self._ready[operation.number]

    def fail(self, operation: Operation, now: float) -> None:
        """Put back an operation that failed, to be tried again after a while."""
        operation.running = False
        if operation.number not in self.all:
            return
        operation.due = now + _pause(operation.attempts)
        operation.attempts += 1
        operation.failed = True
        self._failed_writes += operation.data is not None
        heappush(self._failed, operation)
        self._in_a_row += 1
        if self._in_a_row > 2:  # it is not the document that is to blame, but the disk
            self._pause_until = now + _pause(self._in_a_row - 3)

    def hurry(self) -> None:
        """Make everything due."""
        self._urgent = self.last
        self._pause_until = -inf
        self._in_a_row = 0
        self._failed = [operation for operation in self._failed if operation.failed]
        for operation in self._failed:
            operation.due = -inf
        heapify(self._failed)

    def change(self, operation: Operation, data: bytes | None) -> None:
        """Let an operation do something else."""
        self.bytes += len(data or b"") - len(operation.data or b"")
        operation.data = data

    def is_done(self, number: int) -> bool:
        """Whether everything up to this number has left the queue."""
        return not self.all or next(iter(self.all)) > number


def _pause(attempts: int) -> float:
    """How long to wait after so many attempts before, in seconds: longer each time, and not all at one moment."""
    return float(min(_FIRST_RETRY * 2 ** min(attempts, 20), _LAST_RETRY) * uniform(0.75, 1.25))
