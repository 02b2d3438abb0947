"""Loss of the bag encoder: which chunk of a bag follows which, and which comes first.

Shapes: B bags, N chunks of a bag, L distances.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.bag import BagOutput

NOTHING = -1e4  # finite, so that a row of absent chunks makes no NaN
DISTANCE_WEIGHTS = (1.0, 0.5, 0.3)
"""Weights of the distances 1, 2, and all further ones."""
BACKWARD = 0.5
"""Weight of finding a chunk's predecessor, beside 1 for its successor."""
ORDER = 0.5
"""Weight of the order of two chunks."""
NEAR, NEAR_WEIGHT = 3, 4.0
"""Pairs at most this far apart weigh that many times more: they are the hardest, and few."""


class BagCounts(NamedTuple):
    """What the means of ``bag_loss`` divide by; at least 1 each."""

    follows: list[Tensor]
    """Pairs at each distance."""
    order: Tensor
    """Summed weights of the pairs whose order counts."""


def bag_counts(document_BN: Tensor, position_BN: Tensor, reach: int) -> BagCounts:
    """Count the pairs of bags; arguments are those of ``bag_loss``, ``reach`` its distances."""
    together_BNN, gap_BNN = _pairs(document_BN, position_BN)
    return BagCounts(
        [
            (together_BNN & (gap_BNN == distance + 1)).sum().clamp(min=1)
            for distance in range(reach)
        ],
        _order_weights(gap_BNN[together_BNN & (gap_BNN > 0)]).sum().clamp(min=1.0),
    )


def bag_loss(
    output: BagOutput,
    document_BN: Tensor,
    position_BN: Tensor,
    counts: BagCounts | None = None,
) -> Tensor:
    """Cross-entropy of successors and predecessors at each distance, and of the order of pairs.

    For each distance l the chunk l places on competes with all others of the bag as the successor
    (over rows), and the chunk l places back as the predecessor (over columns). Both
    are listwise losses (Cao et al., ICML 2007) like ``listwise_ranking_loss``, which knows the
    window and one target; this one learns from every pair of the bag at once and sees no window.

    Args:
        output: What the bag encoder answered.
        document_BN: Which document a chunk belongs to; -1 where there is none.
        position_BN: Its place in the document.
        counts: Those of more bags than these, if these are some of them; their own if left out.

    Returns:
        Scalar: mean over the pairs of each kind, summed over the kinds. With ``counts`` a share
        of it: those of all bags add up to their loss.
    """
    reach = output.follows_BLNN.shape[1]
    valid_BN = document_BN >= 0
    own_NN = torch.eye(valid_BN.shape[1], dtype=torch.bool, device=valid_BN.device)
    together_BNN, gap_BNN = _pairs(document_BN, position_BN)
    if counts is None:
        counts = bag_counts(document_BN, position_BN, reach)
    total = output.place_BN.new_zeros(())
    for distance in range(reach):
        weight = DISTANCE_WEIGHTS[min(distance, len(DISTANCE_WEIGHTS) - 1)]
        true_BNN = together_BNN & (gap_BNN == distance + 1)
        # Absent chunks and the chunk itself compete with none.
        score_BNN = output.follows_BLNN[:, distance].masked_fill(own_NN, NOTHING)
        forth_BNN = score_BNN.masked_fill(~valid_BN[:, None], NOTHING).log_softmax(2)
        back_BNN = score_BNN.masked_fill(~valid_BN[:, :, None], NOTHING).log_softmax(1)
        count = counts.follows[distance]
        total = total - weight * forth_BNN[true_BNN].sum() / count
        total = total - weight * BACKWARD * back_BNN[true_BNN].sum() / count
    later_BNN = together_BNN & (gap_BNN > 0)
    weight_P = _order_weights(gap_BNN[later_BNN])
    loss_P = functional.softplus(-output.after_BNN[later_BNN])
    return total + ORDER * (loss_P * weight_P).sum() / counts.order


def _pairs(document_BN: Tensor, position_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Which two chunks (B, N, N) are of one document, and how far the second is after the first."""
    together_BNN = (document_BN[:, :, None] == document_BN[:, None]) & (document_BN >= 0)[
        :, :, None
    ]
    return together_BNN, position_BN[:, None] - position_BN[:, :, None]


def _order_weights(gap_P: Tensor) -> Tensor:
    return torch.where(gap_P <= NEAR, NEAR_WEIGHT, 1.0)
