"""What it costs to append an event of 215 bytes, side by side in one run.

    python benchmarks/appends.py [--quick] [--json FILE] [DIRECTORY]

The contenders take turns, many short rounds each, and the fastest round counts; of latencies all count. After it has
been measured, everything that was written is read and compared, so that nobody wins by losing events. Ratios hold
better than absolute times.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import report
from contenders import EVENT, LINE, Contender
from locks import fastest_round
from report import Table, Target

Loop = Callable[[int], float]

# This is to check what was written, and nothing that is measured.
decode: Callable[[bytes], Any] = importlib.import_module(
    "orjson" if importlib.util.find_spec("orjson") else "json"
).loads


# -- One process ------------------------------------------------------------------------------------------------------


class Counted:
    """A loop that knows how often it went round."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.rounds = 0

    def __call__(self, times: int) -> float:
        self.rounds += times
        return self.loop(times)


def appending(contender: Contender, path: str) -> Loop:
    append, drain = contender.make(path)
    record = contender.records(0)(0)

    def loop(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            append(record)
        drain()
        return (time.perf_counter() - start) / times

    return loop


def in_batches(encode: Callable[[Any], bytes] | None, path: str) -> Loop:
    from holdfast import JsonlFile

    extend, batch = JsonlFile(path, encode=encode).extend, [EVENT] * 100

    def loop(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times // 100):
            extend(batch)
        extend(batch[: times % 100])
        return (time.perf_counter() - start) / times

    return loop


def batches() -> dict[str, Callable[[str], Loop]]:
    import orjson

    return {
        "holdfast extend of 100, orjson": partial(in_batches, orjson.dumps),
        "holdfast extend of 100, json": partial(in_batches, None),
    }


def c_loop(path: str) -> Loop:
    appended = contenders.floor().appended
    return lambda times: float(appended(path.encode(), times, LINE, len(LINE)))


def costs(loops: Mapping[str, Callable[[str], Loop]], folder: Path, rounds: int) -> dict[str, float]:
    """Microseconds for each event."""
    paths = {name: str(folder / name) for name in loops}
    counted = {name: Counted(make(paths[name])) for name, make in loops.items()}
    best = fastest_round({**counted}, rounds, 0.02)
    for name, loop in counted.items():
        read = contenders.ALONE[name].read if name in contenders.ALONE else contenders.lines
        check_copies(name, read(paths[name]), loop.rounds)
    return best


def check_copies(name: str, lines: Iterable[bytes], expected: int) -> None:
    """See that so many copies of the event are there, and nothing else."""
    found = Counter(lines)
    if found.total() != expected or any(decode(line) != EVENT for line in found):
        raise SystemExit(f"{name} did not write what it should: {expected} events, but {found}")


def one_process(folder: Path, rounds: int) -> Table:
    loops = {name: partial(appending, contender) for name, contender in contenders.ALONE.items()}
    best = costs({"C loop": c_loop, **batches(), **loops}, folder, rounds)
    return {
        name: {
            "microseconds": cost,
            "of the C loop": cost / best["C loop"],
            "cheaper than recipe": best["usual recipe"] / cost,
        }
        for name, cost in sorted(best.items(), key=lambda item: item[1])
    }


def file_sizes(folder: Path, rounds: int) -> Table:
    """The same in a file that is large already, though it takes no space on the disk."""
    loops: dict[str, Counted] = {}
    for gigabytes in (0, 1, 10):
        path = folder / f"{gigabytes} GB"
        try:
            make_sparse(path, gigabytes * 10**9)
        except OSError as error:
            print(f"\n(No file of {gigabytes} GB here: {error})")
            continue
        loops[path.name] = Counted(appending(contenders.ALONE["holdfast append_bytes"], str(path)))
    sizes = {name: (folder / name).stat().st_size for name in loops}
    best = fastest_round({**loops}, rounds, 0.02)
    for name, loop in loops.items():
        if (folder / name).stat().st_size != sizes[name] + loop.rounds * len(LINE):
            raise SystemExit(f"the file of {name} did not grow by what was appended")
    return {name: {"microseconds": cost, "of the first": cost / best["0 GB"]} for name, cost in best.items()}


def make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        if size > 0:
            file.seek(size - 1)
            file.write(b"\n")


# -- Many at once -----------------------------------------------------------------------------------------------------


Work = Callable[[float], Iterable[float]]
"""What a process does from a moment on, and the numbers that come of it."""


def in_processes(count: int, prepare: Callable[[int], Work], results: int) -> list[list[float]]:
    """Start processes, and when all are ready let them begin at one moment. Returns the results of each."""
    fork = multiprocessing.get_context("fork")
    begin, numbers = fork.RawValue("d"), fork.RawArray("d", count * results)
    preparing = fork.Lock()  # sqlite fails when several make one database

    def set_begin() -> None:
        begin.value = time.monotonic() + 0.5  # by then all have come back from waiting

    all_ready = fork.Barrier(count, set_begin)

    def run(number: int) -> None:
        with preparing:
            work = prepare(number)
        all_ready.wait(60)
        if time.monotonic() > begin.value:
            raise SystemExit("this process comes too late, so the figures would be wrong")
        sleep_until(begin.value)
        numbers[number * results : (number + 1) * results] = [*work(begin.value)]

    processes = [fork.Process(target=run, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")
    return [numbers[start : start + results] for start in range(0, count * results, results)]


def in_threads(count: int, prepare: Callable[[int], Work]) -> list[list[float]]:
    """The same in threads of this process."""
    works = [prepare(number) for number in range(count)]
    results: list[list[float]] = [[] for _ in works]
    begin = time.monotonic() + 0.5

    def run(number: int) -> None:
        sleep_until(begin)
        results[number] += works[number](begin)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def flat_out(append: contenders.Append, event: contenders.Numbered, seconds: float) -> Work:
    """Append until the time is over. Returns how many events were written by then, and how many in all."""

    def work(begin: float) -> tuple[int, int]:
        written, end = 0, begin + seconds
        while True:
            append(event(written))
            written += 1
            if time.monotonic() >= end:
                return written - 1, written

    return work


def throughput(contender: Contender, count: int, seconds: float, folder: Path, threads: bool = False) -> list[float]:
    """Events a second of each process, or thread."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = f"{temporary}/events"
        shared = contender.make(path).append if threads else None

        def prepare(number: int) -> Work:
            return flat_out(shared or contender.make(path).append, contender.records(number), seconds)

        results = in_threads(count, prepare) if threads else in_processes(count, prepare, 2)
        check_order(contender.read(path), [round(written) for _, written in results])
    return [in_time / seconds for in_time, _ in results]


def check_order(lines: Iterable[bytes], written: list[int]) -> None:
    """See that of each writer so many events are there, whole, once, and in order."""
    writers = [contenders.events(number) for number in range(len(written))]
    found = [0] * len(written)
    for line in lines:
        event = decode(line)
        writer = event["writer"] - EVENT["writer"]
        if event != writers[writer](found[writer]):
            raise SystemExit(f"this should be event {found[writer]} of writer {writer}: {line!r}")
        found[writer] += 1
    if found != written:
        raise SystemExit(f"events are missing: the writers wrote {written}, and there are {found}")


def best_throughputs(measures: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[float]]:
    """Of the rounds, in which all take turns, the best in all."""
    best: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            best[name] = max(best[name], measure(), key=sum)
    return best


def many_processes(folder: Path, rounds: int, seconds: float) -> Table:
    table: Table = {name: {} for name in contenders.TOGETHER}
    for count in (1, 2, 4, 16, 100):
        measures = {
            name: partial(throughput, contender, count, seconds, folder)
            for name, contender in contenders.TOGETHER.items()
        }
        for name, best in best_throughputs(measures, rounds).items():
            table[name][f"{count} at once"] = sum(best)
            if count == 100:
                table[name].update({"least": min(best), "most": max(best)})
    for row in table.values():
        row["of one alone"] = row["100 at once"] / row["1 at once"]
        row["times recipe"] = row["100 at once"] / table["usual recipe"]["100 at once"]
    return table


def durable(folder: Path, rounds: int, seconds: float) -> Table:
    table: Table = {}
    for title, count, threads in ("1 process", 1, False), ("16 threads", 16, True), ("16 processes", 16, False):
        measures = {
            name: partial(throughput, contender, count, seconds, folder, threads)
            for name, contender in contenders.DURABLE.items()
        }
        row = {name: sum(best) for name, best in best_throughputs(measures, rounds).items()}
        table[title] = {**row, "times fdatasync": row["holdfast"] / row["fdatasync"]}
    return table


# -- Many that have time ----------------------------------------------------------------------------------------------

PERIOD = 0.05


def pacing(append: contenders.Append, event: contenders.Numbered, times: int) -> Work:
    """Append an event each period. Returns how long after it was due each one was written."""

    def work(begin: float) -> list[float]:
        due = begin + random.random() * PERIOD
        delays = []
        for number in range(times):
            sleep_until(due)
            append(event(number))
            delays.append(time.monotonic() - due)
            due += PERIOD
        return delays

    return work


def delays(contender: Contender, processes: int, times: int, folder: Path) -> list[float]:
    """How late each event of all processes was, in seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = f"{temporary}/events"

        def prepare(number: int) -> Work:
            return pacing(contender.make(path).append, contender.records(number), times)

        found = in_processes(processes, prepare, times)
        if contender is not NOTHING:
            check_order(contender.read(path), [times] * processes)
    return [delay for process in found for delay in process]


NOTHING = Contender(lambda path: contenders.Appender(lambda event: None))
"""What the machine needs to wake up a process that does nothing then."""


def paced(folder: Path, seconds: float) -> Table:
    names = ("holdfast append, orjson", "holdfast append, json", "usual recipe")
    table: Table = {}
    for name, contender in {"(nothing)": NOTHING, **{name: contenders.ALONE[name] for name in names}}.items():
        found = delays(contender, 100, round(seconds / PERIOD), folder)
        table[name] = {
            "median": statistics.median(found) * 1e6,
            "p99": statistics.quantiles(found, n=100)[98] * 1e6,
            "longest": max(found) * 1e6,
        }
    return table


# -- Reading ----------------------------------------------------------------------------------------------------------

CHUNK = 1 << 18  # as much as holdfast reads at once


def bare_loop(path: str, decode: Callable[[bytes], Any]) -> int:
    """Decode each line of a file, and count them."""
    found, rest = 0, b""
    with open(path, "rb", buffering=0) as file:
        while data := file.read(CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                decode(line)
            found += len(lines)
    return found


def iterate(path: str, decode: Callable[[bytes], Any] | None) -> int:
    from holdfast import JsonlFile

    found = 0
    for _ in JsonlFile(path, decode=decode):
        found += 1
    return found


def verify(path: str) -> int:
    from holdfast import JsonlFile

    report = JsonlFile(path).verify()
    if not report.ok:
        raise SystemExit(str(report))
    return report.records


def write_events(path: Path, megabytes: int) -> int:
    """A file of events, about so large. Returns how many."""
    event = contenders.encoded_events(0)
    block = b"".join([event(number) for number in range(10**6 // len(LINE))])
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    return megabytes * (10**6 // len(LINE))


def reading(folder: Path, megabytes: int, rounds: int) -> Table:
    import orjson

    path = folder / "to read"
    records = write_events(path, megabytes)
    readers: dict[str, Callable[[], int]] = {
        "holdfast, json": partial(iterate, str(path), None),
        "bare loop, json": partial(bare_loop, str(path), json.loads),
        "holdfast, orjson": partial(iterate, str(path), orjson.loads),
        "bare loop, orjson": partial(bare_loop, str(path), orjson.loads),
    }
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(rounds):
        for name, read in readers.items():
            start = time.perf_counter()
            if read() != records:
                raise SystemExit(f"{name} did not read {records} records")
            best[name] = min(best[name], time.perf_counter() - start)
    size = path.stat().st_size / 1e6
    return {
        name: {
            "MB a second": size / seconds,
            "records a second": records / seconds,
            "of the bare loop": best[name.replace("holdfast", "bare loop")] / seconds,
        }
        for name, seconds in best.items()
    }


def verifying(folder: Path, megabytes: int) -> Table:
    path = folder / "to verify"
    records = write_events(path, megabytes)
    readers: dict[str, Callable[[], int]] = {
        "holdfast verify()": partial(verify, str(path)),
        "bare loop, json": partial(bare_loop, str(path), json.loads),
    }
    table: Table = {}
    for name, read in readers.items():
        # In a child, because the most memory that a process ever had is all that can be asked. It first uses what this
        # process has freed, so that the first megabyte may not show.
        [(found, seconds, grown)] = in_processes(1, partial(weighing, read), 3)
        if found != records:
            raise SystemExit(f"{name} found {found:.0f} records instead of {records}")
        table[name] = {"MB a second": path.stat().st_size / 1e6 / seconds, "MB of memory": grown / 1e6}
    return table


def weighing(read: Callable[[], int], _: int) -> Work:
    """Return what a function returns, how long it takes, and by how many bytes the process grows."""
    unit = 1 if sys.platform == "darwin" else 1024

    def work(_: float) -> tuple[int, float, int]:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        found = read()
        seconds = time.perf_counter() - start
        return found, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit

    return work


# -- The report -------------------------------------------------------------------------------------------------------


BYTES, ORJSON, JSON = "holdfast append_bytes", "holdfast append, orjson", "holdfast append, json"
TARGETS = {
    "one process": [
        Target("append_bytes, of the C loop", (BYTES, "of the C loop"), 1.6),
        Target("with orjson, times cheaper than the recipe", (ORJSON, "cheaper than recipe"), 80, at_least=True),
        Target("with json, times cheaper than the recipe", (JSON, "cheaper than recipe"), 20, at_least=True),
        Target("microseconds for an event of a batch", ("holdfast extend of 100, orjson", "microseconds"), 0.5),
    ],
    "processes flat out, events a second": [
        Target("100 processes, of one alone", (BYTES, "of one alone"), 0.7, at_least=True),
        Target("the same with orjson", (ORJSON, "of one alone"), 0.7, at_least=True),
        Target("100 processes, times the recipe", (BYTES, "times recipe"), 60, at_least=True),
        Target("the same with orjson", (ORJSON, "times recipe"), 60, at_least=True),
    ],
    "100 processes, 20 events a second each, microseconds from due to written": [
        Target("p99 with orjson, of the recipe's", (ORJSON, "p99"), 0.01, over=("usual recipe", "p99")),
        Target("p99 with json, of the recipe's", (JSON, "p99"), 0.01, over=("usual recipe", "p99")),
        Target("longest with orjson", (ORJSON, "longest"), 6000),
        Target("longest with json", (JSON, "longest"), 6000),
    ],
}


def sections(folder: Path, quick: bool) -> report.Sections:
    rounds = 5 if quick else 40
    turns, seconds = (1, 0.2) if quick else (3, 1.0)
    return {
        "one process": lambda: one_process(folder, rounds),
        "append_bytes in a file of": lambda: file_sizes(folder, rounds),
        "processes flat out, events a second": lambda: many_processes(folder, turns, seconds),
        "100 processes, 20 events a second each, microseconds from due to written": lambda: paced(
            folder, 3 if quick else 10
        ),
        "durable=True, events a second": lambda: durable(folder, turns, seconds),
        "reading": lambda: reading(folder, 5 if quick else 50, turns),
        "verifying": lambda: verifying(folder, 20 if quick else 1000),
    }


if __name__ == "__main__":
    report.main(__doc__, sections, TARGETS)
