"""Run the tests on other processors, C libraries and interpreters.

unshare --mount python tools/platforms.py [NAME...]      names choose some of PLATFORMS

Another processor is emulated by QEMU, in Debian's root file system for it; newer interpreters come from a root file
system, too. What this machine does not have is fetched and kept: see platform_root.sh.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import evidence

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/platforms"
CACHE = Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache/holdfast")
TARGET = "test-platforms"

# The core of the suite: what depends on the compiled module, on threads, on fork, and on when things are collected. The
# full form runs the whole suite but on an emulated processor; the short one nothing but the C core there.
CORE = "atomic documents errors exclusion free_threads jsonl jsonl_faults metrics rwlock state threads_and_fork waiting"
PART = "free_threads jsonl metrics"  # of that, where much else would say the same again
OTHERS = {"pypy", "3.15", "3.14t"}
SLOW = {"musl"}  # whose Python has to be compiled
BETWEEN = {"3.11", "3.12", "3.13", "3.14"}  # what holds on the oldest and on the newest CPython

LIMIT = 7200 if evidence.FULL else 900  # seconds for each; none takes so long but one that hangs

# What the suite needs beside holdfast on an interpreter that pip is not run on. Without the others, tests are skipped.
PACKAGES = ["cffi", "pytest", "pytest-timeout", "hypothesis", "ruamel.yaml", "tomlkit", "filelock", "prometheus-client"]

NOT_TO_BE_HAD = 3  # a status of platform_root.sh

BINFMT = Path("/proc/sys/fs/binfmt_misc")


class CommandError(Exception):
    """A command that failed: the last it said, and its status."""

    def __init__(self, said: str, status: int = 1) -> None:
        super().__init__(said)
        self.status = status


class MissingError(Exception):
    """What a platform needs and cannot be had, and why."""


@dataclass(frozen=True)
class Platform:
    """Something to run on, in the words of platform_root.sh, pip, tools/wheels.py, zig and QEMU."""

    name: str
    root: str = ""  # without one, this machine's own interpreter
    python: str = ""
    enter: bool = True  # the root, which else only holds the interpreter
    version: str = "3.11"
    pip: str = "--platform=manylinux2014_x86_64 --platform=manylinux_2_17_x86_64"
    wheel: str = "manylinux_x86_64"  # without one, holdfast is built from the sdist
    zig: str = ""  # for the C tests
    emulator: str = ""


def _foreign(name: str, debian: str, processor: str, zig: str, emulator: str = "") -> Platform:
    pip = f"--platform=manylinux2014_{processor} --platform=manylinux_2_17_{processor}"
    wheel = f"manylinux_{processor}"
    return Platform(name, f"bookworm-{debian}", "/usr/bin/python3", pip=pip, wheel=wheel, zig=zig, emulator=emulator)


def _debian(version: str) -> Platform:
    return Platform(f"CPython {version}", "sid", f"/usr/bin/python{version}", version=version)


PLATFORMS = {
    "3.10": Platform("CPython 3.10", version="3.10"),
    "s390x": _foreign("s390x (big-endian), emulated", "s390x", "s390x", "s390x-linux-gnu", "s390x"),
    "arm64": _foreign("arm64, emulated", "arm64", "aarch64", "aarch64-linux-gnu", "aarch64"),
    "i386": _foreign("i386 (32 bit)", "i386", "i686", "x86-linux-gnu"),
    "musl": Platform(
        "musl",
        "musl",
        "bin/python3.13",
        enter=False,
        version="3.13",
        pip="--platform=musllinux_1_2_x86_64",
        wheel="musllinux_x86_64",
        zig="x86_64-linux-musl",
    ),
    "pypy": Platform("PyPy 3.11", "sid", "/usr/bin/pypy3", pip="--implementation=py", wheel=""),
    "3.11": Platform("CPython 3.11", version="3.11"),
    "3.12": Platform("CPython 3.12", version="3.12"),
    "3.13": _debian("3.13"),
    "3.14": _debian("3.14"),
    "3.15": _debian("3.15"),
    "3.14t": Platform(
        "CPython 3.14, free-threaded",
        "free_threaded",
        "bin/python3.14t",
        enter=False,
        version="3.14",
        pip=f"{Platform.pip} --implementation=cp --abi=cp314t --abi=none",
        wheel="cp314t-manylinux_x86_64",
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# What is needed


def output(*words: str | Path, **environment: str) -> str:
    """What a command prints."""
    command = [str(word) for word in words]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip() or "it said nothing"
        raise CommandError(f"{' '.join(command[:3])}: {said.splitlines()[-1]}", result.returncode)
    return result.stdout


def root_of(platform: Platform) -> str:
    """The folder of the platform's root file system or interpreter."""
    try:
        return output("bash", "tools/platform_root.sh", platform.root, PYTHON=sys.executable).splitlines()[-1]
    except CommandError as error:
        if error.status != NOT_TO_BE_HAD:
            raise
        raise MissingError(str(error)) from error


