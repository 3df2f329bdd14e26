"""What must be true of a wheel, whatever it was built with: its contents, and its compiled module read as a file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import cast

import lief
from abi3info import DATAS, FUNCTIONS  # type: ignore[import-untyped, unused-ignore]
from abi3info.models import PyVersion  # type: ignore[import-untyped, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent

# What CPython's headers make of reference counts in a free-threaded build, beyond the stable ABI.
FREE_THREADED = {"_Py_DecRefShared", "_Py_MergeZeroLocalRefcount"}

# They keep a wheel, and its module, from growing unseen. The largest module, with 330,000 bytes, is that for armv7l.
WHEEL_BOUND = 640_000
MODULE_BOUND = 500_000

# A system's own libraries: more than these would have to be installed, or belong to another C library.
LIBRARIES = {
    "manylinux": r"lib(c\.so\.6|pthread\.so\.0|rt\.so\.1)|ld-linux.*",
    "musllinux": r"libc\.musl-\w+\.so\.1",
    "macosx": r"@rpath/_native[\w.-]*|/usr/lib/libSystem\.B\.dylib",  # the first is the module's own name
    "win": r"(?i)kernel32\.dll|advapi32\.dll|ntdll\.dll|api-ms-win-crt-[\w-]+\.dll|python(3|314t)\.dll",
}
MACHINES = {
    "x86_64": "X86_64",
    "amd64": "AMD64",
    "aarch64": "AARCH64",
    "arm64": "ARM64",
    "i686": "I386",
    "win32": "I386",
    "armv7l": "ARM",
    "s390x": "S390",
    "ppc64le": "PPC64",
    "riscv64": "RISCV",
}

Module = lief.ELF.Binary | lief.MachO.Binary | lief.PE.Binary


class Audit:
    """Checks of one wheel: how many passed, and what failed."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.passed = 0
        self.failures: list[str] = []

    def check(self, passed: bool, failure: str) -> None:
        """Count a check."""
        if passed:
            self.passed += 1
        else:
            self.failures.append(failure)

    def same(self, what: str, found: set[str], expected: set[str]) -> None:
        """Check that two sets are equal, and name what differs."""
        differences = [f"lacks {name}" for name in sorted(expected - found)]
        differences += [f"has {name}" for name in sorted(found - expected)]
        self.check(not differences, f"{what}: {', '.join(differences)}")

    def command(self, name: str, *arguments: str) -> str:
        """Check that a program that was installed beside this Python is content with the wheel."""
        command = [str(Path(sys.executable).with_name(name)), *arguments, str(self.wheel)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        self.check(result.returncode == 0, f"{name}: {result.stdout}{result.stderr}")
        return result.stdout


def import_definition(library: str, free_threaded: bool) -> str:
    """The functions and data of a Python library for Windows, in the form from which its import library is made."""
    functions = [symbol.name for symbol in FUNCTIONS] + (sorted(FREE_THREADED) if free_threaded else [])
    data = [f"{symbol.name} DATA" for symbol in DATAS]
    return "\n".join([f'LIBRARY "{library}.dll"', "EXPORTS", *sorted(functions), *sorted(data), ""])


def audit(wheel: Path, *, abi: str, platform: str, suffix: str, unwanted: str) -> Audit:
    """Check everything that a wheel alone can show. UNWANTED is the folder it was built in, which it must not name."""
    checks = Audit(wheel)
    native = f"holdfast/_native{suffix}"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        checks.check(archive.testzip() is None, "a file in it is damaged")
        tags = metadata_tags(archive)
        module = archive.read(native) if native in names else b""
    checks.check(wheel.name.endswith(f"-{abi}-{platform}.whl"), f"its name is not for {abi}-{platform}")
    checks.same("tags in its metadata", tags, {f"{abi}-{platform}"})
    checks.same("contents", names, {native} | sources() | metadata(wheel))
    checks.check(wheel.stat().st_size <= WHEEL_BOUND, f"it has {wheel.stat().st_size:,} bytes")
    checks.check(len(module) <= MODULE_BOUND, f"its module has {len(module):,} bytes")
    checks.check(unwanted.encode() not in module, f"its module names {unwanted}")
    binary = lief.parse(list(module))
    if isinstance(binary, Module):
        audit_module(checks, binary, abi, platform)
    else:
        checks.check(False, f"{native} is no module that any system knows")
    if "linux" in platform:
        audit_policy(checks, platform)
    if "abi3" in abi:
        checks.command("abi3audit", "--strict", "--assume-minimum-abi3", "3.10")
    return checks


def sources() -> set[str]:
    """What of the package's folder belongs into a wheel."""
    folder = ROOT / "src"
    files = [path for path in folder.glob("holdfast/**/*") if path.suffix in {".py", ".pyi"} or path.name == "py.typed"]
    return {path.relative_to(folder).as_posix() for path in files}


def metadata(wheel: Path) -> set[str]:
    """The files that describe a wheel."""
    folder = PurePosixPath("-".join(wheel.name.split("-")[:2]) + ".dist-info")
    names = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    return {str(folder / name) for name in names}


def metadata_tags(archive: zipfile.ZipFile) -> set[str]:
    """The tags that an installer reads inside."""
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
    return set(re.findall(r"^Tag: (\S+)", archive.read(name).decode(), re.MULTILINE))


def audit_module(checks: Audit, binary: Module, abi: str, platform: str) -> None:
    """Check what the compiled module is made for, takes from others, and offers."""
    formats: dict[str, Callable[[], None]] = {
        "linux": lambda: checks.check(isinstance(binary, lief.ELF.Binary), "its module is not an ELF file"),
        "macosx": lambda: audit_macos(checks, binary, platform),
        "win": lambda: checks.check(isinstance(binary, lief.PE.Binary), "its module is not a PE file"),
    }
    next(check for name, check in formats.items() if name in platform)()
    machine = next(machine for name, machine in MACHINES.items() if platform.endswith(name))
    checks.check(machine_of(binary) == machine, f"its module is for {machine_of(binary)}")
    checks.same("exported names", exported(binary), {"PyInit__native"})
    python = {name for name in imported(binary) if name.startswith(("Py", "_Py"))}
    limited = {symbol.name for table in (FUNCTIONS, DATAS) for symbol, entry in table.items() if in_310(entry.added)}
    checks.check(bool(python), "it takes nothing from Python")
    checks.same(
        "names of Python beyond the limited API", python - limited, FREE_THREADED if abi.endswith("t") else set()
    )
    allowed = next(pattern for name, pattern in LIBRARIES.items() if platform.startswith(name))
    strangers = [name for name in libraries(binary) if not re.fullmatch(allowed, name)]
    checks.check(not strangers, f"it needs {', '.join(strangers)}")


def in_310(added: PyVersion) -> bool:
    """Whether a name was in the stable ABI of CPython 3.10."""
    return bool(added <= PyVersion(3, 10))


def audit_macos(checks: Audit, binary: Module, platform: str) -> None:
    """Check the oldest macOS that the module is for, and the signature without which arm64 loads nothing."""
    if not isinstance(binary, lief.MachO.Binary):
        checks.check(False, "its module is not a Mach-O file")
        return
    command = binary.build_version or binary.version_min
    minimum = [] if command is None else command.minos if hasattr(command, "minos") else command.version
    claimed = [int(number) for number in platform.split("_")[1:3]]
    checks.check(list(minimum[:2]) == claimed, f"its module is for macOS {minimum}, its name says {claimed}")
    if platform.endswith("arm64"):
        checks.check(binary.has_code_signature, "its module has no signature")


def audit_policy(checks: Audit, platform: str) -> None:
    """Check that auditwheel finds the wheel fit for systems as old as it claims."""
    shown = checks.command("auditwheel", "show", "--json")
    tag = cast("str", json.loads(shown)["overall_tag"]) if shown.startswith("{") else "none"
    pattern = r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)"
    found, claimed = re.fullmatch(pattern, tag), re.fullmatch(pattern, platform)
    fits = (
        found is not None
        and claimed is not None
        and found[1] == claimed[1]
        and found[4] == claimed[4]
        and (int(found[2]), int(found[3])) <= (int(claimed[2]), int(claimed[3]))
    )
    checks.check(fits, f"auditwheel calls it {tag}")


