"""Two-step ranking: FAISS retrieves, the exact score re-ranks.

Evaluation's ``corpus`` protocol and the service's ``/v1/rank`` both end here, so what was measured
is what is served.

Shapes: B queries, K candidates, N indexed chunks, D dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.index import Rows, VectorIndex
from models.scoring import Floats, Method, Queries, Scorer, Scores, best_first

RERANK_DEPTH = 64


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Indexed chunks in both spaces; row i is the same chunk everywhere."""

    raw_ND: Floats
    projected_ND: Floats
    raw_index: VectorIndex
    projected_index: VectorIndex

    @classmethod
    def build(cls, raw_ND: Floats, scorer: Scorer) -> "Corpus":
        """Project and index raw unit vectors (N, D)."""
        raw_index = VectorIndex.build(raw_ND)
        if scorer.model is None or scorer.model.config.space == "raw":
            return cls(
                raw_ND=raw_ND, projected_ND=raw_ND, raw_index=raw_index, projected_index=raw_index
            )
        projected_ND = scorer.project(raw_ND)
        return cls(
            raw_ND=raw_ND,
            projected_ND=projected_ND,
            raw_index=raw_index,
            projected_index=VectorIndex.build(projected_ND),
        )

    def index_for(self, method: Method) -> VectorIndex:
        """The index of the space in which ``method`` makes its queries."""
        return self.projected_index if method is Method.P8 else self.raw_index


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One query's results, best first."""

    rows_K: Rows
    scores_K: Floats
    mixture_K: Floats
    order_K: Floats
    rerank_K: Floats


def rank_corpus(
    scorer: Scorer,
    queries: Queries,
    corpus: Corpus,
    excluded: Sequence[Rows],
    top_k: int,
) -> list[Ranking]:
    """Rank the whole corpus for each query.

    The best ``max(64, top_k)`` rows outside ``excluded`` are retrieved and scored exactly, so that
    asking for fewer results never changes which come first.

    Args:
        scorer: Scores candidates.
        queries: B queries.
        corpus: Indexed chunks.
        excluded: For each query the rows that must not be answered.
        top_k: Results wanted a query.

    Returns:
        A ranking a query, of at most ``top_k`` rows.
    """
    depth = max(RERANK_DEPTH, top_k)
    reach = min(depth + max(len(rows) for rows in excluded), len(corpus.raw_ND))
    scores_BR, found_BR = corpus.index_for(queries.method).search(queries.vectors_BD, reach)
    # Equal scores fall to the lower row at the edge, too; an index has them in any order.
    lines_B1 = np.arange(len(found_BR))[:, None]
    found_BR = found_BR[lines_B1, np.lexsort((found_BR, -scores_BR), axis=-1)]
    candidates_BK = np.full((len(found_BR), depth), -1, np.int64)
    for row, (found_R, drop) in enumerate(zip(found_BR, excluded, strict=True)):
        kept = found_R[(found_R >= 0) & ~np.isin(found_R, drop)][:depth]
        candidates_BK[row, : len(kept)] = np.sort(kept)  # so that ties fall to the lower row
    return rank_rows(scorer, queries, corpus.raw_ND, corpus.projected_ND, candidates_BK, top_k)


def rank_rows(
    scorer: Scorer,
    queries: Queries,
    raw_ND: Floats,
    projected_ND: Floats,
    rows_BK: Rows,
    top_k: int,
) -> list[Ranking]:
    """Score given rows exactly, rising in each line and padded by -1, and sort them."""
    safe_BK = np.maximum(rows_BK, 0)
    projected_BKD = projected_ND[safe_BK] if queries.method is Method.P8 else None
    # Where nothing looks at the raw vectors, to fetch them would cost as much as all that is left.
    raw_BKD = projected_BKD
    if raw_BKD is None or scorer.judges_raw:
        raw_BKD = raw_ND[safe_BK]
    scores: Scores = scorer.score(queries, raw_BKD, projected_BKD, rows_BK >= 0)
    total_BK = np.where(rows_BK >= 0, scores.total_BK, -np.inf).astype(np.float32)
    rankings = []
    for row, order_K in enumerate(best_first(total_BK, top_k)):
        kept_K = order_K[rows_BK[row, order_K] >= 0]
        rankings.append(
            Ranking(
                rows_K=rows_BK[row, kept_K],
                scores_K=total_BK[row, kept_K],
                mixture_K=scores.mixture_BK[row, kept_K],
                order_K=scores.order_BK[row, kept_K],
                rerank_K=scores.rerank_BK[row, kept_K],
            )
        )
    return rankings
