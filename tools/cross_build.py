"""Build the package for Windows and macOS on another system, to see early that it still builds there.

Nothing is run: the wheels are checked for their format and their use of CPython's stable ABI, and thrown away.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from abi3info import DATAS, FUNCTIONS  # type: ignore[import-untyped, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
ZIG = [sys.executable, "-m", "ziglang"]

# setup.py as the target's own setuptools would run it: only the suffix of the module cannot be told from outside.
RUN_SETUP = """
import runpy, sys
import setuptools.command.build_ext as command
suffix = sys.argv.pop(1)
command.get_abi3_suffix = lambda: suffix
sys.argv[0] = "setup.py"
runpy.run_path("setup.py", run_name="__main__")
"""


class Target(NamedTuple):
    """How to build for one platform, and what the module begins with when that worked."""

    zig: str
    python: str
    suffix: str
    link: list[str]
    magic: bytes


# -bundle, what CPython itself uses on macOS, makes zig's linker crash; CPython loads dynamic libraries as well.
MACOS = ["-shared", "-undefined", "dynamic_lookup"]
WINDOWS = ["-shared", "-lpython3"]
TARGETS = {
    "windows x86_64": Target("x86_64-windows-gnu", "win-amd64", ".pyd", WINDOWS, b"\x64\x86"),
    "windows arm64": Target("aarch64-windows-gnu", "win-arm64", ".pyd", WINDOWS, b"\x64\xaa"),
    "macos x86_64": Target(
        "x86_64-macos.10.13", "macosx-10.13-x86_64", ".abi3.so", MACOS, b"\xcf\xfa\xed\xfe\x07\0\0\1"
    ),
    "macos arm64": Target("aarch64-macos.11.0", "macosx-11.0-arm64", ".abi3.so", MACOS, b"\xcf\xfa\xed\xfe\x0c\0\0\1"),
}


def run(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command, and show what it printed only if it failed."""
    result = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\nfailed: {shlex.join(command)}")


def python_headers(folder: Path) -> None:
    """Copy CPython's headers, with a configuration that fits every target."""
    shutil.copytree(sysconfig.get_path("include"), folder)
    shutil.copy(ROOT / "tools/pyconfig.h", folder)


def python_library(folder: Path, machine: str) -> None:
    """Make the import library of CPython's stable ABI on Windows from the list of its names."""
    functions = sorted(symbol.name for symbol in FUNCTIONS)
    data = sorted(f"{symbol.name} DATA" for symbol in DATAS)
    definition = folder / "python3.def"
    definition.write_text("\n".join(['LIBRARY "python3.dll"', "EXPORTS", *functions, *data, ""]), encoding="utf-8")
    run([*ZIG, "dlltool", "-d", definition.name, "-m", machine, "-l", "libpython3.a"], cwd=folder)


def build(target: Target, folder: Path) -> Path:
    """Build the target's wheel from a copy of the sources."""
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    python_headers(folder / "include")
    if target.suffix == ".pyd":
        python_library(folder, "arm64" if "arm64" in target.python else "i386:x86-64")
    compiler = [*ZIG, "cc", "-target", target.zig]
    environment = os.environ | {
        "CC": shlex.join(compiler),
        "LDSHARED": shlex.join([*compiler, *target.link, f"-L{folder}"]),
        "CFLAGS": shlex.join(["-O2", f"-I{folder / 'include'}"]),
        "LDFLAGS": "",
        "_PYTHON_HOST_PLATFORM": target.python,
        "SETUPTOOLS_EXT_SUFFIX": target.suffix,
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / ".cache/zig"),
    }
    platform = target.python.replace("-", "_").replace(".", "_")
    arguments = ["bdist_wheel", "--plat-name", platform, "--dist-dir", str(folder)]
    run([sys.executable, "-c", RUN_SETUP, target.suffix, *arguments], cwd=source, environment=environment)
    return next(folder.glob("*.whl"))


def check(target: Target, wheel: Path) -> None:
    """Exit unless the wheel has a module for the target that keeps to the stable ABI."""
    name = f"holdfast/_native{target.suffix}"
    with zipfile.ZipFile(wheel) as archive:
        if name not in archive.namelist():
            sys.exit(f"{wheel.name} has no {name}")
        module = archive.read(name)
    start = int.from_bytes(module[0x3C:0x40], "little") + 4 if module.startswith(b"MZ") else 0  # behind the DOS header
    if not module.startswith(target.magic, start):
        sys.exit(f"{name} in {wheel.name} is not for {target.zig}")
    run([str(Path(sys.executable).with_name("abi3audit")), "--strict", str(wheel)], cwd=ROOT)


def main() -> None:
    """Build for every target."""
    for name, target in TARGETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = build(target, Path(scratch))
            check(target, wheel)
            print(f"{name}: {wheel.name}")


if __name__ == "__main__":
    main()
