"""How a state is written in a file: JSON, YAML or TOML, or what the user's own object makes of it."""

# What is in a container of anything is anything, and not unknown, as the strict mode has it.
# pyright: basic

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Set
from typing import NamedTuple

from holdfast._changes import identical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, Protocol

    class Codec(Protocol):
        """What can be passed as format=: the interface of the json module."""

        def loads(self, text: Any, /) -> Any: ...
        def dumps(self, data: Any, /) -> str | bytes: ...


_LINE = 100
_INDENTED_MAPPING = re.compile(r"^[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\r?\n( +)(?![-# ])", re.MULTILINE)


class Unreadable(ValueError):
    """The contents of a file are not what they should be: why, and in which line, if that can be told."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason, line)
        self.reason = reason
        self.line = line


class Format:
    """A format that json, or an object with the same interface, reads and writes."""

    ordered = True
    """Whether a file is written in the order of the data."""

    _errors: tuple[type[Exception], ...] = (Exception,)
    """What reading or writing raises when it cannot be done: anything, if it is the user's."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def parse(self, contents: bytes) -> dict[Any, Any]:
        """The mapping in a file. Raises Unreadable."""
        if not contents.strip(b"\0 \t\r\n"):
            raise Unreadable("it is empty")  # which is what a power cut leaves of a file that was written carelessly
        try:
            data = self._parse(_decoded(contents))
        except UnicodeDecodeError as error:
            raise Unreadable("it is not UTF-8", contents.count(b"\n", 0, error.start) + 1) from error
        except self._errors as error:
            raise Unreadable(_reason(error), _line(error)) from error
        if not isinstance(data, dict):
            raise Unreadable(f"it holds a {type(data).__name__} and not a mapping")
        return data

    def render(self, data: dict[Any, Any], before: bytes | None) -> bytes:
        """What a file that held `before` holds when this is its mapping."""
        text = self._render(data, before)
        return text.encode() if isinstance(text, str) else bytes(text)

    def _parse(self, text: str) -> Any:
        return self._codec.loads(text)

    def _render(self, data: dict[Any, Any], before: bytes | None) -> str | bytes:
        del before
        return self._codec.dumps(data)


