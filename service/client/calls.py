"""Every operation of the service, described once as a call that both clients can carry out."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from numpy.typing import ArrayLike

from service.client.bodies import (
    candidates_of,
    flag,
    given,
    listed,
    packed,
    segment,
    selection,
    visible_ascii,
    window,
    with_packed,
)
from service.client.types import (
    Alive,
    Answer,
    Candidate,
    Chunk,
    ChunkInput,
    Deleted,
    Document,
    Documents,
    Filter,
    Mode,
    ModelDetails,
    Models,
    Pair,
    Place,
    RankQuery,
    Ready,
    Reloaded,
    SequenceAnswer,
    Stats,
    Upserted,
    Vectors,
)
from service.client.wire import decode_vector

T_co = TypeVar("T_co", covariant=True)
Method = Literal["GET", "POST", "PUT", "DELETE"]


def _as_it_is(body: Any) -> Any:
    return body


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T_co]):
    """One request, and how its answer is read."""

    method: Method = "GET"
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    """Members of the body, vectors packed."""
    read: Callable[[Any], T_co] = _as_it_is
    timeout_s: float | None = None
    """Seconds that the service may take, if not what it is set to."""
    probe: bool = False
    """Whether the question is how the service fares, so that a refusal is an answer."""


def rank(
    context: Vectors | None = None,
    *,
    context_ids: Sequence[str] | None = None,
    context_texts: Sequence[str] | None = None,
    context_at: Place | None = None,
    candidates: Sequence[Candidate | Mapping[str, Any]] | None = None,
    document_ids: Sequence[str] | None = None,
    filter: Filter | None = None,
    exclude_ids: Sequence[str] = (),
    only_unseen: bool = False,
    max_per_document: int | None = None,
    top_k: int = 10,
    mode: Mode = "auto",
    rerank: bool = True,
    contents: bool = True,
    explain: bool = False,
    model: str | None = None,
    timeout_s: float | None = None,
) -> Call[Answer]:
    """Rank which chunks come next, best first.

    Args:
        context: Vectors (D,) of the chunks read last, oldest first; or
        context_ids: their ids, if they are indexed; or
        context_texts: their texts, if the service can embed; or
        context_at: the place of the last of them, if they are indexed.
        candidates: Rank these instead of the index.
        document_ids: Only chunks of these documents may be answered; short for a filter.
        filter: Only chunks that pass it may be answered.
        exclude_ids: Chunks that may not be answered.
        only_unseen: Leave out what stands before the last context chunk in its document.
        max_per_document: Most results of one document.
        top_k: Most results.
        mode: ``auto``, ``p8`` or ``retrieval``.
        rerank: Whether the checkpoint's re-ranker takes part, if it has one.
        contents: Whether results tell their text and metadata.
        explain: Whether to add what retrieval alone would have answered.
        model: Name of the loaded model that answers.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    asked = (mode, rerank, contents, model)
    body = window(context, context_ids, context_texts, context_at, *asked)
    body |= selection(document_ids, filter, exclude_ids, only_unseen, max_per_document)
    body |= given(candidates=candidates_of(candidates), top_k=top_k, explain=explain)
    return Call(method="POST", path="/v1/rank", body=body, timeout_s=timeout_s)


def rank_batch(
    queries: Iterable[RankQuery], *, timeout_s: float | None = None
) -> Call[list[Answer]]:
    """Answer several rank queries by one request, in their order.

    Args:
        queries: Each with the arguments of ``rank``.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    bodies = [rank(**query).body for query in queries]
    return Call(
        method="POST",
        path="/v1/rank",
        body={"queries": bodies},
        read=lambda body: list(body["answers"]),
        timeout_s=timeout_s,
    )


def score(
    candidates: Sequence[Candidate | Mapping[str, Any]],
    context: Vectors | None = None,
    *,
    context_ids: Sequence[str] | None = None,
    context_texts: Sequence[str] | None = None,
    context_at: Place | None = None,
    mode: Mode = "auto",
    rerank: bool = True,
    contents: bool = True,
    model: str | None = None,
    timeout_s: float | None = None,
) -> Call[Answer]:
    """Score candidates in the given order; the arguments are those of ``rank``."""
    asked = (mode, rerank, contents, model)
    body = window(context, context_ids, context_texts, context_at, *asked)
    body |= given(candidates=candidates_of(candidates))
    return Call(method="POST", path="/v1/score", body=body, timeout_s=timeout_s)


def order(
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    a_id: str | None = None,
    b_id: str | None = None,
    model: str | None = None,
    timeout_s: float | None = None,
) -> Call[float]:
    """Tell the probability that chunk b comes after chunk a, each by vector (D,) or by id."""
    body = with_packed(given(a=a, b=b, a_id=a_id, b_id=b_id, model=model), "a", "b")
    return Call(method="POST", path="/v1/order", body=body, read=_probability, timeout_s=timeout_s)


def orders(
    pairs: Iterable[Pair | Mapping[str, Any]],
    *,
    model: str | None = None,
    timeout_s: float | None = None,
) -> Call[list[float]]:
    """Tell for each pair, by one request, the probability that its b comes after its a.

    Args:
        pairs: Each with two chunks as ``order`` takes them.
        model: Name of the loaded model that answers, where a pair names none.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    bodies = [given(model=model) | with_packed(pair, "a", "b") for pair in pairs]
    return Call(
        method="POST",
        path="/v1/order",
        body={"pairs": bodies},
        read=lambda body: [_probability(answer) for answer in body["answers"]],
        timeout_s=timeout_s,
    )


