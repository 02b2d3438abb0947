"""The search step: nearest living slots, within a filter, with documents kept diverse.

The index answers for the slots that it covers; those written since are compared one by one, and
dead ones are passed over, so a chunk can be found as soon as its write is acknowledged.

Shapes: N slots, M slots that are looked at, D dimension.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.index import Rows, VectorIndex
from models.scoring import Bools, Floats
from service.filters import ChunkFilter
from service.slots import Slots

EXACT_UP_TO = 100_000
"""Slots left by a filter that are compared one by one, in about 30 ms: a graph leads to where the
query is, and may miss a fifth of what is left elsewhere. benchmarks/filters.py shows both."""
FILTERED_EFFORT = 4
"""How much wider a graph is searched for more slots than that."""
FEW_EXCLUDED = 64
"""So many slots may be excluded by finding so many candidates more, and dropping those."""
PICKED_AT_ONCE = 1024
"""Vectors copied together when few of many are compared."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Unit vectors of all slots, and an index over the first of them."""

    vectors: Floats
    """By slot; at least as many rows as slots."""
    index: VectorIndex | None
    """Over the slots below its size; those above are compared one by one."""

    @property
    def indexed(self) -> int:
        """Slots that the index covers."""
        return 0 if self.index is None else self.index.size


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which slots may be answered."""

    allowed_N: Bools | None
    """What the filter lets through, or None for all."""
    excluded: Rows
    """Slots that may not, each once."""
    max_per_document: int | None = None
    filter: ChunkFilter | None = None
    """The filter itself, for a view that does not know its slots before it has searched."""


class View(Protocol):
    """What is searched: slots below ``count``, but for the dead ones."""

    @property
    def slots(self) -> Slots:
        """What is known of each."""

    @property
    def count(self) -> int:
        """Slots, dead ones included."""

    @property
    def dead(self) -> int:
        """Dead ones."""

    @property
    def alive(self) -> Bools:
        """Which slots live, (count,)."""

    def document(self, document_id: str) -> Rows:
        """The slots of a document."""


def retrieve(
    view: View, space: Space, query_D: Floats, scope: Scope, *, depth: int, wanted: int
) -> Rows:
    """Find the candidates of a query, rising.

    Args:
        view: What there is.
        space: Where to search.
        query_D: Unit query of that space.
        scope: Which slots may be answered.
        depth: Candidates to find at once.
        wanted: Results that must be left when a limit a document is applied, if there are so many.
    """
    if scope.max_per_document is None:
        return np.sort(nearest(view, space, query_D, scope, depth))
    return _diverse(view, space, query_D, scope, depth, wanted)


def retrieve_many(
    view: View,
    space: Space,
    query_BD: Floats,
    scopes: Sequence[Scope],
    *,
    depth: int,
    wanted: Sequence[int],
) -> list[Rows]:
    """Find the candidates of several queries, each as ``retrieve`` does; one search for the most.

    Args:
        view: What there is.
        space: Where to search.
        query_BD: Unit queries of that space.
        scopes: Which slots may be answered to each.
        depth: Candidates to find at once.
        wanted: For each, the results that must be left when a limit a document is applied.
    """
    plain = [row for row, scope in enumerate(scopes) if _is_plain(scope, depth)]
    found: dict[int, Rows] = {}
    if len(plain) > 1:
        reach = depth + max(len(scopes[row].excluded) for row in plain)
        alive_N = view.alive if view.dead else None
        slots_BK = _search_many(view, space, query_BD[plain], alive_N, reach)
        for row, slots in zip(plain, slots_BK, strict=True):
            found[row] = np.sort(slots[~np.isin(slots, scopes[row].excluded)][:depth])
    for row, scope in enumerate(scopes):
        if row not in found:
            found[row] = retrieve(
                view, space, query_BD[row], scope, depth=depth, wanted=wanted[row]
            )
    return [found[row] for row in range(len(scopes))]


def _is_plain(scope: Scope, depth: int) -> bool:
    unlimited = scope.allowed_N is None and scope.max_per_document is None
    return unlimited and _are_few(scope.excluded, depth)


def _are_few(excluded: Rows, depth: int) -> bool:
    """Whether so many more candidates are found sooner than those that are allowed."""
    return len(excluded) <= max(depth, FEW_EXCLUDED)


def nearest(
    view: View,
    space: Space,
    query_D: Floats,
    scope: Scope,
    depth: int,
    *,
    exact_up_to: int = EXACT_UP_TO,
) -> Rows:
    """Find the nearest slots, best first; fewer only if no more may be answered."""
    if scope.allowed_N is None and _are_few(scope.excluded, depth):
        reach = depth + len(scope.excluded)
        alive_N = view.alive if view.dead else None
        found = _search(view, space, query_D, alive_N, reach)
        return found[~np.isin(found, scope.excluded)][:depth]
    allowed_N = view.alive.copy() if scope.allowed_N is None else scope.allowed_N & view.alive
    allowed_N[scope.excluded] = False
    if np.count_nonzero(allowed_N) <= exact_up_to:
        return _compare(space, query_D, np.flatnonzero(allowed_N), depth)[1]
    return _search(view, space, query_D, allowed_N, depth, FILTERED_EFFORT)


def _search(
    view: View,
    space: Space,
    query_D: Floats,
    allowed_N: Bools | None,
    reach: int,
    effort: int = 1,
) -> Rows:
    """Search the index and what came after it; best first."""
    fresh = np.arange(space.indexed, view.count)
    if allowed_N is not None:
        fresh = fresh[allowed_N[fresh]]
    scores, slots = _compare(space, query_D, fresh, reach)
    if space.index is not None:
        built_N = None if allowed_N is None else allowed_N[: space.indexed]
        wanted = min(reach, space.indexed)
        found_BK = space.index.search(query_D[None], wanted, built_N, effort=effort)
        known = found_BK[1][0] >= 0
        scores = np.concatenate([found_BK[0][0][known], scores])
        slots = np.concatenate([found_BK[1][0][known], slots])
    return slots[np.lexsort((slots, -scores))][:reach]


def _search_many(
    view: View, space: Space, query_BD: Floats, alive_N: Bools | None, reach: int
) -> list[Rows]:
    """Like ``_search``, of several queries at once."""
    if space.index is None:
        return [_search(view, space, query_D, alive_N, reach) for query_D in query_BD]
    fresh = np.arange(space.indexed, view.count)
    if alive_N is not None:
        fresh = fresh[alive_N[fresh]]
    built_N = None if alive_N is None else alive_N[: space.indexed]
    reached = min(reach, space.indexed)
    scores_BK, slots_BK = space.index.search(query_BD, reached, built_N)
    found = []
    for query_D, scores, slots in zip(query_BD, scores_BK, slots_BK, strict=True):
        known = slots >= 0
        scores, slots = scores[known], slots[known]
        if len(fresh):
            more = _compare(space, query_D, fresh, reach)
            scores, slots = np.concatenate([scores, more[0]]), np.concatenate([slots, more[1]])
        found.append(slots[np.lexsort((slots, -scores))][:reach])
    return found


def _compare(space: Space, query_D: Floats, slots: Rows, depth: int) -> tuple[Floats, Rows]:
    """Compare slots one by one; the best ``depth``, in no order beyond it being the best first."""
    if not len(slots):
        return np.empty(0, np.float32), slots
    span = slice(int(slots[0]), int(slots[-1]) + 1)
    # Reading on is cheaper than picking, unless most of what lies between is not wanted.
    if len(slots) * 2 > span.stop - span.start:
        scores = (space.vectors[span] @ query_D)[slots - span.start]
    else:
        scores = _products(space.vectors, slots, query_D)
    if len(scores) > depth:
        best = np.argpartition(-scores, depth - 1)[:depth]
        # Equal scores at the edge fall to the lower slot, as they do everywhere else.
        edge = scores[best].min()
        above, level = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
        best = np.concatenate([above, level[: depth - len(above)]])
        scores, slots = scores[best], slots[best]
    order = np.lexsort((slots, -scores))
    return scores[order], slots[order]


def _products(vectors_ND: Floats, slots: Rows, query_D: Floats) -> Floats:
    """Multiply picked vectors, block by block, since a copy of all of them leaves the cache."""
    scores_M = np.empty(len(slots), np.float32)
    block_MD = np.empty((min(len(slots), PICKED_AT_ONCE), len(query_D)), np.float32)
    for start in range(0, len(slots), PICKED_AT_ONCE):
        some = slots[start : start + PICKED_AT_ONCE]
        some_MD = block_MD[: len(some)]
        np.take(vectors_ND, some, axis=0, out=some_MD, mode="clip")
        np.dot(some_MD, query_D, out=scores_M[start : start + len(some)])
    return scores_M


def _diverse(
    view: View, space: Space, query_D: Floats, scope: Scope, depth: int, wanted: int
) -> Rows:
    """Search again without the documents that have enough candidates, until there are enough."""
    limit = scope.max_per_document or wanted
    found = nearest(view, space, query_D, scope, depth)
    more, held = found, Counter[str]()
    allowed_N = view.alive.copy() if scope.allowed_N is None else scope.allowed_N & view.alive
    allowed_N[scope.excluded] = False
    while len(more):
        held.update(view.slots.document_ids[slot] for slot in more)
        if sum(min(count, limit) for count in held.values()) >= wanted:
            break
        for document_id in {view.slots.document_ids[slot] for slot in more}:
            if held[document_id] >= limit:
                allowed_N[view.document(document_id)] = False
        more = nearest(view, space, query_D, Scope(allowed_N=allowed_N, excluded=found), depth)
        found = np.concatenate([found, more])
    return np.sort(found)
