"""What a cancelled call says: whether it had happened nevertheless."""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError, shield, wait
from contextlib import suppress

from holdfast.aio import _threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_ATTRIBUTE = "_holdfast_happened"


def tell(error: BaseException, happened: bool, what: str) -> None:
    """Note in a CancelledError what became of what was cancelled.

    >>> from asyncio import CancelledError
    >>> error = CancelledError()
    >>> tell(error, True, "the record was appended")
    >>> happened(error)
    True
    """
    # Not a class of its own: asyncio.timeout() looks for exactly CancelledError.
    setattr(error, _ATTRIBUTE, happened)
    if sys.version_info >= (3, 11):
        error.add_note(f"When this was cancelled, {what}.")


def is_told(error: BaseException) -> bool:
    """Whether tell() has been called for this very error, and not only for one that it came of.

    >>> from asyncio import CancelledError
    >>> is_told(CancelledError())
    False
    """
    return hasattr(error, _ATTRIBUTE)


def happened(error: BaseException) -> bool | None:
    """Whether what was cancelled had happened nevertheless, as a CancelledError, or the TimeoutError made of it, knows.

    None if the error knows nothing of that, because it comes from elsewhere.

    >>> import asyncio
    >>> from holdfast.aio import AsyncJsonlFile, happened
    >>> async def main():
    ...     log = AsyncJsonlFile("events.jsonl")
    ...     try:
    ...         await log.append({"event": "started"})
    ...     except asyncio.CancelledError as error:
    ...         print("appended" if happened(error) else "not appended")
    ...         raise
    >>> asyncio.run(main())
    """
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # two classes before Python 3.11
        cancelled = _origin(error)
        return happened(cancelled) if cancelled is not None else None
    known: bool | None = getattr(error, _ATTRIBUTE, None)
    if known is None and sys.version_info < (3, 11) and isinstance(error, CancelledError) and error.__context__:
        return happened(error.__context__)  # a task makes a new one for those who await it
    return known


def _origin(error: BaseException) -> BaseException | None:
    """What a TimeoutError was made of; not what was handled when it was raised, which may be another call's."""
    before = error.__context__
    if sys.version_info < (3, 11, 3) and type(error) is asyncio.TimeoutError and isinstance(before, CancelledError):
        return error.__cause__ or before  # asyncio.timeout() names no cause there
    return error.__cause__


async def until_done(future: Future[Any]) -> None:
    """Wait for a future, however often this task is cancelled meanwhile."""
    while not future.done():
        with suppress(CancelledError):
            await wait([future])


async def finish(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread, to its end also when this task is cancelled; then the error says what came of it."""
    future = _threads.call_at_once(function, *args, **kwargs)
    try:
        return await shield(future)
    except CancelledError as error:
        await until_done(future)
        failure = future.exception()
        tell(error, failure is None, f"{what} was done" if failure is None else f"{what} had failed: {failure}")
        raise
