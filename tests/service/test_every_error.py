"""Each error of the tree as it really happens, over a real socket: one scenario a class."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from service import errors
from service.client import Client
from service.errors import ServiceError, error_classes
from service.keys import create_key

from .conftest import DIMENSION, Live, live, no_embedder, unit_rows, write_checkpoint
from .lite import LiteServer
from .test_error_shapes import check_problem

GOOD = [0.5] * DIMENSION


class Embedder:
    """Fails at one word, and waits at another."""

    dimension = DIMENSION

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def encode(self, texts: list[str]) -> np.ndarray:
        if "fail" in texts:
            raise RuntimeError("no reason at all")
        if "wait" in texts:
            self.entered.set()
            assert self.go_on.wait(20)
        return unit_rows(len(texts), 1)


def _fail() -> None:
    raise HTTPException(400)


@pytest.fixture(scope="module")
def all_may(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with small limits, whose embedder can fail, and a store that can be filled up."""
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "one")

    def add_route(app: FastAPI) -> None:
        app.add_api_route("/v1/models/four-hundred", _fail)

    options: dict[str, Any] = {"text_limit": 10, "metadata_limit_bytes": 50, "top_k_limit": 10}
    limits = {"body_limit_bytes": 200_000, "batch_limit": 2, "sequence_limit": 3}
    with live(
        data,
        folder,
        load_embedder=lambda _: Embedder(),
        prepare=add_route,
        **options,
        **limits,
    ) as running:
        yield running


def _ids(*names: str, **more: object) -> dict[str, object]:
    return {"context_ids": list(names or ["alpha:0"]), **more}


def _new(**more: object) -> dict[str, object]:
    return {"chunks": [{"id": "n", "document_id": "d", "position": 0, "vector": GOOD, **more}]}


def _reused(running: Live) -> httpx.Response:
    headers = {"Idempotency-Key": "k"}
    first = running.http.put("/v1/chunks", json=_new(), headers=headers)
    assert first.status_code == 200
    again = running.http.put("/v1/chunks", json=_new(), headers=headers)
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    return running.http.put("/v1/chunks", json=_new(position=1), headers=headers)


def _rank(**body: object) -> Callable[[Live], httpx.Response]:
    return lambda running: running.post("/v1/rank", body)


def _put(**more: object) -> Callable[[Live], httpx.Response]:
    return lambda running: running.http.put("/v1/chunks", json=_new(**more))


def _get(path: str, **headers: str) -> Callable[[Live], httpx.Response]:
    return lambda running: running.http.get(path, headers=headers)


def _content(content: bytes, **headers: str) -> Callable[[Live], httpx.Response]:
    return lambda running: running.http.post("/v1/rank", content=content, headers=headers)


SCENARIOS: dict[type[ServiceError], Callable[[Live], httpx.Response]] = {
    errors.ServiceError: _rank(context_texts=["fail"]),
    errors.RequestError: _get("/v1/models/four-hundred"),
    errors.MalformedBodyError: _content(b"{"),
    errors.InvalidRequestError: _rank(),
    errors.ContextLengthError: _rank(context=[]),
    errors.InvalidVectorError: _rank(context=["%"]),
    errors.WrongDimensionError: _rank(context=[[1.0]]),
    errors.DuplicateIdError: _rank(context_ids=["alpha:0", "alpha:0"]),
    errors.UnknownIdError: _rank(context_ids=["none"]),
    errors.UnknownModelError: _rank(context_ids=["alpha:0"], model="none"),
    errors.BatchTooLargeError: _rank(queries=[_ids()] * 3),
    errors.TopKTooLargeError: _rank(context_ids=["alpha:0"], top_k=11),
    errors.SequenceTooLongError: lambda running: running.post(
        "/v1/sequence", {"document_id": "alpha"}
    ),
    errors.TextTooLongError: _put(text="x" * 11),
    errors.MetadataTooLargeError: _put(metadata={"a": "x" * 50}),
    errors.IdempotencyKeyReusedError: _reused,
    errors.NotFoundError: _get("/nowhere"),
    errors.ChunkNotFoundError: lambda running: running.http.delete("/v1/chunks/none"),
    errors.DocumentNotFoundError: lambda running: running.http.delete("/v1/documents/none"),
    errors.MethodNotAllowedError: _get("/v1/rank"),
    errors.NotAcceptableError: _get("/v1/stats", accept="text/html"),
    errors.CheckpointRejectedError: lambda running: running.post(
        "/v1/model/reload", {"checkpoint": "none"}
    ),
    errors.BodyTooLargeError: _content(b"x" * 200_001),
    errors.UnsupportedMediaTypeError: _content(b"<a/>", **{"content-type": "text/xml"}),
}


@pytest.mark.parametrize("kind", SCENARIOS)
def test_it_happens(all_may: Live, kind: type[ServiceError]) -> None:
    check_problem(SCENARIOS[kind](all_may), kind)