def cached(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the cache. It has another name until it is whole."""
    folder = CACHE / "platforms" / name
    if not folder.exists():
        scratch = folder.with_name(f".{name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            make(scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def machines_own(version: str) -> str:
    """This machine's own CPython of a version."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [*pyenv.glob(f"versions/{version}.*/bin"), Path("/usr/local/bin"), Path("/usr/bin")]
    for place in places:
        if (place / f"python{version}").exists():
            return str(place / f"python{version}")
    raise MissingError(f"this machine has no CPython {version}")


@dataclass(frozen=True)
class Interpreter:
    """A platform's Python: where it runs, where the suite's packages are, and how pip serves it."""

    inside: str
    python: str
    packages: Path
    pip: list[str | Path]


def interpreter(platform: Platform) -> Interpreter:
    """Have the platform's Python, with all that the suite needs."""
    pip: list[str | Path] = [sys.executable, "-m", "pip"]
    if platform.root:
        root = root_of(platform)
        inside, python = (root, platform.python) if platform.enter else ("/", f"{root}/{platform.python}")
        pip += ["install", "--quiet", "--only-binary=:all:", f"--python-version={platform.version}"]
        pip += platform.pip.split()
        wanted = PACKAGES if platform.wheel else [*PACKAGES[1:], "pip", "setuptools"]
    else:
        inside, python = "/", machines_own(platform.version)
        pip += ["--python", python, "install", "--quiet"]
        wanted = ["--group", "test", "cffi"]
    made_of = (pip[1:], wanted, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    name = f"packages-{platform.version}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]}"
    packages = cached(name, lambda folder: output(*pip, "--target", folder, *wanted))
    return Interpreter(inside, python, packages, pip)


def install(platform: Platform, python: Interpreter, folder: Path, wheels: dict[str, str]) -> None:
    """Install holdfast into a folder as its users would."""
    shutil.rmtree(folder, ignore_errors=True)
    if platform.wheel:
        if platform.wheel not in wheels:
            raise CommandError(f"tools/wheels.py made no {platform.wheel}")
        output(*python.pip, "--no-deps", "--target", folder, wheels[platform.wheel])
        return
    sdist = next((ROOT / "dist").glob("holdfast-*.tar.gz"))
    folder.mkdir()
    build = [python.python, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    compiler = {"PYTHONPATH": str(python.packages), "CC": "gcc", "LDSHARED": "gcc -shared"}
    inside = ["bash", "tools/platform_inside.sh", python.inside, str(folder)]
    output(*inside, *build, "--target", folder, sdist, **compiler)


@contextmanager
def emulators(processors: set[str]) -> Iterator[None]:
    """The kernel starts programs for these processors with QEMU, as long as this goes on."""
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    names = []
    try:
        for processor in sorted(processors):
            name = f"holdfast-{processor}-{os.getpid()}"
            line = Path(f"/usr/lib/binfmt.d/qemu-{processor}.conf").read_text(encoding="utf-8").strip()
            (BINFMT / "register").write_text(line.replace(f"qemu-{processor}", name, 1), encoding="utf-8")
            names.append(name)
        yield
    finally:
        for name in names:
            (BINFMT / name).write_text("-1", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# What is run

running: set[subprocess.Popen[bytes]] = set()


def run(inside: str, folder: Path, command: list[str], log: Path, **environment: str) -> int:
    """Run tests, and keep what they print. Returns their status."""
    words = ["bash", "tools/platform_inside.sh", inside, str(folder), *command]
    with log.open("wb") as printed:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        running.add(process)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            printed.write(f"\nnot done after {LIMIT} s\n".encode())
        finally:
            running.remove(process)
    return process.returncode


def c_tests(platform: Platform, folder: Path) -> Callable[[], None]:
    """Run the tests of the C core, and return how to note them."""
    environment = {"PYTHON": sys.executable, "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig")}
    output("bash", "csrc/tests/run.sh", "build", platform.zig, **environment)
    root = root_of(platform) if platform.enter else "/"
    log = folder / "c.log"
    run(root, folder, [str(ROOT / f"build/ctests/build/{platform.zig}")], log)

    def note() -> None:
        text = log.read_text(encoding="utf-8", errors="replace")
        for what in re.findall(r"^SKIPPED (.*)$", text, re.MULTILINE):
            print(f"SKIPPED {platform.name}, C core: {what}")
        counts = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.MULTILINE)
        passed, failed, skipped = map(int, counts.groups()) if counts else (0, 1, 0)
        if failed:
            print(text)
        evidence.row(TARGET, f"{platform.name}, C core", passed=passed, failed=failed, skipped=skipped)

    return note


def part_for(name: str) -> tuple[str, list[str]]:
    """Which part of the suite to run there: what it is called, and pytest's arguments."""
    emulated = bool(PLATFORMS[name].emulator)
    if evidence.FULL and not emulated:
        return "the whole suite", ["--override-ini=timeout=600"]  # PyPy takes its time to warm up in each process
    part = not evidence.FULL and name in OTHERS
    files = [f"tests/test_{each}.py" for each in (PART if part else CORE).split()]
    return f"{'a part' if part else 'the core'} of the suite", [*files, *["--override-ini=timeout=1200"] * emulated]


def python_tests(name: str, folder: Path, wheels: dict[str, str]) -> Callable[[], None]:
    """Run the suite or a part of it, and return how to note it."""
    platform = PLATFORMS[name]
    python = interpreter(platform)
    install(platform, python, folder / "holdfast", wheels)
    what, arguments = part_for(name)
    # Nothing may depend on how slow an emulator is; what hangs, it does for longer.
    patience = {"HOLDFAST_PATIENCE": "600"} if platform.emulator else {}
    log, report = folder / "python.log", folder / "python.xml"
    report.unlink(missing_ok=True)
    status = run(
        python.inside,
        folder,
        [python.python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments],
        log,
        PYTHONPATH=f"{folder / 'holdfast'}:{python.packages}",
        PYTHONPYCACHEPREFIX=str(folder / "bytecode"),
        HYPOTHESIS_STORAGE_DIRECTORY=str(folder / "hypothesis"),
        **patience,
    )

    def note() -> None:
        text = log.read_text(encoding="utf-8", errors="replace")
        version = re.search(r"^platform \S+ -- (Python [^,]*)", text, re.MULTILINE)
        evidence.pytest(TARGET, f"{platform.name}, {what}", str(report), status, version[1] if version else "")
        if not report.exists() or re.search(r"^=+ .*\d (failed|error)", text, re.MULTILINE):
            print(text)

    return note


def build_wheels(names: list[str]) -> dict[str, str]:
    """The wheels that the platforms need, by their names."""
    wanted = sorted({PLATFORMS[name].wheel for name in names} - {""})
    if not wanted:
        return {}
    command = [sys.executable, "tools/wheels.py", *wanted]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout, flush=True)
    return dict(re.findall(r"^(\S+): (build/wheels/\S+\.whl)", result.stdout, re.MULTILINE))


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End in good order on SIGTERM."""
    sys.exit(f"stopped by signal {number}")


def run_all(names: list[str], wheels: dict[str, str], pool: ThreadPoolExecutor) -> None:
    """Run on these platforms, and tell of each as it is done."""
    started: dict[Future[Callable[[], None]], str] = {}
    for name in names:
        platform = PLATFORMS[name]
        folder = BUILD / name
        folder.mkdir(parents=True, exist_ok=True)
        if evidence.FULL or not (platform.emulator or name in SLOW | BETWEEN):
            started[pool.submit(python_tests, name, folder, wheels)] = platform.name
        else:
            reason = "between others" if name in BETWEEN else "too slow for the short form"
            evidence.row(TARGET, f"{platform.name}, the suite", skipped=1, note=f"{reason}; FULL=1 runs it")
            print(f"SKIPPED {platform.name}, the suite: {reason}; FULL=1 runs it")
        if platform.zig:
            started[pool.submit(c_tests, platform, folder)] = f"{platform.name}, C core"
    for done in as_completed(started):
        try:
            done.result()()
        except MissingError as missing:
            print(f"SKIPPED {started[done]}: {missing}")
            evidence.row(TARGET, started[done], skipped=1, note=str(missing))
        except CommandError as error:
            evidence.row(TARGET, started[done], failed=1, note=str(error))


def main(names: list[str]) -> int:
    """Run on all platforms, or some, two at a time."""
    signal.signal(signal.SIGTERM, stop)
    evidence.begin(TARGET, names)
    names = names or list(PLATFORMS)
    wheels = build_wheels(names)
    with emulators({PLATFORMS[name].emulator for name in names} - {""}), ThreadPoolExecutor(2) as pool:
        try:
            run_all(names, wheels, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
