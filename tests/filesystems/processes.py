"""Forked processes that do one thing each, and memory that they share: nothing but the standard library is needed."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 1200.0
"""Seconds after which what should come will not come; nothing is measured with it."""


class Failed(AssertionError):
    """What went wrong in another process."""


class Process:
    """A forked process that calls `task(pause, *arguments)`. `pause()` stops there until it is told to go on."""

    def __init__(self, task: Callable[..., Any], *arguments: Any, leads: bool = False) -> None:
        ours, its = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            if leads:
                os.setpgid(0, 0)  # so that it can be ended together with the processes that it has forked
            ours.close()
            _live(its.makefile("rwb", buffering=0), task, arguments)
        its.close()
        self._socket = ours
        self._lines = ours.makefile("rb")
        self._group = leads
        self._ended = False

    def reached(self) -> None:
        """Wait until it pauses."""
        assert self._hear() == ["paused"], "it came to its end and did not pause"

    def go(self) -> None:
        """Let it go on."""
        self._socket.sendall(b"\n")

    def result(self) -> Any:
        """Wait until it has ended, and return what the task returned."""
        kind, value = self._hear()
        self.kill()
        assert kind == "done"
        return value

    def _hear(self) -> list[Any]:
        if not select.select([self._socket], [], [], PATIENCE)[0]:
            raise Failed(f"a process did not come to its end within {PATIENCE:g} seconds")
        line = self._lines.readline()
        if not line:
            raise Failed("a process ended without a word")
        heard: list[Any] = json.loads(line)
        if heard[0] == "failed":
            raise Failed(heard[1])
        return heard

    def kill(self) -> None:
        """End it with SIGKILL, and see it gone. It may have ended already."""
        if not self._ended:
            self._ended = True
            with suppress(OSError):  # it has ended, or its group is not there yet
                (os.killpg if self._group else os.kill)(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _live(parent: Any, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    def pause() -> None:
        parent.write(b'["paused"]\n')
        if not parent.readline():
            os._exit(1)  # nobody is there any more

    try:
        answer = ["done", task(pause, *arguments)]
    except BaseException:  # noqa: BLE001 - whatever it is, the other side has to know
        answer = ["failed", traceback.format_exc()]
    parent.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def together(task: Callable[..., Any], *arguments: tuple[Any, ...]) -> list[Any]:
    """Run a task in as many processes at once as there are tuples of arguments, and return what they returned."""
    processes = [Process(task, *each) for each in arguments]
    try:
        return [process.result() for process in processes]
    finally:
        for process in processes:
            process.kill()


@contextmanager
def paused(task: Callable[..., Any], *arguments: Any) -> Iterator[Process]:
    """A process that has come to its pause."""
    with Process(task, *arguments) as process:
        process.reached()
        yield process


def shared_numbers(count: int) -> memoryview:
    """Numbers in memory that is shared with the processes forked later. All are 0."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("q")


def yield_to_others() -> None:
    """Let another process run, as the scheduler may at any time."""
    time.sleep(0)
