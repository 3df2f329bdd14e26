"""Everything that can be in the way of our files, at every path that we open or make, put there by another user.

As root, `make test-hostile` runs this. A case is a forked child that becomes the user who does the work. Whatever is
in its way, nothing outside the folder may change, nothing may hang, and an error must be one that says so.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import evidence

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0,
        reason="needs root on Linux, to be several users and to make devices",
    ),
]

VICTIM, ATTACKER = 54321, 54322  # nobody has these ids
RACE = 60 if evidence.FULL else 4  # seconds
PATIENCE = 60 + RACE  # seconds after which a case hangs


def lock(folder: Path) -> None:
    from holdfast import FileLock

    with FileLock(folder / "a.lock", timeout=1):
        pass


def shared_lock(folder: Path) -> None:
    from holdfast import ReadWriteLock

    with ReadWriteLock(folder / "a.lock", timeout=1).read_lock():
        pass


def soft_lock(folder: Path) -> None:
    from holdfast import SoftFileLock

    lock = SoftFileLock(folder / "a.lock", timeout=0.1)
    with lock:
        pass


def break_soft_lock(folder: Path) -> None:
    from holdfast import SoftFileLock

    SoftFileLock(folder / "a.lock").break_lock()


def append(folder: Path) -> None:
    from holdfast import JsonlFile

    log = JsonlFile(folder / "a.jsonl", timeout=1)
    log.append({"a": 1})
    log.close()


def rotate(folder: Path) -> None:
    from holdfast import JsonlFile

    log = JsonlFile(folder / "a.jsonl", timeout=1, backups=1)
    log.append({"a": 1})
    log.rotate()
    log.append({"a": 2})
    log.rotate()


def compress(folder: Path) -> None:
    from holdfast import JsonlFile

    log = JsonlFile(folder / "a.jsonl", timeout=1, compress=True)
    log.append({"a": 1})
    log.rotate()


def compress_again(folder: Path) -> None:
    with suppress(OSError), open(folder / "a.00000001.jsonl", "xb") as file:
        file.write(b'{"a": 0}\n')
    compress(folder)


def read(folder: Path) -> None:
    from holdfast import JsonlFile

    list(JsonlFile(folder / "a.jsonl").records(errors="skip"))


def verify(folder: Path) -> None:
    from holdfast import JsonlFile

    JsonlFile(folder / "a.jsonl", timeout=1).verify()


def repair(folder: Path) -> None:
    from holdfast import JsonlFile

    with suppress(OSError), open(folder / "a.jsonl", "xb") as file:
        file.write(b'{"a": 1}\ndamaged\n{"a": 2}\n')
    JsonlFile(folder / "a.jsonl", timeout=1).repair()


def replace(folder: Path) -> None:
    from holdfast import atomic_write

    atomic_write(folder / "a.json", dangling=True).write("{}")


def replace_locked(folder: Path) -> None:
    from holdfast import atomic_write

    atomic_write(folder / "a.json", lock=True, timeout=0.1).write("{}")


def replace_as_git(folder: Path) -> None:
    from holdfast import atomic_write

    atomic_write(folder / "a.json", lock="git", timeout=0.1).write("{}")


def save(folder: Path) -> None:
    from holdfast import StateFile

    state = StateFile(folder / "a.json", history=True, timeout=1)
    state.save({"a": 1})
    state.load()


def edit(folder: Path) -> None:
    from holdfast import StateFile

    with StateFile(folder / "a.json", history=True, timeout=1).edit() as data:
        data["a"] = 2


def history(folder: Path) -> None:
    from holdfast import StateFile

    state = StateFile(folder / "a.json", history=True, timeout=1)
    state.history()
    state.prune_history(0)
    with suppress(LookupError):
        state.at(1)


def document(folder: Path) -> None:
    from holdfast import DocumentStore

    store = DocumentStore(folder)
    store.get("a")
    store["a"] = {"b": 1}
    store["A" * 300] = {"b": 2}
    store.flush(timeout=1)
    [*store.items()]
    del store["a"]
    store.close(timeout=1)


LONG = "~long-"  # how the names of files for long keys begin

# What is done, and the paths that it opens or makes. A path ending in * is that of the file which has such a name.
WORK: list[tuple[Callable[[Path], None], list[str]]] = [
    (lock, ["a.lock"]),
    (shared_lock, ["a.lock"]),
    (soft_lock, ["a.lock"]),
    (break_soft_lock, ["a.lock"]),
    (append, ["a.jsonl"]),
    (rotate, ["a.jsonl", "a.00000001.jsonl", "a.00000002.jsonl", "a.00000001.jsonl.gz"]),
    (compress, ["a.jsonl", "a.00000001.jsonl", "a.00000001.jsonl.gz", "a.00000002.jsonl.gz"]),
    (compress_again, ["a.00000001.jsonl.gz", "a.00000002.jsonl.gz"]),
    (read, ["a.jsonl", "a.00000001.jsonl", "a.00000001.jsonl.gz"]),
    (verify, ["a.jsonl", "a.00000001.jsonl", "a.00000001.jsonl.gz"]),
    (repair, ["a.jsonl", "a.00000001.jsonl", "a.00000001.jsonl.gz", "a.jsonl.damaged", "a.00000001.jsonl.damaged"]),
    (replace, ["a.json"]),
    (replace_locked, ["a.json", "a.json.lock"]),
    (replace_as_git, ["a.json", "a.json.lock"]),
    (save, ["a.json", "a.json.lock", "a.json.history.jsonl"]),
    (edit, ["a.json", "a.json.lock", "a.json.history.jsonl"]),
    (history, ["a.json", "a.json.lock", "a.json.history.jsonl"]),
    (document, ["a.json", ".lock", LONG + "*", LONG + "*~key"]),
]

BY_ITS_NAME = {(work.__name__, "a.jsonl") for work in (append, rotate, compress, repair)}
"""Where the file is what was asked for: a second name of a file is that file, as for every program."""


class Outside:
    """What has nothing to do with the folder, and must stay as it is. It is the victim's, and he may write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        os.chown(folder, VICTIM, VICTIM)
        self.file = folder / "precious"
        self.file.write_bytes(b'{"precious": 1}\nwords\n{"precious": 2}\nlast words\n')
        self.file.chmod(0o640)
        os.chown(self.file, VICTIM, VICTIM)
        os.utime(self.file, (1e9, 1e9))
        self.before = self.look()

    def look(self) -> dict[str, Any]:
        found = {}
        for path in sorted(self.folder.iterdir()):
            status = path.lstat()
            found[path.name] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, path.read_bytes())
        return found


