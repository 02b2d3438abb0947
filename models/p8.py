"""P8, the constrained mixture: the query never leaves the cone of its context.

    h = encoder(context); alpha = softmax(W h); q = normalize(sum_i alpha_i g(c_i))

``g`` is the identity in the raw space and one residual adapter, applied to context and candidates
alike, in the learned space (the consistent representation space of CORE, Hou et al., SIGIR 2022).

Shapes: B batch, L window, D dimension, H hidden, N chunks. ``mask_BL`` is True where a context
chunk is present; windows are right-aligned, so a short window is padded on the left.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import P8Config
from models.layers import ByteDropout, EncoderLayer


class P8Output(NamedTuple):
    """What a constrained mixture answers."""

    query_BD: Tensor
    """Unit query vectors, in the model's space."""
    alpha_BL: Tensor
    """Mixture weights: non-negative, zero where the mask is False, summing to 1."""


class Adapter(nn.Module):
    """Residual adapter ``g(x) = normalize(x + W2 gelu(W1 x))``, the identity when untrained."""

    def __init__(self, dimension: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(dimension, hidden)
        self.down = nn.Linear(hidden, dimension)
        self.dropout = ByteDropout(dropout)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, chunks_ND: Tensor) -> Tensor:
        """Map unit vectors (..., D) to unit vectors (..., D)."""
        shift_ND = self.down(self.dropout(functional.gelu(self.up(chunks_ND))))
        return functional.normalize(chunks_ND + shift_ND, dim=-1)


class P8Constrained(nn.Module, ABC):
    """A window encoder, mixture weights over the window, and the space they live in.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.config = config
        self.adapter: nn.Module = (
            Adapter(config.dimension, config.adapter_hidden, config.dropout)
            if config.space == "learned"
            else nn.Identity()
        )

    def project(self, chunks_ND: Tensor) -> Tensor:
        """Map unit chunk vectors (..., D) into the model's space, (..., D), unit length."""
        projected: Tensor = self.adapter(chunks_ND)
        return projected

    def forward(self, context_BLD: Tensor, mask_BL: Tensor) -> P8Output:
        """Mix a window of raw chunk vectors into a query.

        Args:
            context_BLD: Unit context vectors, oldest first, right-aligned.
            mask_BL: True where a chunk is present; every row needs at least one.

        Returns:
            Query (B, D) in the model's space and weights (B, L).

        Raises:
            ValueError: If the shapes do not fit the configuration.
        """
        check_window(context_BLD, mask_BL, self.config)
        return self.mix(self.project(context_BLD), mask_BL)

    def mix(self, projected_BLD: Tensor, mask_BL: Tensor) -> P8Output:
        """Like ``forward``, for context vectors that are already in the model's space."""
        logits_BL = self.mixture_logits(projected_BLD, mask_BL)
        alpha_BL = torch.softmax(logits_BL.masked_fill(~mask_BL, float("-inf")), dim=-1)
        mixed_BD = torch.einsum("bl,bld->bd", alpha_BL, projected_BLD)
        return P8Output(functional.normalize(mixed_BD, dim=-1), alpha_BL)

    @abstractmethod
    def mixture_logits(self, projected_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Unnormalised mixture weights (B, L); values under a False mask are ignored."""


class TransformerP8Constrained(P8Constrained):
    """P8 with a pre-norm transformer over the window and one logit a position."""

    def __init__(self, config: P8Config) -> None:
        super().__init__(config)
        self.encoder = WindowTransformer(config)
        self.head = nn.Linear(config.hidden, 1)
        # Which place in the window matters before any content is seen.
        self.place_L = nn.Parameter(torch.zeros(config.window))

    def mixture_logits(self, projected_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """See ``P8Constrained.mixture_logits``."""
        hidden_BLH = self.encoder(projected_BLD, mask_BL)
        logits_BL: Tensor = self.head(hidden_BLH).squeeze(-1) + self.place_L
        return logits_BL


class LSTMP8Constrained(P8Constrained):
    """P8 with an LSTM over the window; its last state gives all L logits."""

    def __init__(self, config: P8Config) -> None:
        super().__init__(config)
        between = config.dropout if config.layers > 1 else 0.0
        self.encoder = nn.LSTM(
            config.dimension, config.hidden, config.layers, batch_first=True, dropout=between
        )
        self.head = nn.Linear(config.hidden, config.window)

    def mixture_logits(self, projected_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """See ``P8Constrained.mixture_logits``.

        Padding stands on the left as zero vectors, so the last state is always a real chunk's.
        """
        steps_BLH, _ = self.encoder(projected_BLD * mask_BL.unsqueeze(-1))
        logits_BL: Tensor = self.head(steps_BLH[:, -1])
        return logits_BL


class WindowTransformer(nn.Module):
    """Pre-norm transformer encoder over a right-aligned window, (B, L, D) to (B, L, H)."""

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.read = nn.Linear(config.dimension, config.hidden)
        self.position_LH = nn.Parameter(torch.randn(config.window, config.hidden) * 0.02)
        layer = EncoderLayer(config.hidden, config.heads, 4 * config.hidden, config.dropout)
        self.blocks = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(config.hidden), enable_nested_tensor=False
        )

    def forward(self, context_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Encode a window; rows under a False mask hold nothing of meaning."""
        hidden_BLH = self.read(context_BLD) + self.position_LH
        encoded_BLH: Tensor = self.blocks(hidden_BLH, src_key_padding_mask=~mask_BL)
        return encoded_BLH


class QTower(nn.Module):
    """Free-output query tower over raw vectors: the fallback, and the foil of P8.

    ``q = normalize(MLP(encoder(context)))`` may point anywhere, which is what P8 forbids.
    """

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = WindowTransformer(config)
        self.out = nn.Sequential(
            nn.Linear(config.hidden, 2 * config.hidden),
            nn.GELU(),
            ByteDropout(config.dropout),
            nn.Linear(2 * config.hidden, config.dimension),
        )

    def forward(self, context_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Map a window (B, L, D) of raw unit vectors to unit queries (B, D) in the raw space.

        Raises:
            ValueError: If the shapes do not fit the configuration.
        """
        check_window(context_BLD, mask_BL, self.config)
        last_BH = self.encoder(context_BLD, mask_BL)[:, -1]
        return functional.normalize(context_BLD[:, -1] + self.out(last_BH), dim=-1)


def check_window(context_BLD: Tensor, mask_BL: Tensor, config: P8Config) -> None:
    """Check a batch of windows against a configuration.

    Raises:
        ValueError: If a shape differs, or a window is empty or not right-aligned.
    """
    expected = (config.window, config.dimension)
    if context_BLD.ndim != 3 or tuple(context_BLD.shape[1:]) != expected:
        raise ValueError(
            f"context: expected (B, {expected[0]}, {expected[1]}), got {tuple(context_BLD.shape)}"
        )
    if mask_BL.dtype != torch.bool or mask_BL.shape != context_BLD.shape[:2]:
        raise ValueError(
            f"mask: expected bool {tuple(context_BLD.shape[:2])}, "
            f"got {mask_BL.dtype} {tuple(mask_BL.shape)}"
        )
    if not bool(mask_BL[:, -1].all()):
        raise ValueError("mask: expected windows right-aligned with a last chunk, got an empty one")


def build_p8(config: P8Config) -> P8Constrained:
    """Build the network that ``config.arch`` names."""
    if config.arch == "lstm":
        return LSTMP8Constrained(config)
    return TransformerP8Constrained(config)
