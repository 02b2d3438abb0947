"""Metrics, Server-Timing and log lines, of a real server and of the collectors alone."""

import json
import logging
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from service.errors import UnreachableError, error_classes
from service.logs import JsonFormatter
from service.metrics import STAGES, Gauges, Metrics, ModelGauge
from service.timing import INTERVALS_KEPT, Stages

from .small_app import SECRET, STAGE_S, serve_small

OPERATIONS_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
REASONS = ("no_checkpoint", "deadline")


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample, written as ``name{label=value,...}``."""
    found = {}
    for family in parse(metrics.render()[0].decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_can_be_known_is_there_before_the_first_request() -> None:
    found = values(Metrics(fallback_reasons=REASONS))
    expected = [
        *(f"nextchunk_stage_duration_seconds_count{{stage={stage}}}" for stage in STAGES),
        *(
            f"nextchunk_answers_total{{mode={mode},operation={operation}}}"
            for operation in ("rank", "score", "order", "sequence")
            for mode in ("p8", "retrieval")
        ),
        *(f"nextchunk_fallbacks_total{{reason={reason}}}" for reason in REASONS),
        *(
            f"nextchunk_problems_total{{code={kind.code}}}"
            for kind in error_classes()
            if kind is not UnreachableError
        ),
        *(
            f"nextchunk_rejected_total{{reason={reason}}}"
            for reason in ("queue_full", "rate_limited", "deadline", "cancelled")
        ),
        *(
            f"nextchunk_queue_{what}{{queue={queue}}}"
            for what in ("waiting", "limit")
            for queue in ("compute", "writes")
        ),
        *("nextchunk_batch_queries_count", "nextchunk_chunks_written_total"),
        "nextchunk_computed_queries_count",
        *("nextchunk_chunks_deleted_total", "nextchunk_chunks", "nextchunk_ready"),
    ]
    assert {name: found.get(name) for name in expected} == dict.fromkeys(expected, 0.0)
    assert found["nextchunk_model_info{gate=none,name=default,status=loading,version=none}"] == 1
    assert found["process_resident_memory_bytes"] > 0
    assert not [name for name in found if "_created" in name]


def test_requests_are_counted_by_template_and_problems_by_code() -> None:
    with serve_small() as small:
        assert small.http.post("/v1/rank", content=b"{}").status_code == 200
        for path in ("/v1/chunks/a/b", "/v1/chunks/c", "/nowhere", "/no/where", "/busy", "/broken"):
            assert small.http.get(path).status_code >= 400
        assert small.http.request("BREW", "/v1/rank").status_code == 404
        assert small.http.post("/v1/rank", content=b"x" * 5000).status_code == 413
        small.wait_for_lines(9)
        found = values(small.metrics)
        page = small.http.get("/metrics")
    prefix = "nextchunk_requests_total"
    requests = {name[len(prefix) :]: n for name, n in found.items() if name.startswith(prefix)}
    assert requests == {
        "{method=POST,route=/v1/rank,status=200}": 1,
        "{method=POST,route=/v1/rank,status=413}": 1,
        "{method=other,route=/v1/rank,status=404}": 1,
        "{method=GET,route=/v1/chunks/{chunk_id},status=404}": 2,
        "{method=GET,route=unmatched,status=404}": 2,
        "{method=GET,route=/busy,status=429}": 1,
        "{method=GET,route=/broken,status=500}": 1,
    }
    codes = {"chunk_not_found": 2, "not_found": 3, "queue_full": 1, "internal_error": 1}
    for code, count in {**codes, "body_too_large": 1}.items():
        assert found[f"nextchunk_problems_total{{code={code}}}"] == count
    assert found["nextchunk_rejected_total{reason=queue_full}"] == 1
    assert found["nextchunk_request_duration_seconds_count{route=/v1/rank}"] == 3
    assert found["nextchunk_request_duration_seconds_sum{route=/v1/rank}"] > 5 * STAGE_S
    # Once a request, however often the stage ran in it.
    assert found["nextchunk_stage_duration_seconds_count{stage=query}"] == 1
    assert found["nextchunk_stage_duration_seconds_sum{stage=query}"] > 2 * STAGE_S
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'nextchunk_requests_total{method="GET",route="/busy",status="429"} 1.0' in page.text
    assert SECRET not in page.text


def test_a_client_that_hangs_up_is_counted_as_cancelled() -> None:
    with serve_small() as small:
        with socket.create_connection(("127.0.0.1", small.port)) as connection:
            connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        line = json.loads(small.wait_for_lines(1)[0])
        found = values(small.metrics)
    assert (line["route"], line["status"]) == ("/v1/rank", 499)
    assert found["nextchunk_requests_total{method=POST,route=/v1/rank,status=499}"] == 1
    assert found["nextchunk_rejected_total{reason=cancelled}"] == 1


def test_what_the_end_cuts_off_is_told_so() -> None:
    with serve_small() as small:
        connection = socket.create_connection(("127.0.0.1", small.port))
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        # Answered after the other has been begun: both are taken by the same loop, in turn.
        assert small.http.get("/livez").status_code == 200
    with connection, connection.makefile("rb") as answer:
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in head + b"\r\n"
    assert (json.loads(body)["code"], json.loads(body)["reason"]) == ("unavailable", "stopping")
    line = json.loads(small.log.getvalue().splitlines()[-1])
    assert (line["route"], line["status"], line["problem"]) == ("/slow", 503, "unavailable")
    found = values(small.metrics)
    assert found["nextchunk_requests_total{method=GET,route=/slow,status=503}"] == 1
    assert found["nextchunk_problems_total{code=unavailable}"] == 1


def test_answers_batches_and_writes_are_counted() -> None:
    metrics, other = Metrics(fallback_reasons=REASONS), Metrics()
    metrics.batch(3)
    metrics.computed(5)
    for _ in range(2):
        metrics.answer("rank", "p8", None)
    metrics.answer("rank", "retrieval", "deadline")
    metrics.written(40)
    metrics.deleted(2)
    metrics.problem("deadline_exceeded")
    found = values(metrics)
    assert found["nextchunk_answers_total{mode=p8,operation=rank}"] == 2
    assert found["nextchunk_answers_total{mode=retrieval,operation=rank}"] == 1
    assert found["nextchunk_fallbacks_total{reason=deadline}"] == 1
    assert found["nextchunk_fallbacks_total{reason=no_checkpoint}"] == 0
    assert found["nextchunk_batch_queries_bucket{le=2.0}"] == 0
    assert found["nextchunk_batch_queries_bucket{le=4.0}"] == 1
    assert found["nextchunk_computed_queries_bucket{le=4.0}"] == 0
    assert found["nextchunk_computed_queries_bucket{le=6.0}"] == 1
    assert found["nextchunk_chunks_written_total"] == 40
    assert found["nextchunk_chunks_deleted_total"] == 2
    assert found["nextchunk_rejected_total{reason=deadline}"] == 1
    assert values(other)["nextchunk_chunks_written_total"] == 0


def test_gauges_are_read_at_each_scrape() -> None:
    states: list[Gauges | None] = [None]
    metrics = Metrics(lambda: states[-1])
    assert values(metrics)["nextchunk_ready"] == 0
    models = (ModelGauge("default", "ab12", "passed", "ok"), ModelGauge("b", "none", "none", "x"))
    states.append(
        Gauges(
            chunks=48,
            documents=4,
            dead_slots=3,
            fresh_slots=5,
            indexed_slots=46,
            store_version=9,
            indexed_version=7,
            seconds_since_build=2.5,
            building=True,
            store_bytes=2**40,
            queue_waiting=1,
            queue_limit=64,
            writes_waiting=2,
            writes_limit=32,
            ready=True,
            models=models,
        )
    )
    found = values(metrics)
    got = {
        name.removeprefix("nextchunk_"): value
        for name, value in found.items()
        if re.match(r"nextchunk_(?!build)[a-z_]+$", name)
    }
    expected = {"chunks": 48, "documents": 4, "dead_slots": 3, "fresh_slots": 5}
    expected |= {"indexed_slots": 46, "store_version": 9, "indexed_version": 7, "ready": 1}
    expected |= {"index_age_seconds": 2.5, "index_building": 1, "store_bytes": 2**40}
    assert expected.items() <= got.items()
    assert found["nextchunk_queue_waiting{queue=compute}"] == 1
    assert found["nextchunk_queue_waiting{queue=writes}"] == 2
    assert found["nextchunk_queue_limit{queue=compute}"] == 64
    assert found["nextchunk_queue_limit{queue=writes}"] == 32
    assert [name for name in found if "model_info" in name] == [
        "nextchunk_model_info{gate=passed,name=default,status=ok,version=ab12}",
        "nextchunk_model_info{gate=none,name=b,status=x,version=none}",
    ]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "application/openmetrics-text;version=one.0;q=0.8,text/plain;q=0.5",
    ],
)
def test_open_metrics_is_written_where_it_is_accepted(accept: str) -> None:
    body, content_type = Metrics().render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert "nextchunk_rejected" in {family.name for family in parse_open_metrics(body.decode())}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain; version=abc"])
def test_plain_text_is_written_otherwise(accept: str) -> None:
    assert Metrics().render(accept)[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_every_answer_tells_its_timing() -> None:
    with serve_small() as small:
        ranked = small.http.post("/v1/rank", content=b"{}").headers["Server-Timing"]
        others = [small.http.get(path) for path in ("/livez", "/busy", "/broken", "/nowhere")]
    stages = re.fullmatch(
        r"parse;dur=([\d.]+), query;dur=([\d.]+), search;dur=([\d.]+), total;dur=([\d.]+)", ranked
    )
    assert stages
    parse_ms, query_ms, search_ms, total_ms = map(float, stages.groups())
    assert query_ms >= 2000 * STAGE_S
    assert total_ms >= parse_ms + query_ms + search_ms
    assert [response.status_code for response in others] == [200, 429, 500, 404]
    for response in others:
        assert re.fullmatch(r"total;dur=\d+\.\d{3}", response.headers["Server-Timing"])


def test_log_lines_say_what_happened_and_nothing_of_the_request_s_content() -> None:
    with serve_small() as small:
        body = json.dumps({"text": SECRET, "context": [[0.25, 0.5]]})
        headers = {"Authorization": f"Bearer {SECRET}", "X-Request-ID": "one"}
        small.http.post(f"/v1/rank?model={SECRET}", content=body, headers=headers)
        small.http.get(f"/v1/chunks/{SECRET}")
        small.http.get("/broken")
        lines = small.wait_for_lines(3)
    assert SECRET not in "".join(lines)
    assert "0.25" not in "".join(lines)
    ranked, missing, broken = (json.loads(line) for line in lines)
    assert ranked["stages_ms"].keys() == {"parse", "query", "search"}
    assert ranked["total_ms"] > sum(ranked["stages_ms"].values())
    shown = ("level", "request_id", "method", "route", "status", "key")
    assert [ranked[name] for name in shown] == ["info", "one", "POST", "/v1/rank", 200, "reader"]
    assert "problem" not in ranked
    assert [missing[name] for name in ("route", "problem", "key")] == [
        *("/v1/chunks/{chunk_id}", "chunk_not_found", None)
    ]
    assert (broken["level"], broken["problem"]) == ("error", "internal_error")
    assert broken["error"]["type"] == "RuntimeError"


@pytest.mark.parametrize("odd", ["größer", "\ud800", 2**70, float("nan"), Path("x"), [{1: 2}]])
def test_a_log_line_is_json_whatever_it_holds(odd: object) -> None:
    record = logging.LogRecord("service", logging.INFO, "file", 1, "what %s", ("now",), None)
    record.fields = {"odd": odd}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    line.encode()
    told = json.loads(line)
    assert (told["level"], told["message"]) == ("info", "what now")
    assert "odd" in told


def test_stages_add_up_from_several_threads() -> None:
    stages, stop = Stages(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert all(ms > 0 for ms in stages.elapsed_ms.values())

    def add(place: int) -> None:
        for turn in range(1000):
            stages.add(f"own-{place}-{turn % 50}", 1.0)
            stages.add("shared", 1.0)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=add, args=(place,)) for place in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert stages.elapsed_ms["shared"] == 4000
    assert sum(stages.elapsed_ms.values()) == 8000
    whole = Stages()
    whole.add("shared", 1.0)
    whole.absorb(stages)
    assert whole.elapsed_ms["shared"] == 4001
    assert len(whole.intervals) == len(stages.intervals) == INTERVALS_KEPT


def test_intervals_tell_when_a_stage_ran() -> None:
    now = iter([1.0, 2.0, 5.0])
    stages = Stages(lambda: next(now))
    with stages.stage("query"):
        pass
    stages.add("wait", 500.0)
    assert stages.intervals == [("query", 1.0, 2.0), ("wait", 4.5, 5.0)]


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, service.metrics, service.middleware, service.tracing\n"
        "assert service.tracing.open_tracer('') is None\n"
        "print([m for m in ('torch', 'faiss', 'opentelemetry') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def _documented() -> list[tuple[str, str, list[str], str]]:
    section = OPERATIONS_PAGE.read_text().split("## Metrics\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(nextchunk_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", section, re.MULTILINE)
    return [
        (name, kind, sorted(re.findall(r"\w+", labels)), text) for name, kind, labels, text in rows
    ]


def test_the_page_lists_every_metric() -> None:
    metrics = Metrics(fallback_reasons=REASONS)
    metrics.request("GET", "/livez", 200, 0.1)
    expected = []
    for family in parse(metrics.render()[0].decode()):
        if family.name.startswith("nextchunk_"):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            name = family.name + "_total" * (family.type == "counter")
            expected.append((name, family.type, sorted(labels), family.documentation))
    assert _documented() == expected


def test_the_page_asks_for_nothing_that_is_not_there() -> None:
    metrics = Metrics(fallback_reasons=REASONS)
    metrics.request("GET", "/livez", 200, 0.1)
    known = {name.partition("{")[0] for name in values(metrics)}
    known |= {name.removesuffix("_bucket") for name in known}
    asked = set(re.findall(r"(?:nextchunk|process)_[a-z_]+", OPERATIONS_PAGE.read_text()))
    assert asked <= known, asked - known
    section = OPERATIONS_PAGE.read_text().split("### Stages\n", 1)[1].split("\n### ", 1)[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == STAGES
