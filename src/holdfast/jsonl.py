"""JSONL logs that many processes append to."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from holdfast import _core
from holdfast._base import DEFAULT_MODE, Timeout, check_bool, check_mode, default_timeout, resolve_timeout, seconds
from holdfast._core import append_log, log_written, sync_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Literal, NoReturn

    from typing_extensions import Self

    from holdfast._damage import Report
    from holdfast._reading import Records

_NEWLINE = 10
POLL = 50_000_000  # nanoseconds between two looks where the system cannot wait in the kernel
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class JsonlStats:
    """What one JsonlFile has done, in this process.

    `waits` are the appends that found another writer at work; their times are in seconds. `repairs` are lines that
    somebody else could not finish, and that were ended before the next record.

    >>> from holdfast import JsonlFile
    >>> log = JsonlFile("events.jsonl")
    >>> log.append({"event": "started"})
    >>> log.stats.appends
    1
    """

    appends: int
    bytes: int
    waits: int
    wait_seconds: float
    longest_wait: float
    syncs: int
    rotations: int
    repairs: int


class JsonlFile:
    """A file of JSON records, one a line, that any number of processes and threads append to.

    Each append takes the lock on the file itself, writes whole lines, or on failure nothing, and unlocks. `timeout` is
    how many seconds to wait for other writers (10, or HOLDFAST_TIMEOUT; negative for ever).

    `durable=True` returns from each append when the record is on the disk, and threads share the syncs for that; a
    number is the time in seconds after which records are on the disk; with False that is left to the system, and a
    power cut may cost the last records, though no crash of a program does. When a sync fails, the data is lost to the
    system: the object then refuses to append.

    `encode` is any function from a record to str or bytes, `orjson.dumps` for example, and `decode` the reverse, from
    bytes. By default it is the standard library's json, compact, with text kept as it is, and without NaN.

    With `max_bytes` or `max_age` (seconds) the file is rotated before it grows larger or older: `events.jsonl` becomes
    `events.00000001.jsonl` and so on, of which `backups` are kept: a number of files, or a size such as "10 GB" for
    all of them together. `compress=True` compresses them with gzip in the background. Sizes are bytes or such texts.

    After a fork the child opens the file for itself. `mode` are the permissions of a new file. `metrics` is the name
    under which holdfast.metrics counts what this log does, together with others of that name.

    >>> from holdfast import JsonlFile
    >>> with JsonlFile("events.jsonl") as log:
    ...     log.append({"event": "started", "pid": 4711})
    ...     for record in log:
    ...         print(record["event"])
    started
    """

    _log: Any = None  # until there is one

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool | float = False,
        timeout: float | None = None,
        encode: Callable[[Any], str | bytes] | None = None,
        decode: Callable[[bytes], Any] | None = None,
        max_bytes: int | str | None = None,
        max_age: float | None = None,
        backups: int | str | None = None,
        compress: bool = False,
        mode: int = DEFAULT_MODE,
        metrics: str | None = None,
    ) -> None:
        given = os.fspath(path)
        check_mode(mode)
        check_bool("compress", compress)
        self._settings: dict[str, Any] = {
            "durable": durable,
            "timeout": timeout,
            "encode": encode,
            "decode": decode,
            "max_bytes": max_bytes,
            "max_age": max_age,
            "backups": backups,
            "compress": compress,
            "mode": mode,
            "metrics": metrics,
        }
        # Absolute: a daemon that changes its directory must not come to write another file.
        self._path = os.path.abspath(given if type(given) is str else os.fsdecode(given)) if given else ""
        self._timeout = default_timeout() if timeout is None else resolve_timeout(timeout, True)
        self._sync_interval = _sync_interval(durable)
        self._synced_by = 0  # the process in which a thread syncs from time to time
        self._plain_encode: Callable[[Any], str | bytes] = _standard_encode() if encode is None else encode
        self._encode: Callable[[Any], bytes] = _standard_encode() if encode is None else _checked(encode)
        self._decode = decode
        self._backups = _backups(backups)
        self._compress = compress
        flags = (_core.EXACT_MODE if mode != DEFAULT_MODE else 0) | (_core.SYNCED if durable is not False else 0)
        self._log = _core.new_log(self._path, mode, flags, _size("max_bytes", max_bytes), _nanoseconds(max_age))
        self._meter = _core.meter_of(metrics)
        if self._meter is not None:
            _core.measure_log(self._log, self._meter)

    @property
    def path(self) -> str:
        """The path of the file, absolute."""
        return self._path

    # Appending

    def append(self, record: Any) -> None:
        """Append a record.

        >>> from holdfast import JsonlFile
        >>> JsonlFile("events.jsonl").append({"event": "started"})
        """
        self._append(self._encode(record), 1)

    def append_bytes(self, line: bytes) -> None:
        r"""Append a record that is encoded already: one line, with or without its newline.

        >>> from holdfast import JsonlFile
        >>> JsonlFile("events.jsonl").append_bytes(b'{"event": "started"}\n')
        """
        if type(line) is not bytes or line.find(b"\n") != len(line) - 1 or line.isspace() or not line:
            line = as_line(line)
        self._append(line, 1)

    def extend(self, records: Iterable[Any]) -> int:
        """Append several records at once, all or none, next to each other. Returns how many.

        >>> from holdfast import JsonlFile
        >>> JsonlFile("events.jsonl").extend({"number": number} for number in range(3))
        3
        """
        encoded = [*map(self._plain_encode, records)]
        if encoded:
            self._append(as_lines(encoded), len(encoded))
        return len(encoded)

    def sync(self) -> None:
        """Return when everything appended so far by this object is on the disk.

        Without `durable`, that is what went to the file that has the path now: one that was rotated away before is left
        to the system.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.append({"event": "paid"})
        >>> log.sync()
        """
        self._check_sync(self._sync(log_written(self._log)))

    def _sync(self, appends: int) -> int:
        while (rc := sync_log(self._log, appends)) == _core.INTERRUPTED:
            pass  # signal handlers have run
        return rc

    def _check_sync(self, rc: int) -> None:
        if rc in (_core.SYNC_FAILED, _core.CLOSED):
            self._fail(rc)
        if rc != 0:
            text = (
                f"the records were appended, but could not be brought to the disk yet ({os.strerror(-rc)}); close some "
                "files and call sync()"
            )
            raise OSError(-rc, text, self._path)

    def _append(self, lines: bytes, records: int) -> None:
        rc = append_log(self._log, lines, len(lines), records)
        if rc:
            self._insist(rc, lines, records)
        if self._sync_interval is not None:
            self._see_to_sync(self._sync_interval)

    def _insist(self, rc: int, lines: bytes, records: int) -> None:
        """Go on after a first try that returned `rc`: wait, rotate, or raise."""
        began, deadline = _core.now(), _core.deadline(self._timeout)
        while rc != 0:
            if rc == _core.FULL:
                self._rotate(deadline, len(lines))
                rc = append_log(self._log, lines, len(lines), records)
            elif rc == _core.INTERRUPTED or (rc == _core.BUSY and self._timeout != 0):
                rc = _core.append_log_wait(self._log, lines, len(lines), records, began, deadline, POLL, _core.NULL)
            else:
                self._fail(rc)

    def _fail(self, rc: int) -> NoReturn:
        """Raise what a result means."""
        if rc == _core.BUSY and self._meter is not None:  # waits that were too long are counted by the core
            _core.meter_add(self._meter, _core.TIMEOUTS, 1)
        if rc in (_core.BUSY, _core.TIMED_OUT):
            error = Timeout(self._path, timeout=self._timeout)
            _ = error.holders  # after a wait it costs little to look now, while they still are
            raise error
        if rc == _core.CLOSED:
            raise ValueError(f"the JsonlFile {self._path!r} is closed; make another")
        if rc == _core.SELF_DEADLOCK:
            raise RuntimeError(
                f"this thread keeps the log {self._path!r} locked, by rotate(), repair() or a lock of its own on that "
                "file, so the wait would never end; append when that is done"
            )
        if rc == _core.SYNC_FAILED:
            number = _core.log_failure(self._log)
            raise OSError(
                number,
                f"records could not be brought to the disk ({os.strerror(number)}) and may be lost, also some whose "
                "append had returned if durable is not True; this object appends no more: look after the disk, "
                "verify() the file, and make another JsonlFile",
                self._path,
            )
        raise _core.log_error(rc, self._path)

    # Syncing from time to time

    def _see_to_sync(self, interval: float) -> None:
        """Sync now, or make sure that it will be done."""
        if interval == 0:
            self.sync()
        elif self._synced_by != os.getpid():
            from holdfast._syncing import sync_from_time_to_time

            self._synced_by = os.getpid()
            started = False
            try:
                started = sync_from_time_to_time(self, interval)
            finally:
                if not started:
                    self._synced_by = 0
            if not started:
                self.sync()

    # Rotation

    def rotate(self) -> str | None:
        """Rotate the file now, unless it is empty or missing. Returns the path of what it was.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.append({"event": "started"})
        >>> log.rotate()  # doctest: +ELLIPSIS
        '...events.00000001.jsonl'
        """
        moved = self._move(_core.deadline(self._timeout), None)
        if moved is not None:
            self._tidy()
        return moved

    def _rotate(self, deadline: int, length: int) -> None:
        moved = self._move(deadline, length)
        if moved is None:
            return  # somebody else was faster
        if self._compress:
            from threading import Thread

            with suppress(RuntimeError):  # no more threads, or the interpreter is about to end: the next one does it
                Thread(target=self._tidy, name="holdfast-compress", daemon=True).start()
            return
        try:
            self._tidy()
        except OSError as error:  # the record that is to be appended must not suffer from it
            from warnings import warn

            warn(f"old files of the log {self._path!r} could not be removed: {error}", stacklevel=5)

    def _move(self, deadline: int, length: int | None) -> str | None:
        """Move the file aside, if it is still full for so many more bytes, or for None if there is anything in it."""
        from holdfast._segments import next_segment_path

        if _core.log_is_mine(self._log):
            self._fail(_core.SELF_DEADLOCK)
        try:
            _lock(self, deadline)
            full = int(os.path.getsize(self._path) > 0) if length is None else _core.log_is_full(self._log, length)
            if full == 0:
                return None
            to = next_segment_path(self._path)
            moved = full if full < 0 else _core.move_log(self._log, to)
            while moved == _core.BUSY and _core.now() < deadline:  # on Windows, while some program has the file open
                time.sleep(0.001)
                moved = _core.move_log(self._log, to)
        finally:  # and no with statement: an exception from a signal handler may come just before its __exit__ begins
            _core.unlock_log(self._log)
        if moved == _core.BUSY:
            text = "the log cannot be rotated, because another program has it open; close it there"
            raise PermissionError(errno.EACCES, text, self._path)
        if full < 0:
            self._fail(full)
        if moved != 0:
            text = f"the log could not be rotated: renaming it to {to!r} failed ({os.strerror(-moved)})"
            raise OSError(-moved, text, self._path)
        return to

    def _tidy(self) -> None:
        """Compress what was rotated, and remove what is too old to be kept."""
        from holdfast._segments import compress, prune, segments_of

        if self._compress:
            for segment in segments_of(self._path):
                if not segment.compressed:
                    compress(segment)
        number, size = self._backups
        if not number is size is None:
            prune(self._path, number, size)

    # Reading

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records())

    def records(
        self,
        where: Callable[[Any], object] | None = None,
        *,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
    ) -> Records:
        """Iterate over the records there are, oldest first, rotated files included.

        Reading takes no lock, and never returns half a line. `where` chooses among the records. A line that is no
        record raises DamagedLine, after which the iteration can go on; `errors="skip"` passes over it. The iterator's
        `checkpoint` is a text that says where it is, and `since=` a checkpoint goes on from there, later or elsewhere.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.extend([{"ms": 12}, {"ms": 950}])
        2
        >>> list(log.records(where=lambda record: record["ms"] > 100))
        [{'ms': 950}]
        """
        from holdfast._reading import Records

        return Records(self._path, self._decode, where=where, since=since, errors=errors)

    def follow(
        self,
        where: Callable[[Any], object] | None = None,
        *,
        since: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        timeout: float | None = None,
        poll_interval: float = 0.1,
    ) -> Records:
        """Iterate over the records there are, and then over those to come, across rotations.

        It ends when there was no new record for `timeout` seconds, by default never, or when another thread calls its
        close(). Whoever saves its `checkpoint` after handling a record, and begins with `since=` that, gets every
        record at least once.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.append({"event": "started"})
        >>> with log.follow(timeout=0.1) as records:
        ...     for record in records:
        ...         print(record)
        {'event': 'started'}
        """
        from holdfast._reading import Records

        return Records(
            self._path,
            self._decode,
            where=where,
            since=since,
            errors=errors,
            following=True,
            timeout=timeout,
            poll_interval=poll_interval,
        )

    def verify(self, progress: Callable[[str, int], object] | None = None) -> Report:
        """Read everything, rotated files included, and report each line that is no record, with its place and why.

        `progress` is called now and then with the file's path and how many of its bytes have been read.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.append({"event": "started"})
        >>> print(log.verify())
        1 file, 1 record, 20 bytes: no damage.
        """
        from holdfast._damage import verify

        return verify(self._path, self._decode, progress, locked=self._locked)

    def repair(self) -> Report:
        """Move each line that is no record to a file beside, `events.jsonl.damaged`, losing no byte.

        Writers wait meanwhile, if the damage is in the file that they write to.

        >>> from holdfast import JsonlFile
        >>> log = JsonlFile("events.jsonl")
        >>> log.append({"event": "started"})
        >>> log.repair().ok
        True
        """
        from holdfast._damage import repair

        return repair(self._path, self._decode, locked=self._locked)

    def _locked(self) -> _Locked:
        return _Locked(self, _core.deadline(self._timeout))

    # The rest

    @property
    def stats(self) -> JsonlStats:
        """What this object has done in this process."""
        counts = _core.count_log(self._log)
        return JsonlStats(
            appends=counts.records,
            bytes=counts.bytes,
            waits=counts.waits,
            wait_seconds=counts.waited / 1e9,
            longest_wait=counts.longest_wait / 1e9,
            syncs=counts.syncs,
            rotations=counts.moves,
            repairs=counts.torn,
        )

    def close(self) -> None:
        """Close the file, after syncing it if it is `durable`. Appending is an error then; reading still works.

        >>> from holdfast import JsonlFile
        >>> JsonlFile("events.jsonl").close()
        """
        if _core.log_is_mine(self._log):
            self._fail(_core.SELF_DEADLOCK)
        deadline = _core.deadline(self._timeout)
        while (rc := _core.close_log(self._log)) == _core.BUSY and _core.now() < deadline:
            time.sleep(0.001)  # another thread is just appending
        if rc != 0:
            self._fail(rc)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<JsonlFile {self._path!r}>"

    def __reduce__(self) -> tuple[Callable[..., JsonlFile], tuple[type[JsonlFile], str, dict[str, Any]]]:
        """A copy, also one pickled to another process, is another writer of the same file."""
        return _make, (type(self), self._path, self._settings)

    # The default argument is there when the interpreter, at its end, has emptied this module.
    def __del__(self, _free: Callable[[Any], None] = _core.free_log) -> None:
        if self._log is not None:
            _free(self._log)


def _lock(file: JsonlFile, deadline: int) -> None:
    """Lock a log, or raise."""
    began = _core.now()
    rc = _core.try_log(file._log)
    while rc == _core.INTERRUPTED or (rc == _core.BUSY and deadline > began):
        rc = _core.wait_log(file._log, began, deadline, POLL, _core.NULL)
    if rc != 0:
        file._fail(rc)


class _Locked:
    """Holds a log's lock while a with block runs."""

    __slots__ = ("_deadline", "_file")

    def __init__(self, file: JsonlFile, deadline: int) -> None:
        self._file = file
        self._deadline = deadline

    def __enter__(self) -> None:
        if _core.log_is_mine(self._file._log):
            self._file._fail(_core.SELF_DEADLOCK)
        try:
            _lock(self._file, self._deadline)
        except BaseException:
            _core.unlock_log(self._file._log)  # an exception from a signal handler may have come just then
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _core.unlock_log(self._file._log)


