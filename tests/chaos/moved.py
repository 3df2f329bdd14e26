"""Lock files and logs that are removed and renamed all the time."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import suppress

import pytest
from crew import ELSEWHERE, INSIDE, WAITING, Crew, Worker, cells, until
from holding import Counted
from logs import Logs

import evidence
from holdfast import FileLock, ReadWriteLock, SoftFileLock, lock_all

SOBER, COUNTING = 1, 2  # nobody does anything to the lock file any more; and all who come know

STEPS = 10_000 if evidence.FULL else 1500

KINDS = {
    "flock": FileLock,
    "OFD": lambda path: FileLock(path, kind="ofd"),
    "ReadWriteLock": lambda path: ReadWriteLock(path).write_lock(),
    "lock_all": lambda path: lock_all(path, f"{path}.other"),
}


def spoil(path: str, is_marker: bool) -> None:
    """Do to a lock file what nobody should.

    The file of a SoftFileLock does not come back, and is not replaced: an old marker whose process lives, or an empty
    one, is a lock that somebody holds.
    """
    new = f"{path}.{os.getpid()}"
    with suppress(FileNotFoundError):
        how = random.randrange(2 if is_marker else 4)
        if how == 0:
            os.unlink(path)
        elif how == 1:
            os.rename(path, new)
        elif how == 2:
            open(new, "w").close()
            os.rename(new, path)
        else:  # and back, after others may have come
            os.rename(path, new)
            time.sleep(random.random() * 0.001)
            os.rename(new, path)


@pytest.mark.parametrize("kind", KINDS)
def test_holders_that_remove_or_rename_the_file_as_the_last_thing_they_do_exclude_each_other(kind, tmp_path):
    """The file is not in use then by anybody but those who wait, and they find out."""
    path, counted = str(tmp_path / "the.lock"), Counted(6)

    def work(me: Worker) -> None:
        while True:
            with KINDS[kind](path):
                counted.change(me)
                if random.random() < 0.5:
                    # Not back under its name: by then another lock file may be in use there.
                    with suppress(FileNotFoundError):
                        random.choice((os.unlink, lambda path: os.rename(path, f"{path}.{os.getpid()}")))(path)
            me.done()

    Crew([("holders", work)] * 6).work(STEPS)
    counted.check(6)


@pytest.mark.parametrize("kind", [*KINDS, "SoftFileLock"])
def test_whatever_is_done_to_a_lock_file_nobody_fails_or_waits_for_ever(kind, tmp_path):
    """Two may be inside meanwhile, as documented. When it is over, nobody is ever beside another again."""
    path, over, counted = str(tmp_path / "the.lock"), cells(1), Counted(8)
    descriptors = cells(8)
    make = KINDS.get(kind, SoftFileLock)

    def work(me: Worker) -> None:
        while True:
            counting = over[0] == COUNTING
            me.at(WAITING)
            with make(path):
                me.at(INSIDE)
                if counting:
                    counted.change(me)
                time.sleep(random.choice((0, 0.0005)))
            me.at(ELSEWHERE)
            descriptors[me.slot] = len(os.listdir("/proc/self/fd"))
            me.done()

    def vandalise(me: Worker) -> None:
        while True:
            if not over[0]:
                spoil(path, kind == "SoftFileLock")
            me.done()
            time.sleep(random.random() * 0.002)

    crew = Crew([("holders", work)] * 5 + [("vandals", vandalise)] * 2)

    def halfway() -> None:
        over[0] = SOBER
        before = crew.steps[5:].tolist()
        until(lambda: all(now > then for now, then in zip(crew.steps[5:], before, strict=True)))
        over[0] = COUNTING

    crew.work(STEPS, halfway)
    counted.check(8)
    assert max(descriptors) < 30


class MovedLogs(Logs):
    """A log that is renamed away as logrotate does it, without a lock. Readers cannot know where to."""

    rotators = 1  # so that the names have the order of the renames
    readers = 0

    def rotate(self, me: Worker) -> None:
        number = 0
        while True:
            with suppress(FileNotFoundError):
                os.rename(self.path, f"{self.folder}/log/events.{number:08}")
                number += 1
            me.done()
            time.sleep(random.random() * 0.01)

    def check(self) -> Counter[str]:
        account, torn = self.read_files()
        assert not torn
        return Counter({"records": account.records, "files": len(os.listdir(f"{self.folder}/log"))})


def test_a_log_that_is_renamed_all_the_time_loses_nothing(tmp_path):
    one = MovedLogs(str(tmp_path), 0)
    one.crew.work(STEPS)
    assert one.check()["files"] > 5
