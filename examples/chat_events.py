"""A chat backend's event log: an asyncio service with several worker processes, and one events.jsonl for all of them.

    pip install holdfast pydantic
    python examples/chat_events.py [DIRECTORY]

Copy EventRepository. Its events are pydantic models; appending never blocks the loop, never mixes lines, and ends with
its request: one that is cancelled has appended its event or not, and knows which.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from holdfast.aio import AsyncJsonlFile, happened

WORKERS = 4
REQUESTS = 250


class MessageSent(BaseModel):
    """Somebody said something."""

    kind: Literal["message"] = "message"
    room: str
    author: str
    text: str
    at: datetime


class RoomClosed(BaseModel):
    """Nobody can say anything there any more."""

    kind: Literal["closed"] = "closed"
    room: str
    at: datetime


Event = Annotated[MessageSent | RoomClosed, Field(discriminator="kind")]


class EventRepository:
    """The events of a chat, in the order in which they were appended, from all workers."""

    def __init__(self, path: Path) -> None:
        self._log = AsyncJsonlFile(
            path,
            encode=BaseModel.model_dump_json,  # text stays as it is: UTF-8, no escapes
            decode=TypeAdapter(Event).validate_json,
            max_bytes="64 MB",
            backups="10 GB",
        )

    async def add(self, *events: MessageSent | RoomClosed) -> None:
        """Append events: all of them, next to each other, or none."""
        await self._log.extend(events)

    async def in_room(self, room: str, since: str | None = None) -> AsyncIterator[MessageSent | RoomClosed]:
        """The events of a room."""
        async with self._log.records(where=lambda event: event.room == room, since=since) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Close the file, when the worker ends."""
        await self._log.close()


async def handle(events: EventRepository, worker: int, request: int) -> None:
    """What a worker does for one request."""
    message = MessageSent(
        room=f"room-{request % 5}",
        author=f"worker-{worker}",
        text=f"grüße Nr. {request}",
        at=datetime.now(timezone.utc),
    )
    try:
        await events.add(message)
    except asyncio.CancelledError as error:  # the client has gone; its message may be there nevertheless
        print(f"worker {worker}, request {request}: cancelled, {'with' if happened(error) else 'without'} its event")
        raise


def serve(path: Path, worker: int) -> None:
    """A worker process: many requests at a time, in one loop."""

    async def main() -> None:
        events = EventRepository(path)
        await asyncio.gather(*[handle(events, worker, request) for request in range(REQUESTS)])
        await events.close()

    asyncio.run(main())


async def report(path: Path) -> bool:
    """Read everything back by room, and say whether it is complete."""
    events = EventRepository(path)
    total = 0
    for number in range(5):
        room = f"room-{number}"
        found = [event async for event in events.in_room(room)]
        by = {event.author for event in found if isinstance(event, MessageSent)}
        print(f"{room}: {len(found)} messages by {len(by)} workers, the last: {found[-1].model_dump_json()}")
        total += len(found)
    await events.close()
    return total == WORKERS * REQUESTS


def main() -> int:
    """Let several workers write at a time, and check what they wrote."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="chat-"))
    path = directory / "events.jsonl"
    workers = [
        multiprocessing.get_context("spawn").Process(target=serve, args=(path, worker)) for worker in range(WORKERS)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    complete = asyncio.run(report(path))
    print(f"{WORKERS} workers, {WORKERS * REQUESTS} events in {path}: {'complete' if complete else 'INCOMPLETE'}")
    return 0 if complete and all(process.exitcode == 0 for process in workers) else 1


if __name__ == "__main__":
    sys.exit(main())
