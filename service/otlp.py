"""Spans over OTLP. Loaded by ``service.tracing`` alone, and only where traces are wanted.

OpenTelemetry's own variables (``OTEL_TRACES_SAMPLER``, ``OTEL_RESOURCE_ATTRIBUTES``,
``OTEL_EXPORTER_OTLP_HEADERS``, ...) mean what its documentation says.
"""

import logging
import threading
import time
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.metrics import METHODS, project_version
from service.tracing import Exchange

log = logging.getLogger(__name__)

FLUSH_S = 5.0
TRACE_CONTEXT = (b"traceparent", b"tracestate")


class OtlpTracer:
    """Makes one span of each request and one of each run of a stage, and sends them in batches.

    Args:
        url: Full URL that takes the spans.
    """

    def __init__(self, url: str) -> None:
        resource = Resource.create(
            {"service.name": "nextchunk", "service.version": project_version()}
        ).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("nextchunk", project_version())
        self._propagator = TraceContextTextMapPropagator()

    def record(self, exchange: Exchange) -> str:
        """Make the spans of a request that has ended, and tell its trace id."""
        # Stages run in several threads, so no span is open meanwhile: each gets its times here.
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in exchange.headers
            if name in TRACE_CONTEXT
        }
        span = self._tracer.start_span(
            _name(exchange),
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            _attributes(exchange),
            start_time=epoch_ns + _ns(exchange.started_s),
        )
        if span.is_recording():
            if exchange.status >= 500:
                span.set_status(StatusCode.ERROR)
            inside = set_span_in_context(span)
            for name, start_s, end_s in exchange.intervals:
                stage = self._tracer.start_span(name, inside, start_time=epoch_ns + _ns(start_s))
                stage.end(epoch_ns + _ns(end_s))
        span.end(epoch_ns + _ns(exchange.ended_s))
        return format_trace_id(span.get_span_context().trace_id)

    def close(self, limit_s: float = FLUSH_S) -> None:
        """Send what waits, for so many seconds at most, and stop."""
        # The provider itself would wait for a collector that does not answer for half a minute.
        flush = threading.Thread(target=self._provider.shutdown, name="flush", daemon=True)
        flush.start()
        flush.join(limit_s)
        if flush.is_alive():
            log.warning("the last traces were not taken within %g s and are lost", limit_s)


def _name(exchange: Exchange) -> str:
    method = exchange.method if exchange.method in METHODS else "HTTP"
    return method if exchange.route is None else f"{method} {exchange.route}"


def _attributes(exchange: Exchange) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": exchange.method if exchange.method in METHODS else "_OTHER",
        "http.response.status_code": exchange.status,
        "url.scheme": exchange.scheme,
        "nextchunk.request_id": exchange.request_id,
    }
    if exchange.route is not None:
        attributes["http.route"] = exchange.route
    if exchange.problem is not None:
        attributes["nextchunk.problem"] = exchange.problem
    if exchange.status >= 500:
        attributes["error.type"] = exchange.problem or str(exchange.status)
    return attributes


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
