"""The compiled part of the package; everything else is in pyproject.toml."""

from __future__ import annotations

import platform
import sysconfig

from setuptools import setup

try:
    import cffi  # noqa: F401
except ImportError as error:  # setuptools would quietly build a package without its core
    raise SystemExit("holdfast: building needs cffi; run `pip install cffi`, or build with isolation") from error

# One abi3 wheel serves every CPython from 3.10 on. Free-threaded CPython and PyPy have no such ABI.
limited_api = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["csrc/cffi_build.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if limited_api else {},
)
