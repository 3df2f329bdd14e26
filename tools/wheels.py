"""Build the package's wheels for every platform from this machine, and audit them: tools/wheels.py [NAME...].

The compiler is zig, which brings every platform's C library. The wheels are left in build/wheels. With names only those
are built; without, all, and what was found is noted as the rows of `make wheels`.

The wheels that are published are built on their platforms by cibuildwheel; these show here, and before, that the
package builds there, and serve the tests that run them under emulators and Wine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import ziglang  # type: ignore[import-not-found, import-untyped, unused-ignore]

import evidence
import wheel_audit

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build/wheels"
CACHE = Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache/holdfast")
ZIG = [str(Path(ziglang.__file__).with_name("zig"))]

# CPython's own vocabulary for what is configured at its build, read instead of that of the Python that runs this.
VARIABLES = "_sysconfigdata_target"

# What `make` and setuptools read would change the build.
FOREIGN = {"CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "AR", "ARFLAGS", "MAKEFLAGS", "PYTHONPATH"}


# Warnings are errors, but for a macro of its own that cffi defines twice.
CFLAGS = "-O2 -g0 -DNDEBUG -Wall -Werror -Wno-macro-redefined"


class BuildError(Exception):
    """A wheel that could not be built, and what was printed on the way."""


@dataclass(frozen=True)
class Target:
    """A wheel to build, in the words of zig, of sysconfig and of the wheel's name."""

    zig: str
    python: str
    tag: str
    free_threaded: bool = False

    @property
    def system(self) -> str:
        """Which family of platforms this is."""
        return next(name for name in ("linux", "macos", "windows") if name in self.zig)

    @property
    def abi(self) -> str:
        """The wheel's tags of the interpreter."""
        return "cp314-cp314t" if self.free_threaded else "cp310-abi3"

    @property
    def suffix(self) -> str:
        """What the compiled module's name ends with."""
        if self.system == "windows":
            return f".cp314t-{self.tag}.pyd" if self.free_threaded else ".pyd"
        platform = "darwin" if self.system == "macos" else self.zig.partition(".")[0]
        return f".cpython-314t-{platform}.so" if self.free_threaded else ".abi3.so"

    def variables(self, headers: Path) -> dict[str, object]:
        """What this CPython would have been configured with."""
        version = "314t" if self.free_threaded else "310"
        library = "python314t" if self.free_threaded else "python3"
        link = {
            "linux": ["-shared"],
            # CPython's own -bundle makes zig's linker crash; dynamic libraries are loaded as well.
            "macos": ["-shared", "-undefined", "dynamic_lookup", f"-Wl,-install_name,@rpath/_native{self.suffix}"],
            "windows": ["-shared", f"-L{headers}", f"-l{library}"],
        }[self.system]
        compiler = [*ZIG, "cc", "-target", self.zig]
        return {
            "CC": shlex.join(compiler),
            "CXX": shlex.join(compiler),
            "CFLAGS": CFLAGS + (" -DPy_GIL_DISABLED=1" if self.free_threaded else ""),
            "CCSHARED": "" if self.system == "windows" else "-fPIC",
            "LDSHARED": shlex.join([*compiler, *link, "-s"]),
            "LDCXXSHARED": "",
            "SHLIB_SUFFIX": ".so",
            "AR": "ar",
            "ARFLAGS": "rcs",
            "INCLUDEPY": str(headers),
            "CONFINCLUDEPY": str(headers),
            "VERSION": version.removesuffix("t").replace("3", "3.", 1),
            "SOABI": f"cpython-{version}",
            # setuptools replaces this suffix by that of the stable ABI, where it may.
            "EXT_SUFFIX": ".cpython-310.so" if self.suffix == ".abi3.so" else self.suffix,
            "Py_GIL_DISABLED": int(self.free_threaded),
        }


