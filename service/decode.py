"""From checked bodies to arrays: the first two steps of every request.

Shapes: L window, K candidates, N slots or chunks of a bag, D dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.index import Rows
from models.scoring import Floats
from service.errors import (
    BatchTooLargeError,
    ContextLengthError,
    DocumentNotFoundError,
    DuplicateIdError,
    InvalidVectorError,
    NotReadyError,
    SequenceTooLongError,
    TextTooLongError,
    UnknownIdError,
)
from service.retrieval import Scope
from service.schemas import Candidate, ContextBody, OrderPair, Place, RankQuery, SequenceQuery
from service.settings import Settings
from service.vectors import decode_vector, decode_vectors
from service.view import AnyView

Embed = Callable[[list[str], int], Floats]
"""Turns texts into unit vectors (n, D) of a dimension that is named."""

NO_SLOTS = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A context window, oldest chunk first."""

    raw_LD: Floats
    slots: Rows
    """Slots of its chunks, if they were given by id or place; else empty."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Explicit candidates, in the given order."""

    ids: list[str | None]
    slots_K: Rows
    """Slot of each, -1 where the candidate is a vector of the caller's."""
    raw_KD: Floats


@dataclass(frozen=True, kw_only=True)
class Bag:
    """Chunks to be put into order."""

    ids: list[str | None]
    raw_ND: Floats


