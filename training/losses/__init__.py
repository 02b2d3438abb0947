"""The losses of P8, one a file, and their combination."""

from training.losses.combined import (
    WHOLE,
    CombinedLoss,
    LossShare,
    LossWeights,
    combined_p8_loss,
)
from training.losses.listwise import listwise_ranking_loss
from training.losses.margin import prev_repel_margin_loss
from training.losses.order import order_verifier_loss

__all__ = [
    "WHOLE",
    "CombinedLoss",
    "LossShare",
    "LossWeights",
    "combined_p8_loss",
    "listwise_ranking_loss",
    "order_verifier_loss",
    "prev_repel_margin_loss",
]
