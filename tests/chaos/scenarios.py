"""The scenarios of ../stress that somebody else disturbs."""

from __future__ import annotations

from files import Documents, Replaced, States
from holding import AsyncLocks, Locks, ManyLocks, OfdLocks, ReadWriteLocks, SoftLocks
from logs import CompressedLogs, Logs, RotatedLogs

SCENARIOS = (
    Locks, OfdLocks, SoftLocks, ReadWriteLocks, ManyLocks, AsyncLocks,
    Logs, RotatedLogs, CompressedLogs, States, Documents, Replaced,
)  # fmt: skip