def _make(cls: type[JsonlFile], path: str, settings: dict[str, Any]) -> JsonlFile:
    return cls(path, **settings)


# -- Encoding ---------------------------------------------------------------------------------------------------------


def _standard_encode() -> Callable[[Any], bytes]:
    from json import JSONEncoder

    encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
    return lambda record: (encode(record) + "\n").encode()


def _checked(encode: Callable[[Any], str | bytes]) -> Callable[[Any], bytes]:
    """A function from a record to one line, from whatever the user has."""

    def line_of(record: Any) -> bytes:
        encoded = encode(record)
        if type(encoded) is bytes and b"\n" not in encoded and encoded and not encoded.isspace():
            return encoded + b"\n"
        return as_line(encoded.encode() if isinstance(encoded, str) else encoded)

    return line_of


def as_lines(encoded: list[Any]) -> bytes:
    """The lines of several records. Nearly always they are as they should be, and then looked at all at once."""
    try:
        lines = b"" if any(map(bytes.isspace, encoded)) else b"\n".join([*encoded, b""])
    except TypeError:
        lines = b""  # there is something else among them
    if lines.count(b"\n") == len(encoded) and b"\n\n" not in lines and lines[0] != _NEWLINE:
        return lines
    return b"".join([as_line(one.encode() if isinstance(one, str) else one) for one in encoded])


