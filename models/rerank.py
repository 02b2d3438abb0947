"""The set-wise re-ranker: what a set of candidates tells that no single candidate does.

Judged one by one, every chunk near the last one looks like the next. Seen together, some are near
everything (hubs, which say little), some are nearest to a chunk that is itself a candidate, some
are the earliest of those that follow. The re-ranker describes each candidate by its relations to
window and set, lets the candidates attend to each other, and answers one logit each. It is
equivariant under permutation and takes any number of candidates.

It only re-orders what the mixture's query retrieved: the query itself stays in its cone.

Shapes: B windows, L window length, K candidates, D dimension, F features, H hidden. Candidates are
(B, K, D), or (1, K, D) shared by all windows. ``mask_BL`` and ``valid_BK`` are True = present.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import P8Config

NEAR_FEATURES = 7
FAR_AWAY = -2.0  # below every cosine


def feature_count(window: int) -> int:
    """F: two spaces of relations, the base score, two order features and the size of the set."""
    return 2 * (2 * window + NEAR_FEATURES) + 4


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


class SetReranker(nn.Module):
    """Logits for the candidates of a set, each in the light of all.

    Args:
        config: Shape; ``rerank_hidden`` is H.
    """

    mean_F: Tensor
    scale_F: Tensor
    fitted: Tensor

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        features = feature_count(config.window)
        hidden = config.rerank_hidden
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("scale_F", torch.ones(features))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.read = nn.Linear(features, hidden)
        self.block = nn.TransformerEncoderLayer(
            hidden, 4, 2 * hidden, 0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        # Starts as nothing, so that training begins from the mixture's own ranking.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def features(
        self,
        raw: tuple[Tensor, Tensor],
        projected: tuple[Tensor, Tensor],
        mask_BL: Tensor,
        valid_BK: Tensor,
        base_BK: Tensor,
        order_BK: Tensor,
    ) -> Tensor:
        """Everything that a candidate is judged by, (B, K, F).

        Args:
            raw: Context (B, L, D) and candidates (B or 1, K, D) in the raw space.
            projected: The same in the model's space.
            mask_BL: True where a context chunk is present.
            valid_BK: True where a candidate belongs to the set.
            base_BK: Cosine of query and candidate in the model's space.
            order_BK: Log-odds that the candidate follows the last context chunk.
        """
        size_BK = valid_BK.sum(1, keepdim=True).clamp(min=1).log().expand(-1, valid_BK.shape[1])
        single_BKF = torch.stack([base_BK, order_BK, order_BK.abs(), size_BK], dim=-1)
        return torch.cat(
            [
                relations(raw[0], mask_BL, raw[1], valid_BK),
                relations(projected[0], mask_BL, projected[1], valid_BK),
                single_BKF,
            ],
            dim=-1,
        )

    def forward(self, features_BKF: Tensor, valid_BK: Tensor) -> Tensor:
        """Logits (B, K); those under a False ``valid_BK`` mean nothing."""
        if self.training and not bool(self.fitted):
            self._standardise(features_BKF[valid_BK])
        scaled_BKF = (features_BKF - self.mean_F) * self.scale_F
        hidden_BKH = self.block(self.read(scaled_BKF), src_key_padding_mask=~valid_BK)
        middle_BKH = functional.gelu(self.middle(functional.gelu(hidden_BKH)))
        logits_BK: Tensor = self.out(middle_BKH).squeeze(-1)
        return logits_BK

    @torch.no_grad()
    def _standardise(self, features_NF: Tensor) -> None:
        """Fix the scale of the features by the first batch that is seen in training."""
        self.mean_F.copy_(features_NF.mean(0))
        self.scale_F.copy_(1.0 / features_NF.std(0).clamp(min=1e-3))
        self.fitted.fill_(True)
