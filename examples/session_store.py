"""A session store with a write queue: requests read and write memory, and one thread brings it to the disk.

For servers with several processes that keep a small document for each user. Try it:

    python examples/session_store.py [new directory]
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from holdfast import DocumentStore, atomic_write

# -- The part to copy -------------------------------------------------------------------------------------------------


class Sessions:
    """What is known of users: their carts, which must not be lost, and their last visits, which are written often.

    What still waits to be written when the process ends is written then; close() also raises what goes wrong.
    """

    def __init__(self, directory: Path) -> None:
        self.carts = DocumentStore(directory / "carts", on_error=report, on_conflict=both_carts)
        self.visits = DocumentStore(
            directory / "visits",
            on_error=report,
            on_conflict=lambda user, mine, theirs: max(mine, theirs),
            debounce=5.0,
        )
        self._one_cart = threading.Lock()

    def visit(self, user: str, moment: float) -> None:
        """Note that a user was here. That takes microseconds: many such notes become one write."""
        # Looked at first: a document that was never read is overwritten, whatever others have written there.
        self.visits[user] = max(moment, self.visits.get(user, 0.0))

    def add_to_cart(self, user: str, item: str) -> None:
        """Add an item to a cart. When this returns it is in the file, also if another process adds one meanwhile."""
        with self._one_cart:
            # With an empty queue, on_conflict cannot change the cart between the look at it and the assignment.
            self.carts.flush()
            self.carts[user] = [*self.carts.get(user, []), item]
            self.carts.flush()

    def cart(self, user: str) -> list[str]:
        """A cart, with what other processes have added."""
        self.carts.refresh()
        return list(self.carts.get(user, []))

    def close(self) -> None:
        """Write what is left, or say why not."""
        self.carts.close()
        self.visits.close()


def report(key: str, error: Exception) -> None:
    """Tell the operator what cannot be written now. It will be tried again."""
    print(f"session of {key}: {error}", file=sys.stderr)


def both_carts(key: str, mine: Any, theirs: Any) -> Any:
    """The cart when two processes have added to it: what is in either."""
    if DocumentStore.REMOVED in (mine, theirs):
        return DocumentStore.REMOVED
    return [*theirs, *(item for item in mine if item not in theirs)]


def move_branch(repository: Path, branch: str, commit: str, expect: str, timeout: float = 5.0) -> None:
    """Let a branch of a git repository name another commit, if it still names the one expected.

    While the block runs, git leaves the branch alone, and so does everybody else who does it like this; and while git
    is at it, this waits.
    """
    path = repository / ".git" / "refs" / "heads" / branch
    with atomic_write(path, newline="\n", lock="git", timeout=timeout) as file:
        found = path.read_text().strip()
        if found != expect:
            raise RuntimeError(f"the branch {branch} is at {found}, and not at {expect} as expected")
        file.write(commit + "\n")


# -- Trying it --------------------------------------------------------------------------------------------------------

SERVERS = 4
USERS = [f"user {number}" for number in range(5)]


def serve(directory: Path, server: int) -> None:
    """Serve requests of all users, and end without closing anything."""
    sessions = Sessions(directory)
    for moment in range(200):
        sessions.visit(USERS[moment % len(USERS)], moment + server / 10)
    for number in range(5):
        for user in USERS:
            sessions.add_to_cart(user, f"item {number} of server {server}")
    visits = f"200 visits became {sessions.visits.stats.pending} writes that still wait"
    print(f"  server {server}: {visits}; 25 items, {sessions.carts.stats.conflicts} merged with others'", flush=True)


def try_serving(directory: Path) -> bool:
    """Let several servers serve the same users. Returns whether each item and each last visit is there."""
    processes = multiprocessing.get_context("spawn")
    servers = [processes.Process(target=serve, args=(directory, server)) for server in range(SERVERS)]
    for process in servers:
        process.start()
    for process in servers:
        process.join()
    sessions = Sessions(directory)
    items = {f"item {number} of server {server}" for number in range(5) for server in range(SERVERS)}
    carts = [sessions.cart(user) for user in USERS]
    visits = [sessions.visits[user] for user in USERS]
    print(f"They have ended. On the disk: {sum(map(len, carts))} items of {SERVERS * 25}, last visits {visits}")
    sessions.close()
    once = all(set(cart) == items and len(cart) == len(items) for cart in carts)
    return once and visits == [moment + (SERVERS - 1) / 10 for moment in range(195, 200)]


def try_git(repository: Path) -> bool:
    """Move a branch together with git. Returns whether both see what the other does."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=repository, env=settings, capture_output=True, text=True, check=False
        )
        return (done.stdout or done.stderr).strip()

    # Without the settings of a git that runs this, perhaps as a hook, for a repository of its own.
    settings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for who in "AUTHOR", "COMMITTER":
        settings |= {f"GIT_{who}_NAME": "Jo", f"GIT_{who}_EMAIL": "jo@example.org"}
    settings["GIT_DEFAULT_REF_FORMAT"] = "files"
    repository.mkdir()
    git("init", ".")
    old, new = (git("commit-tree", "-m", message, git("write-tree")) for message in ("old", "new"))
    git("update-ref", "refs/heads/sessions", old)
    move_branch(repository, "sessions", new, expect=old)
    moved = git("rev-parse", "sessions") == new
    print(f"\nThe branch was moved. Does git say that it is at the new commit? {moved}")
    with atomic_write(repository / ".git/refs/heads/sessions", newline="\n", lock="git") as file:
        file.write(old + "\n")
        print(f"While it is being moved:\n  {git('update-ref', 'refs/heads/sessions', new).splitlines()[0]}")
    return moved and git("rev-parse", "sessions") == old


def main(directory: Path) -> None:
    """Try all of it, and check what is on the disk then."""
    if not try_serving(directory):
        raise SystemExit("this must not happen: something was lost")
    if shutil.which("git") and not try_git(directory / "repository"):
        raise SystemExit("this must not happen: git and this program do not wait for each other")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        main(Path(sys.argv[1] if sys.argv[1:] else temporary))