def sequence(
    ids: Sequence[str] | None = None,
    *,
    chunks: Vectors | None = None,
    texts: Sequence[str] | None = None,
    document_id: str | None = None,
    model: str | None = None,
    timeout_s: float | None = None,
) -> Call[SequenceAnswer]:
    """Put a bag of chunks into reading order.

    Args:
        ids: Ids of the chunks, if they are indexed; or
        chunks: their vectors (D,); or
        texts: their texts, if the service can embed; or
        document_id: the indexed document whose chunks they are.
        model: Name of the loaded model that answers.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    body = given(
        ids=listed(ids),
        chunks=packed(chunks),
        texts=listed(texts),
        document_id=document_id,
        model=model,
    )
    return Call(method="POST", path="/v1/sequence", body=body, timeout_s=timeout_s)


def upsert(
    chunks: Iterable[ChunkInput | Mapping[str, Any]],
    *,
    wait: bool = True,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
) -> Call[Upserted]:
    """Write chunks, all or none; one whose id is there already is replaced.

    Args:
        chunks: What to write, in one request.
        wait: Whether to be answered only when they can be found, not already when they are stored.
        idempotency_key: Names this write, so that it is done once however often it is sent; by
            default a new one, which protects the attempts of this call.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    return _write(
        "PUT",
        "/v1/chunks",
        {"chunks": [with_packed(chunk, "vector") for chunk in chunks]},
        wait=wait,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
    )


def delete(
    ids: Sequence[str] | None = None,
    *,
    filter: Filter | None = None,
    wait: bool = True,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
) -> Call[Deleted]:
    """Delete chunks by ids, or all that pass a filter; none that match is no error.

    Args:
        ids: Ids of the chunks; or
        filter: what they have in common.
        wait: Whether to be answered only when they can no longer be found.
        idempotency_key: As for ``upsert``.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    return _write(
        "DELETE",
        "/v1/chunks",
        given(ids=listed(ids), filter=filter),
        wait=wait,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
    )


def delete_document(
    document_id: str,
    *,
    wait: bool = True,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
) -> Call[Deleted]:
    """Delete all chunks of one document; it is an error if there are none.

    Args:
        document_id: Which.
        wait: Whether to be answered only when they can no longer be found.
        idempotency_key: As for ``upsert``.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    return _write(
        "DELETE",
        f"/v1/documents/{segment(document_id)}",
        None,
        wait=wait,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
    )


def chunk(chunk_id: str, *, vector: bool = False) -> Call[Chunk]:
    """Look up one chunk, with its vector (D,) if wanted."""
    path = f"/v1/chunks/{segment(chunk_id)}"
    return Call(path=path, params={"vector": flag(vector)}, read=_chunk)


def documents(*, limit: int = 100, offset: int = 0) -> Call[Documents]:
    """List a page of the documents."""
    return Call(path="/v1/documents", params={"limit": str(limit), "offset": str(offset)})


def document(document_id: str, *, vectors: bool = False) -> Call[Document]:
    """Look up one document with its chunks in order, with their vectors (D,) if wanted."""
    path = f"/v1/documents/{segment(document_id)}"
    return Call(path=path, params={"vectors": flag(vectors)}, read=_document)


def stats() -> Call[Stats]:
    """Tell what the store and its indexes hold."""
    return Call(path="/v1/stats")


def model(name: str | None = None) -> Call[ModelDetails]:
    """Tell which model and index answer, in which mode, and why."""
    return Call(path="/v1/model", params={} if name is None else {"model": name})


def models() -> Call[Models]:
    """List the loaded models."""
    return Call(path="/v1/models")


def reload(
    model: str = "default", *, checkpoint: str | None = None, timeout_s: float | None = None
) -> Call[Reloaded]:
    """Load a model anew; one that cannot serve is refused, and the old one stays.

    Args:
        model: Name of the loaded model.
        checkpoint: Folder of the new one, if not the same.
        timeout_s: Seconds that the service may take, if not what it is set to.
    """
    body = given(model=model, checkpoint=checkpoint)
    return Call(method="POST", path="/v1/model/reload", body=body, timeout_s=timeout_s)


def ready() -> Call[Ready]:
    """Tell with what the service answers; while it cannot, that is ``NotReadyError`` at once."""
    return Call(path="/readyz", probe=True)


def live() -> Call[Alive]:
    """Tell whether the process runs."""
    return Call(path="/livez", probe=True)


def _write(
    method: Method,
    path: str,
    body: Mapping[str, Any] | None,
    *,
    wait: bool,
    idempotency_key: str | None,
    timeout_s: float | None,
) -> Call[Any]:
    key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
    return Call(
        method=method,
        path=path,
        params={"wait": flag(wait)},
        headers={"Idempotency-Key": visible_ascii("idempotency_key", key)},
        body=body,
        timeout_s=timeout_s,
    )


def _probability(body: Any) -> float:
    return float(body["p_b_after_a"])


def _chunk(body: Any) -> Chunk:
    if body.get("vector") is not None:
        body["vector"] = decode_vector(body["vector"])
    found: Chunk = body
    return found


def _document(body: Any) -> Document:
    for one in body["content"]:
        _chunk(one)
    found: Document = body
    return found
