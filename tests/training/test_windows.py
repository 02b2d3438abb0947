import numpy as np
import pytest

from training.candidates import create_candidate_set, sample_order_pairs
from training.windows import document_windows, hide_context


def test_windows_by_hand() -> None:
    windows = document_windows(5, 2)
    assert windows.next_W.tolist() == [1, 2, 3, 4]
    assert windows.prev_W.tolist() == [-1, -1, 0, 1]
    assert windows.mask_WL.tolist() == [[False, True], [True, True], [True, True], [True, True]]
    assert windows.context_WL[windows.mask_WL].tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert document_windows(5, 2, full_only=True).next_W.tolist() == [2, 3, 4]
    assert document_windows(1, 2).next_W.tolist() == []


def test_candidates_are_everything_outside_the_window() -> None:
    windows = document_windows(9, 3)
    allowed = hide_context(windows, 9)
    for row, target in enumerate(windows.next_W):
        context = set(range(max(0, target - 3), target))
        assert set(np.flatnonzero(allowed[row])) == set(range(9)) - context


@pytest.mark.parametrize("target", range(1, 20))
@pytest.mark.parametrize("hard", [False, True])
def test_candidate_set(generator: np.random.Generator, target: int, hard: bool) -> None:
    similarity = generator.random(20).astype(np.float32) if hard else None
    rows = create_candidate_set(20, target, 5, generator, similarity_N=similarity)
    assert len(rows) == 8
    assert rows[0] == target
    assert rows[1] == (target - 6 if target >= 6 else -1)
    negatives = rows[2:]
    assert len(set(negatives)) == 6
    forbidden = set(range(max(0, target - 6), target + 1))
    assert not forbidden & set(negatives.tolist())
    if similarity is not None:
        others = [row for row in range(20) if row not in forbidden]
        expected = sorted(others, key=lambda row: -similarity[row])[:6]
        assert negatives.tolist() == expected


def test_candidate_set_of_a_short_document(generator: np.random.Generator) -> None:
    assert create_candidate_set(4, 3, 5, generator).tolist() == [3] + [-1] * 7
    with pytest.raises(ValueError, match="target: expected 1 <= target < count=4, got 4"):
        create_candidate_set(4, 4, 5, generator)
    with pytest.raises(ValueError, match="size: expected at least 2"):
        create_candidate_set(4, 3, 5, generator, size=1)


def test_random_negatives_reach_every_chunk(generator: np.random.Generator) -> None:
    seen: set[int] = set()
    for _ in range(200):
        seen |= set(create_candidate_set(30, 15, 5, generator)[2:].tolist())
    assert seen == set(range(30)) - set(range(9, 16))


def test_order_pairs(generator: np.random.Generator) -> None:
    pairs = sample_order_pairs(10, 4000, generator)
    assert (pairs.first_P != pairs.second_P).all()
    assert ((pairs.second_P > pairs.first_P) == pairs.later_P.astype(bool)).all()
    assert {pairs.first_P.min(), pairs.second_P.min()} == {0}
    assert {pairs.first_P.max(), pairs.second_P.max()} == {9}
    assert 0.45 < pairs.later_P.mean() < 0.55
    assert len(sample_order_pairs(1, 10, generator).first_P) == 0
    assert set(sample_order_pairs(2, 50, generator).first_P) == {0, 1}
