"""Behaviours, and checking one after the other: each in a process and a directory of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from places import Place
from processes import PATIENCE, Failed, Process

from holdfast import FileLock, SoftFileLock


@dataclass(frozen=True)
class Scene:
    """Where a behaviour is checked: an empty directory, and the same reached another way, if there is one."""

    here: str
    there: str
    place: Place
    kind: str

    def path(self, name: str) -> str:
        """A file in the directory."""
        return os.path.join(self.here, name)

    def both(self, name: str) -> list[str]:
        """A file in the directory, and the same reached another way."""
        return [self.path(name), os.path.join(self.there, name)]

    def lock(self, path: str | None = None, **settings: Any) -> FileLock | SoftFileLock:
        """The lock that the behaviour is about."""
        path = path or self.path("the.lock")
        settings = {"timeout": PATIENCE, **settings}
        return SoftFileLock(path, **settings) if self.kind == "soft" else FileLock(path, kind=self.kind, **settings)


@dataclass(frozen=True)
class Behaviour:
    """Something that is so, the kind of lock it is about, if any, and what it needs of the file system."""

    sentence: str
    check: Callable[[Scene], None]
    kind: str
    needs: frozenset[str]

    def lacking(self, place: Place, others: tuple[str, ...]) -> str:
        """Why it cannot be checked, or nothing."""
        missing = sorted(self.needs & place.lacks)
        if missing:
            return f"this file system has none of: {', '.join(missing)}"
        if "another way" in self.needs and not others:
            return "there is no other way to this directory"
        if "together" in self.needs and place.one_way:
            return "what is written in two ways at once is undefined"
        if "together" in self.needs and (self.kind or "flock") in place.apart:
            return "locks do not reach whoever comes another way, as expected"
        return ""


class Behaviours(list[Behaviour]):
    """The behaviours of a file: a decorator of functions that adds them, once for each kind of lock they are about."""

    def __call__(self, *needs: str, kinds: tuple[str, ...] = ("",)) -> Callable[[Callable[[Scene], None]], None]:
        def add(check: Callable[[Scene], None]) -> None:
            sentence = check.__name__.replace("_", " ")
            for kind in kinds:
                needed = {*needs, kind, "names"} if kind == "soft" else {*needs, kind}
                self.append(Behaviour(f"{kind}: {sentence}" if kind else sentence, check, kind, frozenset(needed)))

        return add

    def run(self, name: str, place: Place, here: str, *others: str) -> int:
        """Check them all and print what came of each. The last line counts; returns whether any failed."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes are ended, too
        counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        number = 0
        for each in self:
            reason = each.lacking(place, others)
            for there in others if "another way" in each.needs and not reason else ("",):
                number += 1
                folder = f"{number:02}"
                scene = Scene(os.path.join(here, folder), os.path.join(there, folder), place, each.kind)
                wrong = "" if reason else _wrong(each, scene)
                outcome = "skipped" if reason else "failed" if wrong else "passed"
                counts[outcome] += 1
                _tell(outcome, f"{name}: {each.sentence}", reason or (there and f"by {there}"), wrong)
        print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}", flush=True)
        return bool(counts["failed"])


def _tell(outcome: str, what: str, remark: str, wrong: str) -> None:
    """Print a line, in small letters where all is well, and what is wrong."""
    print(f"{outcome if outcome == 'passed' else outcome.upper()} {what}{remark and f': {remark}'}", flush=True)
    for line in wrong.splitlines():
        print(f"    {line}", flush=True)


def _wrong(each: Behaviour, scene: Scene) -> str:
    """What is wrong with a behaviour, or nothing."""
    os.mkdir(scene.here)
    try:
        with Process(lambda _: each.check(scene), leads=True) as process:
            process.result()
    except Failed as error:
        return str(error).strip()
    end = time.monotonic() + PATIENCE
    while left := _litter(scene.here):
        if time.monotonic() > end or not any(map(_goes_by_itself, left)):
            return f"left behind: {', '.join(left)}"
        time.sleep(0.01)
    return ""


def _litter(folder: str) -> list[str]:
    """Temporary files that nobody has removed."""
    found = [name for _, _, names in os.walk(folder) for name in names]
    return [name for name in found if name.endswith((".tmp", ".new")) or _goes_by_itself(name)]


def _goes_by_itself(name: str) -> bool:
    """Whether a file is one that was removed while it was open, and that its file system forgets some time after."""
    return name.startswith((".fuse_hidden", ".nfs"))
