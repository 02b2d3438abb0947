from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.sequence import (
    BLOCK_LIMIT,
    EXACT_LIMIT,
    Rows,
    Values,
    borda_order,
    exact_order,
    greedy_order,
    kemeny_score,
    local_search,
    reading_order,
)


def noise(generator: np.random.Generator, count: int, scale: float = 1.0) -> Values:
    """Antisymmetric log-odds without any order behind them: full of cycles."""
    matrix = generator.normal(0.0, scale, (count, count))
    return (matrix - matrix.T) / 2


def evidence(generator: np.random.Generator, order: Rows, scale: float) -> Values:
    """Log-odds of 1 for a true order, with noise."""
    place = np.argsort(order)
    truth: Values = np.sign(place[None, :] - place[:, None]).astype(np.float64)
    return truth + noise(generator, len(order), scale)


def chain(generator: np.random.Generator, order: Rows) -> Values:
    """Log-scores of following at once: noise, and 3 more for true neighbours."""
    follows = generator.normal(0.0, 1.0, (len(order), len(order)))
    follows[order[:-1], order[1:]] += 3.0
    return follows


def objective(after: Values, follows: Values | None, rows: Rows) -> float:
    """The formula, pair by pair."""
    score = 0.0
    for place, row in enumerate(rows):
        score += sum(float(after[row, later]) for later in rows[place + 1 :])
        if follows is not None and place + 1 < len(rows):
            score += float(follows[row, rows[place + 1]])
    return score


def by_brute_force(after: Values, follows: Values | None) -> float:
    """The best score of all permutations."""
    rows = np.array(list(permutations(range(len(after)))))
    scores = np.zeros(len(rows))
    for early in range(len(after)):
        for late in range(early + 1, len(after)):
            scores += after[rows[:, early], rows[:, late]]
        if follows is not None and early:
            scores += follows[rows[:, early - 1], rows[:, early]]
    return float(scores.max())


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("weight", [None, 0.3, 2.0])
def test_small_bags_agree_with_brute_force(
    generator: np.random.Generator, count: int, weight: float | None
) -> None:
    for _ in range(15):
        after = noise(generator, count)
        follows = None if weight is None else generator.normal(0, 1, (count, count))
        answer = reading_order(after, follows_NN=follows, follow_weight=weight or 0.0)
        weighted = None if follows is None or weight is None else weight * follows
        assert sorted(answer.rows_N) == list(range(count))
        reached = objective(after, weighted, answer.rows_N)
        assert reached == pytest.approx(by_brute_force(after, weighted), abs=1e-9)


def test_objective_is_twice_the_log_likelihood_up_to_a_constant(
    generator: np.random.Generator,
) -> None:
    after = noise(generator, 6)
    likelihood = -np.log1p(np.exp(-after))
    doubts = []
    for _ in range(10):
        rows = generator.permutation(6)
        doubts.append(2 * objective(likelihood, None, rows) - kemeny_score(after, rows))
    assert np.ptp(doubts) == pytest.approx(0.0, abs=1e-9)


def test_kemeny_score(generator: np.random.Generator) -> None:
    after = noise(generator, 12)
    rows = generator.permutation(12)
    assert kemeny_score(after, rows) == pytest.approx(objective(after, None, rows))
    assert kemeny_score(after, rows[::-1]) == pytest.approx(-kemeny_score(after, rows))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_local_search_comes_close_to_the_best(weight: float) -> None:
    """On noise alone, the hardest case; from the starts that larger bags get."""
    gaps = []
    for seed in range(80):
        generator = np.random.default_rng(seed)
        after = noise(generator, 9)
        follows = weight * generator.normal(0, 1, (9, 9)) if weight else None
        starts = (borda_order(after), greedy_order(after, follows))
        found = [local_search(after, follows, start) for start in starts]
        reached = max(objective(after, follows, rows) for rows in found)
        best = objective(after, follows, exact_order(after, follows))
        assert reached <= best + 1e-9
        gaps.append(1.0 - reached / best)
    assert np.mean(gaps) < 0.01
    assert np.median(gaps) < 1e-9


