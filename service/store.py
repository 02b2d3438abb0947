"""The store: one SQLite file that is the truth about chunks, texts, metadata and raw vectors.

WAL with full synchronisation: what was acknowledged survives a killed process. Everything else in
the data folder is derived from it and can be rebuilt. Rows are never changed and never numbered
twice: a chunk that is written again gets a new row.

Shapes: N chunks, D dimension.
"""

import contextlib
import itertools
import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.index import Rows
from models.scoring import Floats
from service.errors import StorageFullError
from service.idempotency import IdempotencyKey as IdempotencyKey
from service.idempotency import Written as Written
from service.idempotency import record, replay
from service.migrations import SchemaError, migrate, readable_version
from service.rows import (
    CHUNKS_A_BLOCK,
    HEADS_A_BLOCK,
    INSERT,
    NAMES_A_STATEMENT,
    contents_of,
    heads_of,
    info_of,
    portions,
    values_of,
    vectors_of,
    walk,
)
from service.rows import ChunkRow as ChunkRow
from service.rows import Heads as Heads
from service.rows import Kind as Kind
from service.rows import StoreError as StoreError
from service.rows import StoreInfo as StoreInfo

STORE_FILE = "store.sqlite"
BUSY_TIMEOUT_S = 30.0
CACHE_KIB, BULK_CACHE_KIB = 2000, 262_144


