"""Loss of the order verifier."""

from torch import Tensor
from torch.nn import functional


def order_verifier_loss(logit_P: Tensor, later_P: Tensor) -> Tensor:
    """Binary cross-entropy of "the second chunk comes later" on pairs from the same document.

    Pairs from different documents have no order and must not be given. ``sample_order_pairs``
    makes suitable ones.

    Args:
        logit_P: Log-odds (P,) from ``OrderVerifier``.
        later_P: 1.0 where the second chunk of the pair comes after the first, else 0.0.

    Returns:
        Scalar: mean over the pairs, 0 if there are none.
    """
    if not len(logit_P):
        return logit_P.sum()
    return functional.binary_cross_entropy_with_logits(logit_P, later_P)
