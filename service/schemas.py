"""Request bodies, and how they are checked.

Requests are checked by these models, except for the vectors in them, which ``service.vectors``
decodes far faster than a schema could, and for limits that are settings, which have errors of
their own.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from service.errors import InvalidRequestError
from service.filters import ChunkFilter
from service.modes import DEFAULT_MODEL

EXCLUDE_LIMIT = 10_000
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
Text = Annotated[str, Field(min_length=1)]
ModeName = Literal["auto", "p8", "retrieval"]
ModelLabel = Annotated[str, Field(min_length=1, max_length=128)]


class Body(BaseModel):
    """What all request bodies share: no coercion, no unknown members."""

    model_config = ConfigDict(strict=True, extra="forbid")


BodyT = TypeVar("BodyT", bound=Body)


def _exactly_one(body: Body, forms: tuple[str, ...]) -> None:
    given = [name for name in forms if getattr(body, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ValueError(f"expected exactly one of {', '.join(forms)}, got {found}")


class Candidate(Body):
    """A candidate by vector, with an optional label of the caller's, or an indexed chunk by id."""

    id: ChunkId | None = None
    vector: Vector = None

    @model_validator(mode="after")
    def _one_at_least(self) -> "Candidate":
        if self.id is None and self.vector is None:
            raise ValueError("expected a vector or the id of an indexed chunk, got neither")
        return self


class Place(Body):
    """A place in a document: the window that ends there is meant."""

    document_id: ChunkId
    position: int


class ModelBody(Body):
    """What a question to a model shares."""

    model: ModelLabel = DEFAULT_MODEL


class ContextBody(ModelBody):
    """A context window, oldest chunk first: exactly one of its four forms."""

    context: list[Vector] | None = None
    context_ids: list[ChunkId] | None = None
    context_texts: list[Text] | None = None
    context_at: Place | None = None
    mode: ModeName = "auto"
    rerank: bool = True
    contents: bool = Field(
        default=True, description="Whether results tell their text and metadata."
    )

    @model_validator(mode="after")
    def _one_form(self) -> "ContextBody":
        _exactly_one(self, ("context", "context_ids", "context_texts", "context_at"))
        return self


class RankQuery(ContextBody):
    """Which chunk comes next?"""

    candidates: Annotated[list[Candidate], Field(min_length=1)] | None = None
    filter: ChunkFilter | None = None
    exclude_ids: Annotated[list[ChunkId], Field(max_length=EXCLUDE_LIMIT)] = []
    only_unseen: bool = Field(
        default=False,
        description="Leave out what lies before the window's end in its document.",
    )
    max_per_document: Annotated[int, Field(ge=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] = 10
    explain: bool = False

    @model_validator(mode="after")
    def _the_index_alone(self) -> "RankQuery":
        for name in ("filter", "max_per_document"):
            if self.candidates is not None and getattr(self, name) is not None:
                raise ValueError(f"expected candidates or {name}, got both")
        by_place = self.context_ids is not None or self.context_at is not None
        if self.only_unseen and not by_place:
            raise ValueError("expected context_ids or context_at with only_unseen, got neither")
        return self


class RankBatch(Body):
    """Several rank queries, answered in order; one mistake rejects them all."""

    queries: Annotated[list[RankQuery], Field(min_length=1)]


class ScoreQuery(ContextBody):
    """How well does each of these follow?"""

    candidates: Annotated[list[Candidate], Field(min_length=1)]


class OrderPair(ModelBody):
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


class SequenceQuery(ModelBody):
    """In which order do these read? A bag in exactly one of its four forms."""

    chunks: list[Vector] | None = None
    ids: list[ChunkId] | None = None
    texts: list[Text] | None = None
    document_id: ChunkId | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "SequenceQuery":
        _exactly_one(self, ("chunks", "ids", "texts", "document_id"))
        return self


class NewChunk(Body):
    """A chunk to be written: with a vector, or with a text that the service embeds, or both."""

    id: ChunkId
    document_id: ChunkId
    position: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    vector: Vector = None
    text: str | None = None
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _something_to_index(self) -> "NewChunk":
        if self.vector is None and not self.text:
            raise ValueError("expected a vector or a text, got neither")
        return self


class Upsert(Body):
    """Chunks to be written, all or none; those that have these ids are replaced."""

    chunks: Annotated[list[NewChunk], Field(min_length=1)]


class Deletion(Body):
    """Chunks to be deleted: those of some ids, or those that pass a filter."""

    ids: Annotated[list[ChunkId], Field(min_length=1)] | None = None
    filter: ChunkFilter | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Deletion":
        _exactly_one(self, ("ids", "filter"))
        return self


class Reload(Body):
    """A checkpoint to be loaded again, or another one that stands beside it."""

    model: ModelLabel = DEFAULT_MODEL
    checkpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = Field(
        default=None, description="Name of a folder beside the model's present one."
    )


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
