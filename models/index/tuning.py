"""Measuring recall when an index has been built, and setting how wide it searches.

Where no queries are given, they are vectors of the index moved towards others, and the row itself
does not count: on real vectors expanded to a million this needs about the width that held-out
queries need, but less where most vectors have many near copies (docs/indexes.md). What is nearest
is found exactly, in the same pass that builds.

Shapes: N vectors, B queries, K results, D dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.index.building import Plan, Progress, sample
from models.index.kinds import IndexKind
from models.scoring import Floats

RECALL_TARGET = 0.98
RECALL_AT = 10
QUERIES = 480
MOVED = 0.3
"""How far a query is moved towards another vector, where its own length is 1."""
EFS = [64, 96, 128, 192, 256, 384, 512, 768]
CANDIDATES = [40, 60, 80, 120, 160, 240, 320, 480]
LOST = 0.002
"""Recall that fewer candidates may cost."""
SURE = 1.645
"""Standard errors below the mean that the target must be reached at."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Width:
    """How wide an index searches."""

    probes: int = 0
    """Inverted lists that are looked into."""
    candidates: int = 0
    """Rows that are compared by better codes, or by vectors where there are none."""
    ef: int = 0
    """Candidates that a walk through the graph keeps."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What was measured on some queries."""

    mean: float
    lower: float
    """What it is at least over all queries of the kind, in 19 of 20 cases."""


class Truth:
    """Queries and, once it has seen all vectors, the nearest rows of each.

    Args:
        vectors_ND: What is indexed.
        query_BD: Unit queries that are not in it; without them they are made of the vectors.
    """

    def __init__(self, vectors_ND: Floats, query_BD: Floats | None = None) -> None:
        if query_BD is None:
            self.own_B, self.query_BD = _made(vectors_ND)
        else:
            self.query_BD = np.ascontiguousarray(query_BD[:QUERIES], np.float32)
            self.own_B = np.full(len(self.query_BD), -1)
        count = len(self.own_B)
        # One more than is asked for, since the query's own row is among them.
        self._kept = min(RECALL_AT + 1, len(vectors_ND))
        self._scores_BK = np.full((count, self._kept), -np.inf, np.float32)
        self._rows_BK = np.full((count, self._kept), -1, np.int64)

    def see(self, first: int, block_ND: Floats) -> None:
        """Compare the queries with the vectors from row ``first`` on."""
        scores_BN = self.query_BD @ block_ND.T
        # Few are better than what is known after the first blocks; the others are passed over.
        for query, scores_N in enumerate(scores_BN):
            near = np.flatnonzero(scores_N > self._scores_BK[query, -1])
            if not len(near):
                continue
            if len(near) > self._kept:
                near = near[np.argpartition(-scores_N[near], self._kept - 1)[: self._kept]]
            scores = np.concatenate([self._scores_BK[query], scores_N[near]])
            rows = np.concatenate([self._rows_BK[query], near + first])
            best = np.argsort(-scores, kind="stable")[: self._kept]
            self._scores_BK[query], self._rows_BK[query] = scores[best], rows[best]

    def recall(self, found_BK: Rows) -> "Recall":
        """Measure the share of the nearest rows, the query's own left out, that were found."""
        shares = []
        for own, true_K, found_K in zip(self.own_B, self._rows_BK, found_BK, strict=True):
            others = true_K[(true_K != own) & (true_K >= 0)][:RECALL_AT]
            if len(others):
                shares.append(np.isin(others, found_K[found_K != own][:RECALL_AT]).mean())
        if not shares:
            return Recall(mean=1.0, lower=1.0)
        mean = float(np.mean(shares))
        error = float(np.std(shares)) / len(shares) ** 0.5
        return Recall(mean=mean, lower=mean - SURE * error)


def _made(vectors_ND: Floats) -> tuple[Rows, Floats]:
    """Make queries of some vectors, and tell of which."""
    generator = np.random.default_rng(1)
    count = min(QUERIES, len(vectors_ND))
    own_B = np.sort(generator.choice(len(vectors_ND), count, replace=False))
    others_BD = generator.permutation(sample(vectors_ND, 4 * count))
    moved_BD = vectors_ND[own_B] + MOVED * np.resize(others_BD, (count, vectors_ND.shape[1]))
    length_B1 = np.linalg.norm(moved_BD, axis=1, keepdims=True)
    query_BD: Floats = (moved_BD / np.maximum(length_B1, 1e-12)).astype(np.float32)
    return own_B, query_BD


def tune(
    truth: Truth, found: Callable[[Width], Rows], plan: Plan, target: float, report: Progress
) -> tuple[Width, Recall]:
    """Find the narrowest search that reaches a target, or the widest if none does.

    Args:
        truth: Queries and what is nearest to them.
        found: Finds the RECALL_AT + 1 nearest rows of its queries at a width.
        plan: What was built.
        target: Recall wanted.
        report: Told how many widths were tried.

    Returns:
        The width and the recall that was measured at it.
    """
    tried: dict[Width, Recall] = {}

    def recall(width: Width) -> Recall:
        if width not in tried:
            tried[width] = truth.recall(found(width))
            report("tune", len(tried), len(tried) + 1)
        return tried[width]

    if plan.kind is IndexKind.HNSW:
        ef = smallest(EFS, lambda ef: recall(Width(ef=ef)).lower >= target)
        width = Width(ef=ef)
    else:
        # Lists first, with more candidates than needed; what these cost is then taken back.
        wide, ladder = max(CANDIDATES), _ladder(plan.lists)
        probes = smallest(
            ladder,
            lambda probes: recall(Width(probes=probes, candidates=wide)).lower >= target + LOST,
        )
        least = recall(Width(probes=probes, candidates=wide)).mean - LOST
        candidates = smallest(
            CANDIDATES, lambda count: recall(Width(probes=probes, candidates=count)).mean >= least
        )
        width = Width(probes=probes, candidates=candidates)
    measured = recall(width)
    report("tune", len(tried), len(tried))
    return width, measured


def smallest(values: list[int], reaches: Callable[[int], bool]) -> int:
    """Bisect for the smallest of rising values that is good enough; the last if none is."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if reaches(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low]


def _ladder(lists: int) -> list[int]:
    """Numbers of lists to try, each a fifth above the last."""
    ladder = [1]
    while ladder[-1] < lists:
        ladder.append(min(max(ladder[-1] + 1, ladder[-1] * 6 // 5), lists))
    return ladder
