"""Many processes at once: nothing is lost and nothing is seen half done, also when processes are killed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from conftest import linux_only, waits_in_the_kernel
from holdfast import FileLock
from support import Child, eventually, is_free

KINDS = [
    pytest.param(("flock", None), id="flock"),
    pytest.param(("ofd", None), id="ofd", marks=linux_only),
    pytest.param(("flock", "poll"), id="polling", marks=waits_in_the_kernel),
    pytest.param(("ofd", "poll"), id="ofd, polling", marks=linux_only),
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def start(code, kind, *args):
    how, wait = kind
    return Child(code, *args, how, env=os.environ | ({"HOLDFAST_WAIT": wait} if wait else {}))


# A journal and a counter. Under the lock, the next number goes first into the journal, then into the counter, and after
# the release into the process's own receipts. Whoever is killed in between leaves a journal that is one ahead.
KEEP_THE_BOOKS = """
    from holdfast import FileLock
    from support import BINARY, read_at, write_at
    path, receipts, kind = args
    lock = FileLock(path, kind=kind, poll_interval=0.002)
    journal = os.open(path + ".journal", os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY)
    counter = os.open(path + ".counter", os.O_RDWR | os.O_CREAT | BINARY)
    receipts = os.open(receipts, os.O_WRONLY | os.O_CREAT | os.O_APPEND | BINARY)
    say("ready")
    while not os.path.exists(path + ".over"):
        with lock:
            number = int(read_at(counter, 8, 0) or b"0")
            written = os.fstat(journal).st_size // 8
            time.sleep(0)  # somebody else's turn, if the lock did not exclude
            if written == number + 1:
                number = written  # finish what a dead process began
                write_at(counter, b"%08d" % number, 0)
            assert written == number, f"{written} in the journal, {number} counted"
            number += 1
            os.write(journal, b"%07d\\n" % number)
            time.sleep(0)
            write_at(counter, b"%08d" % number, 0)
        os.write(receipts, b"%07d\\n" % number)
"""


def lines_of(path):
    with open(path, encoding="ascii") as file:
        return [int(line) for line in file]


def test_nothing_is_lost_between_processes_some_of_which_are_killed(path, kind):
    kills, workers = 15, 4
    choice = random.Random()
    started = 0

    def start_one():
        nonlocal started
        started += 1
        child = start(KEEP_THE_BOOKS, kind, path, f"{path}.receipts{started}")
        child.expect("ready")
        return child

    children = [start_one() for _ in range(workers)]
    killed = []
    for _ in range(kills):
        reached = os.path.getsize(path + ".journal") // 8 + choice.randrange(1, 500)
        eventually(lambda reached=reached: os.path.getsize(path + ".journal") // 8 >= reached)
        victim = children.pop(choice.randrange(len(children)))
        victim.kill()
        killed.append(victim)
        children.append(start_one())
    Path(path + ".over").touch()
    for child in children:
        with child:
            child.join()  # none saw books that did not agree
    for victim in killed:
        with victim:
            assert victim.process.returncode != 0

    journal = lines_of(path + ".journal")
    assert journal == list(range(1, len(journal) + 1))
    assert len(journal) > kills
    receipts = [number for n in range(started) for number in lines_of(f"{path}.receipts{n + 1}")]
    assert len(set(receipts)) == len(receipts)
    assert set(receipts) <= set(journal)
    assert len(journal) - len(receipts) <= kills
    assert is_free(path, kind=kind[0])


WRITE = """
    from holdfast import FileLock
    from support import read_at, write_at
    path, rounds, kind = args
    lock = FileLock(path, kind=kind, poll_interval=0.002)
    with open(path + ".data", "r+b", buffering=0) as data:
        say("ready")
        hear()
        for _ in range(int(rounds)):
            with lock:
                number = b"%08d" % (int(read_at(data.fileno(), 8, 0)) + 1)
                write_at(data.fileno(), number, 0)
                time.sleep(0)
                write_at(data.fileno(), number, 8)
            time.sleep(0.0005)
"""

READ = """
    from holdfast import FileLock
    from support import read_at
    path, kind = args
    lock = FileLock(path, kind=kind, shared=True, poll_interval=0.002)
    last = seen = 0
    with open(path + ".data", "rb", buffering=0) as data:
        say("ready")
        while not os.path.exists(path + ".stop"):
            with lock:
                first = read_at(data.fileno(), 8, 0)
                time.sleep(0)
                second = read_at(data.fileno(), 8, 8)
            assert first == second, f"half a write: {first} and {second}"
            assert int(first) >= last
            seen += int(first) != last
            last = int(first)
            time.sleep(0.001)  # readers that never pause together leave no gap for a writer
    assert seen, "nothing changed while this one looked"
"""


def test_readers_never_see_half_a_write(path, kind):
    with open(path + ".data", "wb") as file:
        file.write(b"%08d" % 0 * 2)
    writers = [start(WRITE, kind, path, 300) for _ in range(2)]
    readers = [start(READ, kind, path) for _ in range(3)]
    for child in (*writers, *readers):
        child.expect("ready")
    doomed = readers.pop()
    for writer in writers:
        writer.tell()
    with doomed:
        doomed.kill()  # its shared lock goes with it
    for writer in writers:
        with writer:
            writer.join()
    open(path + ".stop", "w").close()
    for reader in readers:
        with reader:
            reader.join()
    with open(path + ".data", "rb") as file:
        assert file.read() == b"%08d" % 600 * 2


def test_readers_are_inside_together(path, kind):
    code = """
        from holdfast import FileLock
        with FileLock(args[0], shared=True, kind=args[1]):
            say("inside")
            hear()
    """
    readers = [start(code, kind, path) for _ in range(3)]
    for reader in readers:
        reader.expect("inside")
    assert not is_free(path, kind=kind[0])
    for reader in readers:
        with reader:
            reader.tell()
            reader.join()
    with FileLock(path, kind=kind[0], timeout=0):
        pass