@pytest.mark.parametrize("with_follows", [False, True])
def test_local_search_leaves_no_move_that_gains(
    generator: np.random.Generator, with_follows: bool
) -> None:
    """In a bag so long that a block's way to the left is no other block's way to the right."""
    count = 26
    after = noise(generator, count)
    follows = generator.normal(0, 1, (count, count)) if with_follows else np.zeros((count, count))
    start = generator.permutation(count)
    rows = local_search(after, follows if with_follows else None, start).tolist()
    reached = objective(after, follows, np.array(rows))
    best = -np.inf
    for place in range(count):
        for width in range(1, min(BLOCK_LIMIT, count - place) + 1):
            block, rest = rows[place : place + width], rows[:place] + rows[place + width :]
            for gap in range(len(rest) + 1):
                moved = np.array(rest[:gap] + block + rest[gap:])
                neighbours = follows[moved[:-1], moved[1:]].sum()
                best = max(best, kemeny_score(after, moved) + neighbours)
    assert best == pytest.approx(reached, abs=1e-6)


@pytest.mark.parametrize("move", ["last to front", "first to back", "last 8 to front"])
def test_one_long_move_is_found(generator: np.random.Generator, move: str) -> None:
    """Neighbours alone count, so that only the whole way pays."""
    count = 40
    shift = {"last to front": -1, "first to back": 1, "last 8 to front": -BLOCK_LIMIT}[move]
    follows = np.zeros((count, count))
    follows[np.arange(count - 1), np.arange(1, count)] = 1.0
    start = np.roll(np.arange(count), shift)
    found = local_search(np.zeros((count, count)), follows, start)
    assert found.tolist() == list(range(count))


@pytest.mark.parametrize("with_follows", [False, True])
def test_local_search_never_answers_worse_than_its_start(with_follows: bool) -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        after = noise(generator, 40)
        follows = generator.normal(0, 2, (40, 40)) if with_follows else None
        for start in (borda_order(after), generator.permutation(40)):
            before, kept = objective(after, follows, start), start.copy()
            assert objective(after, follows, local_search(after, follows, start)) >= before
            np.testing.assert_array_equal(start, kept)


def test_answer_never_scores_below_the_borda_order(generator: np.random.Generator) -> None:
    for count in (5, EXACT_LIMIT, EXACT_LIMIT + 1, 80):
        after = noise(generator, count)
        borda = np.argsort((1 / (1 + np.exp(-after))).sum(0))
        rows = reading_order(after).rows_N
        assert kemeny_score(after, rows) >= kemeny_score(after, borda) - 1e-9


@pytest.mark.parametrize("count", [EXACT_LIMIT - 1, EXACT_LIMIT, EXACT_LIMIT + 1, 60])
def test_consistent_evidence_is_recovered(generator: np.random.Generator, count: int) -> None:
    order = generator.permutation(count)
    answer = reading_order(evidence(generator, order, 0.1))
    np.testing.assert_array_equal(answer.rows_N, order)


def test_neighbours_mend_what_pairs_cannot_tell(generator: np.random.Generator) -> None:
    """Pairs that are half noise leave neighbours swapped; a chain of followers puts them right."""
    order = generator.permutation(60)
    after, follows = evidence(generator, order, 1.5), chain(generator, order)
    alone = reading_order(after).rows_N
    mended = reading_order(after, follows_NN=follows, follow_weight=3.0).rows_N
    assert (alone != order).sum() > 10
    np.testing.assert_array_equal(mended, order)


@pytest.mark.parametrize("count", [6, 30])
def test_no_weight_means_no_follows(generator: np.random.Generator, count: int) -> None:
    after, follows = noise(generator, count), generator.normal(0, 9, (count, count))
    without = reading_order(after, follow_weight=5.0)
    np.testing.assert_array_equal(reading_order(after, follows_NN=follows).rows_N, without.rows_N)


