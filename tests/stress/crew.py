"""Forked processes that are killed at random moments and replaced, and memory in which they note what they did."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

PATIENCE = 1200  # seconds after which what is waited for will not come; nothing is measured with it

ELSEWHERE, WAITING, INSIDE = range(3)
_WHERE = ("killed elsewhere", "killed waiting", "killed holding")

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_children: set[int] = set()
"""Forked processes whose end nobody has seen."""


def cells(count: int) -> memoryview:
    """Whole numbers that forked processes share.

    Each is written in one step. struct.pack_into() would clear it first, and a kill may come between.
    """
    return memoryview(mmap.mmap(-1, 8 * max(count, 1))).cast("q")


class Worker:
    """What a process of the crew knows of itself."""

    def __init__(self, crew: Crew, slot: int, number: int) -> None:
        self.slot = slot
        """Its place in the crew, which its successors take over."""
        self.number = number
        """Nobody else's, ever."""
        self._crew = crew

    def done(self) -> None:
        """Note that another step is done."""
        self._crew.steps[self.slot] += 1

    def at(self, place: int) -> None:
        """Note where it is, seen from the lock: so the check knows where it died."""
        self._crew.places[self.slot] = place


class Crew:
    """Processes, each with a role and some work without an end. All but the killed ones must get on with it."""

    def __init__(
        self, roles: Sequence[tuple[str, Callable[[Worker], None]]], after_kill: Callable[[int], None] | None = None
    ) -> None:
        self.steps = cells(len(roles))
        self.places = cells(len(roles))
        self.killed: Counter[str] = Counter()
        """How many of each role."""
        self.deaths: Counter[str] = Counter()
        """And where they were, as far as they had said."""
        self._roles = roles
        self._after_kill = after_kill
        self._living: dict[int, int] = {}
        self._started = 0

    def kill(self, kills: int) -> None:
        """Let them work, and kill so many at random moments; in the end all of them."""

        def replace(slot: int) -> None:
            self._kill(slot)
            self._start(slot)

        self._disturb(kills, replace)

    def work(self, steps: int, halfway: Callable[[], None] = lambda: None) -> None:
        """Let them work until they have done so many steps; then kill all of them."""

        def watch(_: int) -> None:
            self._until(lambda: sum(self.steps) >= steps / 2)
            halfway()
            self._until(lambda: sum(self.steps) >= steps)

        self._disturb(1, watch)

    def stop(self, times: int) -> None:
        """Let them work, and stop one at a random moment for a while, so many times; in the end kill all of them."""

        def stop(slot: int) -> None:
            os.kill(self._living[slot], signal.SIGSTOP)
            time.sleep(random.random() * 0.03)
            os.kill(self._living[slot], signal.SIGCONT)

        self._disturb(times, stop)

    def pester(self, signals: int) -> None:
        """Let them work, and send them so many signals; in the end kill all of them."""

        def send(slot: int) -> None:
            for _ in range(100):
                os.kill(self._living[slot], signal.SIGUSR2)
                time.sleep(0.0002)

        signal.signal(signal.SIGUSR2, lambda *_: None)  # those that are forked have it from the beginning
        self._disturb(signals // 100, send)

    def _disturb(self, times: int, disturb: Callable[[int], None]) -> None:
        with alive():
            for slot in range(len(self._roles)):
                self._start(slot)
            for _ in range(times):
                steps = sum(self.steps)
                time.sleep(random.random() * 0.02)
                disturb(self._victim())
                self._until(lambda steps=steps: sum(self.steps) > steps)
            # Not one waits for ever, whatever happened to those around it.
            before = [*self.steps]
            self._until(lambda: all(now > then for now, then in zip(self.steps, before, strict=True)))
            for slot in range(len(self._roles)):
                self._kill(slot)

    def _victim(self) -> int:
        """Anybody; every other time somebody who is inside, where a death matters most."""
        inside = [slot for slot, place in enumerate(self.places) if place == INSIDE]
        return random.choice(inside if inside and random.random() < 0.5 else range(len(self._roles)))

    def _start(self, slot: int) -> None:
        number = self._started
        self._started += 1
        sys.stdout.flush()
        self._living[slot] = forked(lambda: self._roles[slot][1](Worker(self, slot, number)))

    def _kill(self, slot: int) -> None:
        role = self._roles[slot][0]
        if not kill(self._living.pop(slot)):
            raise AssertionError(f"one of the {role} ended by itself: what it said is above")
        self.killed[role] += 1
        self.deaths[_WHERE[self.places[slot]]] += 1
        self.places[slot] = ELSEWHERE
        if self._after_kill is not None:
            self._after_kill(slot)

    def _until(self, condition: Callable[[], bool]) -> None:
        until(condition, *self._living.values())


@contextmanager
def alive() -> Iterator[None]:
    """Whoever is forked inside and has not ended is killed in the end, whatever fails."""
    before = {*_children}
    try:
        yield
    finally:
        for pid in _children - before:
            kill(pid)


def kill(pid: int) -> bool:
    """Kill a process, and see it gone. Whether it lived until now."""
    os.kill(pid, signal.SIGKILL)
    _children.discard(pid)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def forked(work: Callable[[], object]) -> int:
    """A process that does this, and dies with its parent. ended() says whether it could."""
    pid = os.fork()
    if pid == 0:
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _children.clear()
            faulthandler.register(signal.SIGUSR1)
            random.seed()
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - it ends here
            traceback.print_exc()
        finally:
            os._exit(1)
    _children.add(pid)
    return pid


def ended(*processes: int) -> bool:
    """Whether processes, which are waited for, ended in good order."""
    left: dict[int, int] = {}

    def look() -> bool:
        for pid in {*processes} - left.keys():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                left[pid] = status
                _children.discard(pid)
        return len(left) == len({*processes})

    try:
        until(look, *processes)
    finally:
        for pid in {*processes} - left.keys():
            kill(pid)
    return not any(left.values())


def until(condition: Callable[[], object], *processes: int) -> None:
    """Wait for something that these processes do. They print where they are if it does not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
            time.sleep(1)
            raise AssertionError("somebody waits for ever; where is printed above")
        time.sleep(0.0005)


class Scenario:
    """Something to be killed in a folder, and what must be true of it afterwards."""

    crew: Crew

    def kill(self, kills: int) -> Counter[str]:
        """Kill so many. Returns how many of which role."""
        self.crew.kill(kills)
        return self.crew.killed

    def check(self) -> Counter[str]:
        """See that all promises are kept. Returns how much of what was looked at."""
        raise NotImplementedError
