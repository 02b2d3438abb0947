"""Split parity: do train, validation and test look alike, as chance should have made them?

Measures, all in the embedding space of unit vectors:

- ``adjacent_cosine``: cos(c_t, c_{t+1}); ``lag_k_cosine``: cos(c_t, c_{t+k}) for k = 2 to 6.
- ``forward_delta``: cos(m, next) - cos(m, prev), where m is the mean of a full window of 5 chunks,
  next the chunk after it and prev the chunk before it. Above 0, text moves forward.
- ``document_length``: chunks in a document.

Chunks of a document resemble each other, so that its documents, not its chunks, are what a split
has many or few of. With thousands of chunks any difference gets a tiny Kolmogorov-Smirnov p-value;
the verdict therefore rests on the size of the effect, and on whether its interval over documents,
widened because many comparisons are made, excludes zero.

Shapes: n chunks of a document, D dimension, G documents of a split.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.dataset import PreparedDataset
from training.splits import Split, documents_of

WINDOW = 5
LAGS = (1, 2, 3, 4, 5, 6)
SMALL_EFFECT = 0.2
"""Cohen's d from which a difference counts; his "small"."""
CONFIDENCE = 0.95
"""Chance that none of the intervals misses, all comparisons taken together."""
RESAMPLES = 1000

Floats = NDArray[np.float64]


