"""On what it was measured."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone

from holdfast._filesystem import file_system_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Machine(TypedDict):
        """What figures depend on."""

        date: str
        system: str
        kernel: str
        cpu: str
        cpus: int
        usable_cpus: int
        file_system: str
        in_memory: bool
        network: bool | None
        python: str
        load: list[float]  # before and after, each the mean of the last minute; empty where the system does not tell


def describe(folder: str) -> Machine:
    """This machine, and the file system of a directory.

    >>> from holdfast._bench.machine import describe
    >>> describe(".")["cpus"] > 0
    True
    """
    disk = file_system_of(folder)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": _system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cpus": os.cpu_count() or 1,
        "usable_cpus": _usable_cpus(),
        "file_system": disk.kind,
        "in_memory": disk.in_memory,
        "network": disk.network,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": load(),
    }


def load() -> list[float]:
    """How many processes wanted to run, on average, in the last minute. Nothing where the system does not tell."""
    if sys.platform == "win32":
        return []
    return [round(os.getloadavg()[0], 2)]


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform == "linux":
        try:
            return platform.freedesktop_os_release()["PRETTY_NAME"]
        except OSError:
            return "Linux"
    return platform.platform(terse=True)


def _cpu() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model"):
                    return value.strip()
    if sys.platform == "darwin":
        import subprocess

        words = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def _usable_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
