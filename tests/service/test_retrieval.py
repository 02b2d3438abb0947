"""The search step against brute force: graph and flat indexes, fresh and dead slots, filters."""

import numpy as np
import pytest

from models.index import IndexKind, VectorIndex
from service.modes import load_state
from service.retrieval import Scope, nearest, retrieve
from service.slots import Slots
from service.store import ChunkRow
from service.view import Served, Space, View

from .conftest import DIMENSION, unit_rows

COUNT = 3000
RAW_ND = unit_rows(COUNT, 4)
NO_SLOTS = np.empty(0, np.int64)


def _view(kind: IndexKind | None, indexed: int, dead: int = 0) -> View:
    """A view of which some slots are indexed, the others fresh, and some dead."""
    slots = Slots(DIMENSION)
    chunks = [
        ChunkRow(
            id=f"c:{row}",
            document_id=f"d:{row % 40}",
            position=row,
            text="",
            metadata={},
            vector_D=RAW_ND[row],
        )
        for row in range(COUNT)
    ]
    slots.append(range(1, COUNT + 1), chunks, 1)
    gone = np.random.default_rng(1).permutation(COUNT)[:dead]
    slots.kill([f"c:{row}" for row in gone], 2)
    index = None if kind is None else VectorIndex.build(RAW_ND[:indexed], kind)
    raw = Space(vectors=slots.raw.array, index=index)
    state = load_state(None, DIMENSION)
    served = Served(
        name="default", state=state, scorer=state.scorer(), plain=state.scorer(), space=raw
    )
    return View(
        slots=slots,
        count=COUNT,
        version=2,
        dead=slots.dead,
        raw=raw,
        models={"default": served},
        store_id="s",
        store_name="n",
        embedding_model="",
    )


def _expected(query_D: np.ndarray, allowed_N: np.ndarray, depth: int) -> list[int]:
    scores_N = np.where(allowed_N, RAW_ND @ query_D, -np.inf)
    best = np.argsort(-scores_N, kind="stable")[:depth]
    return [int(row) for row in best if allowed_N[row]]


@pytest.mark.parametrize(
    ("kind", "indexed", "dead"),
    [
        (None, 0, 0),
        (None, 0, 900),
        (IndexKind.FLAT, COUNT, 0),
        (IndexKind.FLAT, 2000, 900),
        (IndexKind.HNSW, COUNT, 0),
        (IndexKind.HNSW, 2000, 900),
    ],
)
def test_it_is_exact_in_every_state_of_the_index(
    kind: IndexKind | None, indexed: int, dead: int
) -> None:
    view = _view(kind, indexed, dead)
    generator = np.random.default_rng(2)
    for query_D in unit_rows(12, 5):
        excluded = np.sort(generator.choice(COUNT, 7, replace=False))
        for share in (None, 0.5, 0.05, 0.002):
            allowed_N = None if share is None else generator.random(COUNT) < share
            scope = Scope(allowed_N=allowed_N, excluded=excluded)
            wanted_N = view.alive.copy() if allowed_N is None else allowed_N & view.alive
            wanted_N[excluded] = False
            found = nearest(view, view.raw, query_D, scope, 20)
            assert found.tolist() == _expected(query_D, wanted_N, 20)


def test_many_exclusions_leave_what_is_left() -> None:
    view = _view(IndexKind.HNSW, COUNT)
    query_D = unit_rows(1, 6)[0]
    best = np.array(_expected(query_D, np.ones(COUNT, bool), 500))
    scope = Scope(allowed_N=None, excluded=np.sort(best))
    found = nearest(view, view.raw, query_D, scope, 10)
    wanted_N = np.ones(COUNT, bool)
    wanted_N[best] = False
    assert found.tolist() == _expected(query_D, wanted_N, 10)


def test_a_graph_is_exact_far_from_where_a_filter_lies() -> None:
    view = _view(IndexKind.HNSW, COUNT)
    query_D = RAW_ND[0]
    allowed_N = RAW_ND @ query_D < -0.3
    found = nearest(view, view.raw, query_D, Scope(allowed_N=allowed_N, excluded=NO_SLOTS), 50)
    assert found.tolist() == _expected(query_D, allowed_N, 50)


def test_equal_scores_fall_to_the_lower_slot() -> None:
    slots = Slots(2)
    same = np.array([1.0, 0.0], np.float32)
    chunks = [
        ChunkRow(id=str(n), document_id="d", position=n, text="", metadata={}, vector_D=same)
        for n in range(50)
    ]
    slots.append(range(1, 51), chunks, 1)
    view = _view(None, 0)
    space = Space(vectors=slots.raw.array, index=None)
    small = View(**{**vars(view), "slots": slots, "count": 50, "dead": 0, "raw": space})
    scope = Scope(allowed_N=None, excluded=np.array([1, 3]))
    assert nearest(small, space, same, scope, 4).tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize("limit", [1, 3])
def test_enough_documents_are_found(limit: int) -> None:
    view = _view(IndexKind.FLAT, COUNT)
    query_D = unit_rows(1, 7)[0]
    scope = Scope(allowed_N=None, excluded=NO_SLOTS, max_per_document=limit)
    found = retrieve(view, view.raw, query_D, scope, depth=8, wanted=30)
    documents = [view.slots.document_ids[slot] for slot in found]
    held = {one: documents.count(one) for one in documents}
    assert sum(min(count, limit) for count in held.values()) >= 30
    # The best of each document is among them, for the documents that can be in the answer.
    scores_N = RAW_ND @ query_D
    best = sorted(
        {f"d:{n % 40}" for n in range(40)}, key=lambda one: -scores_N[int(one[2:]) :: 40].max()
    )
    assert set(best[: 30 // limit]) <= held.keys()
    assert np.array_equal(found, np.unique(found))
