"""What others wrote into files, names of files and command lines does nothing to a terminal that shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from threading import Thread

import pytest

from conftest import posix_only
from holdfast import JsonlFile, StateFile
from holdfast.cli import main
from support import HOLD, PATIENCE, Child

pytestmark = posix_only

# ESC, the same as one character, DEL, CR, a change of direction, and a byte of a file name that is no text.
EVIL = "\x1b]0;evil\x07\x1b[2J\x9b31m\x7f\r\u202etxt"
FORBIDDEN = [b"\x1b", b"\x07", b"\x9b31m", b"\xc2\x9b", b"\x7f", b"\xe2\x80\xae", b"\rtxt", b"\xff"]
EVIL_BYTES = EVIL.encode() + b"\xff"


@pytest.fixture
def on_terminal(tmp_path, monkeypatch):
    """What the command shows on a terminal, and its status."""
    monkeypatch.chdir(tmp_path)

    def run(*words, encoding="utf-8"):
        ours, terminal = os.openpty()
        shown = []
        reader = Thread(target=lambda: shown.extend(pieces_of(ours)))
        reader.start()
        with monkeypatch.context() as patched, open(terminal, "w", encoding=encoding) as output:
            patched.setattr(sys, "stdout", output)
            patched.setattr(sys, "stderr", output)
            status = main(words)
        reader.join(PATIENCE)
        os.close(ours)
        return b"".join(shown).replace(b"\r\n", b"\n"), status

    return run


def pieces_of(terminal):
    """All that is shown on a terminal until it is closed."""
    with suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            yield piece


def assert_harmless(text):
    assert not [part for part in FORBIDDEN if part in text], text


@pytest.fixture
def evil_name(tmp_path):
    """The name of a file that somebody made for us to meet."""
    name = b"evil" + EVIL_BYTES.replace(b"/", b"")
    try:
        (tmp_path / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    (tmp_path / os.fsdecode(name)).unlink()
    return os.fsdecode(name)


def test_records_and_damaged_lines(tmp_path, on_terminal):
    lines = [json.dumps({"a": EVIL}, ensure_ascii=False), '{"b":\r1}', EVIL]
    (tmp_path / "events.jsonl").write_bytes("\n".join(lines).encode() + b"\n" + EVIL_BYTES + b"\n")
    text, status = on_terminal("tail", "events.jsonl")
    assert status == 1
    assert b"evil" in text
    assert_harmless(text)
    assert json.loads(text.splitlines()[0]) == {"a": json.loads(lines[0])["a"]}
    assert_harmless(on_terminal("verify", "events.jsonl")[0])
    assert_harmless(on_terminal("repair", "events.jsonl")[0])


def test_what_the_terminal_has_no_character_for_is_shown_as_its_number(tmp_path, on_terminal):
    (tmp_path / "events.jsonl").write_text('{"a": "é → ü"}\n{"a": 2}\n', encoding="utf-8")
    text, status = on_terminal("tail", "events.jsonl", encoding="iso-8859-1")
    assert (text, status) == (b'{"a": "\xe9 \\u2192 \xfc"}\n{"a": 2}\n', 0)
    (tmp_path / "state.json").write_text('{"a": "→"}', encoding="utf-8")
    assert on_terminal("state", "get", "state.json", "/a", encoding="iso-8859-1") == (b"\\u2192\n", 0)


def test_what_is_no_terminal_gets_records_as_they_are(tmp_path):
    line = json.dumps({"a": EVIL}, ensure_ascii=False).encode() + b"\n"
    (tmp_path / "events.jsonl").write_bytes(line)
    command = [sys.executable, "-m", "holdfast", "tail", "events.jsonl"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=True).stdout == line


def test_names_of_files(tmp_path, on_terminal, evil_name):
    JsonlFile(tmp_path / evil_name).append({"a": 1})
    for words in (["verify"], ["verify", "--json"], ["rotate"], ["repair"], ["repair", "--json"], ["state", "get"]):
        text, _ = on_terminal(*words, evil_name)
        assert_harmless(text)
    for words in (["tail"], ["verify"], ["run", "--no-wait"], ["doctor"], ["rotate"]):
        text, _ = on_terminal(*words, evil_name + "/missing")
        assert_harmless(text)


def test_states_and_their_histories(tmp_path, on_terminal):
    state = StateFile(tmp_path / "state.json", history=True)
    state.save({EVIL: EVIL, "b": EVIL})
    for words in (["get", "state.json"], ["get", "state.json", "/b"], ["history", "state.json"]):
        text, status = on_terminal("state", *words)
        assert status == 0
        assert_harmless(text)
    history = tmp_path / "state.json.history.jsonl"
    record = json.loads(history.read_text(encoding="utf-8"))
    history.write_text(json.dumps({**record, "host": EVIL}) + "\n")
    text, status = on_terminal("state", "history", "state.json")
    assert status == 0
    assert_harmless(text)
    (tmp_path / "state.toml").write_text(f'"{EVIL[-3:]}" = 1\n"\u202etxt" = 1\n"\u202etxt" = 2\n', encoding="utf-8")
    assert_harmless(on_terminal("state", "get", "state.toml")[0])


def test_command_lines_of_those_who_hold_a_lock(tmp_path, on_terminal, evil_name):
    lock = tmp_path / "the.lock"
    with Child(HOLD, lock, "holds" + EVIL) as child:
        child.expect("held")
        for words in (["run", "--no-wait", "the.lock", "true"], ["locks", "."], ["locks", "--json", "."]):
            text, _ = on_terminal(*words)
            assert_harmless(text)


def test_a_fifo_in_the_place_of_a_compressed_file_does_not_hang_the_command(tmp_path, on_terminal):
    (tmp_path / "events.jsonl").write_bytes(b'{"a": 1}\n')
    os.mkfifo(tmp_path / "events.00000001.jsonl.gz")
    text, status = on_terminal("verify", "events.jsonl")
    assert status == 74
    assert b"not a regular file" in text
