from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of a lock file that does not exist yet."""
    return str(tmp_path / "the.lock")


posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
