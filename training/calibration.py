"""What is fitted on validation documents after training: two numbers, both in the checkpoint.

``tau`` makes the order verifier's probabilities honest; ``order_weight`` says how much its log-odds
count beside the mixture in the score.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from models.model import P8Model
from models.scoring import Method, Scorer
from training.metrics import Tally, Values, add_ranks, target_ranks
from training.ordering import all_pairs
from training.protocols import DocumentVectors, document_scores

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
    for document in documents:
        for block in document_scores(scorer, document, Method.P8):
            parts = block.scores
            for weight, tally in tallies.items():
                total_WN = parts.mixture_BK + np.float32(weight) * parts.order_BK + parts.rerank_BK
                hidden_WN = np.where(block.allowed_WN, total_WN, -np.inf).astype(np.float32)
                add_ranks(tally, target_ranks(hidden_WN, block.windows.next_W))
    tried = {str(weight): tally.mean("mrr@10") for weight, tally in tallies.items()}
    return max(ORDER_WEIGHTS, key=lambda weight: tried[str(weight)]), tried
