"""`holdfast demo`: processes append to a log and take turns by a lock, are killed at random, and nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from shutil import rmtree
from tempfile import mkdtemp

from holdfast import FileLock, JsonlFile, Timeout
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import NoReturn

EXAMPLE = """\
holdfast demo

The processes work in a directory of their own, in DIRECTORY or else among the temporary files. It
is removed afterwards, unless something was lost: then it is kept, and the exit code is 1.
"""

_MAX_BYTES = "1 MB"
_PAUSE = 0.12  # seconds from one kill to the next
_GLANCE = 0.02
_PATIENCE = 60  # seconds for the first processes to begin
_NEW_PROCESS_GROUP = 0x200  # subprocess has this name on Windows only


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="for how long (the default: 3)")
    parser.add_argument("directory", nargs="?", metavar="DIRECTORY", help="where, for example on another disk")


def run(options: argparse.Namespace) -> int:
    """Let processes work, kill them, and check what they leave."""
    folder = os.path.abspath(mkdtemp(prefix="holdfast-demo-", dir=options.directory))
    try:
        problems = _play(folder, options.seconds)
    except BaseException:
        rmtree(folder)
        raise
    if problems:
        for problem in problems:
            say(problem)
        say(f"this must not happen; {folder} is left to be looked at")
        return NO
    rmtree(folder)
    print("\nNothing was lost.")
    return DONE


def _play(folder: str, seconds: float) -> list[str]:
    """The whole demonstration. Returns what was not as it should be."""
    print(
        f"In {folder}, 4 processes append to one log, which is rotated every {_MAX_BYTES},\n"
        "and 3 count up a number in a file, one at a time by a FileLock. Again and again one of them is\n"
        "killed in the middle of whatever it does, and another takes its place.\n",
        flush=True,
    )
    writers, counters = _Crew("append", folder, 4), _Crew("count", folder, 3)
    try:
        problems = _kill_at_random([writers, counters], seconds)
    finally:
        for crew in (writers, counters):
            crew.end()
    return [*problems, *_check_log(writers), *_check_lock(counters)]


def _kill_at_random(crews: list[_Crew], seconds: float) -> list[str]:
    patience = time.monotonic() + _PATIENCE
    while not all(crew.has_begun() for crew in crews):
        if time.monotonic() > patience or any(crew.has_failed() for crew in crews):
            return ["the processes did not begin"]
        time.sleep(_GLANCE)
    began = killed = time.monotonic()
    with progress(seconds, "seconds", "working") as bar:
        while (now := time.monotonic()) < began + seconds:
            bar.update(now - began)
            if any(crew.has_failed() for crew in crews):
                return ["a process ended by itself"]
            if now > killed + _PAUSE:
                killed = now
                random.choice(crews).kill_one()
            time.sleep(_GLANCE)
    return []


class _Crew:
    """Processes with one task, each with a number of its own."""

    def __init__(self, task: str, folder: str, size: int) -> None:
        self.folder = folder
        self.killed = 0
        self._task = task
        self._started = 0
        self._running = [self._start() for _ in range(size)]

    def _start(self) -> subprocess.Popen[bytes]:
        # Its standard input ends when we do, however that happens; Ctrl-C is for us alone.
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._task, self.folder, str(self._started)],
            stdin=subprocess.PIPE,
            start_new_session=os.name != "nt",
            creationflags=_NEW_PROCESS_GROUP if os.name == "nt" else 0,
        )
        self._started += 1
        return process

    def has_begun(self) -> bool:
        """Whether each of the first ones has done something."""
        return all(self.done()[: len(self._running)])

    def has_failed(self) -> bool:
        """Whether one has ended that nobody has killed."""
        return any(process.poll() is not None for process in self._running)

    def kill_one(self) -> None:
        """Kill one of them with SIGKILL, which it cannot catch, and start another."""
        place = random.randrange(len(self._running))
        self._kill(self._running[place])
        self._running[place] = self._start()

    def end(self) -> None:
        """Kill all of them."""
        while self._running:
            self._kill(self._running.pop())

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()
        self.killed += 1

    def done(self, what: str = "done") -> list[int]:
        """How much each of them has noted."""
        return [_Number(f"{self.folder}/{self._task}.{number}.{what}").read() for number in range(self._started)]


def _check_log(writers: _Crew) -> list[str]:
    """Compare what was acknowledged with what is there."""
    acknowledged = writers.done()
    total = sum(acknowledged)
    log = JsonlFile(f"{writers.folder}/events.jsonl")
    expected = [0] * len(acknowledged)
    found = missing = misplaced = 0
    with progress(total, "records", "reading") as bar:
        for record in log.records(errors="skip"):
            writer: int = record["writer"]
            count: int = record["count"]
            missing += max(0, count - expected[writer])
            misplaced += count < expected[writer]
            expected[writer] = max(expected[writer], count + 1)
            found += 1
            bar.update(found)
    missing += sum(max(0, noted - known) for noted, known in zip(acknowledged, expected, strict=True))
    surplus = found + missing - total
    report = log.verify()
    print(f"{total:9,} records acknowledged: append() had returned")
    print(f"{found:9,} records in {report.files} files: {missing} missing, {misplaced} twice or out of order")
    print(f"{surplus:9,} of them by a process that was killed before it could note that")
    print(f"{len(report.damages):9,} lines half written, by a process that was killed and noted nothing")
    problems = {
        f"{missing} records are missing": missing,
        f"{misplaced} records are there twice or out of order": misplaced,
        "there are more records than can be": surplus > writers.killed,
        "there is more damage than can be": len(report.damages) > writers.killed,
    }
    return [text for text, wrong in problems.items() if wrong]


def _check_lock(counters: _Crew) -> list[str]:
    """Compare the number in the file with how often it was counted up, and see whether the lock is free."""
    begun, done = sum(counters.done("begun")), sum(counters.done())
    counted = _Number(f"{counters.folder}/number").read()
    print(f"{done:9,} times counted up with the lock held; the number in the file is {counted:,}")
    # One that was killed between counting and noting that has counted once more than it noted.
    problems = [] if done <= counted <= begun else ["two processes had the lock at the same time"]
    started = time.perf_counter()
    try:
        with FileLock(f"{counters.folder}/the.lock", timeout=5):
            free = time.perf_counter() - started
    except Timeout as error:
        return [*problems, str(error)]
    print(
        f"{counters.killed:9,} of those who count were killed; after the last, the lock was free in {free * 1e3:.1f} ms"
    )
    return problems


class _Number:
    """A number in a file, changed in one write that no kill cuts in two."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)

    def read(self) -> int:
        """What the file says."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return int(os.read(self._descriptor, 20) or 0)

    def write(self, value: int) -> None:
        """Make the file say this."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, b"%020d" % value)

    def __del__(self) -> None:
        os.close(self._descriptor)


# The processes


def _append(folder: str, number: str) -> NoReturn:
    """Append records until killed, and note each one that append() has returned from."""
    log = JsonlFile(f"{folder}/events.jsonl", max_bytes=_MAX_BYTES, timeout=-1)
    done = _Number(f"{folder}/append.{number}.done")
    count = 0
    while True:
        log.append({"event": "request", "path": "/orders", "ms": 12.9, "writer": int(number), "count": count})
        count += 1
        done.write(count)


def _count(folder: str, number: str) -> NoReturn:
    """Count up the number until killed, and note what was begun and what was done."""
    lock = FileLock(f"{folder}/the.lock")
    shared = _Number(f"{folder}/number")
    begun, done = _Number(f"{folder}/count.{number}.begun"), _Number(f"{folder}/count.{number}.done")
    count = 0
    while True:
        with lock:
            begun.write(count + 1)
            shared.write(shared.read() + 1)
            count += 1
            done.write(count)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _TASKS: dict[str, Callable[[str, str], NoReturn]] = {"append": _append, "count": _count}
    _TASKS[sys.argv[1]](*sys.argv[2:])
