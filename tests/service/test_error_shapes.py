"""Every error over a real socket: the whole tree, and each leaf the way it really happens."""

import re
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service import errors
from service.client import Client
from service.embedding import Embedder
from service.errors import FieldError, ServiceError, error_classes

from .conftest import DIMENSION, Live, live, unit_rows, write_checkpoint

GOOD = [0.5] * DIMENSION
SECRET = "do not tell"


def check_problem(response: httpx.Response, kind: type[ServiceError]) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (kind.status, kind.code), body
    assert body["type"] == f"urn:nextchunk:problem:{kind.code}"
    assert (body["title"], body["status"]) == (kind.title, kind.status)
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["detail"]
    optional = {"field", "expected", "actual", "reason", "retry_after_s"}
    required = {"type", "title", "status", "detail", "code", "request_id"}
    assert required <= body.keys() <= required | optional
    if issubclass(kind, FieldError):
        assert {"field", "expected", "actual"} <= body.keys()
    return body


def _make(kind: type[ServiceError]) -> ServiceError:
    if issubclass(kind, FieldError):
        return kind("x", "this", "that")
    return kind("what happened", reason="why", retry_after_s=3)


KINDS = list(error_classes())


def test_the_whole_tree_has_one_shape_and_the_client_raises_it(data: Path) -> None:
    def add_routes(app: FastAPI) -> None:
        for kind in KINDS:

            async def fail(kind: type[ServiceError] = kind) -> None:
                raise _make(kind)

            app.add_api_route(f"/v1/documents/raise-{kind.code}", fail)
        app.router.routes.sort(key=lambda route: "raise-" not in getattr(route, "path", ""))

    with live(data, prepare=add_routes) as running, Client(running.url, retry=None) as client:
        for kind in KINDS:
            response = running.http.get(f"/v1/documents/raise-{kind.code}")
            body = check_problem(response, kind)
            if "retry_after_s" in body:
                assert response.headers["Retry-After"] == "3"
            with pytest.raises(ServiceError) as caught:
                client.document(f"raise-{kind.code}")
            assert type(caught.value) is kind
            assert caught.value.detail == body["detail"]
            assert caught.value.members == _make(kind).members
            assert caught.value.request_id
    assert len({kind.code for kind in KINDS}) == len(KINDS)


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"(\w+Error)\b.*?(\d{3}) (\w+)", errors.__doc__ or "")
    assert {(name, int(status), code) for name, status, code in drawn} == {
        (kind.__name__, kind.status, kind.code) for kind in KINDS
    }


def _ids(*names: str, **more: object) -> dict[str, object]:
    return {"context_ids": list(names), **more}


def test_the_framework_s_own_errors_have_the_shape(service: Live) -> None:
    get = service.http.get
    check_problem(get("/nowhere"), errors.NotFoundError)
    check_problem(get("/v1/chunks/none"), errors.ChunkNotFoundError)
    check_problem(get("/v1/documents/none"), errors.DocumentNotFoundError)
    response = get("/v1/rank")
    check_problem(response, errors.MethodNotAllowedError)
    assert response.headers["Allow"] == "POST"
    problem = check_problem(get("/v1/documents?limit=0"), errors.InvalidRequestError)
    assert problem["field"] == "query.limit"


def test_a_body_too_large_is_refused_by_length_and_by_count(data: Path) -> None:
    with live(data, body_limit_bytes=1024) as running:
        check_problem(
            running.http.post("/v1/rank", content=b"x" * 200_000), errors.BodyTooLargeError
        )
        chunks = (b"x" * 500 for _ in range(6))
        check_problem(running.http.post("/v1/rank", content=chunks), errors.BodyTooLargeError)
        running.ok("/v1/rank", _ids("alpha:0"))


def test_with_a_damaged_store_it_lives_but_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "store.sqlite").write_bytes(b"not a database" * 400)
    with live(tmp_path / "data", ready=False) as running:
        assert running.http.get("/livez").status_code == 200
        response = running.http.get("/readyz")
        problem = check_problem(response, errors.NotReadyError)
        assert "not a usable SQLite store" in problem["detail"]
        assert str(tmp_path) not in problem["detail"]
        assert response.headers["Retry-After"] == "1"
        for request in (
            running.post("/v1/rank", _ids("alpha:0")),
            running.http.put("/v1/chunks", json={"chunks": []}),
            running.http.get("/v1/stats"),
        ):
            check_problem(request, errors.NotReadyError)
        assert "nextchunk_ready 0.0" in running.http.get("/metrics").text


