"""Stores of other versions: brought up to date, only read, or refused."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.migrations import SCHEMA_VERSION
from service.opening import open_collection
from service.settings import Settings
from service.store import STORE_FILE, ChunkRow, Store, StoreError

from .conftest import DIMENSION, unit_rows, whole_chunks

COUNT = 40
# Schema version 1 word for word, as its program made it.
FIRST = """
CREATE TABLE IF NOT EXISTS chunks (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    document_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_by_document ON chunks (document_id, position);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def write_first(folder: Path) -> Path:
    """A store of schema version 1, whose rows begin with 0."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STORE_FILE
    about = {
        "store_id": "first",
        "version": "3",
        "dimension": str(DIMENSION),
        "embedding_model": "old-16",
        "name": "old",
        "source": "prepared",
    }
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(FIRST)
        db.executemany("INSERT INTO meta VALUES (?, ?)", about.items())
        for row, vector_D in enumerate(unit_rows(COUNT, 5)):
            chunk = (f"old:{row}", f"d{row // 8}", row % 8, f"Größe {row}", json.dumps({"n": row}))
            db.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row, *chunk, vector_D.astype("<f4").tobytes()),
            )
        db.execute("PRAGMA user_version=1")
        db.commit()
    return path


def are_the_first(chunks: list[ChunkRow]) -> None:
    assert [chunk.id for chunk in chunks] == [f"old:{row}" for row in range(COUNT)]
    for row, (chunk, vector_D) in enumerate(zip(chunks, unit_rows(COUNT, 5), strict=True)):
        assert (chunk.document_id, chunk.position) == (f"d{row // 8}", row % 8)
        assert (chunk.text, chunk.metadata) == (f"Größe {row}", {"n": row})
        np.testing.assert_array_equal(chunk.vector_D, vector_D)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = write_first(tmp_path)
    with closing(Store(path)) as store:
        assert store.migrated == (1, SCHEMA_VERSION)
        are_the_first(whole_chunks(store))
        info = store.info()
        assert (info.store_id, info.version, info.chunks) == ("first", 3, COUNT)
        assert (info.dimension, info.embedding_model) == (DIMENSION, "old-16")
        assert (info.name, info.source) == ("old", "prepared")
        last = int(store.row_numbers()[-1])
        store.write([], [f"old:{COUNT - 1}"])
        chunk = ChunkRow(
            id="new",
            document_id="d0",
            position=9,
            text="",
            metadata={},
            vector_D=unit_rows(1, 6)[0],
        )
        assert store.write([chunk]).rows == [last + 1]  # not numbered twice
    assert version_of(path) == SCHEMA_VERSION
    with closing(Store(path)) as store:
        assert store.migrated == (SCHEMA_VERSION, SCHEMA_VERSION)
    opened = open_collection(Settings(data=tmp_path))
    assert opened.collection.view.living == COUNT
    opened.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = write_first(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE idempotency (in_the_way)")
    with pytest.raises(StoreError, match="idempotency already exists"):
        Store(path)
    assert version_of(path) == 1
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE idempotency")
    with closing(Store(path)) as store:
        are_the_first(whole_chunks(store))


def test_a_reader_migrates_nothing(tmp_path: Path) -> None:
    path = write_first(tmp_path)
    before = path.read_bytes()
    with closing(Store(path, read_only=True)) as store:
        assert store.migrated == (1, 1)
        assert store.info().store_id == "first"
        are_the_first(whole_chunks(store))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.write([], ["old:0"])
    assert path.read_bytes() == before


def later(path: Path) -> None:
    Store(path, create=True).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 7}")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")


def empty(path: Path) -> None:
    path.touch()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (later, f"version {SCHEMA_VERSION} or earlier, got {SCHEMA_VERSION + 7}: a later"),
        (foreign, "expected a store, got an SQLite file of something else"),
        (empty, "expected a store, got an empty file"),
        (garbage, "not a usable SQLite store: file is not a database"),
    ],
)
def test_other_files_are_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], message: str, read_only: bool
) -> None:
    path = tmp_path / STORE_FILE
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        Store(path, read_only=read_only)
    assert path.read_bytes() == before
