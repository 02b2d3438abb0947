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
from service.client import Client, encode_vector
from service.embedding import Embedder
from service.errors import FieldError, ServiceError, error_classes

from .conftest import DIMENSION, Live, index, live, unit_rows, write_checkpoint, write_prepared

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

    with live(data, prepare=add_routes) as running, Client(running.url) as client:
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


def _nan() -> str:
    return encode_vector(np.full(DIMENSION, np.nan))


MISTAKES: list[tuple[str, object, type[ServiceError], str]] = [
    ("rank", {}, errors.InvalidRequestError, "body"),
    ("rank", [], errors.InvalidRequestError, "body"),
    ("rank", _ids("alpha:0", context=[GOOD]), errors.InvalidRequestError, "body"),
    ("rank", _ids("alpha:0", top_k=0), errors.InvalidRequestError, "top_k"),
    ("rank", _ids("alpha:0", top_k=1001), errors.InvalidRequestError, "top_k"),
    ("rank", _ids("alpha:0", top_k="5"), errors.InvalidRequestError, "top_k"),
    ("rank", _ids("alpha:0", top_k=True), errors.InvalidRequestError, "top_k"),
    ("rank", _ids("alpha:0", mode="best"), errors.InvalidRequestError, "mode"),
    ("rank", _ids("alpha:0", tok_k=3), errors.InvalidRequestError, "tok_k"),
    ("rank", _ids("alpha:0", candidates=[]), errors.InvalidRequestError, "candidates"),
    ("rank", _ids("alpha:0", candidates=[{}]), errors.InvalidRequestError, "candidates.0"),
    (
        "rank",
        _ids("alpha:0", filter={"document_ids": []}),
        errors.InvalidRequestError,
        "filter.document_ids",
    ),
    (
        "rank",
        _ids("alpha:0", filter={"document_ids": ["a"]}, candidates=[{"id": "alpha:1"}]),
        errors.InvalidRequestError,
        "body",
    ),
    ("rank", {"queries": []}, errors.InvalidRequestError, "queries"),
    ("rank", {"queries": [_ids("alpha:0")] * 65}, errors.BatchTooLargeError, "queries"),
    ("rank", _ids(), errors.ContextLengthError, "context_ids"),
    ("rank", {"context": []}, errors.ContextLengthError, "context"),
    ("rank", {"context": [GOOD] * 6}, errors.ContextLengthError, "context"),
    ("rank", {"context_texts": ["x"] * 6}, errors.ContextLengthError, "context_texts"),
    ("rank", _ids("alpha:0", "alpha:0"), errors.DuplicateIdError, "context_ids"),
    ("rank", _ids("alpha:0", "none"), errors.UnknownIdError, "context_ids.1"),
    ("rank", {"context": [GOOD, GOOD[1:]]}, errors.WrongDimensionError, "context.1"),
    ("rank", {"context": [encode_vector(GOOD[1:])]}, errors.WrongDimensionError, "context.0"),
    ("rank", {"context": GOOD}, errors.InvalidVectorError, "context.0"),
    ("rank", {"context": [[0.0] * DIMENSION]}, errors.InvalidVectorError, "context.0"),
    ("rank", {"context": [_nan()]}, errors.InvalidVectorError, "context.0"),
    ("rank", {"context": ["%%%"]}, errors.InvalidVectorError, "context.0"),
    (
        "rank",
        _ids("alpha:0", candidates=[{"vector": "AAAA"}]),
        errors.InvalidVectorError,
        "candidates.0.vector",
    ),
    ("score", _ids("alpha:0"), errors.InvalidRequestError, "candidates"),
    (
        "score",
        _ids("alpha:0", candidates=[{"id": "beta:0"}, {"id": "beta:0"}]),
        errors.DuplicateIdError,
        "candidates",
    ),
    (
        "score",
        _ids("alpha:0", candidates=[{"id": "none"}]),
        errors.UnknownIdError,
        "candidates.0.id",
    ),
    (
        "score",
        _ids("alpha:0", candidates=[{"vector": GOOD}] * 1001),
        errors.BatchTooLargeError,
        "candidates",
    ),
    ("order", {"a_id": "alpha:0"}, errors.InvalidRequestError, "body"),
    ("order", {"a_id": "alpha:0", "a": GOOD, "b": GOOD}, errors.InvalidRequestError, "body"),
    ("order", {"a_id": "alpha:0", "b_id": "none"}, errors.UnknownIdError, "b_id"),
    ("order", {"a": GOOD, "b": GOOD[2:]}, errors.WrongDimensionError, "b"),
    (
        "order",
        {"pairs": [{"a": GOOD, "b": GOOD}, {"a": GOOD, "b": 3}]},
        errors.InvalidVectorError,
        "pairs.1.b",
    ),
    ("order", {"pairs": [{"a": GOOD, "b": GOOD}] * 65}, errors.BatchTooLargeError, "pairs"),
]


@pytest.mark.parametrize(("path", "body", "kind", "field"), MISTAKES)
def test_a_mistake_is_located(
    service: Live, path: str, body: object, kind: type[ServiceError], field: str
) -> None:
    problem = check_problem(service.post(f"/v1/{path}", body), kind)
    assert problem["field"] == field
    assert problem["detail"] == f"{field}: expected {problem['expected']}, got {problem['actual']}"
    assert len(problem["detail"]) < 250


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"context": [[NaN]]}', b"[" * 5000])
def test_what_is_not_json_is_refused(service: Live, content: bytes) -> None:
    check_problem(service.http.post("/v1/rank", content=content), errors.MalformedJsonError)


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


def test_without_a_store_it_lives_but_is_not_ready(tmp_path: Path) -> None:
    with live(tmp_path / "nothing", ready=False) as running:
        assert running.http.get("/livez").status_code == 200
        problem = check_problem(running.http.get("/readyz"), errors.NotReadyError)
        assert "no such store" in problem["detail"]
        assert str(tmp_path) not in problem["detail"]
        check_problem(running.post("/v1/rank", _ids("alpha:0")), errors.NotReadyError)


def test_a_store_replaced_under_the_service_is_noticed(tmp_path: Path) -> None:
    folder = index(write_prepared(tmp_path / "one"), tmp_path / "data")
    with live(folder) as running:
        running.ok("/v1/rank", _ids("alpha:0"))
        index(write_prepared(tmp_path / "two", seed=2), folder)
        problem = running.post("/v1/rank", _ids("alpha:0"))
        check_problem(problem, errors.StoreChangedError)
        check_problem(running.http.get("/readyz"), errors.StoreChangedError)
        # What needs nothing from the store goes on.
        assert running.http.get("/v1/model").json()["store"]["version"] == 1


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