class Json(Format):
    """JSON for people, for diffs and for programs: a line for each item of the first two levels, and no NaN.

    To lay out all levels would take json several times as long.
    """

    _errors = (ValueError, RecursionError)

    def __init__(self) -> None:
        import json

        super().__init__(json)
        self._encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

    def _render(self, data: dict[Any, Any], before: bytes | None) -> str:
        del before
        lines = [f"  {self._key(key)}: {self._value(value)}" for key, value in data.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def _value(self, value: Any) -> str:
        text = self._encode(value)
        if len(text) <= _LINE or not isinstance(value, (dict, list)):
            return text
        if isinstance(value, list):
            lines = [*map(self._encode, value)]
        else:
            lines = [f"{self._key(key)}: {self._encode(item)}" for key, item in value.items()]
        return text[0] + "\n    " + ",\n    ".join(lines) + "\n  " + text[-1]

    def _key(self, key: Any) -> str:
        return self._encode(key) if isinstance(key, str) else self._encode({key: 0})[1:-4]  # json makes texts of some


class _Annotated(Format):
    """A format with comments. They are kept where the values they belong to are."""

    ordered = False

    # The libraries raise more than they say.
    _errors: tuple[type[Exception], ...] = (ValueError, RecursionError, LookupError, TypeError, AttributeError)

    def __init__(self) -> None:  # no codec
        pass

    def _render(self, data: dict[Any, Any], before: bytes | None) -> str:
        data = _plain(data)
        text = None if before is None else self._revised(data, before)
        return self._new(data) if text is None else text

    def _new(self, data: dict[Any, Any]) -> str:
        try:
            text = self._written(data)
            if identical(self._parse(text), data, ordered=False):
                return text
        except self._errors as error:
            raise ValueError(f"these data cannot be written in this format: {_reason(error)}") from error
        raise ValueError("these data would not come back from a file of this format as they are")

    def _revised(self, data: dict[Any, Any], before: bytes) -> str | None:
        """The text before, changed as little as that takes. None if it is of a kind that cannot be changed so."""
        old_text = _decoded(before)
        try:
            document = self._document(old_text)
            if document is None:  # nothing but comments
                text = old_text.rstrip() + "\n" + self._written(data)
            else:
                _revise(document, self._parse(old_text), data)
                text = self._text(document, old_text)
            if "\r\n" in old_text:
                text = text.replace("\r\n", "\n").replace("\n", "\r\n")
            # An anchor, for example, has one value in several places, and takes all of them along.
            return text if identical(self._parse(text), data, ordered=False) else None
        except self._errors:
            return None

    def _written(self, data: dict[Any, Any]) -> str:
        raise NotImplementedError

    def _document(self, text: str) -> Any:
        raise NotImplementedError

    def _text(self, document: Any, before: str) -> str:
        raise NotImplementedError


class Yaml(_Annotated):
    """YAML 1.2, by ruamel.yaml."""

    def __init__(self) -> None:
        self._ruamel = _import("ruamel.yaml", "yaml")
        self._errors = (*_Annotated._errors, self._ruamel.error.YAMLError)
        self._text(self._document("n: 1"), "n: 1")  # imports all it needs, which must not be under a lock

    def _parse(self, text: str) -> Any:
        # The pure one: the other reads YAML 1.1, in which "no" is false.
        data = self._ruamel.YAML(typ="safe", pure=True).load(text)
        if "*" in text:
            _refuse_overgrown(data, len(text))
        return {} if data is None else data  # nothing but comments

    def _written(self, data: dict[Any, Any]) -> str:
        return self._dumped(data)

    def _document(self, text: str) -> Any:
        return self._yaml().load(text)

    def _text(self, document: Any, before: str) -> str:
        from ruamel.yaml.util import load_yaml_guess_indent

        _, sequence, offset = load_yaml_guess_indent(before)
        mapping = _INDENTED_MAPPING.search(before)
        return self._dumped(document, len(mapping[1]) if mapping else None, sequence, offset)

    def _dumped(
        self, data: Any, mapping: int | None = None, sequence: int | None = None, offset: int | None = None
    ) -> str:
        from io import StringIO

        yaml, text = self._yaml(), StringIO()
        yaml.indent(mapping, *((sequence, offset) if sequence and offset is not None else ()))
        yaml.dump(data, text)
        return text.getvalue()

    def _yaml(self) -> Any:
        yaml = self._ruamel.YAML(pure=True)
        yaml.preserve_quotes = True
        yaml.width = 1 << 16  # or long texts would be broken
        return yaml


class Toml(_Annotated):
    """TOML, by tomlkit."""

    def __init__(self) -> None:
        self._tomlkit = _import("tomlkit", "toml")
        self._errors = (*_Annotated._errors, self._tomlkit.exceptions.TOMLKitError)

    def _parse(self, text: str) -> Any:
        return self._tomlkit.parse(text).unwrap()

    def _written(self, data: dict[Any, Any]) -> str:
        written: str = self._tomlkit.dumps(data)
        return written

    def _document(self, text: str) -> Any:
        return self._tomlkit.parse(text)

    def _text(self, document: Any, before: str) -> str:
        del before
        written: str = self._tomlkit.dumps(document)
        return written


_BY_NAME: dict[str, Callable[[], Format]] = {"json": Json, "yaml": Yaml, "toml": Toml}
_BY_SUFFIX = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}


def _decoded(contents: bytes) -> str:
    """The text in a file, without the mark that editors on Windows leave.

    Python has a codec for that, which it would import here, under a lock: see StateFile.__init__().
    """
    return str(contents.removeprefix(BOM_UTF8), "utf-8")


