"""Files whose contents somebody wrote who means harm, and names and keys that are no names.

`make test-hostile` runs this. Each case says what must come of it; what comes of anything at all, `make fuzz` asks.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path

import pytest

import evidence
from holdfast import (
    DamagedLine,
    DamagedState,
    DocumentStore,
    FileLock,
    JsonlFile,
    SoftFileLock,
    StateFile,
    Timeout,
    holders,
)
from holdfast.owner import Owner, host_name

MB = 1 << 20
BOMB = (1024 if evidence.FULL else 192) * MB
ROOM = 160 * MB  # which is far less than a bomb, and more than what Python and some lines need
GIGANTIC = 200 * MB  # for a line, of which readers have up to five copies for a moment

pytestmark = pytest.mark.timeout(3600)  # a busy machine takes its time over bombs
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

# ---------------------------------------------------------------------------------------------------------------------
# Records in soft locks

ME = Owner.myself()
HOST = host_name().encode()
NO_OWNERS = {
    "empty": b"",
    "no newline": b"%d\n%b" % (os.getpid(), HOST),
    "negative": b"-1\n%b\n5\n" % HOST,
    "zero": b"0\n%b\n5\n" % HOST,
    "huge": b"9" * 300 + b"\n%b\n5\n" % HOST,
    "hexadecimal": b"0x10\n%b\n5\n" % HOST,
    "float": b"1e3\n%b\n5\n" % HOST,
    "spaces": b" 99 \n%b\n5\n" % HOST,
    "underscore": b"9_9\n%b\n5\n" % HOST,
    "other digits": "٣\n".encode() + HOST + b"\n5\n",
    "NUL": b"99\0\n%b\n5\n" % HOST,
    "all NUL": b"\0" * 1024,
    "no UTF-8": b"99\n\xff\xfe\n5\n",
    "no host": b"99\n\n5\n",
    "long host": b"99\n" + b"h" * 254 + b"\n5\n",
    "CR": b"99\r%b\r5\r\n" % HOST,
    "one line": b"99\n",
    "four lines": b"99\n%b\n5\n6\n" % HOST,
    "strange start": b"99\n%b\nsoon\n" % HOST,
    "negative start": b"99\n%b\n-5\n" % HOST,
    "JSON": b'{"pid": 99}\n',
    "longer than any": b"99\n%b\n" % HOST + b"5" * 2000 + b"\n",
}
OWNERS_ELSEWHERE = {
    "another host": b"99\nelsewhere.example\n5\n",
    "another namespace": b"99\n%b?pidns-1\n5\n" % HOST,
    "init": b"1\n%b\n" % HOST,
    "ourselves": ME.record(),
    "ourselves without a start": b"%d\n%b\n" % (ME.pid, HOST),
}


@pytest.mark.parametrize(
    "record", [*NO_OWNERS.values(), *OWNERS_ELSEWHERE.values()], ids=[*NO_OWNERS, *OWNERS_ELSEWHERE]
)
def test_a_lock_whose_owner_is_not_known_to_be_dead_stays(tmp_path, record):
    path = tmp_path / "a.lock"
    path.write_bytes(record)
    lock = SoftFileLock(path, timeout=0)
    with pytest.raises(Timeout) as raised:
        lock.acquire()
    assert str(raised.value).isprintable()
    assert path.read_bytes() == record
    assert isinstance(holders(path), list)
    assert lock.pid is None or record in OWNERS_ELSEWHERE.values()
    lock.release(force=True)
    assert path.read_bytes() == record


@linux_only
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be two users")
def test_a_lock_whose_owner_is_somebody_elses_process_stays(tmp_path):
    with subprocess.Popen(["/bin/sleep", "600"], user=65534, group=65534, extra_groups=[]) as other:
        from holdfast.owner import _start_token

        try:
            (tmp_path / "a.lock").write_bytes(Owner(other.pid, host_name(), _start_token(other.pid)).record())
            with pytest.raises(Timeout, match=str(other.pid)):
                SoftFileLock(tmp_path / "a.lock", timeout=0).acquire()
        finally:
            other.kill()
    with SoftFileLock(tmp_path / "a.lock", timeout=0):  # and it is taken over when that has ended
        pass


@posix_only
def test_a_gigantic_record_is_not_read(tmp_path):
    with open(tmp_path / "a.lock", "wb") as file:
        file.truncate(1 << 40)
    limited(
        """
        from holdfast import SoftFileLock, Timeout, holders
        try:
            SoftFileLock("a.lock", timeout=0).acquire()
        except Timeout as error:
            assert "a.lock" in str(error)
        else:
            raise AssertionError
        assert holders("a.lock") == []
        """,
        tmp_path,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Names and keys

FACADES = [FileLock, SoftFileLock, JsonlFile, StateFile, DocumentStore]


def use(kind, path):
    thing = kind(path)
    if kind is JsonlFile:
        thing.append({"a": 1})
        assert list(thing) == [{"a": 1}]
        thing.close()
    elif kind is StateFile:
        thing.save({"a": 1})
        assert thing.load().data == {"a": 1}
    elif kind is DocumentStore:
        thing["a"] = 1
        thing.close()
    else:
        with thing:
            pass


@pytest.mark.parametrize("kind", FACADES)
@pytest.mark.parametrize("name", ["a\0b", "\0", "", "a\0.jsonl"])
def test_what_no_file_can_be_called_is_a_value_error(tmp_path, monkeypatch, kind, name):
    if kind is DocumentStore and not name:
        pytest.skip("a store without a name is in the working directory, as everywhere in os.path")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)):
        use(kind, name)
    assert os.listdir(tmp_path) == []


@posix_only
@pytest.mark.parametrize("kind", FACADES)
@pytest.mark.parametrize("name", ["x" * 4096, "x" * 300, "/".join(["x" * 100] * 60)])
def test_a_name_that_is_too_long_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"(?i)too long"):
        use(kind, name)
    assert not [file for _, _, files in os.walk(tmp_path) for file in files]


NAMES = [
    "a\nb",
    "a\r",
    "\udcff\udc80",
    "CON",
    "a.",
    "a:b",
    "~",
    "-rf",
    "a b",
    "\u202etxt",
    "é",
    "é",
    "A",
    "a",
    "*",
    "a\\b",
    "%s",
    "$(x)",
    "\x1b[2J",
]


@posix_only
@pytest.mark.parametrize("kind", FACADES)
def test_strange_names_are_names(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / "folder").mkdir()
        use(kind, os.path.join("folder", name))
        assert all(name in made for made in os.listdir("folder"))
        shutil.rmtree("folder")
    assert os.listdir(tmp_path) == []


KEYS = [
    "",
    ".",
    "..",
    "../x",
    "/",
    "/etc/passwd",
    "a/../../b",
    "a\0b",
    "\0",
    "\n",
    "a\r\nb",
    "CON",
    "con",
    "nul",
    "aux.json",
    "a.",
    "a ",
    "a:b",
    "é",
    unicodedata.normalize("NFD", "é"),
    "A",
    "a",
    "%2e%2e",
    "~",
    "~long-",
    "~key",
    "\udcff",
    "\ud800",
    "x" * 4096,
    "x" * 4095 + "y",
    ".lock",
    "a.json",
    "*",
    "\x1b[2J",
    "\U0001f9ff",
    "K",
    "\u212a",
]


def test_every_text_is_a_key_and_no_two_share_a_document(tmp_path):
    store = DocumentStore(tmp_path / "store")
    for number, key in enumerate(KEYS):
        store[key] = number
    store.close()
    again = DocumentStore(tmp_path / "store")
    assert {key: again[key] for key in KEYS} == {key: number for number, key in enumerate(KEYS)}
    assert {*again} == {*KEYS}
    again.close()
    assert os.listdir(tmp_path) == ["store"]
    names = [name for name in os.listdir(tmp_path / "store") if name != ".lock"]
    assert all(name.isascii() and name == name.lower() and len(name) < 240 for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# Logs

LINES = {
    "good": b'{"a": 1}',
    "CRLF": b'{"a": 2}\r',
    "blank": b"  \t ",
    "BOM": b'\xef\xbb\xbf{"a": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16-le"),
    "NUL": b'{"a": "\0"}',
    "NULs": b"\0" * 5000,
    "half a character": b'{"a": "\xc3"}',
    "an overlong one": b'{"a": "\xc0\xaf"}',
    "a surrogate": b'{"a": "\xed\xa0\x80"}',
    "an escaped surrogate": b'{"a": "\\ud800"}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep and cut": b'{"a":' * 100_000,
    "NaN": b"NaN",
    "Infinity": b'{"a": -Infinity}',
    "a number of many digits": b"9" * 5000,
    "a number that is too large": b"1e99999",
    "a long text": b'"' + b"x" * MB + b'"',
    "twice the same key": b'{"a": 1, "a": 2}',
    "control characters": b'"\x1b[2J"',
    "two records": b'{"a": 1}{"a": 2}',
    "a form feed": b"\x0c",
    "no JSON": b"True",
}


def is_record(line):
    """What Python's json says of it."""
    try:
        json.loads(line.decode()) if not line.startswith(b"\xef\xbb\xbf") else 1 / 0
    except (ValueError, RecursionError, ZeroDivisionError):
        return False
    return b"\0" not in line


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", LINES)
def test_a_strange_line_is_a_record_or_damage_and_the_others_are_read(tmp_path, name, zipped):
    line = LINES[name]
    text = b'{"before": 1}\n' + line + b'\n{"after": 1}\n'
    path = tmp_path / "a.jsonl"
    if zipped:
        (tmp_path / "a.00000001.jsonl.gz").write_bytes(gzip.compress(text))
    else:
        path.write_bytes(text)
    log = JsonlFile(path)
    good = is_record(line)
    found = list(log.records(errors="skip"))
    assert len(found) == 2 + good
    assert found[0] == {"before": 1}
    assert found[-1] == {"after": 1}
    report = log.verify()
    assert report.ok == (good or not line.strip())
    assert log.repair().records == report.records
    assert log.verify().ok
    assert len(list(log)) == 2 + good


