"""Logs that tasks append to and read without blocking their event loop."""

from __future__ import annotations

from asyncio import CancelledError, get_running_loop, shield, sleep
from time import monotonic

from holdfast import _core
from holdfast._base import DEFAULT_MODE
from holdfast._reading import DEFAULT_POLL_INTERVAL, SHORTEST_NAP, Records
from holdfast.aio import _threads
from holdfast.aio._cancelled import is_told, tell, until_done
from holdfast.aio._line import AN_AGE, Line, Turn, line_of
from holdfast.jsonl import POLL, JsonlFile, as_line, as_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Self

    from holdfast._core import Log, Waiter
    from holdfast._damage import Report
    from holdfast._lines import LogFile
    from holdfast.jsonl import JsonlStats

_SLICE = 1 << 15
"""Bytes of a log that are decoded before the loop is given back: about half a millisecond."""


class _Append(Turn):
    """A task that waits to append."""

    can_be_undone = False

    def __init__(self, log: Log, lines: bytes, records: int, line: Line) -> None:
        super().__init__(line.loop.create_future())
        self._log = log
        self._lines = lines
        self._records = records

    def attempt(self) -> int:
        return _core.append_log(self._log, self._lines, len(self._lines), self._records)

    def wait(self, began: int, waiter: Waiter) -> int:
        lines = self._lines
        return _core.append_log_wait(self._log, lines, len(lines), self._records, began, began + AN_AGE, POLL, waiter)


class _Here:
    """What an AsyncJsonlFile shares between the tasks of one loop."""

    def __init__(self, loop: AbstractEventLoop, path: str) -> None:
        self.loop = loop
        self.line = line_of(loop, "log", path)
        self.syncing: Future[tuple[int, int]] | None = None  # see _sync()


