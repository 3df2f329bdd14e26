"""Temporary files whose names say whose they are, so that those of dead processes can be removed.

A name is `.NAME.PID-HOST-START-RANDOM.tmp`: the name of the file it is for, and the owner as in holdfast.owner, with a
digest of the host's name.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from hashlib import blake2b

from holdfast.owner import Owner, host_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_NAME = 255  # bytes, on every file system in use
_PATTERN = re.compile(r"\..*\.(\d{1,10})-([0-9a-f]{16})-([0-9a-f]{0,48})-[0-9a-f]{16}\.tmp", re.DOTALL)

_REST = 50
"""How many times as long as the last sweep of a directory took, the next one waits: so sweeping takes 2 % of the time
at most, also where there are a hundred thousand files."""

_sweep_again: dict[str, float] = {}


def temporary_path(path: str) -> str:
    """A name for a temporary file beside `path`, which nobody can guess."""
    return _beside(path, ".", f".{this_process()}-{os.urandom(8).hex()}.tmp")


def rescue_paths(path: str) -> Iterator[str]:
    """Names for a file beside `path` with what could not become its content. Nobody sweeps them away.

    >>> from holdfast._temporary import rescue_paths
    >>> next(rescue_paths("settings.json"))
    'settings.json.rescued'
    """
    yield _beside(path, "", ".rescued")
    for number in range(2, 100):
        yield _beside(path, "", f".rescued-{number}")


def _beside(path: str, head: str, tail: str) -> str:
    """A name in the same directory that has that of `path` in it, as far as there is room for it."""
    directory, name = os.path.split(path)
    room = _LONGEST_NAME - len(head) - len(tail)
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return os.path.join(directory, f"{head}{name}{tail}")


@cache
def this_process() -> str:
    """This process, as names have it. It takes some time to find out, the first time.

    >>> from holdfast._temporary import this_process
    >>> this_process() == this_process()
    True
    """
    me = Owner.myself()
    start = "" if me.start is None else f"{me.start:x}"
    return f"{me.pid}-{_digest(me.host)}-{start}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=this_process.cache_clear)


def is_litter(name: str) -> bool:
    """Whether a file of this name is the temporary file of a process that has ended.

    >>> from holdfast._temporary import is_litter
    >>> is_litter("settings.json")
    False
    """
    match = _PATTERN.fullmatch(name)
    if match is None or match[2] != _digest(host_name()):
        return False
    pid, start = int(match[1]), match[3]
    return 0 < pid < 2**31 and Owner(pid, host_name(), int(start, 16) if start else None).is_gone()


def sweep(directory: str) -> None:
    """Remove the temporary files of dead processes, unless that was done a moment ago.

    >>> from holdfast._temporary import sweep
    >>> sweep(".")
    """
    began = time.monotonic()
    if began < _sweep_again.get(directory, began):
        return
    try:
        names = os.listdir(directory or os.curdir)
    except OSError:
        return  # who may write here need not be allowed to look around; what else is wrong, the writer will find
    for name in names:
        if name.endswith(".tmp") and is_litter(name):
            try:
                os.unlink(os.path.join(directory, name))
            except OSError:
                continue  # somebody else was faster, or may and we may not: it is not our file that is at stake
    if len(_sweep_again) > 1000:
        _sweep_again.clear()
    now = time.monotonic()
    _sweep_again[directory] = now + (now - began) * _REST


def _digest(host: str) -> str:
    return blake2b(host.encode(), digest_size=8).hexdigest()
