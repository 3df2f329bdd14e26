from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import UNDER_WINE

# A shell starts what it runs in the background with Ctrl-C ignored, and so would all processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of a lock file that does not exist yet."""
    return str(tmp_path / "the.lock")


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that others may reach, and work in; pytest's own is private."""
    directory = tempfile.mkdtemp(prefix="holdfast-test-")
    os.chmod(directory, 0o777)
    yield Path(directory)
    os.chmod(directory, 0o777)
    for root, directories, _ in os.walk(directory):
        for name in directories:
            os.chmod(os.path.join(root, name), 0o777)
    shutil.rmtree(directory)


posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# What CPython does and PyPy does not, and need not.
PYPY = sys.implementation.name == "pypy"
calls_back_as_it_forks = pytest.mark.skipif(PYPY, reason="PyPy cannot be called back before fork() has returned")
counts_references = pytest.mark.skipif(PYPY, reason="PyPy frees what is dropped when its collector comes")
needs_waitid = pytest.mark.skipif(not hasattr(os, "waitid"), reason="there is no os.waitid() here")
delays_signal_handlers = pytest.mark.skipif(
    PYPY or sys.version_info < (3, 11), reason="handlers run between a call's return and its caller's next step here"
)


def _makes_symlinks() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "link")
        try:
            os.symlink("nowhere", link)
        except OSError:  # on Windows only administrators may
            return False
        return os.path.islink(link)  # Wine 8 says that it made one, and did not


needs_symlinks = pytest.mark.skipif(not _makes_symlinks(), reason="no symbolic links can be made here")

# Wine runs the programs of Windows, but not all is as there. What it cannot do is listed here, and nowhere else.


def _wine_cannot(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(UNDER_WINE, reason=f"Wine cannot {reason}")


waits_in_the_kernel = _wine_cannot("wait for a lock in the kernel, so all waits are made of tries already")
replaces_open_files = _wine_cannot("replace a file that is open, as Windows can by the semantics of POSIX")
tells_msvcrt_of_locks = _wine_cannot("say by msvcrt.locking() that a file is locked: its errno is 0")
frees_names_of_open_files = _wine_cannot("free the name of a file that is removed while it is open")


if UNDER_WINE:
    import _winapi

    _create_process = _winapi.CreateProcess
    _DIED_AS_IT_STARTED = 1359  # ERROR_INTERNAL_ERROR

    def _create_process_again(*arguments: Any) -> Any:
        """Start a program, once more if it has died before its first instruction, as it may under Wine 8."""
        try:
            return _create_process(*arguments)
        except OSError as error:
            if error.winerror != _DIED_AS_IT_STARTED:
                raise
            return _create_process(*arguments)

    _winapi.CreateProcess = _create_process_again


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    """The event loop in which a coroutine function that is a test runs."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; there is none for Windows and PyPy")
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    coroutine = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    if pyfuncitem.funcargs.get("loop_kind") == "uvloop":
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)
    return True
