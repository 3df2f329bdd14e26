"""What locks cost, side by side in one run.

    python benchmarks/locks.py [--quick] [--json FILE] [DIRECTORY]

The contenders take turns, many short rounds each, so that whatever else the machine does hits all of them; of the
rounds the fastest counts for costs, and all samples count for latencies. Ratios hold better than absolute times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import contenders

Report = dict[str, dict[str, float]]


# -- Costs of an uncontended lock -------------------------------------------------------------------------------------


def fastest_round(loops: dict[str, Callable[[int], float]], rounds: int, budget: float) -> dict[str, float]:
    """Microseconds per cycle: each loop runs for `budget` seconds in each round, in turns."""
    sizes = {name: max(1, int(budget / loop(50))) for name, loop in loops.items()}
    best = dict.fromkeys(loops, float("inf"))
    for _ in range(rounds):
        for name, loop in loops.items():
            best[name] = min(best[name], loop(sizes[name]))
    return {name: seconds * 1e6 for name, seconds in best.items()}


def timed(cycle: Callable[[], object]) -> Callable[[int], float]:
    def loop(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            cycle()
        return (time.perf_counter() - start) / times

    return loop


def acquire_and_release(pair: contenders.Pair) -> Callable[[int], float]:
    acquire, release = pair

    def loop(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            acquire()
            release()
        return (time.perf_counter() - start) / times

    return loop


def in_with(path: str) -> Callable[[int], float]:
    from holdfast import FileLock

    lock = FileLock(path)

    def loop(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            with lock:
                pass
        return (time.perf_counter() - start) / times

    return loop


def costs(folder: Path, rounds: int) -> Report:
    c_loops = contenders.floor()
    path = str(folder / "cost.lock")
    held = {
        "C loop": lambda times: c_loops.held(path.encode(), times),
        "C loop without the path check": lambda times: c_loops.unchecked(path.encode(), times),
        **{name: acquire_and_release(make(path)) for name, make in contenders.HELD.items()},
        "holdfast, by with": in_with(path),
    }
    new = {
        "C loop": lambda times: c_loops.opened(path.encode(), times),
        **{name: timed(make(path)) for name, make in contenders.NEW.items()},
    }
    return {
        "held object, microseconds a cycle": fastest_round(held, rounds, 0.02),
        "new object, microseconds a cycle": fastest_round(new, rounds, 0.02),
    }


# -- Latencies of a contended lock ------------------------------------------------------------------------------------


Maker = Callable[[str], contenders.Pair]


def hand_off(make: Maker, path: str, times: int, cpus: list[int] | None = None) -> list[float]:
    """Seconds from a release in one process to the acquisition by another that was waiting for it."""
    released = multiprocessing.Value("d", lock=False)
    go, waiting, done = (multiprocessing.Semaphore(0) for _ in range(3))
    samples: multiprocessing.SimpleQueue[list[float]] = multiprocessing.SimpleQueue()
    process = multiprocessing.Process(
        target=_take_over, args=(make, path, times, released, go, waiting, done, samples, cpus)
    )
    process.start()
    everywhere = stay_on(cpus[0]) if cpus else None
    acquire, release = make(path)
    for _ in range(times):
        acquire()
        go.release()
        waiting.acquire()
        time.sleep(0.002)  # by now it waits
        released.value = time.monotonic()
        release()
        done.acquire()
    delays = samples.get()
    process.join()
    if everywhere:
        os.sched_setaffinity(0, everywhere)
    return delays


def stay_on(cpu: int) -> set[int]:
    """Stay on one CPU. Returns those that were allowed before."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    return before


def hand_off_between_cpus(make: Maker, path: str, times: int) -> list[float]:
    """The same, with the two processes on a CPU each: else the scheduler often runs both on one, in turns."""
    return hand_off(make, path, times, sorted(os.sched_getaffinity(0))[:2])


def _take_over(make: Maker, path: str, times: int, released, go, waiting, done, samples, cpus) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    if cpus:
        stay_on(cpus[1])
    acquire, release = make(path)
    delays = []
    for _ in range(times):
        go.acquire()
        waiting.release()
        acquire()
        delays.append(time.monotonic() - released.value)
        release()
        done.release()
    samples.put(delays)


def against_a_hog(make: Maker, path: str, times: int) -> list[float]:
    """Seconds a process waits for a lock that another holds for half a millisecond and takes again at once."""
    ready, stop = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=_hog, args=(make, path, ready, stop))
    process.start()
    ready.wait()
    acquire, release = make(path)
    delays = []
    for _ in range(times):
        start = time.monotonic()
        acquire()
        delays.append(time.monotonic() - start)
        release()
        time.sleep(0.001)
    stop.set()
    process.join()
    return delays


