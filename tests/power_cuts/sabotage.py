"""Recordings of what a worse library would have done: what they leave on the disk must be found to break promises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

from disk import File, Naming, Recording, Write

# Syncs


def _without_syncs(recording: Recording, of: Callable[[File], bool] = lambda _: True) -> Recording:
    """The same, had these files not been synced."""
    return _changed(recording, syncs=lambda file: [] if of(file) else file.syncs)


def _synced_too_late(recording: Recording) -> Recording:
    """The same, had each new file been synced only after the rename or link that publishes it."""
    published: dict[File, int] = {}
    for directory in recording.files:
        for time, change in directory.changes if directory.is_directory else ():
            published |= {file: time for file in change.names.values() if file is not None}

    def later(file: File) -> list[tuple[float, float]]:
        time = published.get(file, 0)
        return [(max(began, time + 0.2), max(ended, time + 0.4)) for began, ended in file.syncs]

    return _changed(recording, syncs=lambda file: file.syncs if file.is_directory else later(file))


# Contents: each of them can be read without an error, and is not what was written.


def _invented(data: bytes) -> bytes:
    return data.translate(bytes.maketrans(b"xy", b"zz"))


def _torn(data: bytes) -> bytes:
    """A text that lacks its end, and what it is in ends as if nothing were missing."""
    return re.sub(rb'[\w ]{2}"(\s*})', rb'"\1  ', data)


def _twice(data: bytes) -> bytes:
    return data + data


def _of_another_revision(data: bytes) -> bytes:
    return re.sub(rb'"revision": (\d+)', lambda found: b'"revision": %d' % (int(found[1]) + 1), data)


def _of_another_key(data: bytes) -> bytes:
    return data.replace(b'"plain"', '"Ünïcode/.."'.encode())


def _beyond_its_place(recording: Recording) -> Recording:
    """The same, had each checkpoint been the next one, behind records that were not handled yet."""
    writes = [change for file in recording.files for _, change in file.changes if isinstance(change, Write)]
    notes = [write.data for write in writes if write.data.startswith(b'{"since"')]
    following = dict(pairwise(notes))

    def skipping(data: bytes) -> bytes:
        if data not in following:
            return data
        since = json.loads(following[data])["since"]
        return json.dumps({**json.loads(data), "since": since}).encode()

    return _changed(recording, contents=skipping)


def _changed(
    recording: Recording,
    *,
    syncs: Callable[[File], list[tuple[float, float]]] = lambda file: file.syncs,
    contents: Callable[[bytes], bytes] = lambda data: data,
) -> Recording:
    """A recording with other syncs, or other contents of what was written."""
    copies = {file: replace(file, syncs=syncs(file), changes=[]) for file in recording.files}
    for file, copy in copies.items():
        for time, change in file.changes:
            if isinstance(change, Naming):
                change = Naming({name: named and copies[named] for name, named in change.names.items()})  # noqa: PLW2901
            elif isinstance(change, Write):
                change = replace(change, data=contents(change.data))  # noqa: PLW2901
            copy.changes.append((time, change))
    return replace(recording, root=copies[recording.root], files=list(copies.values()))


SABOTAGE: dict[str, Callable[[Recording], Recording]] = {
    "no syncs": _without_syncs,
    "no syncs of files": partial(_without_syncs, of=lambda file: not file.is_directory),
    "no syncs of directories": partial(_without_syncs, of=lambda file: file.is_directory),
    "files synced after their rename": _synced_too_late,
    "invented contents": partial(_changed, contents=_invented),
    "torn contents that look whole": partial(_changed, contents=_torn),
    "records twice": partial(_changed, contents=_twice),
    "contents of another revision": partial(_changed, contents=_of_another_revision),
    "contents of another key": partial(_changed, contents=_of_another_key),
    "checkpoints beyond their place": _beyond_its_place,
}

_ALL, _FILES, _NAMES, _LATE, _INVENTED, _TORN, _TWICE, _REVISION, _KEY, _BEYOND = SABOTAGE

CONTROLS = {
    "log_durable": [_ALL, _FILES, _NAMES],
    "log_interval": [_ALL, _FILES, _NAMES],
    "log_synced": [_ALL, _FILES, _NAMES],
    "log_careless": [_INVENTED, _TORN, _TWICE],
    "repair": [_ALL, _FILES, _NAMES],
    "checkpoints": [_ALL, _FILES, _NAMES, _LATE],
    "checkpoints_careless": [_INVENTED, _TORN, _BEYOND],
    "atomic": [_ALL, _FILES, _NAMES, _LATE],
    "atomic_careless": [_ALL, _FILES, _NAMES],
    "state": [_ALL, _FILES, _NAMES, _LATE],
    "state_careless": [_INVENTED, _TORN, _REVISION],
    "documents": [_ALL, _FILES, _NAMES, _LATE],
    "documents_careless": [_INVENTED, _TORN, _KEY],
    "markers": [_ALL, _FILES, _LATE],
}
