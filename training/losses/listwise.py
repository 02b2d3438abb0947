"""Listwise ranking loss."""

import torch
from torch import Tensor
from torch.nn import functional

from models.config import CLASSIC_TEMPERATURE


def listwise_ranking_loss(
    query_BD: Tensor,
    candidates_BKD: Tensor,
    target_B: Tensor | None = None,
    *,
    mask_BK: Tensor | None = None,
    log_weight_BK: Tensor | None = None,
    temperature: float = CLASSIC_TEMPERATURE,
) -> Tensor:
    """Cross-entropy of the true next chunk among task-specific candidates.

    ``-log( exp(q·x_t / T) / sum_k w_k exp(q·x_k / T) )``, averaged over the batch: the top-one
    listwise loss (Cao et al., ICML 2007) with a temperature. Prefer it over
    ``prev_repel_margin_loss`` alone, which sees one negative; the two are summed by
    ``combined_p8_loss``.

    Args:
        query_BD: Unit queries (B, D).
        candidates_BKD: Unit candidates (B, K, D), or (K, D) shared by the batch.
        target_B: Column (B,) of the next chunk; column 0 if left out, as in the classic set.
        mask_BK: True where a candidate counts; all if left out.
        log_weight_BK: Logarithm of each candidate's weight in the sum, to count some negatives
            less than others; 0 if left out.
        temperature: T.

    Returns:
        Scalar loss.

    Raises:
        ValueError: If ``temperature`` is not positive, or a target is masked out.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    if candidates_BKD.ndim == 2:
        logits_BK = query_BD @ candidates_BKD.T / temperature
    else:
        logits_BK = torch.einsum("bd,bkd->bk", query_BD, candidates_BKD) / temperature
    if target_B is None:
        target_B = torch.zeros(len(query_BD), dtype=torch.long, device=query_BD.device)
    if log_weight_BK is not None:
        logits_BK = logits_BK + log_weight_BK
    if mask_BK is not None:
        if not bool(mask_BK.gather(1, target_B[:, None]).all()):
            raise ValueError("mask: expected every target to be a valid candidate, got one masked")
        logits_BK = logits_BK.masked_fill(~mask_BK, float("-inf"))
    return functional.cross_entropy(logits_BK, target_B)
