"""Loss of the bag encoder: which chunk of a bag follows which, and which comes first.

Shapes: B bags, N chunks of a bag, L distances.
"""

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


def bag_loss(output: BagOutput, document_BN: Tensor, position_BN: Tensor) -> Tensor:
    """Cross-entropy of successors and predecessors at each distance, and of the order of pairs.

    For each distance l the chunk l places on competes with all others of the bag as the successor
    (over rows), and the chunk l places back as the predecessor (over columns). Both
    are listwise losses (Cao et al., ICML 2007) like ``listwise_ranking_loss``, which knows the
    window and one target; this one learns from every pair of the bag at once and sees no window.

    Args:
        output: What the bag encoder answered.
        document_BN: Which document a chunk belongs to; -1 where there is none.
        position_BN: Its place in the document.

    Returns:
        Scalar: mean over the pairs of each kind, summed over the kinds.
    """
    valid_BN = document_BN >= 0
    own_NN = torch.eye(valid_BN.shape[1], dtype=torch.bool, device=valid_BN.device)
    together_BNN = (document_BN[:, :, None] == document_BN[:, None]) & valid_BN[:, :, None]
    gap_BNN = position_BN[:, None] - position_BN[:, :, None]
    total = output.place_BN.new_zeros(())
    for distance in range(output.follows_BLNN.shape[1]):
        weight = DISTANCE_WEIGHTS[min(distance, len(DISTANCE_WEIGHTS) - 1)]
        true_BNN = together_BNN & (gap_BNN == distance + 1)
        # Absent chunks and the chunk itself compete with none.
        score_BNN = output.follows_BLNN[:, distance].masked_fill(own_NN, NOTHING)
        forth_BNN = score_BNN.masked_fill(~valid_BN[:, None], NOTHING).log_softmax(2)
        back_BNN = score_BNN.masked_fill(~valid_BN[:, :, None], NOTHING).log_softmax(1)
        count = true_BNN.sum().clamp(min=1)
        total = total - weight * forth_BNN[true_BNN].sum() / count
        total = total - weight * BACKWARD * back_BNN[true_BNN].sum() / count
    later_BNN = together_BNN & (gap_BNN > 0)
    weight_P = torch.where(gap_BNN[later_BNN] <= NEAR, NEAR_WEIGHT, 1.0)
    loss_P = functional.softplus(-output.after_BNN[later_BNN])
    return total + ORDER * (loss_P * weight_P).sum() / weight_P.sum().clamp(min=1.0)
