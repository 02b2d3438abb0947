"""The three protocols: which candidates a window's next chunk must beat.

``classic8``: next, prev and 6 random others of the document. ``in_document``: every chunk of the
document outside the window. ``corpus``: every chunk of all given documents outside the window,
through the real index. Every protocol scores by ``models.scoring``, and nothing else.

Shapes: W windows, L window length, N chunks of a document, K candidates, D dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.ranking import Corpus, rank_corpus
from models.scoring import Bools, Floats, Method, Queries, Scorer, Scores, cos_anchor
from training.candidates import CLASSIC_SIZE, create_candidate_set
from training.metrics import Tally, Values, add_ranks, target_ranks
from training.windows import Rows, Windows, document_windows, hide_context

SCORES_PER_BLOCK = 60_000
RELATIONS_PER_BLOCK = 8_000_000
CORPUS_BLOCK = 256
QUERIES_TOGETHER = 1024
"""Windows whose queries are made in one pass, at least."""
CORPUS_TOP = 64


@dataclass(frozen=True, kw_only=True)
class DocumentVectors:
    """One document's vectors, in both spaces."""

    raw_ND: Floats
    projected_ND: Floats


@dataclass(frozen=True, kw_only=True)
class DocumentScores:
    """Scores of every chunk of a document, for some of its windows."""

    windows: Windows
    queries: Queries
    scores: Scores
    allowed_WN: Bools
    """True where a chunk is a candidate: outside the window."""


def project_documents(scorer: Scorer, documents: Sequence[Floats]) -> list[DocumentVectors]:
    """Project every document of two chunks or more, once."""
    return [
        DocumentVectors(raw_ND=raw_ND, projected_ND=scorer.project(raw_ND))
        for raw_ND in documents
        if len(raw_ND) >= 2
    ]


def window_queries(
    scorer: Scorer, document: DocumentVectors, windows: Windows, method: Method
) -> Queries:
    """Queries of a document's windows."""
    return _query(scorer, [(document, windows)], method)


def _query(
    scorer: Scorer, group: Sequence[tuple[DocumentVectors, Windows]], method: Method
) -> Queries:
    """Queries of windows of several documents, one after the other."""
    present_WL1 = np.concatenate([windows.mask_WL for _, windows in group])[..., None]
    raw_WLD = np.concatenate([own.raw_ND[windows.context_WL] for own, windows in group])
    raw_WLD *= present_WL1
    projected_WLD = None
    if method is Method.P8:
        projected_WLD = np.concatenate(
            [own.projected_ND[windows.context_WL] for own, windows in group]
        )
        projected_WLD *= present_WL1
    return scorer.query(raw_WLD, present_WL1[..., 0], method, projected_WLD)


def window_groups(
    scorer: Scorer,
    documents: Sequence[DocumentVectors],
    method: Method,
    most_windows: int | None = None,
) -> Iterator[tuple[DocumentVectors, Windows, Queries]]:
    """Windows of each document and their queries, made for several documents together.

    Args:
        scorer: Makes the queries.
        documents: Documents, in any order, which is kept.
        method: Which queries to make.
        most_windows: Most windows of a document, spread evenly over it; all if None.
    """
    group: list[tuple[DocumentVectors, Windows]] = []
    waiting = 0
    for number, document in enumerate(documents):
        windows = document_windows(len(document.raw_ND), scorer.window)
        if most_windows is not None and len(windows.next_W) > most_windows:
            windows = windows.select(_spread(len(windows.next_W), most_windows))
        group.append((document, windows))
        waiting += len(windows.next_W)
        if waiting >= QUERIES_TOGETHER or number == len(documents) - 1:
            queries = _query(scorer, group, method)
            end = 0
            for own, mine in group:
                rows_W = np.arange(end, end + len(mine.next_W))
                end += len(mine.next_W)
                yield own, mine, queries.select(rows_W)
            group, waiting = [], 0


def _spread(count: int, most: int) -> Bools:
    """True for ``most`` of ``count``, evenly spaced from the first to the last."""
    chosen = np.zeros(count, np.bool_)
    chosen[np.linspace(0, count - 1, most).round().astype(np.int64)] = True
    return chosen


