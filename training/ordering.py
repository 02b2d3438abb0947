"""How well order is told: of two chunks alone, of two chunks in their bag, of whole documents.

Shapes: N chunks of a document, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.bag_order import bag_evidence, order_by
from models.scoring import Scorer
from training.metrics import Calibration, Estimate, Tally, Values, kendall_tau
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


@dataclass(kw_only=True)
class PairTally:
    """Accuracy over pairs by distance, and calibration."""

    tally: Tally = field(default_factory=Tally)
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, probability_P: Values, gap_P: Rows) -> None:
        """Add one document's probabilities that the later chunk of each pair comes later."""
        right_P = np.where(probability_P == 0.5, 0.5, probability_P > 0.5)
        self.tally.add("all", right_P)
        self.tally.add("adjacent", right_P[gap_P == 1])
        self.tally.add("distant", right_P[gap_P > DISTANT])
        self.calibration.add(probability_P, np.ones(len(probability_P), np.bool_))

    def estimates(self, seed: int) -> dict[str, Estimate]:
        """Accuracies and expected calibration error, with intervals."""
        return self.tally.estimates(seed) | {"ece": self.calibration.estimate(seed)}


def evaluate_pairs(
    scorer: Scorer, documents: Sequence[DocumentVectors], seed: int = 0
) -> dict[str, Estimate]:
    """Two chunks seen alone, by the verifier: ``all`` pairs, ``adjacent``, ``distant``, ``ece``."""
    generator = np.random.default_rng(seed)
    pairs = PairTally()
    for document in documents:
        raw_ND = document.raw_ND
        earlier_P, later_P = all_pairs(len(raw_ND), generator)
        probability_P = scorer.order_probability(raw_ND[earlier_P], raw_ND[later_P])
        pairs.add(probability_P, later_P - earlier_P)
    return pairs.estimates(seed)


def evaluate_bags(
    scorer: Scorer, documents: Sequence[DocumentVectors], seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Documents (their first 200 chunks) seen as unordered bags.

    Returns:
        ``order_in_bag``: the metrics of ``evaluate_pairs``, from all evidence. ``ordering``: whole
        documents restored, ``kendall_tau`` and ``perfect_match``. ``ordering_by_place``: the same
        by sorting a single score a chunk.
    """
    generator = np.random.default_rng(seed)
    pairs = PairTally()
    orderings = {"ordering": Tally(), "ordering_by_place": Tally()}
    for document in documents:
        evidence = bag_evidence(scorer, document.raw_ND[:BAG_LIMIT])
        earlier_P, later_P = all_pairs(len(evidence.place_N), generator)
        logit_P = evidence.after_NN[earlier_P, later_P].astype(np.float64)
        pairs.add(1.0 / (1.0 + np.exp(-logit_P)), later_P - earlier_P)
        answers = {
            "ordering": order_by(evidence).rows_N,
            "ordering_by_place": np.argsort(evidence.place_N, kind="stable"),
        }
        for name, rows_N in answers.items():
            orderings[name].add("kendall_tau", np.array([kendall_tau(rows_N)]))
            orderings[name].add("perfect_match", np.array([bool((np.diff(rows_N) > 0).all())]))
    return {
        "order_in_bag": pairs.estimates(seed),
        **{name: tally.estimates(seed) for name, tally in orderings.items()},
    }
