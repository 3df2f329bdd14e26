"""What happened inside a lock, noted by many processes in shared memory, and whether the lock excluded.

Each event takes a ticket: a number from one counter that grows atomically, so that tickets are in the order of events,
without a clock, and without any lock. A section is one stay inside the lock:

asked <= began <= ended <= left      before acquire(); first and last thing inside; after release()

What is protected is a register of two words that are always the same between sections. A writer reads both, and writes
the next number to one after the other. A process may be killed anywhere; `ended` is the last ticket it took inside.
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_FIELDS = 8  # of a section: its tickets, what it read and wrote, and whether it writes
_WORDS = 4  # before the sections: the counter, the register, and a flag that ends all


class Section(NamedTuple):
    asked: int
    began: int
    ended: int
    left: int  # 0 if it was killed before
    writes: bool
    read: tuple[int, int]  # of the two words
    wrote: int  # 0 if it was killed before


def build(folder: Path) -> Path:
    made = folder / "tickets.so"
    source = Path(__file__).resolve().parent / "tickets.c"
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, source], check=True
    )
    return made


class History:
    """The shared memory: `places` workers, with room for so many sections each."""

    def __init__(self, path: str, tickets: str, places: int, room: int) -> None:
        self._room = room
        size = 8 * (_WORDS + places * room * _FIELDS)
        with open(path, "a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        # Not struct.pack_into: it clears a number before it writes it, and a kill may come between.
        self._words = memoryview(self._map).cast("Q")
        counter = (ctypes.c_char * 8).from_buffer(self._map)
        take = ctypes.PyDLL(tickets).take_ticket
        take.restype = ctypes.c_uint64
        self.ticket: Callable[[], int] = lambda: int(take(counter))

    @property
    def tickets(self) -> int:
        """How many have been taken."""
        return self._words[0]

    @property
    def over(self) -> bool:
        return bool(self._words[3])

    def end(self) -> None:
        self._words[3] = 1

    def sections(self, places: Iterable[int]) -> list[Section]:
        """Those that were entered."""
        found: list[Section] = []
        for place in places:
            for number in range(self._room):
                start = self._start(place, number)
                asked, began, ended, left, writes, one, other, wrote = self._words[start : start + _FIELDS]
                if ended:
                    found.append(Section(asked, began, ended, left, bool(writes), (one, other), wrote))
        return found

    def _start(self, place: int, number: int) -> int:
        return _WORDS + (place * self._room + number) * _FIELDS

    def note(self, place: int, number: int, field: int, value: int) -> None:
        self._words[self._start(place, number) + field] = value

    def ask(self, place: int, number: int) -> None:
        self.note(place, number, 0, self.ticket())

    def leave(self, place: int, number: int) -> None:
        self.note(place, number, 3, self.ticket())

    def section(self, place: int, number: int, writes: bool) -> Iterator[None]:
        """Be inside, now that the lock is held. Whoever iterates lets others run at each step."""
        words, start = self._words, self._start(place, number)
        words[start + 1] = self.ticket()
        words[start + 4] = writes
        one = words[1]
        yield
        words[start + 5], words[start + 6] = one, words[2]
        words[start + 2] = self.ticket()  # from here on the section counts
        yield
        if writes:
            words[1] = one + 1
            words[start + 2] = self.ticket()
            yield
            words[2] = one + 1
            words[start + 7] = one + 1
        words[start + 2] = self.ticket()

    def watch(self, place: int, number: int, look: Callable[[], int]) -> Iterator[None]:
        """Be inside, and see whether what the lock protects changes meanwhile."""
        words, start = self._words, self._start(place, number)
        words[start + 1] = self.ticket()
        words[start + 4] = True
        words[start + 5] = look()
        for _ in range(4):
            yield
        words[start + 6] = look()
        words[start + 2] = self.ticket()


def violations(sections: list[Section]) -> list[str]:
    """Everything in a history that a lock should have kept from happening."""
    ordered = sorted(sections, key=lambda section: section.began)
    return [*_overlaps(ordered), *_wrong_reads(ordered), *_out_of_order(ordered)]


def violations_seen(sections: list[Section]) -> list[str]:
    """The same in the history of those who watched what others may not change meanwhile."""
    changed = [f"something changed: {section}" for section in sections if section.read[0] != section.read[1]]
    return [*changed, *_overlaps(sorted(sections, key=lambda section: section.began))]


def _overlaps(ordered: list[Section]) -> Iterator[str]:
    """Somebody is inside together with a writer."""
    last: Section | None = None  # of those before, the one that was inside longest; and of the writers
    last_writer: Section | None = None
    for section in ordered:
        other = last if section.writes else last_writer
        if other is not None and section.began < other.ended:
            yield f"inside together: {other} and {section}"
        if last is None or section.ended > last.ended:
            last = section
        if section.writes and (last_writer is None or section.ended > last_writer.ended):
            last_writer = section


def _wrong_reads(ordered: list[Section]) -> Iterator[str]:
    """Somebody read what the writer before did not leave. One that was killed may have left either word, or none."""
    possible = {(0, 0)}
    for section in ordered:
        if section.read not in possible:
            yield f"read {section.read} where {sorted(possible)} was: {section}"
        one, other = section.read
        possible = {section.read}
        if section.wrote:
            possible = {(section.wrote, section.wrote)}
        elif section.writes:
            possible = {(one, other), (one + 1, other), (one + 1, one + 1)}


def _out_of_order(ordered: list[Section]) -> Iterator[str]:
    """A number was given to a call that began after another had ended, which got a later number.

    This is whether the counter is linearizable, from the calls as their callers saw them: numbers are given once each,
    so the only order there can be is theirs.
    """
    writers = sorted((section for section in ordered if section.wrote), key=lambda section: section.wrote)
    latest = 0
    for before, section in zip([None, *writers], writers, strict=False):
        if before is not None and before.wrote == section.wrote:
            yield f"given twice: {before} and {section}"
        if section.left and section.left < latest:
            yield f"later in its number than in time: {section}"
        latest = max(latest, section.asked)
