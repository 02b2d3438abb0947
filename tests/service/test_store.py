import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import IdempotencyKeyReusedError, StorageFullError
from service.migrations import SCHEMA_VERSION
from service.store import ChunkRow, IdempotencyKey, Kind, Store, StoreError

from .conftest import DIMENSION, unit_rows, whole_chunks

KIND = Kind(dimension=DIMENSION, embedding_model="m")


def _rows(count: int, seed: int = 1, text: str = "größer") -> list[ChunkRow]:
    return [
        ChunkRow(
            id=f"d:{row}",
            document_id="d",
            position=row,
            text=f"Text {row}, {text}",
            metadata={"title": "T", "row": row},
            vector_D=vector_D,
        )
        for row, vector_D in enumerate(unit_rows(count, seed))
    ]


def _fill(store: Store, rows: list[ChunkRow], source: str = "s") -> None:
    store.replace(rows, kind=KIND, name="n", source=source)


def _content(store: Store) -> dict[str, str]:
    return {chunk.id: chunk.text for chunk in whole_chunks(store)}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(tmp_path / "store.sqlite", create=True)
    yield opened
    opened.close()


def test_what_was_written_is_read_back(tmp_path: Path, store: Store) -> None:
    info = store.info()
    assert (info.version, info.chunks, info.dimension, info.source) == (0, 0, None, "")
    _fill(store, _rows(5))
    again = Store(tmp_path / "store.sqlite")
    info = again.info()
    assert (info.version, info.chunks, info.dimension) == (1, 5, DIMENSION)
    assert (info.embedding_model, info.name, info.source) == ("m", "n", "s")
    ((heads, vectors_ND),) = again.blocks(0)
    assert heads.rows.tolist() == again.row_numbers().tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(vectors_ND, unit_rows(5, 1))
    assert heads.ids == [f"d:{row}" for row in range(5)]
    assert (heads.document_ids, heads.positions) == (["d"] * 5, list(range(5)))
    assert heads.metadata[3] == '{"title":"T","row":3}'
    assert [one.ids for one in again.heads(2)] == [["d:0", "d:1"]]
    np.testing.assert_array_equal(again.vectors(np.array([4, 2])), unit_rows(5, 1)[[3, 1]])
    with pytest.raises(StoreError, match="there is no row 9"):
        again.vectors(np.array([9]))
    content = ("Text 3, größer", {"title": "T", "row": 3})
    assert again.contents({4: "d:3", 99: "nobody"}) == {4: content}
    # A reader knows the chunk by the row that it had when it was written first.
    assert again.contents({98: "d:3"}) == {98: content}
    assert [heads.rows.tolist() for heads, _ in again.blocks(3)] == [[4, 5]]
    assert [chunk.text for chunk in whole_chunks(again)][4] == "Text 4, größer"
    again.close()


def test_it_is_durable_by_configuration(store: Store) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_row_number_is_never_used_twice(store: Store) -> None:
    first = store.write(_rows(3), kind=KIND)
    second = store.write(_rows(2, seed=2))
    third = store.write([], ["d:0", "d:1", "d:2", "nowhere"])
    fourth = store.write(_rows(1))
    assert (first.rows, second.rows, fourth.rows) == ([1, 2, 3], [4, 5], [6])
    assert (third.deleted, third.count) == (3, 3)
    assert [one.version for one in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert store.write([], ["nowhere"]).version == 4
    assert store.info().embedding_model == "m"


def test_a_failed_write_changes_nothing(store: Store) -> None:
    _fill(store, _rows(3))
    with pytest.raises(StoreError, match="UNIQUE"):
        _fill(store, [*_rows(2), *_rows(2)], "u")
    with pytest.raises(sqlite3.IntegrityError):
        store.write([*_rows(2, text="new"), *_rows(1)], ["d:2"])
    info = store.info()
    assert (info.version, info.chunks, info.source) == (1, 3, "s")
    assert set(_content(store).values()) == {f"Text {row}, größer" for row in range(3)}


def test_a_full_disk_is_told_and_changes_nothing(store: Store) -> None:
    _fill(store, _rows(3))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StorageFullError, match="full"):
        store.write(_rows(200, text="x" * 10_000))
    assert (store.info().version, store.info().chunks) == (1, 3)
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.write(_rows(200)).version == 2


def test_an_idempotency_key_writes_once(store: Store) -> None:
    key = IdempotencyKey(key="k", request="digest")
    first = store.write(_rows(3), kind=KIND, key=key)
    other = store.write([], ["d:0"], key=IdempotencyKey(key="other", request="x"))
    again = store.write(_rows(3), key=key)
    assert (again.replayed, again.version, again.count) == (True, first.version, 3)
    assert (first.replayed, other.count, store.info().version) == (False, 1, 2)
    with pytest.raises(IdempotencyKeyReusedError, match="another request"):
        store.write(_rows(1), key=IdempotencyKey(key="k", request="another"))
    # A day later it is forgotten.
    store._db.execute("UPDATE idempotency SET written_s = written_s - 86401")
    assert not store.write(_rows(1), key=IdempotencyKey(key="k", request="another")).replayed


def test_a_reader_sees_one_moment_while_another_writes(tmp_path: Path, store: Store) -> None:
    _fill(store, _rows(5000))
    reader = Store(tmp_path / "store.sqlite")
    blocks = reader.blocks(0)
    seen = len(next(blocks)[1])
    store.write([], [f"d:{row}" for row in range(5000)])
    assert seen + sum(len(vectors_ND) for _, vectors_ND in blocks) == 5000
    assert reader.info().chunks == 0
    reader.close()


def test_a_backup_is_a_store_of_its_own(tmp_path: Path, store: Store) -> None:
    _fill(store, _rows(5))
    store.back_up(tmp_path / "copy.sqlite")
    store.write([], ["d:0"])
    copy = Store(tmp_path / "copy.sqlite")
    assert copy.info().chunks == 5
    # Rows that each writes from now on have the same numbers, and are not the same.
    assert copy.info().store_id != store.info().store_id
    copy.close()


@pytest.mark.parametrize("content", [b"not a database" * 400, b"x"])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"other\.sqlite"):
        Store(tmp_path / "other.sqlite")


def test_a_missing_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        Store(tmp_path / "store.sqlite")
    with pytest.raises(StoreError, match="not a usable SQLite store"):
        Store(tmp_path / "no" / "folder" / "store.sqlite", create=True)


@pytest.mark.parametrize(
    ("blob", "message"),
    [(b"\0" * 8, "16 float32"), (b"\0" * 64, "unit"), (b"\xff" * 64, "unit")],
)
def test_a_damaged_vector_is_found(store: Store, blob: bytes, message: str) -> None:
    _fill(store, _rows(3))
    store._db.execute("UPDATE chunks SET vector = ? WHERE row = 2", (blob,))
    with pytest.raises(StoreError, match=message):
        list(store.blocks(0))
