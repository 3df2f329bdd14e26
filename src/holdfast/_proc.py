"""What Linux tells in /proc about locks: who took them, which descriptors carry them, and on which mount a file is."""

from __future__ import annotations

import os
import sys
from typing import Literal, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["flock", "ofd", "posix", "lease", "soft"]
Mode = Literal["exclusive", "shared"]

# The flags that Windows does not have are used on Linux only.
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_PATH_ONLY = getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Line(NamedTuple):
    """A line of /proc/locks: a lock, or one who waits for it.

    A descriptor's fdinfo has the same lines, so that the two can be compared.
    """

    waiting: bool
    kind: Kind
    mode: Mode
    pid: int  # of the process that took it, which may be dead; 0 or less where the kernel does not say
    device: str
    inode: int
    start: int
    end: int | None  # None for "to the end of the file, wherever that is"


class Mount(NamedTuple):
    """A mounted file system. `device` is as /proc/locks has it, which on btrfs is not what stat() says."""

    device: str
    point: str
    kind: str
    source: str
    options: str


_KINDS: dict[bytes, Kind] = {b"FLOCK": "flock", b"OFDLCK": "ofd", b"POSIX": "posix", b"LEASE": "lease"}


def parse(line: bytes) -> Line | None:
    """A line of /proc/locks; None if it is about something else, such as a delegation of an NFS server.

    >>> from holdfast._proc import parse
    >>> parse(b"1: -> FLOCK  ADVISORY  WRITE 4712 fe:01:12345 0 EOF").pid
    4712
    """
    words = line.replace(b"->", b" -> ").split()[1:]
    waiting = words[:1] == [b"->"]
    words = words[waiting:]
    if len(words) != 7 or words[0] not in _KINDS:
        return None
    device, _, inode = words[4].decode("ascii").rpartition(":")
    if not device or not inode.isdigit():
        return None  # "<none>:0": the file is just being closed
    return Line(
        waiting=waiting,
        kind=_KINDS[words[0]],
        mode="shared" if words[2] == b"READ" else "exclusive",
        pid=int(words[3]),
        device=device,
        inode=int(inode),
        start=int(words[5]),
        end=None if words[6] == b"EOF" else int(words[6]),
    )


def all_locks() -> list[Line]:
    """All locks and waiters that the kernel shows."""
    return [line for raw in _read_whole("/proc/locks").splitlines() if (line := parse(raw)) is not None]


_SURELY_ONE_PAGE = 3800  # a page has at least 4096 bytes, and ends before what does not fit
_LONG = 1 << 17  # some 2,400 locks; reading ten thousand takes 14 ms


def locks_on(inode: int, devices: set[str] | None) -> tuple[list[Line], bool]:
    """The locks on a file, and those who wait for them; and whether these are surely all.

    Without devices the inode has to do. The kernel gives out a page at a time, and less where a lock and all who wait
    for it do not fit; and locks that come and go between two pieces make others appear twice, or not at all. So a list
    of more than one is read until that adds nothing, and any list many times before it says "nothing"; but only once if
    there are so many locks that it takes long.
    """
    found: dict[bytes, None] = {}
    complete = False
    for _ in range(24):
        before = len(found)
        pieces = _read_pieces("/proc/locks")
        text = b"".join(pieces)
        found.update((line.partition(b":")[2], None) for line in _lines_with(text, b":%d " % inode))
        complete = len(pieces) <= 1 and len(text) < _SURELY_ONE_PAGE
        if not text or len(text) >= _LONG or (found and (complete or len(found) == before)):
            break
    lines = [parse(b"0:" + raw) for raw in found]
    ours = [line for line in lines if line and line.inode == inode and (devices is None or line.device in devices)]
    return ours, complete


def _lines_with(text: bytes, part: bytes) -> Iterator[bytes]:
    """The lines that have a part, found without looking at the others one by one."""
    at = text.find(part)
    while at >= 0:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(part, end)


