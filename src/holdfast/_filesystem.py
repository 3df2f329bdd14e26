"""On which file system a path is, and whether others reach it over a network."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from holdfast import _proc

NETWORK = {
    *("9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "webdav"),
    *("fuse.cephfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs"),
    "fuse.sshfs",
}
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


class FileSystem(NamedTuple):
    """A file system, as the system describes it. `network` is None when it does not say."""

    kind: str
    source: str
    mounted_at: str
    options: list[str]
    network: bool | None

    @property
    def in_memory(self) -> bool:
        """Whether it is gone after a power cut, synced or not."""
        return self.kind in IN_MEMORY

    @property
    def is_fuse(self) -> bool:
        """Whether a program implements it, which decides what its locks mean."""
        return self.kind.startswith("fuse") and self.kind != "fuseblk"


UNKNOWN = FileSystem("unknown", "", "", [], None)


def file_system_of(path: str) -> FileSystem:
    """The file system on which `path` is; UNKNOWN if the system does not tell.

    >>> from holdfast._filesystem import file_system_of
    >>> file_system_of(".").kind != ""
    True
    """
    path = os.path.realpath(path)
    if sys.platform == "linux":
        mount = _proc.mount_of(path)
        if mount is None:
            return UNKNOWN
        return FileSystem(mount.kind, mount.source, mount.point, mount.options.split(","), mount.kind in NETWORK)
    if sys.platform == "win32":
        return _volume(path)
    return _from_mount(path)


def _from_mount(path: str) -> FileSystem:
    """By the table that mount(8) prints: "/dev/disk3s1 on /Volumes/a b (apfs, local, journaled)"."""
    import subprocess

    try:
        text = os.fsdecode(subprocess.run(["/sbin/mount"], stdout=subprocess.PIPE, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    best = UNKNOWN
    for line in text.splitlines():
        source, _, rest = line.partition(" on ")
        point, _, words = rest.rpartition(" (")
        inside = point in ("/", path) or path.startswith(f"{point}/")
        if inside and len(point) >= len(best.mounted_at):
            kind, *options = words.rstrip(")").split(", ")
            best = FileSystem(kind, source, point, options, kind in NETWORK or "local" not in options)
    return best


def _volume(path: str) -> FileSystem:
    if sys.platform != "win32":
        return UNKNOWN
    import ctypes

    kernel = ctypes.WinDLL("kernel32")
    point, kind = ctypes.create_unicode_buffer(32768), ctypes.create_unicode_buffer(256)
    if not kernel.GetVolumePathNameW(path, point, len(point)):
        return UNKNOWN
    kernel.GetVolumeInformationW(point.value, None, 0, None, None, None, kind, len(kind))
    drive = kernel.GetDriveTypeW(point.value)
    network = drive == 4  # DRIVE_REMOTE
    return FileSystem(kind.value or "unknown", "", point.value, [], network)
