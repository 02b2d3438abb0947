"""What goes into the clients and what comes out; ``docs/api.md`` explains every member."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, Required, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Vectors = Sequence[ArrayLike] | NDArray[Any]
"""Vectors (D,) one by one, or the rows of an array (N, D)."""

Mode = Literal["auto", "p8", "retrieval"]
Encoding = Literal["base64", "msgpack"]
WriteStatus = Literal["searchable", "stored"]


class Place(TypedDict):
    """Where in which document."""

    document_id: str
    position: int


class Filter(TypedDict, total=False):
    """Which chunks may be answered; all members must hold."""

    document_ids: Sequence[str]
    position: Mapping[str, int]
    """Bounds by ``gt``, ``gte``, ``lt`` and ``lte``."""
    metadata: Mapping[str, Any]
    """Per key, a value or a condition such as ``{"in": [...]}``; keys may be dotted."""


class Candidate(TypedDict, total=False):
    """A vector with an optional label of the caller's, or the id of an indexed chunk."""

    id: str
    vector: ArrayLike


class Pair(TypedDict, total=False):
    """Two chunks, each by vector or by id."""

    a: ArrayLike
    b: ArrayLike
    a_id: str
    b_id: str
    model: str


class ChunkInput(TypedDict, total=False):
    """A chunk to be written: with a vector, or with a text that the service embeds, or both."""

    id: Required[str]
    document_id: Required[str]
    position: Required[int]
    vector: ArrayLike
    text: str
    metadata: Mapping[str, Any]


class RankQuery(TypedDict, total=False):
    """One query of ``rank_batch``; the members are the arguments of ``rank``."""

    context: Vectors
    context_ids: Sequence[str]
    context_texts: Sequence[str]
    context_at: Place
    candidates: Sequence[Candidate]
    document_ids: Sequence[str]
    filter: Filter
    exclude_ids: Sequence[str]
    only_unseen: bool
    max_per_document: int
    top_k: int
    mode: Mode
    rerank: bool
    contents: bool
    explain: bool
    model: str


class Parts(TypedDict):
    """The parts that sum to a score."""

    mixture: float
    order: float
    rerank: float


class Result(TypedDict):
    """A ranked or scored chunk; what a bare candidate vector cannot have is None."""

    id: str | None
    document_id: str | None
    position: int | None
    score: float
    parts: Parts
    text: str | None
    metadata: dict[str, Any] | None
    candidate: NotRequired[int]
    """Place among the candidates of the request, where there were any."""


class AnsweringModel(TypedDict):
    """What scored an answer."""

    name: str
    version: str | None
    """Of the checkpoint, None where none took part."""
    method: str
    space: str
    gate: str | None
    embedding_model: str


class Neighbours(TypedDict):
    """What retrieval alone would have answered."""

    method: str
    results: list[Result]


class Answer(TypedDict):
    """An answer of ``rank`` or ``score``."""

    mode: str
    fallback_reason: str | None
    model: AnsweringModel
    index_version: int
    alpha: list[float]
    results: list[Result]
    timings_ms: dict[str, float]
    explain: NotRequired[Neighbours]


class SequencePlace(TypedDict):
    """One chunk of a bag that was put into order."""

    index: int
    """Its place in the request."""
    id: str | None
    confidence: float
    belongs: float


class SequenceAnswer(TypedDict):
    """A bag of chunks in reading order."""

    model: AnsweringModel
    confidence: float
    order: list[SequencePlace]
    outliers: list[int]
    duplicates: list[list[int]]


class Upserted(TypedDict):
    """An acknowledged write: it survives a crash of the service."""

    upserted: int
    version: int
    status: WriteStatus


class Deleted(TypedDict):
    """An acknowledged deletion."""

    deleted: int
    version: int
    status: WriteStatus


class Chunk(TypedDict):
    """An indexed chunk."""

    id: str
    document_id: str
    position: int
    text: str
    metadata: dict[str, Any]
    vector: NotRequired[Float32]
    """Of unit length (D,), where it was asked for."""


class DocumentSummary(TypedDict):
    """An indexed document."""

    id: str
    title: str | None
    chunks: int


class Documents(TypedDict):
    """A page of the documents."""

    total: int
    documents: list[DocumentSummary]


class Document(DocumentSummary):
    """An indexed document with its chunks, in order."""

    content: list[Chunk]


class Reloaded(TypedDict):
    """A model that was loaded anew."""

    model: str
    version: str | None
    previous: str | None
    status: str
    took_ms: float


class CheckpointStatus(TypedDict):
    """What became of a checkpoint: ``ok``, or why it is not used."""

    status: str
    reason: str | None
    version: str | None


class LoadedModel(CheckpointStatus):
    """A model that requests may name."""

    name: str
    gate: str | None


class Models(TypedDict):
    """All of them."""

    models: list[LoadedModel]


class StoreStatus(TypedDict):
    """What is stored."""

    name: str
    version: int
    chunks: int
    documents: int


class IndexStatus(TypedDict):
    """One index: how it is built, over how many vectors, and how many are newer."""

    kind: str | None
    recall_at_10: float | None
    memory_bytes: int
    size: int
    fresh: int


class ModelDetails(TypedDict):
    """A model in full, and what it answers from."""

    name: str
    mode: str
    method: str
    fallback_reason: str | None
    checkpoint: CheckpointStatus
    gate: dict[str, Any] | None
    gate_verdict: str | None
    metrics: dict[str, Any] | None
    window: int
    dimension: int | None
    space: str
    arch: str | None
    order_weight: float
    rerank: bool
    embedding_model: str
    store: StoreStatus
    indexes: dict[str, IndexStatus]


class StoreStats(StoreStatus):
    """The store in numbers."""

    id: str
    rows: int
    bytes: int
    dimension: int | None
    embedding_model: str


class IndexStats(TypedDict):
    """The indexes in numbers."""

    searchable: int
    dead: int
    raw: IndexStatus
    learned: dict[str, IndexStatus]
    version: int
    built_s_ago: float
    building: bool


class Stats(TypedDict):
    """What is stored, searched and indexed."""

    store: StoreStats
    index: IndexStats
    metadata_keys: int
    memory_bytes: dict[str, int]
    models: list[LoadedModel]


class Alive(TypedDict):
    """The process runs."""

    status: str


class ReadyIndex(TypedDict):
    """What is searched."""

    size: int
    dimension: int | None
    kinds: list[str]


class Ready(TypedDict):
    """The service can rank, and with what."""

    status: str
    mode: str
    checkpoint: CheckpointStatus
    store: StoreStatus
    index: ReadyIndex