def _hog(make: Maker, path: str, ready, stop) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    acquire, release = make(path)
    while not stop.is_set():
        acquire()
        ready.set()
        end = time.perf_counter() + 0.0005
        while time.perf_counter() < end:
            pass
        release()


def latencies(
    measure: Callable[[Maker, str, int], list[float]],
    makers: dict[str, Maker],
    folder: Path,
    rounds: int,
) -> Report:
    """Percentiles over all rounds. Those that sleep between their tries get fewer turns, or they would take minutes."""
    samples: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds):
        for name, make in makers.items():
            times = 10 if name in contenders.SLEEPERS else 100
            samples[name] += measure(make, str(folder / f"{measure.__name__}{number}.lock"), times)
    return {
        name: {
            "p50": statistics.median(delays) * 1e6,
            "p99": statistics.quantiles(delays, n=100)[98] * 1e6,
            "max": max(delays) * 1e6,
        }
        for name, delays in samples.items()
    }


# -- Import, and waiting ----------------------------------------------------------------------------------------------


def imports(rounds: int) -> dict[str, float]:
    """Milliseconds of an interpreter that imports a package, above one that does not."""
    programs = {
        "bare": "pass",
        "holdfast": "import holdfast",
        "holdfast.FileLock": "from holdfast import FileLock",
        "filelock": "import filelock",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, env=environment)
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return {name: value - best["bare"] for name, value in best.items() if name != "bare"}


def processor_time_of_a_wait(path: str, seconds: float) -> float:
    """Processor seconds that a process uses while it waits for a lock this long."""
    from holdfast import FileLock, Timeout

    with FileLock(path):
        child = os.fork()
        if child == 0:
            before = resource.getrusage(resource.RUSAGE_SELF)
            with suppress(Timeout):
                FileLock(path).acquire(timeout=seconds)
            after = resource.getrusage(resource.RUSAGE_SELF)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            os._exit(min(255, round(used * 1000)))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) / 1000


# -- The report -------------------------------------------------------------------------------------------------------


def show_costs(title: str, row: dict[str, float]) -> None:
    print(f"\n{title}")
    ours = row["holdfast"]
    for name, value in sorted(row.items(), key=lambda item: item[1]):
        print(f"  {name:30} {value:9.2f}   {value / ours:6.2f} x holdfast   {value / row['C loop']:6.2f} x C loop")


def show_latencies(title: str, report: Report) -> None:
    print(f"\n{title}, microseconds" + " " * 10 + "p50       p99       max   (and as a ratio to bare flock)")
    bare = report["bare flock"]
    for name, row in report.items():
        numbers = "".join(f"{row[key]:10.0f}" for key in ("p50", "p99", "max"))
        ratios = "  ".join(f"{row[key] / bare[key]:.2f}" for key in ("p50", "p99", "max"))
        print(f"  {name:30}{numbers}   {ratios}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory", nargs="?", type=Path, help="where the lock files go (default: a temporary one)")
    options.add_argument("--quick", action="store_true", help="fewer rounds: a glimpse, not a figure to quote")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = options.parse_args()
    rounds = 5 if chosen.quick else 40
    with tempfile.TemporaryDirectory(dir=chosen.directory) as temporary:
        folder = Path(temporary)
        print(f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {os.cpu_count()} CPUs")
        report: dict[str, object] = {}

        for title, row in costs(folder, rounds).items():
            report[title] = row
            show_costs(title, row)

        makers: dict[str, Maker] = {
            "bare flock": contenders.bare_flock,
            "holdfast": contenders.holdfast,
            "holdfast, no timeout": contenders.holdfast_forever,
        }
        waiting: dict[str, Maker] = {
            **makers,
            "filelock": contenders.filelock,
            "fasteners": contenders.fasteners,
            "portalocker": contenders.portalocker,
        }
        report["hand-off"] = found = latencies(hand_off, waiting, folder, max(1, rounds // 8))
        show_latencies("hand-off between processes", found)
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
            found = latencies(hand_off_between_cpus, makers, folder, max(1, rounds // 8))
            report["hand-off between CPUs"] = found
            show_latencies("hand-off between processes on two CPUs", found)
        report["against a hog"] = found = latencies(against_a_hog, makers, folder, max(1, rounds // 8))
        show_latencies("waiting for a hog", found)

        report["import"] = row = imports(rounds)
        print("\nimport, milliseconds above bare Python")
        for name, value in row.items():
            print(f"  {name:30} {value:9.2f}")
        report["waiting"] = used = processor_time_of_a_wait(str(folder / "wait.lock"), 1 if chosen.quick else 5)
        print(f"\nprocessor time of a wait of {1 if chosen.quick else 5} s: {used * 1000:.0f} ms")
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
