"""A mapping in a file that many processes change, without losing each other's changes."""

from __future__ import annotations

import errno
import os
import pickle
import random
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from holdfast import _contents, _core
from holdfast._base import check_bool, default_timeout, resolve_timeout
from holdfast._changes import identical
from holdfast._conflict import StateConflict
from holdfast._contents import Contents, fingerprint
from holdfast._formats import Unreadable, format_of
from holdfast._temporary import rescue_paths, this_process
from holdfast._typed import converters
from holdfast.atomic import replacing, target_of
from holdfast.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from datetime import datetime
    from typing import Any, Generic, TypeVar, overload

    from holdfast._changes import Change
    from holdfast._formats import Codec
    from holdfast._history import History, Version

    Data = TypeVar("Data")

    class OfData(Generic[Data]):
        """Generic, with the type of the data."""

else:

    class OfData:
        """Generic, without typing."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))


MANY_ATTEMPTS = 1000
_SHORTEST_NAP, _LONGEST_NAP = 0.0005, 0.25
_NO_REVISION = 1 << 63  # nobody can have saved so often, and far larger numbers cannot even be written in decimal


class DamagedState(ValueError):
    r"""The file of a state holds something else: it was cut off, or changed by hand. It is left as it is.

    `path` and `line` say where, if the line is known, and `reason` what is wrong.

    >>> from holdfast import DamagedState, StateFile, write_text
    >>> write_text("state.json", '{"theme":\ndark}')
    >>> try:
    ...     StateFile("state.json").load()
    ... except DamagedState as error:
    ...     print(error.line)
    2
    """

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        super().__init__(path, line, reason)
        self.path = path
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        where = "" if self.line is None else f", line {self.line}"
        return (
            f"{self.path}{where}: this is not a state: {self.reason}. The file is left as it is: mend it, or put a "
            "copy in its place, or remove it to begin anew"
        )


class Snapshot(OfData["Data"]):
    """A state as it was at one moment: `data`, and its `revision`.

    The data belong to whoever loaded the snapshot: to change them changes nothing else. `fingerprint` is that of the
    file's contents, by which save(expect=) knows whether anybody has changed it, with or without a new revision.

    >>> from holdfast import StateFile
    >>> StateFile("state.json").load()
    <Snapshot of revision 0: {}>
    """

    __slots__ = ("_data", "_load", "fingerprint", "revision")

    def __init__(self, load: Callable[[], Data], revision: int, fingerprint: str) -> None:
        self._load: Callable[[], Data] | None = load
        self.revision = revision
        self.fingerprint = fingerprint

    @property
    def data(self) -> Data:
        """The state, without the revision."""
        load = self._load
        if load is not None:  # most who look whether there is something new find nothing new
            data = load()
            if self._load is not None:
                self._data, self._load = data, None
        return self._data

    def __reduce__(self) -> tuple[Callable[..., Snapshot[Data]], tuple[Data, int, str]]:
        return _snapshot, (self.data, self.revision, self.fingerprint)

    def __repr__(self) -> str:
        return f"<Snapshot of revision {self.revision}: {self.data!r}>"


def _snapshot(data: Data, revision: int, fingerprint: str) -> Snapshot[Data]:
    return Snapshot(lambda: data, revision, fingerprint)


@dataclass(frozen=True)
class _Known:
    """The contents of the file that were read last, and what they mean."""

    contents: Contents
    fingerprint: str
    revision: int
    frozen: bytes
    """The state, pickled."""

    def thaw(self) -> dict[Any, Any]:
        """The state, the caller's own. Pickle makes one in half of the time that parsing takes."""
        state: dict[Any, Any] = pickle.loads(self.frozen)
        return state

    def version(self) -> Version:
        """The same for a history."""
        from holdfast._history import Version

        return Version(self.revision, self.fingerprint, len(self.contents.data or b""), self.thaw())


