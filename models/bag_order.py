"""The order of a bag of chunks: evidence of verifier and bag encoder, and the order restored.

Shapes: N chunks of a bag, P pairs, D dimension. Arrays are float32 numpy.
"""

from dataclasses import dataclass

import numpy as np
import torch

from models.scoring import Floats, Scorer
from models.sequence import ReadingOrder, reading_order

PAIR_BLOCK = 512
"""Pairs compared at once: those of 256 chunks together would take half a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class BagEvidence:
    """What is known of the order of a bag of chunks, seen together."""

    after_NN: Floats
    """Calibrated log-odds that chunk j comes after chunk i; exactly antisymmetric."""
    follows_NN: Floats | None
    """Log-score that chunk j immediately follows chunk i; None without a bag encoder."""
    follow_weight: float
    """How much neighbours count in a whole reading order, beside all pairs."""
    place_N: Floats
    """One score a chunk of how late it stands: the bag encoder's, or the mean of P(after)."""


@torch.inference_mode()
def bag_evidence(scorer: Scorer, raw_ND: Floats) -> BagEvidence:
    """What a model tells of the order of a bag of raw unit vectors (N, D).

    Raises:
        ValueError: If the scorer has no model.
    """
    count = len(raw_ND)
    first_P, second_P = np.triu_indices(count, 1)
    pair_P = np.empty(len(first_P), np.float32)
    for start in range(0, len(first_P), PAIR_BLOCK):
        some = slice(start, start + PAIR_BLOCK)
        pair_P[some] = scorer.order_logits(raw_ND[first_P[some]], raw_ND[second_P[some]])
    if scorer.reranker is None:
        after_NN = _antisymmetric(pair_P, count)
        place_N = (1.0 / (1.0 + np.exp(-after_NN))).mean(0)
        return BagEvidence(after_NN=after_NN, follows_NN=None, follow_weight=0.0, place_N=place_N)
    bag = scorer.reranker.bag
    chunks_1ND = torch.from_numpy(np.ascontiguousarray(raw_ND, np.float32))[None]
    output = bag(chunks_1ND, torch.ones(1, count, dtype=torch.bool))
    after_P = output.after_BNN[0].numpy()[first_P, second_P]
    after_P = after_P + np.float32(bag.pair_share.item()) * pair_P
    return BagEvidence(
        after_NN=_antisymmetric(after_P, count),
        follows_NN=np.asarray(output.follows_BLNN[0, 0].numpy(), np.float32),
        follow_weight=bag.follow_weight.item(),
        place_N=np.asarray(output.place_BN[0].numpy(), np.float32),
    )


def order_by(evidence: BagEvidence) -> ReadingOrder:
    """The reading order that contradicts the evidence least, with a confidence."""
    return reading_order(
        evidence.after_NN,
        follows_NN=evidence.follows_NN,
        follow_weight=evidence.follow_weight,
    )


def _antisymmetric(upper_P: Floats, count: int) -> Floats:
    matrix_NN = np.zeros((count, count), np.float32)
    matrix_NN[np.triu_indices(count, 1)] = upper_P
    return matrix_NN - matrix_NN.T
