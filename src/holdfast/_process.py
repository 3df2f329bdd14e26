"""What the system tells about a process: its command line, and since when it runs."""

from __future__ import annotations

import os
import sys

from holdfast import _core

_LONGEST_COMMAND = 200
_WINDOWS_EPOCH = 11_644_473_600  # seconds from 1601, where Windows begins to count, to 1970


def command_of(pid: int) -> str:
    """The command line of a process, on Windows only its program; empty when it may not be looked at.

    >>> from holdfast._process import command_of
    >>> import os
    >>> bool(command_of(os.getpid()))
    True
    """
    if sys.platform == "linux":
        command = _from_proc(pid)
    elif sys.platform == "win32":
        command = _program(pid)
    else:
        command = _from_ps(pid)
    return command.strip()[:_LONGEST_COMMAND]


def started(pid: int) -> float | None:
    """When a process started, in seconds of time.time(); None when that cannot be known."""
    if sys.platform == "linux":
        return _started_by_proc(pid)
    start = _core.process_start(pid)
    if start <= 0:
        return None
    return start / 1e7 - _WINDOWS_EPOCH if sys.platform == "win32" else start / 1e6


def _from_proc(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(b" ".join(words))


def _from_ps(pid: int) -> str:
    import subprocess

    try:
        # -ww: not cut to the width of a screen. Of a process that has ended, ps prints nothing and fails.
        command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        ps = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return ""
    return os.fsdecode(ps.stdout)


def _program(pid: int) -> str:
    if sys.platform != "win32":
        return ""
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.WinDLL("kernel32")
    kernel.OpenProcess.restype = wintypes.HANDLE
    process = wintypes.HANDLE(kernel.OpenProcess(0x1000, False, pid))  # PROCESS_QUERY_LIMITED_INFORMATION
    if not process:
        return ""
    try:
        path, length = ctypes.create_unicode_buffer(32768), wintypes.DWORD(32768)
        found = kernel.QueryFullProcessImageNameW(process, 0, path, ctypes.byref(length))
        return path.value if found else ""
    finally:
        kernel.CloseHandle(process)


def _started_by_proc(pid: int) -> float | None:
    if sys.platform == "win32":
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/stat", "rb") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")
