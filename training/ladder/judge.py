"""How a row is judged: ``in_document``, with and without the order verifier, on whole documents.

Shapes: N chunks of a document, W windows, D dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from models.order import OrderVerifier
from models.scoring import Bools, Floats, cos_anchor
from training.calibration import ORDER_WEIGHTS
from training.ceiling import tally_ceiling
from training.ladder.config import Row
from training.ladder.rankers import Ranker
from training.metrics import Estimate, Tally, Values, add_ranks, bootstrap_difference, target_ranks
from training.protocols import DocumentVectors
from training.windows import Rows, Windows, document_windows, hide_context

ORDER_BLOCK = 64
# Rows that rank poorly by mixture alone want more of the order part than P8 as served does.
WEIGHTS = (*ORDER_WEIGHTS, 0.05, 0.08, 0.12)
COMPARED = ("r@5", "mrr@10")


@dataclass(frozen=True, kw_only=True)
class View:
    """A document as a row sees it, in evaluation."""

    windows: Windows
    query_WD: Floats
    space_ND: Floats
    score_WN: Floats
    allowed_WN: Bools


@torch.inference_mode()
def view(ranker: Ranker, raw_ND: Floats, row: Row, keep: Rows | None = None) -> View:
    """Score every chunk of a document for all its windows, or those whose next is in ``keep``."""
    windows = document_windows(len(raw_ND), row.window)
    hidden = document_windows(len(raw_ND), row.hidden)
    if keep is not None:
        chosen_W = np.isin(windows.next_W, keep)
        windows, hidden = windows.select(chosen_W), hidden.select(chosen_W)
    chunks_ND = torch.from_numpy(raw_ND)
    space_ND = ranker.space(chunks_ND)
    query_WD = ranker.query(
        chunks_ND,
        space_ND,
        torch.from_numpy(windows.context_WL),
        torch.from_numpy(windows.mask_WL),
    )
    return View(
        windows=windows,
        query_WD=query_WD.numpy(),
        space_ND=space_ND.numpy(),
        score_WN=ranker.score(query_WD, space_ND).numpy(),
        allowed_WN=hide_context(hidden, len(raw_ND)),
    )


@torch.inference_mode()
def order_matrices(verifier: OrderVerifier, documents: Sequence[Floats]) -> list[Floats]:
    """For each document the log-odds (N, N) that the column comes after the row."""
    verifier.eval()
    matrices = []
    for raw_ND in documents:
        chunks_ND = torch.from_numpy(raw_ND)
        blocks = [
            verifier(chunks_ND[start : start + ORDER_BLOCK, None], chunks_ND[None])
            for start in range(0, len(raw_ND), ORDER_BLOCK)
        ]
        matrices.append(torch.cat(blocks).numpy())
    return matrices


def tally_rows(
    ranker: Ranker,
    documents: Sequence[Floats],
    row: Row,
    *,
    keep: Sequence[Rows] | None = None,
    orders: Sequence[Floats] | None = None,
    weight: float = 0.0,
    anchor: bool = True,
) -> Tally:
    """``in_document`` metrics, margins and ``cos_anchor`` of a ranker, a number a document each.

    Args:
        ranker: In evaluation mode.
        documents: Raw unit vectors (N, D) of each.
        row: For window length and hidden chunks.
        keep: For each document the ``next`` rows to look at; all if None.
        orders: ``order_matrices`` of the documents; needed where there is a weight.
        weight: Weight of the order part.
        anchor: Whether to measure ``cos_anchor``, which is slow.
    """
    tally = Tally()
    for number, raw_ND in enumerate(documents):
        seen = view(ranker, raw_ND, row, None if keep is None else keep[number])
        if not len(seen.windows.next_W):
            continue
        total_WN = seen.score_WN
        if orders is not None and weight:
            total_WN = total_WN + np.float32(weight) * orders[number][seen.windows.next_W - 1]
        add_ranks(tally, _ranks(total_WN, seen))
        for metric, values_W in _margins(seen):
            tally.add(metric, values_W)
        if anchor:
            context_WLD = seen.space_ND[seen.windows.context_WL]
            tally.add("cos_anchor", cos_anchor(seen.query_WD, context_WLD, seen.windows.mask_WL))
    return tally


def fit_weight(
    ranker: Ranker, documents: Sequence[Floats], row: Row, orders: Sequence[Floats]
) -> float:
    """The weight of the order part with the best MRR@10, as ``calibration.fit_order_weight``."""
    tallies = {weight: Tally() for weight in WEIGHTS}
    for raw_ND, order_NN in zip(documents, orders, strict=True):
        seen = view(ranker, raw_ND, row)
        order_WN = order_NN[seen.windows.next_W - 1]
        for weight, tally in tallies.items():
            add_ranks(tally, _ranks(seen.score_WN + np.float32(weight) * order_WN, seen))
    return max(WEIGHTS, key=lambda weight: tallies[weight].mean("mrr@10"))


def compare(ours: Tally, theirs: Tally, seed: int = 0) -> dict[str, Estimate]:
    """Paired differences over the same documents."""
    return {
        metric: bootstrap_difference(ours.sums(metric), theirs.sums(metric), seed)
        for metric in COMPARED
    }


def estimates(tally: Tally, seed: int = 0) -> dict[str, dict[str, float]]:
    """Every metric with its interval, as it stands in reports."""
    return {metric: estimate.json() for metric, estimate in tally.estimates(seed).items()}


@torch.inference_mode()
def ceiling_of(ranker: Ranker, documents: Sequence[Floats], row: Row) -> Tally:
    """What the best mixture of each window would reach in the ranker's space."""
    spaces = [
        DocumentVectors(
            raw_ND=raw_ND,
            projected_ND=functional.normalize(
                ranker.space(torch.from_numpy(raw_ND)), dim=-1
            ).numpy(),
        )
        for raw_ND in documents
    ]
    return tally_ceiling(spaces, row.window)


def _ranks(total_WN: Floats, seen: View) -> Values:
    hidden_WN = np.where(seen.allowed_WN, total_WN, -np.inf).astype(np.float32)
    return target_ranks(hidden_WN, seen.windows.next_W)


def _margins(seen: View) -> Iterator[tuple[str, Floats]]:
    """Next against prev where there is one, and against c_L."""
    windows = seen.windows
    rows_W = np.arange(len(windows.next_W))
    next_W = seen.score_WN[rows_W, windows.next_W]
    has_prev_W = windows.prev_W >= 0
    yield "margin", (next_W - seen.score_WN[rows_W, windows.prev_W])[has_prev_W]
    yield "margin_last", next_W - seen.score_WN[rows_W, windows.next_W - 1]
