"""The command `holdfast`, killed at random."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from crew import Scenario

from holdfast import FileLock

HOLDFAST = [sys.executable, "-m", "holdfast"]


class Runs(Scenario):
    """`holdfast run` is killed while it starts, or while its command runs: the lock is free, and the command lives."""

    def __init__(self, folder: str, kills: int) -> None:
        self.path = f"{folder}/the.lock"

    def kill(self, kills: int) -> Counter[str]:
        killed: Counter[str] = Counter()
        for number in range(kills):
            with subprocess.Popen(
                [*HOLDFAST, "run", self.path, "--", "sh", "-c", "echo running; exec cat"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                if number % 2:
                    assert process.stdout.readline() == "running\n"
                else:
                    time.sleep(random.random() * 0.3)
                process.kill()
                process.wait()
                # The command goes on, until its input ends with this block.
                with FileLock(self.path, timeout=0):
                    killed["holdfast run"] += 1
        return killed

    def check(self) -> Counter[str]:
        done = subprocess.run([*HOLDFAST, "run", "--no-wait", self.path, "--", "true"], check=False)
        assert done.returncode == 0
        return Counter()


class Appends(Scenario):
    """`holdfast append` is killed: what it appended are the first lines of its input, whole and in order."""

    LINES = 20_000

    def __init__(self, folder: str, kills: int) -> None:
        self.folder, self.path = folder, f"{folder}/log/events.jsonl"
        os.mkdir(f"{folder}/log")
        self.started = 0

    def kill(self, kills: int) -> Counter[str]:
        living = [self._start() for _ in range(3)]
        killed = 0
        for _ in range(kills):
            time.sleep(random.random() * 0.2)
            victim = living.pop(random.randrange(3))
            victim.kill()
            status = victim.wait()
            assert status in {-9, 0}
            killed += status == -9
            living.append(self._start())
        for process in living:
            assert process.wait() == 0, "what it said is above"
        assert killed, "all had come to their end before"
        return Counter({"holdfast append": killed})

    def _start(self) -> subprocess.Popen[bytes]:
        number = self.started
        self.started += 1
        text = "x" * random.randrange(200)
        lines = Path(f"{self.folder}/input{number}")
        lines.write_text("".join(f'[{number},{line},"{text}"]\n' for line in range(self.LINES)))
        with lines.open("rb") as file:
            return subprocess.Popen([*HOLDFAST, "append", self.path], stdin=file, stdout=subprocess.DEVNULL)

    def check(self) -> Counter[str]:
        places: Counter[int] = Counter()
        torn = 0
        for line in Path(self.path).read_bytes().splitlines():
            try:
                number, place, _ = json.loads(line)
            except ValueError:
                torn += 1
                continue
            assert place == places[number], f"line {place} of input {number} after {places[number] - 1}"
            places[number] += 1
        whole = sum(count == self.LINES for count in places.values())
        assert whole >= 3, "those that were not killed have not appended everything"
        assert torn <= self.started - 3
        return Counter({"lines": places.total(), "torn": torn})
