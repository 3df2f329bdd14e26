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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import disk
import promises
import workload

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tools"))
import evidence

TARGET = "test-power-cuts"
STATES = 5000 if evidence.FULL else 400  # of each workload, at least, if there are so many
SEED = int(os.environ.get("HOLDFAST_SEED", random.randrange(10**6)))
PATIENCE = 120  # seconds that a check may take
BROKEN = evidence.ROOT / "build/power-cuts"  # where states are kept that break a promise


@dataclass
class Case:
    """A state of the disk, and how many lines the workload had said by then."""

    cut: float
    tree: disk.Tree
    said: int


def cases_of(recording: disk.Recording, wanted: int, choose: random.Random) -> list[Case]:
    """Different states, each with all that may have been promised when the disk held it."""
    cuts = recording.cuts()
    found: dict[int, Case] = {}
    for cut in cuts:
        said = recording.said_before(cut)
        for tree in disk.states(recording, cut, -(-wanted // len(cuts)), choose):
            found[hash(frozenset(tree.items()))] = Case(cut, tree, said)  # of the same, the latest: most is promised
    return list(found.values())


def check(name: str, recording: disk.Recording, case: Case, folder: str) -> str:
    """What is wrong, if anything."""
    said = [line for _, line in recording.said[: case.said]]
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        disk.put(case.tree, directory)
        signal.alarm(PATIENCE)
        try:
            promises.check(name, directory, said)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            return f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
    return ""


def check_all(name: str, recording: disk.Recording, cases: list[Case], folder: str) -> Iterator[str]:
    """What is wrong with each case, found by a few processes, which inherit the cases."""
    global _check
    _check = lambda number: check(name, recording, cases[number], folder)  # noqa: E731
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        yield from pool.imap(_call, range(len(cases)), chunksize=4)


_check: Callable[[int], str]


def _call(number: int) -> str:
    return _check(number)


def keep(name: str, recording: disk.Recording, case: Case) -> Path:
    """Keep a state for whoever looks into it."""
    folder = BROKEN / f"{name}-{case.cut:g}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "disk").mkdir(parents=True)
    disk.put(case.tree, str(folder / "disk"))
    said = [line for _, line in recording.said[: case.said]]
    (folder / "said.json").write_text(json.dumps(said, indent=1))
    return folder


def cut_power(name: str, recording: disk.Recording, folder: str) -> None:
    """Check all states, and note how many there were."""
    cases = cases_of(recording, STATES, random.Random(f"{SEED} {name}"))
    wrong = [(case, text) for case, text in zip(cases, check_all(name, recording, cases, folder), strict=True) if text]
    for case, text in wrong[:5]:
        print(f"{name}, cut at {case.cut} of {recording.end}: {text}\n  kept in {keep(name, recording, case)}")
    note = f"states of {len(recording.cuts())} moments, {len(recording.said)} promises"
    evidence.row(TARGET, name, passed=len(cases) - len(wrong), failed=len(wrong), note=note)


# Controls: what these recordings leave on the disk must be found to break promises, or the checks prove nothing.

SABOTAGE: dict[str, Callable[[disk.Recording], disk.Recording]] = {
    "no syncs": disk.without_syncs,
    "no syncs of files": lambda recording: disk.without_syncs(recording, lambda file: not file.is_directory),
    "no syncs of directories": lambda recording: disk.without_syncs(recording, lambda file: file.is_directory),
    "files synced after their rename": disk.synced_too_late,
}

_FILES, _NAMES, _LATE = (name for name in SABOTAGE if name != "no syncs")

CONTROLS = {
    "log_durable": [_FILES, _NAMES],
    "log_interval": [_FILES, _NAMES],
    "log_synced": [_FILES, _NAMES],
    "repair": [_FILES, _NAMES],
    "checkpoints": [_FILES, _NAMES, _LATE],
    "atomic": [_FILES, _NAMES, _LATE],
    "atomic_careless": [_FILES, _NAMES],
    "state": [_FILES, _NAMES, _LATE],
    "documents": [_FILES, _NAMES, _LATE],
    "markers": [_FILES, _LATE],
}


def control(name: str, recording: disk.Recording, folder: str) -> None:
    """Check that every sabotage of a workload's syncs is noticed."""
    noticed: list[str] = []
    missed: list[str] = []
    for sabotage in ["no syncs", *CONTROLS[name]]:
        sabotaged = SABOTAGE[sabotage](recording)
        choose = random.Random(f"{SEED} {name} {sabotage}")
        cases = cases_of(sabotaged, 0, choose)
        choose.shuffle(cases)
        number = next((number for number, text in enumerate(check_all(name, sabotaged, cases, folder), 1) if text), 0)
        (noticed if number else missed).append(f"{sabotage} (state {number or len(cases)})")
    note = f"noticed: {', '.join(noticed)}" + (f"; MISSED: {', '.join(missed)}" if missed else "")
    evidence.row(TARGET, f"control: {name}", passed=len(noticed), failed=len(missed), note=note)


def main() -> int:
    evidence.begin(TARGET)
    print(f"HOLDFAST_SEED={SEED}")
    signal.signal(signal.SIGALRM, _too_long)
    # In memory where that is possible: the checks sync what they write, and no disk has to wait for that.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    chosen = sys.argv[1:] or list(workload.WORKLOADS)
    with tempfile.TemporaryDirectory(dir=base, prefix="power-cuts-") as folder:
        recorder = disk.build(Path(folder))
        for name in chosen:
            recording = disk.record(name, recorder)
            cut_power(name, recording, folder)
            if name in CONTROLS:
                control(name, recording, folder)
    return min(evidence.end(TARGET), 1)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"the check did not end within {PATIENCE} seconds")


if __name__ == "__main__":
    sys.exit(main())
