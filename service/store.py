"""The store: one SQLite file that is the truth about chunks, texts, metadata and raw vectors.

WAL with full synchronisation: what was acknowledged survives a killed process. Everything else in
the data folder is derived from it and can be rebuilt.

Shapes: N chunks, D dimension.
"""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.scoring import Floats
from service.errors import StoreChangedError

SCHEMA_VERSION = 1
STORE_FILE = "store.sqlite"
BUSY_TIMEOUT_S = 30.0
IDS_A_STATEMENT = 500

_SCHEMA = """
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


class StoreError(ValueError):
    """The store is missing, damaged, empty or of another schema; the message says which."""


@dataclass(frozen=True, kw_only=True)
class ChunkRow:
    """A chunk as it is stored."""

    id: str
    document_id: str
    position: int
    text: str
    metadata: dict[str, Any]
    vector_D: Floats


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What the store says about itself."""

    store_id: str
    """Random, made with the file, so that versions of two stores are never confused."""
    version: int
    """Counts the changes since then."""
    chunks: int
    dimension: int
    embedding_model: str
    name: str
    source: str
    """Fingerprint of the prepared data that it was filled from."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Ids and places of all chunks, in row order."""

    ids: list[str]
    document_ids: list[str]
    positions: list[int]


class Store:
    """One connection to the store, safe to share between threads.

    Args:
        path: The SQLite file.
        create: Whether to make it if it is not there.

    Raises:
        StoreError: If it is not there (and not to be made), or cannot be used.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise StoreError(f"{path}: no such store; 'python -m service index' makes one")
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: cannot be opened: {error}") from error
        try:
            self._prepare(path, create)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(f"{path}: not a usable SQLite store: {error}") from error
        except StoreError:
            self._db.close()
            raise

    def _prepare(self, path: Path, create: bool) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found == 0 and create:
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('store_id', ?), ('version', '0')",
                (uuid.uuid4().hex,),
            )
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif found != SCHEMA_VERSION:
            raise StoreError(f"{path}: expected schema version {SCHEMA_VERSION}, got {found}")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def info(self) -> StoreInfo | None:
        """Read what the store says about itself, or None before it was first filled."""
        with self._transaction("DEFERRED"):
            meta = dict(self._db.execute("SELECT key, value FROM meta"))
            count = int(self._db.execute("SELECT count(*) FROM chunks").fetchone()[0])
        if "source" not in meta or not count:
            return None
        return StoreInfo(
            store_id=meta["store_id"],
            version=int(meta["version"]),
            chunks=count,
            dimension=int(meta["dimension"]),
            embedding_model=meta["embedding_model"],
            name=meta["name"],
            source=meta["source"],
        )

    def replace(
        self,
        rows: Iterable[ChunkRow],
        *,
        dimension: int,
        embedding_model: str,
        name: str,
        source: str,
    ) -> None:
        """Replace all chunks in one transaction; readers see the old ones or the new.

        Raises:
            StoreError: If an id stands twice, or the file cannot be written.
        """
        about = {
            "dimension": str(dimension),
            "embedding_model": embedding_model,
            "name": name,
            "source": source,
        }
        try:
            with self._transaction("IMMEDIATE"):
                self._db.execute("DELETE FROM chunks")
                self._db.executemany(
                    "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (_values(row, chunk) for row, chunk in enumerate(rows)),
                )
                self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", about.items())
                self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"store: could not be written: {error}") from error

    def catalogue(self) -> Catalogue:
        """Read ids and places of all chunks, in row order."""
        with self._lock:
            found = self._db.execute(
                "SELECT id, document_id, position FROM chunks ORDER BY row"
            ).fetchall()
        return Catalogue(
            ids=[row[0] for row in found],
            document_ids=[row[1] for row in found],
            positions=[row[2] for row in found],
        )

    def vectors(self, dimension: int) -> Floats:
        """Read all raw unit vectors (N, D), in row order.

        Raises:
            StoreError: If a stored vector is not a unit vector of that dimension.
        """
        with self._lock:
            blobs = [row[0] for row in self._db.execute("SELECT vector FROM chunks ORDER BY row")]
        if any(len(blob) != 4 * dimension for blob in blobs):
            raise StoreError(f"store: expected vectors of {dimension} float32, got another length")
        vectors_ND = np.frombuffer(bytearray().join(blobs), "<f4").reshape(-1, dimension)
        squares_N = np.einsum("nd,nd->n", vectors_ND, vectors_ND)
        if not (np.abs(squares_N - 1.0) < 1e-3).all():
            raise StoreError("store: expected unit vectors, got another length")
        return np.ascontiguousarray(vectors_ND, np.float32)

    def contents(self, ids: Sequence[str], version: int) -> dict[str, tuple[str, dict[str, Any]]]:
        """Read text and metadata of chunks by id.

        Args:
            ids: Which chunks; unknown ones are left out.
            version: Store version that the caller works with.

        Raises:
            StoreChangedError: If the store has another version by now.
        """
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        with self._transaction("DEFERRED"):
            stored = self._db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
            if int(stored[0]) != version:
                raise StoreChangedError(
                    f"the store is at version {stored[0]} and this service loaded {version}; "
                    "restart it"
                )
            for start in range(0, len(ids), IDS_A_STATEMENT):
                some = ids[start : start + IDS_A_STATEMENT]
                marks = ",".join("?" * len(some))
                for row in self._db.execute(
                    f"SELECT id, text, metadata FROM chunks WHERE id IN ({marks})", some
                ):
                    found[row[0]] = (row[1], json.loads(row[2]))
        return found

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        with self._lock:
            self._db.execute(f"BEGIN {kind}")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _values(row: int, chunk: ChunkRow) -> tuple[object, ...]:
    return (
        row,
        chunk.id,
        chunk.document_id,
        chunk.position,
        chunk.text,
        json.dumps(chunk.metadata, ensure_ascii=False),
        chunk.vector_D.astype("<f4").tobytes(),
    )
