"""A Milvus that is not there yet, is killed, hangs, and comes back: what a running service says."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import IndexUnavailableError, NotReadyError
from tests.service.conftest import DIMENSION, Live, live, unit_rows, write_checkpoint
from tests.service.contract import metrics
from tests.service.contract_data import chunk, eventually
from tests.service.contract_writes import acknowledged, delete, nearest, put, within
from tests.service.lite import LiteServer
from tests.service.test_error_shapes import check_problem

TIMEOUT_S = 3.0
SLACK_S = 1.0
AT_ONCE_S = 0.2
BACK_WITHIN_S = 10.0
ROWS_ND = unit_rows(12, 70)
LAST = {"context": [ROWS_ND[11].tolist()], "mode": "retrieval"}
ONE_MORE = {"chunks": [chunk("more", "more", 0, ROWS_ND[0])]}
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/rank", LAST),
    ("POST", "/v1/rank", {"context_ids": ["a:0", "a:1"]}),
    ("POST", "/v1/rank", {"queries": [LAST, {"context_at": {"document_id": "a", "position": 3}}]}),
    ("POST", "/v1/rank", {**LAST, "mode": "auto", "filter": {"metadata": {"even": True}}}),
    ("POST", "/v1/score", {**LAST, "candidates": [{"id": "a:0"}]}),
    ("POST", "/v1/order", {"a_id": "a:0", "b_id": "a:1"}),
    ("POST", "/v1/sequence", {"document_id": "a"}),
    ("GET", "/v1/chunks/a:0", None),
    ("GET", "/v1/documents", None),
    ("GET", "/v1/documents/a", None),
    ("PUT", "/v1/chunks", ONE_MORE),
    ("PUT", "/v1/chunks?wait=false", ONE_MORE),
    ("DELETE", "/v1/chunks", {"ids": ["a:0"]}),
    ("DELETE", "/v1/chunks", {"filter": {"metadata": {"even": True}}}),
    ("DELETE", "/v1/chunks/a:0", None),
    ("DELETE", "/v1/documents/a", None),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    server = LiteServer(tmp_path_factory.mktemp("away") / "lite")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small")


@pytest.fixture(scope="module")
def running(
    server: LiteServer, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A service that outlives everything that happens to its Milvus."""
    server.start()
    folder = tmp_path_factory.mktemp("away") / "data"
    options: dict[str, Any] = {"index_url": server.url, "index_timeout_s": TIMEOUT_S}
    # Those that wait for a thread are not to be late before they are told.
    with live(folder, small, deadline_ms=20_000, **options) as service:
        chunks = [
            chunk(f"a:{row}", "a", row, row_D, metadata={"even": row % 2 == 0})
            for row, row_D in enumerate(ROWS_ND)
        ]
        acknowledged(service, *chunks)
        eventually(lambda: metrics(service.http)["nextchunk_chunks"] == 12)
        yield service


def timed(running: Live, method: str, path: str, body: Any) -> tuple[httpx.Response, float]:
    began_s = time.monotonic()
    response = running.http.request(method, path, json=body)
    return response, time.monotonic() - began_s


def refused(response: httpx.Response) -> None:
    """Check that it says, as every problem does, that the index is away, and when to come back."""
    body = check_problem(response, IndexUnavailableError)
    assert int(response.headers["Retry-After"]) == body["retry_after_s"] >= 1


def ready(running: Live) -> bool:
    return running.http.get("/readyz").status_code == 200


def check_back(running: Live) -> None:
    """Check that it answers again, by itself, and holds what it held."""
    eventually(lambda: ready(running), BACK_WITHIN_S)
    assert nearest(running, ROWS_ND[11])[0] == "a:11"
    assert within(running, "a") == {f"a:{row}" for row in range(12)}
    assert metrics(running.http)["nextchunk_index_available"] == 1
    acknowledged(running, chunk("back", "back", 0, ROWS_ND[3]))
    assert delete(running, ids=["back"]) == 1


def test_a_service_may_start_first(tmp_path: Path) -> None:
    server = LiteServer(tmp_path / "lite")
    options: dict[str, Any] = {"index_url": server.url, "index_timeout_s": TIMEOUT_S}
    try:
        with live(tmp_path / "data", ready=False, **options) as early:
            assert early.http.get("/livez").status_code == 200
            for method, path, body in [("GET", "/readyz", None), *REQUESTS[:1], *REQUESTS[-6:]]:
                response, took_s = timed(early, method, path, body)
                check_problem(response, NotReadyError)
                assert int(response.headers["Retry-After"]) >= 1
                assert took_s < AT_ONCE_S
            server.start()
            eventually(lambda: ready(early), BACK_WITHIN_S)
            acknowledged(early, chunk("first", "first", 0, ROWS_ND[0]))
            assert nearest(early, ROWS_ND[0]) == ["first"]
    finally:
        server.close()


