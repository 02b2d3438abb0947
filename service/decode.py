"""From checked bodies to arrays: the first two steps of every request.

Shapes: L window, K candidates, D dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.index import Rows
from models.scoring import Floats
from service.errors import (
    BatchTooLargeError,
    ContextLengthError,
    DuplicateIdError,
    InvalidVectorError,
    UnknownIdError,
)
from service.library import Library
from service.schemas import Candidate, ContextBody, OrderPair, RankQuery
from service.vectors import decode_vector, decode_vectors

Embed = Callable[[list[str]], Floats]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A context window, oldest chunk first."""

    raw_LD: Floats
    rows: Rows
    """Rows of its chunks, if they were given by id; else empty."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Explicit candidates, in the given order."""

    ids: list[str | None]
    rows_K: Rows
    """Row of each, -1 where the candidate is a vector of the caller's."""
    raw_KD: Floats


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which indexed chunks may be answered."""

    allowed: Rows | None
    """Rising rows, or None for all."""
    excluded: Rows


class Decoder:
    """Decodes requests against one library.

    Args:
        library: Resolves ids.
        window: L, the most context chunks.
        candidates_limit: The most explicit candidates.
        embed: Turns texts into unit vectors (n, D).
    """

    def __init__(
        self, library: Library, *, window: int, candidates_limit: int, embed: Embed
    ) -> None:
        self._library = library
        self._window = window
        self._candidates_limit = candidates_limit
        self._embed = embed
        self._dimension = library.info.dimension

    def window(self, body: ContextBody, prefix: str = "") -> Window:
        """Decode the context of a body, in whichever form it came.

        Raises:
            ContextLengthError: If it has no chunk or more than L.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the index's.
            UnknownIdError: If an id is not indexed.
            DuplicateIdError: If an id stands twice.
            EmbedderUnavailableError: If it holds texts, and they cannot be embedded.
        """
        no_rows = np.empty(0, np.int64)
        if body.context_ids is not None:
            field = f"{prefix}context_ids"
            self._check_length(body.context_ids, field)
            rows = self._rows(body.context_ids, field)
            return Window(raw_LD=self._library.corpus.raw_ND[rows], rows=rows)
        if body.context_texts is not None:
            self._check_length(body.context_texts, f"{prefix}context_texts")
            return Window(raw_LD=self._embed(body.context_texts), rows=no_rows)
        field = f"{prefix}context"
        context = body.context or []
        if context and isinstance(context[0], int | float):
            raise InvalidVectorError(
                f"{field}.0", "a vector (context is a list of vectors)", "a number"
            )
        self._check_length(context, field)
        return Window(raw_LD=decode_vectors(context, field, self._dimension), rows=no_rows)

    def candidates(self, given: list[Candidate], prefix: str = "") -> Candidates:
        """Decode explicit candidates.

        Raises:
            BatchTooLargeError: If there are too many.
            DuplicateIdError: If an id stands twice.
            UnknownIdError: If one without a vector is not indexed.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the index's.
        """
        field = f"{prefix}candidates"
        if len(given) > self._candidates_limit:
            raise BatchTooLargeError(
                field, f"at most {self._candidates_limit} candidates", str(len(given))
            )
        ids = [candidate.id for candidate in given]
        _check_unique([one for one in ids if one is not None], field)
        rows_K = np.full(len(given), -1, np.int64)
        raw_KD = np.empty((len(given), self._dimension), np.float32)
        for place, candidate in enumerate(given):
            at = f"{field}.{place}"
            if candidate.vector is not None:
                raw_KD[place] = decode_vector(candidate.vector, f"{at}.vector", self._dimension)
            else:
                rows_K[place] = self._row(candidate.id or "", f"{at}.id")
                raw_KD[place] = self._library.corpus.raw_ND[rows_K[place]]
        return Candidates(ids=ids, rows_K=rows_K, raw_KD=raw_KD)

    def scope(self, query: RankQuery, window: Window) -> Scope:
        """Resolve filter and exclusions; ids that are not indexed restrict nothing, or to nothing.

        The window's own chunks are always excluded.
        """
        known = self._library.row_of
        named = [known[one] for one in query.exclude_ids if one in known]
        excluded = np.union1d(window.rows, np.array(named, np.int64))
        if query.filter is None:
            return Scope(allowed=None, excluded=excluded)
        rows_of = self._library.rows_of
        wanted = [rows_of[one] for one in set(query.filter.document_ids) if one in rows_of]
        allowed = np.sort(np.concatenate(wanted)) if wanted else np.empty(0, np.int64)
        return Scope(allowed=allowed, excluded=excluded)

    def pair(self, pair: OrderPair, prefix: str = "") -> tuple[Floats, Floats]:
        """Decode the two vectors (D,) of a pair.

        Raises:
            UnknownIdError: If an id is not indexed.
            InvalidVectorError: If a vector cannot be used.
            WrongDimensionError: If a vector's dimension is not the index's.
        """
        sides = []
        for name, vector, chunk_id in (("a", pair.a, pair.a_id), ("b", pair.b, pair.b_id)):
            if chunk_id is not None:
                row = self._row(chunk_id, f"{prefix}{name}_id")
                sides.append(self._library.corpus.raw_ND[row])
            else:
                sides.append(decode_vector(vector, f"{prefix}{name}", self._dimension))
        return sides[0], sides[1]

    def _check_length(self, context: Sequence[object], field: str) -> None:
        if not 1 <= len(context) <= self._window:
            raise ContextLengthError(field, f"1 to {self._window} chunks", str(len(context)))

    def _rows(self, ids: Sequence[str], field: str) -> Rows:
        _check_unique(ids, field)
        rows = [self._row(chunk_id, f"{field}.{place}") for place, chunk_id in enumerate(ids)]
        return np.array(rows, np.int64)

    def _row(self, chunk_id: str, field: str) -> int:
        row = self._library.row_of.get(chunk_id)
        if row is None:
            raise UnknownIdError(field, "the id of an indexed chunk", repr(chunk_id))
        return row


def _check_unique(ids: Sequence[str], field: str) -> None:
    seen: set[str] = set()
    for chunk_id in ids:
        if chunk_id in seen:
            raise DuplicateIdError(field, "each id once", f"{chunk_id!r} twice")
        seen.add(chunk_id)