TARGETS = {
    "manylinux_x86_64": Target("x86_64-linux-gnu.2.17", "linux-x86_64", "manylinux_2_17_x86_64"),
    "manylinux_aarch64": Target("aarch64-linux-gnu.2.17", "linux-aarch64", "manylinux_2_17_aarch64"),
    "manylinux_i686": Target("x86-linux-gnu.2.17", "linux-i686", "manylinux_2_17_i686"),
    "manylinux_armv7l": Target("arm-linux-gnueabihf.2.31", "linux-armv7l", "manylinux_2_31_armv7l"),
    "manylinux_s390x": Target("s390x-linux-gnu.2.17", "linux-s390x", "manylinux_2_17_s390x"),
    "manylinux_ppc64le": Target("powerpc64le-linux-gnu.2.28", "linux-ppc64le", "manylinux_2_28_ppc64le"),
    "manylinux_riscv64": Target("riscv64-linux-gnu.2.39", "linux-riscv64", "manylinux_2_39_riscv64"),
    "musllinux_x86_64": Target("x86_64-linux-musl", "linux-x86_64", "musllinux_1_2_x86_64"),
    "musllinux_aarch64": Target("aarch64-linux-musl", "linux-aarch64", "musllinux_1_2_aarch64"),
    "macos_x86_64": Target("x86_64-macos.10.13", "macosx-10.13-x86_64", "macosx_10_13_x86_64"),
    "macos_arm64": Target("aarch64-macos.11.0", "macosx-11.0-arm64", "macosx_11_0_arm64"),
    "win_amd64": Target("x86_64-windows-gnu", "win-amd64", "win_amd64"),
    "win_arm64": Target("aarch64-windows-gnu", "win-arm64", "win_arm64"),
    "win32": Target("x86-windows-gnu", "win32", "win32"),
}
# cffi has no such wheels for the others.
WITHOUT_FREE_THREADS = {"manylinux_i686", "manylinux_armv7l", "manylinux_riscv64"}
FREE_THREADED = [name for name in TARGETS if name not in WITHOUT_FREE_THREADS]
TARGETS |= {f"cp314t-{name}": replace(TARGETS[name], free_threaded=True) for name in FREE_THREADED}

# Building twice doubles the time; the short form does it for one of each kind of file and of ABI.
REBUILT = {"manylinux_x86_64", "musllinux_aarch64", "macos_arm64", "win_amd64", "cp314t-manylinux_x86_64"}


