"""A FAISS index over unit vectors: the retrieval step, shared by evaluation and the service.

At this boundary vectors are C-contiguous float32 of unit length, ids are int64 rows, a higher
score is better (inner product = cosine), and ``-1`` means "fewer than k".

Shapes: B queries, N indexed vectors, K results, D dimension.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from models.scoring import Bools, Floats

FLAT_UP_TO = 20_000
HNSW_FACTORY = "HNSW32,Flat"
HNSW_BUILD_EF = 200
HNSW_SEARCH_EF = 128
SEARCH_EF_GROWTH = 16
"""How many times wider a filtered search may look."""

Rows = NDArray[np.int64]


class IndexMismatchError(ValueError):
    """A saved index is missing, damaged, or was built from something else."""


class VectorIndex:
    """An inner-product index that is searched concurrently and never changed once built.

    Args:
        index: A FAISS index whose ids are row numbers.
        factory: The FAISS factory string it was made from.
    """

    def __init__(self, index: Any, factory: str) -> None:
        self._index = index
        self.factory = factory
        self.size = int(index.ntotal)
        self.dimension = int(index.d)

    @classmethod
    def build(cls, vectors_ND: Floats, factory: str | None = None) -> "VectorIndex":
        """Build an index; without ``factory``, exact (Flat) up to 20,000 vectors, then HNSW.

        Raises:
            ValueError: If ``vectors_ND`` is not a non-empty float32 matrix.
        """
        if vectors_ND.ndim != 2 or vectors_ND.dtype != np.float32 or not len(vectors_ND):
            raise ValueError(
                "vectors: expected a non-empty float32 matrix, "
                f"got {vectors_ND.dtype} {vectors_ND.shape}"
            )
        chosen = factory or _factory(len(vectors_ND))
        index = faiss.index_factory(vectors_ND.shape[1], chosen, faiss.METRIC_INNER_PRODUCT)
        _add(index, vectors_ND)
        return cls(index, chosen)

    def extended(self, vectors_ND: Floats) -> "VectorIndex":
        """Build the index of more vectors, of which the first ``size`` are those of this one.

        This one is copied and stays as it is; a graph is only grown by what is new.
        """
        if self.factory != _factory(len(vectors_ND)):
            return VectorIndex.build(vectors_ND)
        grown = faiss.clone_index(self._index)
        _add(grown, vectors_ND[self.size :])
        return VectorIndex(grown, self.factory)

    def search(
        self, query_BD: Floats, k: int, allowed_N: Bools | None = None, *, effort: int = 1
    ) -> tuple[Floats, Rows]:
        """Find the ``k`` best rows of each query.

        Args:
            query_BD: Unit queries.
            k: Results wanted a query; fewer are found when fewer are allowed.
            allowed_N: If given, only rows where it is True may be answered.
            effort: How many times wider than usual a graph is searched.

        Returns:
            Scores and rows, each (B, k); row -1 with score -inf where there is no result.
        """
        params = self._parameters(k, allowed_N, effort)
        scores_BK, rows_BK = self._index.search(
            np.ascontiguousarray(query_BD, np.float32), k, params=params
        )
        scores_BK[rows_BK < 0] = -np.inf
        return scores_BK, rows_BK

    def _parameters(self, k: int, allowed_N: Bools | None, effort: int) -> Any:
        arguments: dict[str, Any] = {}
        share = 1.0
        if allowed_N is not None:
            share = max(float(allowed_N.mean()), 1.0 / SEARCH_EF_GROWTH)
            # Its stub knows the C++ constructor alone; Python's takes the array.
            bitmap: Any = np.packbits(allowed_N, bitorder="little")
            arguments["sel"] = faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg]
        if isinstance(self._index, faiss.IndexHNSW):
            # The graph is walked through rows that may not be answered, too.
            ef = int(effort * max(HNSW_SEARCH_EF, 2 * k) / share)
            return faiss.SearchParametersHNSW(efSearch=ef, **arguments)  # type: ignore[attr-defined]
        return faiss.SearchParameters(**arguments) if arguments else None

    def vectors(self) -> Floats:
        """Read the indexed vectors back, (N, D): exactly for Flat and HNSW over Flat."""
        return np.asarray(self._index.reconstruct_n(0, self.size), np.float32)

    def save(self, path: Path, fingerprint: dict[str, Any], rows_N: Rows) -> None:
        """Write the index and, last, a manifest that says what it was built from.

        Args:
            path: File of the index; what belongs to it stands beside.
            fingerprint: What it was built from.
            rows_N: What the caller calls each of its vectors.
        """
        manifest_path, rows_path = _manifest(path), _rows(path)
        manifest_path.unlink(missing_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        faiss.write_index(self._index, str(partial))
        index_digest = _flushed_digest(partial)
        partial.replace(path)
        with partial.open("wb") as file:
            np.save(file, rows_N)
        rows_digest = _flushed_digest(partial)
        partial.replace(rows_path)
        manifest = {
            "factory": self.factory,
            "size": self.size,
            "dimension": self.dimension,
            "sha256": index_digest,
            "rows_sha256": rows_digest,
            "fingerprint": fingerprint,
        }
        partial.write_text(json.dumps(manifest, indent=2) + "\n")
        _flushed_digest(partial)
        partial.replace(manifest_path)

    @classmethod
    def load(cls, path: Path, fingerprint: dict[str, Any]) -> tuple["VectorIndex", Rows]:
        """Read an index and its rows back, if it was built from ``fingerprint`` and is undamaged.

        Raises:
            IndexMismatchError: If not; the message says why.
        """
        try:
            manifest = json.loads(_manifest(path).read_bytes())
            found = manifest.get("fingerprint")
            digests = {"sha256": _digest(path), "rows_sha256": _digest(_rows(path))}
        except FileNotFoundError as error:
            raise IndexMismatchError(f"{path.name}: there is none") from error
        except (OSError, ValueError, AttributeError) as error:
            raise IndexMismatchError(f"{path.name}: not readable: {error}") from error
        if found != fingerprint:
            raise IndexMismatchError(f"{path.name}: built from other data or another checkpoint")
        for name, digest in digests.items():
            if manifest.get(name) != digest:
                raise IndexMismatchError(f"{path.name}: damaged, its {name} is not its manifest's")
        index = cls(faiss.read_index(str(path)), str(manifest["factory"]))
        rows_N: Rows = np.load(_rows(path), allow_pickle=False)
        if rows_N.shape != (index.size,):
            raise IndexMismatchError(f"{path.name}: expected {index.size} rows, got {rows_N.shape}")
        return index, rows_N


def _add(index: Any, vectors_ND: Floats) -> None:
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = HNSW_BUILD_EF
    index.add(np.ascontiguousarray(vectors_ND))


def _factory(size: int) -> str:
    return "Flat" if size <= FLAT_UP_TO else HNSW_FACTORY


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _rows(path: Path) -> Path:
    return path.with_suffix(".rows.npy")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
