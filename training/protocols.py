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
    context_WLD = document.raw_ND[windows.context_WL] * windows.mask_WL[..., None]
    return scorer.query(np.asarray(context_WLD, np.float32), windows.mask_WL, method)


def document_scores(
    scorer: Scorer, document: DocumentVectors, method: Method
) -> Iterator[DocumentScores]:
    """Score every chunk of a document for every window, in blocks that keep the matrices small."""
    count = len(document.raw_ND)
    windows = document_windows(count, scorer.window)
    step = max(1, min(SCORES_PER_BLOCK // count, RELATIONS_PER_BLOCK // count**2))
    for start in range(0, len(windows.next_W), step):
        block = windows.select(slice(start, start + step))
        queries = window_queries(scorer, document, block, method)
        queries = replace(queries, rows_BL=block.context_WL)
        allowed_WN = hide_context(block, count)
        scores = scorer.score(queries, document.raw_ND, document.projected_ND, allowed_WN)
        yield DocumentScores(windows=block, queries=queries, scores=scores, allowed_WN=allowed_WN)


def tally_document(
    scorer: Scorer,
    document: DocumentVectors,
    method: Method,
    in_document: Tally,
    classic8: Tally | None,
    generator: np.random.Generator,
) -> float:
    """Add one document to ``in_document`` and, if wanted, ``classic8``.

    Returns:
        Its mean number of candidates.
    """
    ranks, classic_ranks, margins, last_margins, candidates = [], [], [], [], []
    for block in document_scores(scorer, document, method):
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
