"""A bag of chunks restored: its order, how sure that is, what does not belong, what is there twice.

Shapes: N chunks of a bag, D dimension.
"""

from dataclasses import dataclass

import numpy as np

from models.bag_order import bag_evidence, order_by
from models.belonging import Rows, Values, belonging, canonical_rows, duplicates
from models.scoring import Floats, Scorer


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What is answered of a bag of chunks; rows are those of the bag as given."""

    rows_N: Rows
    """Rows in reading order; outliers and duplicates have their place in it."""
    confidence: float
    """Mean over all pairs of the probability of the answered direction."""
    chunk_confidence_N: Values
    """The same mean over the pairs of each chunk."""
    belongs_N: Values
    """Probability that a chunk is of the same document as the bag's majority."""
    outliers: list[int]
    """Rows of ``belongs_N`` below 0.5, rising."""
    duplicates: list[tuple[int, int]]
    """Pairs of rows (i, j), i < j, that are the same chunk."""


def restore(scorer: Scorer, raw_ND: Floats) -> Restored:
    """Restore a bag of raw unit vectors (N, D).

    A shuffled bag gets the same answer to the last bit; of equal chunks, the bag's own order
    decides.

    Raises:
        ValueError: If there are fewer than two chunks, or the scorer has no model.
    """
    if len(raw_ND) < 2:
        raise ValueError(f"chunks: expected at least 2, got {len(raw_ND)}")
    sorted_N = canonical_rows(raw_ND)
    order = order_by(bag_evidence(scorer, np.ascontiguousarray(raw_ND[sorted_N], np.float32)))
    chunk_confidence_N = np.empty(len(raw_ND))
    chunk_confidence_N[sorted_N] = order.chunk_confidence_N
    belongs_N = belonging(raw_ND)
    return Restored(
        rows_N=sorted_N[order.rows_N],
        confidence=order.confidence,
        chunk_confidence_N=chunk_confidence_N,
        belongs_N=belongs_N,
        outliers=np.flatnonzero(belongs_N < 0.5).tolist(),
        duplicates=duplicates(raw_ND),
    )
