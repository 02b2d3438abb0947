import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from tests.prepared import raw_document
from training.dataset import DatasetError, PreparedDataset
from training.dataset_writer import DatasetWriter
from training.parity import (
    ParityError,
    compare,
    forward_deltas,
    lag_cosines,
    measure_parity,
)
from training.parity_plot import plot_parity
from training.splits import split_of


def write_walks(out: Path, *, test_step: float, documents: int = 250) -> PreparedDataset:
    """Documents that walk at random; those of the test split with a step of their own."""
    generator = np.random.default_rng(0)
    with DatasetWriter(out, name="walks") as writer:
        for number in range(documents):
            name = f"walk {number}"
            step = test_step if split_of(name) == "test" else 0.5
            count = int(generator.integers(10, 30))
            walk = np.cumsum(generator.normal(size=(count, 8)) * step, axis=0)
            vectors = (walk + generator.normal(size=8)).astype(np.float32)
            writer.add(raw_document(name, count, vectors=vectors))
    return PreparedDataset.open(out)


@pytest.mark.parametrize(("test_step", "verdict"), [(0.5, "parity ok"), (2.0, "parity doubtful")])
def test_planted_difference_is_found(tmp_path: Path, test_step: float, verdict: str):
    parity = measure_parity(write_walks(tmp_path, test_step=test_step))
    assert parity.verdict == verdict
    doubtful = [one for one in parity.comparisons if one.doubtful]
    assert all("test" in (one.a, one.b) for one in doubtful)
    assert bool(doubtful) == (verdict == "parity doubtful")


def test_report_and_picture(tmp_path: Path):
    dataset = write_walks(tmp_path / "data", test_step=0.5)
    parity = measure_parity(dataset)
    report = json.loads(json.dumps(parity.json(), allow_nan=False))
    assert report == measure_parity(dataset).json()
    assert set(report["summaries"]) == {
        "adjacent_cosine", *(f"lag_{lag}_cosine" for lag in range(2, 7)),
        "forward_delta", "document_length",
    }  # fmt: skip
    assert len(report["comparisons"]) == 8 * 3
    assert report["summaries"]["document_length"]["train"]["count"] == sum(
        split_of(document.group) == "train" for document in dataset.documents
    )
    plot_parity(parity, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_measures_against_their_definitions(generator: np.random.Generator):
    vectors = generator.normal(size=(12, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for lag in (1, 6):
        slow = [vectors[t] @ vectors[t + lag] for t in range(12 - lag)]
        np.testing.assert_allclose(lag_cosines(vectors, lag), slow)
    slow = []
    for target in range(6, 12):
        mean = vectors[target - 5 : target].mean(axis=0)
        mean /= np.linalg.norm(mean)
        slow.append(mean @ vectors[target] - mean @ vectors[target - 6])
    np.testing.assert_allclose(forward_deltas(vectors), slow)
    assert len(forward_deltas(vectors[:6])) == 0
    assert len(lag_cosines(vectors[:3], 6)) == 0


def test_effects_against_their_definitions(generator: np.random.Generator):
    a = [np.round(generator.normal(size=20), 1) for _ in range(8)]
    b = [np.round(generator.normal(0.5, 2.0, size=30), 1) for _ in range(5)]
    one = compare("m", ("train", a), ("test", b), generator)
    x, y = np.concatenate(a), np.concatenate(b)
    pooled = np.sqrt(
        ((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (len(x) + len(y) - 2)
    )
    assert one.cohens_d == pytest.approx((x.mean() - y.mean()) / pooled)
    assert one.cohens_d_low < one.cohens_d < one.cohens_d_high
    assert one.cliffs_delta == pytest.approx(np.sign(x[:, None] - y[None, :]).mean())
    assert one.cliffs_delta == pytest.approx(
        2 * mannwhitneyu(x, y).statistic / (len(x) * len(y)) - 1
    )


def test_equal_lengths_make_no_difference(generator: np.random.Generator):
    same = [np.array([5.0])] * 4
    one = compare("document_length", ("train", same), ("test", same), generator)
    assert (one.cohens_d, one.ks, one.doubtful) == (0.0, 0.0, False)


def test_too_few_documents(tmp_path: Path):
    with pytest.raises(ParityError, match="expected at least 2 documents"):
        measure_parity(write_walks(tmp_path, test_step=0.5, documents=3))


def test_vectors_are_needed(tmp_path: Path):
    with DatasetWriter(tmp_path, name="n") as writer:
        writer.add(raw_document("x"))
    with pytest.raises(DatasetError, match="has no vectors"):
        measure_parity(PreparedDataset.open(tmp_path))
