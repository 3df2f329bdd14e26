"""Cases: states of the disk, with what had been promised by then."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass

import disk
import promises


@dataclass
class Case:
    """A state of the disk, and how many lines the workload had said by then."""

    cut: float
    tree: disk.Tree
    said: int


def cases_of(recording: disk.Recording, samples: int, choose: random.Random) -> list[Case]:
    """Different states, about so many besides the extremes, each with all that was promised when the disk held it."""
    cuts = recording.cuts()
    found: dict[int, Case] = {}
    for cut in cuts:
        said = recording.said_before(cut)
        for tree in disk.states(recording, cut, -(-samples // len(cuts)), choose):
            found[hash(frozenset(tree.items()))] = Case(cut, tree, said)  # of the same, the latest: most is promised
    return list(found.values())


def check(name: str, recording: disk.Recording, case: Case, folder: str) -> str:
    """What is wrong, if anything."""
    said = [line for _, line in recording.said[: case.said]]
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        disk.put(case.tree, directory)
        try:
            promises.check(name, directory, said)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            return f"{type(error).__name__}: {error}"
    return ""
