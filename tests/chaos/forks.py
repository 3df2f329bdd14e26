"""fork() while every thread is inside a call: children hold nothing, are not stuck, and can use everything."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import warnings

from crew import cells, ended, forked
from everything import Everything, litter_in, numbers_in

import evidence

THREADS = 8
FORKS = 200 if evidence.FULL else 15
TRIES = 1000  # to find every thread inside a call before a fork


def test_children_forked_while_every_thread_is_inside_a_call_can_use_everything(tmp_path):
    folder = str(tmp_path)
    counted, forks_inside = cells(2), cells(1)

    def work():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, that this is dangerous
        everything = [Everything(folder, f"thread{number}") for number in range(THREADS)]
        over = threading.Event()
        inside = [False] * THREADS

        def use(place: int) -> None:
            while not over.is_set():
                operation = random.choice(everything[place].operations())
                inside[place] = True
                operation()
                inside[place] = False

        threads = [threading.Thread(target=use, args=(place,)) for place in range(THREADS)]
        for thread in threads:
            thread.start()
        children = cells(2)

        def child(number: int) -> None:
            for one in everything:
                assert not any(lock.is_locked for lock in (one.lock, one.soft_lock, one.table))
            # First with the objects that its parent's threads are using, and then with its own.
            inherited = random.choice(everything)
            inherited.lock.acquire()
            inherited.lock.release()
            inherited.soft_lock.acquire()
            inherited.soft_lock.release()
            one = Everything(folder, f"child{number}")
            one.checkpoint = inherited.checkpoint  # the log is long, and has nothing of this child so far
            for operation in one.operations():
                operation()
            one.check()
            with one.lock:
                children[0] += one.counted["kernel"]
                children[1] += one.counted["soft"]
                forks_inside[0] += all(inside)  # at the very moment of the fork, of which the child has a copy

        for number in range(FORKS):
            for _ in range(TRIES):
                if all(inside):
                    break
                time.sleep(0.0001)
            assert ended(forked(lambda number=number: child(number)))
        over.set()
        for thread in threads:
            thread.join()
        for one in everything:
            one.check()
        for place, name in enumerate(("kernel", "soft")):
            counted[place] = children[place] + sum(one.counted[name] for one in everything)

    assert ended(forked(work))
    assert [*numbers_in(folder).values()] == [*counted]
    assert forks_inside[0] > FORKS / 2, f"every thread was inside at {forks_inside[0]} of {FORKS} forks only"
    assert not litter_in(folder)


def test_a_child_that_is_killed_at_once_takes_nothing_from_its_parent(tmp_path):
    """Whatever the child has inherited goes with it, and nothing of the parent's does."""

    def work():
        warnings.simplefilter("ignore", DeprecationWarning)
        one = Everything(str(tmp_path), "parent")
        over = threading.Event()

        def use() -> None:
            while not over.is_set():
                one.do(1)

        thread = threading.Thread(target=use)
        thread.start()
        for _ in range(FORKS):
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)
        over.set()
        thread.join()
        one.check()
        assert numbers_in(str(tmp_path)) == one.counted

    assert ended(forked(work))
