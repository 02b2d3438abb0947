"""The loss that P8 is trained with."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.config import CLASSIC_TEMPERATURE
from training.losses.listwise import listwise_ranking_loss
from training.losses.margin import CLASSIC_MARGIN, prev_repel_margin_loss
from training.losses.order import order_verifier_loss


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights and constants of ``combined_p8_loss``.

    Raises:
        ValueError: If a weight is negative or the temperature not positive.
    """

    listwise: float = 1.0
    """w_listwise, weight of the listwise cross-entropy."""
    margin: float = 0.5
    """w_margin, weight of the hinge against prev."""
    order: float = 0.2
    """w_order, weight of the order verifier's cross-entropy."""
    temperature: float = CLASSIC_TEMPERATURE
    """Temperature of the listwise cross-entropy."""
    hinge: float = CLASSIC_MARGIN
    """Wanted difference of cosines between next and prev."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("listwise", "margin", "order"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a weight >= 0, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected > 0, got {self.temperature}")


class LossShare(NamedTuple):
    """Of a whole batch, the share of those windows and pairs that a loss is worked out for."""

    windows: float = 1.0
    """Of all windows."""
    prevs: float = 1.0
    """Of the windows that have a prev."""
    pairs: float = 1.0
    """Of the order pairs."""


WHOLE = LossShare()


class CombinedLoss(NamedTuple):
    """The sum and its unweighted parts, all scalars."""

    total: Tensor
    listwise: Tensor
    margin: Tensor
    order: Tensor


def combined_p8_loss(
    query_BD: Tensor,
    candidates_BKD: Tensor,
    target_B: Tensor,
    prev_B: Tensor,
    order_logit_P: Tensor,
    order_later_P: Tensor,
    *,
    weights: LossWeights,
    mask_BK: Tensor | None = None,
    log_weight_BK: Tensor | None = None,
    share: LossShare = WHOLE,
) -> CombinedLoss:
    """``w_listwise * listwise + w_margin * hinge + w_order * BCE``.

    Args:
        query_BD: Unit queries (B, D), in the space of the candidates.
        candidates_BKD: Unit candidates (B, K, D), or (K, D) shared by the batch.
        target_B: Column of the next chunk among the candidates.
        prev_B: Column of the chunk before the window, or -1 where there is none.
        order_logit_P: Log-odds (P,) from ``OrderVerifier``.
        order_later_P: 1.0 where the pair's second chunk comes later, else 0.0.
        weights: Weights and constants.
        mask_BK: True where a candidate counts; all if left out.
        log_weight_BK: See ``listwise_ranking_loss``.
        share: How much of a batch this is; the losses of all shares add up to that of the batch.

    Returns:
        The total and its parts.
    """
    listwise = listwise_ranking_loss(
        query_BD,
        candidates_BKD,
        target_B,
        mask_BK=mask_BK,
        log_weight_BK=log_weight_BK,
        temperature=weights.temperature,
    )
    margin = prev_repel_margin_loss(
        query_BD,
        _pick(candidates_BKD, target_B),
        _pick(candidates_BKD, prev_B.clamp(min=0)),
        margin=weights.hinge,
        valid_B=prev_B >= 0,
    )
    order = order_verifier_loss(order_logit_P, order_later_P)
    listwise, margin = listwise * share.windows, margin * share.prevs
    order = order * share.pairs
    total = weights.listwise * listwise + weights.margin * margin + weights.order * order
    return CombinedLoss(total, listwise, margin, order)


def _pick(candidates_BKD: Tensor, column_B: Tensor) -> Tensor:
    if candidates_BKD.ndim == 2:
        return candidates_BKD[column_B]
    return candidates_BKD[torch.arange(len(column_B), device=column_B.device), column_B]
