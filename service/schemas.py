"""Request and answer bodies, as OpenAPI shows them.

Requests are checked by these models, except for the vectors in them, which ``service.vectors``
decodes far faster than a schema could. Answers are written by ``service.encode``; their models here
describe them and are never run.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from service.errors import InvalidRequestError

TOP_K_LIMIT = 1000
EXCLUDE_LIMIT = 10_000
TEXT_LIMIT = 100_000
SHOWN_CHARACTERS = 40

Vector = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "Numbers, or base64 of little-endian float32. Any positive length: the "
            "service brings it to 1.",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}, "minItems": 1},
                {"type": "string", "contentEncoding": "base64"},
            ],
        }
    ),
]
ChunkId = Annotated[str, Field(min_length=1, max_length=1024)]
ModeName = Literal["auto", "p8", "retrieval"]


class Body(BaseModel):
    """What all request bodies share: no coercion, no unknown members."""

    model_config = ConfigDict(strict=True, extra="forbid")


BodyT = TypeVar("BodyT", bound=Body)


class Candidate(Body):
    """A candidate by vector, with an optional label of the caller's, or an indexed chunk by id."""

    id: ChunkId | None = None
    vector: Vector = None

    @model_validator(mode="after")
    def _one_at_least(self) -> "Candidate":
        if self.id is None and self.vector is None:
            raise ValueError("expected a vector or the id of an indexed chunk, got neither")
        return self


class ChunkFilter(Body):
    """Which indexed chunks may be answered."""

    document_ids: Annotated[list[ChunkId], Field(min_length=1, max_length=EXCLUDE_LIMIT)]


class ContextBody(Body):
    """A context window, oldest chunk first: exactly one of its three forms."""

    context: list[Vector] | None = None
    context_ids: list[ChunkId] | None = None
    context_texts: list[Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]] | None = None
    mode: ModeName = "auto"
    rerank: bool = True

    @model_validator(mode="after")
    def _one_form(self) -> "ContextBody":
        forms = ("context", "context_ids", "context_texts")
        given = [name for name in forms if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(
                f"expected exactly one of context, context_ids, context_texts, got {found}"
            )
        return self


class RankQuery(ContextBody):
    """Which chunk comes next?"""

    candidates: Annotated[list[Candidate], Field(min_length=1)] | None = None
    filter: ChunkFilter | None = None
    exclude_ids: Annotated[list[ChunkId], Field(max_length=EXCLUDE_LIMIT)] = []
    top_k: Annotated[int, Field(ge=1, le=TOP_K_LIMIT)] = 10
    explain: bool = False

    @model_validator(mode="after")
    def _filter_is_for_the_index(self) -> "RankQuery":
        if self.candidates is not None and self.filter is not None:
            raise ValueError("expected candidates or a filter of the index, got both")
        return self


class RankBatch(Body):
    """Several rank queries, answered in order; one mistake rejects them all."""

    queries: Annotated[list[RankQuery], Field(min_length=1)]


class ScoreQuery(ContextBody):
    """How well does each of these follow?"""

    candidates: Annotated[list[Candidate], Field(min_length=1)]


class OrderPair(Body):
    """Two chunks, by vector or by the id of an indexed chunk."""

    a: Vector = None
    b: Vector = None
    a_id: ChunkId | None = None
    b_id: ChunkId | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "OrderPair":
        for side in ("a", "b"):
            by_vector = getattr(self, side) is not None
            by_id = getattr(self, f"{side}_id") is not None
            if by_vector == by_id:
                found = "both" if by_vector else "neither"
                raise ValueError(f"expected exactly one of {side} and {side}_id, got {found}")
        return self


class OrderBatch(Body):
    """Several pairs, answered in order."""

    pairs: Annotated[list[OrderPair], Field(min_length=1)]


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


class Chunk(BaseModel):
    """An indexed chunk."""

    id: str
    document_id: str
    position: int
    text: str
    metadata: dict[str, Any]


class DocumentSummary(BaseModel):
    """An indexed document."""

    id: str
    title: str | None
    chunks: int


class Documents(BaseModel):
    """A page of the documents, in index order."""

    total: int
    documents: list[DocumentSummary]


class Document(DocumentSummary):
    """An indexed document with its chunks, in order."""

    content: list[Chunk]


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


def check(kind: type[BodyT], body: object) -> BodyT:
    """Check a decoded body, vectors aside.

    Raises:
        InvalidRequestError: At the first member that does not fit.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequestError(field, *_wanted_and_found(first)) from error


def _wanted_and_found(problem: Any) -> tuple[str, str]:
    """Say what was expected and found, without repeating more than a scrap of the input."""
    value = problem.get("input")
    if problem["type"] == "value_error":
        wanted, _, found = str(problem["ctx"]["error"]).partition(", got ")
        return wanted.removeprefix("expected "), found
    if problem["type"] == "missing":
        return "a value", "none"
    if problem["type"] == "extra_forbidden":
        return "no such member", "one"
    if problem["type"] in ("too_short", "too_long"):
        context = problem["ctx"]
        bound = "min_length" if problem["type"] == "too_short" else "max_length"
        wanted = f"{'at least' if bound == 'min_length' else 'at most'} {context[bound]} items"
        return wanted, str(context["actual_length"])
    if problem["type"] == "model_type":
        return "a JSON object", f"a value of type {type(value).__name__}"
    plain = isinstance(value, int | float | bool) or value is None
    short = isinstance(value, str) and len(value) <= SHOWN_CHARACTERS
    wanted = problem["msg"].removeprefix("Input should be ")
    return wanted, repr(value) if plain or short else f"a value of type {type(value).__name__}"
