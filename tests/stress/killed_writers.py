"""Thousands of kills: HOLDFAST_KILLS says how many, 5,000 by default. `make stress` runs this."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))
import kills

KILLS = int(os.environ.get("HOLDFAST_KILLS", "5000"))
ROUND = 250


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("settings", [{}, {"max_bytes": 300_000}], ids=["one file", "rotated"])
def test_thousands_of_killed_writers_lose_nothing(tmp_path, settings, capsys):
    killed = records = torn = 0
    while killed < KILLS:
        folder = tmp_path / str(killed)
        folder.mkdir()
        acknowledged, _ = kills.kill_writers(str(folder / "events.jsonl"), ROUND, **settings)
        found, damaged = kills.check(str(folder / "events.jsonl"), acknowledged)
        killed, records, torn = killed + ROUND + kills.WRITERS, records + found, torn + damaged
        for file in folder.iterdir():
            file.unlink()
    with capsys.disabled():
        print(f"\n{killed:,} writers killed, {records:,} records, none lost; {torn} torn lines")
