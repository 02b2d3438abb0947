"""A small synchronous client, which raises the service's own errors.

It needs httpx and numpy alone: neither torch nor faiss is imported.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.rank(context_ids=["a:0", "a:1"], top_k=3)
        client.order(a_id="a:0", b_id="a:1")
"""

import base64
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypedDict, cast
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike

from service.errors import UnreachableError, from_problem

TIMEOUT_S = 30.0


class Parts(TypedDict):
    """The parts that sum to a score."""

    mixture: float
    order: float
    rerank: float


class Result(TypedDict):
    """A ranked or scored chunk."""

    id: str | None
    document_id: str | None
    position: int | None
    score: float
    parts: Parts
    text: str | None
    metadata: dict[str, Any] | None


class Answer(TypedDict):
    """An answer of ``rank`` or ``score``; ``docs/api.md`` describes every member."""

    mode: str
    fallback_reason: str | None
    model: dict[str, Any]
    index_version: int
    alpha: list[float]
    results: list[Result]
    timings_ms: dict[str, float]


class Client:
    """Talks to one running service.

    Args:
        url: Where it listens.
        timeout_s: Seconds before a call gives up.
        transport: How to get there, if not over the network.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s, transport=transport)
        self._url = url

    def __enter__(self) -> "Client":
        """Open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(
        self,
        context: Sequence[ArrayLike] | None = None,
        *,
        context_ids: Sequence[str] | None = None,
        context_texts: Sequence[str] | None = None,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        document_ids: Sequence[str] | None = None,
        exclude_ids: Sequence[str] = (),
        top_k: int = 10,
        mode: str = "auto",
        rerank: bool = True,
        explain: bool = False,
    ) -> Answer:
        """Rank which chunks come next, best first.

        Args:
            context: Vectors (D,) of the chunks read last, oldest first; or
            context_ids: their ids, if they are indexed; or
            context_texts: their texts, if the service can embed.
            candidates: ``{"id", "vector"}`` to rank instead of the index; ``{"id"}`` if indexed.
            document_ids: Only chunks of these documents may be answered.
            exclude_ids: Chunks that may not be.
            top_k: Most results wanted, 1 to 1000.
            mode: ``auto``, ``p8`` or ``retrieval``.
            rerank: Whether the checkpoint's re-ranker takes part, if it has one.
            explain: Whether to add what retrieval alone would have answered.

        Raises:
            ServiceError: Whatever the service answered instead, or ``UnreachableError``.
        """
        body = _context_body(context, context_ids, context_texts, mode, rerank)
        body |= {"top_k": top_k, "explain": explain, "exclude_ids": list(exclude_ids)}
        if candidates is not None:
            body["candidates"] = _candidates(candidates)
        if document_ids is not None:
            body["filter"] = {"document_ids": list(document_ids)}
        return cast(Answer, self._post("/v1/rank", body))

    def score(
        self,
        candidates: Sequence[Mapping[str, Any]],
        context: Sequence[ArrayLike] | None = None,
        *,
        context_ids: Sequence[str] | None = None,
        context_texts: Sequence[str] | None = None,
        mode: str = "auto",
        rerank: bool = True,
    ) -> Answer:
        """Score candidates in the given order; the arguments are those of ``rank``.

        Raises:
            ServiceError: Whatever the service answered instead, or ``UnreachableError``.
        """
        body = _context_body(context, context_ids, context_texts, mode, rerank)
        body["candidates"] = _candidates(candidates)
        return cast(Answer, self._post("/v1/score", body))

    def order(
        self,
        a: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        a_id: str | None = None,
        b_id: str | None = None,
    ) -> float:
        """Tell the probability that chunk b comes after chunk a, each by vector or by id.

        Raises:
            ServiceError: Whatever the service answered instead, or ``UnreachableError``.
        """
        sides = {
            "a": None if a is None else encode_vector(a),
            "b": None if b is None else encode_vector(b),
            "a_id": a_id,
            "b_id": b_id,
        }
        body = {name: value for name, value in sides.items() if value is not None}
        return float(self._post("/v1/order", body)["p_b_after_a"])

    def model(self) -> dict[str, Any]:
        """Tell which model and index answer, in which mode, and why."""
        return self._get("/v1/model")

    def chunk(self, chunk_id: str) -> dict[str, Any]:
        """Look up one indexed chunk."""
        return self._get(f"/v1/chunks/{quote(chunk_id, safe='')}")

    def documents(self, *, limit: int = 100, offset: int = 0) -> dict[str, Any]:
        """List a page of the indexed documents."""
        return self._get(f"/v1/documents?limit={limit}&offset={offset}")

    def document(self, document_id: str) -> dict[str, Any]:
        """Look up one document with its chunks, in order."""
        return self._get(f"/v1/documents/{quote(document_id, safe='')}")

    def ready(self) -> dict[str, Any]:
        """Tell with what the service answers; raises ``NotReadyError`` while it cannot."""
        return self._get("/readyz")

    def _get(self, path: str) -> dict[str, Any]:
        return self._send(self._http.build_request("GET", path))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._send(self._http.build_request("POST", path, json=body))

    def _send(self, request: httpx.Request) -> dict[str, Any]:
        try:
            response = self._http.send(request)
        except httpx.TransportError as error:
            kind = type(error).__name__
            raise UnreachableError(f"no service answers at {self._url} ({kind})") from error
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.is_success and isinstance(body, dict):
            return body
        raise from_problem(response.status_code, body)


def encode_vector(vector_D: ArrayLike) -> str:
    """Write a vector (D,) as base64 of little-endian float32, the shortest form on the wire."""
    return base64.b64encode(np.asarray(vector_D, "<f4").tobytes()).decode()


def _context_body(
    context: Sequence[ArrayLike] | None,
    context_ids: Sequence[str] | None,
    context_texts: Sequence[str] | None,
    mode: str,
    rerank: bool,
) -> dict[str, Any]:
    body: dict[str, Any] = {"mode": mode, "rerank": rerank}
    if context is not None:
        body["context"] = [encode_vector(vector_D) for vector_D in context]
    if context_ids is not None:
        body["context_ids"] = list(context_ids)
    if context_texts is not None:
        body["context_texts"] = list(context_texts)
    return body


def _candidates(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    bodies = []
    for candidate in given:
        body = dict(candidate)
        if body.get("vector") is not None:
            body["vector"] = encode_vector(body["vector"])
        bodies.append(body)
    return bodies
