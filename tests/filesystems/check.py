"""Check on a file system what holdfast promises, and what holdfast doctor says of it.

    check.py NAME HERE [THERE]...

NAME says what is expected, see places.py; HERE is a directory, and THERE the same directory reached another way: by
another mount, or as the server sees it. Each behaviour is a function whose name says what is so, and runs in a process
and a directory of its own. The last line counts. It needs nothing but Python and holdfast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))
from places import KINDS, PLACES
from processes import PATIENCE, Process, paused, shared_numbers, together, yield_to_others
from scenes import Behaviours, Scene

import kills
from holdfast import (
    DocumentConflict,
    DocumentStore,
    FileLock,
    JsonlFile,
    ReadWriteLock,
    SoftFileLock,
    StateConflict,
    StateFile,
    Timeout,
    atomic_write,
    holders,
    lock_all,
    write_text,
)

WRITERS = 3
ROUNDS = 40


behaviour = Behaviours()


# ---------------------------------------------------------------------------------------------------------------------
# Locks


def holding(pause: Callable[[], None], lock: FileLock | SoftFileLock) -> None:
    """Hold a lock during a pause."""
    with lock:
        pause()


def is_free(lock: FileLock | SoftFileLock) -> bool:
    """Whether a lock can be had now."""
    try:
        lock.acquire(blocking=False).lock.release()
    except Timeout:
        return False
    return True


def take_turns(locks: list[FileLock | SoftFileLock]) -> None:
    """Let each of several processes hold its lock again and again, and see in shared memory that it is alone then."""
    inside, turns = shared_numbers(1), shared_numbers(1)

    def enter(_: object, number: int) -> None:
        for _ in range(ROUNDS):
            with locks[number]:
                assert inside[0] == 0, "two were inside at once"
                inside[0] = number + 1
                before = turns[0]
                yield_to_others()
                turns[0] = before + 1
                assert inside[0] == number + 1, "two were inside at once"
                inside[0] = 0

    together(enter, *[(number,) for number in range(len(locks))])
    assert turns[0] == ROUNDS * len(locks)


@behaviour(kinds=KINDS)
def several_processes_never_hold_the_lock_at_once(scene: Scene) -> None:
    take_turns([scene.lock() for _ in range(WRITERS)])


@behaviour(kinds=KINDS)
def the_lock_of_a_killed_holder_is_free(scene: Scene) -> None:
    with paused(holding, scene.lock()) as holder:
        assert not is_free(scene.lock())
        holder.kill()
    with scene.lock():
        pass


@behaviour(kinds=KINDS)
def a_wait_ends_when_its_time_is_over(scene: Scene) -> None:
    def wait(_: object) -> None:
        try:
            scene.lock().acquire(timeout=0.3)
        except Timeout:
            return
        raise AssertionError("two held it at once")

    with paused(holding, scene.lock()), Process(wait) as waiter:
        waiter.result()


@behaviour(kinds=("flock", "ofd"))
def readers_share_the_lock_and_keep_a_writer_out(scene: Scene) -> None:
    with paused(holding, scene.lock(shared=True)):
        assert is_free(scene.lock(shared=True))
        assert not is_free(scene.lock())
    with paused(holding, scene.lock()):
        assert not is_free(scene.lock(shared=True))


@behaviour("flock")
def readers_are_never_beside_a_writer(scene: Scene) -> None:
    inside = shared_numbers(2 * WRITERS)

    def enter(_: object, number: int) -> None:
        lock = ReadWriteLock(scene.path("the.lock"), timeout=PATIENCE)
        for turn in range(ROUNDS):
            writing = turn % 4 == 0
            with lock.write_lock() if writing else lock.read_lock():
                inside[number] = 2 if writing else 1
                yield_to_others()
                others = [inside[other] for other in range(WRITERS) if other != number]
                assert not any(others) if writing else 2 not in others, "a writer was not alone"
                inside[number] = 0

    together(enter, *[(number,) for number in range(WRITERS)])


@behaviour(kinds=("flock", "ofd"))
def a_lock_file_that_was_replaced_is_locked_anew(scene: Scene) -> None:
    mine = scene.lock()
    with mine:
        pass  # and its file stays open
    os.replace(scene.path("the.lock"), scene.path("moved.lock"))
    with mine, Process(lambda _: is_free(scene.lock())) as other:
        assert not other.result()


@behaviour(kinds=KINDS)
def a_forked_child_does_not_hold_the_lock(scene: Scene) -> None:
    lock = scene.lock()
    with lock:
        with Process(lambda _: (lock.is_locked, is_free(lock))) as child:
            assert child.result() == [False, False]
        assert not is_free(scene.lock())


@behaviour(kinds=KINDS)
def several_locks_are_had_all_or_none(scene: Scene) -> None:
    names = ["a.lock", "b.lock", "c.lock"]
    with paused(holding, scene.lock(scene.path("b.lock"))):
        try:
            with lock_all(*[scene.lock(scene.path(name)) for name in names], timeout=0.2):
                raise AssertionError("two held it at once")
        except Timeout:
            pass
        assert is_free(scene.lock(scene.path("a.lock")))
        assert is_free(scene.lock(scene.path("c.lock")))


@behaviour("holders", kinds=("flock", "ofd"))
def the_kernel_shows_who_holds_the_lock(scene: Scene) -> None:
    with paused(holding, scene.lock()) as holder:
        assert [each.pid for each in holders(scene.path("the.lock"))] == [holder.pid]


@behaviour(kinds=("soft",))
def its_file_names_who_holds_the_lock(scene: Scene) -> None:
    with paused(holding, scene.lock()) as holder:
        assert [each.pid for each in holders(scene.path("the.lock"))] == [holder.pid]


@behaviour(kinds=("soft",))
def nothing_is_left_of_a_lock_that_was_released(scene: Scene) -> None:
    with scene.lock():
        pass
    assert os.listdir(scene.here) == []


@behaviour("another way", kinds=KINDS)
def it_keeps_out_whoever_comes_another_way_exactly_if_that_is_expected(scene: Scene) -> None:
    here, there = scene.both("the.lock")
    expected = scene.kind not in scene.place.apart
    for mine, others in ((here, there), (there, here)):
        with paused(holding, scene.lock(mine)):
            excluded = not is_free(scene.lock(others))
        assert excluded == expected, f"held {mine}: {others} was {'not ' * excluded}free"


@behaviour("another way", "together", kinds=KINDS)
def processes_that_come_two_ways_never_hold_it_at_once(scene: Scene) -> None:
    here, there = scene.both("the.lock")
    take_turns([scene.lock(path) for path in (here, there, here)])


def give_up(_: object, lock: FileLock | SoftFileLock) -> None:
    """Try to get a lock, and close its file."""
    assert not is_free(lock)
    lock.close()


@behaviour("another way", "together", kinds=KINDS)
def a_neighbour_that_gives_up_and_closes_the_file_leaves_the_holder_its_lock(scene: Scene) -> None:
    here, there = scene.both("the.lock")
    with paused(holding, scene.lock(here)):
        together(give_up, (scene.lock(here),))
        assert not is_free(scene.lock(there))


# ---------------------------------------------------------------------------------------------------------------------
# Logs


def append(_: object, path: str, writer: int, records: int, settings: dict[str, Any]) -> None:
    """Append records that say whose they are, and which, some of them three at once."""
    with JsonlFile(path, timeout=PATIENCE, **settings) as log:
        for number in range(0, records, 4):
            log.append([writer, number, "é" * (number * 37 % 3000)])
            log.extend([writer, number + more, ""] for more in (1, 2, 3))


def append_together(paths: list[str], records: int, **settings: Any) -> None:
    """Let several processes append at once."""
    together(append, *[(path, writer, records, settings) for writer, path in enumerate(paths)])


def judge(path: str, writers: int, records: int) -> None:
    """All records are there, whole, once, and in the order of each writer; found without the help of what is tested."""
    seen: list[list[int]] = [[] for _ in range(writers)]
    for line in kills.lines_of(path):
        writer, number, _text = json.loads(line)
        seen[writer].append(number)
    for writer, numbers in enumerate(seen):
        assert numbers == [*range(records)], f"of {records} records of writer {writer} there are {len(numbers)}"


@behaviour("flock")
def lines_of_several_processes_are_there_whole_once_and_in_order(scene: Scene) -> None:
    path = scene.path("log.jsonl")
    append_together([path] * WRITERS, 100)
    judge(path, WRITERS, 100)
    assert JsonlFile(path).verify().ok


@behaviour("flock", "names", "advisory")
def rotation_by_several_writers_loses_nothing(scene: Scene) -> None:
    path = scene.path("log.jsonl")
    append_together([path] * WRITERS, 100, max_bytes=40_000)
    assert len(os.listdir(scene.here)) > 2
    judge(path, WRITERS, 100)


@behaviour("flock", "names")
def rotated_files_can_be_compressed(scene: Scene) -> None:
    log = JsonlFile(scene.path("log.jsonl"), compress=True)
    for number in range(3):
        log.append(number)
        log.rotate()
    assert [*log] == [0, 1, 2]
    assert sum(name.endswith(".gz") for name in os.listdir(scene.here)) == 3


@behaviour("flock", "names", "advisory")
def a_reader_that_follows_gets_every_record_once(scene: Scene) -> None:
    path = scene.path("log.jsonl")

    def follow(_: object) -> list[int]:
        numbers: list[int] = []
        for _, number, _ in JsonlFile(path).follow(timeout=PATIENCE, poll_interval=0.01):
            numbers.append(number)
            if len(numbers) == 200:
                break
        return sorted(numbers)

    with Process(follow) as reader:
        append_together([path] * 2, 100, max_bytes=40_000)
        assert reader.result() == sorted([*range(100), *range(100)])


@behaviour("flock", "names", "advisory")
def killed_writers_lose_no_record_that_was_acknowledged(scene: Scene) -> None:
    acknowledged, _ = kills.kill_writers(scene.path("log.jsonl"), 12, max_bytes=200_000)
    kills.check(scene.path("log.jsonl"), acknowledged)


@behaviour("flock", "advisory", "open files")
def a_torn_line_is_ended_and_repaired(scene: Scene) -> None:
    path = Path(scene.path("log.jsonl"))
    log = JsonlFile(path)
    log.append("first")
    with path.open("ab") as file:
        file.write(b'"torn')
    log.append("second")
    assert len(log.verify().damages) == 1
    log.repair()
    assert [*log] == ["first", "second"]


@behaviour("flock")
def a_durable_append_is_there(scene: Scene) -> None:
    with JsonlFile(scene.path("log.jsonl"), durable=True) as log:
        for number in range(3):
            log.append(number)
    assert kills.lines_of(scene.path("log.jsonl")) == [b"0", b"1", b"2"]


@behaviour("flock", "common logs", "another way", "together")
def lines_of_processes_that_come_two_ways_are_there_whole_and_once(scene: Scene) -> None:
    here, there = scene.both("log.jsonl")
    append_together([here, there, here], 100)
    judge(here, 3, 100)


@behaviour("flock", "names", "fresh names", "another way", "together")
def rotation_by_those_who_come_two_ways_loses_nothing(scene: Scene) -> None:
    here, there = scene.both("log.jsonl")
    append_together([here, there], 100, max_bytes=20_000, compress=True)
    assert len(os.listdir(scene.here)) > 2
    judge(there, 2, 100)
    write_text(scene.path("file"), "")  # removes what those leave who end while they compress


# ---------------------------------------------------------------------------------------------------------------------
# Replacing


@behaviour()
def a_file_that_is_replaced_is_seen_old_or_new(scene: Scene) -> None:
    path, stays = scene.path("file"), "replacing" not in scene.place.lacks
    write_text(path, "a" * 20_000)

    def read(_: object) -> None:
        text = ""
        while text[:1] != "z":
            try:
                text = Path(path).read_text(encoding="ascii")
                assert text == text[0] * 20_000, "a file was seen half written"
            except (FileNotFoundError, PermissionError):
                if stays:
                    raise
            if not stays:
                time.sleep(0.05)  # or, over SMB, nobody could ever replace it

    with Process(read) as reader:
        for turn in range(30):
            write_text(path, "abcde"[turn % 5] * 20_000, durable=turn % 10 == 0)
        write_text(path, "z" * 20_000)
        reader.result()
    assert os.listdir(scene.here) == ["file"]


@behaviour()
def what_is_written_over_a_file_that_stays_open_is_not_lost(scene: Scene) -> None:
    path = Path(scene.path("file"))
    write_text(path, "old")
    expected = [{"file": "new"}]
    with path.open(encoding="ascii"):
        try:
            write_text(path, "new")
        except PermissionError:
            assert "open files" in scene.place.lacks
            expected = [{"file": "old"}, {"file.rescued": "new"}]
    found = {each.name: each.read_text(encoding="ascii") for each in path.parent.iterdir()}
    assert found in expected, f"there is {found}"


@behaviour()
def an_exception_leaves_the_old_file_and_nothing_else(scene: Scene) -> None:
    path = scene.path("file")
    write_text(path, "old")
    try:
        with atomic_write(path) as file:
            file.write("new")
            raise KeyError
    except KeyError:
        pass
    assert Path(path).read_text(encoding="ascii") == "old"
    assert os.listdir(scene.here) == ["file"]


@behaviour("permissions")
def a_replaced_file_keeps_its_permissions(scene: Scene) -> None:
    path = Path(scene.path("file"))
    write_text(path, "old")
    path.chmod(0o640)
    write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o640


@behaviour("names")
def of_several_that_create_a_file_one_succeeds(scene: Scene) -> None:
    def create(_: object, text: str) -> int:
        created = 0
        for number in range(ROUNDS):
            try:
                write_text(scene.path(str(number)), text, overwrite=False, durable=False)
            except FileExistsError:
                continue
            created += 1
        return created

    assert sum(together(create, ("a",), ("b",), ("c",))) == ROUNDS
    assert len(os.listdir(scene.here)) == ROUNDS


@behaviour()
def of_those_who_speak_gits_protocol_one_writes_at_a_time(scene: Scene) -> None:
    path = scene.path("number")
    write_text(path, "0")

    def count(_: object) -> None:
        for _ in range(ROUNDS):
            with atomic_write(path, lock="git", durable=False, timeout=PATIENCE) as file:
                file.write(str(int(Path(path).read_text(encoding="ascii")) + 1))

    together(count, (), ())
    assert Path(path).read_text(encoding="ascii") == str(2 * ROUNDS)
    assert os.listdir(scene.here) == ["number"]


@behaviour()
def what_a_killed_writer_left_is_removed_by_the_next(scene: Scene) -> None:
    def write(pause: Callable[[], None]) -> None:
        with atomic_write(scene.path("file")) as file:
            file.write("half")
            pause()

    with paused(write) as writer:
        writer.kill()
    assert len(os.listdir(scene.here)) == 1
    write_text(scene.path("file"), "new")
    assert os.listdir(scene.here) == ["file"]


# ---------------------------------------------------------------------------------------------------------------------
# States and documents


def count_up(_: object, path: str, times: int) -> None:
    """Add one to a number in a state, in either of the two ways."""
    state = StateFile(path, timeout=PATIENCE, durable=False, history=True)
    for turn in range(times):
        if turn % 2:
            state.update(lambda data: {**data, "count": data.get("count", 0) + 1})
        else:
            with state.edit() as data:
                data["count"] = data.get("count", 0) + 1


@behaviour("flock")
def no_change_of_a_state_is_lost(scene: Scene) -> None:
    path = scene.path("state.json")
    together(count_up, *[(path, 16)] * WRITERS)
    assert json.loads(Path(path).read_text(encoding="utf-8"))["count"] == WRITERS * 16


@behaviour("flock", "replacing")
def a_state_is_never_seen_half_or_older_than_before(scene: Scene) -> None:
    path = scene.path("state.json")

    def read(_: object) -> None:
        state, seen = StateFile(path), 0
        while seen < WRITERS * 16:
            count = state.load().data.get("count", 0)
            assert seen <= count, "an older state was seen after a newer one"
            seen = count

    with Process(read) as reader:
        together(count_up, *[(path, 16)] * WRITERS)
        reader.result()


@behaviour("flock")
def every_state_there_was_can_be_had_again(scene: Scene) -> None:
    path = scene.path("state.json")
    together(count_up, (path, 10), (path, 10))
    state = StateFile(path, history=True)
    assert [state.at(revision).data["count"] for revision in range(1, 21)] == [*range(1, 21)]


@behaviour("flock")
def a_save_over_what_one_has_not_seen_is_refused(scene: Scene) -> None:
    state = StateFile(scene.path("state.json"))
    before = state.load()
    together(count_up, (state.path, 1))
    try:
        state.save({"count": -1}, expect=before)
    except StateConflict:
        assert state.load().data == {"count": 1}
        return
    raise AssertionError("it was overwritten")


@behaviour("flock")
def no_document_is_overwritten_that_one_has_not_seen(scene: Scene) -> None:
    def add(_: object, writer: str) -> None:
        with DocumentStore(scene.path("documents"), timeout=PATIENCE) as store:
            number = 0
            while number < 15:
                store.refresh()
                store["entries"] = [*store.get("entries", []), f"{writer}{number}"]
                try:
                    store.flush()
                except DocumentConflict:
                    continue
                number += 1

    together(add, ("a",), ("b",))
    entries = json.loads(Path(scene.path("documents"), "entries.json").read_text(encoding="utf-8"))
    assert sorted(entries) == sorted(f"{writer}{number}" for writer in "ab" for number in range(15))


@behaviour("flock")
def what_one_store_has_flushed_another_one_reads(scene: Scene) -> None:
    keys = ["a", "A", "user/17", "..", "ä", "ẞ", "con", "x" * 60]

    def write(_: object) -> None:
        with DocumentStore(scene.path("documents"), durable=True) as store:
            for key in keys:
                store[key] = key

    together(write, ())
    assert dict(DocumentStore(scene.path("documents"))) == {key: key for key in keys}


@behaviour("flock", "fresh names", "another way", "together")
def no_change_of_a_state_is_lost_by_those_who_come_two_ways(scene: Scene) -> None:
    here, there = scene.both("state.json")
    together(count_up, (here, 16), (there, 16))
    assert json.loads(Path(here).read_text(encoding="utf-8"))["count"] == 32


# ---------------------------------------------------------------------------------------------------------------------
# Doctor


@behaviour()
def holdfast_doctor_says_what_is_so(scene: Scene) -> None:
    words = [sys.executable, "-m", "holdfast", "doctor", scene.here, "--json"]
    result = subprocess.run(words, stdout=subprocess.PIPE, check=False, text=True)
    found = json.loads(result.stdout)
    place, advice = scene.place, " ".join(found["advice"])
    not_so = {trial["name"]: trial["found"] for trial in found["trials"] if trial["holds"] is False}
    promised = [trial["name"] for trial in found["trials"] if trial["promised"] and trial["name"] in not_so]
    assert found["file_system"]["kind"] == place.kind
    undecided = {trial["name"]: trial["found"] for trial in found["trials"] if trial["holds"] is None}
    assert not_so.keys() - place.perhaps == place.not_so, f"not so: {not_so}"
    assert undecided.keys() == place.undecided, f"undecided: {undecided}"
    assert found["well"] == (not promised)
    assert result.returncode == bool(promised)
    for phrase in place.says:
        assert phrase in advice, f"{phrase!r} is not in {advice!r}"
    assert os.listdir(scene.here) == [], "it left something behind"


def main() -> int:
    """Check what the command line names."""
    name, here, *there = sys.argv[1:]
    return behaviour.run(name, PLACES[name], here, *there)


if __name__ == "__main__":
    sys.exit(main())