@pytest.mark.parametrize("count", [1, 2, 7, EXACT_LIMIT, EXACT_LIMIT + 1, 50])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_shuffled_bag_gets_the_same_answer(
    generator: np.random.Generator, count: int, weight: float
) -> None:
    after = noise(generator, count).astype(np.float32)
    follows = generator.normal(0, 1, (count, count))
    answer = reading_order(after, follows_NN=follows, follow_weight=weight)
    for _ in range(5):
        shuffle = generator.permutation(count)
        mixed = np.ix_(shuffle, shuffle)
        other = reading_order(after[mixed], follows_NN=follows[mixed], follow_weight=weight)
        np.testing.assert_array_equal(shuffle[other.rows_N], answer.rows_N)
        np.testing.assert_array_equal(other.chunk_confidence_N, answer.chunk_confidence_N[shuffle])
        assert other.confidence == answer.confidence


@pytest.mark.parametrize("count", [2, 5, EXACT_LIMIT + 5])
def test_ties_fall_to_the_lower_row(count: int) -> None:
    answer = reading_order(np.zeros((count, count)))
    assert answer.rows_N.tolist() == list(range(count))
    assert answer.confidence == 0.5


def circle(count: int, log_odds: float) -> Values:
    """Each chunk before the half of them that follow it in a circle, and after the other half."""
    step = (np.arange(count)[None, :] - np.arange(count)[:, None]) % count
    return log_odds * np.where(step == 0, 0.0, np.where(step <= count // 2, 1.0, -1.0))


@pytest.mark.parametrize("count", [3, 25])
def test_circle_is_answered_with_less_confidence(count: int) -> None:
    line = 2.0 * np.sign(np.arange(count)[None, :] - np.arange(count)[:, None])
    cyclic, straight = reading_order(circle(count, 2.0)), reading_order(line)
    assert cyclic.rows_N.tolist() == straight.rows_N.tolist() == list(range(count))
    assert straight.confidence == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert 0.5 < cyclic.confidence < straight.confidence - 0.1


@pytest.mark.parametrize("log_odds", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("count", [5, 7, 9])
def test_rounding_breaks_no_ties(count: int, log_odds: float) -> None:
    """All rotations of a circle are equally good, though their sums may differ in the last bit."""
    assert reading_order(circle(count, log_odds)).rows_N.tolist() == list(range(count))


def test_rock_paper_scissors_in_numbers() -> None:
    """Two of three pairs are answered as they were judged, one the other way."""
    answer = reading_order(circle(3, 0.3))
    sure = 1 / (1 + np.exp(-0.3))
    assert answer.rows_N.tolist() == [0, 1, 2]
    assert answer.confidence == pytest.approx((2 * sure + (1 - sure)) / 3)
    np.testing.assert_allclose(answer.chunk_confidence_N, [0.5, sure, 0.5])


@pytest.mark.parametrize("count", [6, 20])
def test_confidence_is_the_mean_probability_of_the_answer(
    generator: np.random.Generator, count: int
) -> None:
    after = noise(generator, count, 2.0)
    answer = reading_order(after)
    place = np.argsort(answer.rows_N)
    expected = np.zeros((count, count))
    for a in range(count):
        for b in range(count):
            if a != b:
                logit = after[a, b] if place[a] < place[b] else after[b, a]
                expected[a, b] = 1 / (1 + np.exp(-logit))
    pairs = count * (count - 1)
    assert answer.confidence == pytest.approx(expected.sum() / pairs)
    np.testing.assert_allclose(answer.chunk_confidence_N, expected.sum(1) / (count - 1))
    assert answer.rows_N.dtype == np.int64
    assert answer.chunk_confidence_N.dtype == np.float64


def test_one_chunk_and_two() -> None:
    one = reading_order(np.zeros((1, 1)), follows_NN=np.zeros((1, 1)), follow_weight=1.0)
    assert (one.rows_N.tolist(), one.confidence) == ([0], 1.0)
    assert one.chunk_confidence_N.tolist() == [1.0]
    two = reading_order(np.array([[0.0, -1.0], [1.0, 0.0]]))
    assert two.rows_N.tolist() == [1, 0]
    assert two.confidence == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert two.chunk_confidence_N.tolist() == [two.confidence] * 2


@pytest.mark.parametrize("count", [5, 20])
def test_diagonal_is_ignored_and_input_left_alone(
    generator: np.random.Generator, count: int
) -> None:
    after, follows = noise(generator, count), generator.normal(0, 1, (count, count))
    np.fill_diagonal(follows, 0.0)
    clean = reading_order(after, follows_NN=follows, follow_weight=1.0)
    np.fill_diagonal(after, np.nan)
    np.fill_diagonal(follows, -np.inf)
    kept = after.copy()
    answer = reading_order(after, follows_NN=follows, follow_weight=1.0)
    np.testing.assert_array_equal(answer.rows_N, clean.rows_N)
    assert answer.confidence == clean.confidence
    np.testing.assert_array_equal(after, kept)


def test_slight_asymmetry_is_evened_out(generator: np.random.Generator) -> None:
    after = noise(generator, 8)
    skewed = after + generator.uniform(-4e-4, 4e-4, (8, 8))
    answer = reading_order(skewed)
    assert answer.confidence == pytest.approx(reading_order(after).confidence, abs=1e-3)
    rows = answer.rows_N
    assert kemeny_score(skewed, rows) == pytest.approx(-kemeny_score(skewed, rows[::-1]))


def put(i: int, j: int, value: float) -> NDArray[np.float64]:
    matrix = np.zeros((3, 3))
    matrix[i, j] = value
    return matrix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after_NN": np.zeros((0, 0))}, r"after_NN: expected .* N >= 1, got \(0, 0\)"),
        ({"after_NN": np.zeros((2, 3))}, r"after_NN: expected shape \(N, N\).*got \(2, 3\)"),
        ({"after_NN": np.zeros(4)}, r"after_NN: expected shape \(N, N\).*got \(4,\)"),
        ({"after_NN": put(0, 2, np.nan)}, r"after_NN: expected finite .*got nan at \[0, 2\]"),
        ({"after_NN": put(1, 0, -np.inf)}, r"after_NN: expected finite .*got -inf at \[1, 0\]"),
        ({"after_NN": put(0, 1, 0.5)}, r"after_NN: expected .*0.001, got 0.5 at \[0, 1\] and 0.0"),
        ({"follows_NN": np.zeros((2, 2))}, r"follows_NN: expected shape \(3, 3\), got \(2, 2\)"),
        ({"follows_NN": np.zeros((3, 2))}, r"follows_NN: expected .*got \(3, 2\)"),
        ({"follows_NN": put(2, 1, np.nan)}, r"follows_NN: expected finite .*nan at \[2, 1\]"),
        ({"follow_weight": -1.0}, r"follow_weight: expected a finite number >= 0, got -1.0"),
        ({"follow_weight": np.inf}, r"follow_weight: expected a finite number >= 0, got inf"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reading_order(**({"after_NN": np.zeros((3, 3))} | arguments))


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [1, 2, 3]])
def test_kemeny_score_wants_every_row_once(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows_N: expected each of 3 rows once, got"):
        kemeny_score(np.zeros((3, 3)), np.array(rows))


@pytest.mark.parametrize("judge", [reading_order, lambda after: kemeny_score(after, np.arange(2))])
def test_both_judges_check_antisymmetry(judge: Callable[[Values], object]) -> None:
    with pytest.raises(ValueError, match="after_NN: expected"):
        judge(np.ones((2, 2)))


def test_large_bag(generator: np.random.Generator) -> None:
    order = generator.permutation(200)
    after = evidence(generator, order, 1.0)
    answer = reading_order(after, follows_NN=chain(generator, order), follow_weight=1.0)
    assert sorted(answer.rows_N) == list(range(200))
    assert kemeny_score(after, answer.rows_N) >= 0.999 * kemeny_score(after, order)
