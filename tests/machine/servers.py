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


SERVER = "10.9.0.1"
ELSEWHERE = "nsenter --net=/run/netns/other --uts=/run/other "


def mounted(kind: str, options: str, source: str, name: str, where: str = "") -> str:
    """Mount something, and say where. On a slow machine a server that was just started takes its time."""
    folder = Path("/mnt", name)
    folder.mkdir(exist_ok=True)
    mount = f"{where}mount -t {kind} -o {options} {source} {folder}"
    do(f"for each in $(seq 60); do {mount} && exit; sleep 5; done; exit 1")
    return str(folder)


def network() -> None:
    """A second machine, as far as the server can tell.

    Two mounts of one machine would not do: the server takes them for one client, and need not tell it that it has
    changed a file itself. See the advice of holdfast doctor about `nosharecache`.
    """
    do("ip netns add other && ip link add here type veth peer name there netns other")
    do(f"ip address add {SERVER}/24 dev here && ip link set here up")
    do("ip -n other address add 10.9.0.2/24 dev there && ip -n other link set there up && ip -n other link set lo up")
    do("touch /run/other && unshare --uts=/run/other hostname other")
    name = "/sys/fs/nfs/net/nfs_client/identifier"
    do(f"ip netns exec other sh -c 'echo other >{name}'")


def serve() -> None:
    """Serve an ext4 by NFS and SMB, once."""
    if Path(SERVED).exists():
        return
    Path(SERVED).mkdir()
    do("ip link set lo up; hostname served")
    do("for each in loop nfsd nfs nfsv3 nfsv4 cifs veth; do modprobe $each; done")
    network()
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
    """NFS, by two machines and on the server."""
    serve()
    source = f"{SERVER}:/" if version == "4.2" else f"{SERVER}:{SERVED}"
    wheres = [("here", ""), ("elsewhere", ELSEWHERE)] if version == "4.2" else [("here", "")]
    ways = [mounted("nfs", f"vers={version}", source, f"nfs{version}-{name}", where) for name, where in wheres]
    for each in ("here", "server"):
        Path(SERVED, f"nfs{version}-{each}").mkdir()
    check(f"NFS {version}, {len(ways)} machines", f"nfs{version}", *[f"{way}/nfs{version}-here" for way in ways])
    check(
        f"NFS {version}, a mount and the server itself",
        f"nfs{version} and its server",
        f"{ways[0]}/nfs{version}-server",
        f"{SERVED}/nfs{version}-server",
    )


def nfs_without_locks(check: Callable[..., None]) -> None:
    """NFS 3 mounted `nolock`."""
    serve()
    way = mounted("nfs", "vers=3,nolock,nosharecache", f"{SERVER}:{SERVED}", "nolock")
    Path(SERVED, "nolock").mkdir()
    check("NFS 3 nolock, and the server itself", "nfs3 nolock", f"{way}/nolock", f"{SERVED}/nolock")


def cifs(check: Callable[..., None]) -> None:
    """SMB 3.1.1, as it is mounted by default."""
    serve()
    way = mounted("cifs", "guest,vers=3.1.1,nosharesock", f"//{SERVER}/shared", "cifs")
    Path(SERVED, "cifs").mkdir()
    check("SMB 3.1.1, and the server itself", "cifs and its server", f"{way}/cifs", f"{SERVED}/cifs")


def cifs_of_two(check: Callable[..., None]) -> None:
    """SMB 3.1.1, by two machines: that is what the server takes connections for that are not shared."""
    serve()
    names = "here", "elsewhere"
    ways = [mounted("cifs", "guest,vers=3.1.1,nosharesock", f"//{SERVER}/shared", f"cifs-{name}") for name in names]
    Path(SERVED, "cifs2").mkdir()
    check("SMB 3.1.1, 2 machines", "cifs", *[f"{way}/cifs2" for way in ways])


def cifs_without_locks(check: Callable[..., None]) -> None:
    """SMB 3.1.1 mounted `nobrl`, which does not pass on locks."""
    serve()
    way = mounted("cifs", "guest,vers=3.1.1,nosharesock,nobrl", f"//{SERVER}/shared", "nobrl")
    Path(SERVED, "nobrl").mkdir()
    check("SMB 3.1.1 nobrl, and the server itself", "cifs nobrl", f"{way}/nobrl", f"{SERVED}/nobrl")


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
        "cifs2": partial(cifs_of_two, check),
        "nobrl": partial(cifs_without_locks, check),
        "vfat": partial(vfat, check),
    }