def document_scores(
    scorer: Scorer, document: DocumentVectors, windows: Windows, queries: Queries
) -> Iterator[DocumentScores]:
    """Score every chunk of a document for windows, in blocks that keep the matrices small."""
    count = len(document.raw_ND)
    step = max(1, min(SCORES_PER_BLOCK // count, RELATIONS_PER_BLOCK // count**2))
    for start in range(0, len(windows.next_W), step):
        rows_W = np.arange(start, min(start + step, len(windows.next_W)))
        block = windows.select(rows_W)
        some = replace(queries.select(rows_W), rows_BL=block.context_WL)
        allowed_WN = hide_context(block, count)
        scores = scorer.score(some, document.raw_ND, document.projected_ND, allowed_WN)
        yield DocumentScores(windows=block, queries=some, scores=scores, allowed_WN=allowed_WN)


def tally_document(
    scorer: Scorer,
    document: DocumentVectors,
    windows: Windows,
    queries: Queries,
    in_document: Tally,
    classic8: Tally | None,
    generator: np.random.Generator,
) -> float:
    """Add windows of one document to ``in_document`` and, if wanted, ``classic8``.

    Returns:
        Its mean number of candidates.
    """
    ranks, classic_ranks, margins, last_margins, candidates = [], [], [], [], []
    for block in document_scores(scorer, document, windows, queries):
        candidates.append(block.allowed_WN.sum(1))
        hidden_WN = np.where(block.allowed_WN, block.scores.total_BK, -np.inf).astype(np.float32)
        ranks.append(target_ranks(hidden_WN, block.windows.next_W))
        margin_W, last_W = _margins(block.scores, block.windows)
        margins.append(margin_W)
        last_margins.append(last_W)
        if classic8 is not None:
            classic_ranks.append(_classic_ranks(scorer, document, block, generator))
    add_ranks(in_document, np.concatenate(ranks))
    if classic8 is not None:
        add_ranks(classic8, np.concatenate(classic_ranks))
    for tally in (in_document,) if classic8 is None else (in_document, classic8):
        tally.add("margin", np.concatenate(margins))
        tally.add("margin_last", np.concatenate(last_margins))
    return float(np.concatenate(candidates).mean())


def _margins(scores: Scores, windows: Windows) -> tuple[Floats, Floats]:
    """``cos(q, next) - cos(q, prev)`` where there is a prev, and the same against c_L."""
    rows_W = np.arange(len(windows.next_W))
    next_W = scores.mixture_BK[rows_W, windows.next_W]
    has_prev_W = windows.prev_W >= 0
    prev_W = scores.mixture_BK[rows_W, windows.prev_W]
    last_W = scores.mixture_BK[rows_W, windows.next_W - 1]
    return (next_W - prev_W)[has_prev_W], next_W - last_W


def _classic_ranks(
    scorer: Scorer,
    document: DocumentVectors,
    block: DocumentScores,
    generator: np.random.Generator,
) -> Values:
    """Ranks among the classic 8, scored as a set of 8, for windows with a prev and 6 others."""
    count, windows = len(document.raw_ND), block.windows
    usable = np.flatnonzero((windows.prev_W >= 0) & (count - scorer.window >= CLASSIC_SIZE))
    if not len(usable):
        return np.zeros(0)
    sets_WK = np.stack(
        [
            create_candidate_set(count, int(windows.next_W[row]), scorer.window, generator)
            for row in usable
        ]
    )
    # In rising row order, so that a tie falls as it does when served, not always to the target.
    sorted_WK = np.sort(sets_WK, axis=1)
    target_W = np.argmax(sorted_WK == sets_WK[:, :1], axis=1)
    scores = scorer.score(
        block.queries.select(usable), document.raw_ND[sorted_WK], document.projected_ND[sorted_WK]
    )
    return target_ranks(scores.total_BK, target_W.astype(np.int64))


def corpus_ranks(
    scorer: Scorer, documents: Sequence[DocumentVectors], corpus: Corpus, method: Method
) -> Iterator[Values]:
    """For each document the ranks (W,) of its targets in the whole corpus, inf when not found."""
    starts = np.cumsum([0] + [len(document.raw_ND) for document in documents])
    for document, start in zip(documents, starts, strict=False):
        windows = document_windows(len(document.raw_ND), scorer.window)
        found: list[Values] = []
        for first in range(0, len(windows.next_W), CORPUS_BLOCK):
            block = windows.select(slice(first, first + CORPUS_BLOCK))
            queries = window_queries(scorer, document, block, method)
            excluded: list[Rows] = [
                rows_L[mask_L] + start
                for rows_L, mask_L in zip(block.context_WL, block.mask_WL, strict=True)
            ]
            rankings = rank_corpus(scorer, queries, corpus, excluded, CORPUS_TOP)
            found.append(
                np.array(
                    [
                        _place(ranking.rows_K, int(target + start))
                        for ranking, target in zip(rankings, block.next_W, strict=True)
                    ]
                )
            )
        yield np.concatenate(found)


def _place(rows_K: Rows, target: int) -> float:
    places = np.flatnonzero(rows_K == target)
    return float(places[0] + 1) if len(places) else float("inf")


def anchors(scorer: Scorer, document: DocumentVectors, method: Method) -> Values:
    """``cos_anchor`` (W,) of a document's queries, in the space that the method uses."""
    windows = document_windows(len(document.raw_ND), scorer.window)
    queries = window_queries(scorer, document, windows, method)
    space_ND = document.projected_ND if method is Method.P8 else document.raw_ND
    return cos_anchor(queries.vectors_BD, space_ND[windows.context_WL], windows.mask_WL)
