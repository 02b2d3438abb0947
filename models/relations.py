"""How candidates relate to a window and to each other, by cosines in one space.

Some candidates are near everything (hubs, which say little), some are nearest to a chunk that is
itself a candidate: what no candidate shows alone.

Shapes: B windows, L window length, K candidates, D dimension. Candidates are (B, K, D), or
(1, K, D) shared by all windows. ``mask_BL`` and ``valid_BK`` are True = present.
"""

import torch
from torch import Tensor

FAR_AWAY = -2.0  # below every cosine


def relation_count(window: int) -> int:
    """How many features ``relations`` answers."""
    return 2 * window + 7


def relations(context_BLD: Tensor, mask_BL: Tensor, set_BKD: Tensor, valid_BK: Tensor) -> Tensor:
    """Describe each candidate by cosines to the window and to the other candidates, in one space.

    With m the mean of the set: cosines to each context chunk, as they are and centred by m; their
    mean; cosine to m; cosine to the nearest other candidate; how far the candidate lies behind
    that, behind the best candidate and behind the best centred one; its rank by the last chunk.

    Args:
        context_BLD: Unit context vectors, right-aligned.
        mask_BL: True where a context chunk is present.
        set_BKD: Unit candidates, or (1, K, D).
        valid_BK: True where a candidate belongs to the set.

    Returns:
        Features (B, K, 2 L + 7).
    """
    shared_KD = set_BKD[0] if len(set_BKD) == 1 else None
    present_BLK = mask_BL[:, :, None]
    weight_BK = valid_BK.to(set_BKD.dtype)
    count_B = weight_BK.sum(1, keepdim=True).clamp(min=1.0)
    if shared_KD is not None:
        cosine_BLK = context_BLD @ shared_KD.T
        mean_BD = weight_BK @ shared_KD / count_B
        to_mean_BK = mean_BD @ shared_KD.T
    else:
        cosine_BLK = context_BLD @ set_BKD.transpose(1, 2)
        mean_BD = torch.einsum("bk,bkd->bd", weight_BK, set_BKD) / count_B
        to_mean_BK = torch.einsum("bd,bkd->bk", mean_BD, set_BKD)
    square_B = (mean_BD * mean_BD).sum(1, keepdim=True)
    centred_BLK = _centred(context_BLD, cosine_BLK, mean_BD, to_mean_BK, square_B)
    cosine_BLK = cosine_BLK.masked_fill(~present_BLK, 0.0)
    centred_BLK = centred_BLK.masked_fill(~present_BLK, 0.0)
    near_BK = _nearest(set_BKD, valid_BK)
    last_BK, last_centred_BK = cosine_BLK[:, -1], centred_BLK[:, -1]
    behind_BK = last_BK - _best(last_BK, valid_BK)
    behind_centred_BK = last_centred_BK - _best(last_centred_BK, valid_BK)
    mean_cosine_BK = cosine_BLK.sum(1) / mask_BL.sum(1, keepdim=True)
    single = [
        mean_cosine_BK,
        to_mean_BK / square_B.clamp(min=1e-6).sqrt(),
        near_BK,
        last_BK - near_BK,
        behind_BK,
        behind_centred_BK,
        _log_rank(last_BK, valid_BK),
    ]
    many_BFK = torch.cat([cosine_BLK, centred_BLK, torch.stack(single, 1)], dim=1)
    return many_BFK.transpose(1, 2)


def _centred(
    context_BLD: Tensor, cosine_BLK: Tensor, mean_BD: Tensor, to_mean_BK: Tensor, square_B: Tensor
) -> Tensor:
    """Cosines (B, L, K) between context and candidates after the set's mean is taken off both."""
    context_mean_BL = torch.einsum("bld,bd->bl", context_BLD, mean_BD)
    product_BLK = (
        cosine_BLK - context_mean_BL[:, :, None] - to_mean_BK[:, None] + square_B[:, :, None]
    )
    context_norm_BL = (1.0 - 2.0 * context_mean_BL + square_B).clamp(min=1e-6).sqrt()
    set_norm_BK = (1.0 - 2.0 * to_mean_BK + square_B).clamp(min=1e-6).sqrt()
    return product_BLK / (context_norm_BL[:, :, None] * set_norm_BK[:, None])


def _nearest(set_BKD: Tensor, valid_BK: Tensor) -> Tensor:
    """Cosine (B, K) of each candidate to the nearest other candidate of its set."""
    gram_BKK = set_BKD @ set_BKD.transpose(1, 2)
    own_KK = torch.eye(gram_BKK.shape[-1], dtype=torch.bool, device=gram_BKK.device)
    hidden_BKK = gram_BKK.masked_fill(own_KK | ~valid_BK[:, None], FAR_AWAY)
    return hidden_BKK.amax(-1).clamp(min=-1.0)


def _best(score_BK: Tensor, valid_BK: Tensor) -> Tensor:
    return score_BK.masked_fill(~valid_BK, FAR_AWAY).amax(1, keepdim=True)


def _log_rank(score_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """``log(1 + number of better candidates)``, by sorting."""
    hidden_BK = score_BK.masked_fill(~valid_BK, FAR_AWAY)
    rank_BK = hidden_BK.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank_BK.to(score_BK.dtype).log1p()
