"""The re-ranker's share of a training step: sets from the document, and sets from the whole batch.

A document's own chunks are the sets of the ``in_document`` protocol, some thinned out to the size
of ``classic8``; the best 64 of all the batch's chunks are like what the index retrieves. Mixture
and verifier are seen as they will be served (no dropout) and take no gradient from here.

Shapes: W windows, K candidates, N chunks, L window length, D dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.model import P8Model
from models.ranking import RERANK_DEPTH
from models.rerank import SetReranker
from training.batches import Batch

RELATIONS_PER_DOCUMENT = 1_000_000
WINDOWS_PER_DOCUMENT = 20
BATCH_WINDOWS = 32
SMALL_SHARE = 0.25
SMALL_SIZE = 8


def rerank_loss(model: P8Model, reranker: SetReranker, batch: Batch, temperature: float) -> Tensor:
    """Cross-entropy of the next chunk by mixture and re-ranker together, as they are served.

    Returns:
        Scalar: mean over the sets seen.
    """
    seen = _Served(model, batch)
    total, windows = batch.chunks_ND.new_zeros(()), 0
    for window_slice, chunk_slice in batch.documents:
        count = chunk_slice.stop - chunk_slice.start
        first, stop = window_slice.start, window_slice.stop
        limit = max(1, min(WINDOWS_PER_DOCUMENT, RELATIONS_PER_DOCUMENT // count**2))
        rows_W = first + torch.randperm(stop - first)[:limit]
        if not len(rows_W):
            continue
        columns_1N = torch.arange(chunk_slice.start, chunk_slice.stop)[None]
        valid_WK = batch.allowed_WN[rows_W, chunk_slice]
        target_W = batch.next_W[rows_W] - chunk_slice.start
        valid_WK = _shrink_some(valid_WK, target_W)
        total = total + seen.loss(reranker, rows_W, columns_1N, valid_WK, target_W, temperature)
        windows += len(rows_W)
    rows_W = torch.randperm(len(batch.next_W))[:BATCH_WINDOWS]
    found_WK = seen.retrieve(rows_W)
    hit_WK = found_WK == batch.next_W[rows_W, None]
    kept_W = hit_WK.any(1)  # what the index does not find, the re-ranker cannot save
    if bool(kept_W.any()):
        valid_WK = torch.ones_like(hit_WK[kept_W])
        target_W = hit_WK[kept_W].int().argmax(1)
        total = total + seen.loss(
            reranker, rows_W[kept_W], found_WK[kept_W], valid_WK, target_W, temperature
        )
        windows += int(kept_W.sum())
    return total / max(windows, 1)


def _shrink_some(valid_WK: Tensor, target_W: Tensor) -> Tensor:
    """Reduce a quarter of the sets to about 8 random members and the target.

    Posted candidates are few and arbitrary; without such sets the re-ranker takes a small set's
    stragglers for a large one's.
    """
    small_W1 = torch.rand(len(valid_WK), 1) < SMALL_SHARE
    share_W1 = SMALL_SIZE / valid_WK.sum(1, keepdim=True).clamp(min=SMALL_SIZE)
    chosen_WK = torch.rand(valid_WK.shape) < share_W1
    chosen_WK.scatter_(1, target_W[:, None], True)
    return valid_WK & (chosen_WK | ~small_W1)


class _Served:
    """A batch as the served model sees it."""

    def __init__(self, model: P8Model, batch: Batch) -> None:
        self.batch = batch
        self.order = model.order
        with torch.no_grad():
            model.p8.eval()
            self.projected_ND = model.p8.project(batch.chunks_ND)
            context_WLD = self.projected_ND[batch.context_WL]
            self.query_WD = model.p8.mix(context_WLD, batch.mask_WL).query_BD
            model.p8.train()

    def retrieve(self, rows_W: Tensor) -> Tensor:
        """Best 64 of the batch's chunks outside each window, (W, K), rising as when served."""
        cosine_WN = self.query_WD[rows_W] @ self.projected_ND.T
        hidden_WN = cosine_WN.scatter(1, self.batch.context_WL[rows_W], float("-inf"))
        depth = min(RERANK_DEPTH, cosine_WN.shape[1] - self.batch.context_WL.shape[1])
        return hidden_WN.topk(depth, dim=1).indices.sort(dim=1).values

    def loss(
        self,
        reranker: SetReranker,
        rows_W: Tensor,
        columns_XK: Tensor,
        valid_WK: Tensor,
        target_W: Tensor,
        temperature: float,
    ) -> Tensor:
        """Summed cross-entropy of some windows; columns are (W, K), or (1, K) shared by all."""
        batch = self.batch
        with torch.no_grad():
            raw_XKD, projected_XKD = batch.chunks_ND[columns_XK], self.projected_ND[columns_XK]
            present_WL1 = batch.mask_WL[rows_W][..., None]
            context_WL = batch.context_WL[rows_W]
            raw_WLD = batch.chunks_ND[context_WL] * present_WL1
            projected_WLD = self.projected_ND[context_WL] * present_WL1
            base_WK = (self.query_WD[rows_W][:, None] @ projected_XKD.transpose(1, 2)).squeeze(1)
            self.order.eval()
            order_WK = self.order(raw_WLD[:, -1:], raw_XKD)
            self.order.train()
            features_WKF = reranker.features(
                (raw_WLD, raw_XKD),
                (projected_WLD, projected_XKD),
                batch.mask_WL[rows_W],
                valid_WK,
                base_WK,
                order_WK,
            )
        total_WK = base_WK / temperature + reranker(features_WKF, valid_WK)
        return functional.cross_entropy(
            total_WK.masked_fill(~valid_WK, float("-inf")), target_W, reduction="sum"
        )
