"""The first thing to run: processes are killed while they write, nothing is lost; and what it costs on this machine.

make demo
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import exclusion
import telemetry


def main() -> None:
    """Run all parts, and the comparisons where they can be made."""
    comparing = find_spec("filelock") is not None and hasattr(os, "fork")
    telemetry.prove_durability()
    if comparing:
        telemetry.show_costs()
    exclusion.prove_exclusion()
    if comparing:
        exclusion.show_costs()
    else:
        print("\n(With filelock installed, and not on Windows, this also shows what both cost on this machine.)")


if __name__ == "__main__":
    main()
