"""What others put in the way of our files, in a directory that is for all or for a name that can be foreseen."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import pytest

from conftest import PYPY
from holdfast import DamagedLine, DocumentStore, JsonlFile, StateFile, atomic_write, documents, write_text
from holdfast._segments import segment_path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links, hard links and FIFOs")

as_root = pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root can be two users")
NOBODY = 65534


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that has nothing to do with what happens in the folder beside it."""
    path = tmp_path / "victim"
    path.write_bytes(b'{"precious": 1}\nmore\n{"precious": 2}\n')
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.fixture
def sticky(folder: Path) -> Path:
    """A directory such as /tmp, in which another user has put something."""
    folder.chmod(0o1777)
    return folder


def given_away(path: Path) -> Path:
    """The same, but somebody else's."""
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return path


def test_compressing_does_not_follow_a_link(folder, victim):
    before = victim.read_bytes()
    log = JsonlFile(folder / "events.jsonl", compress=True)
    log.append({"a": 1})
    log.rotate()
    log.append({"b": 2})
    (folder / "events.00000002.jsonl").write_bytes(b'{"c": 3}\n')
    (folder / "events.00000002.jsonl.gz").symlink_to(victim)
    with pytest.raises(OSError, match="not a regular file"):
        log.rotate()
    assert victim.read_bytes() == before
    assert {"c": 3} in list(JsonlFile(folder / "events.jsonl"))


def test_the_last_number_a_rotated_file_can_have_is_no_way_to_make_records_vanish(folder):
    path = folder / "events.jsonl"
    JsonlFile(path).append({"a": 1})
    (folder / f"events.{10**18 - 1}.jsonl").touch()
    with pytest.raises(OSError, match="no number is left"):
        JsonlFile(path).rotate()
    assert list(JsonlFile(path)) == [{"a": 1}]


@pytest.mark.parametrize("place", ["events.00000001.jsonl", "events.00000001.jsonl.gz"])
def test_repairing_does_not_follow_a_link(folder, victim, place):
    if place.endswith(".gz"):
        victim.write_bytes(gzip.compress(victim.read_bytes()))
    before = victim.read_bytes()
    (folder / place).symlink_to(victim)
    JsonlFile(folder / "events.jsonl").append({"a": 1})
    with pytest.raises(OSError, match="symbolic link"):
        JsonlFile(folder / "events.jsonl").repair()
    assert victim.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [place, "events.jsonl"]


def test_repairing_does_not_cut_off_a_file_that_has_another_name(folder, victim):
    victim.write_bytes(b"precious\n")
    os.link(victim, segment_path(str(folder / "events.jsonl"), 1))
    log = JsonlFile(folder / "events.jsonl")
    log.append({"a": 1})
    assert not log.repair().ok
    assert victim.read_bytes() == b"precious\n"
    assert log.verify().ok


def test_pruning_a_history_does_not_follow_a_link(folder, victim):
    state = StateFile(folder / "state.json", history=True)
    for number in range(3):
        state.save({"number": number})
    history = folder / "state.json.history.jsonl"
    os.replace(history, victim)
    before = victim.read_bytes()
    history.symlink_to(victim)
    with pytest.raises(OSError, match="not a regular file"):
        state.prune_history(keep_days=0)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("key", ["jo", "J" * 300])
def test_a_store_of_documents_does_not_follow_a_link_that_came_a_moment_ago(folder, victim, monkeypatch, key):
    before = victim.read_bytes()
    write = documents._put

    def write_a_moment_later(path, data, **settings):
        if not os.path.lexists(path):
            os.symlink(victim, path)
        write(path, data, **settings)

    monkeypatch.setattr(documents, "_put", write_a_moment_later)
    store = DocumentStore(folder)
    store[key] = {"a": 1}
    with pytest.raises(OSError, match="not a regular file"):
        store.flush()
    assert victim.read_bytes() == before
    monkeypatch.undo()
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()
    store.close()
    assert DocumentStore(folder)[key] == {"a": 1}


