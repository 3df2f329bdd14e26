"""States that tasks read and change without blocking their event loop."""

from __future__ import annotations

from asyncio import CancelledError, sleep
from collections.abc import Mapping
from contextlib import asynccontextmanager
from inspect import isawaitable

from holdfast._conflict import StateConflict
from holdfast._temporary import this_process
from holdfast.aio import _threads
from holdfast.aio._cancelled import finish, tell
from holdfast.aio.locks import AsyncFileLock
from holdfast.state import MANY_ATTEMPTS, OfData, Snapshot, StateFile, naps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import datetime
    from typing import Any, TypeVar, overload

    from holdfast._changes import Change
    from holdfast._formats import Codec

    Data = TypeVar("Data")
    T = TypeVar("T")


class AsyncStateFile(OfData["Data"]):
    """StateFile for asyncio: the same state, with the same arguments, and methods to be awaited.

    The lock is waited for without blocking the loop, and files are read and written in a thread. A save that is
    cancelled while it writes is done first; `holdfast.aio.happened(error)` says whether it has happened.

    >>> import asyncio
    >>> from holdfast.aio import AsyncStateFile
    >>> async def main():
    ...     state = AsyncStateFile("state.json")
    ...     async with state.edit() as data:  # nobody else saves meanwhile
    ...         data["jobs"] = data.get("jobs", 0) + 1
    ...     return await state.load()
    >>> asyncio.run(main())
    <Snapshot of revision 1: {'jobs': 1}>
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: AsyncStateFile[dict[str, Any]],
            path: str | os.PathLike[str],
            *,
            type: None = None,
            default: Callable[[], Mapping[str, Any]] = dict,
            timeout: float | None = None,
            durable: bool = True,
            revision_key: str = "revision",
            format: str | Codec | None = None,
            history: bool = False,
            metrics: str | None = None,
        ) -> None: ...

        @overload
        def __init__(
            self,
            path: str | os.PathLike[str],
            *,
            type: type[Data],
            default: Callable[[], Data | Mapping[str, Any]] = dict,
            timeout: float | None = None,
            durable: bool = True,
            revision_key: str = "revision",
            format: str | Codec | None = None,
            history: bool = False,
            metrics: str | None = None,
        ) -> None: ...

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        type: type[Any] | None = None,
        default: Callable[[], Any] = dict,
        timeout: float | None = None,
        durable: bool = True,
        revision_key: str = "revision",
        format: str | Codec | None = None,
        history: bool = False,
        metrics: str | None = None,
    ) -> None:
        self._state: StateFile[Any] = StateFile(
            path,
            type=type,
            default=default,
            timeout=timeout,
            durable=durable,
            revision_key=revision_key,
            format=format,
            history=history,
            metrics=metrics,
        )
        self._lock: AsyncFileLock | None = None

    @property
    def path(self) -> str:
        """The path of the file, absolute."""
        return self._state.path

    async def load(self) -> Snapshot[Data]:
        """The state as it is now. A file that has not changed since the last time is not read again.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> asyncio.run(AsyncStateFile("state.json", default=lambda: {"theme": "dark"}).load()).data
        {'theme': 'dark'}
        """
        if not self._state._is_current():
            return await _threads.call(self._state.load)
        return self._state.load()

    async def save(self, data: Data, *, expect: Snapshot[Data] | int | None = None) -> int:
        """Make `data` the state, and return its revision, as StateFile.save() does.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> asyncio.run(AsyncStateFile("state.json").save({"theme": "dark"}))
        1
        """
        saving = self._state._saving(data, expect)
        async with self._locked() as target:
            return await self._finish(saving, target)

    @asynccontextmanager
    async def edit(self) -> AsyncGenerator[Data]:
        """The state, to be changed in an async with block, at the end of which it is saved, as by StateFile.edit().

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> async def main():
        ...     async with AsyncStateFile("state.json").edit() as data:
        ...         data["theme"] = "dark"
        >>> asyncio.run(main())
        """
        state = self._state
        async with self._locked() as target:
            before = await _threads.call_at_once(state._read, target)  # others wait for the lock
            data: Data = state._to_type(before.thaw())
            yield data
            await self._finish(state._replace, target, before, data)

    async def update(
        self, change: Callable[[Data], Data | Awaitable[Data | None] | None], *, attempts: int = MANY_ATTEMPTS
    ) -> int:
        """Change the state by a function, or a coroutine function, that may take its time, as StateFile.update() does.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> state = AsyncStateFile("state.json", default=lambda: {"jobs": ["a", "b"]})
        >>> asyncio.run(state.update(lambda data: {"jobs": data["jobs"][1:]}))
        1
        """
        state = self._state
        pauses = naps(attempts)
        while True:
            before = await _threads.call(state._latest)
            data: Data = state._to_type(before.thaw())
            changed = change(data)
            if isawaitable(changed):
                changed = await changed
            news = state._news(data if changed is None else changed, before)
            if news is None:
                return before.revision
            try:
                async with self._locked() as target:
                    return await self._finish(state._swap, target, before, news)
            except StateConflict:
                nap = next(pauses, None)
                if nap is None:
                    raise
            await sleep(nap)

    async def history(self, limit: int | None = None, since: int | datetime | None = None) -> list[Change]:
        """The recorded changes, as StateFile.history() returns them.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> asyncio.run(AsyncStateFile("state.json", history=True).history())
        []
        """
        return await _threads.call(self._state.history, limit, since)

    async def at(self, revision: int) -> Snapshot[Data]:
        """The state as it was at a recorded revision, or LookupError.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> async def main():
        ...     state = AsyncStateFile("state.json", history=True)
        ...     for theme in "dark", "light":
        ...         await state.save({"theme": theme})
        ...     return await state.at(1)
        >>> asyncio.run(main()).data
        {'theme': 'dark'}
        """
        return await _threads.call(self._state.at, revision)

    async def prune_history(self, keep_days: float) -> int:
        """Remove what is older from the history, as StateFile.prune_history() does.

        >>> import asyncio
        >>> from holdfast.aio import AsyncStateFile
        >>> asyncio.run(AsyncStateFile("state.json", history=True).prune_history(keep_days=90))
        0
        """
        pruning = self._state._pruning(keep_days)
        async with self._locked() as target:
            return await self._finish(pruning, target)

    @property
    def history_errors(self) -> int:
        """How many changes this object saved and could not record."""
        return self._state.history_errors

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[str]:
        """Hold the lock of the file that the path means, as StateFile does."""
        this_process()
        while True:
            target = self._state._target()
            lock = self._lock
            if lock is None or lock.lock_file != target + ".lock":
                lock = self._lock = AsyncFileLock(
                    target + ".lock", timeout=self._state._timeout, metrics=self._state._metrics
                )
            try:
                await lock.acquire()
            except CancelledError as error:
                tell(error, False, f"{self.path!r} was not changed")
                raise
            try:
                if self._state._target() == target:
                    yield target
                    return
            finally:
                await lock.release()

    async def _finish(self, function: Callable[..., T], *args: Any) -> T:
        return await finish(f"the change of {self.path!r}", function, *args)

    def __reduce__(self) -> tuple[Callable[..., AsyncStateFile[Any]], tuple[str, dict[str, Any]]]:
        """A copy, also in another process, is another object for the same file."""
        return _make, (self.path, self._state._settings)

    def __repr__(self) -> str:
        return f"<AsyncStateFile {self.path!r}>"


def _make(path: str, settings: dict[str, Any]) -> AsyncStateFile[Any]:
    return AsyncStateFile(path, **settings)
