"""Answer bodies, as OpenAPI shows them; ``service.encode`` writes them, and these are never run."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ScoreParts(BaseModel):
    """The parts that sum to a score."""

    mixture: float = Field(description="Cosine of query and candidate, in the space of the answer.")
    order: float = Field(description="Weighted log-odds that the candidate follows the last chunk.")
    rerank: float = Field(
        description="What the re-ranker adds in the light of the whole set, or 0."
    )


class RankedChunk(BaseModel):
    """A result; members that a bare candidate vector cannot have are null."""

    id: str | None
    document_id: str | None
    position: int | None
    score: float
    parts: ScoreParts
    text: str | None
    metadata: dict[str, Any] | None
    candidate: int | None = Field(
        default=None, description="Place in the request's candidates, where there were any."
    )


class AnsweringModel(BaseModel):
    """What scored an answer."""

    name: str
    version: str | None = Field(description="Checkpoint version, null where none took part.")
    method: Literal["p8", "tower", "direct"]
    space: Literal["raw", "learned"]
    gate: Literal["passed", "failed"] | None
    embedding_model: str


class Neighbours(BaseModel):
    """What retrieval alone would have answered."""

    method: Literal["tower", "direct"]
    results: list[RankedChunk]


FallbackName = Literal[
    "no_checkpoint",
    "gate_failed",
    "checkpoint_invalid",
    "dimension_mismatch",
    "model_mismatch",
    "deadline",
]


class ScoreAnswer(BaseModel):
    """Candidates and their scores, in the given order."""

    mode: Literal["p8", "retrieval"]
    fallback_reason: FallbackName | None
    model: AnsweringModel
    index_version: int
    alpha: list[float] = Field(description="Weight of each context chunk; zeros for the tower.")
    results: list[RankedChunk]
    timings_ms: dict[str, float]


class RankAnswer(ScoreAnswer):
    """Ranked chunks, best first."""

    explain: Neighbours | None = None


class RankAnswers(BaseModel):
    """One answer a query."""

    answers: list[RankAnswer]


class OrderAnswer(BaseModel):
    """Probability that b comes after a; with a and b swapped it is exactly 1 minus that."""

    p_b_after_a: float


class OrderAnswers(BaseModel):
    """One answer a pair."""

    answers: list[OrderAnswer]


class SequenceChunk(BaseModel):
    """A chunk at its place in the reading order."""

    index: int = Field(description="Place in the request, or of a document by position.")
    id: str | None
    confidence: float = Field(
        description="Mean probability of the answered direction over its pairs."
    )
    belongs: float = Field(description="Probability that it is of the same document as the rest.")


class SequenceAnswer(BaseModel):
    """A bag in reading order."""

    model: AnsweringModel
    confidence: float = Field(
        description="Mean over all pairs of the probability of the answered direction."
    )
    order: list[SequenceChunk]
    outliers: list[int] = Field(description="Indexes of chunks that seem not to belong.")
    duplicates: list[tuple[int, int]] = Field(description="Indexes of chunks that are the same.")


class Acknowledgement(BaseModel):
    """A write that will not be lost."""

    upserted: int
    version: int = Field(description="Store version after the write.")
    status: Literal["searchable", "stored"]


class DeletionAcknowledgement(BaseModel):
    """A deletion that will not be lost."""

    deleted: int
    version: int = Field(description="Store version after the deletion.")
    status: Literal["searchable", "stored"]


class Chunk(BaseModel):
    """An indexed chunk."""

    id: str
    document_id: str
    position: int
    text: str
    metadata: dict[str, Any]
    vector: list[float] | None = Field(
        default=None, description="Raw unit vector, if asked for; in MessagePack bin of float32."
    )


class DocumentSummary(BaseModel):
    """An indexed document."""

    id: str
    title: str | None
    chunks: int


class Documents(BaseModel):
    """A page of the documents, in the order in which they came, or in Milvus of their ids."""

    total: int
    documents: list[DocumentSummary]


class Document(DocumentSummary):
    """An indexed document with its chunks, in order."""

    content: list[Chunk]


class CheckpointStatus(BaseModel):
    """What became of a checkpoint: ``ok``, or why ``auto`` does not use it."""

    status: str
    reason: str | None
    version: str | None


class StoreStatus(BaseModel):
    """What can be found."""

    name: str
    version: int
    chunks: int
    documents: int


class IndexStatus(BaseModel):
    """One built index."""

    kind: str | None = Field(description="Type of index; null before the first build.")
    recall_at_10: float | None = Field(
        description="Share of the ten nearest that it finds, measured when it was built."
    )
    memory_bytes: int = Field(description="Memory that it takes.")
    size: int = Field(description="Slots that it covers.")
    fresh: int = Field(description="Slots that came after it and are compared one by one.")


class Model(BaseModel):
    """A loaded model."""

    name: str
    mode: Literal["p8", "retrieval"]
    method: Literal["p8", "tower", "direct"]
    fallback_reason: FallbackName | None
    checkpoint: CheckpointStatus
    gate: dict[str, Any] | None
    gate_verdict: Literal["passed", "failed"] | None
    metrics: dict[str, Any] | None
    window: int
    dimension: int | None
    space: Literal["raw", "learned"]
    arch: str | None
    order_weight: float
    rerank: bool
    embedding_model: str
    store: StoreStatus
    indexes: dict[str, IndexStatus]


class ModelSummary(CheckpointStatus):
    """A loaded model in a list."""

    name: str
    gate: Literal["passed", "failed"] | None


class Models(BaseModel):
    """The loaded models."""

    models: list[ModelSummary]


class Reloaded(BaseModel):
    """A model that serves with a newly loaded checkpoint."""

    model: str
    version: str
    previous: str | None = Field(description="Version that served before.")
    status: str
    took_ms: float


class Ready(BaseModel):
    """With what ranks are answered."""

    status: Literal["ready"]
    mode: Literal["p8", "retrieval"]
    checkpoint: CheckpointStatus
    store: StoreStatus
    index: dict[str, Any]


class StoreStats(StoreStatus):
    """The store in numbers."""

    id: str
    rows: int = Field(description="Chunks in the file; those that can be found are ``chunks``.")
    bytes: int
    dimension: int | None
    embedding_model: str


class IndexStats(BaseModel):
    """The indexes in numbers."""

    searchable: int
    dead: int = Field(description="Slots of deleted and replaced chunks, not yet reclaimed.")
    raw: IndexStatus
    learned: dict[str, IndexStatus]
    version: int = Field(description="Store version that the indexes were built from.")
    built_s_ago: float
    building: bool


class Stats(BaseModel):
    """What is stored, searched and indexed."""

    store: StoreStats
    index: IndexStats
    metadata_keys: int
    memory_bytes: dict[str, int] = Field(
        description="Bytes of vectors (in files, which the system may take from memory), indexes "
        "and metadata."
    )
    models: list[ModelSummary]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    field: str | None = None
    expected: str | None = None
    actual: str | None = None
    reason: str | None = None
    retry_after_s: int | None = None
