"""The names of a log's files, and what happens to old ones."""

from __future__ import annotations

import gzip
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import posix_only
from holdfast._segments import Segment, compress, open_segment, prune, segment_path, segments_of

TEXT = b'{"n": 1}\n{"n": 2}\n'


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "events.jsonl")


def make(log: str, *numbers: int, text: bytes = TEXT) -> None:
    for number in numbers:
        Path(segment_path(log, number)).write_bytes(text)


def numbers(log: str) -> list[int]:
    return [segment.number for segment in segments_of(log)]


def read(segment: Segment) -> bytes:
    text = open_segment(segment)
    try:
        return text.read(0, 1 << 20)
    finally:
        text.close()


def test_the_number_goes_before_the_last_suffix() -> None:
    assert segment_path("a/events.jsonl", 1) == "a/events.00000001.jsonl"
    assert segment_path("a.b/events", 12) == "a.b/events.00000012"
    assert segment_path("a/events.x.jsonl", 123456789) == "a/events.x.123456789.jsonl"
    assert segment_path("a/.events", 1) == "a/.events.00000001"


def test_segments_come_in_the_order_of_their_numbers(log: str) -> None:
    make(log, 3, 99999999, 1, 100000000, 2)
    assert numbers(log) == [1, 2, 3, 99999999, 100000000]


def test_names_sort_with_the_active_file_last(log: str) -> None:
    names = [segment_path(log, 1), segment_path(log, 20), log]
    assert sorted(names) == names


def test_only_exact_names_are_segments(log: str) -> None:
    make(log, 1)
    for name in ("events.jsonl", "events.1.jsonl", "events.000000002.jsonl", "events.00000002.jsonl.bz2",
                 "xevents.00000002.jsonl",
                 "events.00000002.jsonl.gz.tmp", "events.0000000\N{ARABIC-INDIC DIGIT ONE}.jsonl",
                 "eventsx00000002.jsonl", "events.jsonl.1", "events.00000002.jsonl.damaged"):  # fmt: skip
        Path(log).with_name(name).touch()
    assert numbers(log) == [1]


def test_a_missing_directory_has_no_segments(log: str) -> None:
    assert segments_of(os.path.join(log, "missing", "events.jsonl")) == []