class Decoder:
    """Decodes one request against one view.

    Args:
        view: Resolves ids.
        window: L, the most context chunks.
        settings: Limits.
        embed: Turns texts into vectors.
    """

    def __init__(self, view: AnyView, *, window: int, settings: Settings, embed: Embed) -> None:
        if not view.dimension:
            raise NotReadyError(
                "there are no chunks yet, and nothing has told their dimension; "
                "PUT /v1/chunks writes the first",
                reason="empty",
            )
        self._view = view
        self._window = window
        self._settings = settings
        self._embed = embed
        self._dimension = view.dimension

    def window(self, body: ContextBody, prefix: str = "") -> Window:
        """Decode the context of a body, in whichever form it came.

        Raises:
            ContextLengthError: If it has no chunk or more than L.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the collection's.
            UnknownIdError: If an id or place is not indexed.
            DuplicateIdError: If an id stands twice.
            TextTooLongError: If a text has too many characters.
            EmbedderUnavailableError: If it holds texts, and they cannot be embedded.
        """
        if body.context_ids is not None:
            field = f"{prefix}context_ids"
            self._check_length(body.context_ids, field)
            slots = self._slots(body.context_ids, field)
            return Window(raw_LD=self._raw(slots), slots=slots)
        if body.context_at is not None:
            slots = self._window_at(body.context_at, f"{prefix}context_at")
            return Window(raw_LD=self._raw(slots), slots=slots)
        if body.context_texts is not None:
            field = f"{prefix}context_texts"
            self._check_length(body.context_texts, field)
            return Window(raw_LD=self._embedded(body.context_texts, field), slots=NO_SLOTS)
        field = f"{prefix}context"
        context = body.context or []
        if context and isinstance(context[0], int | float):
            raise InvalidVectorError(
                f"{field}.0", "a vector (context is a list of vectors)", "a number"
            )
        self._check_length(context, field)
        return Window(raw_LD=decode_vectors(context, field, self._dimension), slots=NO_SLOTS)

    def candidates(self, given: list[Candidate], prefix: str = "") -> Candidates:
        """Decode explicit candidates.

        Raises:
            BatchTooLargeError: If there are too many.
            DuplicateIdError: If an id stands twice.
            UnknownIdError: If one without a vector is not indexed.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the collection's.
        """
        field = f"{prefix}candidates"
        limit = self._settings.candidates_limit
        if len(given) > limit:
            raise BatchTooLargeError(field, f"at most {limit} candidates", str(len(given)))
        ids = [candidate.id for candidate in given]
        check_unique([one for one in ids if one is not None], field)
        slots_K = np.full(len(given), -1, np.int64)
        raw_KD = np.empty((len(given), self._dimension), np.float32)
        posted = [place for place, one in enumerate(given) if one.vector is not None]
        stored = [place for place, one in enumerate(given) if one.vector is None]
        if stored:
            names = [given[place].id or "" for place in stored]
            slots_K[stored] = self._find(names, [f"{field}.{place}.id" for place in stored])
            raw_KD[stored] = self._raw(slots_K[stored])
        raw_KD[posted] = decode_vectors(
            [given[place].vector for place in posted],
            lambda row: f"{field}.{posted[row]}.vector",
            self._dimension,
        )
        return Candidates(ids=ids, slots_K=slots_K, raw_KD=raw_KD)

    def scope(self, query: RankQuery, window: Window) -> Scope:
        """Resolve filter and exclusions; ids that are not indexed restrict nothing, or to nothing.

        The window's own chunks are always excluded.
        """
        excluded = [window.slots]
        if query.exclude_ids:
            excluded.append(self._view.named(query.exclude_ids))
        if query.only_unseen:
            excluded.append(self._seen(window))
        allowed_N = None if query.filter is None else self._view.matching(query.filter)
        some = any(map(len, excluded))
        return Scope(
            allowed_N=allowed_N,
            excluded=np.unique(np.concatenate(excluded)) if some else NO_SLOTS,
            max_per_document=query.max_per_document,
            filter=query.filter,
        )

    def pair(self, pair: OrderPair, prefix: str = "") -> tuple[Floats, Floats]:
        """Decode the two vectors (D,) of a pair.

        Raises:
            UnknownIdError: If an id is not indexed.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the collection's.
        """
        sides = []
        for name, vector, chunk_id in (("a", pair.a, pair.a_id), ("b", pair.b, pair.b_id)):
            if chunk_id is not None:
                sides.append(self._raw(self._find([chunk_id], [f"{prefix}{name}_id"]))[0])
            else:
                sides.append(decode_vector(vector, f"{prefix}{name}", self._dimension))
        return sides[0], sides[1]

    def bag(self, body: SequenceQuery) -> Bag:
        """Decode the chunks of a bag, in whichever form they came.

        Raises:
            SequenceTooLongError: If there are fewer than two or too many.
            DocumentNotFoundError: If there is no such document.
            UnknownIdError: If an id is not indexed.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the collection's.
            TextTooLongError: If a text has too many characters.
            EmbedderUnavailableError: If it holds texts, and they cannot be embedded.
        """
        if body.document_id is not None:
            slots = self._view.document(body.document_id)
            if not len(slots):
                raise DocumentNotFoundError(f"there is no document {body.document_id!r}")
            self._check_bag(slots, "document_id")
            ids: list[str | None] = [self._view.slots.ids[slot] for slot in slots]
            return Bag(ids=ids, raw_ND=self._raw(slots))
        if body.ids is not None:
            self._check_bag(body.ids, "ids")
            return Bag(ids=[*body.ids], raw_ND=self._raw(self._slots(body.ids, "ids")))
        if body.texts is not None:
            self._check_bag(body.texts, "texts")
            raw_ND = self._embedded(body.texts, "texts")
        else:
            chunks = body.chunks or []
            self._check_bag(chunks, "chunks")
            raw_ND = decode_vectors(chunks, "chunks", self._dimension)
        return Bag(ids=[None] * len(raw_ND), raw_ND=raw_ND)

    def _seen(self, window: Window) -> Rows:
        """The chunks of the last context chunk's document, up to its position."""
        slots, last = self._view.slots, int(window.slots[-1])
        document = self._view.document(slots.document_ids[last])
        seen: Rows = document[slots.positions.array[document] <= slots.positions.array[last]]
        return seen

    def _window_at(self, place: Place, field: str) -> Rows:
        document = self._view.document(place.document_id)
        if not len(document):
            raise UnknownIdError(
                f"{field}.document_id", "the id of an indexed document", repr(place.document_id)
            )
        positions = self._view.slots.positions.array[document]
        end = int(np.searchsorted(positions, place.position, side="right"))
        if not end or positions[end - 1] != place.position:
            raise UnknownIdError(
                f"{field}.position",
                f"the position of a chunk of {place.document_id!r}",
                str(place.position),
            )
        return document[max(0, end - self._window) : end]

    def _embedded(self, texts: list[str], field: str) -> Floats:
        for place, text in enumerate(texts):
            check_text(text, f"{field}.{place}", self._settings.text_limit)
        return self._embed(texts, self._dimension)

    def _check_length(self, context: Sequence[object], field: str) -> None:
        if not 1 <= len(context) <= self._window:
            raise ContextLengthError(field, f"1 to {self._window} chunks", str(len(context)))

    def _check_bag(self, chunks: Sequence[object] | Rows, field: str) -> None:
        if not 2 <= len(chunks) <= self._settings.sequence_limit:
            limit = self._settings.sequence_limit
            raise SequenceTooLongError(field, f"2 to {limit} chunks", str(len(chunks)))

    def _slots(self, ids: Sequence[str], field: str) -> Rows:
        check_unique(ids, field)
        return self._find(ids, [f"{field}.{place}" for place in range(len(ids))])

    def _find(self, ids: Sequence[str], fields: Sequence[str]) -> Rows:
        found = self._view.find(ids)
        for slot, name, field in zip(found, ids, fields, strict=True):
            if slot is None:
                raise UnknownIdError(field, "the id of an indexed chunk", repr(name))
        return np.array(found, np.int64)

    def _raw(self, slots: Rows) -> Floats:
        """Raw vectors of slots, which the view may have learned of a moment ago."""
        return self._view.raw.vectors[slots]


def check_unique(ids: Sequence[str], field: str) -> None:
    """Check that no id stands twice.

    Raises:
        DuplicateIdError: If one does.
    """
    seen: set[str] = set()
    for chunk_id in ids:
        if chunk_id in seen:
            raise DuplicateIdError(field, "each id once", f"{chunk_id!r} twice")
        seen.add(chunk_id)


def check_text(text: str, field: str, limit: int) -> None:
    """Check the length of a text.

    Raises:
        TextTooLongError: If it has too many characters.
    """
    if len(text) > limit:
        raise TextTooLongError(field, f"at most {limit} characters", str(len(text)))
