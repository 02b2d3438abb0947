"""What the networks are built of: dropout that draws bytes, and a transformer layer that uses it.

PyTorch draws one random number for each value that dropout may take away, on one thread; that took
a quarter of a training step. Its fused inference path of a transformer layer does not fuse the
attention itself and is up to five times slower for sets of chunks than the one here
(docs/LOG.md).

Shapes: B batch, N places, H width, A attention heads, E width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 256
"""Values of a byte; dropout rates are rounded to this many steps."""


class ByteDropout(nn.Dropout):
    """``nn.Dropout`` with its rate rounded to a multiple of 1/256; the mean stays what it was.

    Lots come from PyTorch's default generator, so that a seed gives the same ones again.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Set a share of the values to zero while training, and raise the rest to make up for it.

        Args:
            values: Any shape.
        """
        return drop(values, self.p) if self.training else values


def drop(values: Tensor, rate: float) -> Tensor:
    """Set each value to zero with probability ``rate``, to a 256th, and raise the others.

    Raises:
        ValueError: If none would be left.
    """
    dropped = round(rate * LEVELS)
    if not 0 <= dropped < LEVELS:
        raise ValueError(f"rate: expected at least 0 and below 1 by a 256th, got {rate}")
    if not dropped:
        return values
    lots = torch.empty(-(-values.numel() // 8), dtype=torch.int64, device=values.device)
    lots.random_(-(2**63), None)
    bytes_ = lots.view(torch.uint8)[: values.numel()].view(values.shape)
    factors = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    torch.ge(bytes_, dropped, out=factors)  # 0 or 1, as floats at once
    return values * factors.mul_(LEVELS / (LEVELS - dropped))


class EncoderLayer(nn.TransformerEncoderLayer):
    """A pre-norm transformer layer with GELU, over (B, N, H); parameters are named as PyTorch's.

    Args:
        width: H.
        heads: A.
        feedforward: Width of the feed-forward block.
        dropout: Dropout rate while training.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(
            width,
            heads,
            feedforward,
            dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.dropout = ByteDropout(dropout)
        self.dropout1 = ByteDropout(dropout)
        self.dropout2 = ByteDropout(dropout)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode (B, N, H); see ``nn.TransformerEncoderLayer``, whose arguments these are.

        Raises:
            ValueError: If there is a ``src_mask``: every place sees every other.
        """
        if src_mask is not None or is_causal:
            raise ValueError("src_mask: expected none, for every place sees every other")
        attended_BNH = src + self.dropout1(self._attend(self.norm1(src), src_key_padding_mask))
        hidden_BNF = functional.gelu(self.linear1(self.norm2(attended_BNH)))
        encoded_BNH: Tensor = attended_BNH + self.dropout2(self.linear2(self.dropout(hidden_BNF)))
        return encoded_BNH

    def _attend(self, values_BNH: Tensor, padding_BN: Tensor | None) -> Tensor:
        attention = self.self_attn
        batch, places, width = values_BNH.shape
        joint_BNT = functional.linear(values_BNH, attention.in_proj_weight, attention.in_proj_bias)
        query_BANE, key_BANE, value_BANE = (
            joint_BNT.view(batch, places, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        ).unbind()
        bias_B11N = None if padding_BN is None else _bias(padding_BN, joint_BNT)[:, None, None]
        if self.training and attention.dropout:
            score_BANN = (query_BANE * attention.head_dim**-0.5) @ key_BANE.transpose(-1, -2)
            if bias_B11N is not None:
                score_BANN = score_BANN + bias_B11N
            mixed_BANE = drop(score_BANN.softmax(-1), attention.dropout) @ value_BANE
        else:
            mixed_BANE = functional.scaled_dot_product_attention(
                query_BANE, key_BANE, value_BANE, bias_B11N
            )
        mixed_BNH: Tensor = attention.out_proj(
            mixed_BANE.transpose(1, 2).reshape(batch, places, width)
        )
        return mixed_BNH


def _bias(padding_BN: Tensor, like: Tensor) -> Tensor:
    """What is added to the scores of each place: as given, or minus infinity where True."""
    if padding_BN.dtype != torch.bool:
        return padding_BN
    return torch.zeros_like(padding_BN, dtype=like.dtype).masked_fill_(padding_BN, float("-inf"))
