"""`holdfast doctor`: what a file system keeps of holdfast's promises, tried out, and what to do about the rest."""

from __future__ import annotations

import os
import shutil
import tempfile

from holdfast._filesystem import FileSystem, file_system_of
from holdfast._trials import Trial, in_words, trials, try_out
from holdfast.cli import say
from holdfast.cli._output import as_json, progress, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
holdfast doctor .
holdfast doctor /mnt/share --json
"""

_SLOW = 0.005  # seconds for a sync
_TOO_FAST = 0.00002


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="a directory, or a file in it; it is tried out in a new one there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Try everything out and print what was found. 0 if all promises hold, else 1."""
    system = file_system_of(options.path)
    results = _results(options.path)
    broken = [trial for trial in results if trial.promised and trial.holds is False]
    advice = advise(system, results)
    if options.json:
        show(
            as_json(
                {
                    "path": options.path,
                    "file_system": {**system._asdict(), "in_memory": system.in_memory},
                    "well": not broken,
                    "trials": [trial._asdict() for trial in results],
                    "advice": advice,
                }
            )
        )
    else:
        show("\n".join(_report(options.path, system, results, advice)))
    return 1 if broken else 0


def _results(path: str) -> list[Trial]:
    os.stat(path)  # what does not exist should be the error, and not that nothing can be created in it
    parent = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    folder = tempfile.mkdtemp(prefix=".holdfast-doctor-", dir=parent)
    try:
        every = trials()
        results: list[Trial] = []
        with progress(len(every), "trials", "trying out") as bar:
            for name, trial in every.items():
                bar.update(len(results))
                results.append(try_out(name, trial, folder))
        return results
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:  # what was found is worth more than this
        say(f"{folder} could not be removed: {error.strerror}; remove it")


def _report(path: str, system: FileSystem, results: list[Trial], advice: list[str]) -> list[str]:
    marks = {True: "yes", False: "NO", None: "?"}
    lines = [f"{path}: {_describe(system)}", ""]
    for trial in results:
        mark = marks[trial.holds] if trial.promised or trial.holds is not False else "no"
        lines.append(f"  {mark:3}  {trial.name}: {trial.found}")
    return [*lines, "", *advice]


def _describe(system: FileSystem) -> str:
    if system.kind == "unknown":
        return "the system does not say which file system this is"
    if system.in_memory:
        what = "in memory"
    elif system.network:
        what = "over a network"
    elif system.is_fuse:
        what = "by a program (FUSE)"
    else:
        what = "local"
    source = f" from {system.source}" if system.source not in ("", system.kind, "none") else ""
    return f"{system.kind}, {what}{source}, mounted at {system.mounted_at}"


def advise(system: FileSystem, results: list[Trial]) -> list[str]:
    """What is safe there, and which settings to use."""
    found = {trial.name: trial for trial in results}
    return [*_about_locks(system, found), *_about_reach(system), *_about_disks(system, found), *_about_rest(found)]


def _about_locks(system: FileSystem, found: dict[str, Trial]) -> list[str]:
    broken = [trial.name for trial in found.values() if trial.promised and trial.holds is False]
    if not broken:
        among = "for those who use this mount" if system.is_fuse else "on this machine" if system.network else "here"
        lines = [f"All that holdfast promises is so {among}."]
    else:
        lines = [f"Not all that holdfast promises is so here. What is not: {', '.join(broken)}."]
    soft = found["locks: soft"].holds
    if found["locks: flock"].holds is False:
        if soft:
            lines.append("Use SoftFileLock instead of FileLock here. JsonlFile, StateFile and DocumentStore need")
            lines.append("kernel locks: put their files on another file system.")
        else:
            lines.append("Put lock files, and all that several processes write, on another file system.")
    elif soft is False:
        lines.append("Use FileLock here, not SoftFileLock.")
    if "locks: ofd" in found and found["locks: ofd"].holds is False and found["locks: flock"].holds:
        lines.append('Leave FileLock\'s kind as it is: "ofd" does not work here.')
    return lines