def limited(code, folder):
    """Run a program that gets too little memory to have a bomb in it."""
    prelude = f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({ROOM + 64 * MB}, {ROOM + 64 * MB}))\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


READ_ALL = """
    from holdfast import JsonlFile
    log = JsonlFile("a.jsonl")
    assert sum(1 for _ in log) == COUNT
    report = log.verify()
    assert report.ok and report.records == COUNT
"""


@linux_only
def test_a_compressed_file_that_grows_a_thousandfold_is_read_in_little_memory(tmp_path):
    line = b'{"a": "' + b"a" * 1000 + b'"}\n'
    with gzip.open(tmp_path / "a.00000001.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(BOMB // (len(line) * 1000)):
            file.write(line * 1000)
    limited(READ_ALL.replace("COUNT", str(BOMB // (len(line) * 1000) * 1000)), tmp_path)


@linux_only
def test_a_log_with_much_damage_is_repaired_in_little_memory(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        for _ in range(BOMB // (4 * MB)):
            file.write(b'{"a": 1}\n' + b"\0" * (4 * MB) + b"\n")
    limited(
        """
        from holdfast import JsonlFile
        log = JsonlFile("a.jsonl")
        assert not log.repair().ok
        assert log.verify().ok
        """,
        tmp_path,
    )


@linux_only
def test_a_gigantic_line_is_an_error_of_memory_and_changes_nothing(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n')
        file.truncate(1 << 40)
    limited(
        """
        import os
        from holdfast import JsonlFile
        log = JsonlFile("a.jsonl")
        records = log.records()
        assert next(records) == {"a": 1}
        for attempt in (lambda: next(records), lambda: list(log.records(errors="skip")), log.verify, log.repair):
            try:
                attempt()
            except MemoryError:
                pass
            else:
                raise AssertionError
            assert os.listdir() == ["a.jsonl"] and os.stat("a.jsonl").st_size == 1 << 40
        log.append({"a": 2})
        with open("a.jsonl", "rb") as file:
            file.seek(1 << 40)
            assert file.read() == b'\\n{"a":2}\\n'
        JsonlFile("b.jsonl").append({"a": 3})
        assert list(JsonlFile("b.jsonl")) == [{"a": 3}]
        """,
        tmp_path,
    )


def test_a_gigantic_line_is_damage_where_there_is_memory_for_it(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"a": 1}\n')
        file.seek(GIGANTIC, os.SEEK_CUR)
        file.write(b'\n{"a": 2}\n')
    records = JsonlFile(path).records()
    assert next(records) == {"a": 1}
    with pytest.raises(DamagedLine) as raised:
        next(records)
    assert (raised.value.offset, raised.value.reason) == (9, "NUL bytes")
    assert len(str(raised.value)) < 1000
    assert list(records) == [{"a": 2}]
    damages = [(damage.offset, damage.length) for damage in JsonlFile(path).verify().damages]
    assert damages == [(9, GIGANTIC)]


# ---------------------------------------------------------------------------------------------------------------------
# States

STATES = {
    "a.json": [
        b"",
        b"\0" * 100,
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b'{"a": 1',
        b'{"a": 1}}',
        b"\xff",
        b'{"a": "\xc3"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"revision": -1}',
        b'{"revision": 1e999}',
        b'{"revision": "1"}',
        b'{"revision": true}',
        b'{"revision": ' + b"9" * 4000 + b"}",
        b'{"a": 1}\0',
        b"NaN",
    ],
    "a.yaml": [
        b"\0",
        b"- 1",
        b"text",
        b"a: [",
        b"a: *b",
        b"\xff",
        b"a: " + b"[" * 5000 + b"]" * 5000,
        b"a: 1\n---\nb: 2\n",
        b"a: " + b"9" * 5000,
        b"a: !!int x",
        b"a: 2001-99-99",
        b"a: !!python/object/apply:os.getpid []",
        b"%YAML 9.9\n--- a",
        b"a: 1\na: 2\n",
        b"a: \x1b",
        b"? {a: b}\n: 3\n",
        b"<<: 1",
        b"<<: [1, 2]",
        b"a: !!binary \xc3\xbf",
        b"\xef\xbb\xbf[",
    ],
    "a.toml": [
        b"a",
        b"a = ",
        b"a = 1\na = 2",
        b"[a]\n[a]",
        b"a = " + b"9" * 5000,
        b"a = " + b"[" * 5000 + b"]" * 5000,
        b"\0",
        b"\xff",
        b"a = 2001-99-99",
        b"a.b = 1\na = 2",
        b"a = '''",
        b"a = 1e999999\nb",
        b"revision = 'x'",
        b"[[a]]\n[a]",
        b"= 1",
    ],
}


@pytest.mark.parametrize(
    ("name", "contents"),
    [(name, text) for name, texts in STATES.items() for text in texts],
    ids=lambda value: repr(value[:30]),
)
def test_what_is_no_state_is_damage_and_is_left_alone(tmp_path, name, contents):
    path = tmp_path / name
    path.write_bytes(contents)
    state = StateFile(path, history=True)
    for attempt in (
        state.load,
        lambda: state.save({"a": 1}),
        lambda: state.update(dict),
        lambda: state.edit().__enter__(),
    ):
        with pytest.raises(DamagedState) as raised:
            attempt()
        assert str(path) in str(raised.value)
        assert len(str(raised.value)) < 1000 + len(str(path))
    assert path.read_bytes() == contents


@posix_only
def test_a_state_that_is_no_file_of_this_size_is_an_error_of_memory_or_of_the_system(tmp_path):
    with open(Path(tmp_path, "a.json"), "wb") as file:
        file.truncate(1 << 40)
    limited(
        """
        from holdfast import StateFile
        try:
            StateFile("a.json").load()
        except (MemoryError, OSError):
            pass
        else:
            raise AssertionError
        """,
        tmp_path,
    )
