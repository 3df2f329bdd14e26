"""What the locks and files of a program do, counted by name, for Prometheus, OpenTelemetry or the eye.

Only what is given a name with `metrics=` is counted. The processes that a program forks count together with it, and
what they have counted stays when they end, however they do.

>>> from holdfast import FileLock, metrics
>>> with FileLock("app.lock", metrics="updates"):
...     pass
>>> metrics.snapshot()["updates"].acquisitions
1
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from holdfast import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


@dataclass(frozen=True)
class Durations:
    """How long something took each time: how often it took less than a limit, and all of it together, in seconds.

    >>> from holdfast.metrics import Durations
    >>> waits = Durations(counts=(0, 3, 1), total=5e-9)
    >>> waits.number, waits.limit(2), waits.quantile(0.5)
    (4, 4e-09, 2e-09)
    """

    counts: tuple[int, ...]
    """How many were below limit(0), how many of the others below limit(1), and so on."""
    total: float

    @property
    def number(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def limit(self, index: int) -> float:
        """The limit below which those in counts[index] are: 2**index nanoseconds, in seconds."""
        return float(2**index / 1e9)

    def below(self, index: int) -> int:
        """How many were below limit(index)."""
        return sum(self.counts[: index + 1])

    def quantile(self, q: float) -> float:
        """A time below which this part of them was, 0.99 for example; at most twice as long as need be. 0 for none."""
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, not {q!r}")
        wanted = q * self.number
        for index, below in enumerate(accumulate(self.counts)):
            if below and below >= wanted:
                return self.limit(index)
        return 0.0


@dataclass(frozen=True)
class Metrics:
    """What the locks and files of one name have done.

    Locks: `acquisitions`, how many of these and of the appends to logs were `contended` and how long those waited, how
    many gave up (`timeouts`), and how long locks were held. Logs: `records`, `bytes`, `syncs`, `rotations`, and lines
    that others had left `torn`. States and documents: `writes`, `deletions`, `conflicts`, and of stores also what was
    `coalesced` or dropped (`drops`), `errors`, and what is `pending` now in processes that live.

    >>> from holdfast import JsonlFile, metrics
    >>> JsonlFile("events.jsonl", metrics="events").append({"event": "started"})
    >>> metrics.snapshot()["events"].records
    1
    """

    acquisitions: int
    contended: int
    timeouts: int
    records: int
    bytes: int
    syncs: int
    rotations: int
    torn: int
    writes: int
    deletions: int
    coalesced: int
    conflicts: int
    drops: int
    errors: int
    pending: int
    waits: Durations
    holds: Durations


_NUMBERS = 15  # how many of the counters are no durations: those before `waits`, in the core's order
_WAITED, _HELD, _WAITS, _BUCKETS = _NUMBERS, _NUMBERS + 1, _NUMBERS + 2, 48


def snapshot(*, this_process: bool = False) -> dict[str, Metrics]:
    """What has been counted so far, by name: by this process and all that share its counters, or by this one alone.

    Those that share them are its children by fork, and theirs, and its parent, if that had imported holdfast before.

    >>> from holdfast import FileLock, metrics
    >>> with FileLock("app.lock", metrics="turns"):
    ...     pass
    >>> metrics.snapshot(this_process=True)["turns"].holds.number
    1
    """
    return {name: _metrics(counts) for name, counts in _core.read_meters(this_process).items()}


def _metrics(counts: list[int]) -> Metrics:
    holds = _WAITS + _BUCKETS
    names = Metrics.__dataclass_fields__
    return Metrics(
        **dict(zip(names, counts[:_NUMBERS], strict=False)),
        waits=Durations(tuple(counts[_WAITS:holds]), counts[_WAITED] / 1e9),
        holds=Durations(tuple(counts[holds : holds + _BUCKETS]), counts[_HELD] / 1e9),
    )


# What is shown elsewhere: the attribute, its name there without prefix, and its description.
_COUNTERS = (
    ("acquisitions", "lock_acquisitions", "Acquisitions of locks."),
    ("contended", "lock_contended", "Acquisitions of locks and appends to logs that had to wait."),
    ("timeouts", "lock_timeouts", "Acquisitions of locks and appends to logs that gave up."),
    ("records", "log_records", "Records appended to logs."),
    ("bytes", "log_bytes", "Bytes appended to logs."),
    ("syncs", "log_syncs", "Times that a log was brought to the disk."),
    ("rotations", "log_rotations", "Rotations of logs."),
    ("torn", "log_torn_lines", "Lines that somebody had left without an end."),
    ("writes", "file_writes", "States and documents written."),
    ("deletions", "file_deletions", "Documents deleted."),
    ("coalesced", "file_coalesced", "Writes and deletions of documents that a later one made needless."),
    ("conflicts", "file_conflicts", "States and documents that somebody else had changed."),
    ("drops", "file_drops", "Writes of documents given up because too many were waiting."),
    ("errors", "file_errors", "Attempts to write documents that failed."),
)
_DURATIONS = (
    ("waits", "lock_wait", "How long acquisitions and appends waited that had to."),
    ("holds", "lock_hold", "How long locks were held."),
)
_PENDING = ("file_pending", "Writes and deletions of documents that are still to be done.")

_SHOWN = range(10, 40, 2)  # of the limits: from a microsecond to nine minutes, each four times the one before


class PrometheusCollector:
    """A collector for prometheus_client (`pip install holdfast[prometheus]`).

    It is right in a program of one process. In one that forks workers, whichever of them is asked answers for all, also
    for those that have died: register it in the registry that is exposed, and nowhere else.

    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> from holdfast import FileLock
    >>> from holdfast.metrics import PrometheusCollector
    >>> registry = CollectorRegistry()
    >>> registry.register(PrometheusCollector())
    >>> with FileLock("app.lock", metrics="jobs"):
    ...     pass
    >>> registry.get_sample_value("holdfast_lock_acquisitions_total", {"name": "jobs"})
    1
    """

    def describe(self) -> Iterable[Any]:
        """Nothing: what there will be depends on the names in use."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now, as prometheus_client wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        found = snapshot()
        for attribute, name, text in _COUNTERS:
            counter = CounterMetricFamily(f"holdfast_{name}", text, labels=["name"])
            for label, metrics in found.items():
                counter.add_metric([label], getattr(metrics, attribute))
            yield counter
        for attribute, name, text in _DURATIONS:
            histogram = HistogramMetricFamily(f"holdfast_{name}_seconds", text, labels=["name"])
            for label, metrics in found.items():
                histogram.add_metric([label], *_buckets(getattr(metrics, attribute)))
            yield histogram
        gauge = GaugeMetricFamily(f"holdfast_{_PENDING[0]}", _PENDING[1], labels=["name"])
        for label, metrics in found.items():
            gauge.add_metric([label], metrics.pending)
        yield gauge


