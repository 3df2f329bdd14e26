"""Trying out, with several processes, what a file system keeps of holdfast's promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from statistics import median
from threading import Timer
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Self

    from holdfast import BaseFileLock

_PATIENCE = 60  # seconds that a helper process lives at most: a file system may hang
_ROUNDS = 5
_AT_ONCE = 0.005  # seconds; who looks again does so later than that, mostly
_RECORDS = 300
_ENOUGH = 10  # seconds of doing the same again and again
_NAMES = 100
_VERSIONS = 100


class Trial(NamedTuple):
    """What was tried out: whether it is so (None: it could not be tried), in words what was found, and a figure of it.

    `promised` says whether holdfast promises it; the rest is good to know.
    """

    name: str
    promised: bool
    holds: bool | None
    found: str
    seconds: float | None = None


class _Hung(Exception):
    """A helper process did not do its part."""


def kinds() -> list[str]:
    """The kinds of locks that there are on this system."""
    return ["flock", "soft"] if os.name == "nt" else ["flock", "ofd", "soft"]


def trials() -> dict[str, Callable[[str], Trial]]:
    """What there is to be tried out in a directory, by name."""
    locks: dict[str, Callable[[str], Trial]] = {f"locks: {kind}": partial(_excludes, kind) for kind in kinds()}
    return {
        **locks,
        "waiting in the kernel": _wakes,
        "replacing files": _replaces,
        "appending": _appends,
        "appending without locks": _appends_bare,
        "exclusive creation": _creates,
        "hard links": _links,
        "syncing files": _syncs,
        "syncing directories": _syncs_directories,
        "unnamed files": _has_unnamed,
        "upper and lower case": _tells_case,
        "long names": _takes_long_names,
    }


def try_out(name: str, trial: Callable[[str], Trial], folder: str) -> Trial:
    """The result of a trial, also when the system refuses something in it."""
    try:
        return trial(folder)._replace(name=name)
    except (OSError, _Hung) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        promised = name not in GOOD_TO_KNOW
        return Trial(name, promised, False if promised else None, reason)


GOOD_TO_KNOW = {
    "waiting in the kernel",
    "appending without locks",
    "hard links",
    "unnamed files",
    "upper and lower case",
    "long names",
}
"""What holdfast does without, where it is missing."""


def lock_of(kind: str, path: str, *, shared: bool = False) -> BaseFileLock:
    """A lock of a kind."""
    from holdfast import FileLock, SoftFileLock

    if kind == "soft":
        return SoftFileLock(path)
    return FileLock(path, kind="ofd" if kind == "ofd" else "flock", shared=shared)


def _excludes(kind: str, folder: str) -> Trial:
    path = os.path.join(folder, f"{kind}.lock")
    mine = lock_of(kind, path)
    with Helper() as other:
        other.ask("acquire", kind, path)
        if _is_free(mine):
            return Trial("", True, False, "two processes held it at once")
        other.kill()
    with mine.acquire(timeout=10):  # the killed one must not have it any more
        pass
    if not _is_free(lock_of(kind, path)):
        return Trial("", True, False, "it stays locked after its release")
    if kind != "soft" and not _shares(kind, f"{path}.shared"):
        return Trial("", True, False, "sharing: readers kept each other out, or did not keep out a writer")
    return Trial("", True, True, "keeps other processes out, and is free when its holder is killed")


def _shares(kind: str, path: str) -> bool:
    with Helper() as other:
        other.ask("acquire", kind, path, True)
        return _is_free(lock_of(kind, path, shared=True)) and not _is_free(lock_of(kind, path))


def _is_free(lock: BaseFileLock) -> bool:
    from holdfast import Timeout

    try:
        lock.acquire(blocking=False).lock.release()
    except Timeout:
        return False
    return True


def _wakes(folder: str) -> Trial:
    path = os.path.join(folder, "wait.lock")
    delays: list[float] = []
    in_kernel = True
    with Helper() as one, Helper() as two:
        for _ in range(_ROUNDS):
            one.ask("acquire", "flock", path)
            two.tell("acquire", "flock", path)
            if sys.platform == "linux" and in_kernel:
                in_kernel = _is_seen_waiting(two.pid, path)
            else:
                time.sleep(0.1)  # for it to wait by then
            released: int = one.ask("release", path)
            acquired: int = two.hear()
            delays.append((acquired - released) / 1e9)
            two.ask("release", path)
    delay = max(0.0, median(delays))
    if sys.platform != "linux":
        in_kernel = delay < _AT_ONCE
    how = "sleeps" if in_kernel else "looks again and again"
    return Trial("", False, in_kernel, f"who waits {how}, and goes on {in_words(delay)} after the release", delay)


def _is_seen_waiting(pid: int, path: str) -> bool:
    """Wait until a process waits for the lock, and say whether the kernel shows it."""
    from holdfast._holders import holders

    end = time.monotonic() + _PATIENCE / 4  # while it still waits
    for _ in range(400):  # a busy machine takes its time
        time.sleep(0.005)
        if any(holder.waiting and holder.pid == pid for holder in holders(path)):
            return True
        if time.monotonic() > end:
            break
    return False


def _replaces(folder: str) -> Trial:
    from holdfast import atomic_write

    path = os.path.join(folder, "replaced")
    letters = "abcdefghij"
    with open(path, "w", encoding="ascii") as file:
        file.write("a" * 65536)
    with Helper() as reader:
        reader.tell("read", path)
        for version in _for_a_while(_VERSIONS):
            with atomic_write(path, durable=False) as file:
                file.write(letters[version % 10] * 65536)
        with atomic_write(path, durable=True) as file:
            file.write("." * 65536)
        looks, damaged = reader.hear()
    if damaged:
        return Trial("", True, False, f"{damaged} of {looks} looks at a file being replaced saw neither old nor new")
    return Trial("", True, True, f"{looks} looks at a file being replaced saw the old content or the new")


def _appends(folder: str) -> Trial:
    path = os.path.join(folder, "log.jsonl")
    return _judge_lines(path, _write_together("append", path), promised=True)


def _appends_bare(folder: str) -> Trial:
    if os.name == "nt":
        return Trial("", False, None, "programs that take no lock mix their lines on Windows")
    path = os.path.join(folder, "bare.jsonl")
    return _judge_lines(path, _write_together("append_bare", path), promised=False)


def _write_together(action: str, path: str) -> list[int]:
    """Let three processes write lines, and tell how many each has written."""
    with Helper() as one, Helper() as two, Helper() as three:
        writers = (one, two, three)
        for number, writer in enumerate(writers):
            writer.tell(action, path, number)
        return [writer.hear() for writer in writers]


def _judge_lines(path: str, written: list[int], *, promised: bool) -> Trial:
    """Whether all lines of the three writers are there, whole and in the order of each."""
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    damaged = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                writer, number, filler = json.loads(line)
                seen[writer].append(number)
                damaged += len(filler) != _filler(number)
            except (ValueError, KeyError, TypeError):
                damaged += 1
    missing = sum(numbers != [*range(count)] for numbers, count in zip(seen.values(), written, strict=True))
    if damaged or missing:
        return Trial("", promised, False, f"lines of three processes at once were torn or lost ({damaged} damaged)")
    return Trial("", promised, True, f"{sum(written)} lines of three processes at once are there, whole and in order")


def _filler(number: int) -> int:
    return number * 37 % 9000


def _creates(folder: str) -> Trial:
    names = [os.path.join(folder, f"created-{number}") for number in range(_NAMES)]
    with Helper() as one, Helper() as two, Helper() as three:
        for each in (one, two, three):
            each.tell("create", names)
        created: list[str] = [*one.hear(), *two.hear(), *three.hear()]
    if sorted(created) != sorted(names):
        return Trial("", True, False, f"three processes created {len(names)} files {len(created)} times")
    return Trial("", True, True, "of several processes that create the same file, one succeeds")


def _links(folder: str) -> Trial:
    path = os.path.join(folder, "linked")
    with open(path, "w", encoding="ascii"):
        pass
    try:
        os.link(path, f"{path}.too")
    except OSError as error:
        return Trial("", False, False, f"there are none: {error.strerror}")
    try:
        os.link(path, f"{path}.too")
    except FileExistsError:
        return Trial("", False, True, "there are hard links")
    return Trial("", False, False, "a hard link replaced another file")


def _syncs(folder: str) -> Trial:
    path = os.path.join(folder, "synced")
    times: list[float] = []
    end = time.perf_counter() + 2
    with open(path, "ab", buffering=0) as file:
        while len(times) < 20 and time.perf_counter() < end:
            file.write(b"x" * 215)
            before = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - before)
    cost = median(times)
    return Trial("", True, True, f"a sync takes {in_words(cost)} (median of {len(times)})", cost)


def _syncs_directories(folder: str) -> Trial:
    if os.name == "nt":
        return Trial("", True, None, "Windows has no such thing; a rename is written through instead")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Trial("", True, True, "names reach the disk, too")


def _has_unnamed(folder: str) -> Trial:
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag:
        return Trial("", False, None, "only Linux has files without a name")
    try:
        os.close(os.open(folder, flag | os.O_RDWR, 0o600))
    except OSError as error:
        return Trial("", False, False, f"there are none: {error.strerror}")
    return Trial("", False, True, "a file can be written before it has a name")


def _tells_case(folder: str) -> Trial:
    with open(os.path.join(folder, "case"), "w", encoding="ascii"):
        pass
    tells = not os.path.exists(os.path.join(folder, "CASE"))
    return Trial("", False, tells, f"'case' and 'CASE' are {'two files' if tells else 'one file'}")


def _takes_long_names(folder: str) -> Trial:
    for length in (255, 143, 80, 20):  # 143: eCryptfs
        try:
            with open(os.path.join(folder, "n" * length), "w", encoding="ascii"):
                pass
        except OSError:
            continue
        return Trial(
            "", False, length == 255, f"a name may have {length} characters{'' if length == 255 else ' or so'}"
        )
    return Trial("", False, False, "a name may not even have 20 characters")


def in_words(seconds: float) -> str:
    """A short time.

    >>> from holdfast._trials import in_words
    >>> in_words(0.0042)
    '4.2 ms'
    """
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"


# ---------------------------------------------------------------------------------------------------------------------
# Helper processes


class Helper:
    """Another process, which does what it is asked: a JSON list with the name of an action and its arguments."""

    def __init__(self) -> None:
        # The package may be one that is not installed, and was found by the path of this process.
        places = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdfast._trials"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        )
        self._watch = Timer(_PATIENCE, self._process.kill)
        self._watch.daemon = True
        self._watch.start()
        self.ask("start")

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def tell(self, action: str, *arguments: object) -> None:
        """Let it begin with something."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([action, *arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _Hung("a helper process has ended too early") from None

    def hear(self) -> Any:
        """What it returns."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise _Hung(f"a helper process did not answer within {_PATIENCE} seconds, or ended")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer["done"]

    def ask(self, action: str, *arguments: object) -> Any:
        """Let it do something, and wait for that."""
        self.tell(action, *arguments)
        return self.hear()

    def kill(self) -> None:
        """End it, as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


