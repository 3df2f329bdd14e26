"""Which measurements there are, in which order, and what came of them."""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

from holdfast._bench import jobs
from holdfast._bench.contenders import NOTHING, Contender, nothing
from holdfast._bench.crew import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias, TypedDict

    from holdfast._bench.contenders import Field
    from holdfast._bench.crew import Crew

    class Figure(TypedDict):
        """What was measured of one contender in one condition; `wrong` says why it does not count."""

        raw: list[float]
        wrong: str | None

    Figures: TypeAlias = dict[str, dict[str, Figure]]  # by condition and contender

MB = 10**6


class Effort(NamedTuple):
    """How long to measure."""

    rounds: int  # of what one process does alone, each of them short
    turns: int  # of what several do at once
    round: float  # seconds
    turn: float
    paced: float
    hand_over: float
    counts: tuple[int, ...]
    processes: int  # that have time
    sizes: tuple[int, ...]  # of files, in MB
    threads: tuple[int, ...]


QUICK = Effort(6, 2, 0.02, 0.25, 1.0, 0.4, (1, 4, 16), 20, (0, 64, 1000), (1, 16))
FULL = Effort(20, 3, 0.03, 0.6, 6.0, 1.5, (1, 2, 4, 8, 16), 20, (0, 64, 1000), (1, 16))


class Step(NamedTuple):
    """One measurement: under which condition, of whom, and how."""

    condition: str
    contender: str
    measure: Callable[[], list[float]]


class Bench:
    """The measurements, in a directory, with a crew of processes."""

    def __init__(self, folder: str, crew: Crew, field: Field, effort: Effort) -> None:
        self.effort = effort
        self.notes: list[str] = []
        self._folder = folder
        self._crew = crew
        self._field = field
        self._files = 0

    def sections(self) -> dict[str, Callable[[], Iterator[Step]]]:
        """All there is to do. The contenders take turns, so that what else the machine does hits all of them."""
        return {
            "lock": self._locks,
            "appends": self._appends,
            "paced": self._paced,
            "size": self._sizes,
            "durable": self._durable,
            "hand-over": self._hand_overs,
        }

    def _new(self) -> str:
        self._files += 1
        return os.path.join(self._folder, f"{self._files}.jsonl")

    def _locks(self) -> Iterator[Step]:
        for _ in range(self.effort.rounds):
            for name, make in self._field.locks.items():
                yield Step("", name, partial(jobs.cost_of_lock, make, self._new(), self.effort.round))
        for name, make in self._field.locks.items():
            yield Step("", name, partial(jobs.exclusion, self._crew, make, self._new(), 4, self.effort.turn))

    def _appends(self) -> Iterator[Step]:
        for count in self.effort.counts:
            for _ in range(self.effort.turns):
                for name, contender in self._field.appenders.items():
                    if count == 1 or contender.together:
                        yield Step(str(count), name, partial(self._rate, contender, count))

    def _rate(self, contender: Contender, count: int) -> list[float]:
        return self._in_new_file(partial(jobs.rate_of_processes, self._crew), contender, count, self.effort.turn)

    def _in_new_file(
        self,
        measure: Callable[[Contender, str, int, float], list[float]],
        contender: Contender,
        count: int,
        time: float,
    ) -> list[float]:
        """Measure with a file that is removed afterwards, so that the disk does not fill up."""
        path = self._new()
        try:
            return measure(contender, path, count, time)
        finally:
            for left in "", ".lock", "-wal", "-shm":
                if os.path.exists(path + left):
                    os.remove(path + left)

    def _paced(self) -> Iterator[Step]:
        contenders = {NOTHING: Contender(nothing, None), **self._field.appenders}
        for _ in range(self.effort.turns):
            for name, contender in contenders.items():
                if contender.together:
                    yield Step("", name, partial(self._delays, contender))

    def _delays(self, contender: Contender) -> list[float]:
        return self._in_new_file(
            partial(jobs.delays, self._crew), contender, self.effort.processes, self.effort.paced / self.effort.turns
        )

    def _sizes(self) -> Iterator[Step]:
        files: dict[str, str] = {}
        for size in self.effort.sizes:
            name = f"{size // 1000} GB" if size >= 1000 else f"{size} MB"
            path = self._new()
            try:
                jobs.make_large(path, size * MB)
            except OSError as error:
                self.notes.append(f"There is no file of {name} here: {error.strerror}.")
                os.remove(path)
            else:
                files[name] = path
        for _ in range(self.effort.rounds):
            for name, contender in self._field.appenders.items():
                if contender.read is not None and name != "sqlite3":
                    for condition, path in files.items():
                        yield Step(condition, name, partial(jobs.cost_of_append, contender, path, self.effort.round))

    def _durable(self) -> Iterator[Step]:
        for count in self.effort.threads:
            for _ in range(self.effort.turns):
                for name, contender in self._field.durable.items():
                    yield Step(str(count), name, partial(self._durable_rate, contender, count))

    def _durable_rate(self, contender: Contender, count: int) -> list[float]:
        return self._in_new_file(jobs.rate_of_threads, contender, count, self.effort.turn)

    def _hand_overs(self) -> Iterator[Step]:
        for _ in range(self.effort.turns):
            for name, make in self._field.locks.items():
                yield Step("", name, partial(jobs.hand_overs, self._crew, make, self._new(), self.effort.hand_over))


def take(step: Step, figures: Figures) -> None:
    """Measure, unless this contender was wrong already."""
    figure = figures.setdefault(step.condition, {}).setdefault(step.contender, {"raw": [], "wrong": None})
    if figure["wrong"] is not None:
        return
    try:
        figure["raw"] += [round(value, 3) for value in step.measure()]
    except jobs.WrongAnswer as error:
        figure["wrong"] = f"WRONG: {error}"
    except Failed as error:
        figure["wrong"] = f"FAILED: {error}"
    except Exception as error:  # noqa: BLE001  what a package raises is what there is to report
        figure["wrong"] = f"FAILED: {type(error).__name__}: {error}"
