"""`holdfast state`: a state is shown and changed, by hand or in scripts, and its history listed."""

# What is in a container of anything is anything, and not unknown, as the strict mode has it.
# pyright: basic

from __future__ import annotations

import json
import os
import shlex
import signal
from dataclasses import replace
from shutil import rmtree
from subprocess import Popen
from tempfile import mkdtemp

from holdfast import StateConflict, StateFile
from holdfast._contents import Contents
from holdfast._formats import Unreadable
from holdfast.atomic import target_of
from holdfast.cli import DONE, NO, say
from holdfast.cli._output import as_json, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

    from holdfast import Change, Snapshot
    from holdfast.state import _Known as Known

EXAMPLE = """\
holdfast state set --history settings.yaml /jobs/0/name nightly
holdfast state get settings.yaml /jobs
holdfast state edit settings.yaml
holdfast state history --limit 5 settings.yaml

A POINTER is a JSON Pointer: / before each key, or each place in a list; nothing for the whole
state. JSON, YAML and TOML are told by the file's suffix. Comments in YAML and TOML are kept.
"""


class _Nothing(Exception):
    """What is asked for is not there."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="get | set | edit | history")

    get = actions.add_parser("get", help="print a value: a text as it is, anything else as JSON")
    get.add_argument("--revision", type=int, metavar="N", help="as it was at a revision that the history has")
    get.add_argument("--json", action="store_true", help="print a text as JSON, too")
    _add_file(get)
    get.add_argument("pointer", nargs="?", default="", metavar="POINTER", help="which value; by default all of them")

    change = actions.add_parser("set", help="change a value")
    _add_history(change)
    _add_file(change)
    change.add_argument("pointer", metavar="POINTER", help="which value; with - in the place of a number, a new one")
    change.add_argument("value", metavar="VALUE", help="the new value: JSON, or else a text")

    edit = actions.add_parser("edit", help="change a copy with $VISUAL or $EDITOR, and save it")
    _add_history(edit)
    _add_file(edit)

    history = actions.add_parser("history", help="list who changed what, the latest last")
    history.add_argument("--limit", type=int, metavar="N", help="only so many of the latest changes")
    history.add_argument("--json", action="store_true", help="print a list of changes")
    _add_file(history)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file of the state")


def _add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", action="store_true", help="begin a history, if there is none yet")


def run(options: argparse.Namespace) -> int:
    """Do one of the four."""
    action = {"get": _get, "set": _set, "edit": _edit, "history": _show_history}[options.action]
    try:
        return action(options)
    except (_Nothing, StateConflict) as error:
        say(str(error))
        return NO


def _open(options: argparse.Namespace) -> StateFile[dict[str, Any]]:
    """The state. Once it has a history, every change is recorded there."""
    history = target_of(options.file, dangling=True) + ".history.jsonl"
    return StateFile(options.file, history=getattr(options, "history", False) or os.path.exists(history))


# get and set


def _get(options: argparse.Namespace) -> int:
    value = _value_at(_snapshot(options).data, options.pointer, options.file)
    show(value if isinstance(value, str) and not options.json else as_json(value))
    return DONE


def _snapshot(options: argparse.Namespace) -> Snapshot[dict[str, Any]]:
    state = _open(options)
    if options.revision is not None:
        try:
            return state.at(options.revision)
        except LookupError as error:
            raise _Nothing(str(error)) from error
    snapshot = state.load()
    if not snapshot.fingerprint:
        raise _Nothing(f"{options.file}: there is no such state")
    return snapshot


def _set(options: argparse.Namespace) -> int:
    state = _open(options)
    try:
        value = json.loads(options.value)
    except ValueError:
        value = options.value

    def change(data: dict[str, Any]) -> dict[str, Any]:
        return _with_value(data, options.pointer, value, options.file)

    print(f"saved as revision {state.update(change)}")
    return DONE


def _parts(pointer: str) -> list[str]:
    """The keys in a JSON Pointer (RFC 6901)."""
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"a pointer is empty or begins with a slash: /{pointer}, not {pointer}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _value_at(data: Any, pointer: str, file: str) -> Any:
    value = data
    for part in _parts(pointer):
        try:
            value = value[_key(value, part)]
        except (LookupError, TypeError):
            raise _Nothing(f"{file}: there is nothing at {pointer}") from None
    return value


def _with_value(data: dict[str, Any], pointer: str, value: Any, file: str) -> dict[str, Any]:
    """The data, with a value in its place."""
    if not pointer:
        if not isinstance(value, dict):
            raise ValueError(
                f"a state is a mapping, and not {json.dumps(value)}; name one of its values with a pointer"
            )
        return value
    above, _, _ = pointer.rpartition("/")
    *_, last = _parts(pointer)
    container = _value_at(data, above, file)
    if isinstance(container, list) and last in ("-", str(len(container))):
        container.append(value)
        return data
    try:
        container[_key(container, last)] = value
    except (LookupError, TypeError):
        raise _Nothing(
            f"{file}: there is no place {pointer}; set {above or 'the whole state'} to a mapping or a list first"
        ) from None
    return data


def _key(container: Any, part: str) -> Any:
    """The key that a part of a pointer means. YAML has keys that are no texts."""
    if isinstance(container, list):
        if not part.isdecimal():
            raise LookupError(part)
        return int(part)
    if not isinstance(container, dict):
        raise LookupError(part)
    return part if part in container else next((key for key in container if str(key) == part), part)


# history


def _show_history(options: argparse.Namespace) -> int:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, not {options.limit}")
    options.history = False
    changes = _open(options).history(limit=options.limit)
    if options.json:
        show(as_json([_plain(change) for change in changes]))
    else:
        for change in changes:
            show(_shown(change))
    if changes:
        return DONE
    raise _Nothing(f"{options.file}: there is no history; changes are recorded from `holdfast state set --history` on")


def _shown(change: Change) -> str:
    who = f"process {change.pid} on {change.host}" if change.pid else "another program"
    lines = [f"revision {change.revision}  {change.time.astimezone():%Y-%m-%d %H:%M:%S}  {who}"]
    return "\n    ".join([*lines, *map(str, change.changes)])


def _plain(change: Change) -> dict[str, Any]:
    return {
        "revision": change.revision,
        "time": change.time.isoformat(),
        "pid": change.pid,
        "host": change.host,
        "changes": [vars(value) for value in change.changes],
    }


# edit


def _edit(options: argparse.Namespace) -> int:
    state = _open(options)
    before = state._latest()
    text = before.contents.data
    if text is None:
        text = b"{\n}\n" if options.file.lower().endswith(".json") else b""
    with _Copy(options.file, text) as copy:
        edited = copy.edit()
        if edited == text:
            print("nothing was changed")
        else:
            print(f"saved as revision {_save_text(state, before, edited)}")
    return DONE


def _save_text(state: StateFile[dict[str, Any]], before: Known, text: bytes) -> int:
    """Save a state as somebody wrote it, with the comments, and with the next revision."""
    try:
        data = state._parse(Contents(text, None)).thaw()
    except Unreadable as error:
        where = "" if error.line is None else f" (line {error.line})"
        raise _Nothing(f"nothing was saved, because what you wrote is no state: {error.reason}{where}") from error
    with state._locked() as target:
        found = state._read(target)
        state._require(target, found, before.revision, before.fingerprint)
        return state._write(target, replace(found, contents=Contents(text, None)), data)


class _Copy:
    """A copy of a file for an editor. It is removed at the end of a with block, or on an error kept."""

    def __init__(self, file: str, text: bytes) -> None:
        self._text = text
        self._folder = mkdtemp(prefix="holdfast-edit-")  # of which nobody else can see anything
        self._path = os.path.join(self._folder, os.path.basename(file))  # editors look at the suffix
        with open(self._path, "wb") as copy:
            copy.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._read() != self._text:
            say(f"what you wrote is kept in {self._path}")
        else:
            rmtree(self._folder)

    def _read(self) -> bytes:
        with open(self._path, "rb") as copy:
            return copy.read()

    def edit(self) -> bytes:
        """What is in the copy when the editor has been closed."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
        try:
            status = _status_of_editor(editor, self._path)
        except OSError as error:
            text = f"the editor cannot be run ({error.strerror}); name another by the environment variable EDITOR"
            raise OSError(error.errno, text, editor) from None
        if status != 0:
            raise _Nothing(f"nothing was saved, because the editor {editor!r} ended with status {status}")
        return self._read()


def _status_of_editor(editor: str, path: str) -> int:
    words = f'{editor} "{path}"' if os.name == "nt" else [*shlex.split(editor), path]
    process = Popen(words)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the editor now
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
