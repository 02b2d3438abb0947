"""The order verifier: of two chunks of one document, the probability that the second comes later.

Shapes: ``...`` any batch shape, D dimension, H hidden, N pairs.
"""

import math
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.layers import ByteDropout

PAIRS_AT_ONCE = 1024


class OrderVerifier(nn.Module):
    """Antisymmetric pair classifier on ``[a, b, a*b, a-b]``.

    ``logit(a, b) = (f(a, b) - f(b, a)) / tau``, so that P(b after a) + P(a after b) = 1 whatever
    the weights; ``tau`` is a calibration temperature fitted on validation documents (Guo et al.,
    ICML 2017).

    The first layer of ``f`` is linear in its four parts, so it is kept as three maps: one of the
    first chunk, one of the second, one of their product (``a - b`` is absorbed by the first two).
    The product's map is shared by both directions, and chunk maps can be computed once a chunk.

    Args:
        dimension: D of the chunk vectors.
        hidden: H, width of the hidden layer.
        dropout: Dropout rate while training.
    """

    tau: Tensor

    def __init__(self, dimension: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(dimension, hidden)
        self.second = nn.Linear(dimension, hidden, bias=False)
        self.product = nn.Linear(dimension, hidden, bias=False)
        self.dropout = ByteDropout(dropout)
        self.middle = nn.Linear(hidden, hidden // 2)
        self.out = nn.Linear(hidden // 2, 1, bias=False)
        self.register_buffer("tau", torch.ones(()))

    def forward(self, a_XD: Tensor, b_XD: Tensor) -> Tensor:
        """Log-odds that ``b`` comes after ``a``.

        Args:
            a_XD: Unit vectors (..., D).
            b_XD: Unit vectors (..., D), broadcastable against ``a_XD``.

        Returns:
            Logits (...), calibrated once ``tau`` has been fitted.
        """
        product_XH = self._product(a_XD, b_XD)
        forth = self._head(self.first(a_XD) + self.second(b_XD) + product_XH)
        back = self._head(self.first(b_XD) + self.second(a_XD) + product_XH)
        return (forth - back) / self.tau

    def pairs(self, chunks_ND: Tensor, a_P: Tensor, b_P: Tensor) -> Tensor:
        """Like ``forward`` for many pairs of few chunks, whose own maps are computed once a chunk.

        Args:
            chunks_ND: Unit vectors.
            a_P: Row of each pair's first chunk.
            b_P: Row of its second.

        Returns:
            Logits (P,).
        """
        first_NH, second_NH = self.first(chunks_ND), self.second(chunks_ND)
        product_PH = self._product(chunks_ND[a_P], chunks_ND[b_P])
        forth = self._head(first_NH[a_P] + second_NH[b_P] + product_PH)
        back = self._head(first_NH[b_P] + second_NH[a_P] + product_PH)
        return (forth - back) / self.tau

    def _product(self, a_XD: Tensor, b_XD: Tensor) -> Tensor:
        scale = a_XD.shape[-1] ** 0.5  # products of unit vectors are tiny; bring them to order 1
        product_XH: Tensor = self.product(a_XD * b_XD * scale)
        return product_XH

    def _head(self, pre_XH: Tensor) -> Tensor:
        hidden_XH = self.dropout(functional.gelu(pre_XH))
        out: Tensor = self.out(functional.gelu(self.middle(hidden_XH))).squeeze(-1)
        return out


def probability_after(logit: Tensor) -> Tensor:
    """Turn log-odds into float64 probabilities whose swapped pair is exactly 1 minus them.

    The half from 0.5 to 1 is computed and the other half subtracted from 1; that subtraction is
    exact in floating point, so ``p(-z) == 1 - p(z)`` to the last bit.
    """
    upper = torch.sigmoid(logit.double().abs())
    return torch.where(logit >= 0, upper, 1.0 - upper)


def one_way_round(
    a_ND: NDArray[np.float32], b_ND: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Turn each pair such that both ways round of it become the same pair.

    Floating-point sums may differ in their last bit from one argument order to the other.

    Args:
        a_ND: First chunks.
        b_ND: Second chunks.

    Returns:
        Which pairs were swapped (N,), the first chunks then, and the second ones.
    """
    swap_N = np.array(
        [a.tobytes() > b.tobytes() for a, b in zip(a_ND, b_ND, strict=True)], np.bool_
    )
    first_ND = np.where(swap_N[:, None], b_ND, a_ND)
    second_ND = np.where(swap_N[:, None], a_ND, b_ND)
    return swap_N, first_ND, second_ND


class ExactPairs:
    """A verifier of many pairs at once, of which each is answered as if it were asked alone.

    The last bit of a sum depends on the place of its row in a batch. So log-odds are computed in
    float64 and rounded to float32, where that does not show unless they lie within 1e-15 or so of
    the middle between two float32 numbers: less than one pair in ten million.

    Args:
        verifier: Copied: later changes to it are not followed.
    """

    def __init__(self, verifier: OrderVerifier) -> None:
        self._verifier = deepcopy(verifier).double().eval()

    @torch.inference_mode()
    def probability(
        self, a_ND: NDArray[np.float32], b_ND: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """P(b after a) for each pair of unit vectors, (N,); swapped, it is exactly 1 minus that."""
        swap_N, first_ND, second_ND = one_way_round(a_ND, b_ND)
        logits_N = torch.empty(len(swap_N))
        for start in range(0, len(swap_N), PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            first, second = (torch.from_numpy(one[rows]).double() for one in (first_ND, second_ND))
            logits_N[rows] = self._verifier(first, second)
        # One by one, since vector instructions and what is left over round differently, too.
        upper_N = np.array([1.0 / (1.0 + math.exp(-abs(logit))) for logit in logits_N.tolist()])
        return np.where(swap_N ^ (logits_N.numpy() < 0), 1.0 - upper_N, upper_N)
