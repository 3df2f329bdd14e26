"""Cases: states of the disk, with what had been promised by then."""

from __future__ import annotations

import random
import signal
import tempfile
from dataclasses import dataclass
from typing import NoReturn

import disk
import promises

PATIENCE = 120  # seconds that a check may take


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
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(PATIENCE)
        try:
            promises.check(name, directory, said)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            return f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
    return ""


def _too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"the check did not end within {PATIENCE} seconds")