def test_past_the_deadline(tmp_path: Path, data: Path, checkpoint: Path) -> None:
    with live(data, checkpoint, deadline_ms=1e-6) as running:
        answer = running.ok("/v1/rank", _ids("alpha:0"))
        assert (answer["mode"], answer["fallback_reason"]) == ("retrieval", "deadline")
        assert answer["model"]["method"] == "direct"
        body = _ids("alpha:0", candidates=[{"id": "beta:0"}])
        assert running.ok("/v1/score", body)["fallback_reason"] == "deadline"
        for path in ("rank", "score"):
            response = running.post(f"/v1/{path}", {**body, "mode": "p8"})
            check_problem(response, errors.DeadlineError)


class FakeEmbedder:
    """Embeds by a table; can be told to wait."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def encode(self, texts: list[str]) -> np.ndarray:
        self.entered.set()
        assert self.go_on.wait(20)
        if SECRET in texts:
            raise RuntimeError(SECRET)
        return unit_rows(len(texts), len(texts[0]), self.dimension)


def test_texts_are_embedded_with_the_model_of_the_store(data: Path, checkpoint: Path) -> None:
    names: list[str] = []

    def load(name: str) -> Embedder:
        names.append(name)
        return FakeEmbedder()

    with live(data, checkpoint, load_embedder=load) as running:
        by_texts = running.ok("/v1/rank", {"context_texts": ["seventh", "another"]})
        running.ok("/v1/rank", {"context_texts": ["again"]})
        same = running.ok("/v1/rank", {"context": unit_rows(2, 7).tolist()})
    assert by_texts["results"] == same["results"]
    assert names == ["synthetic-16"]


def test_an_embedder_that_is_missing_or_does_not_fit(service: Live, data: Path) -> None:
    body = {"context_texts": ["hello"]}
    problem = check_problem(service.post("/v1/rank", body), errors.EmbedderUnavailableError)
    assert problem["reason"] == "synthetic-16 is not installed"
    with live(data, load_embedder=lambda _: FakeEmbedder(8)) as running:
        problem = check_problem(running.post("/v1/rank", body), errors.EmbedderUnavailableError)
        assert problem["reason"] == "dimension_mismatch"


def test_an_internal_error_reveals_nothing(
    data: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with live(data, load_embedder=lambda _: FakeEmbedder()) as running:
        response = running.post("/v1/rank", {"context_texts": [SECRET]})
        check_problem(response, errors.ServiceError)
        assert SECRET not in response.text
        assert "RuntimeError" not in response.text
        running.ok("/v1/rank", _ids("alpha:0"))
    failed = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(failed) == 1
    assert failed[0].fields["error"]["type"] == "RuntimeError"  # type: ignore[attr-defined]
    assert SECRET not in caplog.text + capsys.readouterr().err


def test_a_full_queue_says_when_to_come_back(data: Path) -> None:
    embedder = FakeEmbedder()
    embedder.go_on.clear()
    options: dict[str, Any] = {"workers": 1, "queue_limit": 0, "retry_after_s": 7}
    with live(data, load_embedder=lambda _: embedder, **options) as running:
        waiting = threading.Thread(target=running.ok, args=("/v1/rank", {"context_texts": ["x"]}))
        waiting.start()
        try:
            assert embedder.entered.wait(20)
            response = running.post("/v1/rank", _ids("alpha:0"))
            problem = check_problem(response, errors.QueueFullError)
            assert problem["retry_after_s"] == 7
            assert response.headers["Retry-After"] == "7"
            assert running.http.get("/livez").status_code == 200
            assert running.http.get("/readyz").status_code == 200
        finally:
            embedder.go_on.set()
            waiting.join()
        running.ok("/v1/rank", _ids("alpha:0"))


def test_no_model_for_what_needs_one(data: Path, tmp_path: Path) -> None:
    for folder, reason in (
        (None, "no_checkpoint"),
        (write_checkpoint(tmp_path / "c", dimension=8), "dimension_mismatch"),
        (write_checkpoint(tmp_path / "m", vectors_of="other-16"), "model_mismatch"),
    ):
        with live(data, folder) as running:
            body = _ids("alpha:0", mode="p8")
            problem = check_problem(running.post("/v1/rank", body), errors.ModelUnavailableError)
            assert problem["reason"] == reason
            body = {"a": GOOD, "b": GOOD}
            problem = check_problem(running.post("/v1/order", body), errors.OrderUnavailableError)
            assert problem["reason"] == reason


def test_an_unreachable_service_is_told_apart() -> None:
    with (
        Client("http://127.0.0.1:9", timeout_s=2) as client,
        pytest.raises(errors.UnreachableError, match=r"no service answers at http://127"),
    ):
        client.ready()
    foreign = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with (
        Client("http://other", transport=foreign) as client,
        pytest.raises(errors.UnreachableError, match="status 502"),
    ):
        client.ready()