@as_root
@pytest.mark.parametrize("make", [lambda path: atomic_write(path, dangling=True).write("{}"),
                                  lambda path: StateFile(path).save({})])  # fmt: skip
@pytest.mark.parametrize("exists", [True, False])
def test_somebody_elses_link_in_a_directory_for_all_is_not_followed(sticky, tmp_path, make, exists):
    target = tmp_path / "settings.json"
    if exists:
        target.write_bytes(b"{}")
    link = sticky / "settings.json"
    link.symlink_to(target)
    given_away(link)
    with pytest.raises(PermissionError, match="somebody else put into a directory for all"):
        make(link)
    assert target.exists() == exists
    assert os.listdir(sticky) == ["settings.json"]


@as_root
@pytest.mark.parametrize("make", [lambda path: atomic_write(path, dangling=True).write("{}"),
                                  lambda path: StateFile(path).save({})])  # fmt: skip
def test_somebody_elses_link_is_not_followed_whenever_it_comes_and_goes(sticky, victim, monkeypatch, make):
    before, look, link = victim.read_bytes(), os.lstat, sticky / "settings.json"

    def look_while_it_comes_and_goes(path, **how):
        if path == str(link):
            link.unlink(missing_ok=True)
            if next(turns, False):
                link.symlink_to(victim)
                given_away(link)
        return look(path, **how)

    monkeypatch.setattr(os, "lstat", look_while_it_comes_and_goes)
    for there in product([True, False], repeat=6):
        turns = iter(there)
        with suppress(OSError):
            make(str(link))
        assert victim.read_bytes() == before, f"the link was there, or not: {there}"


@as_root
def test_our_own_link_in_a_directory_for_all_is_followed(sticky, tmp_path):
    (sticky / "settings.json").symlink_to(tmp_path / "target.json")
    write_text(sticky / "settings.json", "{}", dangling=True)
    assert (tmp_path / "target.json").read_text() == "{}"


@as_root
def test_a_link_of_ours_that_leads_to_somebody_elses_is_not_followed(sticky, tmp_path):
    (sticky / "theirs").symlink_to(tmp_path / "target.json")
    given_away(sticky / "theirs")
    (tmp_path / "ours").symlink_to("shared/theirs")
    with pytest.raises(PermissionError, match="somebody else"):
        write_text(tmp_path / "ours", "{}", dangling=True)
    assert not (tmp_path / "target.json").exists()


@as_root
def test_damaged_lines_are_not_given_to_whoever_made_a_file_for_them(sticky):
    log = sticky / "events.jsonl"
    log.write_bytes(b'{"a": 1}\nsecret\n')
    (sticky / "events.jsonl.damaged").touch()
    given_away(sticky / "events.jsonl.damaged")
    with pytest.raises(PermissionError, match="somebody else's"):
        JsonlFile(log).repair()
    assert log.read_bytes() == b'{"a": 1}\nsecret\n'
    assert (sticky / "events.jsonl.damaged").read_bytes() == b""


@as_root
@pytest.mark.parametrize("how", ["file", "hard link"])
def test_a_history_is_not_given_to_whoever_made_a_file_for_it(sticky, victim, how):
    history = sticky / "state.json.history.jsonl"
    if how == "file":
        history.touch()
        given_away(history)
    else:
        os.link(victim, history)
    before = history.read_bytes()
    state = StateFile(sticky / "state.json", history=True)
    with pytest.warns(RuntimeWarning, match="somebody else's"):
        state.save({"secret": 1})
    assert history.read_bytes() == before
    assert state.load().data == {"secret": 1}


@as_root
def test_a_history_that_was_given_to_the_states_owner_goes_on(sticky):
    state = StateFile(sticky / "state.json", history=True)
    (sticky / "state.json").write_text("{}")
    given_away(sticky / "state.json")
    for number in range(2):
        state.save({"number": number})
    assert (sticky / "state.json.history.jsonl").stat().st_uid == NOBODY
    assert len(state.history()) == 3  # and what it was before


