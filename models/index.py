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

from models.scoring import Floats

FLAT_UP_TO = 20_000
HNSW_FACTORY = "HNSW32,Flat"
HNSW_BUILD_EF = 200
HNSW_SEARCH_EF = 128

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
        chosen = factory or ("Flat" if len(vectors_ND) <= FLAT_UP_TO else HNSW_FACTORY)
        index = faiss.index_factory(vectors_ND.shape[1], chosen, faiss.METRIC_INNER_PRODUCT)
        if isinstance(index, faiss.IndexHNSW):
            index.hnsw.efConstruction = HNSW_BUILD_EF
        index.add(np.ascontiguousarray(vectors_ND))
        return cls(index, chosen)

    def search(
        self, query_BD: Floats, k: int, allowed_rows: Rows | None = None
    ) -> tuple[Floats, Rows]:
        """Find the ``k`` best rows of each query.

        Args:
            query_BD: Unit queries.
            k: Results wanted a query; fewer are found when fewer are allowed.
            allowed_rows: If given, only these rows may be answered.

        Returns:
            Scores and rows, each (B, k); row -1 with score -inf where there is no result.
        """
        params = self._parameters(k, allowed_rows)
        scores_BK, rows_BK = self._index.search(
            np.ascontiguousarray(query_BD, np.float32), k, params=params
        )
        scores_BK[rows_BK < 0] = -np.inf
        return scores_BK, rows_BK

    def _parameters(self, k: int, allowed_rows: Rows | None) -> Any:
        arguments: dict[str, Any] = {}
        if allowed_rows is not None:
            arguments["sel"] = faiss.IDSelectorBatch(np.ascontiguousarray(allowed_rows, np.int64))
        if isinstance(self._index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
                efSearch=max(HNSW_SEARCH_EF, 2 * k), **arguments
            )
        return faiss.SearchParameters(**arguments) if arguments else None

    def vectors(self) -> Floats:
        """Read the indexed vectors back, (N, D): exactly for Flat and HNSW over Flat."""
        return np.asarray(self._index.reconstruct_n(0, self.size), np.float32)

    def save(self, path: Path, fingerprint: dict[str, Any]) -> None:
        """Write the index and, last, a manifest that says what it was built from."""
        manifest_path = _manifest(path)
        manifest_path.unlink(missing_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        faiss.write_index(self._index, str(partial))
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        partial.replace(path)
        manifest = {
            "factory": self.factory,
            "size": self.size,
            "dimension": self.dimension,
            "sha256": digest,
            "fingerprint": fingerprint,
        }
        manifest_path.write_text(json.dumps(manifest, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, fingerprint: dict[str, Any]) -> "VectorIndex":
        """Read an index back, if it was built from ``fingerprint`` and is undamaged.

        Raises:
            IndexMismatchError: If not; the message says why.
        """
        try:
            manifest = json.loads(_manifest(path).read_bytes())
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise IndexMismatchError(f"{path}: not readable: {error}") from error
        if manifest.get("fingerprint") != fingerprint:
            raise IndexMismatchError(f"{path}: built from other data or another checkpoint")
        if manifest.get("sha256") != digest:
            raise IndexMismatchError(f"{path}: damaged, its sha256 differs from its manifest")
        return cls(faiss.read_index(str(path)), str(manifest["factory"]))


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")
