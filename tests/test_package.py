"""The package itself: what importing it costs, its public names, their documentation and their types."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
import holdfast.aio
from conftest import PYPY
from holdfast import _core
from support import PATIENCE

HEAVY = {"asyncio", "logging", "json", "typing", "socket", "threading"}
SAMPLE = Path(__file__).with_name("typing_sample.py")
MODULES = sorted(module.name for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."))
PUBLIC = [f"{module.__name__}.{name}" for module in (holdfast, holdfast.aio) for name in module.__all__]


# ---------------------------------------------------------------------------------------------------------------------
# Importing


def loaded_by(code, tmp_path):
    """The modules that a bare Python, which has not even looked at its site-packages, loads for the code."""
    program = f"""
import sys
sys.path[:0] = {[str(Path(holdfast.__file__).parents[1]), *filter(None, sys.path)]!r}
before = set(sys.modules)
{code}
print("loaded", *sorted(set(sys.modules) - before))
"""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    name, *loaded = result.stdout.split()
    assert name == "loaded"
    return {module.partition(".")[0] for module in loaded if not module.startswith("holdfast.")}


def test_the_heavy_modules_are_seen_when_something_loads_them(tmp_path):
    """Without this the next test could pass for a wrong reason."""
    code = "\n".join(f"import {name}" for name in sorted(HEAVY))
    assert loaded_by(code, tmp_path) >= HEAVY


def test_importing_the_package_loads_nothing(tmp_path):
    assert loaded_by("import holdfast", tmp_path) <= {"holdfast", "__future__"}


def imported_by_functions(module):
    """The modules of the package that functions of one of its modules import when they are called."""
    tree = ast.parse(inspect.getsource(module))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    imports = [node for each in functions for node in ast.walk(each) if isinstance(node, ast.ImportFrom)]
    names = {node.module for node in imports} | {
        f"{node.module}.{name.name}" for node in imports for name in node.names
    }
    return names & {*MODULES}


def test_whatever_is_imported_late_is_finished_before_a_fork():
    """Or a child that was forked while another thread imported it could never use it."""
    late = {f"holdfast.{home}" for home in holdfast._HOME.values()}
    for name in MODULES:
        if not name.startswith(("holdfast.cli", "holdfast._bench", "holdfast.__main__", "holdfast._native")):
            late |= imported_by_functions(importlib.import_module(name))
    assert late <= {f"holdfast.{name}" for name in _core._IMPORTED_LATE}


def test_using_a_file_lock_loads_nothing_heavy(tmp_path):
    loaded = loaded_by(
        """
from holdfast import FileLock
lock = FileLock("the.lock", timeout=1)
with lock, lock.acquire(timeout=2):
    lock.release(), lock.acquire()
