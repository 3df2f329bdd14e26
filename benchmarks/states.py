"""What it costs to change a state in a file, and to read and write many small documents, side by side in one run.

    python benchmarks/states.py [--quick] [--json FILE] [DIRECTORY]

The contenders take turns, many short rounds each, and the fastest round counts; of latencies all count. Everybody's
changes are counted afterwards, so that nobody wins by losing some. Ratios hold better than absolute times.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import report
from appends import Work, in_processes, in_threads
from holdfast import DocumentStore, FileLock, StateFile, write_bytes
from locks import fastest_round, timed
from report import Table, Target

Change = Callable[[], object]

TASKS = {f"task {n}": {"title": f"do number {n}", "done": False, "priority": n, "tags": ["a", "b"]} for n in range(20)}
STATE = {"n": 0, "tasks": TASKS}
SMALL = {"n": 0, "theme": "dark", "sizes": [1, 2, 3]}


class Contender(NamedTuple):
    """A state that can be incremented: how it begins, how to change it, and what it came to."""

    create: Callable[[str, dict[str, Any]], object]
    increment: Callable[[str], Change]
    count: Callable[[str], int]


# -- Contenders -------------------------------------------------------------------------------------------------------


def write_json(path: str, state: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(state))


def count_json(path: str) -> int:
    return int(json.loads(Path(path).read_text())["n"])


def holdfast_edit(path: str, durable: bool = False, history: bool = False) -> Change:
    state = StateFile(path, timeout=60, durable=durable, history=history)

    def change() -> None:
        with state.edit() as data:
            data["n"] += 1

    return change


def holdfast_update(path: str) -> Change:
    state = StateFile(path, timeout=60, durable=False)
    return lambda: state.update(lambda data: {**data, "n": data["n"] + 1}, attempts=1_000_000)


def recipe(path: str, lock: Any, durable: bool) -> Change:
    """What people write by hand."""
    scratch = f"{path}.{os.getpid()}.tmp"

    def change() -> None:
        with lock:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
            state["n"] += 1
            with open(scratch, "w", encoding="utf-8") as file:
                json.dump(state, file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(scratch, path)

    return change


def recipe_with_ours(path: str, durable: bool = False) -> Change:
    return recipe(path, FileLock(path + ".lock", timeout=60), durable)


def recipe_with_filelock(path: str, durable: bool = False) -> Change:
    import filelock

    return recipe(path, filelock.FileLock(path + ".lock", timeout=60), durable)


def diskcache_transaction(path: str) -> Change:
    from diskcache import Cache

    cache = Cache(path, timeout=60)

    def change() -> None:
        with cache.transact(retry=True):
            state = cache["state"]
            state["n"] += 1
            cache["state"] = state

    return change


def create_diskcache(path: str, state: dict[str, Any]) -> None:
    from diskcache import Cache

    with Cache(path) as cache:
        cache["state"] = state


def count_diskcache(path: str) -> int:
    from diskcache import Cache

    with Cache(path) as cache:
        return int(cache["state"]["n"])


def sqlite(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def sqlite_transaction(path: str) -> Change:
    connection = sqlite(path)

    def change() -> None:
        connection.execute("BEGIN IMMEDIATE")
        state = json.loads(connection.execute("SELECT data FROM states").fetchone()[0])
        state["n"] += 1
        connection.execute("UPDATE states SET data = ?", (json.dumps(state),))
        connection.execute("COMMIT")

    return change


def create_sqlite(path: str, state: dict[str, Any]) -> None:
    with closing(sqlite(path)) as connection:  # or those who are forked next would lose their locks with it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE states (data TEXT)")
        connection.execute("INSERT INTO states VALUES (?)", (json.dumps(state),))


def count_sqlite(path: str) -> int:
    with closing(sqlite(path)) as connection:
        return int(json.loads(connection.execute("SELECT data FROM states").fetchone()[0])["n"])


EDIT, OURS = "holdfast edit", "recipe, with our FileLock"
CONTENDERS = {
    EDIT: Contender(write_json, holdfast_edit, count_json),
    "holdfast update": Contender(write_json, holdfast_update, count_json),
    "holdfast edit, with history": Contender(write_json, partial(holdfast_edit, history=True), count_json),
    OURS: Contender(write_json, recipe_with_ours, count_json),
    "recipe, with filelock": Contender(write_json, recipe_with_filelock, count_json),
    "diskcache transaction": Contender(create_diskcache, diskcache_transaction, count_diskcache),
    "sqlite3 transaction, WAL": Contender(create_sqlite, sqlite_transaction, count_sqlite),
}
DURABLE = {
    EDIT: Contender(write_json, partial(holdfast_edit, durable=True), count_json),
    OURS: Contender(write_json, partial(recipe_with_ours, durable=True), count_json),
}


# -- States -----------------------------------------------------------------------------------------------------------


def changing(contenders: dict[str, Contender], state: dict[str, Any], folder: Path, rounds: int) -> Table:
    """One process, alone."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        paths = {name: f"{temporary}/{number}.json" for number, name in enumerate(contenders)}
        loops, turns = {}, dict.fromkeys(contenders, 0)
        for name, contender in contenders.items():
            contender.create(paths[name], state)
            loops[name] = counting(contender.increment(paths[name]), name, turns)
        best = fastest_round(loops, rounds, 0.03)
        for name, contender in contenders.items():
            check(name, contender.count(paths[name]), turns[name])
    return {name: {"microseconds": cost, "of the recipe": cost / best[OURS]} for name, cost in best.items()}


