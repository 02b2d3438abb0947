"""How well the order verifier tells which chunk comes first, over pairs and whole documents."""

from collections.abc import Sequence

import numpy as np

from models.scoring import Floats, Scorer
from training.metrics import Calibration, Estimate, Tally, kendall_tau
from training.protocols import DocumentVectors
from training.windows import Rows

DISTANT = 20
PAIRS_PER_DOCUMENT = 20_000
BAG_LIMIT = 200


def all_pairs(count: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """All pairs of rows (earlier, later), at most 20,000 a document, drawn at random."""
    earlier_P, later_P = np.triu_indices(count, 1)
    if len(earlier_P) > PAIRS_PER_DOCUMENT:
        keep = np.sort(generator.choice(len(earlier_P), PAIRS_PER_DOCUMENT, replace=False))
        earlier_P, later_P = earlier_P[keep], later_P[keep]
    return earlier_P.astype(np.int64), later_P.astype(np.int64)


def evaluate_order(
    scorer: Scorer, documents: Sequence[DocumentVectors], seed: int = 0
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Accuracy over pairs (all, adjacent, distant, ece), and of whole orderings.

    Whole documents (their first 200 chunks) are sorted by the sum of P(x after y) over all y.

    Returns:
        Pair metrics, and ``kendall_tau`` and ``perfect_match`` of the orderings.
    """
    generator = np.random.default_rng(seed)
    pairs, bags, calibration = Tally(), Tally(), Calibration()
    for document in documents:
        raw_ND = document.raw_ND
        earlier_P, later_P = all_pairs(len(raw_ND), generator)
        probability_P = scorer.order_probability(raw_ND[earlier_P], raw_ND[later_P])
        right_P = np.where(probability_P == 0.5, 0.5, probability_P > 0.5)
        gap_P = later_P - earlier_P
        pairs.add("all", right_P)
        pairs.add("adjacent", right_P[gap_P == 1])
        pairs.add("distant", right_P[gap_P > DISTANT])
        calibration.add(probability_P, np.ones(len(probability_P), np.bool_))
        answered_N = sort_bag(scorer, raw_ND[:BAG_LIMIT])
        bags.add("kendall_tau", np.array([kendall_tau(answered_N)]))
        bags.add("perfect_match", np.array([bool((np.diff(answered_N) > 0).all())]))
    return pairs.estimates(seed) | {"ece": calibration.estimate(seed)}, bags.estimates(seed)


def sort_bag(scorer: Scorer, raw_ND: Floats) -> Rows:
    """Rows of a bag in reading order: rising sum of P(row after other) over all others."""
    count = len(raw_ND)
    earlier_P, later_P = np.triu_indices(count, 1)
    probability_P = scorer.order_probability(raw_ND[earlier_P], raw_ND[later_P])
    after_N = np.zeros(count)
    np.add.at(after_N, later_P, probability_P)
    np.add.at(after_N, earlier_P, 1.0 - probability_P)
    return np.argsort(after_N, kind="stable").astype(np.int64)
