"""A project tool's state, in a YAML file that people edit too: no change is lost, each can be looked up and undone.

For tools that keep what they know of a project in a file in its directory, and are run several times at once. Try it:

    pip install holdfast[yaml]
    python examples/project_state.py [directory]
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias

from holdfast import Change, Snapshot, StateConflict, StateFile, Timeout, write_text

Data: TypeAlias = dict[str, Any]

STARTER = """\
# What the tool knows of this project. Edit it if you like: the tool notices, and keeps your comments.
revision: 0
phase: design  # then build, then done
tasks: []
"""

# -- The part to copy -------------------------------------------------------------------------------------------------


def open_project(directory: Path, timeout: float | None = None) -> StateFile[Data]:
    """The state of a project. It waits `timeout` seconds for others; if not given, HOLDFAST_TIMEOUT, or 10."""
    path = directory / "project.yaml"
    with suppress(FileExistsError):
        write_text(path, STARTER, overwrite=False)
    return StateFile(path, timeout=timeout, history=True)


def add_task(project: StateFile[Data], title: str) -> int:
    """Add a task, whatever others do meanwhile: this change makes sense in any state, so it may be made again."""

    def add(data: Data) -> None:
        data["tasks"].append({"title": title, "done": False})

    return project.update(add)


def set_phase(project: StateFile[Data], seen: Snapshot[Data], phase: str) -> str:
    """Set the phase, if the state is still the one that was `seen` by whoever decided so. Returns what to tell them.

    What a person has decided must not be done to a state that they never saw. So they are told what is new.
    """
    try:
        return f"saved as revision {project.save({**seen.data, 'phase': phase}, expect=seen)}"
    except StateConflict:
        now = project.load()
        news = [key for key in {**seen.data, **now.data} if seen.data.get(key) != now.data.get(key)]
        lines = [line for change in project.history(since=seen.revision) for line in described(change)]
        return "\n".join([f"not saved, because others changed {' and '.join(news)} meanwhile:", *lines])


def described(change: Change) -> Iterator[str]:
    """A change, for people: which revision, when, who and what."""
    who = "an editor" if change.pid is None else f"process {change.pid} on {change.host}"
    for what in change.changes or ["something"]:
        yield f"  {change.revision:3}  {change.time:%Y-%m-%d %H:%M:%S}  {who}  {what}"


def go_back(project: StateFile[Data], revision: int) -> int:
    """Make the state what it was. That is one more change, so it can be undone as well."""
    then = project.at(revision).data
    return project.update(lambda _: then)


# -- Trying it --------------------------------------------------------------------------------------------------------


def add_tasks(directory: Path, worker: int) -> None:
    """What each of the processes does."""
    project = open_project(directory, timeout=60)
    for number in range(5):
        add_task(project, f"task {number} of worker {worker}")


def keep_locked(directory: Path, begun: Event, enough: Event) -> None:
    """Begin to edit, and take long."""
    with open_project(directory).edit():
        begun.set()
        enough.wait()


def try_in_vain(directory: Path) -> str:
    """What a user reads who comes while somebody else keeps the state locked."""
    processes = multiprocessing.get_context("spawn")
    begun, enough = processes.Event(), processes.Event()
    slow = processes.Process(target=keep_locked, args=(directory, begun, enough), daemon=True)
    slow.start()
    begun.wait(60)
    try:
        return f"added as revision {add_task(open_project(directory, timeout=0.2), 'in vain')}"
    except Timeout as error:
        return str(error)
    finally:
        enough.set()
        slow.join()


def main(directory: Path) -> None:
    """Let processes and people change one state, and check that all of it is there."""
    project = open_project(directory)
    before = project.load()

    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(add_tasks, [directory] * 4, range(4)))
    seen = project.load()
    print(f"4 processes added 5 tasks each: {len(seen.data['tasks'])} tasks, at revision {seen.revision}")

    add_task(project, "what nobody has seen yet")
    print("\nA person decides on the phase, having seen that, while one more task is added:")
    print(set_phase(project, seen, "build"))
    print(f"and once they have seen the news: {set_phase(project, project.load(), 'build')}")
    print(f"\nAdding a task while somebody else keeps the state locked:\n  {try_in_vain(directory)}")

    file = Path(project.path)
    file.write_text(file.read_text("utf-8").replace("phase: build", "phase: done"), "utf-8")
    add_task(project, "after the edit")
    print("\nThe last three changes, one of them with an editor:")
    for change in project.history(limit=3):
        print(*described(change), sep="\n")

    final = go_back(project, seen.revision)
    text, state = file.read_text("utf-8"), project.load()
    print(f"\nRevision {final} is what revision {seen.revision} was. Comments are kept:\n  {text.splitlines()[0]}")
    print(f"{project.prune_history(keep_days=0)} changes removed from the log. The last one always stays.")

    lost = 20 - (len(seen.data["tasks"]) - len(before.data["tasks"]))
    if lost or state.data != seen.data or state.data != project.at(final).data or "# then build" not in text:
        raise SystemExit(f"this must not happen: {lost} tasks lost, and this is left:\n{text}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        main(Path(sys.argv[1] if sys.argv[1:] else temporary))
