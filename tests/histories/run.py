"""Prove that the locks exclude, from histories that do not rely on them: every lock, every way to wait, with kills.

`make test-exclusion`. history.py says what is noted and checked, work.py who goes in and out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import history
import work
from crowd import Crowd, Found, contend, finish, processes, start

import evidence
from holdfast import FileLock

TARGET = "test-exclusion"
CROWD = Crowd(6, 3, 100, 8) if evidence.FULL else Crowd(3, 2, 25, 2)
WATCHERS = 2
POLLING = "--polling" in sys.argv  # said to the process that does this part, below
NAMED = [name for name in sys.argv[1:] if name != "--polling"]


def check(lock: str, wait: str, tickets: str) -> None:
    """Note a row about a lock and a way to wait."""
    crowd = CROWD._replace(kills=0) if lock in work.NO_KILLS else CROWD
    with tempfile.TemporaryDirectory(prefix="exclusion-") as folder:
        sections, wrong, killed = contend(lock, wait, crowd, folder, tickets)
    wrong += history.violations(sections)
    if len(sections) < crowd.processes * crowd.threads * crowd.sections:  # which those do that are not killed
        wrong.append(f"only {len(sections)} sections")
    _row(f"{lock}, {wait}", len(sections), wrong, f"sections, {killed} processes killed")


def watched(at_work: str, tickets: str, lock: Callable[[str], AbstractContextManager[object]]) -> Found:
    """Let some be at work under a lock of their own, which others take from outside, or do not."""
    name, job, _ = work.AT_WORK[at_work]
    sections = CROWD.sections
    with tempfile.TemporaryDirectory(prefix="exclusion-") as folder:
        noted = history.History(f"{folder}/history", tickets, WATCHERS, sections)
        Path(folder, "files").mkdir()
        lock_file = f"{folder}/files/{name}"
        with processes() as busy, processes() as watchers:
            busy += [start(lambda: job(lock_file, noted)) for _ in range(CROWD.processes)]
            for place in range(WATCHERS):
                watch = partial(work.watch, noted, at_work, lock(lock_file), lock_file, place, sections)
                watchers.append(start(watch))
            wrong = finish(watchers)
            noted.end()
            wrong += finish(busy)
        return Found(noted.sections(range(WATCHERS)), wrong, 0)


def check_from_outside(at_work: str, tickets: str) -> None:
    """Note a row about what is locked from outside."""
    seen, wrong, _ = watched(at_work, tickets, FileLock)
    wrong += history.violations_seen(seen)
    if len({section.read[0] for section in seen}) < 2:
        wrong.append("nothing has changed between sections either")
    _row(at_work, len(seen), wrong, "sections that watched it from outside")


def changed(at_work: str, tickets: str) -> list[str]:
    """What is found where nobody outside has the lock."""
    return history.violations_seen(watched(at_work, tickets, nullcontext).sections)


def contended(fault: str, tickets: str) -> list[str]:
    """What is found where a lock does not exclude."""
    with tempfile.TemporaryDirectory(prefix="exclusion-") as folder:
        return history.violations(contend(fault, "waiting", CROWD._replace(kills=0), folder, tickets).sections)


def catch(fault: str, find: Callable[[], list[str]], *signs: str) -> None:
    """The control: what does not exclude is caught."""
    for attempt in range(1, 100):
        found = find()
        if all(any(text.startswith(sign) for text in found) for sign in signs):
            evidence.row(TARGET, f"control: {fault}", passed=1, note=f"caught in history {attempt}")
            return
    evidence.row(TARGET, f"control: {fault}", failed=1, note="never caught")


def _row(what: str, sections: int, wrong: list[str], note: str) -> None:
    for text in wrong[:5]:
        print(f"{what}: {text}")
    evidence.row(TARGET, what, passed=sections if not wrong else 0, failed=len(wrong), note=note)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up
    if not POLLING:
        evidence.begin(TARGET, sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="exclusion-") as folder:
        tickets = str(history.build(Path(folder)))
        if not POLLING:
            for fault in work.FAULTS:
                catch(fault, partial(contended, fault, tickets), "inside together", "given twice")
            for at_work in work.AT_WORK:
                catch(f"{at_work}, no lock", partial(changed, at_work, tickets), "something changed")
                check_from_outside(at_work, tickets)
        locks = {**work.LOCKS, **work.ASYNC_LOCKS}
        for lock in NAMED or locks:
            for wait in locks[lock][1]:
                if (wait == "polling") == POLLING:
                    check(lock, wait, tickets)
    if POLLING:
        return 0
    # How the core waits is decided when it is loaded.
    polling = {**os.environ, "HOLDFAST_WAIT": "poll"}
    if subprocess.run([sys.executable, *sys.argv, "--polling"], env=polling, check=False).returncode:
        evidence.row(TARGET, "polling", failed=1, note="it ended early")
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