class Store:
    """The store's connections: one that writes, and one for each thread that reads.

    Args:
        path: The SQLite file.
        create: Whether to make it if it is not there.
        read_only: Whether to leave it as it is, of whatever schema version. Such a store may be
            opened beside a running service.

    Raises:
        StoreError: If it is not there (and not to be made), or cannot be used.
    """

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        if not create and not path.is_file():
            raise StoreError(f"{path}: no such store; 'python -m service index' makes one")
        self.path = path
        self._read_only = read_only
        self._writing = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        try:
            self._db = self._connect()
            if read_only:
                self.migrated = readable_version(self._db)
            else:
                self.migrated = migrate(self._db, create=create)
                self._db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: not a usable SQLite store: {error}") from error
        except SchemaError as error:
            self.close()
            raise StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close all connections."""
        with self._writing:
            while self._connections:
                self._connections.pop().close()

    def info(self) -> StoreInfo:
        """Read what the store says about itself.

        Raises:
            StoreError: If it is damaged.
        """
        try:
            with self._snapshot() as db:
                return info_of(db)
        except (sqlite3.DatabaseError, KeyError, ValueError) as error:
            raise StoreError(f"{self.path}: damaged: {error}") from error

    def write(
        self,
        upserts: Sequence[ChunkRow],
        delete_ids: Sequence[str] = (),
        *,
        kind: Kind | None = None,
        key: IdempotencyKey | None = None,
    ) -> Written:
        """Write and delete chunks in one transaction: all of it is committed, or nothing.

        Args:
            upserts: Chunks, which replace those with the same ids. Their ids differ.
            delete_ids: Ids to delete; unknown ones count for nothing.
            kind: Recorded if the store has none yet.
            key: Looked up first, and recorded with the answer.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            StorageFullError: If the disk is full.
        """
        with self._transaction() as db:
            if key is not None and (earlier := replay(db, key)) is not None:
                return earlier
            deleted = _delete(db, delete_ids)
            _delete(db, [chunk.id for chunk in upserts])
            rows = [_insert(db, chunk) for chunk in upserts]
            if kind is not None and rows:
                _remember(db, kind)
            if rows or deleted:
                _count_change(db)
            written = Written(
                version=_store_version(db),
                rows=rows,
                deleted=deleted,
                replayed=False,
                count=len(rows) + deleted,
            )
            if key is not None:
                record(db, key, written)
            return written

    def merge(self, chunks: Iterable[ChunkRow], *, kind: Kind, name: str) -> int:
        """Write any number of chunks in one transaction, in bounded memory.

        Args:
            chunks: Chunks, which replace those with the same ids. Their ids differ.
            kind: Recorded if the store has none yet.
            name: The same.

        Returns:
            How many of them replaced another.

        Raises:
            StorageFullError: If the disk is full.
            StoreError: If the file cannot be written.
        """
        rest, replaced = iter(chunks), 0
        try:
            with self._bulk(), self._transaction() as db:
                while some := list(itertools.islice(rest, NAMES_A_STATEMENT)):
                    replaced += _delete(db, [chunk.id for chunk in some])
                    db.executemany(INSERT, map(values_of, some))
                _remember(db, kind)
                db.execute("INSERT OR IGNORE INTO meta VALUES ('name', ?)", (name,))
                _count_change(db)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"store: could not be written: {error}") from error
        return replaced

    def replace(self, chunks: Iterable[ChunkRow], *, kind: Kind, name: str, source: str) -> None:
        """Replace all chunks in one transaction.

        Raises:
            StoreError: If an id stands twice, or the file cannot be written.
        """
        about = {
            "dimension": str(kind.dimension),
            "embedding_model": kind.embedding_model,
            "name": name,
            "source": source,
        }
        try:
            with self._bulk(), self._transaction() as db:
                db.execute("DELETE FROM chunks")
                db.executemany(INSERT, map(values_of, chunks))
                db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", about.items())
                db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"store: could not be written: {error}") from error

    def row_numbers(self) -> Rows:
        """Read the numbers of all rows, rising."""
        found = self._reader().execute("SELECT row FROM chunks INDEXED BY chunks_heads ORDER BY 1")
        return np.fromiter((row for (row,) in found), np.int64)

    def heads(self, last: int) -> Iterator[Heads]:
        """Walk the chunks up to a row, without texts and vectors, as they stand at one moment.

        Raises:
            StoreError: If the file is damaged.
        """
        yield from map(
            heads_of,
            self._walk(
                "SELECT row, id, document_id, position, metadata FROM chunks "
                "INDEXED BY chunks_heads WHERE row <= ? ORDER BY row",
                last,
                HEADS_A_BLOCK,
            ),
        )

    def blocks(self, after: int) -> Iterator[tuple[Heads, Floats]]:
        """Walk the chunks of rows after one, without their texts, as they stand at one moment.

        Yields:
            Heads, and the vectors (n, D) that belong to them.

        Raises:
            StoreError: If a vector is not a unit vector of the store's dimension, or the file is
                damaged.
        """
        dimension = self.info().dimension or 0
        for found in self._walk(
            "SELECT row, id, document_id, position, metadata, vector FROM chunks "
            "WHERE row > ? ORDER BY row",
            after,
            CHUNKS_A_BLOCK,
        ):
            heads = heads_of(found)
            yield heads, vectors_of([chunk[5] for chunk in found], heads.ids, dimension)

    def vectors(self, rows: Rows) -> Floats:
        """Read the vectors (n, D) of some rows that are there.

        Raises:
            StoreError: If one is not there or not a unit vector of the store's dimension.
        """
        db, blobs = self._reader(), []
        for row in rows.tolist():
            found = db.execute("SELECT vector FROM chunks WHERE row = ?", (row,)).fetchone()
            if found is None:
                raise StoreError(f"{self.path}: damaged: there is no row {row}")
            blobs.append(found[0])
        return vectors_of(blobs, [f"row {row}" for row in rows], self.info().dimension or 0)

    @contextlib.contextmanager
    def at_one_moment(self) -> Iterator[tuple[StoreInfo, Callable[[], Iterator[ChunkRow]]]]:
        """Hold on to the store as it stands: what it says about itself, and what walks its chunks.

        Yields:
            Both; the walk may be made more than once, and tells the same each time.

        Raises:
            StoreError: If it is damaged.
        """
        try:
            with self._snapshot() as db:
                info = info_of(db)
                yield info, lambda: walk(db, info.dimension or 0)
        except (sqlite3.DatabaseError, json.JSONDecodeError, KeyError) as error:
            raise StoreError(f"{self.path}: damaged: {error}") from error

    def contents(self, ids: Mapping[int, str]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Read text and metadata of chunks by row, given the id of each.

        A chunk that was written again since has what it has now; one that was deleted is left out.
        """
        return contents_of(self._reader(), ids)

    def size_bytes(self) -> int:
        """Bytes of the file and its log."""
        parts = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())

    def back_up(self, target: Path) -> None:
        """Copy the store while it is used; the copy is one file, as of one moment."""
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            self._reader().backup(copy)
            # The copy's rows will go on otherwise, so indexes of this store must not pass for its.
            copy.execute("UPDATE meta SET value = ? WHERE key = 'store_id'", (uuid.uuid4().hex,))
            # One file, without a log beside it; the service turns the log on again.
            copy.execute("PRAGMA journal_mode=DELETE")
        finally:
            copy.close()

    def check(self) -> None:
        """Have SQLite look at all of the file.

        Raises:
            StoreError: If it is damaged.
        """
        found = self._reader().execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreError(f"{self.path}: damaged: {found}")

    def _walk(self, query: str, row: int, at_once: int) -> Iterator[list[Any]]:
        try:
            with self._snapshot() as db:
                found = db.execute(query, (row,))
                while some := found.fetchmany(at_once):
                    yield some
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise StoreError(f"{self.path}: damaged: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self._read_only else "rwc"
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        self._connections.append(db)
        db.execute("PRAGMA synchronous=FULL")
        return db

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection: readers wait neither for the writer nor for each other."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
        return db

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        db = self._reader()
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _bulk(self) -> Iterator[None]:
        """Keep more of the file in memory meanwhile: ids come in no order of their index."""
        self._db.execute(f"PRAGMA cache_size=-{BULK_CACHE_KIB}")
        try:
            yield
        finally:
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    # SQLite itself rolls back when the disk is full.
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise StorageFullError("the store's disk is full") from error
                raise


def _remember(db: sqlite3.Connection, kind: Kind) -> None:
    about = (("dimension", str(kind.dimension)), ("embedding_model", kind.embedding_model))
    db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", about)


def _count_change(db: sqlite3.Connection) -> None:
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
    # Other data than it was filled from, from now on.
    db.execute("DELETE FROM meta WHERE key = 'source'")


def _store_version(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()[0])


def _delete(db: sqlite3.Connection, ids: Sequence[str]) -> int:
    deleted = 0
    for some in portions(ids):
        marks = ",".join("?" * len(some))
        deleted += db.execute(f"DELETE FROM chunks WHERE id IN ({marks})", some).rowcount
    return deleted


def _insert(db: sqlite3.Connection, chunk: ChunkRow) -> int:
    row = db.execute(INSERT, values_of(chunk)).lastrowid
    assert row is not None
    return row
