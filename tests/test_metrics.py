"""holdfast.metrics: what locks and files do, counted by name."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import uuid

import pytest

from conftest import posix_only
from holdfast import (
    AsyncFileLock,
    DocumentStore,
    FileLock,
    JsonlFile,
    ReadWriteLock,
    SoftFileLock,
    StateConflict,
    StateFile,
    Timeout,
    metrics,
)
from holdfast.aio import AsyncJsonlFile
from holdfast.metrics import Durations, PrometheusCollector, instrument
from support import Child, fork, held_elsewhere, held_here, log_held_here


@pytest.fixture
def name():
    """A name under which nobody has counted yet. There can be 64: the tests of one process share a few."""
    return _names.pop()


_names = [f"{uuid.uuid4().hex[:6]}" for _ in range(40)]


def counted(name):
    return metrics.snapshot()[name]


# ---------------------------------------------------------------------------------------------------------------------
# What is counted


@pytest.mark.parametrize("kind", [FileLock, SoftFileLock])
def test_acquisitions_and_holds_are_counted(path, name, kind):
    lock = kind(path, metrics=name)
    for _ in range(3):
        with lock, lock:
            pass
    found = counted(name)
    assert (found.acquisitions, found.contended, found.timeouts) == (3, 0, 0)
    assert found.holds.number == 3
    assert found.holds.total > 0
    assert found.waits.number == 0


def test_locks_of_one_name_count_together_and_others_not(tmp_path, name):
    for number in range(3):
        with FileLock(tmp_path / f"{number}.lock", metrics=name), FileLock(tmp_path / "other.lock"):
            pass
    assert counted(name).acquisitions == 3


def test_readers_and_writers_are_counted(path, name):
    lock = ReadWriteLock(path, metrics=name)
    with lock.read_lock():
        pass
    with lock.write_lock():
        pass
    assert counted(name).acquisitions == 2


@pytest.mark.parametrize("kind", [FileLock, SoftFileLock])
def test_a_wait_that_gave_up_is_counted(path, name, kind):
    lock = kind(path, metrics=name)
    with kind(path, thread_local=False):
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.01)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
    found = counted(name)
    assert (found.acquisitions, found.contended, found.timeouts) == (0, 1, 2)
    assert found.waits.number == 1
    assert found.waits.total >= 0.01
    assert found.waits.quantile(1) >= 0.01


def test_a_wait_that_succeeded_is_counted(path, name):
    with held_elsewhere(path) as child:
        thread = threading.Thread(target=FileLock(path, metrics=name).acquire)
        thread.start()
        child.tell()
        thread.join()
    found = counted(name)
    assert found.acquisitions == 1
    assert found.timeouts == 0
    assert found.contended == found.waits.number <= 1  # it may have come after the release


async def test_locks_of_tasks_are_counted(path, name):
    lock = AsyncFileLock(path, metrics=name)

    async def use():
        async with lock:
            await asyncio.sleep(0)

    await asyncio.gather(*[use() for _ in range(5)])
    with held_here(path), pytest.raises(Timeout):
        await lock.acquire(timeout=0.01)
    found = counted(name)
    assert (found.acquisitions, found.contended, found.timeouts) == (5, 5, 1)
    assert found.holds.number == 5


def test_appends_are_counted(tmp_path, name):
    log = JsonlFile(tmp_path / "events.jsonl", durable=True, metrics=name)
    log.append({"n": 1})
    log.extend([{"n": 2}, {"n": 3}])
    log.rotate()
    found = counted(name)
    assert (found.records, found.bytes, found.syncs, found.rotations) == (3, 3 * len('{"n":1}\n'), 2, 1)


def test_an_append_that_gave_up_is_counted(tmp_path, name):
    path = tmp_path / "events.jsonl"
    with log_held_here(path):
        for timeout in (0, 0.01):
            with pytest.raises(Timeout):
                JsonlFile(path, timeout=timeout, metrics=name).append({"n": 1})
    assert counted(name).timeouts == 2


def test_a_wait_that_a_cancel_check_raised_in_is_counted(path, name):
    def stop():
        raise LookupError

    with held_here(path), pytest.raises(LookupError):
        FileLock(path, metrics=name).acquire(cancel_check=stop)
    found = counted(name)
    assert (found.contended, found.timeouts) == (1, 0)


def test_a_torn_line_that_was_ended_is_counted(tmp_path, name):
    (tmp_path / "events.jsonl").write_bytes(b'{"n":')
    JsonlFile(tmp_path / "events.jsonl", metrics=name).append({"n": 1})
    assert counted(name).torn == 1


async def test_appends_of_tasks_are_counted(tmp_path, name):
    await AsyncJsonlFile(tmp_path / "events.jsonl", metrics=name).append({"n": 1})
    assert counted(name).records == 1


def test_states_are_counted(tmp_path, name):
    state = StateFile(tmp_path / "state.json", metrics=name)
    before = state.load()
    state.save({"n": 1})
    with pytest.raises(StateConflict):
        state.save({"n": 2}, expect=before)
    found = counted(name)
    assert (found.writes, found.conflicts, found.acquisitions) == (1, 1, 2)


def test_documents_are_counted(tmp_path, name):
    with DocumentStore(tmp_path / "store", debounce=1000, metrics=name) as store:
        store["a"] = 1
        store["a"] = 2
        store["b"] = 3
        assert counted(name).pending == 2
        store.flush()
        del store["b"]
        store.flush()
        found = counted(name)
        assert (found.writes, found.deletions, found.coalesced, found.pending) == (2, 1, 1, 0)
        assert (found.drops, found.errors, found.conflicts) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@posix_only
def test_forked_processes_count_exactly_together_also_one_that_was_killed(tmp_path, name):
    lock = FileLock(tmp_path / "the.lock", metrics=name)
    log = JsonlFile(tmp_path / "events.jsonl", metrics=name)
    pids = []
    for worker in range(8):
        pid = fork()
        if pid == 0:
            try:
                for n in range(100):
                    with lock:
                        log.append({"worker": worker, "n": n})
                if worker == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    found = counted(name)
    assert (found.acquisitions, found.records, found.holds.number) == (800, 800, 800)
    assert found.contended == found.waits.number
    assert found.bytes == os.path.getsize(tmp_path / "events.jsonl")
    mine = metrics.snapshot(this_process=True)[name]
    assert (mine.acquisitions, mine.records) == (0, 0)


@posix_only
def test_what_a_dead_process_had_still_to_write_is_pending_no_more(tmp_path, name):
    store = DocumentStore(tmp_path / "store", debounce=1000, metrics=name)
    store["mine"] = 1
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        store["theirs"] = 2
        os.write(write, b".")
        signal.pause()
    os.read(read, 1)
    assert counted(name).pending == 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert counted(name).pending == 1
    store.close()
    assert counted(name).pending == 0


def test_processes_that_were_not_forked_count_for_themselves(tmp_path, name):
    code = """
        from holdfast import FileLock, metrics
        with FileLock(args[0], metrics=args[1]): pass
        say(metrics.snapshot()[args[1]].acquisitions)
    """
    with FileLock(tmp_path / "mine.lock", metrics=name), Child(code, tmp_path / "the.lock", name) as child:
        child.expect("1")
    assert counted(name).acquisitions == 1


# ---------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("wrong", "error"), [("", ValueError), ("x" * 60, ValueError), ("a\0b", ValueError), (3, TypeError)]
)
def test_a_wrong_name_is_refused(path, wrong, error):
    with pytest.raises(error, match="metrics"):
        FileLock(path, metrics=wrong)


def test_too_many_names_are_refused_with_advice(path):
    code = """
        from holdfast import FileLock
        try:
            for number in range(100): FileLock(args[0], metrics=f"lock {number}")
        except ValueError as error:
            say(number)
            say("one name" in str(error))
    """
    with Child(code, path) as child:
        child.expect("64")
        child.expect("True")


def test_a_copy_counts_under_the_same_name(path, name):
    import copy

    with copy.copy(FileLock(path, metrics=name)):
        pass
    assert counted(name).acquisitions == 1


# ---------------------------------------------------------------------------------------------------------------------
# Durations


def test_durations_have_limits_that_double():
    waits = Durations(counts=(0, 2, 0, 1, 1), total=20e-9)
    assert [waits.limit(index) for index in range(4)] == [1e-9, 2e-9, 4e-9, 8e-9]
    assert [waits.below(index) for index in range(5)] == [0, 2, 2, 3, 4]
    assert waits.number == 4


def test_a_quantile_is_a_limit_below_which_that_part_was():
    waits = Durations(counts=(0, 2, 0, 1, 1), total=20e-9)
    assert [waits.quantile(q) for q in (0, 0.5, 0.51, 0.75, 1)] == [2e-9, 2e-9, 8e-9, 8e-9, 16e-9]
    assert Durations(counts=(0, 0), total=0).quantile(0.5) == 0
    with pytest.raises(ValueError, match="between"):
        waits.quantile(50)


# ---------------------------------------------------------------------------------------------------------------------
# Exporters


def test_prometheus_shows_what_was_counted(path, name):
    prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    with FileLock(path, metrics=name):
        pass

    def sample(what, **labels):
        return registry.get_sample_value(f"holdfast_{what}", {"name": name, **labels})

    assert sample("lock_acquisitions_total") == 1
    assert sample("lock_hold_seconds_count") == 1
    assert sample("lock_hold_seconds_bucket", le="+Inf") == 1
    assert sample("lock_hold_seconds_sum") == pytest.approx(counted(name).holds.total)
    assert sample("lock_wait_seconds_count") == 0
    assert sample("file_pending") == 0
    text = prometheus_client.generate_latest(registry).decode()
    assert f'holdfast_lock_acquisitions_total{{name="{name}"}} 1.0' in text


def test_the_buckets_of_prometheus_grow(path, name):
    prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    lock = FileLock(path, metrics=name)
    for _ in range(10):
        with lock:
            pass
    values = [
        (float(sample.labels["le"]), sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "holdfast_lock_hold_seconds_bucket" and sample.labels["name"] == name
    ]
    assert values == sorted(values)
    assert values[-1] == (float("inf"), 10)


@posix_only
def test_one_worker_answers_prometheus_for_all(path, name):
    prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    lock = FileLock(path, metrics=name)
    for _ in range(3):
        pid = fork()
        if pid == 0:
            with lock:
                os._exit(0)
        os.waitpid(pid, 0)
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    assert registry.get_sample_value("holdfast_lock_acquisitions_total", {"name": name}) == 3


def test_opentelemetry_shows_what_this_process_counted(path, name):
    sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    instrument(provider)
    with FileLock(path, metrics=name):
        pass
    found = {
        metric.name: (metric.unit, point.value)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if point.attributes["holdfast.name"] == name
    }
    assert found["holdfast.lock_acquisitions".replace("lock_", "lock.")] == ("{acquisitions}", 1)
    assert found["holdfast.lock.hold_duration"] == ("s", pytest.approx(counted(name).holds.total))
    assert found["holdfast.log.bytes"] == ("By", 0)
    assert found["holdfast.file.pending"] == ("{operation}", 0)
    provider.shutdown()
