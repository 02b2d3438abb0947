"""What one request sees of the chunks in Milvus: those that it has asked for or found so far.

It numbers them as they come, in slots of its own, so that decoding, ranking and encoding read them
as they read the slots of a data folder. Scores are computed here, from the raw vectors, by the
request's own model: the tables of learned spaces only say which chunks to look at.

Shapes: B queries, L window, N slots, D dimension.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from models.index import Rows
from models.scoring import Floats, Method
from service.filters import ChunkFilter, matching_slots
from service.mapped import Growing
from service.milvus.filtering import expression_of
from service.milvus.store import MilvusStore
from service.milvus.tables import (
    CHUNK_FIELDS,
    CHUNKS,
    StoredChunk,
    key_of,
    learned_table,
    none_of,
    stored,
)
from service.retrieval import Scope
from service.rows import ChunkRow
from service.slots import Slots
from service.view import Served, Space, served_of

SEARCH_LIMIT = 16_384
"""Most that one search of Milvus may find."""
WIDER = 4
"""How many times more is looked for when what was found did not pass."""


class MilvusView:
    """Chunks that one request knows, and how it learns of others.

    Args:
        store: Where they are.
        models: What requests may name.
        level: What its reads by key wait for; empty is what the store's do.
    """

    waits = True

    def __init__(self, store: MilvusStore, models: Mapping[str, Served], level: str = "") -> None:
        store.look()
        self.models = models
        self.dimension = store.dimension
        self.version = store.next_version()
        self.store_name = store.about.name
        self.embedding_model = store.about.embedding_model
        self.slots = Slots(self.dimension)
        self._store = store
        self._level = level
        self._keys: list[str] = []
        self._contents: dict[int, tuple[str, dict[str, Any]]] = {}
        self._slot_of: dict[str, int] = {}
        self._projected: dict[str, Growing] = {}
        self._growing = threading.Lock()
        """Held while slots are added: queries of one request are searched by several threads."""

    @property
    def raw(self) -> Space:
        """The raw vectors of all slots that are known now."""
        return Space(vectors=self.slots.raw.array, index=None)

    def contents(self, slots: set[int]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Texts and metadata, as they came with the chunks."""
        return {slot: self._contents[slot] for slot in slots if slot in self._contents}

    def find(self, ids: Sequence[str]) -> list[int | None]:
        """The slot of each chunk, or None where there is none."""
        keys = [key_of(name) for name in ids]
        self._learn(keys)
        return [self._slot_of.get(key) for key in keys]

    def named(self, ids: Sequence[str]) -> Rows:
        """Slots that stand for chunks, be they there or not; their vectors are not read."""
        with self._growing:
            known = {key: slot for slot, key in enumerate(self._keys)}
            fresh = [name for name in dict.fromkeys(ids) if key_of(name) not in known]
            if fresh:
                slots = self._append([_stand_in(name, self.dimension) for name in fresh])
                known |= zip(map(key_of, fresh), slots, strict=True)
        return np.array([known[key_of(name)] for name in ids], np.int64)

    def document(self, document_id: str) -> Rows:
        """The slots of a document in the order of positions; empty if there is none."""
        if not self.dimension:
            return np.empty(0, np.int64)
        found = self._store.of_documents([document_id], self._level)
        self._take(found)
        return np.array([self._slot_of[one.key] for one in found], np.int64)

    def matching(self, given: ChunkFilter) -> None:
        """Nothing: which chunks pass a filter is not known before a search."""

    def served(self, name: str, field: str = "model") -> Served:
        """The model of a name.

        Raises:
            UnknownModelError: If none of that name is loaded.
        """
        return served_of(self.models, name, field)

    def space_for(self, served: Served, method: Method) -> Space:
        """The space in which a method makes its queries, with all slots that are known now."""
        if method is not Method.P8 or not served.learned:
            return self.raw
        with self._growing:
            projected = self._projected.get(served.name)
            if projected is None:
                projected = self._projected[served.name] = Growing(np.float32, self.dimension)
            if projected.size < self.slots.count:
                fresh_ND = self.slots.raw.array[projected.size : self.slots.count]
                projected.extend(served.scorer.project(fresh_ND))
            return Space(vectors=projected.array, index=None)

    def retrieve(
        self,
        served: Served,
        method: Method,
        query_BD: Floats,
        scopes: Sequence[Scope],
        *,
        depth: int,
        wanted: Sequence[int],
    ) -> list[Rows]:
        """Find the candidates of several queries: slots, rising; one search for those alike."""
        table = CHUNKS
        if method is Method.P8 and served.learned:
            assert served.state.checkpoint is not None
            table = learned_table(served.state.checkpoint.version)
        alike: dict[tuple[str, str], list[int]] = {}
        found: dict[int, Rows] = {}
        for place, scope in enumerate(scopes):
            if scope.max_per_document is None:
                # Filters that differ may be told to Milvus by the same expression.
                exact = repr(scope.filter and scope.filter.metadata)
                alike.setdefault((self._expression(scope), exact), []).append(place)
            else:
                query_D = query_BD[place]
                found[place] = self._diverse(table, query_D, scope, depth, wanted[place])
        for (expression, _), places in alike.items():
            scope = scopes[places[0]]
            nearest = self._nearest(table, query_BD[places], expression, scope.filter, depth)
            found.update(zip(places, map(np.sort, nearest), strict=True))
        return [found[place] for place in range(len(scopes))]

    def _nearest(
        self, table: str, query_BD: Floats, expression: str, given: ChunkFilter | None, depth: int
    ) -> list[Rows]:
        """Find the nearest slots of each query, best first; fewer only if no more may be."""
        reach = min(depth, SEARCH_LIMIT)
        fields = CHUNK_FIELDS if table == CHUNKS else ["key"]
        while True:
            hits_BK = self._store.search(table, query_BD, expression, reach, fields)
            if table == CHUNKS:
                self._take([stored(hit.row) for hits in hits_BK for hit in hits])
            else:
                self._learn(list(dict.fromkeys(hit.key for hits in hits_BK for hit in hits)))
            # A derived row may outlive its chunk by a moment.
            slots_BK = [
                _rows(slot for hit in hits if (slot := self._slot_of.get(hit.key)) is not None)
                for hits in hits_BK
            ]
            if given is not None and given.metadata is not None:
                passing_N = self._passing(given)
                slots_BK = [slots[passing_N[slots]] for slots in slots_BK]
            whole = all(
                len(slots) >= depth or len(hits) < reach
                for slots, hits in zip(slots_BK, hits_BK, strict=True)
            )
            if whole or reach == SEARCH_LIMIT:
                return [slots[:depth] for slots in slots_BK]
            reach = min(reach * WIDER, SEARCH_LIMIT)

    def _diverse(self, table: str, query_D: Floats, scope: Scope, depth: int, wanted: int) -> Rows:
        """Search again without the documents that have enough, until there are enough."""
        limit = scope.max_per_document or wanted
        expression = self._expression(scope)
        held, full, slots = Counter[str](), set[str](), np.empty(0, np.int64)
        while True:
            part = expression
            if full:
                part = _both(part, none_of("document_key", sorted(map(key_of, full))))
            if len(slots):
                part = _both(part, none_of("key", [self._keys[slot] for slot in slots]))
            more = self._nearest(table, query_D[None], part, scope.filter, depth)[0]
            slots = np.concatenate([slots, more])
            held.update(self.slots.document_ids[slot] for slot in more)
            full = {name for name, count in held.items() if count >= limit}
            if not len(more) or sum(min(count, limit) for count in held.values()) >= wanted:
                return np.sort(slots)

    def _expression(self, scope: Scope) -> str:
        part = ""
        if scope.filter is not None:
            ids = scope.filter.document_ids
            keys = None if ids is None else sorted(set(map(key_of, ids)))
            part = expression_of(scope.filter, keys)
        if len(scope.excluded):
            part = _both(part, none_of("key", [self._keys[slot] for slot in scope.excluded]))
        return part

    def _passing(self, given: ChunkFilter) -> Any:
        return matching_slots(
            given,
            columns=self.slots.columns,
            positions_N=self.slots.positions.array,
            slots_of_document=self.slots.of_document,
            count=self.slots.count,
        )

    def _learn(self, keys: Sequence[str]) -> None:
        """Read the chunks of keys that are not known."""
        unknown = [key for key in dict.fromkeys(keys) if key not in self._slot_of]
        if unknown and self.dimension:
            self._take(self._store.fetch(unknown, self._level))

    def _take(self, found: Sequence[StoredChunk]) -> None:
        with self._growing:
            fresh = {one.key: one.chunk for one in found if one.key not in self._slot_of}
            if not fresh:
                return
            slots = self._append(list(fresh.values()))
            self._slot_of.update(zip(fresh, slots, strict=True))
            for slot, chunk in zip(slots, fresh.values(), strict=True):
                self._contents[slot] = (chunk.text, chunk.metadata)

    def _append(self, chunks: Sequence[ChunkRow]) -> range:
        slots = range(self.slots.count, self.slots.count + len(chunks))
        self.slots.append(slots, chunks, 0)
        self._keys += [key_of(chunk.id) for chunk in chunks]
        return slots


def matching_ids(store: MilvusStore, given: ChunkFilter) -> list[str]:
    """The ids of all chunks that pass a filter, as they stand now."""
    view = MilvusView(store, {})
    scope = Scope(allowed_N=None, excluded=np.empty(0, np.int64), filter=given)
    expression = view._expression(scope)
    ids: list[str] = []
    # What a filter looks at, and no more: a page of the longest texts is more than an answer holds.
    fields = [one for one in CHUNK_FIELDS if one not in ("text", "vector")]
    nothing = {"text": "", "vector": np.zeros(store.dimension, np.float32)}
    for some in store.walk(CHUNKS, fields, expression):
        part = MilvusView(store, {})
        part._take([stored(row | nothing) for row in some])
        ids += [part.slots.ids[slot] for slot in np.flatnonzero(part._passing(given))]
    return ids


def _stand_in(name: str, dimension: int) -> ChunkRow:
    nothing_D = np.zeros(dimension, np.float32)
    return ChunkRow(id=name, document_id="", position=0, text="", metadata={}, vector_D=nothing_D)


def _rows(slots: Iterable[int]) -> Rows:
    return np.fromiter(slots, np.int64)


def _both(one: str, other: str) -> str:
    return f"({one}) and {other}" if one else other