def counting(change: Change, name: str, turns: dict[str, int]) -> Callable[[int], float]:
    loop = timed(change)

    def counted(times: int) -> float:
        turns[name] += times
        return loop(times)

    return counted


def check(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise SystemExit(f"{name} lost changes: {found} of {expected} are there")


def loading(folder: Path, rounds: int) -> Table:
    """A state that nobody has changed for a while."""
    path = str(folder / "unchanged.json")
    write_json(path, STATE)
    os.utime(path, (1, 1))
    time.sleep(3)  # until its times are as good as its contents
    state = StateFile(path)
    best = fastest_round(
        {
            "holdfast load().revision": timed(lambda: state.load().revision),
            "holdfast load().data": timed(lambda: state.load().data),
            "os.stat": timed(lambda: os.stat(path)),
            "json.load(open(path))": timed(lambda: json.loads(Path(path).read_bytes())),
        },
        rounds,
        0.02,
    )
    return {
        name: {"microseconds": cost, "of reading it": cost / best["json.load(open(path))"]}
        for name, cost in best.items()
    }


def together(name: str, count: int, changes: int, folder: Path, threads: bool) -> float:
    """Changes a second when so many make so many each, all at once."""
    contender = CONTENDERS[name]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = f"{temporary}/state.json"
        contender.create(path, STATE)

        def prepare(_: int) -> Work:
            change = contender.increment(path)
            change()  # the first one takes a millisecond longer, after a fork: it copies the memory it touches

            def work(begin: float) -> list[float]:
                for _ in range(changes):
                    change()
                return [time.monotonic() - begin]

            return work

        seconds = max(took for (took,) in (in_threads(count, prepare) if threads else in_processes(count, prepare, 1)))
        check(name, contender.count(path), count * (changes + 1))
    return count * changes / seconds


def contention(folder: Path, rounds: int) -> Table:
    kinds: dict[str, tuple[int, int, bool]] = {
        "alone": (1, 500, False),
        "50 threads": (50, 5, True),
        "100 processes": (100, 20, False),
    }
    table: Table = {name: dict.fromkeys(kinds, 0.0) for name in CONTENDERS}
    for _ in range(rounds):
        for kind, (count, changes, threads) in kinds.items():
            for name in CONTENDERS:
                table[name][kind] = max(table[name][kind], together(name, count, changes, folder, threads))
    for row in table.values():
        row["threads, of alone"] = row["50 threads"] / row["alone"]
        row["processes, of alone"] = row["100 processes"] / row["alone"]
    return table


# -- Documents --------------------------------------------------------------------------------------------------------

DOCUMENT = {"user": "Zoë", "cart": [{"item": n, "count": 1} for n in range(5)], "seen": 0}
Get = Callable[[str], Any]
Put = Callable[[str, Any], object]


def holdfast_documents(folder: str, durable: bool) -> tuple[Get, Put, Change]:
    store = DocumentStore(folder, durable=durable)
    return store.__getitem__, store.__setitem__, store.close


def diskcache_documents(folder: str, durable: bool) -> tuple[Get, Put, Change]:
    from diskcache import Cache

    cache = Cache(folder, sqlite_synchronous=2 if durable else 1)
    return cache.__getitem__, cache.__setitem__, cache.close


def sqlite_documents(folder: str, durable: bool) -> tuple[Get, Put, Change]:
    os.mkdir(folder)
    connection = sqlite(f"{folder}/documents.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("CREATE TABLE documents (key TEXT PRIMARY KEY, data TEXT)")

    def get(key: str) -> Any:
        return json.loads(connection.execute("SELECT data FROM documents WHERE key = ?", (key,)).fetchone()[0])

    def put(key: str, value: Any) -> None:
        connection.execute("REPLACE INTO documents VALUES (?, ?)", (key, json.dumps(value)))

    return get, put, connection.close


def recipe_documents(folder: str, durable: bool) -> tuple[Get, Put, Change]:
    import filelock

    os.mkdir(folder)
    lock = filelock.FileLock(f"{folder}/.lock")

    def get(key: str) -> Any:
        with lock, open(f"{folder}/{key}.json", encoding="utf-8") as file:
            return json.load(file)

    def put(key: str, value: Any) -> None:
        with lock:
            with open(f"{folder}/{key}.tmp", "w", encoding="utf-8") as file:
                json.dump(value, file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(f"{folder}/{key}.tmp", f"{folder}/{key}.json")

    return get, put, lambda: None


STORE = "holdfast DocumentStore"
STORES = {
    STORE: holdfast_documents,
    "diskcache": diskcache_documents,
    "sqlite3, WAL": sqlite_documents,
    "recipe, with filelock": recipe_documents,
}


def reading_documents(folder: Path, rounds: int) -> Table:
    """A document that was read before."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        loops, closers = {}, []
        for name, make in STORES.items():
            get, put, close = make(f"{temporary}/{name}", False)
            put("key", DOCUMENT)
            loops[name] = timed(partial(get, "key"))
            closers.append(close)
        best = fastest_round(loops, rounds, 0.02)
        for close in closers:
            close()
    return {name: {"microseconds": cost, "of the first": cost / best[STORE]} for name, cost in best.items()}


STALLED = "holdfast, disk stands still"


def writing_documents(folder: Path, writes: int) -> Table:
    """Documents that were there, each write synced: how long does the program wait?"""
    table: Table = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for name, make in {STALLED: holdfast_documents, **STORES}.items():
            get, put, close = make(f"{temporary}/{name}", True)
            for key in range(100):
                put(f"key {key}", DOCUMENT)
            with stalled(f"{temporary}/{name}") if name == STALLED else nullcontext():
                found = delays(put, writes)
            check(name, get(f"key {(writes - 1) % 100}")["seen"], writes - 1)
            start = time.perf_counter()
            close()
            table[name] = {
                "median": statistics.median(found),
                "p99": statistics.quantiles(found, n=100)[98],
                "longest": max(found),
                "close, ms": (time.perf_counter() - start) * 1e3,
            }
    return table


def stalled(directory: str) -> FileLock:
    """Keep a store's thread waiting, as a disk does that does not answer."""
    return FileLock(f"{directory}/.lock")


def delays(put: Put, writes: int) -> list[float]:
    found = []
    for number in range(writes):
        document = {**DOCUMENT, "seen": number}
        start = time.perf_counter()
        put(f"key {number % 100}", document)
        found.append((time.perf_counter() - start) * 1e6)
    return found


def rapid_writes(folder: Path, rounds: int) -> Table:
    """A hundred writes of one document, one right after the other."""
    table: Table = {}
    for debounce in 0.0, 0.05:
        counts = []
        for _ in range(rounds):
            with (
                tempfile.TemporaryDirectory(dir=folder) as temporary,
                DocumentStore(temporary, debounce=debounce) as store,
            ):
                for number in range(100):
                    store["key"] = {**DOCUMENT, "seen": number}
                store.flush()
                counts.append(store.stats.writes)
        table[f"debounce={debounce}"] = {"median": statistics.median(counts), "most": max(counts)}
    return table


def draining(folder: Path, documents: int, rounds: int) -> Table:
    """Documents a second, until all are on the disk."""
    data = json.dumps(DOCUMENT, ensure_ascii=False).encode()

    def bare(path: str, durable: bool) -> None:
        os.mkdir(path)
        for number in range(documents):
            write_bytes(f"{path}/{number}.json", data, durable=durable)

    def store(path: str, durable: bool) -> None:
        with DocumentStore(path, durable=durable, max_pending=documents) as store:
            for number in range(documents):
                store[str(number)] = DOCUMENT
            store.flush()
            check(STORE, store.stats.writes, documents)

    table: Table = {"write_bytes in a loop": {}, STORE: {}}
    for durable in False, True:
        column = "durable" if durable else "not durable"
        for _ in range(rounds):
            for name, fill in ("write_bytes in a loop", bare), (STORE, store):
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    start = time.perf_counter()
                    fill(f"{temporary}/documents", durable)
                    rate = documents / (time.perf_counter() - start)
                table[name][column] = max(table[name].get(column, 0), rate)
    return table


# -- The report -------------------------------------------------------------------------------------------------------

SECTIONS = (
    "changing a state of 1.7 KB, not durable",
    "changing a state of 50 bytes, not durable",
    "changing a state of 1.7 KB, durable",
    "loading a state of 1.7 KB that has not changed",
    "changes a second of one state",
    "reading a document again",
    "writing a document that was there, synced: microseconds that the program waits",
    "disk writes for a hundred rapid writes of one document",
    "documents a second until they are on the disk",
)
EDIT_AT_MOST = [Target("an edit, of the recipe", (EDIT, "of the recipe"), 1.5)]
TARGETS = {
    SECTIONS[0]: EDIT_AT_MOST,
    SECTIONS[1]: EDIT_AT_MOST,
    SECTIONS[4]: [
        Target("edits of 50 threads, of one alone", (EDIT, "threads, of alone"), 0.7, at_least=True),
        Target("edits of 100 processes, of one alone", (EDIT, "processes, of alone"), 0.7, at_least=True),
    ],
    SECTIONS[5]: [Target("microseconds", (STORE, "microseconds"), 1)],
    SECTIONS[6]: [Target("p99 while the disk stands still", (STALLED, "p99"), 10)],
}


def sections(folder: Path, quick: bool) -> report.Sections:
    rounds = 5 if quick else 40
    turns = 1 if quick else 3
    measures: list[Callable[[], Table]] = [
        lambda: changing(CONTENDERS, STATE, folder, rounds),
        lambda: changing(CONTENDERS, SMALL, folder, rounds),
        lambda: changing(DURABLE, STATE, folder, rounds // 2),
        lambda: loading(folder, rounds),
        lambda: contention(folder, turns),
        lambda: reading_documents(folder, rounds),
        lambda: writing_documents(folder, 500 if quick else 5000),
        lambda: rapid_writes(folder, rounds // 2),
        lambda: draining(folder, 500 if quick else 2000, turns),
    ]
    return dict(zip(SECTIONS, measures, strict=True))


if __name__ == "__main__":
    report.main(__doc__, sections, TARGETS)
