"""Records of who owns a marker, and whether that process still lives.

A record is three lines: the pid, the host, and what tells the process from a later one with the same pid (on Linux the
boot id and the time of its start, as one number). It is the record that the filelock package writes, so that both
respect, and clear away, each other's locks.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from dataclasses import dataclass

from holdfast import _core

LONGEST_RECORD = 1024
_LONGEST_HOST = 253
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # fixed by the kernel's ABI, like the next
_INITIAL_TIME_NAMESPACE = 0xEFFFFFFA


@dataclass(frozen=True)
class Owner:
    """The owner that a record names. `start` is None when its system could not tell."""

    pid: int
    host: str
    start: int | None

    @classmethod
    def myself(cls) -> Owner:
        """This process."""
        return cls(os.getpid(), host_name(), _start_token(os.getpid()))

    @classmethod
    def parse(cls, record: bytes) -> Owner | None:
        """The owner that a record names, or None if it names none. Anybody can write a record: nothing is assumed."""
        if len(record) > LONGEST_RECORD or not record.endswith(b"\n") or not record.isascii():
            return None
        lines = record.replace(b"\r\n", b"\n")[:-1].decode("ascii").split("\n")  # filelock's lines on Windows end so
        if len(lines) not in (2, 3) or not all(line.isdigit() for line in (lines[0], *lines[2:])):
            return None
        pid, host = int(lines[0]), lines[1]
        if not 0 < pid < 2**31 or not 0 < len(host) <= _LONGEST_HOST or not all("!" <= c <= "~" for c in host):
            return None
        return cls(pid, host, int(lines[2]) if len(lines) == 3 else None)

    def record(self) -> bytes:
        """What a marker of this owner contains."""
        lines = [str(self.pid), self.host] + ([] if self.start is None else [str(self.start)])
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    def is_this_process(self) -> bool:
        """Whether this process is the owner, also if it could not see then on which host it was."""
        return self == Owner.myself() or self.host == _name_of_no_other

    def is_gone(self) -> bool:
        """Whether the owner is known to have ended. One on another host, or in doubt, is not."""
        if self.host != host_name():
            return False
        start = _core.process_start(self.pid)
        if start == -errno.ESRCH:
            return True
        token = _start_token(self.pid)
        return token is not None and self.start is not None and not _same_start(token, self.start)


def owner_of(path: str) -> Owner | None:
    """The owner of the marker at `path`, or None if there is no such thing."""
    slot = _core.new_marker_slot()
    try:
        if _core.open_marker(slot, path) != 0:
            return None
        return Owner.parse(_core.read_marker(slot[0], path, LONGEST_RECORD + 1)[0] or b"")
    except OSError:
        return None  # who it is cannot be seen
    finally:
        _core.close_marker(slot)


def host_name() -> str:
    """The host, by a name in which one pid means one process.

    Containers may share a host name without sharing pids, so on Linux the pid namespace is a part of it. What is not
    printable ASCII is escaped, because the name is a line of the record. While the system does not say which namespace
    it is, this is a name that nobody else has: nobody is found dead by it.
    """
    try:
        return _host_name()
    except OSError:
        return _name_of_no_other


@functools.cache
def _host_name() -> str:
    if sys.platform == "win32":
        import socket

        raw = socket.gethostname()
    else:
        raw = os.uname().nodename
    name = "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte != ord("?") else f"?{byte:02x}"
        for byte in raw.encode("utf-8", "surrogateescape")
    )
    if sys.platform == "linux":
        namespace = _namespace("pid", _INITIAL_PID_NAMESPACE)
        if namespace != _INITIAL_PID_NAMESPACE:
            name += f"?pidns-{namespace:x}"
    if len(name) > _LONGEST_HOST:  # the part cut off still has to tell hosts apart
        from hashlib import sha256

        keep = _LONGEST_HOST - 9
        name = f"{name[:keep]}-{sha256(name[keep:].encode()).hexdigest()[:8]}"
    return name or "?"


def _begin() -> None:
    """Forget what holds for another process: a child may be the first of a new pid namespace."""
    global _name_of_no_other
    _name_of_no_other = f"?pidns-unknown-{os.urandom(8).hex()}"
    _host_name.cache_clear()


_name_of_no_other: str
_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)


def _namespace(kind: str, initial: int) -> int:
    """The namespace of this process: the initial one where the kernel knows no others. OSError if it cannot be told."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        os.stat("/proc/self/ns")  # without that, there may be others all the same
        return initial


@functools.cache
def _boot_id() -> int:
    """The id of this boot, or 0 where it is hidden."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return int(file.read().strip().replace(b"-", b""), 16)
    except (OSError, ValueError):
        return 0


def _start_token(pid: int) -> int | None:
    """What tells the process from others with its pid, in any boot; None when that cannot be known."""
    start = _core.process_start(pid)
    if start < 0:
        return None
    if sys.platform != "linux":
        return start
    # In a time namespace of its own, a process sees other start times than its neighbours do.
    try:
        if _namespace("time", _INITIAL_TIME_NAMESPACE) != _INITIAL_TIME_NAMESPACE:
            return None
    except OSError:
        return None
    return _boot_id() << 64 | start


def _same_start(one: int, other: int) -> bool:
    """Whether two tokens mean the same start. Where one side could not see the boot id, it proves nothing."""
    if 0 in (one >> 64, other >> 64):
        return one % 2**64 == other % 2**64
    return one == other
