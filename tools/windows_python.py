"""Lay out a CPython for Windows with the packages that the tests need, to be run under Wine.

tools/windows_python.py VERSION, such as 3.14 or 3.14t, prints the folder that has its python.exe. Its status is 3 where
that version is not to be had.

It is the CPython that everybody uses on Windows: the DLLs and extension modules that the Python Software Foundation has
built and signed, which the wheels of panda3d carry. What they lack is made here, or comes from elsewhere: the modules
in Python from Debian, or from a CPython of that version on this machine; python.exe; and two DLLs that only say where
something is: the names of the stable ABI and, for pydantic, what Wine 8 has under another name only.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from abi3info import DATAS, FUNCTIONS  # type: ignore[import-untyped, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache/holdfast") / "windows"
GCC = "x86_64-w64-mingw32-gcc"

# Where Debian has which version.
SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "sid"}

# What a program for Windows has no use for; _wmi crashes Wine.
NOT_FROM_LINUX = (
    "test",
    "*-packages",
    "idlelib",
    "turtledemo",
    "lib-dynload",
    "config-*",
    "__pycache__",
    "*.so",
    "_sysconfigdata*",
    "sitecustomize.py",
)
NOT_FROM_WHEEL = ("_wmi*", "_test*", "_tkinter*", "tcl*", "tk*", "api-ms-*", "concrt*", "msvcp*", "cg*")

# pip reads its own system's markers, whatever --platform says.
RUN_PIP = """
import sys
from pip._internal.cli.main import main
from pip._vendor.packaging import markers
version = sys.argv.pop(1)
windows = markers.default_environment() | {
    "sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64",
    "python_version": version, "python_full_version": f"{version}.0",
}
markers.default_environment = lambda: dict(windows)
sys.exit(main(sys.argv[1:]))
"""

PYTHON_EXE = """
#include <windows.h>
int wmain(int argc, wchar_t **argv) {
    int (*run)(int, wchar_t **) = (void *)GetProcAddress(LoadLibraryW(PYTHON_DLL), "Py_Main");
    return run(argc, argv);
}
"""

PROCESS_PRNG = """
unsigned char __stdcall SystemFunction036(void *buffer, unsigned long size);
int __stdcall ProcessPrng(unsigned char *buffer, unsigned long long size) { return SystemFunction036(buffer, size); }
"""


class Unavailable(Exception):
    """What is needed is not to be had here."""


def run(command: list[str | Path], cwd: Path = ROOT) -> str:
    """Run a command, and return what it printed; if it failed, show that and exit."""
    result = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{result.stdout}{result.stderr}\nfailed: {' '.join(map(str, command))}")
    return result.stdout


def pip(version: str, *arguments: str | Path) -> None:
    """Run pip as if on Windows, with this version of CPython."""
    plain, digits = version.rstrip("t"), version.replace(".", "")
    what = ["--platform=win_amd64", f"--python-version={plain}", "--implementation=cp", f"--abi=cp{digits}"]
    kinds = ["--abi=abi3", "--abi=none", "--only-binary=:all:"]
    run([sys.executable, "-c", RUN_PIP, plain, arguments[0], "--quiet", *what, *kinds, *arguments[1:]])


def from_debian(version: str, folder: Path) -> Path:
    """Download and unpack CPython's modules in Python, and return where they are."""
    index = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    mirror = next((line for line in index.split() if "security" not in line), None)
    if mirror is None:
        raise Unavailable("apt knows no mirror of Debian")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text(f"deb [signed-by={keys}] {mirror} {SUITES[version]} main\n", encoding="utf-8")
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Check-Valid-Until": "false",  # a mirror that lags behind is good enough; signatures are checked
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    run([*apt, "update"])
    run([*apt, "download", f"libpython{version}-minimal", f"libpython{version}-stdlib"], cwd=folder)
    for package in folder.glob("*.deb"):
        run(["dpkg-deb", "--extract", package, folder / "root"])
    return folder / f"root/usr/lib/python{version}"