def test_a_relative_path_needs_no_directory(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(log, 1)
    monkeypatch.chdir(os.path.dirname(log))
    assert segments_of("events.jsonl") == [Segment(1, "events.00000001.jsonl")]


@pytest.mark.parametrize(
    "name",
    [
        "a+(b[0-9]c).js$nl",
        pytest.param("a[0-9]*?|\nb.jsonl", marks=posix_only),
        pytest.param("\udcff\udcfe.jsonl", marks=posix_only),  # bytes that are not UTF-8
    ],
)
def test_names_may_have_any_characters(tmp_path: Path, name: str) -> None:
    log = str(tmp_path / name)
    make(log, 1, 2)
    compress(segments_of(log)[0])
    assert [(one.number, one.compressed) for one in segments_of(log)] == [(1, True), (2, False)]
    assert read(segments_of(log)[0]) == TEXT


def test_where_both_are_the_plain_file_counts(log: str) -> None:
    make(log, 1)
    Path(segment_path(log, 1) + ".gz").write_bytes(b"half")
    assert segments_of(log) == [Segment(1, segment_path(log, 1))]
    assert read(segments_of(log)[0]) == TEXT


def test_a_segment_that_is_compressed_while_it_is_listed_is_never_missed(log: str) -> None:
    make(log, *range(1, 40))
    done = threading.Event()

    def compress_all() -> None:
        for number in range(1, 40):
            plain = Path(segment_path(log, number))
            Path(f"{plain}.new").write_bytes(gzip.compress(plain.read_bytes()))
            os.rename(f"{plain}.new", f"{plain}.gz")
            plain.unlink()
        done.set()

    thread = threading.Thread(target=compress_all)
    thread.start()
    try:
        while not done.is_set():
            assert numbers(log) == list(range(1, 40))
    finally:
        thread.join()


def test_prune_removes_the_oldest(log: str) -> None:
    make(log, 1, 2, 3, 4)
    compress(segments_of(log)[0])
    assert [one.number for one in prune(log, keep=2)] == [1, 2]
    assert numbers(log) == [3, 4]
    assert sorted(os.listdir(os.path.dirname(log))) == ["events.00000003.jsonl", "events.00000004.jsonl"]


def test_prune_by_size_keeps_what_fits_and_always_the_newest(log: str) -> None:
    make(log, 1, 2, 3, text=b"x" * 100)
    prune(log, keep_bytes=250)
    assert numbers(log) == [2, 3]
    prune(log, keep_bytes=200)
    assert numbers(log) == [2, 3]
    prune(log, keep_bytes=0)
    assert numbers(log) == [3]
    prune(log, keep=0)
    assert numbers(log) == []


def test_prune_obeys_both_limits(log: str) -> None:
    make(log, 1, 2, 3, 4, text=b"x" * 100)
    prune(log, keep=3, keep_bytes=200)
    assert numbers(log) == [3, 4]


def test_several_may_prune_at_once(log: str) -> None:
    make(log, *range(1, 200))
    threads = [threading.Thread(target=prune, args=(log, 5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(log) == list(range(195, 200))


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 10), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_what_prune_leaves_is_the_longest_end_within_the_limits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], keep: int, keep_bytes: int
) -> None:
    log = str(tmp_path_factory.mktemp("prune") / "events.jsonl")
    for number, size in enumerate(sizes, 1):
        make(log, number, text=b"x" * size)
    prune(log, keep, keep_bytes)
    left = len(numbers(log))
    fits = [n for n in range(len(sizes) + 1) if n <= keep and (n <= 1 or sum(sizes[len(sizes) - n :]) <= keep_bytes)]
    assert left == max(fits)


def test_where_files_have_no_owner_they_are_compressed_all_the_same(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fchown", raising=False)
    make(log, 1, text=TEXT)
    compress(segments_of(log)[0])
    assert read(segments_of(log)[0]) == TEXT
    assert segments_of(log)[0].compressed


def test_compression_keeps_text_permissions_and_time(log: str) -> None:
    make(log, 1, text=TEXT * 100_000)
    plain = segment_path(log, 1)
    os.chmod(plain, 0o640)
    os.utime(plain, ns=(10**18, 1_234_567_890_123_456_789))
    before = os.stat(plain)
    compress(segments_of(log)[0])
    assert os.listdir(os.path.dirname(log)) == ["events.00000001.jsonl.gz"]
    status = os.stat(plain + ".gz")
    assert status.st_size < before.st_size / 20
    if os.name == "posix":
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_mtime_ns == before.st_mtime_ns
    assert gzip.decompress(Path(plain + ".gz").read_bytes()) == TEXT * 100_000


def test_compressing_again_or_at_once_does_no_harm(log: str) -> None:
    make(log, 1, text=TEXT * 1000)
    segment = segments_of(log)[0]
    threads = [threading.Thread(target=compress, args=(segment,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    compress(segment)
    compress(segments_of(log)[0])
    assert read(segment) == TEXT * 1000
    assert os.listdir(os.path.dirname(log)) == ["events.00000001.jsonl.gz"]


def test_a_compression_that_was_interrupted_is_done_again(log: str) -> None:
    make(log, 1)
    Path(segment_path(log, 1) + ".gz").write_bytes(gzip.compress(b"older"))
    compress(segments_of(log)[0])
    assert segments_of(log) == [Segment(1, segment_path(log, 1), compressed=True)]
    assert read(segments_of(log)[0]) == TEXT


def test_a_segment_that_was_listed_plain_opens_when_it_is_compressed_meanwhile(log: str) -> None:
    make(log, 1)
    segment = segments_of(log)[0]
    compress(segment)
    assert read(segment) == TEXT


def test_a_pruned_segment_is_not_found(log: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_segment(Segment(1, segment_path(log, 1)))


@posix_only
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_not_a_file_is_refused_and_does_not_make_it_hang(log: str, suffix: str) -> None:
    os.mkfifo(segment_path(log, 1) + suffix)
    os.mkdir(segment_path(log, 2) + suffix)
    for segment in segments_of(log):
        with pytest.raises(OSError, match=r"is a directory|not a regular file"):
            open_segment(segment)


def test_a_compressed_segment_reads_from_any_offset(log: str) -> None:
    text = os.urandom(1 << 20)
    make(log, 1, text=text)
    compress(segments_of(log)[0])
    zipped = open_segment(segments_of(log)[0])
    for offset, size in [(0, 10), (5, 300_000), (5, 10), (290_000, 20), (290_010, 600_000), (3, 7), (2_000_000, 5)]:
        assert zipped.read(offset, size) == text[offset : offset + size]
    zipped.close()


@pytest.mark.parametrize("cut", [0, 5, 15, -9, -3])
def test_of_a_cut_compressed_file_comes_what_can_be_read_and_why_no_more(log: str, cut: int) -> None:
    text = b"".join(b'{"n": %d}\n' % n for n in range(50_000))
    whole = gzip.compress(text)
    Path(segment_path(log, 1) + ".gz").write_bytes(whole[:cut])
    zipped = open_segment(segments_of(log)[0])
    found = zipped.read(0, 1 << 20)
    assert text.startswith(found)
    assert len(found) == len(text) or cut >= 0 or len(found) > len(text) - 200_000
    if cut != 0:
        assert "cannot be decompressed" in zipped.broken
    zipped.close()
