"""Build the extension module: the C core, and the declarations that cffi reads from its header."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

from cffi import FFI

CORE = Path("csrc")  # relative to the project's root, where setuptools runs this; an sdist wants relative paths
ON_WINDOWS = sysconfig.get_platform().startswith("win")  # the platform built for, also when cross-compiling


def declarations() -> str:
    """The header without its preprocessor directives, but for the constants."""
    header = (CORE / "holdfast.h").read_text(encoding="utf-8")
    constant = re.compile(r"#define \w+ (-?\d+|0x[0-9a-f]+)\b")
    return "\n".join(line for line in header.splitlines() if not line.startswith("#") or constant.match(line))


def sources() -> list[str]:
    """The core's files for the platform built for."""
    folders = (CORE, CORE / ("win32" if ON_WINDOWS else "posix"))
    return sorted(path.as_posix() for folder in folders for path in folder.glob("*.c"))


def compiler_options() -> dict[str, list[str] | list[tuple[str, str | None]]]:
    """What the compiler and the linker have to be told."""
    if not ON_WINDOWS:
        return {
            "define_macros": [("_GNU_SOURCE", None), ("_FILE_OFFSET_BITS", "64")],
            "extra_compile_args": ["-std=c11", "-fvisibility=hidden"],
            "libraries": ["rt"] if sysconfig.get_platform().startswith("linux") else [],  # timers, in old C libraries
        }
    return {
        "define_macros": [("_WIN32_WINNT", "0x0a00"), ("UNICODE", None)],
        "extra_compile_args": ["/std:c11"] if "MSC" in sys.version else ["-std=c11"],
        "libraries": ["advapi32"],
    }


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "holdfast._native",
    '#include "holdfast.h"',
    sources=sources(),
    include_dirs=[str(CORE)],
    depends=[path.as_posix() for path in sorted(CORE.glob("**/*.h"))],
    **compiler_options(),
)
