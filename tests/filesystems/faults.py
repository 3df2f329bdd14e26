"""Check what holdfast does on a file system that is full, that cannot be written to, or that fails as it is told.

    faults.py full|unwritable|faulty NAME HERE

NAME is that of the file system in places.py. A call has its whole effect or raises, and says where and why; what was
acknowledged stays, nothing else does; and when the trouble is over everything works again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from places import PLACES
from processes import Process, shared_numbers
from scenes import Behaviours, Scene

import holdfast
from holdfast import DocumentStore, FileLock, JsonlFile, ReadWriteLock, SoftFileLock, StateFile, write_text

full, unwritable, faulty = Behaviours(), Behaviours(), Behaviours()

LARGE = "x" * 300_000


@contextmanager
def trouble(scene: Scene, faults: str) -> Iterator[None]:
    """Let the file system of faulty.c fail in these ways."""
    mount = os.path.dirname(scene.here)
    os.setxattr(mount, "user.faulty", faults.encode())
    try:
        yield
    finally:
        os.setxattr(mount, "user.faulty", b"")


@contextmanager
def no_space(scene: Scene) -> Iterator[None]:
    """Let the disk be full: there is room for a few bytes at most."""
    if scene.place.kind == "fuse.faulty":
        with trouble(scene, "space=20"):
            yield
        return
    ballast = os.path.join(os.path.dirname(scene.here), "ballast")
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        os.unlink(ballast)


def raised(numbers: set[int], path: str, action: Callable[[], object]) -> OSError:
    """The OSError that an action ends with: one of these, and about this path."""
    caught = None
    try:
        action()
    except OSError as error:
        caught = error
    assert caught is not None, "it did not fail"
    assert caught.errno in numbers, repr(caught)
    assert path in str(caught), f"it does not name the file: {caught!r}"
    return caught


def text_of(path: str) -> str:
    """What is in a file."""
    return Path(path).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# A full disk

NO_SPACE = {errno.ENOSPC}


@full()
def an_append_that_does_not_fit_leaves_nothing(scene: Scene) -> None:
    log = JsonlFile(scene.path("log.jsonl"))
    log.append("first")
    with no_space(scene):
        raised(NO_SPACE, log.path, lambda: log.append(LARGE))
        raised(NO_SPACE, log.path, lambda: log.extend([1, LARGE, 2]))
        assert text_of(log.path) == '"first"\n'
    log.append("second")
    assert [*log] == ["first", "second"]
    assert log.verify().ok


@full()
def writers_on_a_disk_that_fills_up_and_is_freed_lose_nothing_that_was_acknowledged(scene: Scene) -> None:
    acknowledged, over = shared_numbers(2), shared_numbers(1)

    def append(_: object, writer: int) -> int:
        log, refused = JsonlFile(scene.path("log.jsonl")), 0
        while not over[0] or not refused:
            try:
                if acknowledged[writer] % 20 == 19:
                    log.rotate()  # for which the directory may need another block
                log.append([writer, acknowledged[writer], LARGE[: 50_000 if refused % 2 else 5_000]])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                refused += 1
            else:
                acknowledged[writer] += 1
        return refused

    def rotate_away() -> None:
        for name in os.listdir(scene.here):
            if name != "log.jsonl":
                seen.extend(json.loads(line)[:2] for line in text_of(scene.path(name)).splitlines())
                os.unlink(scene.path(name))

    seen: list[list[int]] = []
    with Process(append, 0) as one, Process(append, 1) as two:
        for turn in range(6):
            before = acknowledged[0] + acknowledged[1]
            while acknowledged[0] + acknowledged[1] < before + 10:
                rotate_away()
            with no_space(scene):
                over[0] = turn == 5
                if over[0]:
                    assert min(one.result(), two.result()) > 0
    rotate_away()
    seen.extend(json.loads(line)[:2] for line in text_of(scene.path("log.jsonl")).splitlines())
    assert sorted(seen) == [[writer, number] for writer in (0, 1) for number in range(acknowledged[writer])]


@full()
def a_file_that_cannot_be_written_stays_as_it_was(scene: Scene) -> None:
    path = scene.path("file")
    write_text(path, "old")
    with no_space(scene):
        raised(NO_SPACE, path, lambda: write_text(path, LARGE))
        raised(NO_SPACE, path, lambda: write_text(path, LARGE, lock="git"))
        assert (text_of(path), os.listdir(scene.here)) == ("old", ["file"])
    write_text(path, "new")
    assert text_of(path) == "new"


@full()
def a_state_that_cannot_be_saved_stays_as_it_was(scene: Scene) -> None:
    state = StateFile(scene.path("state.json"), history=True)
    state.save({"n": 1})
    with no_space(scene):
        raised(NO_SPACE, state.path, lambda: state.save({"n": LARGE}))
        raised(NO_SPACE, state.path, lambda: state.update(lambda data: {**data, "more": LARGE}))
        assert StateFile(state.path).load().data == {"n": 1}
    assert state.update(lambda data: {"n": data["n"] + 1}) is not None
    assert [state.at(revision).data for revision in (1, 2)] == [{"n": 1}, {"n": 2}]


@full()
def a_document_that_cannot_be_written_is_written_when_there_is_room(scene: Scene) -> None:
    with DocumentStore(scene.path("documents")) as store:
        store["small"] = 1
        store.flush()
        with no_space(scene):
            store["large"] = LARGE
            raised(NO_SPACE, scene.path("documents"), store.flush)
            assert store["large"] == LARGE
        store.flush()
    assert dict(DocumentStore(scene.path("documents"))) == {"small": 1, "large": LARGE}


# ---------------------------------------------------------------------------------------------------------------------
# Where nothing may be written

REFUSED = {errno.EROFS, errno.EACCES}
NOBODY = 65534


def prepared(scene: Scene) -> None:
    """What is there before the directory cannot be written to any more."""
    write_text(scene.path("the.lock"), "")
    write_text(scene.path("file"), "old")
    JsonlFile(scene.path("log.jsonl")).append("first")
    StateFile(scene.path("state.json"), history=True).save({"n": 1})
    with DocumentStore(scene.path("documents")) as store:
        store["key"] = 1


def on_a_read_only_mount(scene: Scene, action: Callable[[], object]) -> None:
    """Do something where the directory is mounted for reading only."""
    words = ("--bind", scene.here, scene.here), ("-o", "remount,bind,ro", scene.here)
    for each in words:
        subprocess.run(["mount", *each], check=True)
    try:
        with Process(lambda _: action() and None) as process:
            process.result()
    finally:
        subprocess.run(["umount", "--lazy", scene.here], check=True)


def as_nobody(scene: Scene, action: Callable[[], object]) -> None:
    """Do something as a user who may read, and not write."""

    def act(_: object) -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        action()

    for folder in Path(scene.here).parents[:2]:
        folder.chmod(0o755)
    for module in iter_modules(holdfast.__path__):  # which he may not be allowed to read
        if module.name != "__main__":
            import_module(f"holdfast.{module.name}")
    with Process(act) as process:
        process.result()


def use_what_cannot_be_written(scene: Scene) -> None:
    """Locks that are there can be had, and everything read; the rest is refused, and nothing changes."""
    before = sorted(os.listdir(scene.here))
    with FileLock(scene.path("the.lock"), timeout=0), Process(lambda _: is_free(scene.path("the.lock"))) as other:
        assert not other.result(), "two held it at once"
    with ReadWriteLock(scene.path("the.lock")).read_lock():
        pass
    for lock in (FileLock(scene.path("new.lock")), SoftFileLock(scene.path("soft.lock"))):
        raised(REFUSED, lock.lock_file, lock.acquire)
    log, state = JsonlFile(scene.path("log.jsonl")), StateFile(scene.path("state.json"), history=True)
    raised(REFUSED, log.path, lambda: log.append("second"))
    raised(REFUSED, log.path, log.rotate)
    assert [*log] == ["first"]
    assert log.verify().ok
    raised(REFUSED, scene.path("file"), lambda: write_text(scene.path("file"), "new"))
    raised(REFUSED, state.path, lambda: state.save({"n": 2}))
    assert (state.load().data, state.at(1).data) == ({"n": 1}, {"n": 1})
    store = DocumentStore(scene.path("documents"), timeout=1)
    assert store["key"] == 1
    store["key"] = 2
    raised(REFUSED, scene.path("documents"), store.flush)
    assert DocumentStore(scene.path("documents"))["key"] == 1
    assert sorted(os.listdir(scene.here)) == before


def is_free(path: str) -> bool:
    """Whether the lock can be had now."""
    try:
        FileLock(path, timeout=0).acquire().lock.release()
    except TimeoutError:
        return False
    return True


@unwritable()
def a_read_only_mount_can_be_used_as_far_as_it_goes(scene: Scene) -> None:
    prepared(scene)
    on_a_read_only_mount(scene, lambda: use_what_cannot_be_written(scene))


@unwritable()
def a_directory_of_somebody_else_can_be_used_as_far_as_it_goes(scene: Scene) -> None:
    prepared(scene)
    as_nobody(scene, lambda: use_what_cannot_be_written(scene))


# ---------------------------------------------------------------------------------------------------------------------
# What fails as it is told


def works(scene: Scene) -> None:
    """Everything can be used, and nothing is left held or half done."""
    for kind in ("flock", "ofd"):
        with FileLock(scene.path("the.lock"), kind=kind, timeout=0):
            pass
    with SoftFileLock(scene.path("soft.lock"), timeout=0):
        pass
    JsonlFile(scene.path("log.jsonl"), timeout=0).append("works")
    StateFile(scene.path("state.json"), timeout=0).update(lambda _: {"works": True})
    with DocumentStore(scene.path("documents"), timeout=0) as store:
        store["works"] = True
    write_text(scene.path("file"), "works", lock=True, timeout=0)


@faulty()
def a_lock_that_fails_is_an_error_and_nothing_is_done_without_it(scene: Scene) -> None:
    log, state = JsonlFile(scene.path("log.jsonl")), StateFile(scene.path("state.json"))
    for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EIO"):
        numbers = {errno.EIO if name == "EIO" else errno.ENOTSUP}
        with trouble(scene, f"flock={name} lock={name}"):
            for kind in ("flock", "ofd"):
                lock = FileLock(scene.path("the.lock"), kind=kind)
                raised(numbers, lock.lock_file, lock.acquire)
                assert not lock.is_locked
            raised(numbers, log.path, lambda: log.append("first"))
            raised(numbers, log.path, log.rotate)
            raised(numbers, state.path, lambda: state.save({"n": 1}))
            store = DocumentStore(scene.path("documents"))
            store["key"] = 1
            raised(numbers, scene.path("documents"), store.flush)
            assert not state.load().data
            assert os.path.getsize(log.path) == 0
        store.close()
        works(scene)
        os.unlink(state.path)
        os.truncate(log.path, 0)


@faulty()
def an_append_that_fails_in_the_middle_leaves_nothing(scene: Scene) -> None:
    log = JsonlFile(scene.path("log.jsonl"))
    log.append("first")
    for faults, number in (("write=EIO", errno.EIO), ("space=100", errno.ENOSPC), ("write=EDQUOT", errno.EDQUOT)):
        with trouble(scene, faults):
            raised({number}, log.path, lambda: log.append("y" * 1000))
        assert text_of(log.path) == '"first"\n'
    works(scene)


@faulty()
def a_piece_that_cannot_be_taken_back_damages_no_other_record(scene: Scene) -> None:
    log = JsonlFile(scene.path("log.jsonl"))
    log.append("first")
    with trouble(scene, "space=100 truncate=EIO"):
        raised({errno.ENOSPC}, log.path, lambda: log.append("y" * 1000))
    log.append("second")
    assert [*log.records(errors="skip")] == ["first", "second"]
    assert len(log.verify().damages) == 1
    log.repair()
    assert [*log] == ["first", "second"]
    works(scene)


@faulty()
def a_log_that_could_not_be_synced_says_so_for_good(scene: Scene) -> None:
    log = JsonlFile(scene.path("log.jsonl"), durable=True)
    log.append("first")
    with trouble(scene, "fsync=EIO"):
        raised({errno.EIO}, log.path, lambda: log.append("second"))
    raised({errno.EIO}, log.path, lambda: log.append("third"))
    assert [*log][:1] == ["first"]
    works(scene)


@faulty()
def what_could_not_be_synced_is_not_put_in_place(scene: Scene) -> None:
    path, state = scene.path("file"), StateFile(scene.path("state.json"))
    write_text(path, "old")
    state.save({"n": 1})
    for faults in ("fsync=EIO", "write=EIO", "rename=EIO"):
        with trouble(scene, faults):
            raised({errno.EIO}, path, lambda: write_text(path, "new"))
            raised({errno.EIO}, path, lambda: write_text(path, "new", lock="git"))
            raised({errno.EIO}, state.path, lambda: state.save({"n": 2}))
            soft = SoftFileLock(scene.path("soft.lock"))
            if faults != "rename=EIO":
                raised({errno.EIO}, soft.lock_file, soft.acquire)
        assert text_of(path) == "old"
        assert state.load().data == {"n": 1}
        assert not os.path.exists(soft.lock_file)
        assert not [name for name in os.listdir(scene.here) if name.startswith(".")]
    works(scene)


@faulty()
def what_is_in_place_and_may_not_survive_is_said(scene: Scene) -> None:
    path = scene.path("file")
    write_text(path, "old")
    with trouble(scene, "fsyncdir=EIO"):
        assert "power cut" in str(raised({errno.EIO}, path, lambda: write_text(path, "new")))
    assert text_of(path) == "new"
    works(scene)


@faulty()
def a_file_system_that_syncs_no_directories_is_used_as_it_is(scene: Scene) -> None:
    with trouble(scene, "fsyncdir=EINVAL"):
        works(scene)


@faulty()
def what_may_not_be_created_is_refused(scene: Scene) -> None:
    with trouble(scene, "create=EACCES"):
        lock, soft, log = (kind(scene.path(kind.__name__)) for kind in (FileLock, SoftFileLock, JsonlFile))
        raised({errno.EACCES}, lock.lock_file, lock.acquire)
        raised({errno.EACCES}, soft.lock_file, soft.acquire)
        raised({errno.EACCES}, log.path, lambda: log.append(1))
        raised({errno.EACCES}, scene.path("file"), lambda: write_text(scene.path("file"), "new"))
        assert os.listdir(scene.here) == []
    works(scene)


@faulty()
def a_soft_lock_whose_file_cannot_be_removed_stays_held(scene: Scene) -> None:
    lock = SoftFileLock(scene.path("soft.lock"))
    lock.acquire()
    with trouble(scene, "unlink=EACCES"):
        raised({errno.EACCES}, lock.lock_file, lock.release)
        assert lock.is_locked
    lock.release()
    works(scene)


@faulty()
def where_no_name_can_be_given_safely_what_needs_one_is_refused_and_nothing_is_lost(scene: Scene) -> None:
    log, new = JsonlFile(scene.path("log.jsonl")), scene.path("new")
    log.append("first")
    for faults in ("link=EPERM rename2=EINVAL symlink=EPERM", "link=EOPNOTSUPP rename2=ENOSYS"):
        with trouble(scene, faults):
            soft = SoftFileLock(scene.path("soft.lock"))
            raised({errno.ENOTSUP}, soft.lock_file, soft.acquire)
            raised({errno.EPERM, errno.ENOTSUP}, new, lambda: write_text(new, "new", overwrite=False))
            log.rotate()
            log.append("more")
            write_text(scene.path("file"), "old")
        left = [name for name in os.listdir(scene.here) if not re.fullmatch(r"log\.(\d+\.)?jsonl|file", name)]
        assert not left, left
    assert [*log] == ["first", "more", "more"]


@faulty()
def holdfast_doctor_finds_what_fails(scene: Scene) -> None:
    for faults, expected in (
        ("flock=EIO lock=EIO", ["locks: flock", "locks: ofd", "locks: soft", "appending"]),
        ("fsync=EIO fsyncdir=EIO", ["locks: soft", "replacing files", "syncing files", "syncing directories"]),
        ("link=EPERM rename2=EINVAL", ["locks: soft"]),
    ):
        with trouble(scene, faults):
            words = [sys.executable, "-m", "holdfast", "doctor", scene.here, "--json"]
            result = subprocess.run(words, stdout=subprocess.PIPE, check=False, text=True)
        found = json.loads(result.stdout)
        broken = [trial["name"] for trial in found["trials"] if trial["promised"] and trial["holds"] is False]
        assert {*broken} - {"replacing files"} == {*expected} - {"replacing files"}, f"{faults}: {broken}"
        assert {*expected} <= {*broken}, f"{faults}: {broken}"
        assert (found["well"], result.returncode) == (False, 1)
        assert all(trial in found["advice"][0] for trial in expected)


def main() -> int:
    """Check what the command line names."""
    group, name, here, *_ = sys.argv[1:]
    return {"full": full, "unwritable": unwritable, "faulty": faulty}[group].run(name, PLACES[name], here)


if __name__ == "__main__":
    sys.exit(main())