def format_of(path: str, wanted: str | Codec | None) -> Format:
    """The format that is asked for, or that the path suggests.

    >>> from holdfast._formats import format_of
    >>> format_of("state.json", None).parse(b'{"theme": "dark"}')
    {'theme': 'dark'}
    """
    if wanted is None:
        wanted = _BY_SUFFIX.get(os.path.splitext(path)[1].lower(), "json")
    if not isinstance(wanted, str):
        if not (callable(getattr(wanted, "loads", None)) and callable(getattr(wanted, "dumps", None))):
            raise TypeError(f"format must be a name or have loads() and dumps(), as json has; not {wanted!r}")
        return Format(wanted)
    if wanted not in _BY_NAME:
        raise ValueError(f"format must be one of {', '.join(map(repr, _BY_NAME))}, not {wanted!r}")
    return _BY_NAME[wanted]()


def _import(name: str, extra: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        text = f"a file of this format needs the package {name}; install it with: pip install 'holdfast[{extra}]'"
        raise ModuleNotFoundError(text, name=error.name) from error


def _revise(document: Any, old: dict[Any, Any], new: dict[Any, Any]) -> None:
    """Change a document, which says what `old` says, until it says `new`. What stays the same is not touched."""
    for key in old.keys() - new.keys():
        del document[key]
    for key, value in new.items():
        if key in old:
            _revise_item(document, key, old[key], value)
        else:
            document[key] = value


def _revise_item(document: Any, key: Any, old: Any, new: Any) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        _revise(document[key], old, new)
    elif isinstance(old, list) and isinstance(new, list):
        _revise_list(document[key], old, new)
    elif not identical(old, new):
        document[key] = new


def _revise_list(items: Any, old: list[Any], new: list[Any]) -> None:
    """The same for a list. What is equal at its beginning and at its end stays, with its comments."""
    shorter = min(len(old), len(new))
    start = next((index for index in range(shorter) if not identical(old[index], new[index])), shorter)
    rest = range(1, shorter - start + 1)
    end = next((index - 1 for index in rest if not identical(old[-index], new[-index])), shorter - start)
    for index in reversed(range(len(new) - end, len(old) - end)):
        del items[index]
    for index in range(start, len(new) - end):
        if index < len(old) - end:
            _revise_item(items, index, old[index], new[index])
        else:
            items.insert(index, new[index])


def _plain(value: Any) -> Any:
    """The same as dicts and lists of the values that every format has."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _refuse_overgrown(data: Any, length: int) -> None:
    """Refuse data whose aliases make them endless, or so much larger than their text that nobody can have meant it.

    Aliases of aliases of lists grow tenfold with every line. Whatever looks at all data, as saving does, would not end.
    """
    room = 100_000 + 10 * length
    above: set[int] = set()  # what contains the value that is looked at
    todo: list[Any] = [data]
    while todo:
        value = todo.pop()
        if isinstance(value, _Leaving):
            above.remove(value.container)
        elif isinstance(value, (Mapping, list, tuple, Set)):
            if id(value) in above:
                raise ValueError("an alias stands for a value that contains it")
            room -= 1 + len(value)
            above.add(id(value))
            todo.append(_Leaving(id(value)))
            todo += value
            if isinstance(value, Mapping):
                todo += value.values()
        elif isinstance(value, (str, bytes)):
            room -= len(value)
        elif isinstance(value, int):
            room -= value.bit_length() // 4
        if room < 0:
            raise ValueError("its aliases stand for far more than is written")


class _Leaving(NamedTuple):
    """In a list of what is still to be looked at: here a container ends."""

    container: int


def _reason(error: Exception) -> str:
    """What is wrong, in a few words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    problem = getattr(error, "problem", None) or getattr(error, "msg", None) or str(error)
    return " ".join(str(problem).split())[:200] or type(error).__name__


def _line(error: Exception) -> int | None:
    """In which line it is wrong: json says `lineno`, tomlkit `line`, and YAML has a mark."""
    if mark := getattr(error, "problem_mark", None):
        return int(mark.line) + 1
    for name in ("lineno", "line"):
        if isinstance(line := getattr(error, name, None), int):
            return line
    return None