def _buckets(durations: Durations) -> tuple[list[tuple[str, float]], float]:
    """The buckets and the sum of a histogram."""
    shown: list[tuple[str, float]] = [(f"{durations.limit(index):.9g}", durations.below(index)) for index in _SHOWN]
    return [*shown, ("+Inf", durations.number)], durations.total


def instrument(meter_provider: Any = None) -> None:
    """Have OpenTelemetry (`pip install holdfast[opentelemetry]`) observe what this process counts from now on.

    Each process reports its own: call this in every worker, after it has been forked. By default it is the global
    provider that is told. Call it once.

    >>> from opentelemetry.sdk.metrics import MeterProvider
    >>> from holdfast import metrics
    >>> metrics.instrument(MeterProvider(shutdown_on_exit=False))
    """
    from opentelemetry.metrics import Observation, get_meter_provider

    from holdfast import __version__

    provider = get_meter_provider() if meter_provider is None else meter_provider
    meter = provider.get_meter("holdfast", __version__)

    def observed(value: Any) -> Any:
        def observe(_options: Any) -> Iterator[Any]:
            for name, metrics in snapshot(this_process=True).items():
                yield Observation(value(metrics), {"holdfast.name": name})

        return [observe]

    for attribute, name, text in _COUNTERS:
        unit = "By" if attribute == "bytes" else f"{{{attribute}}}"
        value = _getter(attribute)
        meter.create_observable_counter(_dotted(name), callbacks=observed(value), unit=unit, description=text)
    for attribute, name, text in _DURATIONS:
        total = _getter(f"{attribute}.total")
        meter.create_observable_counter(
            _dotted(f"{name}_duration"), callbacks=observed(total), unit="s", description=text
        )
    name, text = _PENDING
    meter.create_observable_up_down_counter(
        _dotted(name), callbacks=observed(_getter("pending")), unit="{operation}", description=text
    )


def _getter(path: str) -> Any:
    from operator import attrgetter

    return attrgetter(path)


def _dotted(name: str) -> str:
    """A name as OpenTelemetry has them: holdfast.lock.wait_duration."""
    return "holdfast." + name.replace("_", ".", 1)
