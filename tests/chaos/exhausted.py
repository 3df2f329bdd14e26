"""Descriptors, disk and memory that run out and come back, again and again."""

from __future__ import annotations

import gc
import mmap
import os
import random
import resource
import subprocess
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from crew import ended, forked
from everything import Everything, litter_in, numbers_in

import evidence
from holdfast import FileLock

ROUNDS = 1000 if evidence.FULL else 60


def in_a_process(work: Callable[[], None]) -> None:
    """Do something in a process of its own, which it may leave in any state."""

    def quietly() -> None:
        warnings.simplefilter("ignore", RuntimeWarning)  # that a change was saved and is not in the history
        work()

    assert ended(forked(quietly))


def test_descriptors_that_run_out_leave_everything_right(tmp_path):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
        idle = [FileLock(tmp_path / f"idle{number}.lock") for number in range(200)]
        for lock in idle:
            with lock:
                pass
        one = Everything(str(tmp_path), "one")
        hogs: list[int] = []

        def relieve() -> None:
            for hog in hogs[:3]:
                os.close(hog)
            del hogs[:3]

        one.relieve = relieve
        for _ in range(ROUNDS):
            with suppress(OSError):
                while True:
                    hogs.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(random.randrange(5)):
                os.close(hogs.pop())
            one.do(10, OSError)
            while hogs:
                os.close(hogs.pop())
            for operation in one.operations():
                operation_until_it_succeeds(one, operation)
            with random.choice(idle):
                pass
        assert one.failures > 0
        one.check()
        assert numbers_in(str(tmp_path)) == one.counted
        one.close()
        del idle
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) < 20, "descriptors are left"

    in_a_process(work)
    assert not litter_in(str(tmp_path))


def operation_until_it_succeeds(one: Everything, operation: Callable[[], None]) -> None:
    """An operation succeeds now. Only a store may still have to say what went wrong before."""
    try:
        operation()
    except OSError:
        assert operation == one.assign
        operation()


def test_descriptors_that_run_out_among_many_threads_leave_everything_right(tmp_path):
    def work() -> None:
        import threading

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        everything = [Everything(str(tmp_path), f"thread{number}") for number in range(6)]
        errors: list[BaseException] = []

        def use(one: Everything) -> None:
            try:
                one.do(ROUNDS * 2, OSError)
            except BaseException as error:  # noqa: BLE001 - it is raised below
                errors.append(error)

        threads = [threading.Thread(target=use, args=(one,)) for one in everything]
        for thread in threads:
            thread.start()
        hogs: list[int] = []
        while any(thread.is_alive() for thread in threads):
            with suppress(OSError):
                hogs.append(os.open(os.devnull, os.O_RDONLY))
            if len(hogs) > 30 or random.random() < 0.05:
                while hogs:
                    os.close(hogs.pop())
        while hogs:
            os.close(hogs.pop())
        for error in errors:
            raise error
        for one in everything:
            one.check()
        counted = [one.counted for one in everything]
        assert numbers_in(str(tmp_path)) == {name: sum(each[name] for each in counted) for name in counted[0]}

    in_a_process(work)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request, tmp_path):
    """A file system of some megabytes, in the mount namespace of this process."""
    if os.environ.get("HOLDFAST_MAY_MOUNT") != "1":
        pytest.skip("mounting needs root and a mount namespace")
    disk = tmp_path / "disk"
    disk.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    else:
        with open(tmp_path / "image", "wb") as image:
            image.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(tmp_path / "image")], check=True)
        command = ["mount", "-o", "loop", str(tmp_path / "image"), str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"{request.param} cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_and_freed_again_leaves_everything_right(small_disk):
    folder = str(small_disk)
    hog = small_disk / "hog"

    def work() -> None:
        one = Everything(folder, "one", max_bytes=100_000)

        def relieve() -> None:
            with suppress(OSError):
                os.truncate(hog, max(0, hog.stat().st_size - 20_000))

        one.relieve = relieve
        for _ in range(ROUNDS):
            with hog.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(random.choice((50, 500, 5000, 50_000))))
            one.do(10, OSError)
            hog.unlink()
            for operation in one.operations():
                operation_until_it_succeeds(one, operation)
            drop(one)
        assert one.failures > 0
        one.check()
        assert numbers_in(folder) == one.counted
        one.close()

    in_a_process(work)
    assert not litter_in(folder)


def drop(one: Everything) -> None:
    """Make room: what has been read of the log, and most of the history."""
    one.read_on()
    for path in Path(one.folder).glob("events.0*.jsonl"):
        path.unlink()
    history = Path(one.folder, "state.json.history.jsonl")
    if history.stat().st_size > 200_000:
        history.unlink()


def test_memory_that_runs_out_leaves_everything_right(tmp_path):
    def work() -> None:
        one = Everything(str(tmp_path), "one")
        for operation in one.operations():  # once before, so that nothing is to be imported
            operation()
        one.check()
        hogs: list[mmap.mmap] = []

        def relieve() -> None:
            del hogs[-2:]

        one.relieve = relieve
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (64 << 20), -1))
        for _ in range(ROUNDS):
            for size in (1 << 20, 1 << 16, 1 << 12):
                with suppress(OSError, MemoryError):
                    while True:
                        hogs.append(mmap.mmap(-1, size))
            small: list[object] = []
            with suppress(MemoryError):
                while True:  # what the allocator still has of its own
                    small.append(bytearray(random.randrange(100, 10_000)))
            del small[len(small) - random.randrange(3) :]
            one.do(10, OSError, MemoryError)
            del small
            hogs.clear()
            for operation in one.operations():
                operation_until_it_succeeds(one, operation)
        assert one.failures > 0
        one.check()
        assert numbers_in(str(tmp_path)) == one.counted

    in_a_process(work)
    assert not litter_in(str(tmp_path))


def _address_space() -> int:
    """How many bytes of addresses this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
