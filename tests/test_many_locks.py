"""Many locks in one process: idle ones cost next to nothing, and held ones stay held."""

from __future__ import annotations

import os
import sys

import pytest

from conftest import counts_references, linux_only
from holdfast import FileLock
from support import Child

MANY = int(os.environ.get("HOLDFAST_TEST_LOCKS", "20000"))  # 1000000 for the long form
FEW = 100  # descriptors: some are kept for the next time

pytestmark = linux_only

# AddressSanitizer puts off giving out again what was freed, and ThreadSanitizer remembers threads that have ended.
measures_memory = pytest.mark.skipif(
    "san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own memory grows while the program runs"
)

COUNT = """
    import gc
    from holdfast import FileLock
    def descriptors():
        return len(os.listdir("/proc/self/fd"))
    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""


def run(code, *args):
    with Child(COUNT + code + '\n    say("done")\n', *args) as child:
        child.expect("done")
        child.join()


@counts_references
def test_ten_thousand_idle_locks_keep_few_descriptors(tmp_path):
    run(
        f"""
    before = descriptors()
    locks = [FileLock(os.path.join(args[0], f"{{n}}.lock")) for n in range(10_000)]
    assert descriptors() == before
    for lock in locks:
        with lock:
            pass
        assert descriptors() - before <= {FEW}
    for lock in reversed(locks):  # those without a descriptor still work
        with lock:
            assert lock.is_locked
    assert descriptors() - before <= {FEW}
    del locks, lock
    gc.collect()
    assert descriptors() == before
    """,
        tmp_path,
    )


@measures_memory
@counts_references
@pytest.mark.timeout(120 if MANY <= 100_000 else 3600)
@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_locks_used_one_after_another_leak_neither_descriptors_nor_memory(tmp_path, how):
    """A leak of 200 bytes a lock would show."""
    run(
        f"""
    def use(first, last):
        for n in range(first, last):
            path = os.path.join(args[0], f"{{n}}.lock")
            lock = FileLock(path)
            with lock:
                pass
            if {how == "closed"}:
                lock.close()
            os.unlink(path)
    use(0, 5000)
    del_before, memory_before = descriptors(), resident()
    use(5000, 5000 + {MANY})
    assert descriptors() - del_before <= {FEW}, descriptors()
    grown = resident() - memory_before
    assert grown < {max(MANY * 100, 2_000_000)}, f"{{grown}} bytes"
    """,
        tmp_path,
    )


@measures_memory
@counts_references
def test_one_lock_used_by_threads_that_come_and_go_leaks_nothing(tmp_path):
    run(
        """
    lock = FileLock(os.path.join(args[0], "the.lock"))
    def use():
        with lock:
            pass
    def run_threads(number):
        for _ in range(number):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
    run_threads(500)
    before, memory_before = descriptors(), resident()
    run_threads(3000)
    assert descriptors() == before
    assert resident() - memory_before < 1_000_000
    """,
        tmp_path,
    )


@measures_memory
@counts_references
def test_failed_tries_leak_nothing(tmp_path):
    run(
        """
    from holdfast import Timeout
    path = os.path.join(args[0], "the.lock")
    holder = FileLock(path)
    holder.acquire()
    def fail(number):
        for _ in range(number):
            try:
                FileLock(path).acquire(blocking=False)
            except Timeout:
                continue
            raise AssertionError
    fail(1000)
    before, memory_before = descriptors(), resident()
    fail(20_000)
    assert descriptors() - before <= 100
    assert resident() - memory_before < 1_000_000
    """,
        tmp_path,
    )


def test_more_locks_than_idle_descriptors_are_kept_all_stay_held(tmp_path):
    paths = [str(tmp_path / f"{n}.lock") for n in range(300)]
    locks = [FileLock(path) for path in paths]
    for lock in locks:
        lock.acquire()
    code = """
        from holdfast import FileLock, Timeout
        free = 0
        for n in range(int(args[1])):
            try:
                FileLock(os.path.join(args[0], f"{n}.lock")).acquire(blocking=False)
                free += 1
            except Timeout:
                pass
        say(free)
    """
    with Child(code, tmp_path, len(paths)) as child:
        child.expect("0")
    assert all(lock.is_locked for lock in locks)
    for lock in locks:
        lock.release()
    with Child(code, tmp_path, len(paths)) as child:
        child.expect(str(len(paths)))


def test_locks_held_while_others_come_and_go_stay_held(tmp_path):
    run(
        f"""
    path = os.path.join(args[0], "held.lock")
    held = FileLock(path)
    held.acquire()
    for n in range(500):
        with FileLock(os.path.join(args[0], f"{{n}}.lock")):
            pass
    idle = [FileLock(os.path.join(args[0], f"{{n}}.lock")) for n in range(500)]
    for lock in idle:
        with lock:
            pass
    import subprocess
    code = "import sys; from holdfast import FileLock; FileLock(sys.argv[1]).acquire(blocking=False)"
    result = subprocess.run([{sys.executable!r}, "-c", code, path], stderr=subprocess.PIPE, text=True)
    assert "Timeout" in result.stderr
    """,
        tmp_path,
    )
