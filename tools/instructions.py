"""Count the instructions of the hot paths, and compare them with those of the baseline.

    python tools/instructions.py [--update]

Times say little on a machine that does other things, too; numbers of instructions hardly change. valgrind counts them
for two numbers of turns, and the difference is what the additional turns take. What the kernel does is not counted. A
path that takes more than 5 % more than in tools/instructions.json fails the check; `--update` writes that file.

Another compiler or another Python makes other instructions: then there is nothing to compare with, and the check of
these paths is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "tools/instructions.json"
ALLOWED = 1.05
COMPILER = os.environ.get("CC", "cc")

PROGRAM = """
import gc, sys
from holdfast import FileLock, JsonlFile
path, times = sys.argv[1], int(sys.argv[2])
lock, log = FileLock("instructions.lock", timeout=5), JsonlFile("instructions.jsonl")
record = {"event": "request", "path": "/orders", "status": 201, "ms": 12.9}
line = b'{"event":"request","path":"/orders","status":201,"ms":12.9}'

def in_with():
    with lock:
        pass

def acquire():
    lock.acquire()
    lock.release()

turn = {
    "with a FileLock": in_with,
    "FileLock.acquire": acquire,
    "JsonlFile.append": lambda: log.append(record),
    "JsonlFile.append_bytes": lambda: log.append_bytes(line),
}[path]
gc.disable()
for _ in range(times):
    turn()
"""

C_PATHS = ("lock", "metered", "nested", "append")
PYTHON_PATHS = ("with a FileLock", "FileLock.acquire", "JsonlFile.append", "JsonlFile.append_bytes")


class Part(NamedTuple):
    """Paths that are counted by one program, and what their numbers depend on."""

    conditions: dict[str, str]
    command: list[str]
    paths: Sequence[str]
    turns: tuple[int, int]


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def core(folder: Path) -> Part:
    """The paths of the core, compiled now."""
    program = folder / "instructions"
    sources = sorted([*ROOT.glob("csrc/*.c"), *ROOT.glob("csrc/posix/*.c"), ROOT / "tools/instructions.c"])
    flags = ["-O2", "-std=c11", "-D_GNU_SOURCE", "-pthread"]
    subprocess.run([COMPILER, *flags, "-o", program, *sources, "-lrt"], check=True)
    conditions = {
        "machine": platform.machine(),
        "compiler": output(COMPILER, "--version").splitlines()[0],
        "C library": " ".join(platform.libc_ver()),
        "valgrind": output("valgrind", "--version").strip(),
    }
    return Part(conditions, [str(program)], C_PATHS, (1000, 5000))


def package(conditions: dict[str, str]) -> Part:
    """The paths of the installed package, under the Python that runs this."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    conditions = {
        **conditions,
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "Python is optimized": "yes" if optimized else "no",
        "cffi": version("cffi"),
    }
    command = [sys.executable, "-c", PROGRAM]
    with tempfile.TemporaryDirectory() as folder:  # so that no later run has to compile a module first
        subprocess.run([*command, PYTHON_PATHS[0], "1"], cwd=folder, env=environment(), check=True)
    return Part(conditions, command, PYTHON_PATHS, (500, 3500))


def environment() -> dict[str, str]:
    """Variables with which Python does the same each time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "PYTHONHASHSEED": "0"
    }


def instructions(command: Sequence[str]) -> int:
    """How many instructions a program executes."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
            cwd=folder,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode or found is None:
        sys.exit(f"{result.stderr}\nvalgrind, or what it ran, failed")
    return int(found[1])


def count(part: Part, path: str) -> float:
    """Instructions for one turn."""
    few, many = (instructions([*part.command, path, str(turns)]) for turns in part.turns)
    return round((many - few) / (part.turns[1] - part.turns[0]), 1)


def count_all(part: Part) -> dict[str, float]:
    """Instructions for one turn of each path. What runs beside does not change them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(part.paths, pool.map(lambda path: count(part, path), part.paths), strict=True))


def different(part: Part, conditions: dict[str, str]) -> list[str]:
    """What is not as it was for the baseline."""
    return [
        f"{name} is {value}, and was {conditions.get(name)}"
        for name, value in part.conditions.items()
        if value != conditions.get(name)
    ]


def compare(name: str, found: dict[str, float], baseline: dict[str, float]) -> bool:
    """Show the paths of a part. Whether all are as short as they were."""
    good = True
    for path, number in found.items():
        before = baseline.get(path)
        if before is None:
            print(f"  NEW     {name}: {path}: {number:,.1f} instructions; run this with --update")
            good = False
            continue
        longer = number > before * ALLOWED
        good = good and not longer
        change = f"{number / before - 1:+.1%}"
        print(f"  {'LONGER' if longer else 'as is':7} {name}: {path}: {number:,.1f} instructions ({change})")
    return good


def parts(folder: Path) -> dict[str, Callable[[], Part]]:
    """What there is to count."""
    made = core(folder)
    return {"core": lambda: made, "package": lambda: package(made.conditions)}


def main() -> int:
    """Count, and compare or write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--update", action="store_true", help="write the baseline")
    update = options.parse_args().update
    if shutil.which("valgrind") is None:
        print("SKIPPED instructions: there is no valgrind here")
        return 0
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    written, good = {}, True
    with tempfile.TemporaryDirectory() as folder:
        for name, make in parts(Path(folder)).items():
            part = make()
            before = baseline.get(name, {"conditions": {}, "instructions": {}})
            changed = different(part, before["conditions"])
            if changed and not update:
                print(f"SKIPPED instructions of the {name}: the baseline was made otherwise: {'; '.join(changed)}")
                continue
            found = count_all(part)
            written[name] = {"conditions": part.conditions, "instructions": found}
            good = compare(name, found, found if update else before["instructions"]) and good
    if update:
        BASELINE.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    elif not good:
        print("If that is meant, run `python tools/instructions.py --update` and commit tools/instructions.json.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