class ParityError(ValueError):
    """The splits cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure in two splits."""

    measure: str
    """Which measure."""
    a: str
    """The first split."""
    b: str
    """The second split."""
    ks: float
    """Two-sample Kolmogorov-Smirnov statistic, 0 to 1."""
    ks_p: float
    """Its p-value, as if chunks were independent; tiny whenever there are many."""
    cohens_d: float
    """Difference of the means, a - b, in pooled standard deviations."""
    cohens_d_low: float
    """Lower end of its interval over documents, widened for the number of comparisons made."""
    cohens_d_high: float
    """Upper end of that interval."""
    cliffs_delta: float
    """P(value of a > value of b) - P(a < b), -1 to 1."""

    @property
    def doubtful(self) -> bool:
        """Whether the difference is both big enough to matter and more than chance."""
        beyond_chance = self.cohens_d_low > 0 or self.cohens_d_high < 0
        return abs(self.cohens_d) >= SMALL_EFFECT and beyond_chance


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All measures of all splits, and how they compare."""

    samples: dict[str, dict[str, list[Floats]]]
    """Values by measure, split and document."""
    comparisons: tuple[Comparison, ...]
    """Every measure in every pair of splits."""

    @property
    def verdict(self) -> str:
        """``parity ok`` or ``parity doubtful``."""
        doubtful = any(comparison.doubtful for comparison in self.comparisons)
        return "parity doubtful" if doubtful else "parity ok"

    def values(self, measure: str, split: str) -> Floats:
        """All values of a measure in a split."""
        return np.concatenate(self.samples[measure][split])

    def json(self) -> dict[str, Any]:
        """The report: verdict, thresholds, summaries and comparisons."""
        return {
            "verdict": self.verdict,
            "small_effect": SMALL_EFFECT,
            "confidence": CONFIDENCE,
            "summaries": {
                measure: {
                    split: {"documents": len(groups), **_summary(np.concatenate(groups))}
                    for split, groups in by_split.items()
                }
                for measure, by_split in self.samples.items()
            },
            "comparisons": [
                {**asdict(comparison), "doubtful": comparison.doubtful}
                for comparison in self.comparisons
            ],
        }


def measure_parity(dataset: PreparedDataset, seed: int = 0) -> Parity:
    """Measure every split and compare each pair.

    Args:
        dataset: Prepared and embedded data.
        seed: Seed of the bootstrap.

    Raises:
        DatasetError: If there are no vectors.
        ParityError: If a split has too few long documents to compare.
    """
    samples: dict[str, dict[str, list[Floats]]] = {measure: {} for measure in MEASURES}
    splits: tuple[str, ...] = get_args(Split)
    vectors = dataset.vectors
    for split in splits:
        documents = [
            np.asarray(vectors[document.start : document.start + document.count], float)
            for document in documents_of(dataset, split)
        ]
        for measure, compute in MEASURES.items():
            groups = [values for values in map(compute, documents) if len(values)]
            if len(groups) < 2:
                raise ParityError(
                    f"{dataset.path}: {measure}: expected at least 2 documents long enough in the "
                    f"{split} split, got {len(groups)} of {len(documents)}"
                )
            samples[measure][split] = groups
    generator = np.random.default_rng(seed)
    comparisons = tuple(
        compare(measure, (a, samples[measure][a]), (b, samples[measure][b]), generator)
        for measure in MEASURES
        for a, b in combinations(splits, 2)
    )
    return Parity(samples=samples, comparisons=comparisons)


def compare(
    measure: str,
    first: tuple[str, list[Floats]],
    second: tuple[str, list[Floats]],
    generator: np.random.Generator,
) -> Comparison:
    """Compare a measure in two splits.

    Args:
        measure: Name of the measure.
        first: Name of a split, and its values by document.
        second: The same of the other split.
        generator: Source of the bootstrap's draws.
    """
    (a, groups_a), (b, groups_b) = first, second
    values_a, values_b = np.concatenate(groups_a), np.concatenate(groups_b)
    ks = stats.ks_2samp(values_a, values_b, method="asymp")
    rank_sum = stats.rankdata(np.concatenate([values_a, values_b]))[: len(values_a)].sum()
    wins = rank_sum - len(values_a) * (len(values_a) + 1) / 2
    sums_a, sums_b = _sums(groups_a), _sums(groups_b)
    effect = float(_cohens_d(sums_a.sum(axis=0), sums_b.sum(axis=0)))
    drawn = _cohens_d(_resample(sums_a, generator), _resample(sums_b, generator))
    # Bonferroni: of two dozen comparisons of sound splits, one would stray beyond its own interval.
    tail = (1 - CONFIDENCE) / (2 * _COMPARISONS)
    reach = float(stats.norm.ppf(1 - tail) * drawn.std())
    return Comparison(
        measure=measure,
        a=a,
        b=b,
        ks=float(ks.statistic),
        ks_p=float(ks.pvalue),
        cohens_d=effect,
        cohens_d_low=effect - reach,
        cohens_d_high=effect + reach,
        cliffs_delta=float(2 * wins / (len(values_a) * len(values_b)) - 1),
    )


def lag_cosines(vectors_nD: Floats, lag: int) -> Floats:
    """Cosine (n - lag,) of every chunk with the one ``lag`` places on."""
    cosines: Floats = np.einsum("nd,nd->n", vectors_nD[:-lag], vectors_nD[lag:])
    return cosines


def forward_deltas(vectors_nD: Floats) -> Floats:
    """cos(window mean, next) - cos(window mean, prev) of every full window that has both."""
    count = len(vectors_nD) - WINDOW - 1
    if count < 1:
        return np.empty(0)
    running_nD = np.cumsum(vectors_nD, axis=0)
    sums_wD = running_nD[WINDOW:-1] - running_nD[:count]
    norms_w = np.maximum(np.linalg.norm(sums_wD, axis=1), 1e-12)
    difference_wD = vectors_nD[WINDOW + 1 :] - vectors_nD[:count]
    deltas: Floats = np.einsum("wd,wd->w", sums_wD, difference_wD) / norms_w
    return deltas


def _lag_measure(lag: int) -> Callable[[Floats], Floats]:
    return lambda vectors_nD: lag_cosines(vectors_nD, lag)


MEASURES: dict[str, Callable[[Floats], Floats]] = {
    **{"adjacent_cosine" if lag == 1 else f"lag_{lag}_cosine": _lag_measure(lag) for lag in LAGS},
    "forward_delta": forward_deltas,
    "document_length": lambda vectors_nD: np.array([float(len(vectors_nD))]),
}
"""Values that one document's vectors (n, D) give, by the measure's name."""

_COMPARISONS = len(MEASURES) * len(list(combinations(get_args(Split), 2)))


def _sums(groups: list[Floats]) -> Floats:
    """Count, sum and sum of squares of each document, (G, 3)."""
    return np.array([(len(values), values.sum(), (values**2).sum()) for values in groups])


def _resample(sums_G3: Floats, generator: np.random.Generator) -> Floats:
    """The three sums over documents drawn with replacement, (RESAMPLES, 3)."""
    size = len(sums_G3)
    drawn: Floats = generator.multinomial(size, np.full(size, 1 / size), RESAMPLES) @ sums_G3
    return drawn


def _cohens_d(a: Floats, b: Floats) -> Floats:
    """Cohen's d from count, sum and sum of squares (..., 3)."""
    count_a, count_b = a[..., 0], b[..., 0]
    mean_a, mean_b = a[..., 1] / count_a, b[..., 1] / count_b
    spread = (a[..., 2] - count_a * mean_a**2) + (b[..., 2] - count_b * mean_b**2)
    # Values that do not spread at all, such as equal lengths, leave rounding errors or nothing.
    pooled = np.sqrt(np.maximum(spread, 1e-12) / np.maximum(count_a + count_b - 2, 1))
    effect: Floats = (mean_a - mean_b) / pooled
    return effect


def _summary(values: Floats) -> dict[str, float]:
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        **dict(zip(("p5", "p25", "p50", "p75", "p95"), quantiles.tolist(), strict=True)),
    }
