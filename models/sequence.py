"""Reading order of a bag of chunks from pairwise evidence, with a confidence.

Pairwise verdicts may contradict each other (a before b, b before c, c before a). The order answered
is the one that contradicts them least: the Kemeny order, also known as the weighted feedback arc
set or linear ordering problem.

Everything is computed in canonical numbers, the chunks' ranks in the Borda order, so that the same
chunks get the same order and confidence to the last bit, however the bag was shuffled. Only where
Borda sums are equal does the bag's own order decide.

Shapes: N chunks, S subsets of them (2^N), W widths of a block, G gaps that it can move to (N + 1).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.order import probability_after

Rows = NDArray[np.int64]
Values = NDArray[np.float64]
Matrix = NDArray[np.floating]

EXACT_LIMIT = 10
BLOCK_LIMIT = 8
PASS_LIMIT = 50
ANTISYMMETRY = 1e-3
TIE = 1e-9
"""Scores closer than this share of the largest log-odds are ties; rounding stays far below."""


@dataclass(frozen=True, kw_only=True)
class ReadingOrder:
    """Chunks of a bag in reading order, and how sure that is."""

    rows_N: Rows
    """Row numbers of the bag, in reading order."""
    confidence: float
    """Mean over all pairs of the probability of the answered direction; 1 for a single chunk."""
    chunk_confidence_N: Values
    """The same mean over the pairs of each chunk, in the bag's row order."""


def reading_order(
    after_NN: Matrix, *, follows_NN: Matrix | None = None, follow_weight: float = 0.0
) -> ReadingOrder:
    """Order a bag of chunks such that the evidence is contradicted least.

    Maximises ``kemeny_score(after_NN, rows) + follow_weight * sum of follows_NN over neighbours``.
    The first term is twice the log-likelihood of all pairs, ``sum of log P(j after i)`` over i
    before j, up to a constant: ``log P(j after i) - log P(i after j)`` is the log-odds.

    Exact up to 10 chunks, where ties fall to the order that begins with the lower Borda ranks.
    Beyond, a local search improves the Borda order and a greedy one, and the better is answered.
    Equal Borda sums fall to the lower row number.

    Args:
        after_NN: Log-odds that chunk j comes after chunk i, antisymmetric; its diagonal is ignored.
        follows_NN: Log-score of j coming right after i, not antisymmetric; its diagonal is ignored.
        follow_weight: Weight of ``follows_NN``, at least 0; without effect if that is left out.

    Raises:
        ValueError: If the bag is empty, or an argument is not as described or not finite.
    """
    ahead_NN = _antisymmetric(after_NN)
    if not (math.isfinite(follow_weight) and follow_weight >= 0):
        raise ValueError(f"follow_weight: expected a finite number >= 0, got {follow_weight}")
    follow_NN = None if follows_NN is None else _square("follows_NN", follows_NN)
    if follow_NN is not None and follow_NN.shape != ahead_NN.shape:
        raise ValueError(f"follows_NN: expected shape {ahead_NN.shape}, got {follow_NN.shape}")
    borda_N = borda_order(ahead_NN)
    canonical = np.ix_(borda_N, borda_N)
    ahead_NN = np.ascontiguousarray(ahead_NN[canonical])
    if follow_NN is not None:
        follow_NN = follow_weight * follow_NN[canonical] if follow_weight else None
    order_N = _best_order(ahead_NN, follow_NN)
    certain_N = _chunk_confidence(ahead_NN, order_N)
    chunk_confidence_N = np.empty(len(order_N))
    chunk_confidence_N[borda_N] = certain_N
    return ReadingOrder(
        rows_N=borda_N[order_N],
        confidence=float(certain_N.mean()),
        chunk_confidence_N=chunk_confidence_N,
    )


def kemeny_score(after_NN: Matrix, rows_N: Rows) -> float:
    """Sum of the log-odds of all pairs as ordered: ``after_NN[i, j]`` over i before j.

    Args:
        after_NN: Log-odds that chunk j comes after chunk i, antisymmetric; its diagonal is ignored.
        rows_N: Row numbers in the order to be judged.

    Raises:
        ValueError: If ``after_NN`` is not as described, or ``rows_N`` no permutation of its rows.
    """
    ahead_NN = _antisymmetric(after_NN)
    if not np.array_equal(np.sort(rows_N), np.arange(len(ahead_NN))):
        raise ValueError(f"rows_N: expected each of {len(ahead_NN)} rows once, got {rows_N}")
    return _score(ahead_NN, None, rows_N)


def borda_order(ahead_NN: Values) -> Rows:
    """Rows by rising sum of P(row after other) over all others, ties to the lower row.

    Args:
        ahead_NN: Finite antisymmetric log-odds that j comes after i.
    """
    probability_NN = _probability(ahead_NN)
    # Exactly rounded sums do not depend on the order of their terms, that is, on the bag's.
    sums_N = np.array([math.fsum(column_N) for column_N in probability_NN.T.tolist()])
    return np.argsort(sums_N, kind="stable").astype(np.int64)