def plant_link(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.file)


def plant_dangling_link(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "new")


def plant_link_to_itself(path: Path, outside: Outside) -> None:
    path.symlink_to(path.name)


def plant_link_to_directory(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder)


def plant_link_to_endless_device(path: Path, outside: Outside) -> None:
    path.symlink_to("/dev/zero")


def plant_directory(path: Path, outside: Outside) -> None:
    path.mkdir()


def plant_fifo(path: Path, outside: Outside) -> None:
    os.mkfifo(path)
    path.chmod(0o666)


def plant_socket(path: Path, outside: Outside) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # addresses are short
        server.bind(path.name)
        os.chdir(here)
    path.chmod(0o666)


def plant_null(path: Path, outside: Outside) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    path.chmod(0o666)


def plant_zero(path: Path, outside: Outside) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    path.chmod(0o666)


def plant_hard_link(path: Path, outside: Outside) -> None:
    os.link(outside.file, path)


def plant_file(path: Path, outside: Outside) -> None:
    path.write_bytes(b"\0" * 100)
    path.chmod(0o666)


PLANTS = [
    plant_link,
    plant_dangling_link,
    plant_link_to_itself,
    plant_link_to_directory,
    plant_link_to_endless_device,
    plant_directory,
    plant_fifo,
    plant_socket,
    plant_null,
    plant_zero,
    plant_hard_link,
    plant_file,
]


def start_as(user: int, work: Callable[[], object]) -> int:
    """Do something in a child that is this user, and has a minute for it. Whatever it raises never reaches pytest."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            work()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return pid


def as_victim(work: Callable[[], object], note: Path) -> None:
    """Do something as the victim. What it raises is noted."""

    def note_errors() -> None:
        warnings.simplefilter("ignore")
        try:
            work()
        except (OSError, ValueError) as error:
            note.write_text(str(error))

    status = os.waitstatus_to_exitcode(os.waitpid(start_as(VICTIM, note_errors), 0)[1])
    assert status != -signal.SIGALRM, "it hung"
    assert status == 0, "it raised what is not documented; see above"


def name_of_long_key(name: str) -> str:
    from holdfast._keys import companion_of, name_of

    name_of_file = name_of("A" * 300, ".json")
    return companion_of(name_of_file) if name.endswith("~key") else name_of_file


CASES = [
    pytest.param(work, name, plant, id=f"{work.__name__}-{name}-{plant.__name__.removeprefix('plant_')}")
    for work, names in WORK
    for name in names
    for plant in PLANTS
]


@pytest.fixture(scope="module", autouse=True)
def everything_imported(tmp_path_factory):
    """The victim may not be allowed to read Python's own files, so whatever is needed is loaded before."""
    for work, _ in WORK:
        work(tmp_path_factory.mktemp("imports"))