class AsyncJsonlFile:
    """JsonlFile for asyncio: the same log, with the same arguments, and methods to be awaited.

    A record that can be appended at once is: that is a matter of microseconds. Otherwise, and to bring it to the disk,
    the task waits, and the loop goes on. Many tasks share one thread that waits, and one sync.

    An append that is cancelled has happened whole or not at all; `holdfast.aio.happened(error)` says which.

    >>> import asyncio
    >>> from holdfast.aio import AsyncJsonlFile
    >>> async def main():
    ...     async with AsyncJsonlFile("events.jsonl") as log:
    ...         await log.append({"event": "started", "pid": 4711})
    ...         async for record in log:
    ...             print(record["event"])
    >>> asyncio.run(main())
    started
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool | float = False,
        timeout: float | None = None,
        encode: Callable[[Any], str | bytes] | None = None,
        decode: Callable[[bytes], Any] | None = None,
        max_bytes: int | str | None = None,
        max_age: float | None = None,
        backups: int | str | None = None,
        compress: bool = False,
        mode: int = DEFAULT_MODE,
        metrics: str | None = None,
    ) -> None:
        self._file = JsonlFile(
            path,
            durable=durable,
            timeout=timeout,
            encode=encode,
            decode=decode,
            max_bytes=max_bytes,
            max_age=max_age,
            backups=backups,
            compress=compress,
            mode=mode,
            metrics=metrics,
        )
        self._here: _Here | None = None

    @property
    def path(self) -> str:
        """The path of the file, absolute."""
        return self._file.path

    # Appending

    async def append(self, record: Any) -> None:
        """Append a record.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> asyncio.run(AsyncJsonlFile("events.jsonl").append({"event": "started"}))
        """
        await self._append(self._file._encode(record), 1)

    async def append_bytes(self, line: bytes) -> None:
        r"""Append a record that is encoded already: one line, with or without its newline.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> asyncio.run(AsyncJsonlFile("events.jsonl").append_bytes(b'{"event": "started"}\n'))
        """
        await self._append(as_line(line), 1)

    async def extend(self, records: Iterable[Any]) -> int:
        """Append several records at once, all or none, next to each other. Returns how many.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> asyncio.run(AsyncJsonlFile("events.jsonl").extend({"number": number} for number in range(3)))
        3
        """
        encoded = [*map(self._file._plain_encode, records)]
        if encoded:
            await self._append(as_lines(encoded), len(encoded))
        return len(encoded)

    async def _append(self, lines: bytes, records: int) -> None:
        here, file = self._where(), self._file
        rc = _core.BUSY if here.line.waiting else _core.append_log(file._log, lines, len(lines), records)
        appended = rc == 0
        try:
            if not appended:
                await self._append_later(rc, lines, records)
                appended = True
            if file._sync_interval == 0:
                await self.sync()
            elif file._sync_interval is not None:
                file._see_to_sync(file._sync_interval)
        except CancelledError as error:
            if not is_told(error):
                _tell(error, appended, file)
            raise

    async def _append_later(self, rc: int, lines: bytes, records: int) -> None:
        """Go on after a first try that returned `rc`: wait, rotate, or raise."""
        file = self._file
        deadline = _core.deadline(file._timeout)
        while rc != 0:
            if rc == _core.FULL:
                await _threads.call_at_once(file._rotate, deadline, len(lines))
                rc = _core.append_log(file._log, lines, len(lines), records)
            elif rc == _core.BUSY and file._timeout != 0:
                rc = await self._append_in_line(lines, records, deadline)
            else:
                await _threads.call(file._fail, rc)  # which looks who holds the lock

    async def _append_in_line(self, lines: bytes, records: int, deadline: int) -> int:
        line = self._where().line
        turn = _Append(self._file._log, lines, records, line)
        line.queue(turn)
        timer = None
        if deadline != _core.FOREVER:
            timer = line.loop.call_later(max(0, deadline - _core.now()) / 1e9, line.end, turn, _core.TIMED_OUT)
        try:
            return await shield(turn.future)
        except CancelledError as error:
            line.end(turn, _core.CANCELLED)
            await until_done(turn.future)
            _tell(error, turn.future.result() == 0, self._file)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _where(self) -> _Here:
        here, loop = self._here, get_running_loop()
        if here is None or here.loop is not loop:
            here = self._here = _Here(loop, self._file.path)
        return here

    async def sync(self) -> None:
        """Return when everything appended so far by this object is on the disk. Many tasks share one sync.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> async def main():
        ...     log = AsyncJsonlFile("events.jsonl")
        ...     await log.append({"event": "paid"})
        ...     await log.sync()
        >>> asyncio.run(main())
        """
        here, file = self._where(), self._file
        appended, synced, rc = _core.log_written(file._log), -1, 0
        while synced < appended and rc == 0:
            if here.syncing is None or here.syncing.done():
                here.syncing = _threads.call_at_once(_sync, file)
            synced, rc = await shield(here.syncing)
        file._check_sync(rc)

    async def rotate(self) -> str | None:
        """Rotate the file now, unless it is empty or missing. Returns the path of what it was.

        When this is cancelled it goes on in its thread.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> print(asyncio.run(AsyncJsonlFile("events.jsonl").rotate()))
        None
        """
        return await _threads.call_at_once(self._file.rotate)

    # Reading

    def __aiter__(self) -> AsyncRecords:
        return self.records()

    def records(
        self,
        where: Callable[[Any], object] | None = None,
        *,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
    ) -> AsyncRecords:
        """Iterate over the records there are, as JsonlFile.records() does, giving the loop back now and then.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> async def main():
        ...     log = AsyncJsonlFile("events.jsonl")
        ...     await log.extend([{"ms": 12}, {"ms": 950}])
        ...     return [record async for record in log.records(where=lambda record: record["ms"] > 100)]
        >>> asyncio.run(main())
        [{'ms': 950}]
        """
        return AsyncRecords(self._file.path, self._file._decode, where=where, since=since, errors=errors)

    def follow(
        self,
        where: Callable[[Any], object] | None = None,
        *,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        timeout: float | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
    ) -> AsyncRecords:
        """Iterate over the records there are, and then over those to come, as JsonlFile.follow() does.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> async def main():
        ...     log = AsyncJsonlFile("events.jsonl")
        ...     await log.append({"event": "started"})
        ...     async with log.follow(timeout=0.1) as records:
        ...         async for record in records:
        ...             print(record)
        >>> asyncio.run(main())
        {'event': 'started'}
        """
        return AsyncRecords(
            self._file.path,
            self._file._decode,
            where=where,
            since=since,
            errors=errors,
            following=True,
            timeout=timeout,
            poll_interval=poll_interval,
        )

    async def verify(self, progress: Callable[[str, int], object] | None = None) -> Report:
        """Read everything and report each line that is no record, as JsonlFile.verify() does.

        `progress` is called in another thread.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> asyncio.run(AsyncJsonlFile("events.jsonl").verify()).ok
        True
        """
        cancelled = False

        def look(path: str, done: int) -> None:
            if cancelled:
                raise CancelledError
            if progress is not None:
                progress(path, done)

        try:
            return await _threads.call_at_once(self._file.verify, look)
        finally:
            cancelled = True

    async def repair(self) -> Report:
        """Move each line that is no record to a file beside, as JsonlFile.repair() does.

        When this is cancelled it goes on in its thread.

        >>> import asyncio
        >>> from holdfast.aio import AsyncJsonlFile
        >>> asyncio.run(AsyncJsonlFile("events.jsonl").repair()).ok
        True
        """
        return await _threads.call_at_once(self._file.repair)

    # The rest

    @property
    def stats(self) -> JsonlStats:
        """What this object has done in this process."""
        return self._file.stats

    async def close(self) -> None:
        """Close the file, after syncing it if it is `durable`. Appending is an error then; reading still works.

        When this is cancelled it goes on in its thread, and appends that still wait get the error.
        """
        await _threads.call_at_once(self._file.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncJsonlFile {self._file.path!r}>"

    def __reduce__(self) -> tuple[Callable[..., AsyncJsonlFile], tuple[str, dict[str, Any]]]:
        """A copy, also one pickled to another process, is another writer of the same file."""
        return _make, (self._file.path, self._file._settings)


def _make(path: str, settings: dict[str, Any]) -> AsyncJsonlFile:
    return AsyncJsonlFile(path, **settings)


def _tell(error: CancelledError, appended: bool, file: JsonlFile) -> None:
    tell(error, appended, f"the append to {file.path!r} {'had happened' if appended else 'had not happened'}")


def _sync(file: JsonlFile) -> tuple[int, int]:
    """Sync, in a thread. Up to which append, and the core's result."""
    appended = _core.log_written(file._log)
    return appended, file._sync(appended)


