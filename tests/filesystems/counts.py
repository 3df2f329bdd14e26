"""What a program of checks counts, here and in the emulated machine."""

from __future__ import annotations

import subprocess


def counted(words: list[str]) -> dict[str, int]:
    """What the last line of a program counts: 'ext4: 50 passed, 0 failed, 1 skipped'."""
    line = ""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        finally:
            process.terminate()  # which it has ended before, unless we are to end, too
    try:
        numbers = [int(part.split()[0]) for part in line.rpartition(":")[2].split(",")]
        return dict(zip(("passed", "failed", "skipped"), numbers, strict=True))
    except (ValueError, IndexError):
        return {"failed": 1}  # it ended before it had counted