_held: dict[str, BaseFileLock] = {}


def _start() -> None:
    """Answer, and so say that this process is ready."""


def _acquire(kind: str, path: str, shared: bool = False) -> int:
    lock = lock_of(kind, path, shared=shared)
    lock.acquire(timeout=_PATIENCE / 2)
    _held[path] = lock
    return time.monotonic_ns()


def _release(path: str) -> int:
    before = time.monotonic_ns()
    _held.pop(path).release()
    return before


def _read(path: str) -> tuple[int, int]:
    looks = damaged = 0
    text = ""
    while text[:1] != ".":
        try:
            with open(path, encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
        looks += 1
        damaged += len(text) != 65536 or text.strip(text[0]) != ""
        if os.name == "nt":
            time.sleep(0.001)  # what is open there cannot be replaced
    return looks, damaged


def _append(path: str, writer: int) -> int:
    from holdfast import JsonlFile

    appended = 0
    with JsonlFile(path, timeout=_PATIENCE / 2) as log:
        for record in _records(writer):
            log.append(record)
            appended += 1
    return appended


def _append_bare(path: str, writer: int) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    appended = 0
    for record in _records(writer):
        os.write(descriptor, json.dumps(record).encode() + b"\n")
        appended += 1
    os.close(descriptor)
    return appended


def _records(writer: int) -> Iterator[list[object]]:
    """What a writer appends."""
    for number in _for_a_while(_RECORDS):
        yield [writer, number, "x" * _filler(number)]


def _for_a_while(times: int) -> Iterator[int]:
    """Count how often something is done: less often where the disk is slow."""
    end = time.monotonic() + _ENOUGH
    for number in range(times):
        if number and time.monotonic() > end:
            return
        yield number


def _create(names: list[str]) -> list[str]:
    created: list[str] = []
    for name in names:
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        created.append(name)
    return created


_ACTIONS: dict[str, Callable[..., object]] = {
    "start": _start,
    "acquire": _acquire,
    "release": _release,
    "read": _read,
    "append": _append,
    "append_bare": _append_bare,
    "create": _create,
}


def _help() -> None:
    """Be a helper process, until the other side has gone."""
    from signal import SIG_IGN, SIGINT, signal

    signal(SIGINT, SIG_IGN)  # Ctrl-C is for who asked for help, and who then ends this process
    for line in sys.stdin:
        action, *arguments = json.loads(line)
        try:
            answer: dict[str, object] = {"done": _ACTIONS[action](*arguments)}
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno or 5}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _help()
