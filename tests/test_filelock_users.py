"""Programs that use filelock, run with our locks: virtualenv and tldextract, as they are on PyPI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from support import PATIENCE

filelock = pytest.importorskip("filelock", reason="the filelock package is not installed")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The variables of an environment in which the users of filelock can be imported."""
    target = tmp_path_factory.mktemp("users")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    if importlib.util.find_spec("pip") is None:
        command = ["uv", "pip", "install", "--python", sys.executable]
        if shutil.which("uv") is None:
            pytest.skip("there is neither pip nor uv to install the users of filelock")
    pip = subprocess.run(
        [*command, "--quiet", "--target", target, "virtualenv", "tldextract", f"filelock=={filelock.__version__}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if pip.returncode != 0:
        pytest.skip(f"the users of filelock cannot be installed: {pip.stderr.strip().splitlines()[-1]}")
    path = [str(target), *filter(None, [os.environ.get("PYTHONPATH")])]  # holdfast itself may come from there
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


# Lists the locks that were taken, and does not let filelock take one itself.
WITNESS = """
import sys, filelock, holdfast
taken = []
if issubclass(filelock.FileLock, holdfast.FileLock):
    import holdfast.filelock as bridge
    original = bridge.BaseFileLock.acquire
    def acquire(self, *args, **kwargs):
        proxy = original(self, *args, **kwargs)
        assert self.is_locked
        taken.append(self.lock_file)
        return proxy
    bridge.BaseFileLock.acquire = acquire
    def refuse(self):
        raise AssertionError("filelock took a lock")
    for cls in (bridge.FileLock, bridge.SoftFileLock):
        cls._stands_for._acquire = refuse
"""

MAKE_ENVIRONMENT = f"""
{WITNESS}
import virtualenv
virtualenv.cli_run([sys.argv[1], "--app-data", sys.argv[2], "--no-download", "--no-periodic-update"])
print(*taken, sep="\\n")
"""

SPLIT_NAME = f"""
{WITNESS}
import tldextract
extract = tldextract.TLDExtract(cache_dir=sys.argv[1], suffix_list_urls=())
print(extract("forums.bbc.co.uk").top_domain_under_public_suffix)
print(*taken, sep="\\n")
"""


def start(program, code, *arguments, environment, bridged=True):
    """Start a program, with our locks or without."""
    program.write_text(code)
    return subprocess.Popen(
        [sys.executable, *(["-m", "holdfast.filelock"] if bridged else []), program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process):
    """What a program said, which has ended well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out.split("\n")


def works(folder):
    """Whether a virtual environment has a Python of its own, with pip."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    said = subprocess.run(
        [python, "-c", "import pip, sys; print(sys.prefix)"], capture_output=True, text=True, check=False
    )
    return said.returncode == 0 and os.path.samefile(said.stdout.strip(), folder)


def test_virtualenv_makes_an_environment_with_our_locks(tmp_path, environment):
    made, data = tmp_path / "made", tmp_path / "data"
    process = start(tmp_path / "program.py", MAKE_ENVIRONMENT, made, data, environment=environment)
    taken = [line for line in lines_of(process) if line]
    assert taken
    assert all(lock.startswith(str(data)) and os.path.exists(lock) for lock in taken)
    assert works(made)


def test_virtualenvs_with_our_locks_and_with_filelocks_share_their_data(tmp_path, environment):
    folders = [tmp_path / f"made{number}" for number in range(4)]
    processes = [
        start(
            tmp_path / f"program{number}.py",
            MAKE_ENVIRONMENT,
            folder,
            tmp_path / "data",
            environment=environment,
            bridged=number % 2 == 0,
        )
        for number, folder in enumerate(folders)
    ]
    for process in processes:
        lines_of(process)
    assert all(map(works, folders))


def test_tldextract_fills_its_cache_with_our_locks(tmp_path, environment):
    cache = tmp_path / "cache"
    name, *taken = lines_of(start(tmp_path / "program.py", SPLIT_NAME, cache, environment=environment))
    assert name == "bbc.co.uk"
    taken = [line for line in taken if line]
    assert taken
    assert all(lock.startswith(str(cache)) for lock in taken)


def test_tldextract_reads_with_filelocks_what_it_cached_with_our_locks(tmp_path, environment):
    for bridged in (True, False):
        program = start(
            tmp_path / "program.py", SPLIT_NAME, tmp_path / "cache", environment=environment, bridged=bridged
        )
        assert lines_of(program)[0] == "bbc.co.uk"