def test_killed_while_it_serves(server: LiteServer, running: Live) -> None:
    before = running.ok("/v1/rank", LAST)["results"]
    server.kill()
    try:
        response, took_s = timed(running, "POST", "/v1/rank", LAST)
        refused(response)
        assert took_s < TIMEOUT_S + SLACK_S
        eventually(lambda: not ready(running))
        refused(running.http.get("/readyz"))
        assert running.http.get("/livez").status_code == 200
        gauges = metrics(running.http)
        assert gauges["nextchunk_index_available"] == gauges["nextchunk_ready"] == 0
        assert gauges["nextchunk_chunks"] == 12
        for method, path, body in REQUESTS:
            response, took_s = timed(running, method, path, body)
            refused(response)
            assert took_s < AT_ONCE_S, path
    finally:
        server.start()
    check_back(running)
    assert running.ok("/v1/rank", LAST)["results"] == before
    assert running.http.get("/v1/chunks/more").status_code == 404


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/chunks"])
def test_hanging_holds_nobody(server: LiteServer, running: Live, path: str) -> None:
    """A read or a write meets a Milvus that takes connections and answers nothing."""
    method, body = ("POST", LAST) if path == "/v1/rank" else ("PUT", ONE_MORE)
    server.pause()
    try:
        with ThreadPoolExecutor(8) as pool:
            asked = list(pool.map(lambda _: timed(running, method, path, body), range(8)))
        for response, _ in asked:
            refused(response)
        # More than are answered at once, and those that come later do not wait as long again.
        assert max(took_s for _, took_s in asked) < TIMEOUT_S + SLACK_S
        eventually(lambda: not ready(running))
        for method, path, body in REQUESTS[:12:3]:
            response, took_s = timed(running, method, path, body)
            refused(response)
            assert took_s < AT_ONCE_S
    finally:
        server.resume()
    check_back(running)
    delete(running, ids=["more"])


def test_what_is_acknowledged_is_there_and_the_rest_can_be_sent_again(
    server: LiteServer, running: Live
) -> None:
    stop = threading.Event()
    told: list[tuple[int, int]] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            row_D = unit_rows(1, 1000 + number)[0]
            response = put(running, chunk(f"w:{number}", "w", number, row_D))
            told.append((number, response.status_code))
            if response.status_code == 503:
                refused(response)
            number += 1
            time.sleep(0.1)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            eventually(lambda: len(told) > 5)
            server.kill()
            try:
                eventually(lambda: sum(status == 503 for _, status in told) > 3, BACK_WITHIN_S)
            finally:
                server.start()
            eventually(lambda: told[-1][1] == 200, BACK_WITHIN_S)
        finally:
            stop.set()
        writing.result()
    assert {status for _, status in told} == {200, 503}
    kept = {f"w:{number}" for number, status in told if status == 200}
    found = {one["id"] for one in running.http.get("/v1/documents/w").json()["content"]}
    assert kept <= found
    for number, _ in told:
        acknowledged(running, chunk(f"w:{number}", "w", number, unit_rows(1, 1000 + number)[0]))
    assert within(running, "w") == {f"w:{number}" for number, _ in told}
    assert running.http.delete("/v1/documents/w").json()["deleted"] == len(told)


def test_a_filled_store_needs_nothing_but_to_be_found(
    server: LiteServer, running: Live, small: Path, tmp_path: Path
) -> None:
    """A second service, started while Milvus hangs, comes up by itself with what is there."""
    assert ready(running)
    options: dict[str, Any] = {"index_url": server.url, "index_timeout_s": TIMEOUT_S}
    server.pause()
    try:
        with live(tmp_path / "data", small, ready=False, **options) as second:
            check_problem(second.http.get("/readyz"), NotReadyError)
            server.resume()
            eventually(lambda: ready(second), BACK_WITHIN_S)
            body = {"context_ids": ["a:0"], "mode": "p8"}
            assert len(second.ok("/v1/rank", body)["results"]) == 10
            assert second.http.get("/v1/model").json()["dimension"] == DIMENSION
    finally:
        server.resume()
    eventually(lambda: ready(running), BACK_WITHIN_S)
