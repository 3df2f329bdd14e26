"""Everything that can happen to processes that share locks and files, at once and all the time: `make test-chaos`.

Run as root in a mount namespace of its own, it also fills up small disks. Every file of tests is a row of the table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from soak import soak

import evidence

TARGET = "test-chaos"
FILES = ("stopped", "clocks", "forks", "moved", "exhausted", "crowds", "signals", "cancellations")
PATIENCE = 3600  # seconds for one test, whatever the machine: then something waits for ever, and all stacks are shown


def main() -> int:
    """Run all, or the files that are named."""
    evidence.begin(TARGET, sys.argv[1:])
    folder = Path(__file__).parent
    for name in sys.argv[1:] or FILES:
        with tempfile.TemporaryDirectory() as scratch:
            report = f"{scratch}/report.xml"
            options = ["-q", "-p", "no:cacheprovider", f"--override-ini=timeout={PATIENCE}", f"--junitxml={report}"]
            words = [sys.executable, "-m", "pytest", *options, folder / f"{name}.py"]
            evidence.pytest(TARGET, name, report, subprocess.run(words, check=False).returncode)
    if not sys.argv[1:]:
        soak(TARGET, 30)
    return min(evidence.end(TARGET), 1)


if __name__ == "__main__":
    sys.exit(main())
