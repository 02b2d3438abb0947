import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from training.metrics import (
    Calibration,
    Tally,
    add_ranks,
    bootstrap_difference,
    bootstrap_mean,
    kendall_tau,
    target_ranks,
)


def test_recall_agrees_with_scikit_learn(generator: np.random.Generator) -> None:
    scores = generator.standard_normal((400, 60)).astype(np.float32)
    targets = generator.integers(0, 60, 400)
    tally = Tally()
    add_ranks(tally, target_ranks(scores, targets), wide=True)
    for k in (1, 5, 50):
        expected = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(60))
        assert tally.mean(f"r@{k}") == pytest.approx(expected)


def test_reciprocal_rank_agrees_with_scikit_learn(generator: np.random.Generator) -> None:
    """With one relevant label of ten, label ranking average precision is MRR@10."""
    scores = generator.standard_normal((400, 10)).astype(np.float32)
    targets = generator.integers(0, 10, 400)
    tally = Tally()
    add_ranks(tally, target_ranks(scores, targets))
    expected = label_ranking_average_precision_score(np.eye(10, dtype=int)[targets], scores)
    assert tally.mean("mrr@10") == pytest.approx(expected)


def test_reciprocal_rank_is_cut_at_ten() -> None:
    scores = np.arange(20, 0, -1, dtype=np.float32)[None].repeat(2, axis=0)
    tally = Tally()
    add_ranks(tally, target_ranks(scores, np.array([9, 10])))
    assert tally.mean("mrr@10") == pytest.approx(0.05)


def test_ties_fall_to_the_lower_column() -> None:
    scores = np.array([[2.0, 1.0, 2.0]] * 3, np.float32)
    assert target_ranks(scores, np.array([0, 1, 2])).tolist() == [1, 3, 2]


def test_not_found_counts_as_zero() -> None:
    tally = Tally()
    add_ranks(tally, np.array([np.inf, 1.0]), wide=True)
    assert tally.mean("mrr@10") == 0.5
    assert tally.mean("r@50") == 0.5


def test_interval_covers_the_truth_about_as_often_as_it_says(
    generator: np.random.Generator,
) -> None:
    covered = 0
    for seed in range(200):
        sums = generator.normal(1.0, 0.5, 60)
        estimate = bootstrap_mean(sums, np.ones(60), seed)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= 1.0 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_resamples_documents_not_windows() -> None:
    """One document of many equal windows is one observation: the interval must stay wide."""
    sums, counts = np.array([100.0, 0.0, 100.0, 0.0]), np.full(4, 100.0)
    estimate = bootstrap_mean(sums, counts)
    assert estimate.value == 0.5
    assert estimate.high - estimate.low >= 0.75


def test_difference_is_paired(generator: np.random.Generator) -> None:
    level = generator.normal(0, 5, 50)
    estimate = bootstrap_difference((level + 0.1, np.ones(50)), (level, np.ones(50)))
    assert estimate.value == pytest.approx(0.1)
    assert estimate.high - estimate.low < 1e-9


def test_calibration_agrees_with_scikit_learn(generator: np.random.Generator) -> None:
    confidence = generator.uniform(0.5, 1.0, 4000)
    right = generator.random(4000) < confidence**2
    later = generator.random(4000) < 0.5
    after = np.where(right == later, confidence, 1 - confidence)
    calibration = Calibration(bins=10)
    calibration.add(after[:1000], later[:1000])
    calibration.add(after[1000:], later[1000:])
    # scikit-learn's bins span 0 to 1; stretch the confidences over that range and back.
    accuracy, mean = calibration_curve(right, 2 * confidence - 1, n_bins=10)
    weight = np.histogram(2 * confidence - 1, np.linspace(0, 1, 11))[0] / 4000
    expected = (weight * np.abs(accuracy - (mean + 1) / 2)).sum()
    assert calibration.estimate().value == pytest.approx(expected, abs=1e-9)


def test_perfect_confidence_has_no_error() -> None:
    calibration = Calibration()
    calibration.add(np.ones(10), np.ones(10, np.bool_))
    assert calibration.estimate() == (0.0, 0.0, 0.0)


def test_kendall_tau() -> None:
    assert kendall_tau(np.arange(6)) == pytest.approx(1.0)
    assert kendall_tau(np.arange(6)[::-1]) == pytest.approx(-1.0)
    assert kendall_tau(np.array([1, 0, 2])) == pytest.approx(1 / 3)