class _Pause(Exception):
    """The next lines have to be fetched, or it is time to give the loop back."""


class _Slices(Records):
    """Records that are decoded a slice at a time, and never wait."""

    def _wait(self, since: float | None) -> float | None:
        raise _Pause

    def _show(self, file: LogFile) -> bool:
        super()._show(file)
        self._lines = filter(bytes.strip, file.next_lines(_SLICE))
        return True

    def ends_at(self, now: float) -> float:
        """When to stop, if there is no more now."""
        if not self._following:
            self.close()
            return now
        return now + self._timeout if self._timeout >= 0 else float("inf")

    @property
    def poll_interval(self) -> float:
        """The longest time between two looks for more."""
        return self._poll_interval

    def has_lines(self) -> bool:
        """Whether there are more lines in memory."""
        return self._file is not None and self._file.has_unread()

    def look(self) -> bool | None:
        """Whether there are more lines, which are then in memory. None after close()."""
        try:
            return super()._look()
        except StopIteration:
            return None


class AsyncRecords:
    """An asynchronous iterator over the records of a log; see Records for what it promises.

    >>> import asyncio
    >>> from holdfast.aio import AsyncJsonlFile
    >>> async def main():
    ...     log = AsyncJsonlFile("events.jsonl")
    ...     await log.extend([{"n": 1}, {"n": 2}])
    ...     records = log.records()
    ...     print(await anext(records))
    ...     return [record async for record in log.records(since=records.checkpoint)]
    >>> asyncio.run(main())
    {'n': 1}
    [{'n': 2}]
    """

    def __init__(
        self,
        path: str,
        decode: Callable[[bytes], Any] | None = None,
        *,
        where: Callable[[Any], object] | None = None,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        following: bool = False,
        timeout: float | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
    ) -> None:
        self._slices = _Slices(
            path,
            decode,
            where=where,
            since=since,
            errors=errors,
            following=following,
            timeout=timeout,
            poll_interval=poll_interval,
        )
        self._looking: Future[bool | None] | None = None  # that a thread does
        self._before = ""  # the checkpoint at its beginning

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        ends_at, nap = None, SHORTEST_NAP
        while True:
            if self._looking is None:  # otherwise one that was cancelled left it to us
                try:
                    return next(self._slices)
                except StopIteration:
                    raise StopAsyncIteration from None
                except _Pause:
                    pass
            found = await self._look()
            if found:
                continue
            now = monotonic()
            ends_at = self._slices.ends_at(now) if ends_at is None else ends_at
            if found is None or now >= ends_at:
                raise StopAsyncIteration
            await sleep(min(nap, self._slices.poll_interval, ends_at - now))
            nap *= 2

    async def _look(self) -> bool | None:
        """Have more lines in memory, if there are any."""
        if self._looking is None and self._slices.has_lines():
            await sleep(0)
            return self._slices.look()
        if self._looking is None:
            self._before = self._slices.checkpoint
            self._looking = _threads.call(self._slices.look)
        looking = self._looking
        try:
            return await shield(looking)
        finally:
            if looking.done():
                self._looking = None

    @property
    def checkpoint(self) -> str:
        """Where this reader is: `since=` this goes on after the records that it has returned."""
        return self._slices.checkpoint if self._looking is None else self._before

    def close(self) -> None:
        """End the iteration and close the files. The checkpoint stays."""
        self._slices.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
