"""Commands of the system."""

from __future__ import annotations

import subprocess


def do(command: str) -> None:
    """Run a command, which must succeed."""
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)
