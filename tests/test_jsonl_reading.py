"""Reading a log: whole records, each once, in order, whatever happens to its files meanwhile."""

from __future__ import annotations

import gc
import gzip
import json
import math
import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PYPY, posix_only
from holdfast._reading import DamagedLine, Records
from holdfast._segments import compress, prune, segment_path, segments_of
from support import Child, eventually


def records(path: str, **settings: Any) -> Records:
    return Records(path, **settings)


def follow(path: str, **settings: Any) -> Records:
    return Records(path, following=True, **settings)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "events.jsonl")


def write(log: str, text: bytes) -> None:
    with open(log, "ab") as file:
        file.write(text)


def append(log: str, *numbers: int) -> None:
    write(log, b"".join(b'{"n": %d}\n' % number for number in numbers))


def rotate(log: str) -> str:
    segments = segments_of(log)
    to = segment_path(log, segments[-1].number + 1 if segments else 1)
    os.rename(log, to)
    return to


def compress_all(log: str) -> None:
    for segment in segments_of(log):
        compress(segment)


def numbers(found: Iterator[Any]) -> list[int]:
    return [record["n"] for record in found]


def since(log: str, checkpoint: str) -> list[int]:
    return numbers(records(log, since=checkpoint))


def after(log: str, count: int) -> str:
    """The checkpoint of somebody who has read so many records."""
    with records(log) as some:
        assert len(list(islice(some, count))) == count
        return some.checkpoint


# What a record is.


def test_a_missing_file_is_an_empty_log(log: str) -> None:
    assert list(records(log)) == []
    assert list(records(os.path.join(log, "nor", "its", "directory"))) == []


def test_records_come_in_order_and_blank_lines_do_not_count(log: str) -> None:
    write(log, b'\n{"a": 1}\n  \t\r\n\n[2]\r\n"\xc3\xa4"\nNaN\nnull\n\n')
    first, second, third, nan, nothing = records(log)
    assert (first, second, third, nothing) == ({"a": 1}, [2], "ä", None)
    assert math.isnan(nan)


def test_half_a_line_at_the_end_is_never_returned(log: str) -> None:
    whole = '{"text": "ä and more"}'.encode()
    append(log, 1)
    for byte in whole:
        write(log, bytes([byte]))
        assert numbers(records(log)) == [1]
    write(log, b"\n")
    assert len(list(records(log))) == 2


def test_half_a_line_that_was_taken_back_leaves_no_trace(log: str) -> None:
    append(log, 1)
    with follow(log, timeout=0) as found:
        assert numbers(found) == [1]
        write(log, b'{"n": 2, "text": "no space le')
        assert numbers(found) == []
        os.truncate(log, os.path.getsize(log) - 29)
        append(log, 3, 4, 5, 6)
        assert numbers(found) == [3, 4, 5, 6]


@pytest.mark.parametrize("compressed", [False, True])
def test_the_unterminated_end_of_a_segment_is_a_record_if_it_can_be_one(log: str, compressed: bool) -> None:
    append(log, 1)
    write(log, b'{"n": 2}')
    rotate(log)
    append(log, 3)
    write(log, b'{"n": 4')
    torn = rotate(log)
    append(log, 5)
    if compressed:
        compress_all(log)
    assert numbers(records(log, errors="skip")) == [1, 2, 3, 5]
    with pytest.raises(DamagedLine) as caught:
        list(records(log))
    assert caught.value.path == torn + ".gz" * compressed
    assert (caught.value.offset, caught.value.line) == (9, b'{"n": 4')


def test_where_chooses_and_its_errors_are_its_own(log: str) -> None:
    append(log, *range(10))
    assert numbers(records(log, where=lambda record: record["n"] % 3 == 0)) == [0, 3, 6, 9]

    def complain(record: Any) -> bool:
        raise ValueError("where's own")

    with pytest.raises(ValueError, match="where's own") as caught:
        next(records(log, where=complain))
    assert not isinstance(caught.value, DamagedLine)


def test_a_decoder_gets_the_bytes_of_each_line(log: str) -> None:
    write(log, b"one\n\n two \nthree\r\n")
    assert list(records(log, decode=bytes)) == [b"one", b" two ", b"three\r"]


def test_a_decoders_mistakes_are_not_taken_for_damage(log: str) -> None:
    append(log, 1)
    with pytest.raises(ZeroDivisionError):
        next(records(log, decode=lambda line: 1 / 0, errors="skip"))