def greedy_order(ahead_NN: Values, follow_NN: Values | None = None) -> Rows:
    """Chunk after chunk, the one that adds most: ahead of all that are left, and next to the last.

    Args:
        ahead_NN: Finite antisymmetric log-odds that j comes after i, zero on the diagonal.
        follow_NN: Score of j right after i.
    """
    lead_N = ahead_NN.sum(1)
    pull_N = np.zeros(len(lead_N))
    order_N = np.empty(len(lead_N), np.int64)
    for place in range(len(order_N)):
        chosen = int(np.argmax(lead_N + pull_N))
        order_N[place] = chosen
        lead_N -= ahead_NN[:, chosen]
        lead_N[chosen] = -np.inf
        if follow_NN is not None:
            pull_N = follow_NN[chosen]
    return order_N


def exact_order(ahead_NN: Values, follow_NN: Values | None = None) -> Rows:
    """The best order, by dynamic programming over subsets (Held and Karp, 1962).

    Time and memory grow as ``2^N``; ties fall to the order that comes first lexicographically.

    Args:
        ahead_NN: Finite antisymmetric log-odds that j comes after i, zero on the diagonal.
        follow_NN: Score of j right after i.
    """
    count = len(ahead_NN)
    link_NN = np.zeros((count, count)) if follow_NN is None else follow_NN
    sets_S = np.arange(1 << count)
    member_SN = (sets_S[:, None] >> np.arange(count)) & 1 == 1
    size_S = member_SN.sum(1)
    lead_SN = member_SN @ ahead_NN.T  # what a chunk gains by preceding the rest of a set
    # Best score of a set's chunks among themselves, given which of them comes first.
    best_SN = np.full((1 << count, count), -np.inf)
    best_SN[1 << np.arange(count), np.arange(count)] = 0.0
    for size in range(2, count + 1):
        for first in range(count):
            whole_s = sets_S[(size_S == size) & member_SN[:, first]]
            rest_sN = link_NN[first] + best_SN[whole_s ^ (1 << first)]
            best_SN[whole_s, first] = lead_SN[whole_s, first] + rest_sN.max(1)
    order_N = np.empty(count, np.int64)
    left, pull_N, tie = (1 << count) - 1, np.zeros(count), _tie(ahead_NN, follow_NN)
    for place in range(count):
        total_N = pull_N + best_SN[left]
        order_N[place] = first = int(np.argmax(total_N >= total_N.max() - tie))
        left, pull_N = left ^ (1 << first), link_NN[first]
    return order_N


def local_search(ahead_NN: Values, follow_NN: Values | None, start_N: Rows) -> Rows:
    """Improve an order by moving chunks, then blocks of up to 8, until no move gains.

    Insertion is the neighbourhood that the linear ordering problem is best searched by
    (Schiavinotto and Stuetzle, 2004); unreversed blocks are Or's for tours (Or, 1976). Never
    answers a worse order than ``start_N``; stops after 50 passes of either kind.

    Args:
        ahead_NN: Finite antisymmetric log-odds that j comes after i, zero on the diagonal.
        follow_NN: Score of j right after i.
        start_N: The order to begin with.
    """
    count = len(start_N)
    tie = _tie(ahead_NN, follow_NN)
    # Number N stands for what is before the first chunk and after the last: no score either way.
    link_NN = None if follow_NN is None else np.pad(follow_NN, (0, 1))
    framed = np.concatenate([[count], start_N, [count]]).astype(np.int64)
    order_N = framed[1:-1]
    for widest in (1, BLOCK_LIMIT):
        for _ in range(PASS_LIMIT):
            moved = False
            for chunk in range(count):
                place = int(np.flatnonzero(order_N == chunk)[0])
                gain_WG = _gains(ahead_NN, link_NN, framed, place, widest)
                width, gap = divmod(int(gain_WG.argmax()), count + 1)
                if gain_WG[width, gap] > tie:
                    _move(order_N, place, width + 1, gap)
                    moved = True
            if not moved:
                break
    return order_N.copy()


