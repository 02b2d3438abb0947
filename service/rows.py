"""How chunks and what a store says about itself lie in the rows of its tables.

Shapes: N chunks, D dimension.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson

from models.index import Rows
from models.scoring import Bools, Floats

T = TypeVar("T")

CHUNKS_A_BLOCK = 2048
HEADS_A_BLOCK = 16_384
NAMES_A_STATEMENT = 500
UNIT_TOLERANCE = 1e-3
INSERT = (
    "INSERT INTO chunks (id, document_id, position, text, metadata, vector) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)


class StoreError(ValueError):
    """The store is missing, damaged or of another schema; the message says which."""


@dataclass(frozen=True, kw_only=True)
class ChunkRow:
    """A chunk as it is stored."""

    id: str
    document_id: str
    position: int
    text: str
    metadata: dict[str, Any]
    vector_D: Floats
    """Raw unit vector."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What must be known of many chunks to search them, but for their vectors."""

    rows: Rows
    """Row of each, rising."""
    ids: list[str]
    document_ids: list[str]
    positions: list[int]
    metadata: list[str]
    """As JSON objects."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What the store says about itself."""

    store_id: str
    """Random, made with the file, so that rows of two stores are never confused."""
    version: int
    """Counts the changes since then."""
    chunks: int
    dimension: int | None
    """D of all its vectors; None before the first chunk, if nothing else decided it."""
    embedding_model: str
    name: str
    source: str
    """Fingerprint of the prepared data that it was filled from; empty if it was not."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all chunks of a store share, recorded with the first."""

    dimension: int
    embedding_model: str


def info_of(db: sqlite3.Connection) -> StoreInfo:
    """Read what a store says about itself.

    Raises:
        KeyError: If it does not say it.
    """
    meta = dict(db.execute("SELECT key, value FROM meta"))
    return StoreInfo(
        store_id=meta["store_id"],
        version=int(meta["version"]),
        chunks=int(db.execute("SELECT count(*) FROM chunks").fetchone()[0]),
        dimension=int(meta["dimension"]) if "dimension" in meta else None,
        embedding_model=meta.get("embedding_model", ""),
        name=meta.get("name", ""),
        source=meta.get("source", ""),
    )


def walk(db: sqlite3.Connection, dimension: int) -> Iterator[ChunkRow]:
    """Walk all chunks with their texts, in row order.

    Raises:
        StoreError: If a vector is not a unit vector of the dimension.
    """
    found = db.execute(
        "SELECT id, document_id, position, metadata, text, vector FROM chunks ORDER BY row"
    )
    while some := found.fetchmany(CHUNKS_A_BLOCK):
        yield from chunks_of(some, dimension)


def values_of(chunk: ChunkRow) -> tuple[object, ...]:
    """What ``INSERT`` takes."""
    return (
        chunk.id,
        chunk.document_id,
        chunk.position,
        chunk.text,
        orjson.dumps(chunk.metadata).decode(),
        chunk.vector_D.astype("<f4").tobytes(),
    )


def are_unit(vectors_ND: Floats) -> Bools:
    """Which of the vectors (N,) a store may hold."""
    squares_N = np.einsum("nd,nd->n", vectors_ND, vectors_ND)
    unit_N: Bools = np.abs(squares_N - 1.0) < UNIT_TOLERANCE
    return unit_N


def heads_of(found: Sequence[Sequence[Any]]) -> Heads:
    """Make heads of rows (row, id, document_id, position, metadata, ...), at least one."""
    rows, ids, document_ids, positions, metadata, *_ = map(list, zip(*found, strict=True))
    return Heads(
        rows=np.array(rows, np.int64),
        ids=ids,
        document_ids=document_ids,
        positions=positions,
        metadata=metadata,
    )


def vectors_of(blobs: Sequence[bytes], ids: Sequence[str], dimension: int) -> Floats:
    """Make vectors (N, D) of what the store holds for some chunks.

    Raises:
        StoreError: If one is not a unit vector of the dimension.
    """
    for blob, chunk_id in zip(blobs, ids, strict=True):
        if len(blob) != 4 * dimension:
            raise StoreError(
                f"store: chunk {chunk_id!r}: expected a vector of {dimension} float32, "
                f"got {len(blob)} bytes"
            )
    vectors_ND = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, dimension)
    if not are_unit(vectors_ND).all():
        raise StoreError("store: expected unit vectors, got another length")
    return vectors_ND.astype(np.float32, copy=False)


def chunks_of(found: Sequence[Sequence[Any]], dimension: int) -> list[ChunkRow]:
    """Make chunks of rows (id, document_id, position, metadata, text, vector).

    Raises:
        StoreError: If a vector is not a unit vector of the dimension.
    """
    ids = [chunk[0] for chunk in found]
    vectors_ND = vectors_of([chunk[5] for chunk in found], ids, dimension)
    return [
        ChunkRow(
            id=chunk[0],
            document_id=chunk[1],
            position=chunk[2],
            text=chunk[4],
            metadata=orjson.loads(chunk[3]),
            vector_D=vector_D,
        )
        for chunk, vector_D in zip(found, vectors_ND, strict=True)
    ]


def contents_of(
    db: sqlite3.Connection, ids: Mapping[int, str]
) -> dict[int, tuple[str, dict[str, Any]]]:
    """Read text and metadata of chunks by row, given the id of each.

    A chunk that was written again since has what it has now; one that was deleted is left out.
    """
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    select = "SELECT row, id, text, metadata FROM chunks WHERE"
    for some in portions(list(ids)):
        marks = ",".join("?" * len(some))
        for row, _, text, metadata in db.execute(f"{select} row IN ({marks})", some):
            found[row] = (text, orjson.loads(metadata))
    gone = {name: row for row, name in ids.items() if row not in found}
    for names in portions(list(gone)):
        marks = ",".join("?" * len(names))
        for _, name, text, metadata in db.execute(f"{select} id IN ({marks})", names):
            found[gone[name]] = (text, orjson.loads(metadata))
    return found


def portions(values: Sequence[T], size: int = NAMES_A_STATEMENT) -> Iterator[Sequence[T]]:
    """Cut values into parts of a size: as many as one statement may name, unless told otherwise."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
