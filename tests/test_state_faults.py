"""What a StateFile does when the system fails or its process dies: the old state or the new one, and never another."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from conftest import posix_only
from holdfast import StateConflict, StateFile
from support import Child, is_free

pytestmark = posix_only
if os.name == "posix":
    from interposed import Failure, crash_at, interposed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


def test_a_state_that_is_replaced_while_it_is_read_over_a_network_is_read_again(path):
    StateFile(path).save({"n": 1})
    stale = iter([errno.ESTALE])
    with interposed(lambda call: next(stale, None) if call == "fstat" else None):
        assert StateFile(path).load().data == {"n": 1}
    assert not [*stale]


def test_an_edit_whose_save_fails_has_released_the_lock(path):
    state = StateFile(path)
    state.save({"n": 1})
    with pytest.raises(OSError, match="disk"), Failure("rename", errno.EIO, 1).injected(), state.edit() as data:
        data["n"] = 2
    assert is_free(f"{path}.lock")
    assert state.load().data == {"n": 1}


WRITER = """
    from holdfast import StateFile
    state = StateFile(args[0], durable=args[1] == "durable")
    say("ready")
    while True:
        with state.edit() as data:
            data["n"] = data.get("n", 0) + 1
            data["text"] = "x" * (data["n"] * 997 % 20000)
"""


@pytest.mark.parametrize("durable", ["durable", "not durable"])
def test_writers_that_are_killed_leave_the_old_state_or_the_new_one(path, durable):
    """Whatever is found is whole: the text is as long as the number says, and the number goes with the revision."""
    for _ in range(20):
        with Child(WRITER, path, durable) as one, Child(WRITER, path, durable) as other:
            one.expect("ready")
            other.expect("ready")
            time.sleep(random.random() * 0.02)  # where it is killed is left to chance
            one.kill()
            other.kill()
        found = StateFile(path).load()
        assert found.data.get("n", 0) == found.revision
        assert len(found.data.get("text", "")) == found.revision * 997 % 20000
    assert StateFile(path).save({}) > 1
    assert sorted(os.listdir(path.parent)) == ["state.json", "state.json.lock"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.path.ismount("/dev/shm"), reason="needs a small file system")
def test_a_full_disk_leaves_the_old_state(path):
    with Child(
        """
        import resource, signal
        from holdfast import StateFile
        state = StateFile(args[0])
        state.save({"n": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            state.save({"n": "x" * 5000})
        except OSError as error:
            say(error.filename == args[0] and "old" in str(error))
        say(state.save({"n": 2}))
        """,
        path,
    ) as child:
        child.expect("True")
        child.expect("2")
        child.join()
    assert sorted(os.listdir(path.parent)) == ["state.json", "state.json.lock"]


class Model(RuleBasedStateMachine):
    """Two objects on one file, an editor, and processes that crash: the file always is at what the model says."""

    data = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3)
    who = st.integers(0, 1)

    def __init__(self):
        super().__init__()
        self.folder = Path(os.environ["PYTEST_TMP"], os.urandom(8).hex())
        self.folder.mkdir()
        self.path = self.folder / "state.json"
        self.states = [StateFile(self.path, durable=False, history=bool(number)) for number in range(2)]
        self.seen = [state.load() for state in self.states]
        self.revision, self.content = 0, {}
        self.changes = 0  # how often the file was given other contents
        self.seen_text = [None, None]

    def text(self):
        """What is in the file; None if there is none. An editor may have brought back what was there before."""
        return self.path.read_text() if self.path.exists() else None

    def now(self, revision, content):
        self.revision, self.content = revision, content
        self.changes += 1

    @rule(who=who)
    def load(self, who):
        self.seen[who] = self.states[who].load()
        self.seen_text[who] = self.text()
        assert (self.seen[who].revision, self.seen[who].data) == (self.revision, self.content)

    @rule(who=who, data=data)
    def save(self, who, data):
        assert self.states[who].save(data) == self.revision + 1
        self.now(self.revision + 1, data)

    @rule(who=who, data=data)
    def save_if_it_is_as_seen(self, who, data):
        if self.seen_text[who] == self.text():
            assert self.states[who].save(data, expect=self.seen[who]) == self.revision + 1
            self.now(self.revision + 1, data)
            return
        with pytest.raises(StateConflict) as caught:
            self.states[who].save(data, expect=self.seen[who])
        assert caught.value.found == self.revision

    @rule(who=who, key=st.sampled_from("abc"), value=st.integers(0, 3))
    def edit(self, who, key, value):
        with self.states[who].edit() as found:
            assert found == self.content
            found[key] = value
        changed = {**self.content, key: value}
        if changed != self.content or not self.path.exists() or self.revision == self.changes == 0:
            self.now(self.revision + 1, changed)

    @rule(who=who)
    def fail_in_an_edit(self, who):
        try:
            with self.states[who].edit() as found:
                found["a"] = "never"
                raise KeyError
        except KeyError:
            pass

    @precondition(lambda self: self.changes)
    @rule(data=data, keep=st.booleans())
    def change_by_an_editor(self, data, keep):
        revision = self.revision if keep else self.revision + 5
        text = json.dumps({**data, "revision": revision}, indent=random.Random(self.changes).choice([None, 1, 3]))
        changed = text != self.path.read_text()
        self.path.write_text(text)
        if changed:
            self.now(revision, data)

    @rule(who=who, data=data, turn=st.integers(1, 25))
    def crash_while_saving(self, who, data, turn):
        crash_at(turn, lambda: self.states[who].save(data))
        found = StateFile(self.path).load()
        if (found.revision, found.data) != (self.revision, self.content):
            assert (found.revision, found.data) == (self.revision + 1, data)
            self.now(self.revision + 1, data)

    def teardown(self):
        assert self.states[1].history_errors == 0
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def _folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.getbasetemp()))


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
