from pathlib import Path

import numpy as np
import pytest

from tests.prepared import write_prepared
from training.dataset import Document, PreparedDataset
from training.splits import split_of
from training.subset import SubsetError, subset_documents, subset_windows, write_subset

LENGTHS = [1, 2, 11, 101, 31, 57, 0]


@pytest.mark.parametrize("n", [1, 2, 7, 20, 100, 197])
def test_windows_are_sorted_distinct_and_shared_out(n: int):
    chosen = subset_windows(LENGTHS, n, seed=3)
    assert chosen.shape == (n, 2)
    assert chosen.dtype == np.int64
    rows = [tuple(row) for row in chosen.tolist()]
    assert rows == sorted(set(rows))
    for document, length in enumerate(LENGTHS):
        mine = chosen[chosen[:, 0] == document, 1]
        windows = max(length - 1, 0)
        assert abs(len(mine) - n * windows / 197) < 1
        assert all(1 <= target < length for target in mine)


def test_windows_follow_the_seed():
    first = subset_windows(LENGTHS, 50, seed=0)
    np.testing.assert_array_equal(first, subset_windows(LENGTHS, 50, seed=0))
    assert not np.array_equal(first, subset_windows(LENGTHS, 50, seed=1))


@pytest.mark.parametrize("n", [0, -1, 198])
def test_impossible_numbers_of_windows(n: int):
    with pytest.raises(SubsetError, match=f"windows: expected 1 to 197.*got {n}"):
        subset_windows(LENGTHS, n, seed=0)


def documents(count: int) -> list[Document]:
    generator = np.random.default_rng(0)
    made, start = [], 0
    for number in range(count):
        length = int(generator.integers(2, 60))
        source = "rare" if number % 10 == 0 else "common"
        made.append(
            Document(
                doc_id=f"d{number}",
                title="",
                source=source,
                licence="",
                start=start,
                count=length,
                group=f"d{number}",
            )
        )
        start += length
    return made


def test_documents_keep_their_make_up():
    everything = documents(1000)
    total = sum(document.count - 1 for document in everything)
    chosen = subset_documents(everything, total // 5, seed=0)
    kept = sum(document.count - 1 for document in chosen)
    assert kept == pytest.approx(total / 5, rel=0.02)
    assert chosen == sorted(chosen, key=lambda document: document.start)
    for share in (
        lambda document: document.source == "rare",
        lambda document: split_of(document.group) == "test",
        lambda document: document.count > 45,
    ):
        before = np.mean([share(document) for document in everything])
        assert np.mean([share(document) for document in chosen]) == pytest.approx(before, abs=0.03)


def test_documents_follow_the_seed():
    everything = documents(100)
    assert subset_documents(everything, 300, 0) == subset_documents(everything, 300, 0)
    assert subset_documents(everything, 300, 0) != subset_documents(everything, 300, 1)


def test_at_least_one_document():
    assert len(subset_documents(documents(100), 1, 0)) == 1


def test_everything():
    everything = documents(20)
    total = sum(document.count - 1 for document in everything)
    assert subset_documents(everything, total, 0) == everything


@pytest.mark.parametrize("dimension", [None, 4])
def test_written_subset(tmp_path: Path, dimension: int | None):
    dataset = write_prepared(tmp_path / "data", [5, 9, 3, 12, 7, 4] * 5, dimension=dimension)
    smaller = write_subset(dataset, tmp_path / "small", 60, seed=0)
    assert smaller.fingerprint == write_subset(dataset, tmp_path / "s2", 60, seed=0).fingerprint
    assert abs(smaller.chunk_count - len(smaller.documents) - 60) <= 10
    rows = {document.doc_id: document.start for document in dataset.documents}
    texts, all_texts = smaller.texts(), dataset.texts()
    for document in smaller.documents:
        mine = slice(document.start, document.start + document.count)
        there = slice(rows[document.doc_id], rows[document.doc_id] + document.count)
        assert texts[mine] == all_texts[there]
        if dimension is not None:
            np.testing.assert_allclose(smaller.vectors[mine], dataset.vectors[there], atol=1e-7)
    record = PreparedDataset.open(tmp_path / "small").manifest["vectors"]
    assert (record and record["model"]) == (dimension and "random")
