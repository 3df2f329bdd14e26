"""What a disk may hold after a power cut. `make test-power-cuts` tries all workloads, and many more states."""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from conftest import linux_only

sys.path.append(str(Path(__file__).resolve().parent / "power_cuts"))
import cases
import disk

pytestmark = [
    linux_only,
    pytest.mark.timeout(600),  # hundreds of states
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the recorder is made for glibc"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="something else is preloaded already"),
]


@pytest.mark.parametrize("workload", ["checkpoints", "documents"])
def test_what_was_promised_is_there_after_a_power_cut_at_any_moment(workload):
    with tempfile.TemporaryDirectory(dir=disk.MEMORY, prefix="power-cuts-") as folder:
        recording = disk.record(workload, disk.build(Path(folder)))
        found = cases.cases_of(recording, 0, random.Random(workload))
        broken = {cases.check(workload, recording, case, folder) for case in found} - {""}
    assert not broken
    assert len(found) > 50
