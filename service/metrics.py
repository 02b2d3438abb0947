"""What the service counts and measures, in the words of Prometheus.

Each application has a registry of its own. Every series whose labels are known in advance is there
before the first request, so that a rate over it sees the first event. Nothing here loads torch.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import UnreachableError, error_classes

PREFIX = "nextchunk"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
UNMATCHED = "unmatched"
CLIENT_CLOSED = 499
"""Status that is counted and logged when nobody waits for the answer any more."""

OPERATIONS = ("rank", "score", "order", "sequence")
MODES = ("p8", "retrieval")
STAGES = (
    "wait",
    "parse",
    "decode",
    "query",
    "search",
    "rerank",
    "explain",
    "encode",
    "write",
    "embed",
    "order",
    "sequence",
    "store",
    "apply",
)
REJECTED = {
    "queue_full": "queue_full",
    "rate_limited": "rate_limited",
    "deadline_exceeded": "deadline",
}
"""Why a request was turned away, by the code of its problem."""
CANCELLED = "cancelled"

OPEN_METRICS = "application/openmetrics-text"
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STAGE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COMPUTED_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class ModelGauge(NamedTuple):
    """What one loaded model is; the words are labels."""

    name: str
    version: str
    """Of the checkpoint; ``none`` without one."""
    gate: str
    """Verdict of its gate, or ``none``."""
    status: str
    """``ok``, or why ``auto`` does not use it."""


FamilyT = TypeVar("FamilyT", Counter, Histogram)


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """What is read at the moment of a scrape; the defaults are those of a service that loads."""

    chunks: int = 0
    documents: int = 0
    dead_slots: int = 0
    """Slots of deleted and replaced chunks that still take up memory."""
    fresh_slots: int = 0
    """Slots that are searched one by one, as the built index lacks them."""
    indexed_slots: int = 0
    store_version: int = 0
    indexed_version: int = 0
    """Store version up to which the built index knows everything."""
    seconds_since_build: float = 0.0
    building: bool = False
    store_bytes: int = 0
    index_available: bool = True
    """Whether what keeps the chunks answers; always, if that is the data folder."""
    queue_waiting: int = 0
    queue_limit: int = 0
    writes_waiting: int = 0
    writes_limit: int = 0
    ready: bool = False
    models: tuple[ModelGauge, ...] = (ModelGauge("default", "none", "none", "loading"),)


# Metric, field of Gauges, help.
PLAIN_GAUGES = (
    ("ready", "ready", "Whether ranks can be answered: 1 or 0."),
    ("chunks", "chunks", "Chunks that can be found."),
    ("documents", "documents", "Documents that have chunks."),
    ("dead_slots", "dead_slots", "Slots of deleted and replaced chunks, not yet reclaimed."),
    ("fresh_slots", "fresh_slots", "Slots searched one by one, not yet in the built index."),
    ("indexed_slots", "indexed_slots", "Slots of the built index."),
    ("store_version", "store_version", "Version of the store; each write raises it."),
    ("indexed_version", "indexed_version", "Store version that the built index was made from."),
    ("index_age_seconds", "seconds_since_build", "Seconds since the index was built."),
    ("index_building", "building", "Whether an index is being built: 1 or 0."),
    ("store_bytes", "store_bytes", "Bytes of the store's files."),
    ("index_available", "index_available", "Whether what keeps the chunks answers: 1 or 0."),
)


class Metrics:
    """Counters and histograms of one application, and gauges that are read at the scrape.

    Any thread may call any method.

    Args:
        read_gauges: Tells the present state, quickly and without raising; None while loading.
        fallback_reasons: Every word that may come as the reason of a fallback.
    """

    def __init__(
        self,
        read_gauges: Callable[[], Gauges | None] = lambda: None,
        fallback_reasons: Iterable[str] = (),
    ) -> None:
        self._children: dict[Any, Any] = {}
        registry = CollectorRegistry()
        self._families = _WithoutCreated(registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, PREFIX, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name, text, labels, PREFIX, registry=registry, buckets=buckets)

        self._requests = counter(
            "requests",
            "Requests that ended, by route template and status; 499 is one without an answer.",
            *("method", "route", "status"),
        )
        self._request_seconds = histogram(
            "request_duration_seconds",
            "Seconds from the head of a request to the end of its answer.",
            REQUEST_BUCKETS,
            "route",
        )
        self._stage_seconds = histogram(
            "stage_duration_seconds",
            "Seconds that a request spent in a stage, its whole batch taken together.",
            STAGE_BUCKETS,
            "stage",
        )
        self._batch = histogram("batch_queries", "Queries or pairs in one request.", BATCH_BUCKETS)
        self._computed = histogram(
            "computed_queries", "Queries computed together, in one batch.", COMPUTED_BUCKETS
        )
        self._answers = counter(
            "answers", "Queries answered, by the mode that answered.", "operation", "mode"
        )
        self._fallbacks = counter("fallbacks", "Answers of auto that are not by P8.", "reason")
        self._problems = counter("problems", "Problems answered, by code.", "code")
        self._rejected = counter("rejected", "Requests turned away or given up.", "reason")
        self._written = counter("chunks_written", "Chunks added or replaced.")
        self._deleted = counter("chunks_deleted", "Chunks deleted.")
        self._initialise(fallback_reasons)
        registry.register(_State(read_gauges))
        ProcessCollector(registry=registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            method: As it came; one that HTTP does not know becomes ``other``.
            route: Template of the route, or ``UNMATCHED``; never a path.
            status: Status of the answer, or ``CLIENT_CLOSED``.
            seconds: How long it took.
        """
        known = method if method in METHODS else OTHER_METHOD
        self._child(self._requests, known, route, str(status)).inc()
        self._child(self._request_seconds, route).observe(seconds)
        if status == CLIENT_CLOSED:
            self._rejected.labels(CANCELLED).inc()

    def stage(self, name: str, ms: float) -> None:
        """Note the milliseconds of one stage of a request."""
        self._child(self._stage_seconds, name).observe(ms / 1000.0)

    def answer(self, operation: str, mode: str, reason: str | None = None) -> None:
        """Count an answered query.

        Args:
            operation: One of ``OPERATIONS``.
            mode: ``p8`` or ``retrieval``.
            reason: Why ``auto`` fell back, if it did.
        """
        self._child(self._answers, operation, mode).inc()
        if reason is not None:
            self._fallbacks.labels(reason).inc()

    def batch(self, size: int) -> None:
        """Note how many queries or pairs a request holds; 1 for a single one."""
        self._batch.observe(size)

    def computed(self, size: int) -> None:
        """Note how many queries were computed together, of whichever requests."""
        self._computed.observe(size)

    def problem(self, code: str) -> None:
        """Count a problem answered, and the rejection if it is one."""
        self._problems.labels(code).inc()
        if code in REJECTED:
            self._rejected.labels(REJECTED[code]).inc()

    def written(self, chunks: int) -> None:
        """Count chunks that a write added or replaced."""
        self._written.inc(chunks)

    def deleted(self, chunks: int) -> None:
        """Count chunks that a deletion removed."""
        self._deleted.inc(chunks)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write everything, in the format that an ``Accept`` header prefers.

        Returns:
            The body and its content type.
        """
        # Never the header itself: the encoder stumbles over versions that are not numbers.
        open_metrics = OPEN_METRICS in accept
        encode, content_type = choose_encoder(f"{OPEN_METRICS}; version=1.0.0" * open_metrics)
        return encode(self._families), content_type

    def _child(self, family: FamilyT, *labels: str) -> FamilyT:
        """A labelled child; to look one up in the family takes as long as to count."""
        key = (family, labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = family.labels(*labels)
        return child

    def _initialise(self, fallback_reasons: Iterable[str]) -> None:
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for operation in OPERATIONS:
            for mode in MODES:
                self._answers.labels(operation, mode)
        for reason in fallback_reasons:
            self._fallbacks.labels(reason)
        for kind in error_classes():
            if kind is not UnreachableError:
                self._problems.labels(kind.code)
        for reason in (*REJECTED.values(), CANCELLED):
            self._rejected.labels(reason)


class _State(Collector):
    """The gauges, from one reading of the state a scrape."""

    def __init__(self, read_gauges: Callable[[], Gauges | None]) -> None:
        self._read = read_gauges
        self._build = {"version": project_version(), "python": platform.python_version()}

    def describe(self) -> Iterable[Metric]:
        """Name nothing: registering must not read the state, which may not be there yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the state and write it as metrics."""
        state = self._read() or Gauges()
        for name, field, text in PLAIN_GAUGES:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, float(getattr(state, field)))
        for name, text, compute, writes in (
            ("queue_waiting", "Jobs waiting.", state.queue_waiting, state.writes_waiting),
            ("queue_limit", "Jobs that may wait.", state.queue_limit, state.writes_limit),
        ):
            family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["queue"])
            family.add_metric(["compute"], compute)
            family.add_metric(["writes"], writes)
            yield family
        models = InfoMetricFamily(f"{PREFIX}_model", "Each model, with what became of it.")
        for model in state.models:
            models.add_metric([], model._asdict())
        yield models
        yield InfoMetricFamily(f"{PREFIX}_build", "What runs.", self._build)


class _WithoutCreated(Collector):
    """A registry without its ``_created`` series, which double the page and help nobody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Drop the samples that tell when a series began."""
        for family in self._registry.collect():
            family.samples = [
                sample for sample in family.samples if not sample.name.endswith("_created")
            ]
            yield family


def project_version() -> str:
    """Version of this project, as it was installed."""
    try:
        return version("nextchunk")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
