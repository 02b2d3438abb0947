"""What is fitted on validation documents after training: a few numbers, all in the checkpoint.

``tau`` makes the order verifier's probabilities honest; ``order_weight`` says how much its log-odds
count beside the mixture in the score. The bag encoder's own ``tau`` and ``pair_share`` make the
order of a bag honest, from its and the verifier's evidence together; ``follow_weight`` says how
much neighbours count in a whole reading order.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar

from models.bag_order import bag_evidence, order_by
from models.model import P8Model
from models.scoring import Method, Scorer
from training.metrics import Tally, Values, add_ranks, kendall_tau, target_ranks
from training.ordering import BAG_LIMIT, all_pairs
from training.protocols import DocumentVectors, document_scores, window_groups

FOLLOW_WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
ORDER_WEIGHTS = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03)


def fit_tau(model: P8Model, documents: Sequence[DocumentVectors], seed: int = 0) -> float:
    """Set the verifier's temperature to the one of least log loss on all pairs (Guo et al. 2017).

    Returns:
        The temperature, in 0.05 to 20.
    """
    generator = np.random.default_rng(seed)
    model.order.tau.fill_(1.0)
    scorer = Scorer(model)
    collected: list[Values] = []
    for document in documents:
        earlier_P, later_P = all_pairs(len(document.raw_ND), generator)
        logit_P = scorer.order_logits(document.raw_ND[earlier_P], document.raw_ND[later_P])
        collected.append(logit_P.astype(np.float64))
    logits = np.concatenate(collected)

    def log_loss(log_tau: float) -> float:
        return float(np.logaddexp(0.0, -logits / np.exp(log_tau)).mean())

    best = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    tau = float(np.exp(best.x))
    with torch.no_grad():
        model.order.tau.fill_(tau)
    return tau


def fit_order_weight(
    model: P8Model, documents: Sequence[DocumentVectors]
) -> tuple[float, dict[str, float]]:
    """Choose the weight of the order part by validation MRR@10, in-document.

    Returns:
        The weight, and the MRR@10 of every weight tried.
    """
    scorer = Scorer(model, order_weight=1.0)
    tallies = {weight: Tally() for weight in ORDER_WEIGHTS}
    for document, windows, queries in window_groups(scorer, documents, Method.P8):
        for block in document_scores(scorer, document, windows, queries):
            parts = block.scores
            for weight, tally in tallies.items():
                total_WN = parts.mixture_BK + np.float32(weight) * parts.order_BK + parts.rerank_BK
                hidden_WN = np.where(block.allowed_WN, total_WN, -np.inf).astype(np.float32)
                add_ranks(tally, target_ranks(hidden_WN, block.windows.next_W))
    tried = {str(weight): tally.mean("mrr@10") for weight, tally in tallies.items()}
    return max(ORDER_WEIGHTS, key=lambda weight: tried[str(weight)]), tried


def fit_bag(
    model: P8Model, documents: Sequence[DocumentVectors], seed: int = 0
) -> dict[str, float] | None:
    """Fit the bag encoder's three numbers; the verifier's ``tau`` must have been fitted before.

    ``tau`` and ``pair_share`` are those of least log loss over pairs of whole documents, a
    logistic regression of two weights; ``follow_weight`` is that of greatest Kendall's tau.

    Returns:
        What was fitted; None if the model has no bag encoder.
    """
    if model.reranker is None:
        return None
    bag, scorer = model.reranker.bag, Scorer(model)
    bag.tau.fill_(1.0)
    generator = np.random.default_rng(seed)
    columns: list[Values] = []
    for document in documents:
        raw_ND = document.raw_ND[:BAG_LIMIT]
        earlier_P, later_P = all_pairs(len(raw_ND), generator)
        found = []
        for share in (0.0, 1.0):
            bag.pair_share.fill_(share)
            found.append(bag_evidence(scorer, raw_ND).after_NN[earlier_P, later_P])
        own_P, both_P = (part.astype(np.float64) for part in found)
        columns.append(np.stack([own_P, both_P - own_P]))
    evidence_2P = np.concatenate(columns, axis=1)

    def log_loss(weights: Values) -> float:
        return float(np.logaddexp(0.0, -(weights @ evidence_2P)).mean())

    best = minimize(log_loss, np.array([1.0, 0.1]), bounds=[(0.05, 20.0), (0.0, 20.0)])
    bag.tau.fill_(1.0 / float(best.x[0]))
    bag.pair_share.fill_(float(best.x[1]))
    bags = [bag_evidence(scorer, document.raw_ND[:BAG_LIMIT]) for document in documents]
    agreement = {
        weight: float(
            np.mean(
                [
                    kendall_tau(order_by(replace(evidence, follow_weight=weight)).rows_N)
                    for evidence in bags
                ]
            )
        )
        for weight in FOLLOW_WEIGHTS
    }
    bag.follow_weight.fill_(max(FOLLOW_WEIGHTS, key=lambda weight: agreement[weight]))
    return {
        "tau": bag.tau.item(),
        "pair_share": bag.pair_share.item(),
        "follow_weight": bag.follow_weight.item(),
        **{f"kendall_tau at {weight}": value for weight, value in agreement.items()},
    }