def run(command: list[str], cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Run a command for what it prints."""
    result = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        raise BuildError(f"{result.stdout}\nfailed: {shlex.join(command)}")
    return result.stdout


def program(name: str) -> str:
    """A program that was installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def epoch() -> str:
    """The time that the wheels' files bear: that of the commit, so that who builds it again gets the same bytes."""
    try:
        return run(["git", "log", "-1", "--format=%ct"]).strip()
    except (BuildError, FileNotFoundError):
        return "1767225600"  # of an sdist: the beginning of 2026


def python_headers(target: Target, folder: Path, free_threaded: Path | None) -> None:
    """Lay out CPython's headers, with a configuration that fits every target, and on Windows its import library."""
    shutil.copytree(free_threaded if target.free_threaded and free_threaded else sysconfig.get_path("include"), folder)
    shutil.copy(ROOT / "tools/pyconfig.h", folder)
    if target.system != "windows":
        return
    library = "python314t" if target.free_threaded else "python3"
    (folder / "python.def").write_text(wheel_audit.import_definition(library, target.free_threaded), encoding="utf-8")
    machine = {"win_amd64": "i386:x86-64", "win_arm64": "arm64", "win32": "i386"}[target.tag]
    run([*ZIG, "dlltool", "-d", "python.def", "-m", machine, "-l", f"lib{library}.a"], cwd=folder)


def build(target: Target, scratch: Path, free_threaded: Path | None) -> Path:
    """Build the target's wheel from a copy of the sources."""
    scratch.mkdir()
    source = scratch / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    python_headers(target, scratch / "include", free_threaded)
    variables = target.variables(scratch / "include")
    (scratch / f"{VARIABLES}.py").write_text(f"build_time_vars = {variables!r}\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {
        "PYTHONPATH": str(scratch),
        "_PYTHON_SYSCONFIGDATA_NAME": VARIABLES,
        "_PYTHON_HOST_PLATFORM": target.python,
        "SOURCE_DATE_EPOCH": epoch(),
        "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(scratch / "zig"),  # an object from another build would prove nothing
    }
    setup = [sys.executable, "setup.py"]
    run([*setup, "build"], cwd=source, environment=environment)
    finish(target, next(source.glob("build/lib*")) / "holdfast")
    wheel = [*setup, "bdist_wheel", "--skip-build", "--plat-name", target.tag, "--dist-dir", str(scratch)]
    run(wheel, cwd=source, environment=environment)
    built = next(scratch.glob("*.whl"))
    return repair(built, environment) if target.system == "linux" else built


def finish(target: Target, package: Path) -> None:
    """Put right what zig's linker does unlike the platform's own."""
    for byproduct in (*package.glob("*.pdb"), *package.glob("*.lib")):
        byproduct.unlink()
    if "musl" in target.zig:  # by its own name, musl's C library could be any
        library = f"libc.musl-{target.zig.partition('-')[0]}.so.1"
        module = package / f"_native{target.suffix}"
        run([program("patchelf"), "--replace-needed", "libc.so", library, str(module)])


def repair(wheel: Path, environment: dict[str, str]) -> Path:
    """Have auditwheel copy what the wheel needs and a system may lack."""
    folder = wheel.parent / "repaired"
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # where it looks for patchelf
    # It knows only the names of this machine's platforms; whether the wheel keeps to its own is audited later.
    command = [program("auditwheel"), "repair", "--plat", "auto", "--no-update-tags", "--wheel-dir", str(folder)]
    run([*command, str(wheel)], environment=environment | {"PATH": path, "PYTHONPATH": ""})
    return next(folder.glob("*.whl"))


def make(name: str, again: bool, free_threaded: Path | None) -> wheel_audit.Audit:
    """Build and audit a wheel, if need be twice, and leave it in build/wheels."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        built = build(target, Path(scratch) / "first", free_threaded)
        checks = wheel_audit.audit(
            built, abi=target.abi, platform=target.tag, suffix=target.suffix, unwanted=Path(scratch).name
        )
        if again:
            second = build(target, Path(scratch) / "second, in a longer folder", free_threaded)
            checks.check(built.read_bytes() == second.read_bytes(), "built twice, it differs")
        for earlier in WHEELS.glob(f"*-{target.abi}-{target.tag}.whl"):
            earlier.unlink()
        kept = WHEELS / built.name
        shutil.copy(built, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
        checks.wheel = kept
    return checks


def free_threaded_headers() -> tuple[Path | None, str]:
    """The folder of a free-threaded CPython's headers, or why there is none."""
    try:
        return Path(run(["bash", "tools/headers.sh", "3.14"]).splitlines()[-1]), ""
    except BuildError as error:
        return None, f"no headers of CPython 3.14: {str(error).splitlines()[0]}"


def report(name: str, made: Future[wheel_audit.Audit], note: bool, twice: bool) -> bool:
    """Tell of a wheel, and whether it is as it should be."""
    try:
        checks = made.result()
    except BuildError as error:
        print(error)
        if note:
            evidence.row("wheels", name, failed=1, note="not built")
        return False
    for failure in checks.failures:
        print(f"FAILED {name}: {failure}")
    size = f"{checks.wheel.stat().st_size:,} bytes{', built twice' * twice}"
    if note:
        evidence.row("wheels", name, passed=checks.passed, failed=len(checks.failures), note=size)
    else:
        print(f"{name}: {checks.wheel.relative_to(ROOT)}, {size}", flush=True)
    return not checks.failures


def main(names: list[str]) -> int:
    """Make the wheels, as many at a time as there are processors, and tell of them in their order."""
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        sys.exit(f"no such wheel: {' '.join(unknown)}. There are: {' '.join(TARGETS)}")
    everything = not names
    names = names or list(TARGETS)
    if everything:
        evidence.begin("wheels")
        shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True, exist_ok=True)
    headers, missing = free_threaded_headers() if any(TARGETS[name].free_threaded for name in names) else (None, "")
    possible = [name for name in names if headers or not TARGETS[name].free_threaded]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        again = {name: everything and (evidence.FULL or name in REBUILT) for name in possible}
        made = {name: pool.submit(make, name, again[name], headers) for name in possible}
        good = [report(name, future, everything, again[name]) for name, future in made.items()]
    for name in names:
        if name not in made:
            print(f"SKIPPED {name}: {missing}")
            if everything:
                evidence.row("wheels", name, skipped=1, note=missing)
    if everything:
        return min(evidence.end("wheels"), 1)
    return 0 if all(good) and len(made) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