def machine_of(binary: Module) -> str:
    """The processor a module is for, in lief's words."""
    if isinstance(binary, lief.ELF.Binary):
        return binary.header.machine_type.name
    if isinstance(binary, lief.MachO.Binary):
        return binary.header.cpu_type.name
    return binary.header.machine.name


def exported(binary: Module) -> set[str]:
    """The names a module offers."""
    if isinstance(binary, lief.MachO.Binary):
        names = {str(symbol.name) for symbol in binary.exported_symbols}
        return {name.removeprefix("_") for name in names - {"__mh_dylib_header", "___dso_handle"}}  # the linker's
    if isinstance(binary, lief.ELF.Binary):
        return {str(symbol.name) for symbol in binary.exported_symbols}
    return {str(function.name) for function in binary.exported_functions}


def imported(binary: Module) -> set[str]:
    """The names a module takes from others."""
    if isinstance(binary, lief.MachO.Binary):
        return {str(symbol.name).removeprefix("_") for symbol in binary.imported_symbols}
    if isinstance(binary, lief.ELF.Binary):
        return {str(symbol.name) for symbol in binary.dynamic_symbols if symbol.shndx == 0}
    return {str(entry.name) for library in binary.imports for entry in library.entries}


def libraries(binary: Module) -> list[str]:
    """The libraries a module is linked with."""
    if isinstance(binary, lief.ELF.Binary):
        return [str(library) for library in binary.libraries]
    if isinstance(binary, lief.MachO.Binary):
        return [str(library.name) for library in binary.libraries]
    return [str(library.name) for library in binary.imports]
