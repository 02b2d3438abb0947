"""Ranking, calibration and ordering metrics, kept as sums a document for the bootstrap.

Shapes: W windows, K candidates, P pairs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 2000
CALIBRATION_BINS = 15


class Estimate(NamedTuple):
    """A mean with its 95% interval by bootstrap over documents."""

    value: float
    low: float
    high: float

    def json(self) -> dict[str, float]:
        """As it stands in reports."""
        return {name: round(float(number), 6) for name, number in self._asdict().items()}


class Tally:
    """Sums and counts of metrics, a pair a document."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, metric: str, values: NDArray[np.floating] | NDArray[np.bool_]) -> None:
        """Add one document's values of one metric."""
        self._sums.setdefault(metric, []).append(float(np.sum(values, dtype=np.float64)))
        self._counts.setdefault(metric, []).append(int(values.size))

    def sums(self, metric: str) -> tuple[Values, Values]:
        """Sums and counts of a metric, a number a document each."""
        return np.asarray(self._sums[metric]), np.asarray(self._counts[metric], np.float64)

    def part(self, documents: slice) -> "Tally":
        """The tally of some of the documents."""
        part = Tally()
        part._sums = {metric: sums[documents] for metric, sums in self._sums.items()}
        part._counts = {metric: counts[documents] for metric, counts in self._counts.items()}
        return part

    def mean(self, metric: str) -> float:
        """Mean over all values."""
        sums, counts = self.sums(metric)
        return float(sums.sum() / max(counts.sum(), 1.0))

    def estimates(self, seed: int = 0) -> dict[str, Estimate]:
        """Every metric with its interval."""
        return {
            metric: bootstrap_mean(*self.sums(metric), seed=seed)
            for metric in self._sums
            if sum(self._counts[metric])
        }


def _resample(documents: int, seed: int) -> Values:
    """How often each document is drawn in each resample, (RESAMPLES, documents)."""
    generator = np.random.default_rng(seed)
    share = np.full(documents, 1.0 / documents)
    return generator.multinomial(documents, share, RESAMPLES).astype(np.float64)


def _interval(value: float, draws: Values) -> Estimate:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def bootstrap_mean(sums: Values, counts: Values, seed: int = 0) -> Estimate:
    """Ratio of sums to counts, with the percentile interval over resampled documents."""
    times = _resample(len(sums), seed)
    return _interval(
        float(sums.sum() / counts.sum()), (times @ sums) / np.maximum(times @ counts, 1e-12)
    )


def bootstrap_difference(
    ours: tuple[Values, Values], theirs: tuple[Values, Values], seed: int = 0
) -> Estimate:
    """Paired difference of two means over the same documents."""
    times = _resample(len(ours[0]), seed)
    means = [(times @ sums) / np.maximum(times @ counts, 1e-12) for sums, counts in (ours, theirs)]
    value = ours[0].sum() / ours[1].sum() - theirs[0].sum() / theirs[1].sum()
    return _interval(float(value), means[0] - means[1])


def target_ranks(scores_WK: NDArray[np.float32], target_W: NDArray[np.int64]) -> Values:
    """Rank (W,) of each window's target, 1 = best; ties fall to the lower column, as served."""
    target_W1 = target_W[:, None]
    score_W1 = np.take_along_axis(scores_WK, target_W1, axis=1)
    ahead_WK = scores_WK > score_W1
    tied_WK = (scores_WK == score_W1) & (np.arange(scores_WK.shape[1]) < target_W1)
    ranks: Values = 1.0 + (ahead_WK | tied_WK).sum(1)
    return ranks


def add_ranks(tally: Tally, rank_W: Values, *, wide: bool = False) -> None:
    """Add one document's r@1, r@5, mrr@10 (and r@50); a rank of infinity is "not found"."""
    tally.add("r@1", rank_W <= 1)
    tally.add("r@5", rank_W <= 5)
    if wide:
        tally.add("r@50", rank_W <= 50)
    tally.add("mrr@10", np.where(rank_W <= 10, 1.0 / rank_W, 0.0))


class Calibration:
    """Expected calibration error of binary confidences, kept a document for the bootstrap."""

    def __init__(self, bins: int = CALIBRATION_BINS) -> None:
        self.bins = bins
        self._gaps: list[Values] = []
        self._counts: list[float] = []

    def add(self, probability_P: Values, later_P: NDArray[np.bool_]) -> None:
        """Add one document's probabilities and truths."""
        confidence_P = np.maximum(probability_P, 1.0 - probability_P)
        right_P = (probability_P > 0.5) == later_P
        # Confidence of a binary answer lies in 0.5 to 1; the bins share that half.
        bin_P = np.minimum(((confidence_P - 0.5) * 2 * self.bins).astype(np.int64), self.bins - 1)
        gap_P = right_P.astype(np.float64) - confidence_P
        sums = np.bincount(bin_P, weights=gap_P, minlength=self.bins)
        self._gaps.append(sums.astype(np.float64))
        self._counts.append(float(len(probability_P)))

    def estimate(self, seed: int = 0) -> Estimate:
        """``sum over bins of |accuracy - confidence|``, weighted by the bin's share."""
        gaps, counts = np.stack(self._gaps), np.asarray(self._counts)
        times = _resample(len(counts), seed)
        draws = np.abs(times @ gaps).sum(1) / np.maximum(times @ counts, 1e-12)
        return _interval(float(np.abs(gaps.sum(0)).sum() / counts.sum()), draws)


def kendall_tau(order_N: NDArray[np.int64]) -> float:
    """Kendall's tau between an ordering (the true places, in answered order) and the truth."""
    from scipy.stats import kendalltau

    return float(kendalltau(np.arange(len(order_N)), order_N).statistic)
