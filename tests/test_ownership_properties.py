"""A model of who holds what: any sequence of operations of two threads on several locks does what the model says."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conftest import PYPY
from holdfast import FileLock, Timeout
from support import PATIENCE, is_free

# Each lock object: which of the two paths, and how it was made.
MAKES = [
    (0, {}),
    (0, {}),
    (0, {"thread_local": False}),
    (0, {"shared": True}),
    (1, {"shared": True}),
    (1, {"shared": True, "thread_local": False}),
    (1, {}),
]
THREADS = 2
ANY = "any thread"


class Worker:
    """A thread that does what it is told, one thing after another."""

    def __init__(self):
        self.tasks = queue.SimpleQueue()
        self.results = queue.SimpleQueue()
        threading.Thread(target=self.run, args=(self.tasks, self.results), daemon=True).start()

    @staticmethod
    def run(tasks, results):
        while (task := tasks.get()) is not None:
            try:
                result = task()
            except Exception as error:  # noqa: BLE001 - it is the result
                result = error.with_traceback(None)  # whose frames would keep the lock alive
            del task
            results.put(result)
            del result

    def do(self, task):
        self.tasks.put(task)
        del task
        result = self.results.get(timeout=PATIENCE)
        if isinstance(result, Exception) and not isinstance(result, Timeout):
            raise result
        return result

    def end(self):
        self.tasks.put(None)


locks_drawn = st.integers(0, len(MAKES) - 1)
threads_drawn = st.integers(0, THREADS - 1)


class Ownership(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.directory = tempfile.TemporaryDirectory()
        self.paths = [str(Path(self.directory.name, name)) for name in ("a.lock", "b.lock")]
        self.workers = [Worker() for _ in range(THREADS)]
        self.locks = [self.make(number) for number in range(len(MAKES))]
        self.holds = Counter()  # (lock, owner) -> how often

    def teardown(self):
        if hasattr(self, "workers"):
            for worker in self.workers:
                worker.end()
            self.locks.clear()
            self.directory.cleanup()

    def make(self, number):
        which, arguments = MAKES[number]
        return FileLock(self.paths[which], **arguments)

    def owner(self, number, thread):
        return ANY if MAKES[number][1].get("thread_local") is False else thread

    def holders_of(self, which):
        """The (lock, owner) that hold the path."""
        return {key for key, count in self.holds.items() if count and MAKES[key[0]][0] == which}

    def may_acquire(self, number, owner):
        which, arguments = MAKES[number]
        others = self.holders_of(which) - {(number, owner)}
        if self.holds[number, owner]:
            return True
        return not others or (
            bool(arguments.get("shared")) and all(MAKES[other][1].get("shared") for other, _ in others)
        )

    @rule(
        number=locks_drawn,
        thread=threads_drawn,
        arguments=st.sampled_from([{"blocking": False}, {"timeout": 0}, {"timeout": 0.001}]),
    )
    def acquire(self, number, thread, arguments):
        owner = self.owner(number, thread)
        lock = self.locks[number]
        result = self.workers[thread].do(lambda: lock.acquire(**arguments))
        if self.may_acquire(number, owner):
            assert not isinstance(result, Timeout), "it should have been acquired"
            self.holds[number, owner] += 1
        else:
            assert isinstance(result, Timeout), "somebody else holds it"

    @rule(number=locks_drawn, thread=threads_drawn)
    def release(self, number, thread):
        self.workers[thread].do(self.locks[number].release)
        key = number, self.owner(number, thread)
        self.holds[key] = max(0, self.holds[key] - 1)

    @rule(number=locks_drawn, thread=threads_drawn)
    def force(self, number, thread):
        lock = self.locks[number]
        self.workers[thread].do(lambda: lock.release(force=True))
        self.holds[number, self.owner(number, thread)] = 0

    @rule(number=locks_drawn, thread=threads_drawn)
    def close(self, number, thread):
        self.workers[thread].do(self.locks[number].close)
        self.holds[number, self.owner(number, thread)] = 0

    @precondition(lambda _: not PYPY)  # which frees what is dropped when its collector comes
    @rule(number=locks_drawn)
    def drop(self, number):
        self.locks[number] = None
        for key in [key for key in self.holds if key[0] == number]:
            self.holds[key] = 0
        self.locks[number] = self.make(number)

    @invariant()
    def the_counts_are_right(self):
        for number, lock in enumerate(getattr(self, "locks", [])):
            for thread, worker in enumerate(self.workers):
                seen = worker.do(lambda lock=lock: (lock.lock_counter, lock.is_locked))
                count = self.holds[number, self.owner(number, thread)]
                assert seen == (count, count > 0)

    @invariant()
    def a_stranger_can_acquire_what_nobody_holds_and_nothing_else(self):
        for which, path in enumerate(getattr(self, "paths", [])):
            held_by = self.holders_of(which)
            assert is_free(path) == (not held_by)
            assert is_free(path, shared=True) == all(MAKES[number][1].get("shared") for number, _ in held_by)


TestOwnership = Ownership.TestCase
TestOwnership.settings = settings(
    max_examples=75,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