def from_here(version: str) -> Path:
    """Where a CPython of that version on this machine has its modules in Python."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # What PATH names comes last: pyenv puts programs there that only say which version to choose.
    for python in (*pyenv.glob(f"versions/{version}.*/bin/python"), shutil.which(f"python{version}")):
        if python is not None:
            return Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]).strip())
    raise Unavailable(f"no CPython {version} on this machine, and none in Debian")


def copy_modules(version: str, folder: Path, scratch: Path) -> None:
    """Copy the modules in Python into `folder`, and CPython's own for Windows."""
    plain = version.rstrip("t")
    source = from_debian(plain, scratch) if plain in SUITES and shutil.which("apt-get") else from_here(plain)
    shutil.copytree(source, folder / "Lib", ignore=shutil.ignore_patterns(*NOT_FROM_LINUX))
    pip(version, "download", "--no-deps", "--dest", scratch, "panda3d")
    (folder / "DLLs").mkdir()
    skip = shutil.ignore_patterns(*NOT_FROM_WHEEL)
    with zipfile.ZipFile(next(scratch.glob("panda3d-*.whl"))) as wheel:
        for member in wheel.namelist():
            directory, _, name = member.rpartition("/")
            if directory != "deploy_libs" or not name.endswith((".dll", ".pyd")) or skip("", [name]):
                continue
            # The wheel for the free-threaded CPython has the modules of both.
            if name.endswith(".pyd") and version.endswith("t") != name.endswith("t-win_amd64.pyd"):
                continue
            core = name.lower().startswith(("python3", "vcruntime"))
            (folder / ("" if core else "DLLs") / name).write_bytes(wheel.read(member))


def make_library(library: Path, exports: list[str], scratch: Path, code: str = "") -> None:
    """Make a DLL that exports what is said in the manner of a module definition file."""
    source, definition = scratch / f"{library.stem}.c", scratch / f"{library.stem}.def"
    source.write_text(f"int start(void *a, unsigned b, void *c) {{ return 1; }}\n{code}", encoding="utf-8")
    definition.write_text("\n".join([f"LIBRARY {library.name}", "EXPORTS", *exports, ""]), encoding="utf-8")
    run([GCC, "-shared", "-nostdlib", "-Wl,-e,start", source, definition, "-ladvapi32", "-o", library])


def make_programs(version: str, folder: Path, scratch: Path) -> None:
    """Make python.exe, and the DLLs that are missing."""
    library = "python" + version.replace(".", "")
    source = scratch / "python.c"
    source.write_text(PYTHON_EXE, encoding="utf-8")
    run([GCC, "-municode", "-O2", f'-DPYTHON_DLL=L"{library}.dll"', source, "-o", folder / "python.exe"])
    names = {symbol.name: "" for symbol in FUNCTIONS} | {symbol.name: " DATA" for symbol in DATAS}
    exports = [f"{name} = {library}.{name}{kind}" for name, kind in sorted(names.items())]
    make_library(folder / "python3.dll", exports, scratch)
    make_library(folder / "bcryptprimitives.dll", ["ProcessPrng"], scratch, PROCESS_PRNG)


@functools.cache
def key() -> str:
    """What the cached folders are made from: this program, and what it installs."""
    files = (Path(__file__), ROOT / "pyproject.toml")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def python(version: str) -> Path:
    """The folder with the CPython of a version, from the cache or made now."""
    made = CACHE / f"python-{version}-{key()}"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            folder = Path(scratch, "python")
            folder.mkdir()
            Path(scratch, "downloads").mkdir()
            copy_modules(version, folder, Path(scratch, "downloads"))
            make_programs(version, folder, Path(scratch, "downloads"))
            pip(version, "install", "--target", folder / "Lib/site-packages", "--group", "test", "cffi")
            for outdated in CACHE.glob(f"python-{version}-*"):
                shutil.rmtree(outdated)
            folder.rename(made)
    return made


if __name__ == "__main__":
    try:
        print(python(sys.argv[1]))
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        sys.exit(3)