class Descriptor(NamedTuple):
    """An open file of a process, and what the kernel says about it."""

    number: int
    info: bytes

    def locks(self) -> Iterator[Line]:
        """The locks that it carries."""
        for raw in self.info.split(b"\nlock:")[1:]:
            line = parse(raw.partition(b"\n")[0])
            if line is not None:
                yield line

    def inode(self) -> int:
        """The inode of the file, or 0: the kernel says so since 5.14."""
        digits = self.info.partition(b"\nino:\t")[2].partition(b"\n")[0]
        return int(digits) if digits.isdigit() else 0


FEW = 256
"""So many descriptors can be looked at in a moment."""


def processes() -> list[tuple[int, int]]:
    """The processes that can be seen, each after its number of descriptors (0 before Linux 6.2), in that order."""
    found: list[tuple[int, int]] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found.append((os.stat(f"/proc/{name}/fd").st_size, int(name)))
            except OSError:
                continue  # it has ended
    return sorted(found)


def descriptors(pid: int) -> Iterator[Descriptor]:
    """The descriptors of a process. PermissionError if it may not be looked at; none if it has ended.

    The fdinfo is read, and no descriptor is followed to its file: looking at a file may hang where a server is gone.
    """
    try:
        folder = os.open(f"/proc/{pid}/fdinfo", _READ)
    except (FileNotFoundError, ProcessLookupError):
        return
    try:
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, ProcessLookupError):
            return
        for name in names:
            try:
                yield Descriptor(int(name), _read_whole(name, folder))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it was closed meanwhile
    finally:
        os.close(folder)


def file_behind(pid: int, descriptor: int) -> str:
    """The path of what a descriptor of a process is open on; empty if that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


def has_few_descriptors(pid: int) -> bool:
    """Whether looking at all descriptors of a process takes but a moment."""
    try:
        status = _read_whole(f"/proc/{pid}/status")
    except OSError:
        return False
    size = status.partition(b"FDSize:")[2].partition(b"\n")[0].strip()
    return size.isdigit() and int(size) <= FEW


def threads(pid: int) -> int:
    """How many threads a process has; 0 if that cannot be told."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def devices_of(path: str, status: os.stat_result) -> set[str] | None:
    """How /proc/locks may name the device of a file; None if that cannot be told.

    It is what stat() says where a disk is behind it. Some file systems without one (btrfs, overlayfs) give stat()
    another number, and only the table of mounts has the right one.
    """
    if sys.platform == "win32":
        return None
    found = {f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"}
    if os.major(status.st_dev) == 0:
        mount = mount_of(path)
        if mount is None:
            return None
        found.add(mount.device)
    return found


def mount_of(path: str) -> Mount | None:
    """The mount on which a file is; None if that cannot be told."""
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.open(path, _PATH_ONLY)  # needs no permission, and opens no device
        try:
            info = _read_whole(f"/proc/self/fdinfo/{descriptor}")
        finally:
            os.close(descriptor)
        table = _read_whole("/proc/self/mountinfo")
    except OSError:
        return None
    number = info.partition(b"mnt_id:")[2].partition(b"\n")[0].strip()
    for line in table.splitlines():
        if line.startswith(number + b" "):
            return _parse_mount(os.fsdecode(line))
    return None


def _parse_mount(line: str) -> Mount | None:
    # 36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    before, _, after = line.partition(" - ")
    fields, behind = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(behind) < 3:
        return None
    major, minor = (int(number) for number in fields[2].split(":"))
    return Mount(
        device=f"{major:02x}:{minor:02x}",
        point=_unescaped(fields[4]),
        kind=behind[0],
        source=_unescaped(behind[1]),
        options=f"{fields[5]},{behind[2]}",
    )


def _unescaped(word: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


def _read_whole(path: str, folder: int | None = None) -> bytes:
    return b"".join(_read_pieces(path, folder))


def _read_pieces(path: str, folder: int | None = None) -> list[bytes]:
    descriptor = os.open(path, _READ, dir_fd=folder)
    try:
        return [*iter(lambda: os.read(descriptor, 1 << 16), b"")]
    finally:
        os.close(descriptor)
