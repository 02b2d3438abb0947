"""Traces, taken by a real collector: an HTTP server that reads OTLP."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.settings import SettingsError
from service.tracing import Tracer, open_tracer

from .small_app import SECRET, STAGE_S, Small, serve_small

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Takes traces at ``/v1/traces`` until the block ends.

    Args:
        go_on: Waited for before each answer.
    """

    def __init__(self, go_on: threading.Event) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert (self.path, self.headers["Content-Type"]) == (
                    "/v1/traces",
                    "application/x-protobuf",
                )
                collector.bodies.append(body)
                go_on.wait(20)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting(go_on: threading.Event | None = None) -> Iterator[Collector]:
    if go_on is None:
        go_on = threading.Event()
        go_on.set()
    collector = Collector(go_on)
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()


@contextmanager
def traced() -> Iterator[tuple[Small, Collector]]:
    """A small application whose spans have all arrived when the block ends."""
    with collecting() as collector:
        tracer = open_tracer(collector.url)
        assert tracer is not None
        try:
            with serve_small(tracer=tracer) as small:
                yield small, collector
        finally:
            tracer.close()


def attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


def test_a_request_becomes_a_span_with_its_stages_below() -> None:
    began_ns = time.time_ns()
    with traced() as (small, collector):
        answer = small.http.post(
            f"/v1/rank?model={SECRET}",
            content=json.dumps({"text": SECRET}),
            headers={"Authorization": f"Bearer {SECRET}", "X-Request-ID": "one"},
        )
        assert answer.status_code == 200
        line = json.loads(small.wait_for_lines(1)[0])
    # The batch goes out every 5 s: that it is here shows that closing flushes.
    assert not any(SECRET.encode() in body for body in collector.bodies)
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "nextchunk"
    (root,) = [span for span in collector.spans if not span.parent_span_id]
    stages = sorted(
        (span for span in collector.spans if span.parent_span_id),
        key=lambda span: span.start_time_unix_nano,
    )
    assert (root.name, root.kind) == ("POST /v1/rank", Span.SPAN_KIND_SERVER)
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/rank",
        "url.scheme": "http",
        "nextchunk.request_id": "one",
    }
    assert root.trace_id.hex() == line["trace_id"]
    assert [span.name for span in stages] == ["parse", "query", "search", "query", "search"]
    assert {span.parent_span_id for span in stages} == {root.span_id}
    edges = [began_ns, root.start_time_unix_nano]
    for span in stages:
        edges += [span.start_time_unix_nano, span.end_time_unix_nano]
        assert span.end_time_unix_nano - span.start_time_unix_nano >= STAGE_S * 1e9
    edges += [root.end_time_unix_nano, time.time_ns()]
    assert edges == sorted(edges)


def test_the_caller_s_trace_is_continued_or_left_alone() -> None:
    with traced() as (small, collector):
        for parent in (PARENT, PARENT[:-2] + "00", "nonsense"):
            headers = {"traceparent": parent, "tracestate": "vendor=one"}
            assert small.http.get("/livez", headers=headers).status_code == 200
        lines = [json.loads(line) for line in small.wait_for_lines(3)]
    sampled, own = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert sampled.trace_id.hex() == PARENT.split("-")[1] == lines[1]["trace_id"]
    assert sampled.parent_span_id.hex() == PARENT.split("-")[2]
    assert sampled.trace_state == "vendor=one"
    assert own.trace_id != sampled.trace_id
    assert not own.parent_span_id


def test_problems_are_told_by_code_and_paths_never() -> None:
    with traced() as (small, collector):
        for path in (f"/v1/chunks/{SECRET}", "/broken", f"/{SECRET}"):
            small.http.get(path)
        small.http.request("BREW", "/livez")
        small.wait_for_lines(4)
    assert not any(SECRET.encode() in body for body in collector.bodies)
    told = {
        span.name: (attributes(span).get("nextchunk.problem"), span.status.code)
        for span in collector.spans
    }
    unset = Status.STATUS_CODE_UNSET
    assert told == {
        "GET /v1/chunks/{chunk_id}": ("chunk_not_found", unset),
        "GET /broken": ("internal_error", Status.STATUS_CODE_ERROR),
        "GET": ("not_found", unset),
        "HTTP /livez": ("not_found", unset),
    }
    (broken,) = [span for span in collector.spans if span.name == "GET /broken"]
    assert attributes(broken)["error.type"] == "internal_error"


def test_a_collector_that_does_not_answer_delays_the_end_only_so_much() -> None:
    go_on = threading.Event()
    with collecting(go_on) as collector:
        tracer = _opened(f"{collector.url}/v1/traces")
        try:
            with serve_small(tracer=tracer) as small:
                assert small.http.get("/livez").status_code == 200
                small.wait_for_lines(1)
            started = time.monotonic()
            tracer.close(limit_s=0.3)
            assert 0.3 <= time.monotonic() - started < 3
        finally:
            go_on.set()
    assert len(collector.bodies) == 1


def _opened(endpoint: str) -> Tracer:
    tracer = open_tracer(endpoint)
    assert tracer is not None
    return tracer


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://collector", "http://", "http://x?a"]
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_tracer(endpoint)
    assert str(caught.value) == (
        "--otlp-endpoint (NEXTCHUNK_OTLP_ENDPOINT): "
        f"expected a URL such as http://127.0.0.1:4318, got {endpoint!r}"
    )


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from service.settings import SettingsError\n"
        "from service.tracing import open_tracer\n"
        "try:\n"
        "    open_tracer('http://127.0.0.1:4318')\n"
        "except SettingsError as error:\n"
        "    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == (
        "--otlp-endpoint (NEXTCHUNK_OTLP_ENDPOINT): traces need OpenTelemetry: "
        "pip install 'nextchunk[otel]'\n"
    )
