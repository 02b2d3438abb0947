"""Candidate sets for the listwise loss and pairs for the order verifier.

Shapes: K candidates, N chunks of a document, P pairs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.windows import Rows

CLASSIC_SIZE = 8


def create_candidate_set(
    count: int,
    target: int,
    window: int,
    generator: np.random.Generator,
    *,
    size: int = CLASSIC_SIZE,
    similarity_N: NDArray[np.float32] | None = None,
) -> Rows:
    """Candidates ``[next, prev, negatives of the same document]`` of one window.

    ``prev`` is the chunk just before the window. Context chunks are never candidates.

    Args:
        count: N, chunks in the document.
        target: Row of the next chunk; the window ends at ``target - 1``.
        window: L, greatest number of context chunks.
        generator: Source of randomness.
        size: K, 8 in the classic set.
        similarity_N: If given, negatives are the most similar chunks (hard negatives); otherwise
            they are drawn at random, as the ``classic8`` protocol wants.

    Returns:
        Rows (K,): next first, prev second; -1 where there is no prev, or the document is too short.

    Raises:
        ValueError: If ``target`` is not a row with a predecessor, or ``size`` is below 2.
    """
    if not 1 <= target < count:
        raise ValueError(f"target: expected 1 <= target < count={count}, got {target}")
    if size < 2:
        raise ValueError(f"size: expected at least 2 (next and prev), got {size}")
    prev = target - window - 1
    rows_K = np.full(size, -1, np.int64)
    rows_K[0] = target
    rows_K[1] = max(prev, -1)
    others = np.concatenate([np.arange(0, max(prev, 0)), np.arange(target + 1, count)])
    if similarity_N is not None:
        others = others[np.argsort(-similarity_N[others], kind="stable")]
    else:
        others = generator.permutation(others)
    chosen = others[: size - 2]
    rows_K[2 : 2 + len(chosen)] = chosen
    return rows_K


class OrderPairs(NamedTuple):
    """Pairs of rows of one document, and whether the second comes later."""

    first_P: Rows
    second_P: Rows
    later_P: NDArray[np.float32]
    """1.0 where second comes after first, else 0.0."""


def sample_order_pairs(
    count: int, pairs: int, generator: np.random.Generator, *, near_share: float = 0.25
) -> OrderPairs:
    """Draw ordered pairs from one document, both directions equally likely.

    Args:
        count: Chunks in the document.
        pairs: P, pairs wanted.
        generator: Source of randomness.
        near_share: Share of pairs drawn from neighbours at most 3 apart, which are the hardest;
            the rest is uniform over all pairs.

    Returns:
        P pairs of different rows; none if the document has one chunk.
    """
    if count < 2:
        nothing = np.zeros(0, np.int64)
        return OrderPairs(nothing, nothing, np.zeros(0, np.float32))
    first_P = generator.integers(0, count, pairs)
    second_P = (first_P + generator.integers(1, count, pairs)) % count
    near_P = generator.random(pairs) < near_share
    step_P = generator.integers(1, 4, pairs) * generator.choice([-1, 1], pairs)
    nearby_P = first_P + step_P
    usable_P = near_P & (nearby_P >= 0) & (nearby_P < count)
    second_P = np.where(usable_P, nearby_P, second_P)
    return OrderPairs(first_P, second_P, (second_P > first_P).astype(np.float32))