def as_line(encoded: Any) -> bytes:
    """One line with its newline, checked."""
    if not isinstance(encoded, (bytes, bytearray, memoryview)):
        raise TypeError(f"an encoded record must be bytes, or str from encode=, not {type(encoded).__name__}")
    line = bytes(encoded)  # pyright: ignore[reportUnknownArgumentType] - whatever the memoryview is of
    text = line[:-1] if line.endswith(b"\n") else line
    if not text.strip():
        raise ValueError("the encoded record is empty; a blank line is no record")
    if b"\n" in text:
        raise ValueError(
            f"the encoded record contains a newline, at byte {text.index(_NEWLINE)}, and would become several lines; "
            "encode it without indentation"
        )
    return text + b"\n"


# -- Arguments --------------------------------------------------------------------------------------------------------


def _sync_interval(durable: bool | float) -> float | None:
    """Seconds between syncs, 0 to sync each time, None never to."""
    if isinstance(durable, bool):
        return 0.0 if durable else None
    interval = seconds("durable", durable)
    if not 0 < interval < 1e9:
        raise ValueError(f"durable must be False, True, or a number of seconds above 0, not {durable!r}")
    return interval


def _nanoseconds(max_age: float | None) -> int:
    if max_age is None:
        return 0
    age = seconds("max_age", max_age)
    if not 0 < age < 1e9:
        raise ValueError(f"max_age must be a number of seconds above 0, not {max_age!r}")
    return max(1, int(age * 1e9))


