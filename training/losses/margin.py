"""Margin loss that repels the chunk before the window."""

import torch
from torch import Tensor

CLASSIC_MARGIN = 0.07


def prev_repel_margin_loss(
    query_BD: Tensor,
    next_BD: Tensor,
    prev_BD: Tensor,
    *,
    margin: float = CLASSIC_MARGIN,
    valid_B: Tensor | None = None,
) -> Tensor:
    """Hinge on the margin between next and prev: ``max(0, margin - cos(q, next) + cos(q, prev))``.

    ``prev`` is the chunk just before the window, never one of the window's own: those are mixed
    into the query, so their cosine is high whatever is learned. Use it beside
    ``listwise_ranking_loss`` to give the query a direction in time.

    Args:
        query_BD: Unit queries (B, D).
        next_BD: Unit vectors (B, D) of the true next chunks.
        prev_BD: Unit vectors (B, D) of the chunks before the windows.
        margin: Wanted difference of cosines.
        valid_B: True where a window has a prev; rows without count nothing. All if left out.

    Returns:
        Scalar: mean over the valid rows, 0 if there are none.
    """
    cos_next_B = (query_BD * next_BD).sum(-1)
    cos_prev_B = (query_BD * prev_BD).sum(-1)
    hinge_B = torch.relu(margin - cos_next_B + cos_prev_B)
    if valid_B is None:
        return hinge_B.mean()
    weight_B = valid_B.to(hinge_B.dtype)
    return (hinge_B * weight_B).sum() / weight_B.sum().clamp(min=1.0)
