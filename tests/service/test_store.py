import sqlite3
from pathlib import Path

import numpy as np
import pytest

from service.errors import StoreChangedError
from service.library import open_store
from service.store import ChunkRow, Store, StoreError

from .conftest import DIMENSION, unit_rows


def _rows(count: int, seed: int = 1) -> list[ChunkRow]:
    return [
        ChunkRow(
            id=f"d:{row}",
            document_id="d",
            position=row,
            text=f"Text {row}, größer",
            metadata={"title": "T", "row": row},
            vector_D=vector_D,
        )
        for row, vector_D in enumerate(unit_rows(count, seed))
    ]


def _fill(store: Store, rows: list[ChunkRow], source: str = "s") -> None:
    store.replace(rows, dimension=DIMENSION, embedding_model="m", name="n", source=source)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite", create=True)
    assert store.info() is None
    _fill(store, _rows(5))
    store.close()
    store = open_store(tmp_path).store
    info = store.info()
    assert info is not None
    assert (info.version, info.chunks, info.dimension) == (1, 5, DIMENSION)
    assert (info.embedding_model, info.name, info.source) == ("m", "n", "s")
    np.testing.assert_array_equal(store.vectors(DIMENSION), unit_rows(5, 1))
    assert store.catalogue().ids == [f"d:{row}" for row in range(5)]
    assert store.contents(["d:3", "none"], 1) == {
        "d:3": ("Text 3, größer", {"title": "T", "row": 3})
    }
    store.close()


def test_it_is_durable_by_configuration(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite", create=True).close()
    db = sqlite3.connect(tmp_path / "store.sqlite")
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def test_replacing_counts_up_and_a_failed_one_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite", create=True)
    _fill(store, _rows(5))
    _fill(store, _rows(3, seed=2), "t")
    with pytest.raises(StoreError, match="UNIQUE"):
        _fill(store, [*_rows(2), *_rows(2)], "u")
    info = store.info()
    assert info is not None
    assert (info.version, info.chunks, info.source) == (2, 3, "t")
    with pytest.raises(StoreChangedError, match="version 2"):
        store.contents(["d:0"], 1)
    store.close()


def test_a_reader_keeps_up_with_another_connection(tmp_path: Path) -> None:
    writer = Store(tmp_path / "store.sqlite", create=True)
    _fill(writer, _rows(2))
    reader = open_store(tmp_path).store
    _fill(writer, _rows(4))
    info = reader.info()
    assert info is not None
    assert info.version == 2
    reader.close()
    writer.close()


@pytest.mark.parametrize("content", [b"not a database" * 400, b""])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        open_store(tmp_path)


def test_a_missing_an_empty_and_a_newer_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "no" / "folder" / "store.sqlite", create=True)
    Store(tmp_path / "store.sqlite", create=True).close()
    with pytest.raises(StoreError, match="is empty"):
        open_store(tmp_path)
    db = sqlite3.connect(tmp_path / "store.sqlite")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="expected schema version 1, got 99"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("blob", "message"),
    [(b"\0" * 8, "16 float32"), (b"\0" * 64, "unit"), (b"\xff" * 64, "unit")],
)
def test_a_damaged_vector_is_found(tmp_path: Path, blob: bytes, message: str) -> None:
    store = Store(tmp_path / "store.sqlite", create=True)
    _fill(store, _rows(3))
    db = sqlite3.connect(tmp_path / "store.sqlite")
    db.execute("UPDATE chunks SET vector = ? WHERE row = 1", (blob,))
    db.commit()
    db.close()
    with pytest.raises(StoreError, match=message):
        store.vectors(DIMENSION)
    store.close()
