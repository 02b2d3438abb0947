"""Stage timings of one request, and its deadline."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]


class Stages:
    """Adds up the milliseconds that each named stage took.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self.elapsed_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block under a name; the same name again adds to it."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, (self._clock() - start) * 1000.0)

    def add(self, name: str, ms: float) -> None:
        """Add milliseconds to a stage."""
        self.elapsed_ms[name] = round(self.elapsed_ms.get(name, 0.0) + ms, 3)


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

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self._clock() > self._at_s
