"""What is expected of each file system, so that a surprise in either direction is a failure."""

from __future__ import annotations

from dataclasses import dataclass, replace

KINDS = ("flock", "ofd", "soft")
KERNEL = frozenset({"flock", "ofd"})
NOWHERE_ELSE = "other machines get the same lock"


@dataclass(frozen=True)
class Place:
    """A file system as it should turn out to be.

    `kind` is what the system calls it. It `lacks` what is named there: kinds of locks, "names" (giving a file a
    name only if that is free, by a hard link or a rename), "permissions", "holders" (the kernel shows who has a
    lock), "replacing" (a file that is replaced is never missing), "open files" (one that is open can be replaced),
    "fresh names" (those that somebody else has changed are seen), "advisory" (a lock keeps out nobody who does not
    ask for it), "common logs" (several machines can append to one). `apart` are the locks that do not exclude whoever
    comes another way. Of doctor's trials those of `not_so` must turn out not to be so, those of `perhaps` may, those
    of `undecided` cannot be tried, and all others must be so; and its advice must have all of `says`.
    """

    kind: str
    lacks: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    not_so: frozenset[str] = frozenset()
    perhaps: frozenset[str] = frozenset()
    undecided: frozenset[str] = frozenset()
    says: tuple[str, ...] = ()
    one_way: bool = False
    """Whether it must not be changed in two ways at once."""


_WELL = "All that holdfast promises is so here."

_FUSE = frozenset({"unnamed files", "waiting in the kernel"})

# Its locks are a program's, so that the kernel does not show them; and the kernel remembers its names for a second.
_FAULTY = Place(
    "fuse.faulty",
    lacks=frozenset({"replacing", "holders", "fresh names"}),
    not_so=_FUSE,
    perhaps=frozenset({"replacing files"}),
    says=("locks reach as far as it carries them",),
)
_NO_FLOCK = replace(
    _FAULTY,
    lacks=_FAULTY.lacks | {"flock"},
    not_so=frozenset({"unnamed files", "locks: flock", "appending"}),
    undecided=frozenset({"waiting in the kernel"}),
    says=("Use SoftFileLock instead of FileLock here.",),
)
_NO_OFD = replace(
    _FAULTY,
    lacks=_FAULTY.lacks | {"ofd"},
    not_so=_FUSE | {"locks: ofd"},
    says=("Leave FileLock's kind as it is",),
)
_NO_LOCKS = replace(_NO_FLOCK, lacks=_NO_FLOCK.lacks | KERNEL, not_so=_NO_FLOCK.not_so | {"locks: ofd"})

_NO_TMPFILE = frozenset({"unnamed files"})
_NFS4 = Place(
    "nfs4",
    not_so=_NO_TMPFILE | {"waiting in the kernel"},
    says=("keep out programs that run on the server itself",),
)
_NFS3 = replace(_NFS4, kind="nfs", lacks=frozenset({"holders"}))
# The server's locks hold back whoever reads, too. Who owns a file, and who may use it, is up to the server. The client
# removes a file that somebody has open before it puts another in its place; and it gives the lock of a log back when a
# neighbour closes it.
_CIFS = Place(
    "cifs",
    lacks=frozenset({"advisory", "open files", "permissions", "replacing", "common logs"}),
    not_so=_NO_TMPFILE | {"waiting in the kernel", "upper and lower case"},
    perhaps=frozenset({"replacing files"}),
    says=("but not programs on the server itself",),
)
_ONE_MACHINE = ("Locks do not leave this machine, because of the option",)

PLACES = {
    "ext4": Place("ext4", says=(_WELL,)),
    "xfs": Place("xfs", says=(_WELL,)),
    "btrfs": Place("btrfs", says=(_WELL,)),
    "tmpfs": Place("tmpfs", says=(_WELL, "durable=True means nothing here")),
    # The other way is a layer of it.
    "overlay": Place("overlay", apart=KERNEL, says=(_WELL, "the processes of this container only"), one_way=True),
    # These look a file up first, and then open it by its name, which may be another file's by then.
    "bindfs": Place(
        "fuse",
        lacks=frozenset({"replacing"}),
        apart=KERNEL,
        not_so=_FUSE,
        perhaps=frozenset({"replacing files"}),
        says=("locks reach as far as it carries them; with bindfs only to this mount",),
    ),
    "sshfs": Place(
        "fuse.sshfs",
        lacks=frozenset({"replacing"}),
        apart=KERNEL,
        not_so=_FUSE,
        perhaps=frozenset({"replacing files"}),
        says=("sshfs keeps locks to this mount",),
    ),
    # Those of an emulated machine, see ../machine. A server's own programs see the locks of its clients as far as said.
    "nfs4.2": _NFS4,
    "nfs4.2 and its server": replace(_NFS4, apart=frozenset({"flock"})),
    "nfs3": _NFS3,
    "nfs3 and its server": replace(_NFS3, apart=frozenset({"flock"})),
    "nfs3 nolock": replace(_NFS3, apart=KERNEL, says=_ONE_MACHINE),
    # Two machines that take turns by names stand still, in calls of Linux that do not return for a minute and more.
    "cifs": replace(_CIFS, lacks=_CIFS.lacks | {"names", "fresh names"}),
    "cifs and its server": replace(_CIFS, apart=KERNEL),
    "cifs nobrl": replace(
        _CIFS,
        apart=KERNEL,
        lacks=frozenset({"open files", "permissions", "replacing"}),
        not_so=_NO_TMPFILE | {"upper and lower case"},
        perhaps=frozenset({"waiting in the kernel", "replacing files"}),
        says=_ONE_MACHINE,
    ),
    "vfat": Place(
        "vfat",
        lacks=frozenset({"permissions"}),
        not_so=_NO_TMPFILE | {"hard links", "upper and lower case"},
    ),
    # The file system of faulty.c, which keeps its locks in another one, by how it is told to behave. CIFS says EACCES.
    "faulty": _FAULTY,
    "busy=EACCES short=1 delay=1": replace(_FAULTY, perhaps=_FAULTY.perhaps | {"appending without locks"}),
    "deaf=1": _FAULTY,
    "flock=ENOLCK lock=ENOLCK": _NO_LOCKS,
    "flock=ENOSYS lock=ENOSYS": _NO_LOCKS,
    "flock=EOPNOTSUPP": _NO_FLOCK,
    "lock=EINVAL": _NO_OFD,
    "link=ENOSYS symlink=ENOSYS rename2=ENOSYS": replace(
        _FAULTY,
        lacks=_FAULTY.lacks | {"names"},
        not_so=_FUSE | {"hard links", "locks: soft"},
        says=("Use FileLock here, not SoftFileLock.",),
    ),
    "link=EPERM": replace(_FAULTY, not_so=_FUSE | {"hard links"}),
    "rename2=EINVAL": _FAULTY,
    "fsync=ENOSYS fsyncdir=EINVAL": replace(_FAULTY, not_so=_FUSE | {"syncing directories"}),
}
