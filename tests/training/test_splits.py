from pathlib import Path

import pytest

from tests.prepared import write_prepared
from training.splits import SplitError, documents_of, split_of


@pytest.mark.parametrize(
    ("group", "split"),
    [
        ("10.7554/eLife.00003", "train"),
        ("a", "train"),
        ("c", "validation"),
        ("d", "test"),
    ],
)
def test_known_answers(group: str, split: str):
    assert split_of(group) == split


def test_shares():
    splits = [split_of(f"document {number}") for number in range(5000)]
    assert splits.count("test") == pytest.approx(500, abs=75)
    assert splits.count("validation") == pytest.approx(500, abs=75)


def test_splits_part_the_documents(tmp_path: Path):
    dataset = write_prepared(tmp_path, [2] * 40)
    parts = [documents_of(dataset, split) for split in ("train", "validation", "test")]
    assert sorted(d.start for part in parts for d in part) == list(range(0, 80, 2))
    assert documents_of(dataset, "all") == list(dataset.documents)
    with pytest.raises(SplitError, match="got 'dev'"):
        documents_of(dataset, "dev")