_LOCAL_ONLY = [
    "Locks do not leave this machine, because of the option {option} of its mount: other machines get the same lock.",
    "If more than one machine writes here, mount it without that.",
]
_UNSHARED = [
    "This mount shares no cache with others of this machine (nosharecache): what is appended here and through",
    "another one can be lost, whatever lock is held. Mount it once, or without that.",
]
_REACH = {
    "nfs": [
        "Locks reach other machines that mount it over NFS with locks. FileLock does not keep out programs that run",
        'on the server itself; FileLock(kind="ofd") does. Let all who append here use JsonlFile, whose lock keeps',
        "lines whole.",
    ],
    "cifs": [
        "Locks reach other machines that mount it over SMB, but not programs on the server itself. They hold back",
        "readers, too: who reads a log while another appends, or repairs it, may get a PermissionError. Let only one",
        "machine append to a log: when a process there closes it, Linux gives back another's lock.",
    ],
    "fuse": [
        "A program makes this file system (FUSE), and locks reach as far as it carries them; with bindfs only to this",
        "mount. If others reach the same files in other ways, take it that they get the same lock.",
    ],
    "fuse.sshfs": [
        "sshfs keeps locks to this mount: whoever reaches the same files another way, from another machine, on the",
        "server, or by a second mount, gets the same lock.",
    ],
    "network": [
        "Whether locks reach other machines cannot be tried out from this one alone. If its manual does not promise",
        "that, let only one machine write here.",
    ],
    "overlay": [
        "This is a container's own layer: locks reach the processes of this container only, and what is written goes",
        "with it. Put what containers share on a volume.",
    ],
    "local": [],
}


def _about_reach(system: FileSystem) -> list[str]:
    """Which other machines the locks reach, which cannot be tried out from one."""
    kind = _kind(system)
    unshared = _UNSHARED if kind == "nfs" and "nosharecache" in system.options else []
    for option in system.options:
        if kind in ("nfs", "cifs") and option in ("nolock", "local_lock=all", "local_lock=flock", "nobrl"):
            return [*(line.format(option=option) for line in _LOCAL_ONLY), *unshared]
    return [*_REACH[kind], *unshared]


def _kind(system: FileSystem) -> str:
    if system.kind in ("nfs", "nfs4"):
        return "nfs"
    if system.kind in ("cifs", "smb2", "smb3", "smbfs"):
        return "cifs"
    if system.is_fuse:
        return system.kind if system.kind in _REACH else "fuse"
    if system.network:
        return "network"
    return "overlay" if system.kind == "overlay" else "local"


def _about_disks(system: FileSystem, found: dict[str, Trial]) -> list[str]:
    if system.in_memory:
        return ["It is in memory: durable=True means nothing here, all is gone when the machine restarts."]
    cost = found["syncing files"].seconds
    if cost is None:
        return []
    lines: list[str] = []
    if cost > _SLOW:
        lines.append(
            f"Syncs are slow ({in_words(cost)}). durable=True waits for one each time, durable=1.0 for one a second."
        )
    elif cost < _TOO_FAST and not system.network:
        lines.append("Syncs take no time at all: perhaps nothing is synced. Do not count on durable=True.")
    return lines


def _about_rest(found: dict[str, Trial]) -> list[str]:
    lines: list[str] = []
    if found["waiting in the kernel"].holds is False and found["locks: flock"].holds:
        asked = os.environ.get("HOLDFAST_WAIT") == "poll"
        what = "Unset HOLDFAST_WAIT, which asks for that" if asked else "Lower it if that is too late"
        lines.append(f"Who waits looks again at intervals of up to poll_interval (0.05 s). {what}.")
    if found["appending without locks"].holds is False:
        lines.append("Programs that append without a lock tear lines here: let all of them use JsonlFile.")
    if found["upper and lower case"].holds is False:
        lines.append("Names that differ only in upper and lower case are the same file here.")
    if found["long names"].holds is False:
        lines.append("Long names are refused here: keep them short. Files beside a file have names up to 110 longer.")
    return lines
