"""Single operations, for pytest-benchmark: a group for each, its contenders side by side.

    python -m pytest benchmarks/test_operations.py [--benchmark-save NAME | --benchmark-compare] [-k GROUP]

This is for looking at one operation, with its spread, and for comparing two versions of holdfast. The contenders come
one after the other here, and the machine may change meanwhile; figures to quote are those of the scripts beside this,
in which they take turns. What was written is checked here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import contenders
import states
from holdfast import JsonlFile, ReadWriteLock, StateFile, lock_all, write_bytes

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # some peers leave files open

Benchmark = Callable[..., Any]  # the plugin's fixture has no types


@pytest.mark.benchmark(group="acquire and release, lock object kept")
@pytest.mark.parametrize("name", contenders.HELD)
def test_lock(benchmark: Benchmark, name: str, tmp_path: Path) -> None:
    acquire, release = contenders.HELD[name](str(tmp_path / "the.lock"))

    def cycle() -> None:
        acquire()
        release()

    benchmark(cycle)


@pytest.mark.benchmark(group="acquire and release, new lock object")
@pytest.mark.parametrize("name", contenders.NEW)
def test_new_lock(benchmark: Benchmark, name: str, tmp_path: Path) -> None:
    benchmark(contenders.NEW[name](str(tmp_path / "the.lock")))


@pytest.mark.benchmark(group="other locks of holdfast")
@pytest.mark.parametrize("kind", ["read", "write", "two at once"])
def test_other_locks(benchmark: Benchmark, kind: str, tmp_path: Path) -> None:
    lock = ReadWriteLock(tmp_path / "the.lock")
    ways: dict[str, Callable[[], Any]] = {
        "read": lock.read_lock,
        "write": lock.write_lock,
        "two at once": lambda: lock_all(tmp_path / "a.lock", tmp_path / "b.lock"),
    }

    def cycle() -> None:
        with ways[kind]():
            pass

    benchmark(cycle)


@pytest.mark.benchmark(group="append an event")
@pytest.mark.parametrize("name", [name for name in contenders.ALONE if "until written" not in name])
def test_append(benchmark: Benchmark, name: str, tmp_path: Path) -> None:
    contender, path, written = contenders.ALONE[name], str(tmp_path / "events.jsonl"), 0
    appender, record = contender.make(path), contender.records(0)

    def append() -> None:
        nonlocal written
        appender.append(record(written))
        written += 1

    benchmark(append)
    appender.drain()
    first = contenders.EVENT["number"]
    found = [json.loads(line)["number"] - first for line in contender.read(path)]
    assert found == [*range(written)]


@pytest.mark.benchmark(group="read a thousand events")
@pytest.mark.parametrize("how", ["iterate", "bare loop", "verify"])
def test_read(benchmark: Benchmark, how: str, tmp_path: Path) -> None:
    log = JsonlFile(tmp_path / "events.jsonl")
    log.extend([contenders.EVENT] * 1000)

    def bare_loop() -> int:
        with open(log.path, encoding="utf-8") as file:
            return sum(1 for line in file if json.loads(line))

    ways: dict[str, Callable[[], int]] = {
        "iterate": lambda: sum(1 for _ in log),
        "bare loop": bare_loop,
        "verify": lambda: log.verify().records,
    }
    assert benchmark(ways[how]) == 1000


@pytest.mark.benchmark(group="change a state of 1.7 KB, without syncs")
@pytest.mark.parametrize("name", states.CONTENDERS)
def test_change(benchmark: Benchmark, name: str, tmp_path: Path) -> None:
    contender, path, changes = states.CONTENDERS[name], str(tmp_path / "state.json"), 0
    contender.create(path, states.STATE)
    increment = contender.increment(path)

    def change() -> None:
        nonlocal changes
        increment()
        changes += 1

    benchmark(change)
    assert contender.count(path) == changes


@pytest.mark.benchmark(group="load a state of 1.7 KB")
@pytest.mark.parametrize("how", ["revision", "data", "json.load"])
def test_load(benchmark: Benchmark, how: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path)
    state.save(states.STATE)
    ways: dict[str, Callable[[], Any]] = {
        "revision": lambda: state.load().revision,
        "data": lambda: state.load().data["n"],
        "json.load": lambda: json.loads(path.read_bytes())["n"],
    }
    assert benchmark(ways[how]) == (1 if how == "revision" else 0)


@pytest.mark.benchmark(group="replace a file of 4 KB")
@pytest.mark.parametrize("durable", [False, True], ids=["not durable", "durable"])
def test_replace(benchmark: Benchmark, durable: bool, tmp_path: Path) -> None:
    path, data = tmp_path / "settings.bin", bytes(4096)
    benchmark(write_bytes, path, data, durable=durable)
    assert path.read_bytes() == data


@pytest.mark.benchmark(group="read a document that was read before")
@pytest.mark.parametrize("name", states.STORES)
def test_document(benchmark: Benchmark, name: str, tmp_path: Path) -> None:
    get, put, close = states.STORES[name](str(tmp_path / "store"), False)
    put("jo", states.DOCUMENT)
    assert benchmark(get, "jo") == states.DOCUMENT
    close()
