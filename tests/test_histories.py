"""Exclusion, from what many processes note in shared memory; and that the check of these notes finds what is wrong.

`make test-exclusion` does this for every lock and every way to wait.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from conftest import linux_only

pytest.importorskip("ctypes")
sys.path.append(str(Path(__file__).resolve().parent / "histories"))
import history
from crowd import Crowd, contend
from history import Section

needs_tickets = [linux_only, pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")]


def write(asked, began, ended, left, number):
    return Section(asked, began, ended, left, True, (number - 1, number - 1), number)


def read(asked, began, ended, left, number):
    return Section(asked, began, ended, left, False, (number, number), 0)


GOOD = [write(1, 3, 5, 6, 1), write(2, 7, 9, 12, 2), read(4, 10, 14, 16, 2), read(8, 11, 13, 15, 2)]


def test_writers_in_turn_and_readers_together_are_as_it_should_be():
    assert history.violations(GOOD) == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (write(17, 18, 20, 21, 2), "given twice"),
        (write(17, 18, 20, 21, 5), "read"),
        (read(17, 18, 19, 20, 1), "read"),
        (write(4, 12, 17, 18, 3), "inside together"),  # beside a reader
        (read(3, 4, 8, 10, 1), "inside together"),  # beside a writer
        (Section(17, 18, 20, 21, False, (2, 3), 0), "read"),  # half a write
    ],
)
def test_what_no_lock_would_allow_is_found(wrong, what):
    assert any(text.startswith(what) for text in history.violations([*GOOD, wrong]))


def test_a_number_that_is_later_than_its_call_is_found():
    late = [write(1, 2, 3, 20, 1), write(4, 5, 6, 7, 3), write(8, 9, 10, 11, 2)]
    assert any(text.startswith("later in its number than in time") for text in history.violations(late))


def test_one_that_was_killed_may_have_written_half_and_no_more():
    killed = Section(17, 18, 20, 0, True, (2, 2), 0)
    after = Section(19, 21, 24, 25, True, (3, 2), 4)
    assert history.violations([*GOOD, killed, after]) == []
    strange = after._replace(read=(2, 3))
    assert history.violations([*GOOD, killed, strange])


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    return str(history.build(tmp_path_factory.mktemp("tickets")))


@pytest.mark.parametrize("lock", [pytest.param(lock, marks=needs_tickets) for lock in ("no lock", "threads share")])
def test_a_lock_that_does_not_exclude_is_caught(tmp_path, tickets, lock):
    caught = 0
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        sections, _, _ = contend(lock, "waiting", Crowd(2, 3, 20, 0), str(folder), tickets)
        caught += any(text.startswith("inside together") for text in history.violations(sections))
        if caught:
            break
    assert caught


@pytest.mark.parametrize(
    ("lock", "wait"),
    [
        pytest.param(*case, marks=needs_tickets)
        for case in [
            ("FileLock", "waiting"),
            ("FileLock", "cancelled"),
            ("ReadWriteLock", "waiting"),
            ("SoftFileLock", "timeouts"),
            ("lock_all", "waiting"),
            ("AsyncFileLock", "waiting"),
            ("StateFile.edit", "waiting"),
        ]
    ],
)
def test_nobody_is_inside_with_a_writer_when_holders_are_killed(tmp_path, tickets, lock, wait):
    sections, wrong, _ = contend(lock, wait, Crowd(3, 2, 15, 2), str(tmp_path), tickets)
    assert wrong + history.violations(sections) == []
    assert len(sections) >= 3 * 2 * 15
