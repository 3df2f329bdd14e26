"""A task tracker that many agents use at once: readers together, writers alone, and no deadlock over two files.

For programs with several data files of their own format, each with a lock file beside it. Try it:

    python examples/task_tracker.py [directory]

HOLDFAST_TIMEOUT says how many seconds an agent waits for the others: 10, if it is not set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias

from holdfast import FileLock, LockSet, Timeout, lock_all, write_text

Tasks: TypeAlias = dict[str, Any]  # by number; JSON has texts for keys

# -- The part to copy -------------------------------------------------------------------------------------------------


class Tracker:
    """Open tasks in one file, finished ones in another. A task is in exactly one of them."""

    def __init__(self, directory: Path, timeout: float | None = None) -> None:
        self.directory = directory
        self.timeout = float(os.environ.get("HOLDFAST_TIMEOUT", "10")) if timeout is None else timeout

    def locked(self, *, read: tuple[str, ...] = (), write: tuple[str, ...] = ()) -> LockSet:
        """Lock files together, each for reading or for writing, all or none. Agents never wait in a circle.

        The locks are on files of their own, because the data files are replaced whenever they are written.
        """
        locks = [FileLock(self.directory / f"{name}.lock", shared=True) for name in read]
        locks += [FileLock(self.directory / f"{name}.lock") for name in write]
        return lock_all(*locks, timeout=self.timeout)

    def create(self, title: str) -> str:
        """Add a task, and return its number."""
        with self.locked(read=("done",), write=("open",)):  # the number must be new in both
            tasks = self.read("open")
            number = str(1 + max(map(int, {**tasks, **self.read("done")}), default=0))
            self.write("open", {**tasks, number: {"title": title}})
            return number

    def finish(self, by: str) -> str | None:
        """Finish the oldest open task, and return its number."""
        with self.locked(write=("done", "open")):
            tasks, done = self.settled()
            if not tasks:
                return None
            number = min(tasks, key=int)
            done[number] = {**tasks.pop(number), "by": by}
            # In this order: an agent that is killed between the two leaves the task in both files, and not in none.
            self.write("done", done)
            self.write("open", tasks)
            return number

    def overview(self) -> tuple[Tasks, Tasks]:
        """Open and finished tasks, as they are at one moment. Others may read at the same time."""
        with self.locked(read=("open", "done")):
            return self.settled()

    def settled(self) -> tuple[Tasks, Tasks]:
        """Both files, as they would be if no agent had been killed while it finished a task."""
        done = self.read("done")
        return {number: task for number, task in self.read("open").items() if number not in done}, done

    def read(self, name: str) -> Tasks:
        """A data file, which is locked."""
        try:
            tasks: Tasks = json.loads((self.directory / f"{name}.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return tasks

    def write(self, name: str, tasks: Tasks) -> None:
        """Replace a data file, which is locked: whole, so that an agent that is killed here changes nothing."""
        write_text(self.directory / f"{name}.json", json.dumps(tasks, indent=1))


# -- Trying it --------------------------------------------------------------------------------------------------------


def work(directory: Path, agent: int) -> None:
    """Create five tasks, finish three of anybody's, and look around all the while."""
    tracker = Tracker(directory)
    for number in range(5):
        tracker.create(f"task {number} of agent {agent}")
        if number % 2 == 0:
            tracker.finish(f"agent {agent}")
        tasks, done = tracker.overview()
        if sorted(map(int, {**tasks, **done})) != list(range(1, len(tasks) + len(done) + 1)):
            raise SystemExit(f"this must not happen: agent {agent} saw tasks {sorted(tasks)} open, {sorted(done)} done")


def get_stuck(directory: Path, stuck: Event) -> None:
    """Finish a task as finish() does, and hang at the worst moment: between the two writes."""
    tracker = Tracker(directory)
    with tracker.locked(write=("done", "open")):
        tasks, done = tracker.settled()
        number = min(tasks, key=int)
        tracker.write("done", {**done, number: {**tasks[number], "by": "the agent that was killed"}})
        stuck.set()
        time.sleep(600)


def kill_an_agent(directory: Path) -> None:
    """Let an agent hang while it holds the locks, see what another one is told about that, and kill it."""
    processes = multiprocessing.get_context("spawn")
    stuck = processes.Event()
    agent = processes.Process(target=get_stuck, args=(directory, stuck), daemon=True)
    agent.start()
    stuck.wait(60)
    try:
        Tracker(directory, timeout=0.2).overview()
    except Timeout as error:
        print(f"\nAn agent hangs, and another one reads:\n  {error}\n")
    agent.kill()
    agent.join()


def main(directory: Path) -> None:
    """Let agents work at once, kill one of them, and count the tasks."""
    tracker = Tracker(directory)
    before = sum(map(len, tracker.overview()))
    with ProcessPoolExecutor(8, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(work, [directory] * 8, range(8)))
    tasks, done = tracker.overview()
    print(f"8 agents created 5 tasks each and finished 3: {len(tasks)} are open, {len(done)} done")

    kill_an_agent(directory)
    after, done_after = tracker.overview()
    print(f"It is killed, which frees the locks: {len(after)} are open, {len(done_after)} done, none in between")

    if len(tasks) + len(done) != before + 40 or len(after) != len(tasks) - 1 or len(done_after) != len(done) + 1:
        raise SystemExit("this must not happen: tasks were lost, or are there twice")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        main(Path(sys.argv[1] if sys.argv[1:] else temporary))