# Damage.

BAD = [
    (b'{"n": ', "Expecting value"),
    (b"\0\0\0", "NUL bytes"),
    (b'{"n": "\xff"}', "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"n": 1}{"n": 2}', "Extra data"),
    (b"\xfe\xff\0{", "NUL bytes"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_damaged_line_raises_and_the_iteration_goes_on_behind_it(log: str, line: bytes, reason: str) -> None:
    append(log, 1)
    write(log, line + b"\n")
    append(log, 2)
    found = iter(records(log))
    assert next(found) == {"n": 1}
    with pytest.raises(DamagedLine) as caught:
        next(found)
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.path, error.offset, error.line) == (log, 9, line[:200])
    assert reason in error.reason
    assert all(word in str(error) for word in (log, "byte 9", 'errors="skip"', "verify()", "repair()"))
    assert next(found) == {"n": 2}
    assert list(found) == []
    assert numbers(records(log, errors="skip")) == [1, 2]


def test_custom_decoders_see_no_nul_bytes_and_no_broken_text(log: str) -> None:
    write(log, b"good\na\0b\n\xff\nfine\n")
    assert list(records(log, decode=bytes, errors="skip")) == [b"good", b"fine"]


def test_a_damaged_line_survives_pickling(log: str) -> None:
    error = DamagedLine(log, 5, b"x" * 300, "why")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.path, copy.offset, copy.line, copy.reason) == (log, 5, b"x" * 200, "why")


@given(
    st.binary(max_size=400) | st.lists(st.sampled_from([b'{"n":1}', b"\n", b"\0", b"\xff", b"[", b" "])).map(b"".join)
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    log = str(tmp_path_factory.mktemp("any") / "events.jsonl")
    write(log, text)
    expected: list[str] = []
    bad = 0
    for line in text.split(b"\n")[:-1]:
        if line.strip():
            try:
                assert b"\0" not in line
                expected.append(repr(json.loads(line.decode("utf-8"))))
            except (ValueError, AssertionError):
                bad += 1
    assert [repr(record) for record in records(log, errors="skip")] == expected
    found, raised, each = [], 0, records(log)
    while True:
        try:
            found.append(repr(next(each)))
        except DamagedLine as error:
            raised += text[error.offset :].startswith(error.line)
        except StopIteration:
            break
    assert (found, raised) == (expected, bad)


def test_a_gigantic_line_is_read_in_linear_time(log: str) -> None:
    append(log, 1)
    write(log, b'"' + b"x" * 30_000_000 + b'"\n')
    append(log, 2)
    write(log, b"y" * 5_000_000)
    first, giant, last = records(log)
    assert (first, len(giant), last) == ({"n": 1}, 30_000_000, {"n": 2})


def test_a_cut_compressed_segment_gives_what_can_be_read(log: str) -> None:
    append(log, *range(1000))
    zipped = rotate(log) + ".gz"
    append(log, 1000)
    os.rename(segment_path(log, 1), log + ".plain")
    Path(zipped).write_bytes(gzip.compress(Path(log + ".plain").read_bytes())[:-8])
    found = records(log)
    assert numbers(islice(found, 1000)) == list(range(1000))
    with pytest.raises(DamagedLine, match="cannot be decompressed"):
        next(found)
    assert numbers(found) == [1000]
    assert numbers(records(log, errors="skip")) == list(range(1001))


@pytest.mark.parametrize("maker", [pytest.param("mkfifo", marks=posix_only), "mkdir"])
def test_what_is_not_a_file_is_refused_and_does_not_make_it_hang(log: str, maker: str) -> None:
    append(log, 1)
    rotate(log)
    make = getattr(os, maker)
    make(segment_path(log, 2))
    make(log)
    with pytest.raises(OSError, match=r"is a directory|not a regular file"):
        next(records(log))
    os.rename(log, log + ".x")
    found = records(log)
    assert next(found) == {"n": 1}
    with pytest.raises(OSError, match=r"is a directory|not a regular file"):
        next(found)


# Segments.


def test_segments_are_read_before_the_active_file(log: str) -> None:
    for number in range(5):
        append(log, number)
        rotate(log)
    compress(segments_of(log)[1])
    assert numbers(records(log)) == [0, 1, 2, 3, 4]
    append(log, 5)
    assert numbers(records(log)) == [0, 1, 2, 3, 4, 5]


def test_a_rotation_in_the_middle_of_reading_loses_and_repeats_nothing(log: str) -> None:
    append(log, 0, 1)
    rotate(log)
    append(log, 2, 3)
    found = records(log)
    assert numbers(islice(found, 1)) == [0]
    rotate(log)
    append(log, 4)
    rotate(log)
    compress_all(log)
    append(log, 5)
    assert numbers(found) == [1, 2, 3, 4, 5]


@posix_only  # elsewhere os.replace() cannot put a file in the place of one that is read
def test_a_file_that_gets_another_inode_with_its_new_name_is_not_read_again(log: str) -> None:
    append(log, 0, 1)
    found = records(log)
    assert numbers(islice(found, 2)) == [0, 1]
    segment = rotate(log)
    shutil.copy2(segment, f"{segment}.copy")
    os.replace(f"{segment}.copy", segment)
    append(log, 2)
    assert numbers(found) == [2]


def test_a_file_that_grew_before_it_was_renamed_is_read_to_its_end(log: str) -> None:
    append(log, 0)
    with follow(log, timeout=0) as found:
        assert numbers(found) == [0]
        append(log, 1)
        rotate(log)
        append(log, 2)
        rotate(log)
        assert numbers(found) == [1, 2]
        compress_all(log)
        append(log, 3)
        assert numbers(found) == [3]


def test_an_active_file_that_windows_still_lists_and_does_not_open_any_more_is_none(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was removed while somebody has it open. Then os.stat() finds it in its directory."""
    append(log, 1)
    rotate(log)
    stat, listed = os.stat, os.stat(segments_of(log)[0].path)
    monkeypatch.setattr(os, "stat", lambda path, **how: listed if path == log else stat(path, **how))
    assert numbers(records(log)) == [1]


def test_pruned_segments_are_passed_over(log: str) -> None:
    for number in range(4):
        append(log, number)
        rotate(log)
    append(log, 4)
    found = records(log)
    assert next(found) == {"n": 0}
    prune(log, keep=1)
    assert numbers(found) == [3, 4]


def test_when_all_segments_are_pruned_and_numbers_begin_again_nothing_new_is_missed(log: str) -> None:
    for number in range(3):
        append(log, number)
        rotate(log)
    append(log, 3)
    with follow(log, timeout=0) as found:
        assert numbers(found) == [0, 1, 2, 3]
        rotate(log)
        prune(log, keep=0)
        append(log, 4)
        rotate(log)
        append(log, 5)
        assert numbers(found) == [4, 5]


def test_rotation_by_other_programs_loses_nothing(log: str) -> None:
    append(log, 0)
    with follow(log, timeout=0) as found:
        assert numbers(found) == [0]
        append(log, 1)
        os.rename(log, log + ".1")
        assert numbers(found) == [1]
        append(log, 2)
        assert numbers(found) == [2]
        os.rename(log, log + ".2")
        append(log, 3)
        rotate(log)
        append(log, 4)
        assert numbers(found) == [3, 4]


@pytest.mark.parametrize("more", [1, 2, 5, 500])
def test_a_file_that_is_cut_to_nothing_is_read_from_its_beginning(log: str, more: int) -> None:
    append(log, 10, 11)
    with follow(log, timeout=0) as found:
        assert numbers(found) == [10, 11]
        os.truncate(log, 0)
        append(log, *range(20, 20 + more))
        assert numbers(found) == list(range(20, 20 + more))


def test_a_reader_racing_with_everything_reads_each_record_once_in_order(log: str) -> None:
    count, stop = 6000, threading.Event()
    chance = random.Random(1)

    def write_and_rotate() -> None:
        number = 0
        while number < count:
            some = range(number, min(count, number + chance.randint(1, 40)))
            append(log, *some)
            number = some.stop
            if chance.random() < 0.1:
                rotate(log)
        append(log, -1)

    def compress_behind() -> None:
        while not stop.is_set():
            for segment in segments_of(log)[:-1]:
                compress(segment)

    workers = [threading.Thread(target=work) for work in (write_and_rotate, compress_behind)]
    for worker in workers:
        worker.start()
    try:
        with follow(log, poll_interval=0.002, timeout=30) as found:
            seen = []
            for record in found:
                if record["n"] < 0:
                    break
                seen.append(record["n"])
        assert seen == list(range(count))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert numbers(records(log)) == [*range(count), -1]


def test_plain_readers_racing_with_rotation_see_an_unbroken_beginning(log: str) -> None:
    count = 3000

    def write_and_rotate() -> None:
        for number in range(count):
            append(log, number)
            if number % 37 == 0:
                rotate(log)
            if number % 300 == 0:
                compress_all(log)

    append(log)
    worker = threading.Thread(target=write_and_rotate)
    worker.start()
    try:
        while worker.is_alive():
            found = numbers(records(log))
            assert found == list(range(len(found)))
    finally:
        worker.join()
    assert numbers(records(log)) == list(range(count))


# Checkpoints.


def nothing(log: str) -> None:
    """The files stay as they are."""


def rotated(log: str) -> None:
    rotate(log)


def rotated_and_continued(log: str) -> None:
    rotate(log)
    append(log)
    Path(log).touch()


def rotated_and_compressed(log: str) -> None:
    rotate(log)
    compress_all(log)


def copied(log: str) -> None:
    """As from a backup: other inodes, the same text."""
    for name in os.listdir(os.path.dirname(log)):
        file = Path(log).with_name(name)
        text = file.read_bytes()
        os.rename(file, f"{file}.old")
        file.write_bytes(text)


def rotated_by_others_into_the_pattern(log: str) -> None:
    """The numbers begin somewhere else."""
    os.rename(log, segment_path(log, 77))


@pytest.mark.parametrize(
    "happens",
    [nothing, rotated, rotated_and_continued, rotated_and_compressed, copied, rotated_by_others_into_the_pattern],
)
def test_a_checkpoint_at_every_record_resumes_exactly(log: str, happens: Callable[[str], None]) -> None:
    append(log, 0, 1, 2)
    rotate(log)
    append(log, 3, 4)
    rotate(log)
    compress(segments_of(log)[0])
    write(log, b"\n")
    append(log, 5, 6)
    write(log, b"  \n")
    append(log, 7)
    checkpoints = [after(log, count) for count in range(9)]
    found = records(log)
    assert [found.checkpoint, *(found.checkpoint for _ in found)][1:] == checkpoints[1:]
    happens(log)
    append(log, 8, 9)
    for count, checkpoint in enumerate(checkpoints):
        assert since(log, checkpoint) == list(range(count, 10)), count
    assert since(log, found.checkpoint) == [8, 9]


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_checkpoints_hold_through_any_history(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    log = str(tmp_path_factory.mktemp("history") / "events.jsonl")
    number, seen = 0, 0
    checkpoint: str | None = None
    for length in lengths:
        append(log, *range(number, number + length))
        number += length
        found = records(log, since=checkpoint)
        steps = data.draw(st.integers(0, number - seen))
        assert numbers(islice(found, steps)) == list(range(seen, seen + steps))
        seen += steps
        checkpoint = found.checkpoint
        if data.draw(st.booleans()):
            rotate(log)
        if data.draw(st.booleans()):
            compress_all(log)
    assert numbers(records(log, since=checkpoint)) == list(range(seen, number))


def test_a_checkpoint_in_a_pruned_segment_goes_on_with_the_oldest_newer_one(log: str) -> None:
    append(log, 0, 1)
    checkpoint = after(log, 1)
    rotate(log)
    append(log, 2)
    rotate(log)
    append(log, 3)
    prune(log, keep=1)
    assert since(log, checkpoint) == [2, 3]


def test_a_checkpoint_in_a_file_cut_to_nothing_begins_it_again(log: str) -> None:
    append(log, 0)
    rotate(log)
    append(log, 1, 2)
    checkpoint = after(log, 3)
    os.truncate(log, 0)
    append(log, 3, 4, 5)
    assert since(log, checkpoint) == [3, 4, 5]


def test_a_checkpoint_behind_a_change_begins_that_file_again(log: str) -> None:
    append(log, 0)
    rotate(log)
    append(log, 1, 2, 3)
    checkpoint = after(log, 3)
    text = Path(log).read_bytes().replace(b"1", b"7")
    Path(log).write_bytes(text)
    assert since(log, checkpoint) == [7, 2, 3]


def test_a_checkpoint_survives_a_repair_behind_it(log: str) -> None:
    append(log, *range(100))
    checkpoint = after(log, 100)
    write(log, b"damage\n")
    append(log, 100)
    Path(log + ".new").write_bytes(Path(log).read_bytes().replace(b"damage\n", b""))
    os.replace(log + ".new", log)
    assert since(log, checkpoint) == [100]


def test_a_checkpoint_of_a_missing_log_begins_at_its_beginning(log: str) -> None:
    empty = records(log)
    assert list(empty) == []
    append(log, 0)
    rotate(log)
    append(log, 1)
    assert since(log, empty.checkpoint) == [0, 1]


def test_the_checkpoint_of_a_reader_that_did_nothing_is_the_one_it_began_with(log: str) -> None:
    append(log, 0, 1)
    checkpoint = after(log, 1)
    assert records(log, since=checkpoint).checkpoint == checkpoint


def test_a_line_that_failed_is_handled_only_when_the_next_record_was_asked_for(log: str) -> None:
    write(log, b'{"n": 0}\noops\n')
    found = records(log)
    assert next(found) == {"n": 0}
    with pytest.raises(DamagedLine):
        next(found)
    with pytest.raises(DamagedLine):
        since(log, found.checkpoint)
    assert list(found) == []
    append(log, 1)
    assert since(log, found.checkpoint) == [1]


def test_a_checkpoint_holds_after_close(log: str) -> None:
    append(log, 0, 1, 2)
    with records(log) as found:
        next(found)
    assert since(log, found.checkpoint) == [1, 2]


def test_a_checkpoint_after_many_records_costs_little(log: str) -> None:
    append(log, *range(20_000))
    found = records(log)
    began = time.perf_counter()
    for _ in found:
        _ = found.checkpoint
    assert time.perf_counter() - began < 10


GOOD = {"v": 1, "file": [1, 2], "segment": 1, "offset": 0, "head": [0, "0" * 32], "before": "0" * 32}
HOSTILE: list[Any] = [
    "", "x", "null", "[]", "{}", "1", '"v"', "[" * 400, "[" * 100_000, json.dumps(GOOD) + "x", "\ud800", "\0",
    *(json.dumps({key: value for key, value in GOOD.items() if key != missing}) for missing in GOOD),
    *(json.dumps({**GOOD, key: bad}) for key in GOOD for bad in (None, -1, 1.5, True, "x", [], [1], {}, 10**40, [1, -1])
      if not (key == "v" and bad is True)),
    json.dumps({**GOOD, "more": 1}),
    json.dumps({**GOOD, "v": 2}),
    json.dumps({**GOOD, "offset": float("nan")}),
    json.dumps({**GOOD, "head": [1025, "0" * 32]}),
    json.dumps({**GOOD, "before": "0" * 31 + "\N{FULLWIDTH DIGIT ONE}"}),
]  # fmt: skip


@pytest.mark.parametrize("checkpoint", HOSTILE)
def test_what_is_no_checkpoint_is_refused(log: str, checkpoint: str) -> None:
    append(log, 0)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        records(log, since=checkpoint)


def test_a_checkpoint_that_is_no_text_is_a_type_error(log: str) -> None:
    with pytest.raises(TypeError, match="a checkpoint is a str"):
        records(log, since=b"{}")  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [1, 9, 10**6, (1 << 62) - 1])
@pytest.mark.parametrize("number", [0, 1, 2, 10**19])
def test_a_checkpoint_that_fits_nothing_skips_nothing(log: str, offset: int, number: int) -> None:
    append(log, 0)
    rotate(log)
    compress_all(log)
    append(log, 1)
    made_up = json.dumps({**GOOD, "offset": offset, "segment": number})
    assert since(log, made_up)[-1] == 1
    assert number == 2 or since(log, made_up) == [0, 1]


# Following.


def test_following_waits_for_the_file_and_for_its_lines(log: str) -> None:
    found: list[int] = []
    with follow(log, poll_interval=0.005) as reader:
        thread = threading.Thread(target=lambda: found.extend(record["n"] for record in reader))
        thread.start()
        time.sleep(0.02)
        append(log, 0)
        eventually(lambda: found == [0])
        rotate(log)
        append(log, 1)
        eventually(lambda: found == [0, 1])
        write(log, b'{"n"')
        time.sleep(0.02)
        write(log, b": 2}\n")
        eventually(lambda: found == [0, 1, 2])
        reader.close()
        thread.join(10)
        assert not thread.is_alive()
    assert since(log, reader.checkpoint) == []


def test_following_ends_when_no_record_comes_for_so_long(log: str) -> None:
    append(log, 0)
    reader = follow(log, timeout=0.1, poll_interval=0.01, where=lambda record: record["n"] == 0)
    assert next(reader) == {"n": 0}
    stop = threading.Event()

    def chatter() -> None:
        while not stop.wait(0.005):
            append(log, 1)

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        began = time.monotonic()
        assert next(reader, None) is None
        assert time.monotonic() - began >= 0.1
        append(log, 0)
        assert next(reader) == {"n": 0}
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("timeout", [None, 5])
def test_close_ends_a_follower_that_naps(log: str, timeout: float | None) -> None:
    reader = follow(log, poll_interval=1000, timeout=timeout)
    thread = threading.Thread(target=list, args=(reader,))
    thread.start()
    time.sleep(0.05)
    reader.close()
    thread.join(4)
    assert not thread.is_alive()


@posix_only
def test_a_signal_ends_a_nap(log: str) -> None:
    class Alarm(Exception):
        pass

    def alarm(*_: object) -> None:
        raise Alarm

    append(log, 0)
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with follow(log, poll_interval=1000) as reader:
            assert next(reader) == {"n": 0}
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                next(reader)
            append(log, 1)
            assert next(reader) == {"n": 1}
    finally:
        signal.signal(signal.SIGALRM, before)


INTERRUPTED_READER = """
    import gc, signal
    from itertools import islice
    from holdfast._reading import Records

    class Alarm(Exception): pass
    def alarm(*_): raise Alarm
    signal.signal(signal.SIGALRM, alarm)
    gc.disable()  # an exception in a finalizer would go nowhere

    reader, seen, alarms, pause = Records(args[0]), [], 0, 0.0007
    while True:
        so_far = len(seen)
        try:
            signal.setitimer(signal.ITIMER_REAL, pause)
            seen.extend(islice(reader, 500))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Alarm:
            alarms += 1
            pause = 0.0007 if len(seen) > so_far else 2 * pause  # however slow the machine is
            continue
        if len(seen) == so_far:
            break
    say([record["n"] for record in seen] == list(range(40_000)))
    say(alarms > 0)
"""


@posix_only
@pytest.mark.skipif(PYPY, reason="PyPy runs handlers between any two steps, so that a step may be half done")
def test_signals_at_any_moment_lose_and_repeat_nothing(log: str) -> None:
    for start in range(0, 40_000, 4000):
        append(log, *range(start, start + 4000))
        rotate(log)
    with Child(INTERRUPTED_READER, log) as child:
        child.expect("True")
        child.expect("True")


@pytest.mark.parametrize("which", ["decode", "where"])
def test_a_record_that_an_exception_kept_back_comes_again(log: str, which: str) -> None:
    append(log, 0, 1, 2)
    failures = [True]

    def fail_once(value: Any) -> Any:
        if b"1" in (value if isinstance(value, bytes) else str(value).encode()) and failures:
            failures.pop()
            raise KeyboardInterrupt
        return json.loads(value) if isinstance(value, bytes) else True

    found = records(log, **{which: fail_once})
    assert next(found) == {"n": 0}
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert since(log, found.checkpoint) == [1, 2]
    assert numbers(found) == [1, 2]


def test_a_follower_of_another_process_misses_nothing(log: str) -> None:
    writer = """
        from holdfast._segments import segment_path
        for number in range(2000):
            with open(args[0], "ab", 0) as file:
                file.write(b'{"n": %d}\\n' % number)
            if number % 50 == 0:
                os.rename(args[0], segment_path(args[0], number // 50 + 1))
    """
    with follow(log, poll_interval=0.001, timeout=20) as reader, Child(writer, log) as child:
        assert numbers(islice(reader, 2000)) == list(range(2000))
        child.join()


# Being a good guest.


@posix_only
def test_no_descriptor_is_left_open(log: str) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    append(log, 0)
    rotate(log)
    append(log, 1)
    gc.collect()  # where nobody counts references
    before = len(os.listdir("/proc/self/fd"))
    list(records(log))
    for _ in records(log):
        break
    with follow(log) as reader, suppress(StopIteration):
        next(reader)
    _ = since(log, reader.checkpoint)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_wrong_arguments_are_refused(log: str) -> None:
    with pytest.raises(ValueError, match="errors must be"):
        records(log, errors="ignore")
    with pytest.raises(ValueError, match="timeout must not be nan"):
        follow(log, timeout=float("nan"))
    with pytest.raises(ValueError, match="poll_interval"):
        follow(log, poll_interval=-1)