@pytest.fixture
def outside(tmp_path):
    """What has nothing to do with the folder `shared` beside it."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    (tmp_path / "shared").mkdir()
    return Outside(tmp_path / "outside")


@pytest.mark.parametrize("mode", [0o1777, 0o777], ids=["sticky", "open to all"])
@pytest.mark.parametrize(("work", "name", "plant"), CASES)
def test_what_is_in_the_way_leads_nowhere(tmp_path, outside, mode, work, name, plant):
    folder = tmp_path / "shared"
    folder.chmod(mode)
    note = tmp_path / "note"
    note.touch()
    os.chown(note, VICTIM, VICTIM)
    path = folder / (name_of_long_key(name) if name.startswith(LONG) else name)
    if name.endswith(".history.jsonl"):
        save(folder)  # a state that has its history, which the attacker makes away with
        for made in folder.iterdir():
            os.chown(made, VICTIM, VICTIM)
        path.unlink()
    if plant is plant_hard_link and (work.__name__, name) in BY_ITS_NAME:
        pytest.skip("a second name of a file is that file; fs.protected_hardlinks keeps others from giving it one")
    if mode == 0o777 and plant is plant_dangling_link and work is replace:
        pytest.skip("who is told dangling=True creates what a link names, but in a directory for all")
    if mode == 0o777 and plant in (plant_link, plant_dangling_link) and name == "a.json" and work is not document:
        pytest.skip("a link at the path of a state or file is followed: whoever may replace it there may do so anyway")
    plant(path, outside)
    os.chown(path, ATTACKER if plant is not plant_hard_link else VICTIM, -1, follow_symlinks=False)
    outside.before = outside.look()
    as_victim(lambda: work(folder), note)
    assert outside.look() == outside.before
    said = note.read_text()
    assert not said or str(tmp_path) in said or "/dev/zero" in said, f"the error names no path: {said}"


# ---------------------------------------------------------------------------------------------------------------------
# As fast as they can


def plant_all_the_time(folder: Path, outside: Outside, planted: memoryview) -> None:
    """Put links at names that can be foreseen, and at those of temporary files as they are seen, and take them away."""
    names = sorted({name for _, names in WORK for name in names if "*" not in name})
    while True:
        some = [*random.sample(names, 2), *os.listdir(folder)]
        for path in (folder / name for name in some):
            with suppress(OSError):
                random.choice((plant_link, plant_dangling_link, plant_fifo))(path, outside)
                planted[0] += 1
        for path in (folder / name for name in some):
            with suppress(OSError):  # not ours: the directory is sticky
                path.unlink()


def work_all_the_time(folder: Path) -> None:
    """Everything that the victim can do. Errors tell of what is in the way, and go away with it."""
    done = dict.fromkeys((work.__name__ for work, _ in WORK), 0)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < RACE or (passed < PATIENCE - 10 and not all(done.values())):
        for work, _ in random.sample(WORK, len(WORK)):  # a FileLock's file is in a SoftFileLock's way
            with suppress(OSError, ValueError):
                work(folder)
                done[work.__name__] += 1
        for path in folder.iterdir():
            with suppress(OSError):
                path.unlink()
    print(f"\nunder attack, each was done so often: {done}", file=sys.stderr)
    assert all(done.values()), "the attacker is so fast that something was never done"


def test_whoever_plants_links_all_the_time_reaches_nothing(tmp_path, outside):
    folder = tmp_path / "shared"
    folder.chmod(0o1777)
    planted = memoryview(mmap.mmap(-1, 8)).cast("q")
    attacker = start_as(ATTACKER, lambda: plant_all_the_time(folder, outside, planted))
    try:
        as_victim(lambda: work_all_the_time(folder), tmp_path / "note")
    finally:
        os.kill(attacker, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(attacker, 0)[1])
    assert status == -signal.SIGKILL, "the attacker ended by itself; see above"
    assert planted[0], "nothing was planted"
    assert outside.look() == outside.before
