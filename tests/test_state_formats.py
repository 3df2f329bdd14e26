"""StateFile in JSON, YAML and TOML, with the user's own codec, and with the user's own classes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

import pytest

from holdfast import DamagedState, StateFile

ruamel = pytest.importorskip("ruamel.yaml")
tomlkit = pytest.importorskip("tomlkit")
msgspec = pytest.importorskip("msgspec")
pydantic = pytest.importorskip("pydantic")

YAML = """\
# what the tool knows
revision: 3   # rises
title: "in quotes"
answer: no
tasks:
  # the first one
  - name: a   # its name
    done: false
  - name: b
    done: true
"""

TOML = """\
# what the tool knows
revision = 3 # rises
since = 2024-02-29

[server]
# where it is
port = 80
names = [
  "a", # the first
  "b",
]
"""


@pytest.fixture
def yaml(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "state.toml"
    path.write_text(TOML)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# YAML


@pytest.mark.parametrize("name", ["state.yaml", "state.yml", "STATE.YAML"])
def test_the_suffix_says_that_it_is_yaml(tmp_path, name):
    path = tmp_path / name
    StateFile(path).save({"theme": "dark"})
    assert path.read_text() == "revision: 1\ntheme: dark\n"
    assert StateFile(path).load().data == {"theme": "dark"}


def test_yaml_data_are_plain(yaml):
    snapshot = StateFile(yaml).load()
    assert snapshot.revision == 3
    expected = {
        "title": "in quotes",
        "answer": "no",
        "tasks": [{"name": "a", "done": False}, {"name": "b", "done": True}],
    }
    assert snapshot.data == expected
    assert {type(snapshot.data), type(snapshot.data["tasks"][0]), type(snapshot.data["title"])} == {dict, str}


def test_comments_order_quotes_and_indentation_of_yaml_are_kept(yaml):
    with StateFile(yaml).edit() as data:
        data["tasks"][0]["done"] = True
        data["tasks"].append({"name": "c", "done": False})
        data["new"] = 1
    expected = YAML.replace("revision: 3", "revision: 4").replace("done: false", "done: true")
    assert yaml.read_text() == expected + "  - name: c\n    done: false\nnew: 1\n"


def test_comments_are_kept_also_when_all_of_the_data_come_anew(yaml):
    state = StateFile(yaml)
    state.save(json.loads(json.dumps({**state.load().data, "title": "another"})))
    assert yaml.read_text() == YAML.replace("revision: 3", "revision: 4").replace("in quotes", "another")


def test_what_is_removed_from_yaml_goes_and_the_rest_stays(yaml):
    with StateFile(yaml).edit() as data:
        del data["title"], data["tasks"][1]
    assert yaml.read_text() == "".join(
        line
        for line in YAML.replace("revision: 3", "revision: 4").splitlines(keepends=True)
        if "title" not in line and line not in ("  - name: b\n", "    done: true\n")
    )


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("yaml", "hosts:\n- a  # primary\n- b  # broken\n- c  # backup\n"),
        ("toml", 'hosts = [\n  "a", # primary\n  "b", # broken\n  "c", # backup\n]\n'),
    ],
)
def test_comments_in_a_list_stay_with_their_items(tmp_path, suffix, text):
    path = tmp_path / f"state.{suffix}"
    path.write_text(text)
    with StateFile(path).edit() as data:
        data["hosts"].pop(0)
    rest = "".join(line for line in text.splitlines(keepends=True) if "primary" not in line)
    assert path.read_text().replace("revision: 1\n", "").replace("revision = 1\n", "") == rest


def test_lists_are_changed_in_any_way(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text("n:  # the numbers\n- 1\n- 2\n- 3\n")
    state = StateFile(path)
    for numbers in [1, 9, 3], [1, 3], [0, 1, 3, 4], [4, 3, 1, 0], [], [7], [7, 7, 7], [[7], 7, {"a": 1}, 7], [{"a": 2}]:
        state.save({"n": numbers})
        assert StateFile(path).load().data == {"n": numbers}


def test_a_file_with_nothing_but_comments_keeps_them(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text("# theme: light\n")
    StateFile(path).save({"theme": "dark"})
    assert path.read_text() == "# theme: light\nrevision: 1\ntheme: dark\n"


@pytest.mark.parametrize("name", ["state.yaml", "state.toml"])
def test_line_ends_of_windows_are_kept(tmp_path, name):
    path = tmp_path / name
    text = "# mine\nrevision: 1\na: 1\n" if name.endswith("yaml") else "# mine\nrevision = 1\na = 1\n"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    with StateFile(path).edit() as data:
        data["b"] = [1, 2]
    written = path.read_bytes()
    assert b"# mine\r\n" in written
    assert written.count(b"\n") == written.count(b"\r\n") > 3


def test_wide_indentation_of_yaml_is_kept(tmp_path):
    path = tmp_path / "state.yaml"
    text = "revision: 1\nserver:  # where\n    port: 80\n    tls:\n        on: true\n"
    path.write_text(text)
    with StateFile(path).edit() as data:
        data["server"]["port"] = 81
    assert path.read_text() == text.replace("revision: 1", "revision: 2").replace("80", "81")


def test_another_order_alone_is_no_change_of_yaml_which_keeps_its_own(yaml):
    with StateFile(yaml).edit() as data:
        data["title"] = data.pop("title")
    assert yaml.read_text() == YAML


def test_yaml_keys_that_are_lists_can_be_kept(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text("? [a, b]\n: 1\n")
    state = StateFile(path, history=True)
    with state.edit() as data:
        data["new"] = 1
    assert state.load().data == {("a", "b"): 1, "new": 1}
    assert (state.at(1).data, state.history_errors) == ({("a", "b"): 1, "new": 1}, 0)


def test_the_same_moment_at_another_place_is_a_change(tmp_path):
    path = tmp_path / "state.toml"
    path.write_text("at = 2024-02-29T12:00:00Z\n")
    with StateFile(path).edit() as data:
        data["at"] = data["at"].astimezone(timezone(timedelta(hours=2)))
    assert "at = 2024-02-29T14:00:00+02:00" in path.read_text()


def test_values_that_share_an_anchor_are_told_apart_when_one_of_them_changes(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text("# a comment\nbase: &base {x: 1}\ncopy: *base\n")
    StateFile(path).save({"base": {"x": 1}, "copy": {"x": 2}})
    assert StateFile(path).load().data == {"base": {"x": 1}, "copy": {"x": 2}}


def test_a_yaml_file_with_nothing_but_comments_is_an_empty_state(tmp_path):
    path = tmp_path / "state.yaml"
    path.write_text("# nothing yet\n")
    assert StateFile(path).load().data == {}


@pytest.mark.parametrize(
    "data",
    [
        {
            "text": "no",
            "number": "1",
            "empty": "",
            "lines": "a\nb\n",
            "space": " x ",
            "null": "null",
            "date": "2024-02-29",
        },
        {"null": None, "float": 1.0, "int": 1, "bool": True, "day": date(2024, 2, 29)},
        {"when": datetime(2024, 2, 29, 12, 30)},
        {1: "int key", None: "null key", "deep": [[], {}, [[{"a": []}]]]},
        {"long": "word " * 100, "umlaut": "Zoë", "smile": "😀"},
        {"tuple": (1, 2)},
    ],
)
def test_yaml_comes_back_as_it_was(tmp_path, data):
    state = StateFile(tmp_path / "state.yaml", history=True)
    state.save({})
    state.save(data)
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}
    assert repr(state.load().data) == repr(expected)
    assert repr(state.at(2).data) == repr(expected)
    assert state.history_errors == 0


@pytest.mark.parametrize(
    ("damaged", "line"),
    [("a: [1\nb: 2\n", 2), ("a: 1\n\ta: 2\n", 2), ("- 1\n", None), ("a: !mine 1\n", 1), ("a: 1\na: 2\n", 2)],
)
def test_damage_in_yaml_is_reported_with_its_line(tmp_path, damaged, line):
    path = tmp_path / "state.yaml"
    path.write_text(damaged)
    with pytest.raises(DamagedState) as caught:
        StateFile(path).save({})
    assert caught.value.line == line
    assert path.read_text() == damaged


# ---------------------------------------------------------------------------------------------------------------------
# TOML


def test_toml_data_are_plain(toml):
    snapshot = StateFile(toml).load()
    assert (snapshot.revision, snapshot.data["since"]) == (3, date(2024, 2, 29))
    assert snapshot.data["server"] == {"port": 80, "names": ["a", "b"]}
    assert {type(snapshot.data), type(snapshot.data["server"])} == {dict}


def test_comments_and_order_of_toml_are_kept(toml):
    with StateFile(toml).edit() as data:
        data["server"]["port"] = 8080
        data["theme"] = "dark"
    expected = TOML.replace("revision = 3", "revision = 4").replace("port = 80", "port = 8080")
    assert toml.read_text() == expected.replace("\n\n[server]", '\ntheme = "dark"\n\n[server]')


def test_what_toml_cannot_say_is_refused(toml):
    with pytest.raises(ValueError, match="format"), StateFile(toml).edit() as data:
        data["nothing"] = None
    assert toml.read_text() == TOML


def test_damage_in_toml_is_reported_with_its_line(toml):
    toml.write_text("a = 1\nb = \n")
    with pytest.raises(DamagedState) as caught:
        StateFile(toml).load()
    assert caught.value.line == 2


def test_a_key_that_is_there_twice_in_toml_is_damage(toml):
    toml.write_text('a = 1\n[b]\nc = "x"\nc = "y"\n')
    with pytest.raises(DamagedState, match='Key "c" already exists'):
        StateFile(toml).load()


def test_a_history_of_toml_has_its_dates(toml):
    state = StateFile(toml, history=True)
    with state.edit() as data:
        data["since"] = date(2025, 1, 1)
    assert state.history()[-1].changes[0].new == date(2025, 1, 1)
    assert state.at(3).data["since"] == date(2024, 2, 29)


# ---------------------------------------------------------------------------------------------------------------------
# Which format


def test_the_format_can_be_named(tmp_path):
    path = tmp_path / "state"
    StateFile(path, format="yaml").save({"theme": "dark"})
    assert path.read_text() == "revision: 1\ntheme: dark\n"


def test_a_format_of_ones_own_is_an_object_like_json(tmp_path):
    class Codec:
        @staticmethod
        def loads(text):
            return dict(line.split("=") for line in text.split()) | {
                "revision": int(text.partition("revision=")[2].split()[0])
            }

        @staticmethod
        def dumps(data):
            return "\n".join(f"{key}={value}" for key, value in data.items()).encode()

    state = StateFile(tmp_path / "state.env", format=Codec)
    state.save({"theme": "dark"})
    assert (tmp_path / "state.env").read_text() == "revision=1\ntheme=dark"
    assert state.load().data == {"theme": "dark"}


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'json', 'yaml', 'toml'"):
        StateFile(tmp_path / "state", format="xml")


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.yaml", "ruamel.yaml", "yaml"), ("a.toml", "tomlkit", "toml")]
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'holdfast\[{extra}\]'"):
        StateFile(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------------
# The user's own classes


@dataclass
class Task:
    name: str
    done: bool = False


@dataclass
class Plan:
    title: str = "a plan"
    tasks: list[Task] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)


class Settings(msgspec.Struct):
    theme: str = "dark"
    size: int = 12


class Model(pydantic.BaseModel):
    theme: str = "dark"
    since: date = date(2024, 2, 29)


def test_a_dataclass_comes_back_whole(tmp_path):
    state = StateFile(tmp_path / "plan.json", type=Plan)
    assert state.load().data == Plan()
    with state.edit() as plan:
        plan.tasks.append(Task("a"))
    assert state.load().data == Plan(tasks=[Task("a")])
    assert json.loads((tmp_path / "plan.json").read_text())["tasks"] == [{"name": "a", "done": False}]


def test_a_struct_of_msgspec_can_be_updated(tmp_path):
    state = StateFile(tmp_path / "settings.json", type=Settings)
    state.update(lambda settings: msgspec.structs.replace(settings, size=14))
    assert state.load().data == Settings(size=14)


def test_a_model_of_pydantic_can_be_saved_with_history(tmp_path):
    state = StateFile(tmp_path / "model.yaml", type=Model, history=True)
    state.save(Model(since=date(2025, 1, 1)))
    state.save(Model(theme="light"))
    assert state.load().data == Model(theme="light")
    assert state.at(1).data == Model(since=date(2025, 1, 1))


@pytest.mark.parametrize("kind", [Plan, Settings, Model])
def test_a_file_that_does_not_fit_the_class_is_damaged(tmp_path, kind):
    path = tmp_path / "state.json"
    path.write_text('{"theme": 5, "title": 5}')
    with pytest.raises(DamagedState, match="str"):
        StateFile(path, type=kind).load()


def test_keys_that_are_numbers_come_back_as_such(tmp_path):
    @dataclass
    class Names:
        by_number: dict[int, str]

    state = StateFile(tmp_path / "names.json", type=Names, default=lambda: Names({}))
    state.save(Names({1: "a"}))
    assert state.load().data == Names({1: "a"})


def test_a_value_of_the_wrong_type_is_refused_before_it_is_written(tmp_path):
    state = StateFile(tmp_path / "settings.json", type=Settings)
    state.save(Settings())
    with pytest.raises(ValueError, match="int"), state.edit() as settings:
        settings.size = "large"
    assert state.load().data == Settings()


def test_a_block_that_changes_nothing_of_an_instance_writes_nothing(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"revision": 7, "theme": "dark", "from a later version": 1}')
    with StateFile(path, type=Settings).edit():
        pass
    assert path.read_text() == '{"revision": 7, "theme": "dark", "from a later version": 1}'


def test_an_instance_of_another_class_is_refused(tmp_path):
    with pytest.raises(TypeError, match="Settings"):
        StateFile(tmp_path / "state.json", type=Settings).save(Plan())


def test_a_class_without_defaults_needs_a_default(tmp_path):
    path = tmp_path / "task.json"
    with pytest.raises(ValueError, match="default"):
        StateFile(path, type=Task).load()
    assert StateFile(path, type=Task, default=lambda: Task("first")).load().data == Task("first")


def test_msgspec_is_named_when_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ModuleNotFoundError, match=r"holdfast\[typed\]"):
        StateFile(tmp_path / "plan.json", type=Plan)
    assert StateFile(tmp_path / "model.json", type=Model).load().data == Model()


# ---------------------------------------------------------------------------------------------------------------------
# Files that somebody wrote who means harm

LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "far more than is written"),
        (f"a: [&a {'x' * 5000}{', *a' * 500}]\n", "far more than is written"),
        (f"a: [&a {'9' * 4000}{', *a' * 500}]\n", "far more than is written"),
        ("a: &a [*a]\n", "contains it"),
        ("a: &a {b: {c: *a}}\n", "contains it"),
        ("a: !!python/object/apply:os.system [touch executed]\n", "tag"),
        ("a: !!python/name:os.system\n", "tag"),
        ("revision: 0x" + "f" * 10000 + "\na: 1\n", "not a revision"),
    ],
    ids=[
        "a billion laughs",
        "a long text",
        "a long number",
        "a cycle",
        "a longer cycle",
        "a tag that calls",
        "a tag that names",
        "revision",
    ],
)
def test_yaml_that_means_harm_is_damage_and_nothing_else_happens(tmp_path, monkeypatch, text, why):
    pytest.importorskip("ruamel.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.yaml").write_text(text)
    state = StateFile("state.yaml", history=True)
    for attempt in (state.load, lambda: state.edit().__enter__(), lambda: state.save({}), lambda: state.update(dict)):
        with pytest.raises(DamagedState, match=why):
            attempt()
    assert (tmp_path / "state.yaml").read_text() == text
    assert not (tmp_path / "executed").exists()


def test_yaml_aliases_that_somebody_can_have_meant_are_read(tmp_path):
    pytest.importorskip("ruamel.yaml")
    text = "base: &base {a: 1, b: [&x [1, 2], *x, *x]}\n" + "".join(
        f"j{n}: {{<<: *base, name: {n}}}\n" for n in range(300)
    )
    (tmp_path / "state.yaml").write_text(text)
    data = StateFile(tmp_path / "state.yaml").load().data
    assert data["j299"] == {"a": 1, "b": [[1, 2]] * 3, "name": 299}
