"""Compaction while others write, and when nothing is left: no chunk is lost, none comes back."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.collection import Collection, Limits
from service.opening import _collect
from service.retrieval import Scope, nearest
from service.settings import Settings
from service.store import STORE_FILE, ChunkRow, Heads, Store

from .conftest import unit_rows, whole_chunks

NOTHING = Scope(allowed_N=None, excluded=np.empty(0, np.int64))


class Interrupted(Store):
    """A store in which something happens right after all chunks have been read once."""

    then: Callable[[], object] | None = None

    def heads(self, last: int) -> Iterator[Heads]:
        yield from super().heads(last)
        then, self.then = self.then, None
        if then is not None:
            then()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Interrupted]:
    with closing(Interrupted(tmp_path / STORE_FILE, create=True)) as store:
        yield store


@pytest.fixture
def collection(store: Interrupted, tmp_path: Path) -> Collection:
    collection = _collect(store, Settings(data=tmp_path))
    collection.limits = Limits(fresh=1000, dead=10)
    put(collection, {f"c:{row}": row for row in range(20)})
    put(collection, {f"c:{row}": row + 20 for row in range(12)})
    assert collection.view.dead == 12
    return collection


VECTORS_ND = unit_rows(60, 1)


def put(collection: Collection, rows: dict[str, int]) -> None:
    collection.upsert(
        [
            ChunkRow(
                id=name,
                document_id="d",
                position=row,
                text="",
                metadata={},
                vector_D=VECTORS_ND[row],
            )
            for name, row in rows.items()
        ]
    )


def found(collection: Collection) -> dict[str, int]:
    """Ids and rows that can be looked up and found."""
    view = collection.view
    ids = [view.slots.ids[slot] for slot in np.flatnonzero(view.alive)]
    assert view.living == len(ids) == len(set(ids))
    rows = {}
    for name in ids:
        slot = view.slot(name)
        assert slot is not None
        vector_D = view.raw.vectors[slot]
        assert nearest(view, view.raw, vector_D, NOTHING, 1).tolist() == [slot]
        rows[name] = int(np.flatnonzero((vector_D == VECTORS_ND).all(axis=1))[0])
    assert sorted(ids) == sorted(chunk.id for chunk in whole_chunks(collection.store))
    return rows


def test_what_is_written_meanwhile_is_there_afterwards(
    store: Interrupted, collection: Collection
) -> None:
    def write() -> None:
        put(collection, {"c:3": 40, "c:15": 41, "new": 42})
        collection.delete(["c:4", "c:16"])
        put(collection, {"c:4": 43})

    store.then = write
    slots = collection.view.slots
    collection.build()
    assert collection.view.slots is not slots
    expected = {f"c:{row}": row + 20 if row < 12 else row for row in range(20) if row != 16}
    assert found(collection) == {**expected, "c:3": 40, "c:15": 41, "new": 42, "c:4": 43}


def test_a_collection_of_which_all_is_deleted_starts_over(collection: Collection) -> None:
    collection.delete([f"c:{row}" for row in range(20)])
    collection.build()
    assert (collection.view.count, collection.view.living) == (0, 0)
    put(collection, {"c:0": 50})
    collection.build()
    assert found(collection) == {"c:0": 50}
