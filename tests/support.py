"""What the tests share: other processes that do as they are told, and waiting for what must come to pass."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from asyncio import Task
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

R = TypeVar("R")

if sys.platform == "win32":
    from ctypes import WinDLL  # which a Python need not have elsewhere

    UNDER_WINE = hasattr(WinDLL("ntdll"), "wine_get_version")
else:
    UNDER_WINE = False

# Seconds after which what a test waits for will not come; no test measures with it. Wine starts programs slowly, and
# where a processor is emulated, everything is slow.
PATIENCE = int(os.environ.get("HOLDFAST_PATIENCE") or (300 if UNDER_WINE else 60))


class Child:
    """A Python process that runs a piece of code, and talks with the test in lines.

    The code sees its arguments in `args`, has `say(line)` and `hear()`, and can import this module.
    """

    _PRELUDE = (
        "import os, sys, time, threading\n"
        f"sys.path.append({os.path.dirname(os.path.abspath(__file__))!r})\n"
        "args = sys.argv[1:]\n"
        "def say(line): print(line, flush=True)\n"
        "def hear(): return sys.stdin.readline().strip()\n"
    )

    def __init__(self, code: str, *args: object, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._PRELUDE + textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        """The next line the child says; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def expect(self, line: str) -> None:
        heard = self.hear()
        assert heard == line, f"the child said {heard!r} and not {line!r}"

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End the child with SIGKILL (on Windows, TerminateProcess), and see it gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def join(self) -> None:
        """Wait until the child has ended, in good order."""
        assert self.process.wait(PATIENCE) == 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


# A signal handler that raises Alarm, once each time it has been armed.
ALARMS = """
import signal
class Alarm(Exception): pass
armed = False
def alarm(*_):
    global armed
    if armed:
        armed = False
        raise Alarm
signal.signal(signal.SIGALRM, alarm)
"""

HOLD = """
    from holdfast import FileLock
    with FileLock(args[0]):
        say("held")
        hear()
    say("released")
"""


@contextmanager
def held_elsewhere(path: object) -> Iterator[Child]:
    """Another process holds the FileLock at `path`, until it is told something or the block ends."""
    with Child(HOLD, path) as child:
        child.expect("held")
        yield child


@contextmanager
def held_here(path: object) -> Iterator[Callable[[], None]]:
    """This process holds the FileLock at `path`, for no thread or task in particular, until it calls what it gets."""
    from holdfast import FileLock

    lock = FileLock(str(path), thread_local=False)
    lock.acquire()
    try:
        yield lock.release
    finally:
        lock.close()


@contextmanager
def log_held_here(path: object) -> Iterator[Callable[[], None]]:
    """This thread keeps the log at `path` locked, as who repairs it does, until it calls what it gets."""
    from holdfast import JsonlFile, _core

    log = JsonlFile(str(path))
    with log._locked():
        yield lambda: _core.unlock_log(log._log)


async def started(*coroutines: Coroutine[Any, Any, R]) -> list[Task[R]]:
    """Tasks that have run as far as they can."""
    from asyncio import create_task, sleep

    tasks = [create_task(coroutine) for coroutine in coroutines]
    for _ in range(3):
        await sleep(0)
    return tasks


def fork() -> int:
    """Fork this process, although it may have threads: the child does a little and ends, or is killed."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as an error, it would run all other tests in the child
        return os.fork()


def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.001)


def in_another_thread(function: Callable[[], R]) -> R:
    """What a function returns, or raises, in a thread of its own that has ended then."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(PATIENCE)


def is_free(path: object, **settings: object) -> bool:
    """Whether somebody else could acquire the FileLock at `path` now."""
    from holdfast import FileLock, Timeout

    try:
        FileLock(path, blocking=False, **settings).acquire().lock.close()
    except Timeout:
        return False
    return True


WAITS_IN_KERNEL = os.environ.get("HOLDFAST_WAIT") != "poll"


def until_it_waits(child: Child, path: object) -> None:
    """Wait until the child, which is about to wait for the lock at `path`, does so, as far as the system shows that.

    What is right when the child has not come to its wait yet is right for every test that uses this: where nothing can
    be seen the test proves less, and is no less right.
    """
    if sys.platform == "linux" and WAITS_IN_KERNEL:
        from holdfast import holders

        eventually(lambda: any(holder.waiting and holder.pid == child.pid for holder in holders(str(path))))
    else:
        time.sleep(0.05)


BINARY = getattr(os, "O_BINARY", 0)  # without which Windows translates the ends of lines


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """What os.pread() reads, where that exists."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """What os.pwrite() writes, where that exists."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    os.write(descriptor, data)


def increment(path: str) -> None:
    """Add one to the number in a file, in steps that only a lock keeps together. A missing file means 0."""
    try:
        with open(path, encoding="ascii") as file:
            number = int(file.read())
    except FileNotFoundError:
        number = 0
    time.sleep(0)  # let another run, as the scheduler may at any time
    with open(path, "w", encoding="ascii") as file:
        file.write(str(number + 1))


def number_in(path: str) -> int:
    """What increment() counted."""
    with open(path, encoding="ascii") as file:
        return int(file.read())
