"""Reads the folder that ``python -m training prepare`` and ``embed`` leave behind.

    manifest.json    counts, fingerprint, and what the vectors were made with
    documents.jsonl  one document a line, with the first row and the number of its chunks
    chunks.jsonl     one chunk a line, in document order
    vectors.npy      (N, D) float32 unit rows, in the order of chunks.jsonl

``training`` itself is not imported: the files are the contract.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from models.scoring import Floats
from service.store import ChunkRow
from service.vectors import unit

FORMAT = 1
ROWS_AT_ONCE = 65_536


class PreparedError(ValueError):
    """A prepared folder is missing, incomplete or inconsistent; the message says where."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared folder whose manifest has been read and whose vectors are at hand."""

    folder: Path
    name: str
    chunks: int
    dimension: int
    embedding_model: str
    fingerprint: str
    """sha256 over the manifest's data fingerprint and its account of the vectors."""
    vectors_ND: Floats
    """Raw unit vectors, memory-mapped."""

    def rows(self) -> Iterator[ChunkRow]:
        """Walk all chunks in row order.

        Raises:
            PreparedError: If documents and chunks do not fit together.
        """
        chunks = _lines(self.folder / "chunks.jsonl")
        row = 0
        for document in _lines(self.folder / "documents.jsonl"):
            doc_id, count = str(document["doc_id"]), int(document["count"])
            if int(document["start"]) != row:
                raise PreparedError(
                    f"documents.jsonl: {doc_id}: expected start {row}, got {document['start']}"
                )
            about = {key: document.get(key) for key in ("title", "source", "licence")}
            for position in range(count):
                chunk = next(chunks, None)
                if chunk is None:
                    raise PreparedError(f"chunks.jsonl: {doc_id}: expected {count} chunks, it ends")
                yield ChunkRow(
                    id=f"{doc_id}:{position}",
                    document_id=doc_id,
                    position=position,
                    text=str(chunk["text"]),
                    metadata={"section": chunk.get("section"), **about},
                    vector_D=unit(np.array(self.vectors_ND[row]), f"vectors.npy row {row}"),
                )
                row += 1
        if row != self.chunks or next(chunks, None) is not None:
            raise PreparedError(
                f"documents.jsonl: expected {self.chunks} chunks in all documents, got {row}"
            )


def open_prepared(folder: Path) -> Prepared:
    """Read a prepared folder's manifest and map its vectors.

    Raises:
        PreparedError: If it is missing, of another format, not embedded, or inconsistent.
    """
    manifest = _read_manifest(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise PreparedError(
            f"manifest.json: expected format {FORMAT}, got {manifest.get('format')!r}"
        )
    vectors = manifest.get("vectors")
    if not isinstance(vectors, dict):
        raise PreparedError(
            f"{folder}: has no vectors yet; run 'python -m training embed' on it first"
        )
    try:
        # As a plain array, each of whose rows costs a fraction of a mapped one's.
        vectors_ND = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise PreparedError(f"vectors.npy: not readable: {error}") from error
    expected = (int(manifest["chunks"]), int(vectors["dimension"]))
    if vectors_ND.shape != expected or vectors_ND.dtype != np.float32 or not expected[0]:
        raise PreparedError(
            f"vectors.npy: expected float32 {expected}, got {vectors_ND.dtype} {vectors_ND.shape}"
        )
    starts = range(0, len(vectors_ND), ROWS_AT_ONCE)
    if not all(np.isfinite(vectors_ND[start : start + ROWS_AT_ONCE]).all() for start in starts):
        raise PreparedError("vectors.npy: expected finite numbers, got NaN or infinity")
    account = json.dumps([manifest.get("fingerprint"), vectors], sort_keys=True)
    return Prepared(
        folder=folder,
        name=str(manifest.get("name", folder.name)),
        chunks=expected[0],
        dimension=expected[1],
        embedding_model=str(vectors.get("model") or ""),
        fingerprint=hashlib.sha256(account.encode()).hexdigest(),
        vectors_ND=vectors_ND,
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PreparedError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise PreparedError(f"{path}: expected a JSON object, got {type(manifest).__name__}")
    return manifest


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield orjson.loads(line)
                except ValueError as error:
                    raise PreparedError(f"{path.name} line {number}: not JSON: {error}") from error
    except OSError as error:
        raise PreparedError(f"{path}: {error.strerror}") from error