def _size(name: str, size: int | str | None) -> int:
    """A number of bytes, 0 for none, from a number or a text such as "100 MB"."""
    if size is None:
        return 0
    number: float
    if isinstance(size, str):
        digits = size.strip().rstrip("BbIiKkMmGg ")
        unit = size.strip()[len(digits) :].strip().lower() or "b"
        try:
            number = float(digits) * _UNITS[unit]
        except (KeyError, ValueError):
            raise ValueError(f'{name} must be a number of bytes or a text such as "100 MB", not {size!r}') from None
    elif isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f'{name} must be a number of bytes or a text such as "100 MB", not {type(size).__name__}')
    else:
        number = size
    if not 1 <= number < 2**63:
        raise ValueError(f"{name} must be at least one byte, not {size!r}")
    return int(number)


def _backups(backups: int | str | None) -> tuple[int | None, int | None]:
    """How many old files to keep, and how many bytes of them."""
    if isinstance(backups, str):
        return None, _size("backups", backups)
    if backups is None:
        return None, None
    if isinstance(backups, bool) or not isinstance(backups, int):
        raise TypeError(f'backups must be a number of files or a text such as "10 GB", not {type(backups).__name__}')
    if backups < 0:
        raise ValueError(f"backups must not be negative, got {backups}")
    return backups, None
