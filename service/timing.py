"""Stage timings of one request, and its deadline."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

Clock = Callable[[], float]

# A batch has its stages once a query; so many are kept as intervals, and all count in the sums.
INTERVALS_KEPT = 256


class Interval(NamedTuple):
    """One run of a stage; times in seconds of the clock."""

    name: str
    start_s: float
    end_s: float


class Stages:
    """Adds up the milliseconds that each named stage took; any thread may add and read.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._elapsed_ms: dict[str, float] = {}
        self._intervals: list[Interval] = []

    @property
    def elapsed_ms(self) -> dict[str, float]:
        """Milliseconds of each stage so far, in the order in which they first ended."""
        with self._lock:
            return {name: round(ms, 3) for name, ms in self._elapsed_ms.items()}

    @property
    def intervals(self) -> list[Interval]:
        """When each stage ran, up to ``INTERVALS_KEPT`` of them."""
        with self._lock:
            return list(self._intervals)

    def stage(self, name: str) -> "_Stage":
        """Time a ``with`` block under a name; the same name again adds to it."""
        return _Stage(self, name)

    def add(self, name: str, ms: float) -> None:
        """Add milliseconds that end now to a stage."""
        end = self._clock()
        self._keep(Interval(name, end - ms / 1000.0, end))

    def absorb(self, other: "Stages") -> None:
        """Add all that another has timed by the same clock, such as one query of a batch."""
        with other._lock:
            elapsed_ms, intervals = dict(other._elapsed_ms), list(other._intervals)
        with self._lock:
            for name, ms in elapsed_ms.items():
                self._elapsed_ms[name] = self._elapsed_ms.get(name, 0.0) + ms
            self._intervals += intervals[: INTERVALS_KEPT - len(self._intervals)]

    def _keep(self, interval: Interval) -> None:
        name, start, end = interval
        with self._lock:
            self._elapsed_ms[name] = self._elapsed_ms.get(name, 0.0) + (end - start) * 1000.0
            if len(self._intervals) < INTERVALS_KEPT:
                self._intervals.append(interval)


class _Stage:
    """A ``with`` block that is timed."""

    __slots__ = ("_name", "_stages", "_start")

    def __init__(self, stages: Stages, name: str) -> None:
        self._stages, self._name, self._start = stages, name, 0.0

    def __enter__(self) -> None:
        self._start = self._stages._clock()

    def __exit__(self, *_: object) -> None:
        stages = self._stages
        stages._keep(Interval(self._name, self._start, stages._clock()))


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Deadline:
    """The moment after which a request should be answered the quick way, or not at all.

    Args:
        limit_ms: Milliseconds from now.
        clock: Seconds, monotonic.
    """

    def __init__(self, limit_ms: float, clock: Clock = time.perf_counter) -> None:
        self.limit_ms = limit_ms
        self._clock = clock
        self._at_s = clock() + limit_ms / 1000.0
        self._gone = False

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self._clock() > self._at_s

    def cancel(self) -> None:
        """Tell whoever works on the request, in any thread, that nobody waits any more."""
        self._gone = True

    def check(self) -> None:
        """Stop if nobody waits any more.

        Raises:
            GoneError: If so.
        """
        if self._gone:
            raise GoneError
