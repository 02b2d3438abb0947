"""The bag encoder: what chunks tell about each other when they are seen together, in no order.

A transformer without positions reads a bag of chunks and answers, for every pair of them, how well
the second follows the first at a distance of 1 to L, and for every chunk how late it stands. It
never sees an order, so it is equivariant under permutation; what it knows of order, it reads from
content.

Shapes: B bags, N chunks of a bag, D dimension, H hidden, L window length (distances), R rank.
``valid_BN`` is True where a chunk is present.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import P8Config
from models.layers import ByteDropout, EncoderLayer

CENTRE = 0.5
"""How much of the bag's mean is taken off each chunk (docs/LOG.md)."""
HEAD_WIDTH = 32


class BagOutput(NamedTuple):
    """What a bag tells."""

    follows_BLNN: Tensor
    """Log-score that chunk j stands l + 1 places after chunk i, at [b, l, i, j]."""
    place_BN: Tensor
    """How late a chunk stands among those of its document, on a scale of its own."""
    after_BNN: Tensor
    """Log-odds that chunk j comes after chunk i: antisymmetric, calibrated once fitted."""


class BagEncoder(nn.Module):
    """Contextual pair scores of the chunks of a bag.

    Args:
        config: Shape; ``bag_hidden`` is H, ``bag_rank`` is R.
    """

    tau: Tensor
    pair_share: Tensor
    follow_weight: Tensor

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        hidden, self.rank, self.reach = config.bag_hidden, config.bag_rank, config.window
        self.input_dropout = ByteDropout(config.dropout / 2)
        self.read = nn.Linear(config.dimension, hidden)
        layer = EncoderLayer(hidden, hidden // HEAD_WIDTH, 4 * hidden, config.dropout / 3)
        self.blocks: nn.Module = nn.TransformerEncoder(
            layer, config.bag_layers, norm=nn.LayerNorm(hidden), enable_nested_tensor=False
        )
        self.earlier = nn.Linear(hidden, self.rank * self.reach)
        self.later = nn.Linear(hidden, self.rank * self.reach)
        self.place = nn.Linear(hidden, 1)
        # Neighbours are alike: training starts from there.
        self.likeness_L = nn.Parameter(torch.full((self.reach,), 4.0))
        self.turn_L = nn.Parameter(torch.zeros(self.reach))
        # Three numbers fitted on validation documents: the scale of ``after_BNN``, how much the
        # order verifier's log-odds count beside it, and neighbours in a whole reading order.
        self.register_buffer("tau", torch.ones(()))
        self.register_buffer("pair_share", torch.zeros(()))
        self.register_buffer("follow_weight", torch.zeros(()))

    def forward(self, bag_BND: Tensor, valid_BN: Tensor) -> BagOutput:
        """Read bags of unit vectors; entries of absent chunks mean nothing."""
        weight_BN1 = valid_BN[..., None].to(bag_BND.dtype)
        count_B11 = weight_BN1.sum(1, keepdim=True).clamp(min=1.0)
        mean_B1D = (bag_BND * weight_BN1).sum(1, keepdim=True) / count_B11
        centred_BND = functional.normalize(bag_BND - CENTRE * mean_B1D, dim=-1)
        # Entries of unit vectors are tiny; bring them to the order that layers expect.
        scaled_BND = 0.5 * bag_BND.shape[-1] ** 0.5 * self.input_dropout(centred_BND)
        hidden_BNH = self.blocks(self.read(scaled_BND), src_key_padding_mask=~valid_BN)
        shape = (*valid_BN.shape, self.reach, self.rank)
        earlier_BLNR = self.earlier(hidden_BNH).view(shape).transpose(1, 2)
        later_BLRN = self.later(hidden_BNH).view(shape).permute(0, 2, 3, 1)
        likeness_BNN = centred_BND @ centred_BND.transpose(1, 2)
        follows_BLNN = earlier_BLNR @ later_BLRN / self.rank**0.5
        follows_BLNN = follows_BLNN + self.likeness_L[:, None, None] * likeness_BNN[:, None]
        place_BN = self.place(hidden_BNH).squeeze(-1)
        turned_BLNN = follows_BLNN - follows_BLNN.transpose(2, 3)
        after_BNN = place_BN[:, None, :] - place_BN[:, :, None]
        after_BNN = after_BNN + torch.einsum("l,blij->bij", self.turn_L, turned_BLNN)
        return BagOutput(follows_BLNN, place_BN, after_BNN / self.tau)