def test_keys(data: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = create_key(keys, "reader", ("read",))
    with live(data, api_keys=keys) as running:
        response = running.post("/v1/rank", _ids())
        check_problem(response, errors.UnauthenticatedError)
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        headers = {"Authorization": f"Bearer {key}"}
        assert running.http.post("/v1/rank", json=_ids(), headers=headers).status_code == 200
        response = running.http.put("/v1/chunks", json=_new(), headers=headers)
        check_problem(response, errors.ForbiddenError)


def test_rates(data: Path) -> None:
    with live(data, rate_limit=0.01, rate_burst=1) as running:
        assert running.post("/v1/rank", _ids()).status_code == 200
        response = running.post("/v1/rank", _ids())
        check_problem(response, errors.RateLimitedError)
        assert 90 <= int(response.headers["Retry-After"]) <= 100


def test_queues_and_a_service_that_stops(data: Path) -> None:
    embedder = Embedder()
    limits: dict[str, Any] = {"workers": 1, "queue_limit": 0, "write_queue_limit": 0}
    apps: list[Any] = []
    with live(data, load_embedder=lambda _: embedder, prepare=apps.append, **limits) as running:
        first = threading.Thread(
            target=running.post, args=("/v1/rank", {"context_texts": ["wait"]})
        )
        first.start()
        assert embedder.entered.wait(20)
        response = running.post("/v1/rank", _ids())
        check_problem(response, errors.QueueFullError)
        assert response.headers["Retry-After"] == "1"
        embedder.go_on.set()
        first.join()
        # What the server does at its end, while a connection is still open.
        apps[0].state.service.workers.close()
        response = running.post("/v1/rank", _ids())
        check_problem(response, errors.UnavailableError)
        assert response.headers["Retry-After"] == "1"


def test_a_full_write_queue(data: Path) -> None:
    embedder = Embedder()
    limits: dict[str, Any] = {"write_queue_limit": 0}
    with live(data, load_embedder=lambda _: embedder, **limits) as running:
        body = _new(vector=None, text="wait")
        first = threading.Thread(
            target=running.http.put, args=("/v1/chunks",), kwargs={"json": body}
        )
        first.start()
        assert embedder.entered.wait(20)
        check_problem(running.http.put("/v1/chunks", json=_new(id="m")), errors.QueueFullError)
        assert running.post("/v1/rank", _ids()).status_code == 200  # which has its own
        embedder.go_on.set()
        first.join()
        assert running.http.get("/v1/chunks/n").json()["text"] == "wait"


def test_what_needs_more_than_there_is(data: Path, tmp_path: Path) -> None:
    with live(data, load_embedder=no_embedder) as running:
        check_problem(running.post("/v1/rank", _ids(mode="p8")), errors.ModelUnavailableError)
        order = {"a": GOOD, "b": GOOD}
        check_problem(running.post("/v1/order", order), errors.OrderUnavailableError)
        texts = {"context_texts": ["x"]}
        check_problem(running.post("/v1/rank", texts), errors.EmbedderUnavailableError)
        headers = {"X-Request-Timeout": "1e-9"}
        late = running.http.post("/v1/rank", json=_ids(mode="retrieval"), headers=headers)
        check_problem(late, errors.DeadlineError)


def test_a_full_disk(data: Path) -> None:
    apps: list[Any] = []
    with live(data, prepare=apps.append) as running:
        # SQLite itself refuses to grow beyond so many pages, with the error of a full disk.
        store = apps[0].state.service.engine.collection.store
        db: sqlite3.Connection = store._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages}")
        response = running.http.put("/v1/chunks", json=_new(text="x" * 99_999))
        check_problem(response, errors.StorageFullError)
        assert running.http.get("/v1/stats").json()["store"]["version"] == 1
        assert running.post("/v1/rank", _ids()).status_code == 200


def test_an_index_that_is_away(tmp_path: Path) -> None:
    server = LiteServer(tmp_path / "lite").start()
    url = server.url
    try:
        with live(tmp_path / "none", index_url=url, index_timeout_s=1.0) as running:
            assert running.http.put("/v1/chunks", json=_new()).status_code == 200
            server.kill()
            response = running.post("/v1/rank", _ids("n"))
            check_problem(response, errors.IndexUnavailableError)
            assert response.headers["Retry-After"] == "1"
    finally:
        server.close()


def test_not_ready_and_unreachable(tmp_path: Path) -> None:
    with live(tmp_path / "empty") as running:
        response = running.post("/v1/rank", {"context": [GOOD]})
        check_problem(response, errors.NotReadyError)
        assert response.json()["reason"] == "empty"
    with (
        Client(running.url, timeout_s=2, retry=None) as client,
        pytest.raises(errors.UnreachableError),
    ):
        client.ready()


def test_there_is_a_scenario_for_each() -> None:
    apart = {
        errors.UnauthenticatedError,
        errors.ForbiddenError,
        errors.UnavailableError,
        errors.NotReadyError,
        errors.IndexUnavailableError,
        errors.UnreachableError,
        errors.ModelUnavailableError,
        errors.OrderUnavailableError,
        errors.QueueFullError,
        errors.RateLimitedError,
        errors.EmbedderUnavailableError,
        errors.DeadlineError,
        errors.StorageFullError,
    }
    assert apart.isdisjoint(SCENARIOS)
    assert apart | SCENARIOS.keys() == set(error_classes())
