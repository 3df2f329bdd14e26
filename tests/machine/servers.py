"""File systems that this machine serves to itself, by NFS and SMB, and vfat."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shell import do

SERVED = "/srv/shared"

_SAMBA = f"""\
[global]
server role = standalone server
map to guest = Bad User
log level = 0
[shared]
path = {SERVED}
read only = no
guest ok = yes
force user = root
"""


def mounted(kind: str, options: str, source: str, name: str) -> str:
    """Mount something, and say where."""
    folder = Path("/mnt", name)
    folder.mkdir(exist_ok=True)
    do(f"mount -t {kind} -o {options} {source} {folder}")
    return str(folder)


def serve() -> None:
    """Serve an ext4 by NFS and SMB, once."""
    if Path(SERVED).exists():
        return
    Path(SERVED).mkdir()
    do("ip link set lo up; hostname served")
    do("for each in loop nfsd nfs nfsv3 nfsv4 cifs; do modprobe $each; done")
    do("mount -t nfsd nfsd /proc/fs/nfsd")
    do("truncate -s 300M /tmp/served.img && mkfs.ext4 -q -F /tmp/served.img")
    do(f"mount -o loop /tmp/served.img {SERVED} && rmdir {SERVED}/lost+found")
    Path("/etc/exports").write_text(f"{SERVED} *(rw,no_root_squash,no_subtree_check,insecure,fsid=0)\n")
    do("mkdir -p /run/rpcbind /var/lib/nfs /run/rpc_pipefs; rpcbind -w; rpc.statd; exportfs -ra; rpc.mountd")
    do("rpc.nfsd --grace-time 10 --lease-time 10 4")
    Path("/etc/samba/smb.conf").write_text(_SAMBA)
    do("mkdir -p /run/samba /var/log/samba /var/lib/samba/private; smbd --daemon")
    time.sleep(12)  # the time in which a server of NFS grants no new locks


def nfs(check: Callable[..., None], version: str) -> None:
    """NFS, by another mount and on the server."""
    serve()
    source = "127.0.0.1:/" if version == "4.2" else f"127.0.0.1:{SERVED}"
    options = f"vers={version},nosharecache"
    ways = [mounted("nfs", options, source, f"nfs{version}-{number}") for number in (1, 2)]
    for each in ("here", "server"):
        Path(SERVED, f"nfs{version}-{each}").mkdir()
    check(f"NFS {version}, two mounts", f"nfs{version}", *[f"{way}/nfs{version}-here" for way in ways])
    check(
        f"NFS {version}, a mount and the server itself",
        f"nfs{version} and its server",
        f"{ways[0]}/nfs{version}-server",
        f"{SERVED}/nfs{version}-server",
    )


def nfs_without_locks(check: Callable[..., None]) -> None:
    """NFS 3 mounted `nolock`."""
    serve()
    way = mounted("nfs", "vers=3,nolock,nosharecache", f"127.0.0.1:{SERVED}", "nolock")
    Path(SERVED, "nolock").mkdir()
    check("NFS 3 nolock, and the server itself", "nfs3 nolock", f"{way}/nolock", f"{SERVED}/nolock")


def cifs(check: Callable[..., None]) -> None:
    """SMB 3.1.1, as it is mounted by default and without passing on locks."""
    serve()
    for name, more in ("cifs", ""), ("cifs nobrl", ",nobrl"):
        folder = name.replace(" ", "-")
        way = mounted("cifs", f"guest,vers=3.1.1,nosharesock{more}", "//127.0.0.1/shared", folder)
        Path(SERVED, folder).mkdir()
        check(f"SMB 3.1.1{more}, and the server itself", name, f"{way}/{folder}", f"{SERVED}/{folder}")


def vfat(check: Callable[..., None]) -> None:
    """The file system of memory cards."""
    do("modprobe loop; modprobe vfat; truncate -s 64M /tmp/vfat.img && mkfs.vfat /tmp/vfat.img >/dev/null")
    way = mounted("vfat", "loop", "/tmp/vfat.img", "vfat")
    check("vfat", "vfat", way)


def jobs(check: Callable[..., None]) -> dict[str, Callable[[], Any]]:
    """What can be run, by name."""
    return {
        "nfs4": partial(nfs, check, "4.2"),
        "nfs3": partial(nfs, check, "3"),
        "nolock": partial(nfs_without_locks, check),
        "cifs": partial(cifs, check),
        "vfat": partial(vfat, check),
    }
