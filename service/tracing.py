"""Traces of requests, for those who collect them; OpenTelemetry is loaded only if they do.

A trace shows what kind of request it was and how long its stages took. It never holds a path, a
query string or a body, as these carry ids, texts and vectors, nor anything about an API key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from service.settings import SettingsError, flag_of, variable_of
from service.timing import Interval

TRACES_PATH = "/v1/traces"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that has ended."""

    method: str
    route: str | None
    """Template of the route, never the path; None if none matched."""
    scheme: str
    """``http`` or ``https``."""
    status: int
    problem: str | None
    """Code of the problem that was answered, if one was."""
    request_id: str
    headers: Iterable[tuple[bytes, bytes]]
    """Of the request; only those of the trace context are read."""
    started_s: float
    """By ``time.perf_counter``, as are all times here."""
    ended_s: float
    intervals: list[Interval]


class Tracer(Protocol):
    """Makes traces."""

    def record(self, exchange: Exchange) -> str:
        """Take a request that has ended, and tell its trace id."""

    def close(self, limit_s: float = ...) -> None:
        """Send what waits, for so many seconds at most, and stop."""


def open_tracer(endpoint: str) -> Tracer | None:
    """Begin to send traces to a collector.

    Args:
        endpoint: Who takes OTLP over HTTP, such as ``http://127.0.0.1:4318``; empty is nobody.

    Raises:
        SettingsError: If it is not such a URL, or the ``otel`` extra is not installed.
    """
    if not endpoint:
        return None
    setting = f"{flag_of('otlp_endpoint')} ({variable_of('otlp_endpoint')})"
    if not _is_base_url(endpoint):
        raise SettingsError(
            f"{setting}: expected a URL such as http://127.0.0.1:4318, got {endpoint!r}"
        )
    try:
        from service.otlp import OtlpTracer
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{setting}: traces need OpenTelemetry: pip install 'nextchunk[otel]'"
        ) from error
    base = endpoint.rstrip("/")
    return OtlpTracer(base if base.endswith(TRACES_PATH) else base + TRACES_PATH)


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # looked at only now, and not every number is one
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