class StateFile(OfData["Data"]):
    """A mapping in a file, with a revision that rises by one whenever it is saved.

    Whoever saves holds `FileLock(path + ".lock")`, waiting `timeout` seconds for it (10, or HOLDFAST_TIMEOUT), and
    replaces the file whole; with `durable=True` it is on the disk then. Reading takes no lock. A file that does not
    exist counts as what `default()` returns, at revision 0, and one without a revision is at 0. The revision is in the
    file, under `revision_key`, and not in the data.

    The suffix says whether the file is JSON, YAML (`pip install holdfast[yaml]`) or TOML (`holdfast[toml]`), or
    `format` does: "json", "yaml", "toml", or any object with `loads` and `dumps`. Comments in YAML and TOML are kept.

    With `type=`, a dataclass or a Struct of msgspec (`holdfast[typed]`) or a model of pydantic, the data are instances
    of that; what a class does not know is lost when it is saved. `history=True` records every change, in
    `path + ".history.jsonl"`. `metrics` is the name under which holdfast.metrics counts what is done here.

    >>> from holdfast import StateFile
    >>> state = StateFile("state.json")
    >>> with state.edit() as data:  # nobody else saves meanwhile
    ...     data["jobs"] = data.get("jobs", 0) + 1
    >>> state.load()
    <Snapshot of revision 1: {'jobs': 1}>
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: StateFile[dict[str, Any]],
            path: str | os.PathLike[str],
            *,
            type: None = None,
            default: Callable[[], Mapping[str, Any]] = dict,
            timeout: float | None = None,
            durable: bool = True,
            revision_key: str = "revision",
            format: str | Codec | None = None,
            history: bool = False,
            metrics: str | None = None,
        ) -> None: ...

        @overload
        def __init__(
            self,
            path: str | os.PathLike[str],
            *,
            type: type[Data],
            default: Callable[[], Data | Mapping[str, Any]] = dict,
            timeout: float | None = None,
            durable: bool = True,
            revision_key: str = "revision",
            format: str | Codec | None = None,
            history: bool = False,
            metrics: str | None = None,
        ) -> None: ...

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        type: type[Any] | None = None,
        default: Callable[[], Any] = dict,
        timeout: float | None = None,
        durable: bool = True,
        revision_key: str = "revision",
        format: str | Codec | None = None,
        history: bool = False,
        metrics: str | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "type": type,
            "default": default,
            "timeout": timeout,
            "durable": durable,
            "revision_key": revision_key,
            "format": format,
            "history": history,
            "metrics": metrics,
        }
        given = os.fspath(path)
        if not given:
            raise ValueError("the path is empty")
        if not callable(default):
            raise TypeError(f"default must be a function that returns the first state, not {default!r}")
        if not isinstance(revision_key, str):
            raise TypeError(f"revision_key must be a str, not {revision_key!r}")
        check_bool("durable", durable)
        check_bool("history", history)
        self._path = os.path.abspath(given if isinstance(given, str) else os.fsdecode(given))
        self._timeout = default_timeout() if timeout is None else resolve_timeout(timeout, True)
        self._durable = durable
        self._revision_key = revision_key
        self._format = format_of(self._path, format)
        self._default = default
        self._to_type, self._to_mapping = converters(type)
        self._known: _Known | None = None
        self._seen = (-1, "")  # the revision and fingerprint of which the user of this object was told last
        self._metrics = metrics
        self._meter = _core.meter_of(metrics)
        self._lock = self._new_lock(self._path)
        # Imported now, and not when the lock is held: a child that is forked while another thread imports something
        # waits for ever when it needs that itself, and would keep the lock.
        self._history: History | None = None
        if history:
            self._history_of(self._path)
        self._records = history
        self._history_errors = 0

    @property
    def path(self) -> str:
        """The path of the file, absolute."""
        return self._path

    # Reading

    def load(self) -> Snapshot[Data]:
        """The state as it is now. A file that has not changed since the last time is not read again.

        >>> from holdfast import StateFile
        >>> StateFile("state.json", default=lambda: {"theme": "dark"}).load().data
        {'theme': 'dark'}
        """
        known = self._latest()
        self._seen = (known.revision, known.fingerprint)
        return Snapshot(lambda: self._to_type(known.thaw()), known.revision, known.fingerprint)

    def _latest(self) -> _Known:
        known = self._known
        return known if known is not None and self._is_current() else self._read(self._path)

    def _is_current(self) -> bool:
        known = self._known
        return known is not None and known.contents.is_current(self._path)

    def _read(self, path: str) -> _Known:
        known = self._known
        contents = _contents.read(path)
        if known is not None and known.contents.data == contents.data is not None:
            known = replace(known, contents=contents)
        else:
            if contents.data is None:
                _refuse_if_rescued(path)
            known = self._understand(path, contents)
        self._known = known
        return known

    def _understand(self, path: str, contents: Contents) -> _Known:
        """What the contents mean. A program that writes into the file, instead of replacing it, may not be done yet."""
        while True:
            try:
                return self._parse(contents)
            except Unreadable as error:
                again = _contents.read(path)
                if again.data == contents.data:
                    raise DamagedState(self._path, error.line, error.reason) from error
                contents = again

    def _parse(self, contents: Contents) -> _Known:
        if contents.data is None:
            return _Known(contents, "", 0, pickle.dumps(self._first()))
        state = self._format.parse(contents.data)
        revision = state.pop(self._revision_key, 0)
        if not isinstance(revision, int) or isinstance(revision, bool) or not 0 <= revision < _NO_REVISION:
            key = self._revision_key
            raise Unreadable(f"its {key!r} is not a revision; if it means something else, choose another revision_key")
        try:
            self._to_type(state)  # what is wrong is said now, and not when somebody looks at the data
            return _Known(contents, fingerprint(contents.data), revision, pickle.dumps(state))
        except RecursionError as error:
            raise Unreadable("it is nested too deeply") from error
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def _first(self) -> dict[Any, Any]:
        """The state of a file that does not exist."""
        first = self._default()
        state: dict[Any, Any] = {**first} if isinstance(first, Mapping) else self._to_mapping(first)
        try:
            self._to_type(state)
        except ValueError as error:
            raise ValueError(f"{self._path!r} does not exist, and its default is no state: {error}") from error
        return state

    # Writing

    def save(self, data: Data, *, expect: Snapshot[Data] | int | None = None) -> int:
        """Make `data` the state, and return its revision.

        With `expect`, a snapshot or a revision, only if the file still is at that; otherwise StateConflict. A snapshot
        also notices changes by programs that leave the revision alone; a number does so when this object loaded or
        saved that revision last. Without `expect`, what others saved since is overwritten.

        >>> from holdfast import StateFile
        >>> state = StateFile("state.json")
        >>> before = state.load()
        >>> state.save({**before.data, "theme": "dark"}, expect=before)
        1
        """
        saving = self._saving(data, expect)
        with self._locked() as target:
            return saving(target)

    def _saving(self, data: Data, expect: Snapshot[Data] | int | None) -> Callable[[str], int]:
        """What is to be done for save() under the lock."""
        state = self._state(data)
        if not (expect is None or isinstance(expect, (Snapshot, int))) or isinstance(expect, bool):
            raise TypeError(f"expect must be a snapshot or a revision, not {expect!r}")

        def saving(target: str) -> int:
            found = self._read(target)
            if isinstance(expect, Snapshot):
                self._require(target, found, expect.revision, expect.fingerprint)
            elif expect is not None:
                revision, seen = self._seen
                self._require(target, found, expect, seen if revision == expect else found.fingerprint)
            return self._write(target, found, state)

        return saving

    @contextmanager
    def edit(self) -> Generator[Data]:
        """The state, to be changed in a with block, at the end of which it is saved. Nobody else saves meanwhile.

        An exception in the block saves nothing, and neither does a block that changes nothing. If a program that takes
        no lock changes the file meanwhile, that is a StateConflict.

        >>> from holdfast import StateFile
        >>> with StateFile("state.json").edit() as data:
        ...     data["theme"] = "dark"
        """
        process = os.getpid()
        with self._locked() as target:
            before = self._read(target)
            data: Data = self._to_type(before.thaw())
            yield data
            if os.getpid() != process:
                raise RuntimeError(
                    f"{self._path!r} is edited by the process that began it; a forked child must not end its block"
                )
            self._replace(target, before, data)

    def update(self, change: Callable[[Data], Data | None], *, attempts: int = MANY_ATTEMPTS) -> int:
        """Change the state by a function that may take its time: no lock is held meanwhile. Returns the revision.

        The function gets the data, and changes them or returns others. If somebody saved meanwhile it is called again
        with the new data, after a pause that grows from time to time. After so many attempts that is a StateConflict.

        >>> from holdfast import StateFile
        >>> state = StateFile("state.json", default=lambda: {"jobs": ["a", "b"]})
        >>> state.update(lambda data: {"jobs": data["jobs"][1:]})
        1
        """
        pauses = naps(attempts)
        while True:
            before = self._latest()
            data: Data = self._to_type(before.thaw())
            changed = change(data)
            state = self._news(data if changed is None else changed, before)
            if state is None:
                return before.revision
            try:
                with self._locked() as target:
                    return self._swap(target, before, state)
            except StateConflict:
                nap = next(pauses, None)
                if nap is None:
                    raise
            time.sleep(nap)

    def _replace(self, target: str, before: _Known, data: Data) -> None:
        """Save data in the place of the state that they were made of, if they differ."""
        state = self._news(data, before)
        if state is not None:
            self._swap(target, before, state)

    def _news(self, data: Data, before: _Known) -> dict[Any, Any] | None:
        """The state that the data are, or None if it is the same as before."""
        state = self._state(data)
        return state if self._is_news(state, before) else None

    def _is_news(self, state: dict[Any, Any], before: _Known) -> bool:
        if before.contents.data is None:
            return True
        old = self._to_mapping(self._to_type(before.thaw()))
        return state != old or not identical(state, old, self._format.ordered)  # the quick look first

    def _swap(self, target: str, before: _Known, state: dict[Any, Any]) -> int:
        """Save a state in the place of the one before."""
        found = self._read(target)
        self._require(target, found, before.revision, before.fingerprint)
        return self._write(target, found, state)

    def _state(self, data: Any) -> dict[Any, Any]:
        state = self._to_mapping(data)
        if self._revision_key in state:
            raise ValueError(
                f"the data have a key {self._revision_key!r}, under which {self._path!r} keeps its revision; choose "
                "another revision_key"
            )
        return state

    def _require(self, target: str, found: _Known, revision: int, fingerprint: str) -> None:
        if (found.revision, found.fingerprint) != (revision, fingerprint):
            by = None
            if self._meter is not None:
                _core.meter_add(self._meter, _core.CONFLICTS, 1)
            if self._records:
                with suppress(OSError):  # it is the conflict that matters
                    by = self._history_of(target).which_left(found.fingerprint)
            raise StateConflict(self._path, revision, found.revision, by)

    def _write(self, target: str, before: _Known, state: dict[Any, Any]) -> int:
        contents = self._format.render({self._revision_key: before.revision + 1, **state}, before.contents.data)
        try:
            after = self._parse(Contents(contents, None))  # the state as everybody will read it
        except Unreadable as error:
            raise ValueError(f"{self._path!r} could not be read again with these data: {error.reason}") from error
        replacing(target, self._durable).write(contents)
        if self._meter is not None:
            _core.meter_add(self._meter, _core.WRITES, 1)
        self._known = after
        self._seen = (after.revision, after.fingerprint)
        if self._records:
            self._record(target, before, after)
        return after.revision

    def _new_lock(self, target: str) -> FileLock:
        return FileLock(target + ".lock", timeout=self._timeout, metrics=self._metrics)

    @contextmanager
    def _locked(self) -> Generator[str]:
        """Hold the lock of the file that the path means, at the end of all links: they all lead to one lock."""
        this_process()  # which the new file's name needs: found out before others have to wait
        while True:
            target = self._target()
            lock = self._lock
            if lock.lock_file != target + ".lock":
                lock = self._lock = self._new_lock(target)
            with lock:
                if self._target() == target:  # and not another one since
                    yield target
                    return

    # History

    def history(self, limit: int | None = None, since: int | datetime | None = None) -> list[Change]:
        """The recorded changes, oldest first: the last `limit` of those after a revision or a time.

        >>> from holdfast import StateFile
        >>> state = StateFile("state.json", history=True)
        >>> for theme in "dark", "light":
        ...     revision = state.save({"theme": theme})
        >>> [str(value) for change in state.history(since=1) for value in change.changes]
        ["/theme: 'dark' -> 'light'"]
        """
        return self._history_of(self._target()).changes(limit, since)

    def at(self, revision: int) -> Snapshot[Data]:
        """The state as it was at a recorded revision, or LookupError.

        If there were several, because the file was edited, removed or restored, it is the last of them.

        >>> from holdfast import StateFile
        >>> state = StateFile("state.json", history=True)
        >>> for theme in "dark", "light":
        ...     revision = state.save({"theme": theme})
        >>> state.at(1).data
        {'theme': 'dark'}
        """
        state, fingerprint = self._history_of(self._target()).at(revision)
        return _snapshot(self._to_type(state), revision, fingerprint)

    def prune_history(self, keep_days: float) -> int:
        """Remove what is older from the history. Returns how many changes that were.

        What is needed to rebuild the revisions that are kept is kept, and so is the last change.

        >>> from holdfast import StateFile
        >>> StateFile("state.json", history=True).prune_history(keep_days=90)
        0
        """
        pruning = self._pruning(keep_days)
        with self._locked() as target:
            return pruning(target)

    def _pruning(self, keep_days: float) -> Callable[[str], int]:
        """What is to be done for prune_history() under the lock."""
        from datetime import datetime, timedelta, timezone

        if not keep_days >= 0:
            raise ValueError(f"keep_days must be 0 or more, not {keep_days!r}")
        self._history_of(self._path)  # imported now, as by __init__()
        before = datetime.now(timezone.utc) - timedelta(days=min(keep_days, 100_000))
        return lambda target: self._history_of(target).prune(before)

    @property
    def history_errors(self) -> int:
        """How many changes this object saved and could not record."""
        return self._history_errors

    def _target(self) -> str:
        return target_of(self._path, dangling=True)

    def _history_of(self, target: str) -> History:
        from holdfast._history import History

        history = self._history
        if history is None or history.path != target + ".history.jsonl":
            history = self._history = History(target + ".history.jsonl")
        return history

    def _record(self, target: str, before: _Known, after: _Known) -> None:
        """Record what was saved. It is saved, and stays so if this fails."""
        try:
            versions = before.version() if before.fingerprint else None, after.version()
            self._history_of(target).add(*versions, like=os.stat(target))
        except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            self._history_errors += 1
            why = str(error) or type(error).__name__
            text = f"revision {after.revision} of {self._path!r} was saved, but is not in its history: {why}"
            warnings.warn(text, RuntimeWarning, stacklevel=_levels_of_ours())

    def __reduce__(self) -> tuple[Callable[..., StateFile[Any]], tuple[str, dict[str, Any]]]:
        """A copy, also in another process, is another object for the same file."""
        return _make, (self._path, self._settings)

    def __repr__(self) -> str:
        return f"<StateFile {self._path!r}>"


def naps(attempts: int) -> Iterator[float]:
    """How long to sleep between attempts, in seconds: longer from time to time, and not all at one moment."""
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    return (
        random.uniform(0, min(_SHORTEST_NAP * 2 ** min(number, 20), _LONGEST_NAP)) for number in range(attempts - 1)
    )


def _refuse_if_rescued(path: str) -> None:
    """Begin no new state while the old one is beside its place, where a file server left it: see atomic.py."""
    rescued = next(rescue_paths(os.path.realpath(path)))
    if os.path.lexists(rescued):
        text = (
            f"there is no state here, but {rescued!r}, which a file server did not let take its place; rename that "
            "file to it, or remove it to begin anew"
        )
        raise FileNotFoundError(errno.ENOENT, text, path)


def _make(path: str, settings: dict[str, Any]) -> StateFile[Any]:
    return StateFile(path, **settings)


def _levels_of_ours() -> int:
    """How many callers are not the user's, for a warning that points at the first who is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"] in (__name__, "contextlib"):
        level, frame = level + 1, frame.f_back
    return level
