"""Behaviours, and checking one after the other: each in a process and a directory of its own."""

from __future__ import annotations

import os
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

    def lacking(self, place: Place, there: str) -> str:
        """Why it cannot be checked, or nothing."""
        missing = sorted(self.needs & place.lacks)
        if missing:
            return f"this file system has none of: {', '.join(missing)}"
        if "there" in self.needs and not there:
            return "there is no other way to this directory"
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

    def run(self, name: str, place: Place, here: str, there: str = "") -> int:
        """Check them all and print what came of each. The last line counts; returns whether any failed."""
        passed = failed = skipped = 0
        for number, each in enumerate(self):
            reason = each.lacking(place, there)
            if reason:
                skipped += 1
                print(f"SKIPPED {name}: {each.sentence}: {reason}", flush=True)
                continue
            folder = f"{number:02}"
            scene = Scene(os.path.join(here, folder), there and os.path.join(there, folder), place, each.kind)
            wrong = _wrong(each, scene)
            passed, failed = passed + (not wrong), failed + bool(wrong)
            print(f"{'FAILED' if wrong else 'passed'}  {name}: {each.sentence}", flush=True)
            for line in wrong.splitlines():
                print(f"    {line}", flush=True)
        print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
        return bool(failed)


def _wrong(each: Behaviour, scene: Scene) -> str:
    """What is wrong with a behaviour, or nothing."""
    os.mkdir(scene.here)
    try:
        with Process(lambda _: each.check(scene), leads=True) as process:
            process.result()
    except Failed as error:
        return str(error).strip()
    left = _litter(scene.here)
    return f"left behind: {', '.join(left)}" if left else ""


def _litter(folder: str) -> list[str]:
    """Temporary files that nobody has removed, also those that a file system makes of open ones that are removed."""
    found = [name for _, _, names in os.walk(folder) for name in names]
    return [name for name in found if name.endswith((".tmp", ".new")) or name.startswith((".fuse_hidden", ".nfs"))]
