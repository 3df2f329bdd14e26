"""Processes that are started once and then do one job after the other, all at the same moment."""

from __future__ import annotations

import multiprocessing
import signal
from time import perf_counter, sleep
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess
    from typing import Any, Protocol, TypeAlias

    from typing_extensions import Self

    class Connection(Protocol):
        """One end of a pipe: on Windows of another class than elsewhere."""

        def send(self, obj: Any, /) -> None: ...
        def recv(self) -> Any: ...
        def poll(self, timeout: float, /) -> bool: ...
        def close(self) -> None: ...

    Work: TypeAlias = Callable[[float, Connection], list[float]]

    class Job(Protocol):
        """What a process is given. It goes through pickle."""

        def prepare(self, number: int) -> Work:
            """Get ready, as process `number`. What comes back begins at a moment of perf_counter()."""
            ...


_PATIENCE = 120  # seconds without an answer after which a process will not answer


class Failed(Exception):
    """A contender could not do what it was asked to do."""


def wait_until(moment: float) -> None:
    """Sleep until a moment of perf_counter(), which is the same in all processes."""
    sleep(max(0.0, moment - perf_counter()))


class Member(NamedTuple):
    """A process, and the way to talk with it."""

    process: SpawnProcess
    connection: Connection

    def tell(self, what: object) -> None:
        """Send it something."""
        try:
            self.connection.send(what)
        except BrokenPipeError as error:
            raise Failed("its process ended") from error

    def hear(self) -> Any:
        """What it answers, or the error it met."""
        try:
            if not self.connection.poll(_PATIENCE):
                raise Failed(f"its process did not answer within {_PATIENCE} seconds")
            good, answer = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise Failed("its process ended") from error
        if not good:
            raise Failed(answer)
        return answer


class Crew:
    """As many processes as are needed, until the with block ends."""

    def __init__(self) -> None:
        self._members: list[Member] = []

    def get(self, count: int) -> list[Member]:
        """So many processes, which may have to be started first."""
        spawn = multiprocessing.get_context("spawn")
        while len(self._members) < count:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._members.append(Member(process, ours))
        return self._members[:count]

    def do(self, count: int, job: Job) -> list[list[float]]:
        """Have so many processes do a job at once. Returns the results of each."""
        try:
            members = self.get(count)
            for number, member in enumerate(members):
                self.prepare(member, job, number)
            begin = perf_counter() + 0.05 + 0.005 * count
            for member in members:
                member.tell(begin)
            return [member.hear() for member in members]
        except Failed:
            self.dismiss()  # the others may be waiting for what will not come
            raise

    @staticmethod
    def prepare(member: Member, job: Job, number: int) -> None:
        """Have a process get ready. One after the other: sqlite fails when several create one database."""
        member.tell((job, number))
        member.hear()

    def dismiss(self) -> None:
        """End all processes."""
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.join()
            member.process.close()
            member.connection.close()
        self._members.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()


def work(connection: Connection) -> None:
    """Do one job after the other: what a process of a crew runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    while True:
        try:
            job, number = connection.recv()
            result = _do(job, number, connection)
        except (EOFError, BrokenPipeError):  # it has ended
            return
        except Exception as error:  # noqa: BLE001  what a package raises is what there is to report
            connection.send((False, f"{type(error).__name__}: {error}"))
        else:
            connection.send((True, result))


def _do(job: Job, number: int, connection: Connection) -> list[float]:
    work = job.prepare(number)
    connection.send((True, None))
    begin: float = connection.recv()
    return work(begin, connection)
