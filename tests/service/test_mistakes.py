"""What a caller may get wrong, each over a real socket: the error names the member at fault."""

import numpy as np
import pytest

from service import errors
from service.client import encode_vector
from service.errors import ServiceError

from .conftest import DIMENSION, Live
from .test_error_shapes import check_problem

GOOD = [0.5] * DIMENSION


def _ids(*names: str, **more: object) -> dict[str, object]:
    return {"context_ids": list(names), **more}


def _at(document_id: str, position: int) -> dict[str, object]:
    return {"context_at": {"document_id": document_id, "position": position}}


def _new(**more: object) -> dict[str, object]:
    return {"id": "new", "document_id": "d", "position": 0, "vector": GOOD, **more}


def _nan() -> str:
    return encode_vector(np.full(DIMENSION, np.nan))


MISTAKES: list[tuple[str, object, type[ServiceError], str]] = [
    ("rank", {}, errors.InvalidRequestError, "body"),
    ("rank", [], errors.InvalidRequestError, "body"),
    ("rank", _ids("alpha:0", context=[GOOD]), errors.InvalidRequestError, "body"),
    ("rank", _ids("alpha:0", top_k=0), errors.InvalidRequestError, "top_k"),
    ("rank", _ids("alpha:0", top_k=1001), errors.TopKTooLargeError, "top_k"),
    (
        "rank",
        {"queries": [_ids("alpha:0", top_k=1001)]},
        errors.TopKTooLargeError,
        "queries.0.top_k",
    ),
    ("rank", _ids("alpha:0", model="m"), errors.UnknownModelError, "model"),
    (
        "rank",
        {"queries": [_ids("alpha:0", model="m")]},
        errors.UnknownModelError,
        "queries.0.model",
    ),
    ("rank", _ids("alpha:0", max_per_document=0), errors.InvalidRequestError, "max_per_document"),
    ("rank", {"context": [GOOD], "only_unseen": True}, errors.InvalidRequestError, "body"),
    ("rank", _at("alpha", 99), errors.UnknownIdError, "context_at.position"),
    ("rank", _at("none", 0), errors.UnknownIdError, "context_at.document_id"),
    (
        "rank",
        {"context_at": {"document_id": "alpha"}},
        errors.InvalidRequestError,
        "context_at.position",
    ),
    (
        "rank",
        _ids("alpha:0", filter={"metadata": {"a": {"gt": None}}}),
        errors.InvalidRequestError,
        "filter.metadata.a.gt",
    ),
    (
        "rank",
        _ids("alpha:0", max_per_document=1, candidates=[{"id": "alpha:1"}]),
        errors.InvalidRequestError,
        "body",
    ),
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
    ("sequence", {}, errors.InvalidRequestError, "body"),
    ("sequence", {"ids": ["alpha:0"]}, errors.SequenceTooLongError, "ids"),
    ("sequence", {"chunks": [GOOD] * 257}, errors.SequenceTooLongError, "chunks"),
    ("sequence", {"ids": ["alpha:0", "alpha:0"]}, errors.DuplicateIdError, "ids"),
    ("sequence", {"ids": ["alpha:0", "none"]}, errors.UnknownIdError, "ids.1"),
    ("sequence", {"chunks": [GOOD, GOOD[1:]]}, errors.WrongDimensionError, "chunks.1"),
    ("chunks", {"chunks": []}, errors.InvalidRequestError, "chunks"),
    ("chunks", {"chunks": [_new(id="")]}, errors.InvalidRequestError, "chunks.0.id"),
    ("chunks", {"chunks": [_new(position=1.5)]}, errors.InvalidRequestError, "chunks.0.position"),
    ("chunks", {"chunks": [_new(position=2**63)]}, errors.InvalidRequestError, "chunks.0.position"),
    ("chunks", {"chunks": [_new(vector=None)]}, errors.InvalidRequestError, "chunks.0"),
    ("chunks", {"chunks": [_new(metadata=[1])]}, errors.InvalidRequestError, "chunks.0.metadata"),
    ("chunks", {"chunks": [_new(), _new()]}, errors.DuplicateIdError, "chunks"),
    (
        "chunks",
        {"chunks": [_new(), _new(id="m", vector=[1])]},
        errors.WrongDimensionError,
        "chunks.1.vector",
    ),
    (
        "chunks",
        {"chunks": [_new(vector=[0.0] * DIMENSION)]},
        errors.InvalidVectorError,
        "chunks.0.vector",
    ),
    ("chunks", {"chunks": [_new()] * 1001}, errors.BatchTooLargeError, "chunks"),
    ("chunks", {"chunks": [_new(text="x" * 100_001)]}, errors.TextTooLongError, "chunks.0.text"),
    (
        "chunks",
        {"chunks": [_new(metadata={"a": "x" * 65_536})]},
        errors.MetadataTooLargeError,
        "chunks.0.metadata",
    ),
    ("model/reload", {"checkpoint": "../elsewhere"}, errors.InvalidRequestError, "checkpoint"),
    ("model/reload", {"model": "m"}, errors.UnknownModelError, "model"),
]


@pytest.mark.parametrize(("path", "body", "kind", "field"), MISTAKES)
def test_a_mistake_is_located(
    service: Live, path: str, body: object, kind: type[ServiceError], field: str
) -> None:
    method = "PUT" if path == "chunks" else "POST"
    problem = check_problem(service.http.request(method, f"/v1/{path}", json=body), kind)
    assert problem["field"] == field
    assert problem["detail"] == f"{field}: expected {problem['expected']}, got {problem['actual']}"
    assert len(problem["detail"]) < 250


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"context": [[NaN]]}', b"[" * 5000])
def test_what_is_not_json_is_refused(service: Live, content: bytes) -> None:
    check_problem(service.http.post("/v1/rank", content=content), errors.MalformedBodyError)


def test_nothing_of_all_that_was_written(service: Live) -> None:
    stats = service.http.get("/v1/stats").json()
    assert (stats["store"]["version"], stats["store"]["rows"]) == (1, 48)