lock.close()
""",
        tmp_path,
    )
    assert "holdfast" in loaded
    assert not loaded & {*HEAVY, "dataclasses", "inspect", "re", "contextlib", "functools", "pathlib", "hashlib"}


READERS_OF_JSON = {"Damage", "DamagedLine", "Records", "Report"}


@pytest.mark.parametrize("name", holdfast.__all__)
def test_no_public_name_loads_asyncio_logging_json_or_socket(name, tmp_path):
    loaded = loaded_by(f"from holdfast import {name}", tmp_path)
    needed = {"asyncio", "logging", "socket"} if name.startswith("Async") else set()
    needed |= {"json"} if name in READERS_OF_JSON else set()
    needed |= {"socket"} if PYPY else set()  # which its own hashlib loads
    assert not loaded & ({"asyncio", "logging", "socket", "json"} - needed)


# ---------------------------------------------------------------------------------------------------------------------
# Names


def test_the_public_names_are_these():
    assert holdfast.__all__ == [
        "AcquireReturnProxy",
        "AsyncFileLock",
        "Attempt",
        "BaseFileLock",
        "Change",
        "Damage",
        "DamagedLine",
        "DamagedState",
        "DocumentConflict",
        "DocumentStats",
        "DocumentStore",
        "FileLock",
        "Holder",
        "JsonlFile",
        "JsonlStats",
        "LockSet",
        "ReadWriteLock",
        "Records",
        "Report",
        "Snapshot",
        "SoftFileLock",
        "StateConflict",
        "StateFile",
        "StoreFull",
        "Timeout",
        "ValueChange",
        "atomic_write",
        "holders",
        "lock_all",
        "retry",
        "write_bytes",
        "write_text",
    ]


def test_all_public_names_can_be_imported_and_are_listed():
    namespace = {}
    exec("from holdfast import *", namespace)
    assert set(holdfast.__all__) <= set(namespace)
    assert set(holdfast.__all__) <= set(dir(holdfast))
    for name in holdfast.__all__:
        assert getattr(holdfast, name).__name__ == name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(holdfast.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast.")
        for alias in node.names
    }
    assert sorted(imported) == holdfast.__all__
    for name, (module, original) in imported.items():
        assert getattr(importlib.import_module(module), original) is getattr(holdfast, name)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'holdfast' has no attribute 'Lock'"):
        holdfast.Lock  # noqa: B018
    with pytest.raises(ImportError, match="Lock"):
        exec("from holdfast import Lock")


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert re.fullmatch(r"\d+\.\d+\.\d+", holdfast.__version__)
    assert version("holdfast") == holdfast.__version__


# ---------------------------------------------------------------------------------------------------------------------
# Documentation


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_with_an_example(name):
    documentation = pkgutil.resolve_name(name).__doc__
    assert documentation
    assert doctest.DocTestParser().get_examples(documentation)


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(pkgutil.resolve_name(name))])
def test_every_public_method_is_documented(name):
    public = pkgutil.resolve_name(name)
    members = inspect.getmembers_static(public) if sys.version_info >= (3, 11) else []
    for member, value in members or vars(public).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(public, member)), member


@pytest.mark.parametrize("name", ["holdfast", *MODULES])
def test_the_examples_of_a_module_work(name, tmp_path, monkeypatch):
    if name == "holdfast.metrics":
        pytest.importorskip("opentelemetry.sdk")
    for number, example in enumerate(doctest.DocTestFinder().find(importlib.import_module(name))):
        folder = tmp_path / str(number)  # its own: examples write files
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert doctest.DocTestRunner().run(example).failed == 0


def test_there_are_examples_and_they_are_found():
    tests = [test for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in tests) > 20


@pytest.mark.parametrize("name", ["holdfast", *MODULES])
def test_every_module_says_what_it_is_for(name):
    module = importlib.import_module(name)
    if module.__file__.endswith(".py"):
        assert module.__doc__


# ---------------------------------------------------------------------------------------------------------------------
# Types


def test_the_package_says_that_it_is_typed():
    assert Path(holdfast.__file__).with_name("py.typed").exists()


def test_the_sample_uses_every_public_name():
    words = set(re.findall(r"\w+", SAMPLE.read_text(encoding="utf-8")))
    assert {*holdfast.__all__, *holdfast.aio.__all__} <= words


def test_the_sample_runs(tmp_path):
    pytest.importorskip("msgspec")
    subprocess.run([sys.executable, "-W", "error", SAMPLE], cwd=tmp_path, check=True, timeout=PATIENCE)


def check(command, program):
    """What a type checker says of a program outside of the project: how it ended, and its output."""
    result = subprocess.run(
        command,
        cwd=program.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return result.returncode, result.stdout


WRONG = """
from holdfast import FileLock, lock_all
FileLock(5)
FileLock("a", timout=5)
FileLock("a", kind="other")
lock_all(5)
x: int = FileLock("a").lock_file
FileLock("a").nothing
"""


@pytest.fixture
def sample(tmp_path):
    return Path(shutil.copy(SAMPLE, tmp_path))


@pytest.fixture
def wrong(tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text(WRONG)
    return program


@pytest.fixture
def mypy(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "mypy.ini").write_text("[mypy]\n")
    return [sys.executable, "-m", "mypy", "--strict", "--config-file=mypy.ini", f"--cache-dir={tmp_path / 'cache'}"]


@pytest.fixture
def pyright(tmp_path):
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    return [sys.executable, "-m", "pyright", f"--pythonpath={sys.executable}"]


def test_mypy_accepts_a_users_program(mypy, sample):
    status, output = check([*mypy, sample.name], sample)
    assert status == 0, output


def test_mypy_objects_to_what_is_wrong(mypy, wrong):
    _, output = check([*mypy, wrong.name], wrong)
    assert {int(line) for line in re.findall(r"wrong\.py:(\d+): error", output)} == {3, 4, 5, 6, 7, 8}, output


@pytest.mark.skipif(os.name != "posix", reason="runs on one system")
def test_pyright_accepts_a_users_program(pyright, sample):
    status, output = check([*pyright, sample.name], sample)
    assert status == 0, output


@pytest.mark.skipif(os.name != "posix", reason="runs on one system")
def test_pyright_objects_to_what_is_wrong(pyright, wrong):
    _, output = check([*pyright, wrong.name], wrong)
    assert {int(line) for line in re.findall(r"wrong\.py:(\d+):\d+ - error", output)} == {3, 4, 5, 6, 7, 8}, output
