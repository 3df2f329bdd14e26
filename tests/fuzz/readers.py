"""What must be true of any bytes in a file that holdfast reads.

Each function takes the bytes, puts them where somebody else could have put them, and compares what holdfast makes of
them with what must be so. `properties.py` runs them with hypothesis, `coverage.py` with atheris.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from holdfast import DamagedState, DocumentStore, JsonlFile, SoftFileLock, StateFile, Timeout, holders
from holdfast._checkpoint import parse as parse_checkpoint
from holdfast._keys import key_of, name_of
from holdfast._segments import prune, segments_of
from holdfast._temporary import is_litter
from holdfast.cli import DONE, NO, main
from holdfast.owner import LONGEST_RECORD, Owner, host_name


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder."""
    made = tempfile.mkdtemp(prefix="holdfast-fuzz-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same; NaN is itself."""
    return repr(one) == repr(other)


# ---------------------------------------------------------------------------------------------------------------------
# Soft locks


def owner(record: bytes) -> None:
    """A record names an owner only if it is what that owner would have written, but for zeros before numbers."""
    found = Owner.parse(record)
    if found is None:
        return
    assert len(record) <= LONGEST_RECORD
    assert Owner.parse(found.record()) == found
    lines = record.decode().splitlines()
    assert [int(lines[0]), lines[1]] == [found.pid, found.host]
    assert found.is_gone() in (True, False)


def soft_lock(record: bytes) -> None:
    """Only a lock whose record names a dead owner on this host is taken over."""
    with folder() as here:
        path = here / "a.lock"
        path.write_bytes(record)
        named = Owner.parse(record)
        gone = named is not None and named.host == host_name() and named.is_gone()
        lock = SoftFileLock(path, timeout=0)
        assert all(str(holder).isprintable() for holder in holders(path))
        try:
            lock.acquire()
        except Timeout as error:
            assert not gone
            assert str(error).isprintable()  # noqa: PT017 - there is more to be looked at
            assert path.read_bytes() == record
        else:
            assert gone
            lock.release()
        assert os.listdir(here) == ([] if gone else ["a.lock"])


# ---------------------------------------------------------------------------------------------------------------------
# Logs


def is_record(line: bytes) -> bool:
    """What the json module says of a line, which reads more than JSON."""
    try:
        json.JSONDecoder().decode(str(line, "utf-8"))
    except (ValueError, RecursionError):
        return False
    return b"\0" not in line


def records_in(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if line.strip() and is_record(line)]


def log(text: bytes) -> None:
    """Every whole line that is JSON is read, in order; what is not is damage, and goes elsewhere without a loss."""
    with folder() as here:
        path = here / "a.jsonl"
        path.write_bytes(text)
        *lines, rest = text.split(b"\n")
        good = records_in(lines)
        file = JsonlFile(path)
        assert same(list(file.records(errors="skip")), [json.loads(line) for line in good])
        assert_marks_lead_on(file)
        report = file.verify()
        assert report.records == len(good)
        damaged = [line for line in lines if line.strip() and not is_record(line)]
        damaged += [rest] if rest.strip() else []
        assert [text[each.offset : each.offset + each.length] for each in report.damages] == damaged
        assert path.read_bytes() == text
        assert file.repair().moved == sum(map(len, damaged))
        assert file.verify().ok
        kept = path.read_bytes()
        assert records_in(kept.split(b"\n")) == good
        assert set(os.listdir(here)) <= {"a.jsonl", "a.jsonl.damaged"}
        if damaged:
            aside = (here / "a.jsonl.damaged").read_bytes()
            assert all(line in aside for line in damaged)
        file.append({"after": 1})
        assert list(file.records())[-1] == {"after": 1}
        assert path.read_bytes().startswith(kept)


def assert_marks_lead_on(file: JsonlFile) -> None:
    """A reader that goes on from a checkpoint reads just what is left."""
    reader = file.records(errors="skip")
    for _ in range(2):
        next(reader, None)
    mark = reader.checkpoint
    assert same(list(file.records(errors="skip", since=mark)), list(reader))


def zipped(text: bytes) -> None:
    """What can be decompressed of a rotated file is read as the same file without compression is."""
    with folder() as here:
        (here / "a.00000001.jsonl.gz").write_bytes(text)
        plain = unzipped(text)
        *lines, _ = plain.split(b"\n")
        file = JsonlFile(here / "a.jsonl")
        found = list(file.records(errors="skip"))
        good = records_in(lines)
        assert same(found[: len(good)], [json.loads(line) for line in good])
        assert len(found) - len(good) in (0, 1)  # the last line of a rotated file needs no newline
        report = file.verify()
        assert report.records == len(found)
        repaired = file.repair()
        assert repaired.records == len(found)
        assert file.verify().ok
        assert same(list(file.records()), found)
        assert len(os.listdir(here)) == 1 + bool(repaired.side_files)


def unzipped(text: bytes) -> bytes:
    """As much as the standard library gets out of it."""
    out = b""
    with contextlib.suppress(Exception):
        file = gzip.GzipFile(fileobj=io.BytesIO(text))
        while piece := file.read1(1 << 16):
            out += piece
    return out


def compressed_log(text: bytes) -> None:
    """The same, of bytes that somebody compressed, and perhaps cut off."""
    whole = gzip.compress(text, compresslevel=1, mtime=0)
    zipped(whole)
    zipped(whole[: len(whole) - len(text) % 20])


def checkpoint(text: bytes) -> None:
    """What is no checkpoint is a ValueError; from any other, one reads records of the log, in their order."""
    with folder() as here:
        (here / "a.jsonl").write_bytes(b"".join(b"%d\n" % number for number in range(50)))
        (here / "a.00000001.jsonl").write_bytes(b"".join(b"%d\n" % number for number in range(-50, 0)))
        since = text.decode("utf-8", "surrogateescape")
        try:
            parse_checkpoint(since)
        except ValueError as error:
            assert len(str(error)) < 1000  # noqa: PT017
            return
        found = list(JsonlFile(here / "a.jsonl").records(since=since, errors="skip"))
        assert found == sorted({*found} & {*range(-50, 50)})


def segment_names(text: bytes) -> None:
    """Names of files are segments, documents or litter of whoever they are, and others are left alone."""
    names = {os.fsdecode(name)[:100] for name in text.split(b"/") if name and b"\0" not in name} - {".", ".."}
    with folder() as here:
        for name in names:
            with contextlib.suppress(OSError):
                (here / name).touch()
        there = set(os.listdir(here))
        path = str(here / "a.jsonl")
        segments = segments_of(path)
        assert [each.number for each in segments] == sorted({each.number for each in segments})
        assert {os.path.basename(each.file_name) for each in segments} <= there
        for name in there:
            key = key_of(name, ".json")
            assert key is None or name_of(key, ".json") == name
            assert is_litter(name) in (True, False)
        removed = {os.path.basename(each.path) for each in prune(path, keep=1)}
        gone = there - set(os.listdir(here))
        assert {name.removesuffix(".gz") for name in gone} == removed


def append_command(text: bytes) -> None:
    """The lines that are JSON are appended, byte for byte but for spaces around them; the others are refused."""
    with folder() as here, open(here / "input", "w+b") as given:
        given.write(text)
        given.seek(0)
        said = io.StringIO()
        before, sys.stdin = sys.stdin, io.TextIOWrapper(given)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                status = main(["append", str(here / "a.jsonl")])
        finally:
            sys.stdin.detach()
            sys.stdin = before
        lines = [line for line in text.split(b"\n") if line.strip()]
        wanted = [line.strip() for line in lines if is_record(line) and not has_constants(line)]
        path = here / "a.jsonl"
        assert (path.read_bytes() if path.exists() else b"") == b"".join(line + b"\n" for line in wanted)
        assert status == (DONE if len(wanted) == len(lines) else NO)
        assert "\x1b" not in said.getvalue()


def has_constants(line: bytes) -> bool:
    """Whether there is something in it that only Python takes for JSON."""
    found: list[str] = []
    json.JSONDecoder(parse_constant=found.append).decode(str(line, "utf-8"))
    return bool(found)


# ---------------------------------------------------------------------------------------------------------------------
# States, histories, documents


def state(name: str, text: bytes) -> None:
    """A file is a state, which can be edited and then is as it was but for that; or it is damage, and stays."""
    with folder() as here:
        path = here / name
        path.write_bytes(text)
        file = StateFile(path, durable=False)
        try:
            before = file.load()
        except DamagedState as error:
            assert len(str(error)) < 1000  # noqa: PT017
            assert path.read_bytes() == text
            return
        if name.endswith(".json"):
            expected = json.loads(str(text, "utf-8-sig"))
            assert before.revision == expected.pop("revision", 0)
            assert before.data == expected or not same(before.data, before.data)
        try:
            with file.edit() as data:
                data["added"] = 1
        except ValueError:  # such as a number that cannot be written as it was
            assert path.read_bytes() == text
            return
        after = file.load()
        if not (same(before.data.get("added"), 1)):
            assert after.revision == before.revision + 1
        assert same_but_for_order(after.data, {**before.data, "added": 1})
        assert set(os.listdir(here)) <= {name, name + ".lock"}


def same_but_for_order(one: Any, other: Any) -> bool:
    from holdfast._changes import identical

    return identical(one, other, ordered=False)


def json_state(text: bytes) -> None:
    """A state in JSON."""
    state("a.json", text)


def yaml_state(text: bytes) -> None:
    """A state in YAML."""
    state("a.yaml", text)


def toml_state(text: bytes) -> None:
    """A state in TOML."""
    state("a.toml", text)


def history(text: bytes) -> None:
    """Any history can be read, pruned and gone on with, and tells of no state that cannot have been."""
    with folder() as here:
        file = StateFile(here / "a.json", history=True, durable=False)
        path = here / "a.json.history.jsonl"
        file.save({"number": 0})
        path.write_bytes(path.read_bytes() + text)
        for change in file.history():
            assert change.time.tzinfo is not None
            str(change)
            with contextlib.suppress(LookupError):
                file.at(change.revision)
        file.history(limit=2, since=1)
        with warnings.catch_warnings(record=True):
            file.save({"number": 1})
        assert file.at(file.load().revision).data == {"number": 1}
        file.prune_history(0)
        assert file.at(file.load().revision).data == {"number": 1}


def document(text: bytes) -> None:
    """A document is what JSON says it is, or an error, and what is written in its place is read again."""
    with folder() as here:
        (here / "a.json").write_bytes(text)
        (here / (name_of("A" * 300, ".json") + "~key")).write_bytes(text)
        (here / name_of("A" * 300, ".json")).write_bytes(b"1")
        store = DocumentStore(here, durable=False)
        try:
            found = store["a"]
        except ValueError:
            assert not is_record(text)
        else:
            assert same(found, json.loads(text))
        assert {key for key in store if key != "A" * 300} == {"a"}
        store["a"] = 2
        store.close()
        again = DocumentStore(here)
        assert again["a"] == 2
        again.close()


def tail_command(text: bytes) -> None:
    """The command shows the last records as they are, and ends with the status of damage if there is any."""
    with folder() as here:
        (here / "a.jsonl").write_bytes(text)
        said, wrong = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            status = main(["tail", "-n", "all", str(here / "a.jsonl")])
        *lines, _ = text.split(b"\n")
        assert status == (NO if any(line.strip() and not is_record(line) for line in lines) else DONE)
        assert said.buffer.getvalue() == b"".join(line + b"\n" for line in records_in(lines))  # type: ignore[attr-defined]
        assert "\x1b" not in wrong.getvalue()


READERS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader
    for reader in (
        owner,
        soft_lock,
        log,
        zipped,
        compressed_log,
        checkpoint,
        segment_names,
        append_command,
        tail_command,
        json_state,
        yaml_state,
        toml_state,
        history,
        document,
    )
}
