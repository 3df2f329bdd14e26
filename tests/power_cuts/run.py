"""Cut the power of each workload at every point, in many ways, and check what was promised. `make test-power-cuts`."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NoReturn

import disk
import workload
from cases import Case, cases_of, check
from sabotage import CONTROLS, SABOTAGE

import evidence

TARGET = "test-power-cuts"
RECORDINGS = 5 if evidence.FULL else 1  # of each workload: threads and processes take other turns each time
SAMPLES = 1500 if evidence.FULL else 600  # of the states of a recording, besides the extremes
SEED = int(os.environ.get("HOLDFAST_SEED", random.randrange(10**6)))
PATIENCE = 120  # seconds that a check may take
BROKEN = evidence.ROOT / "build/power-cuts"  # where states are kept that break a promise


def check_all(name: str, recording: disk.Recording, cases: list[Case], folder: str) -> Iterator[str]:
    """What is wrong with each case, found by a few processes, which inherit the cases."""
    global _check
    _check = lambda number: check(name, recording, cases[number], folder)  # noqa: E731
    # No multiprocessing.Pool: it kills its processes when it is left early, and waits for ever for a lock they had.
    pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork"), _begin)
    try:
        yield from pool.map(_call, range(len(cases)), chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


_check: Callable[[int], str]


def _begin() -> None:
    """Prepare a process: it ends at once when the pool does, and no check lasts for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _too_long)


def _call(number: int) -> str:
    signal.alarm(PATIENCE)
    try:
        return _check(number)
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"a check did not end within {PATIENCE} seconds")


def keep(name: str, recording: disk.Recording, case: Case) -> Path:
    """Keep a state for whoever looks into it."""
    folder = BROKEN / f"{name}-{case.cut:g}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "disk").mkdir(parents=True)
    disk.put(case.tree, str(folder / "disk"))
    said = [line for _, line in recording.said[: case.said]]
    (folder / "said.json").write_text(json.dumps(said, indent=1))
    return folder


def cut_power(name: str, recorder: Path, folder: str) -> None:
    """Check all states, and note how many there were."""
    passed = failed = moments = promises = 0
    for number in range(RECORDINGS):
        recording = disk.record(name, recorder)
        cases = cases_of(recording, SAMPLES, random.Random(f"{SEED} {name} {number}"))
        for case, text in zip(cases, check_all(name, recording, cases, folder), strict=True):
            if text and failed < 5:
                kept = keep(name, recording, case)
                print(f"{name}, cut at {case.cut:g} of {recording.end}: {text}\n  kept in {kept}", flush=True)
            failed += bool(text)
            passed += not text
        moments += len(recording.cuts())
        promises += len(recording.said)
    note = f"states of {moments:,} moments, {promises} promises, HOLDFAST_SEED={SEED}"
    evidence.row(TARGET, name, passed=passed, failed=failed, note=note)


def control(name: str, recorder: Path, folder: str) -> None:
    """Check that every sabotage of what a workload left is noticed, or the checks prove nothing."""
    recording = disk.record(name, recorder)
    noticed: list[str] = []
    missed: list[str] = []
    for sabotage in CONTROLS[name]:
        sabotaged = SABOTAGE[sabotage](recording)
        choose = random.Random(f"{SEED} {name} {sabotage}")
        cases = cases_of(sabotaged, 0, choose)
        choose.shuffle(cases)
        number = next((number for number, text in enumerate(check_all(name, sabotaged, cases, folder), 1) if text), 0)
        (noticed if number else missed).append(f"{sabotage} (state {number or len(cases)})")
    note = f"noticed: {', '.join(noticed)}" + (f"; MISSED: {', '.join(missed)}" if missed else "")
    evidence.row(TARGET, f"control: {name}", passed=len(noticed), failed=len(missed), note=note)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up
    evidence.begin(TARGET, sys.argv[1:])
    print(f"HOLDFAST_SEED={SEED}")
    chosen = sys.argv[1:] or list(workload.WORKLOADS)
    with tempfile.TemporaryDirectory(dir=disk.MEMORY, prefix="power-cuts-") as folder:
        recorder = disk.build(Path(folder))
        for name in chosen:
            try:
                cut_power(name, recorder, folder)
                control(name, recorder, folder)
            except Exception:  # noqa: BLE001 - the others are to be seen, too
                traceback.print_exc()
                evidence.row(TARGET, f"{name}: the check itself", failed=1)
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
