"""The library: everything of the data folder that ranking needs, in memory.

The store is the truth. The FAISS indexes beside it are derived; one that is missing, damaged, or
was built from another store or checkpoint is rebuilt, with one log line that says why.

Shapes: N chunks, D dimension.
"""

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.index import IndexMismatchError, Rows, VectorIndex
from models.ranking import Corpus
from models.scoring import Floats
from service.modes import ModelState
from service.store import STORE_FILE, Catalogue, Store, StoreError, StoreInfo

log = logging.getLogger(__name__)

RAW = "raw"
LEARNED = "learned"


@dataclass(frozen=True, kw_only=True)
class Library:
    """Loaded chunks; row i is the same chunk everywhere."""

    store: Store
    info: StoreInfo
    catalogue: Catalogue
    row_of: dict[str, int]
    """Row of each chunk id."""
    rows_of: dict[str, Rows]
    """Rows of each document, in position order; documents in index order."""
    corpus: Corpus
    fingerprints: dict[str, dict[str, Any]]
    """What each loaded index was built from."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A store that has been opened and found to hold chunks."""

    store: Store
    info: StoreInfo


def open_store(data: Path) -> Opened:
    """Open the store of a data folder.

    Raises:
        StoreError: If there is none, or it is damaged or empty.
    """
    store = Store(data / STORE_FILE)
    try:
        info = store.info()
    except (sqlite3.DatabaseError, KeyError, ValueError) as error:
        store.close()
        raise StoreError(f"{data / STORE_FILE}: damaged: {error}") from error
    if info is None:
        store.close()
        raise StoreError(f"{data / STORE_FILE}: is empty; 'python -m service index' fills it")
    return Opened(store=store, info=info)


def load_library(data: Path, opened: Opened, state: ModelState) -> Library:
    """Read the store and load or rebuild the indexes.

    Raises:
        StoreError: If the store is damaged.
    """
    store, info = opened.store, opened.info
    try:
        raw_ND = store.vectors(info.dimension)
        catalogue = store.catalogue()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{data / STORE_FILE}: damaged: {error}") from error
    fingerprints = {RAW: _fingerprint(info, RAW)}
    raw_index = load_or_build(data, RAW, fingerprints[RAW], lambda: raw_ND)
    corpus = Corpus(
        raw_ND=raw_ND, projected_ND=raw_ND, raw_index=raw_index, projected_index=raw_index
    )
    model = state.usable
    if model is not None and model.model.config.space == LEARNED:
        fingerprints[LEARNED] = _fingerprint(info, model.version)
        learned_index = load_or_build(
            data, LEARNED, fingerprints[LEARNED], lambda: state.scorer().project(raw_ND)
        )
        corpus = Corpus(
            raw_ND=raw_ND,
            projected_ND=learned_index.vectors(),
            raw_index=raw_index,
            projected_index=learned_index,
        )
    return Library(
        store=store,
        info=info,
        catalogue=catalogue,
        row_of={chunk_id: row for row, chunk_id in enumerate(catalogue.ids)},
        rows_of=_rows_of_documents(catalogue),
        corpus=corpus,
        fingerprints=fingerprints,
    )


def load_or_build(
    data: Path, kind: str, fingerprint: dict[str, Any], vectors: Callable[[], Floats]
) -> VectorIndex:
    """Load a derived index, or build and save it if what is saved cannot be used.

    Args:
        data: Data folder.
        kind: ``raw`` or ``learned``.
        fingerprint: What the index must have been built from.
        vectors: Makes the unit vectors (N, D) to build it from.
    """
    path = data / f"index-{kind}.faiss"
    try:
        return VectorIndex.load(path, fingerprint)
    except IndexMismatchError as error:
        level = logging.WARNING if path.exists() else logging.INFO
        log.log(level, "rebuilding the %s index: %s", kind, error)
    except Exception as error:  # whatever a damaged manifest or file makes the reader raise
        log.warning("rebuilding the %s index: %s: %s", kind, path, type(error).__name__)
    index = VectorIndex.build(vectors())
    try:
        index.save(path, fingerprint)
    except (OSError, RuntimeError) as error:
        log.warning("the %s index could not be saved, and will be rebuilt: %s", kind, error)
    return index


def _fingerprint(info: StoreInfo, checkpoint: str) -> dict[str, Any]:
    return {
        "store_id": info.store_id,
        "store_version": info.version,
        "checkpoint": checkpoint,
        "dimension": info.dimension,
    }


def _rows_of_documents(catalogue: Catalogue) -> dict[str, Rows]:
    rows: dict[str, list[int]] = {}
    for row, document_id in enumerate(catalogue.document_ids):
        rows.setdefault(document_id, []).append(row)
    return {
        document_id: np.array(sorted(found, key=catalogue.positions.__getitem__), np.int64)
        for document_id, found in rows.items()
    }