def _gains(
    ahead_NN: Values, link_NN: Values | None, framed: Rows, place: int, widest: int
) -> Values:
    """What the score gains if the block of each width from ``place`` on moves to each gap.

    A block that jumps over chunks reverses its pairs with them. Let C[g] be the sum of the block's
    log-odds before all chunks left of gap g; then the gain is ``2 (C[place] - C[g])`` both ways,
    for pairs within the block cancel.

    Returns:
        Gains (W, G), minus infinity where the block would stay.
    """
    order_N = framed[1:-1]
    block_W = order_N[place : place + widest]
    sums_WG = np.zeros((len(block_W), len(framed) - 1))
    lead_WN = ahead_NN[block_W].take(order_N, axis=1).cumsum(0)
    np.cumsum(lead_WN, axis=1, out=sums_WG[:, 1:])
    gain_WG: Values = 2.0 * (sums_WG[:, place, None] - sums_WG)
    if link_NN is not None:
        left_G, right_G = framed[:-1], framed[1:]
        link_G = link_NN[left_G, right_G]
        right_W = right_G[place + 1 : place + 1 + len(block_W)]
        closed_W = link_NN[left_G[place], right_W] - link_NN[block_W, right_W] - link_G[place]
        gain_WG += link_NN[block_W].take(right_G, axis=1)
        gain_WG += link_NN[left_G, block_W[0]] - link_G
        gain_WG += closed_W[:, None]
    for row in range(len(block_W)):
        gain_WG[row, place : place + row + 2] = -np.inf
    return gain_WG


def _move(order_N: Rows, place: int, width: int, gap: int) -> None:
    """Move the block at ``place`` to before what stands at ``gap``, in place."""
    low, high = min(place, gap), max(place + width, gap)
    order_N[low:high] = np.roll(order_N[low:high], width if gap < place else -width)


def _best_order(ahead_NN: Values, follow_NN: Values | None) -> Rows:
    """The best order found of chunks that are numbered by their Borda rank."""
    count = len(ahead_NN)
    if count <= EXACT_LIMIT:
        return exact_order(ahead_NN, follow_NN)
    best_N = local_search(ahead_NN, follow_NN, np.arange(count))
    other_N = local_search(ahead_NN, follow_NN, greedy_order(ahead_NN, follow_NN))
    gain = _score(ahead_NN, follow_NN, other_N) - _score(ahead_NN, follow_NN, best_N)
    return other_N if gain > _tie(ahead_NN, follow_NN) else best_N


def _score(ahead_NN: Values, follow_NN: Values | None, rows_N: Rows) -> float:
    score = np.triu(ahead_NN[np.ix_(rows_N, rows_N)], 1).sum()
    if follow_NN is not None:
        score += follow_NN[rows_N[:-1], rows_N[1:]].sum()
    return float(score)


def _chunk_confidence(ahead_NN: Values, rows_N: Rows) -> Values:
    """Mean probability (N,) of the answered direction over the pairs of each row."""
    count = len(rows_N)
    if count == 1:
        return np.ones(1)
    place_N = np.empty(count, np.int64)
    place_N[rows_N] = np.arange(count)
    probability_NN = _probability(ahead_NN)
    earlier_NN = place_N[:, None] < place_N
    answered_NN = np.where(earlier_NN, probability_NN, probability_NN.T)
    np.fill_diagonal(answered_NN, 0.0)
    means_N: Values = answered_NN.sum(1) / (count - 1)
    return means_N


def _probability(ahead_NN: Values) -> Values:
    return np.asarray(probability_after(torch.from_numpy(ahead_NN)).numpy(), np.float64)


def _tie(ahead_NN: Values, follow_NN: Values | None) -> float:
    """Difference of scores below which two orders count as equal."""
    largest = float(np.abs(ahead_NN).max())
    if follow_NN is not None:
        largest = max(largest, float(np.abs(follow_NN).max()))
    return TIE * largest


def _square(name: str, matrix_NN: Matrix) -> Values:
    """A float64 copy with a zero diagonal, checked."""
    if matrix_NN.ndim != 2 or matrix_NN.shape[0] != matrix_NN.shape[1] or not len(matrix_NN):
        raise ValueError(f"{name}: expected shape (N, N) with N >= 1, got {matrix_NN.shape}")
    square_NN = matrix_NN.astype(np.float64)
    np.fill_diagonal(square_NN, 0.0)
    if not np.isfinite(square_NN).all():
        i, j = np.argwhere(~np.isfinite(square_NN))[0]
        raise ValueError(f"{name}: expected finite numbers, got {square_NN[i, j]} at [{i}, {j}]")
    return square_NN


def _antisymmetric(after_NN: Matrix) -> Values:
    """A float64 copy of log-odds, checked; exactly antisymmetric, with a zero diagonal."""
    square_NN = _square("after_NN", after_NN)
    sum_NN = np.abs(square_NN + square_NN.T)
    if sum_NN.max() > ANTISYMMETRY:
        i, j = np.unravel_index(sum_NN.argmax(), sum_NN.shape)
        raise ValueError(
            f"after_NN: expected [i, j] = -[j, i] within {ANTISYMMETRY}, got "
            f"{square_NN[i, j]} at [{i}, {j}] and {square_NN[j, i]} at [{j}, {i}]"
        )
    half_NN: Values = (square_NN - square_NN.T) / 2
    return half_NN