HEAD = '"pid":1,"host":"x","before":"","after":""'


@pytest.mark.parametrize(
    "record",
    [
        '{"revision":1e999,"behind":0,"time":"2026-01-01T00:00:00+00:00",' + HEAD + ',"changes":[],"state":{}}',
        '{"revision":7,"behind":0,"time":"2026-01-01T00:00:00",' + HEAD + ',"changes":[],"state":{}}',
        '{"revision":7,"behind":0,"time":"0001-01-01T00:00:00+14:00",' + HEAD + ',"changes":[],"state":{}}',
        '{"revision":7,"behind":0,"time":"9999-12-31T23:59:59-14:00",' + HEAD + ',"changes":[],"state":{}}',
        '{"revision":7,"behind":5,"time":"2026-01-01T00:00:00+00:00",' + HEAD + ',"changes":[{"path":5,"new":1}]}',
        '{"revision":7,"behind":0,"time":"2026-01-01T00:00:00+00:00","pid":[],"host":{},"before":1,"after":[],'
        '"changes":[],"state":{"$items":[[{"a":1},2]]}}',
        '{"revision":7,"behind":0,"time":"2026-01-01T00:00:00+00:00",' + HEAD + ',"changes":{"a":1},"state":{}}',
        '{"revision":7,"behind":0,"time":"2026-01-01T00:00:00+00:00",' + HEAD + ',"changes":[],"state":"\\ud800"}',
        "[]",
        "null",
        "\x1b[2J",
    ],
)
def test_a_strange_record_does_not_keep_a_history_from_being_read_and_continued(tmp_path, record):
    state = StateFile(tmp_path / "state.json", history=True)
    state.save({"number": 1})
    with (tmp_path / "state.json.history.jsonl").open("a") as file:
        file.write(record + "\n")
    state.save({"number": 2})
    assert state.at(2).data == {"number": 2}
    assert [change.revision for change in state.history()][-1] == 2
    assert state.history(since=datetime(2026, 6, 1, tzinfo=timezone.utc))
    assert all(change.time.astimezone() for change in state.history())
    state.prune_history(keep_days=0)
    assert state.at(2).data == {"number": 2}


def test_deep_values_in_a_history_are_no_way_to_crash_it(tmp_path):
    state = StateFile(tmp_path / "state.json", history=True)
    state.save({"deep": 0})
    deep = "[" * 700 + "]" * 700
    head = {"revision": 2, "behind": 9, "time": "2026-01-01T00:00:00+00:00", "pid": 1, "host": "x", "after": "b"}
    left = json.loads((tmp_path / "state.json.history.jsonl").read_text())["after"]
    record = json.dumps({**head, "before": left, "changes": "CHANGES"}).replace(
        '"CHANGES"', f'[{{"path":"/deep","old":0,"new":{deep}}},{{"path":"/deep","old":{deep},"new":1}}]'
    )
    with (tmp_path / "state.json.history.jsonl").open("a") as file:
        file.write(record + "\n")
    # PyPy's stack has room for them.
    with suppress(LookupError) if PYPY else pytest.raises(LookupError, match="revision 2"):
        state.at(2)


@pytest.mark.parametrize("errors", ["skip", "raise"])
def test_what_is_left_of_a_line_in_a_compressed_file_that_was_cut_off_is_no_record(folder, errors):
    whole = gzip.compress(b"1\n234567\n", compresslevel=0)
    (folder / "events.00000001.jsonl.gz").write_bytes(whole[: whole.index(b"234567") + 2])
    records = JsonlFile(folder / "events.jsonl").records(errors=errors)
    assert next(records) == 1
    if errors == "raise":
        with pytest.raises(DamagedLine, match="cannot be decompressed"):
            next(records)
    assert list(records) == []
