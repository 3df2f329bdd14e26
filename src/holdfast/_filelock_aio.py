"""AsyncFileLock of the bridge to the filelock package: apart, because asyncio takes longer to load than the rest."""

from __future__ import annotations

import os

import filelock.asyncio

from holdfast import _core
from holdfast._base import DEFAULT_POLL_INTERVAL
from holdfast.aio import locks
from holdfast.filelock import UNSET_MODE, FileLock, Options, lend, stand_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from concurrent.futures import Executor
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Self

    from holdfast.aio.locks import AsyncAcquireReturnProxy


class AsyncFileLock(Options, locks.AsyncFileLock):
    """holdfast's AsyncFileLock with the arguments, attributes and exceptions of filelock's.

    As there all tasks share one hold of an object, unless `thread_local=True` gives each task its own. Nothing runs in
    an executor: `loop`, `run_in_executor` and `executor` have no effect. `on_acquired` is called in the loop's thread.

    >>> import asyncio
    >>> from holdfast.filelock import AsyncFileLock
    >>> async def main():
    ...     async with AsyncFileLock("app.lock", timeout=10) as lock:
    ...         assert lock.is_locked
    >>> asyncio.run(main())
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = UNSET_MODE,
        thread_local: bool = False,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        lifetime: float | None = None,
        context_error_policy: Literal["chain", "group"] = "chain",
        close_error_policy: Literal["default", "raise", "suppress"] = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], None] | None = None,
        loop: AbstractEventLoop | None = None,
        run_in_executor: bool = True,
        executor: Executor | None = None,
    ) -> None:
        self._keep(mode, context_error_policy, close_error_policy, fallback_to_soft, preserve_lock_file, on_acquired)
        self._loop = loop
        self._run_in_executor = run_in_executor
        self._executor = executor
        self._told_of: object = None
        super().__init__(
            lock_file,
            timeout,
            self.mode,
            thread_local,
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            lifetime=lifetime,
        )

    def _prepare(self) -> None:
        self._mode, exactly = (self.mode, _core.EXACT_MODE) if self.has_explicit_mode else (0o666, 0)
        self._flags = _core.ANY_THREAD | exactly
        super()._prepare()

    async def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AsyncAcquireReturnProxy[Self]:
        proxy = await super().acquire(timeout, poll_interval, blocking=blocking, cancel_check=cancel_check)
        hold = proxy._hold  # one for each time that the lock was not held before
        # Each task has its own, or all have one, and another task may have nested in it by now.
        is_new = _core.count(hold.core) == 1 if self._thread_local else hold is not self._told_of
        if self._on_acquired is not None and is_new:
            self._told_of = hold
            try:
                lend(hold.core, self._on_acquired)
            except BaseException:
                self._told_of = None
                self._release(hold)
                raise
        return proxy

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release_in_context(error)

    async def _release_in_context(self, error: BaseException | None) -> None:
        try:
            await self.release()
        except BaseException as failure:
            group = self._grouped(error, failure)
            if group is None:
                raise
            raise group from None

    @property
    def loop(self) -> AbstractEventLoop | None:
        """As it was given. It has no effect: a lock is used in the loop that runs."""
        return self._loop

    @property
    def run_in_executor(self) -> bool:
        """As it was given. It has no effect: what waits does so in a thread of holdfast's own."""
        return self._run_in_executor

    @property
    def executor(self) -> Executor | None:
        """As it was given. It has no effect: what waits does so in a thread of holdfast's own."""
        return self._executor

    @executor.setter
    def executor(self, value: Executor | None) -> None:
        self._executor = value

    def _settings(self) -> dict[str, object]:
        return {
            **super()._settings(),
            "loop": self._loop,
            "run_in_executor": self._run_in_executor,
            "executor": self._executor,
        }


AsyncFileLock._full_init = AsyncFileLock.__init__
stand_for(AsyncFileLock, getattr(filelock.asyncio, f"Async{FileLock._stands_for.__name__}"))
