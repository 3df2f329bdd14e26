"""Damage in a log is found, and moved out of the way, without losing a byte."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import frees_names_of_open_files, posix_only, replaces_open_files
from holdfast import _damage
from holdfast._damage import Damage, Report
from holdfast._reading import Records
from holdfast._segments import compress, prune, segment_path, segments_of

Locked = Callable[[], AbstractContextManager[Any]]


def records(path: str, **settings: Any) -> Records:
    return Records(path, **settings)


def verify(path: str, locked: Locked = nullcontext, **settings: Any) -> Report:
    return _damage.verify(path, locked=locked, **settings)


def repair(path: str, locked: Locked = nullcontext, **settings: Any) -> Report:
    try:
        return _damage.repair(path, locked=locked, **settings)
    except PermissionError:
        if not replaces_open_files.args[0]:
            raise
        pytest.skip(replaces_open_files.kwargs["reason"])


GOOD = b'{"n": 1}\n'


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "events.jsonl")


def write(log: str, text: bytes) -> None:
    with open(log, "ab") as file:
        file.write(text)


def rotate(log: str) -> str:
    segments = segments_of(log)
    to = segment_path(log, segments[-1].number + 1 if segments else 1)
    os.rename(log, to)
    return to


def moved_pieces(side_file: str) -> list[tuple[dict[str, Any], bytes]]:
    """What is in a file of damaged lines: headers and bytes."""
    text = Path(side_file).read_bytes()
    pieces = []
    while text:
        header, _, text = text.partition(b"\n")
        fields = json.loads(header)
        pieces.append((fields, text[: fields["length"]]))
        assert text[fields["length"] :].startswith(b"\n")
        text = text[fields["length"] + 1 :]
    return pieces


def found(report: Report) -> list[tuple[int, int, str]]:
    return [(damage.offset, damage.length, damage.reason) for damage in report.damages]


# Finding it.


def test_a_sound_log_is_ok(log: str) -> None:
    write(log, GOOD * 3)
    compressed = rotate(log)
    compress(segments_of(log)[0])
    write(log, b"\n \n" + GOOD)
    report = verify(log)
    assert report.ok
    assert (report.files, report.records, report.bytes) == (2, 4, 3 * 9 + 12)
    assert str(report) == "2 files, 4 records, 39 bytes: no damage."
    assert not os.path.exists(compressed)


def test_a_missing_log_is_ok(log: str) -> None:
    assert verify(log) == Report()
    assert repair(log) == Report()
    assert os.listdir(os.path.dirname(log)) == []


def test_every_damage_has_its_place_and_reason(log: str) -> None:
    write(log, GOOD + b"\xff\n" + GOOD + b"\0\0\n" + b"{oops\n" + b"[" * 100_000 + b"\n" + b'{"n": 2')
    assert found(verify(log)) == [
        (9, 1, "not UTF-8"),
        (20, 2, "NUL bytes"),
        (23, 5, "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (29, 100_000, "nested too deeply"),
        (100_030, 7, "unterminated"),
    ]


def test_damage_is_found_in_segments_too(log: str) -> None:
    write(log, GOOD + b"bad\n")
    rotate(log)
    compress(segments_of(log)[0])
    write(log, GOOD + b'{"torn')
    second = rotate(log)
    write(log, GOOD + b'{"n": 2}')
    rotate(log)
    write(log, b"worse\n")
    report = verify(log)
    assert [(damage.path, damage.offset) for damage in report.damages] == [
        (segment_path(log, 1) + ".gz", 9),
        (second, 9),
        (log, 0),
    ]
    assert report.records == 4


def test_an_end_that_a_writer_is_about_to_finish_is_no_damage(log: str) -> None:
    write(log, GOOD + b'{"n"')

    @contextmanager
    def locked() -> Iterator[None]:
        write(log, b": 2}\n")
        yield

    report = verify(log, locked)
    assert report.ok
    assert report.records == 2


def test_an_end_that_is_rotated_meanwhile_is_judged_as_that_of_a_segment(log: str) -> None:
    write(log, GOOD + b'{"n": 2}')

    @contextmanager
    def locked() -> Iterator[None]:
        rotate(log)
        write(log, GOOD)
        yield

    report = verify(log, locked)
    assert report.ok
    assert report.records == 2


def test_the_lock_is_not_taken_when_there_is_nothing_to_ask(log: str) -> None:
    write(log, GOOD)

    def locked() -> AbstractContextManager[Any]:
        raise AssertionError

    assert verify(log, locked).ok


def test_progress_is_reported(log: str) -> None:
    write(log, GOOD * 100_000)
    seen: list[tuple[str, int]] = []
    verify(log, progress=lambda path, offset: seen.append((path, offset)))
    assert len(seen) > 2
    assert seen[-1] == (log, 900_000)


def test_a_decoder_decides_what_is_a_record(log: str) -> None:
    write(log, b"1\nx\n")
    assert found(verify(log, decode=int)) == [(2, 1, "invalid literal for int() with base 10: b'x'")]


def test_a_report_can_be_read_by_a_tired_person(log: str) -> None:
    damages = [Damage("a.jsonl", 1000 * n, 5, "not UTF-8") for n in range(25)]
    text = str(Report(1, 12345, 678901, damages, ["a.jsonl.damaged"], 125)).splitlines()
    assert text[0] == "1 file, 12,345 records, 678,901 bytes: 25 damaged pieces."
    assert text[2] == "  a.jsonl, byte 1,000: 5 bytes, not UTF-8"
    assert text[-2:] == ["  and 5 more", "Moved 125 bytes to a.jsonl.damaged."]


# Moving it away.


def test_damage_at_the_end_is_cut_off_in_place(log: str) -> None:
    write(log, GOOD + b"bad\n" + b'{"n": 2')
    inode = os.stat(log).st_ino
    report = repair(log)
    assert found(report) == found(report)[:2]
    assert (report.side_files, report.moved) == ([log + ".damaged"], 10)
    assert Path(log).read_bytes() == GOOD
    assert os.stat(log).st_ino == inode
    assert [piece for _, piece in moved_pieces(log + ".damaged")] == [b"bad", b'{"n": 2']


def test_damage_between_records_is_taken_out_and_permissions_stay(log: str) -> None:
    write(log, GOOD + b"bad\xff\n" + GOOD + b"\0\n" + GOOD)
    os.chmod(log, 0o600)
    report = repair(log)
    assert report.moved == 5
    assert Path(log).read_bytes() == GOOD * 3
    headers = [header for header, _ in moved_pieces(log + ".damaged")]
    assert [(h["path"], h["offset"], h["length"], h["reason"]) for h in headers] == [
        (log, 9, 4, "not UTF-8"),
        (log, 23, 1, "NUL bytes"),
    ]
    if os.name == "posix":
        assert stat.S_IMODE(os.stat(log).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(log + ".damaged").st_mode) == 0o600
    assert "Moved 5 bytes to" in str(report)


def test_segments_are_repaired_too(log: str) -> None:
    write(log, GOOD + b"bad\n" + GOOD)
    rotate(log)
    compress(segments_of(log)[0])
    write(log, GOOD + b"bad\n" + b'{"n": 2}')
    rotate(log)
    write(log, GOOD)
    report = repair(log)
    assert len(report.side_files) == 2
    assert gzip.decompress(Path(segment_path(log, 1) + ".gz").read_bytes()) == GOOD * 2
    assert Path(segment_path(log, 2)).read_bytes() == GOOD + b'{"n": 2}'
    assert verify(log).ok
    assert len(list(records(log))) == 5


@pytest.mark.parametrize("cut", [5, 40, -8])
def test_of_a_cut_compressed_segment_the_file_is_kept_and_the_records_too(log: str, cut: int) -> None:
    text = b"".join(b'{"n": %d}\n' % n for n in range(1000))
    zipped = segment_path(log, 1) + ".gz"
    broken = gzip.compress(text)[:cut]
    Path(zipped).write_bytes(broken)
    before = list(records(log, errors="skip"))
    assert not verify(log).ok
    report = repair(log)
    assert report.moved == len(broken)
    assert moved_pieces(zipped + ".damaged")[0][1] == broken
    assert verify(log).ok
    assert list(records(log)) == before


def test_a_sound_log_is_left_alone(log: str) -> None:
    write(log, GOOD)
    before = os.stat(log)
    assert repair(log).ok
    assert os.stat(log).st_mtime_ns == before.st_mtime_ns
    assert os.listdir(os.path.dirname(log)) == ["events.jsonl"]


def test_repairs_add_to_what_was_moved_before(log: str) -> None:
    for piece in (b"one\n", b"two\n"):
        write(log, piece)
        repair(log)
    write(log + ".damaged", b'{"half a hea')
    write(log, b"three\n")
    repair(log)
    assert Path(log + ".damaged").read_bytes().count(b"\n") == 7
    assert b"\nthree\n" in Path(log + ".damaged").read_bytes()


def test_a_log_that_is_rotated_under_our_hands_is_repaired_wholly(log: str) -> None:
    write(log, GOOD + b"bad\n" + GOOD)
    times = []

    @contextmanager
    def locked() -> Iterator[None]:
        if not times:
            rotate(log)
            write(log, b"worse\n" + GOOD)
        times.append(1)
        yield

    report = repair(log, locked)
    assert sorted(os.path.basename(file) for file in report.side_files) == [
        "events.00000001.jsonl.damaged",
        "events.jsonl.damaged",
    ]
    assert verify(log).ok
    assert len(list(records(log))) == 3


@pytest.mark.parametrize("text", [GOOD + b"bad\n", GOOD + b"bad\n" + GOOD], ids=["at the end", "in the middle"])
@pytest.mark.parametrize(
    ("change", "compressed"),
    [
        pytest.param(lambda log: compress(segments_of(log)[0]), [True], marks=frees_names_of_open_files),
        (repair, [False]),
        pytest.param(lambda log: prune(log, keep=0), [], marks=frees_names_of_open_files),
    ],
    ids=["compressed", "repaired", "pruned"],
)
def test_a_rotated_file_that_is_changed_during_its_repair_is_repaired_as_it_is_now(
    log: str, text: bytes, change: Callable[[str], object], compressed: list[bool]
) -> None:
    write(log, text)
    rotate(log)
    looks = []

    def decode(line: bytes) -> Any:
        if not looks:
            looks.append(line)
            change(log)
        return json.loads(line)

    repair(log, decode=decode)
    assert [segment.compressed for segment in segments_of(log)] == compressed
    assert verify(log).ok
    assert len(list(records(log))) == len(compressed) * text.count(GOOD)
    assert sum(file.read_bytes().count(b"\nbad\n") for file in Path(log).parent.glob("*.damaged")) == len(compressed)


@frees_names_of_open_files
def test_writers_do_not_wait_for_all_of_their_file_to_be_read_because_an_older_one_was_compressed(log: str) -> None:
    write(log, GOOD + b"bad\n")
    rotate(log)
    write(log, b'{"n": "active"}\n')
    looked_at: list[bytes] = []
    before_the_lock: list[bool] = []

    def decode(line: bytes) -> Any:
        if not looked_at:
            compress(segments_of(log)[0])
        looked_at.append(line)
        return json.loads(line)

    @contextmanager
    def locked() -> Iterator[None]:
        before_the_lock.append(b'{"n": "active"}' in looked_at)
        yield

    repair(log, locked, decode=decode)
    assert before_the_lock == [True]


def test_an_active_file_that_is_changed_during_its_repair_is_an_error_that_says_so(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, GOOD + b"bad\n")
    sync = os.fsync

    def sync_a_moment_later(descriptor: int) -> None:
        write(log, GOOD)  # by a program that does not take the lock
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_a_moment_later)
    with pytest.raises(OSError, match="repair it again") as caught:
        repair(log)
    assert (type(caught.value), caught.value.filename) == (OSError, log)
    assert Path(log).read_bytes() == GOOD + b"bad\n" + GOOD


def test_a_repair_ends_though_a_program_goes_on_appending_to_a_rotated_file(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, GOOD + b"bad\n")
    rotated = rotate(log)
    sync = os.fsync
    appended = []

    def sync_a_moment_later(descriptor: int) -> None:
        assert len(appended) < 9, "this goes on for ever"
        appended.append(b"bad\n")
        write(rotated, b"bad\n")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_a_moment_later)
    with pytest.raises(OSError, match="repair it again") as caught:
        repair(log)
    assert (type(caught.value), caught.value.errno, caught.value.filename) == (OSError, errno.EBUSY, rotated)
    assert Path(rotated).read_bytes() == GOOD + b"bad\n" + b"".join(appended)
    monkeypatch.undo()
    repair(log)
    assert Path(rotated).read_bytes() == GOOD


def test_no_damage_is_moved_of_a_file_that_grew_while_it_was_read(log: str) -> None:
    write(log, GOOD + b"bad 0")
    rotated = rotate(log)

    def decode(line: bytes) -> Any:
        if Path(rotated).read_bytes().endswith(line):  # this is the last one, as yet
            number = int(line.split()[-1]) + 1
            assert number < 9, "this goes on for ever"
            write(rotated, b"\nbad %d" % number)
        return json.loads(line)

    with pytest.raises(OSError, match="repair it again"):
        repair(log, decode=decode)
    assert Path(rotated).read_bytes() == GOOD + b"bad 0\nbad 1\nbad 2"
    assert not os.path.exists(rotated + ".damaged")


def test_what_was_appended_before_the_lock_is_kept(log: str) -> None:
    write(log, GOOD + b"bad\n")

    @contextmanager
    def locked() -> Iterator[None]:
        write(log, GOOD + b"late\n" + GOOD)
        yield

    repair(log, locked)
    assert Path(log).read_bytes() == GOOD * 3


@pytest.mark.parametrize("failing", ["fsync", "ftruncate"])
@posix_only
def test_a_repair_that_fails_has_lost_nothing(log: str, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, GOOD + b"bad\n")

    def fail(*_: object) -> None:
        raise OSError(5, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="injected"):
            repair(log)
    assert Path(log).read_bytes() == GOOD + b"bad\n"
    repair(log)
    assert Path(log).read_bytes() == GOOD
    assert {piece for _, piece in moved_pieces(log + ".damaged")} == {b"bad"}


@posix_only
def test_nothing_is_moved_into_what_is_not_a_file(log: str) -> None:
    write(log, b"bad\n")
    os.symlink("elsewhere", log + ".damaged")
    with pytest.raises(OSError, match=r".*"):
        repair(log)
    os.unlink(log + ".damaged")
    os.mkfifo(log + ".damaged")
    with pytest.raises(OSError, match="not a regular file"):
        repair(log)
    assert Path(log).read_bytes() == b"bad\n"


def test_writers_and_a_repair_that_take_turns_lose_nothing(log: str) -> None:
    mutex = threading.Lock()

    def append_all() -> None:
        for number in range(500):
            with mutex:
                write(log, b'{"n": %d}\n' % number + b"\xff\n" * (number % 7 == 0))

    write(log, b"")
    writer = threading.Thread(target=append_all)
    writer.start()
    while writer.is_alive():
        repair(log, lambda: mutex)
    writer.join()
    repair(log, lambda: mutex)
    assert [record["n"] for record in records(log)] == list(range(500))
    assert [piece for _, piece in moved_pieces(log + ".damaged")] == [b"\xff"] * 72


LINES = st.sampled_from([b'{"n": 1}', b"[]", b"", b" ", b"{", b"\xff", b"\0", b"1 2", b"NaN"]) | st.binary(max_size=30)


@given(st.lists(st.lists(LINES, max_size=8).map(b"\n".join), max_size=3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_either_records_or_moved(
    tmp_path_factory: pytest.TempPathFactory, files: list[bytes], compressed: bool
) -> None:
    log = str(tmp_path_factory.mktemp("any") / "events.jsonl")
    for text in files:
        if os.path.exists(log):
            rotate(log)
        write(log, text)
    if compressed and segments_of(log):
        compress(segments_of(log)[0])
    skipped = list(map(repr, records(log, errors="skip")))
    report = verify(log)
    for damage in report.damages:
        assert damage.length > 0
    assert report.records == len(skipped)
    repaired = repair(log)
    assert found(repaired) == found(report)
    assert verify(log).ok
    assert list(map(repr, records(log))) == skipped
    pieces = [piece for side_file in repaired.side_files for _, piece in moved_pieces(side_file)]
    assert sum(map(len, pieces)) == repaired.moved
    assert sorted(b"\n".join(files).split()) == sorted((b"\n".join([_all_text(log), *pieces])).split())


def _all_text(log: str) -> bytes:
    texts = [gzip.decompress(Path(one.file_name).read_bytes()) if one.compressed else Path(one.path).read_bytes()
             for one in segments_of(log)]  # fmt: skip
    return b"\n".join([*texts, Path(log).read_bytes() if os.path.exists(log) else b""])
