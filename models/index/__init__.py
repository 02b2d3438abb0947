"""Indexes over unit vectors, chosen by size and memory and tuned by measuring."""

from models.index.files import IndexMismatchError, Rows
from models.index.kinds import FLAT_UP_TO, HNSW_UP_TO, BudgetError, IndexKind
from models.index.vector import VectorIndex

__all__ = [
    "FLAT_UP_TO",
    "HNSW_UP_TO",
    "BudgetError",
    "IndexKind",
    "IndexMismatchError",
    "Rows",
    "VectorIndex",
]
