"""When a call is tried again, and how long that waits."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import httpx

GREATEST_DOUBLING = 32


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Exponential back-off with full jitter.

    The n-th pause is a random part of ``base_s * 2 ** (n - 1)``, at most ``max_s``, after whatever
    time the service asked for by Retry-After.
    """

    attempts: int = 5
    """Most requests sent for one call, the first included."""
    base_s: float = 0.1
    """Longest first pause."""
    max_s: float = 10.0
    """Longest pause, beside Retry-After."""
    draw: Callable[[], float] = field(default=random.random, repr=False)
    """Which part of a pause is taken, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.attempts < 1:
            raise ValueError(f"attempts: expected at least 1, got {self.attempts}")
        if not 0 <= self.base_s <= self.max_s:
            raise ValueError(f"base_s: expected 0 to max_s ({self.max_s:g}), got {self.base_s:g}")

    def jitter_s(self, failures: int) -> float:
        """Draw the pause after so many failures."""
        doublings = min(failures - 1, GREATEST_DOUBLING)
        return self.draw() * min(self.max_s, self.base_s * 2.0**doublings)


class Attempts:
    """The attempts of one call.

    Args:
        retry: How many, and how far apart.
        budget_s: Seconds for all of them and the pauses between.
        clock: Tells monotonic seconds.
    """

    def __init__(self, retry: Retry, budget_s: float, clock: Callable[[], float]) -> None:
        self._retry = retry
        self._clock = clock
        self._until = clock() + budget_s
        self._failures = 0

    @property
    def left_s(self) -> float:
        """Seconds left for the call, none below zero."""
        return max(self._until - self._clock(), 0.0)

    def pause_s(self, at_least_s: float) -> float | None:
        """Count a failure; tell the seconds until the next attempt, or None if there is none."""
        self._failures += 1
        if self._failures >= self._retry.attempts:
            return None
        pause_s = at_least_s + self._retry.jitter_s(self._failures)
        return pause_s if pause_s < self.left_s else None


def retry_after_s(headers: httpx.Headers) -> float:
    """Seconds that the service asked for by Retry-After; 0 if it did not, or not intelligibly.

    A date counts from the answer's own Date, so that clocks that disagree do no harm.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    then = _seconds(value)
    if then is None:
        return 0.0
    now = _seconds(headers.get("date", ""))
    return max(then - (time.time() if now is None else now), 0.0)


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
