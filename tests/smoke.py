"""Try an installed holdfast: it prints one line, or a traceback."""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from holdfast import FileLock, JsonlFile, Timeout, write_text

TRY = """
import sys
from holdfast import FileLock, Timeout
try:
    with FileLock(sys.argv[1], timeout=float(sys.argv[2])):
        print("acquired")
except Timeout:
    print("timed out")
"""

HOLD = """
import sys
from holdfast import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("acquired", flush=True)
sys.stdin.read()
"""


def try_elsewhere(path, timeout):
    """What another process gets."""
    command = [sys.executable, "-c", TRY, str(path), str(timeout)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.strip()


def main():
    """Lock, exclude, time out, release; append, rotate, read; replace."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "smoke.lock")
        lock = FileLock(path, timeout=0.2)
        with lock:
            assert lock.is_locked
            assert try_elsewhere(path, 0) == "timed out"
            assert try_elsewhere(path, 0.2) == "timed out"
        assert not lock.is_locked
        assert try_elsewhere(path, 10) == "acquired"

        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline().strip() == "acquired"
            try:
                lock.acquire()
            except Timeout:
                pass
            else:
                raise AssertionError("two processes hold the lock")
            holder.kill()
        with lock.acquire(timeout=10):  # the system released it
            assert lock.is_locked
        lock.close()

        log = JsonlFile(Path(folder, "smoke.jsonl"), durable=True, max_bytes=100)
        for number in range(20):
            log.append({"number": number})
        assert [record["number"] for record in log] == list(range(20))
        assert log.stats.rotations > 1
        assert log.verify().ok
        log.close()

        write_text(Path(folder, "smoke.txt"), "old")
        write_text(Path(folder, "smoke.txt"), "new")
        assert Path(folder, "smoke.txt").read_text() == "new"
    print(f"holdfast works on {platform.python_implementation()} {platform.python_version()}, {platform.platform()}")


if __name__ == "__main__":
    main()
