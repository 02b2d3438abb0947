import math

import numpy as np
import pytest

from models.belonging import (
    UNTOLD,
    WEIGHTS,
    belonging,
    belonging_features,
    canonical_rows,
    duplicates,
)
from tests.synthetic import Floats, unit_rows


def cluster(generator: np.random.Generator, count: int, dimension: int = 384) -> Floats:
    """A document: chunks around a theme of its own, of cosine 0.5 or so to each other."""
    rows = unit_rows(generator, 1, dimension) + unit_rows(generator, count, dimension)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_clean_bag_raises_no_alarm(generator: np.random.Generator) -> None:
    for count in (3, 5, 12, 40, 100, 256):
        assert belonging(cluster(generator, count)).min() > 0.5


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("own", "foreign"), [(7, 1), (20, 1), (16, 4), (70, 30)])
def test_foreign_chunks_are_found_be_they_alike_or_not(
    generator: np.random.Generator, own: int, foreign: int, together: bool
) -> None:
    make = cluster if together else unit_rows
    bag = np.concatenate([cluster(generator, own), make(generator, foreign, 384)])
    assert np.flatnonzero(belonging(bag) < 0.5).tolist() == list(range(own, own + foreign))


def test_features_are_what_they_are_said_to_be(generator: np.random.Generator) -> None:
    bag = np.concatenate([cluster(generator, 9), unit_rows(generator, 2, 384)]).astype(np.float64)
    count, trust = len(bag), [1.0] * len(bag)
    cosine = [[float(a @ b) for b in bag] for a in bag]

    def over_median(values: list[float]) -> list[float]:
        return [value / sorted(values)[count // 2] for value in values]

    for _ in range(5):
        likeness = []
        for i in range(count):
            others = [j for j in range(count) if j != i]
            weighted = sum(trust[j] * cosine[i][j] for j in others)
            likeness.append(weighted / sum(trust[j] for j in others))
        trust = [1 / (1 + math.exp(-8.0 * (value - 0.45))) for value in over_median(likeness)]
    near, company = [], []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        best = sorted((trust[j] * cosine[i][j] for j in others), reverse=True)[:4]
        near.append(sum(best) / 4)
        positive = {j: max(cosine[i][j], 0.0) for j in others}
        untrusted = sum((1 - trust[j]) * value for j, value in positive.items())
        company.append(untrusted / sum(positive.values()))
    features = belonging_features(bag.astype(np.float32))
    np.testing.assert_allclose(features[:, 0], over_median(near), rtol=1e-5)
    np.testing.assert_allclose(features[:, 1], company, rtol=1e-5, atol=1e-7)
    # Likeness speaks for a chunk and bad company against it.
    assert WEIGHTS[0] > 0 > WEIGHTS[1]


def test_a_shuffled_bag_gets_the_same_to_the_last_bit(generator: np.random.Generator) -> None:
    bag = np.concatenate([cluster(generator, 30), unit_rows(generator, 5, 384)])
    bag[[7, 33]] = bag[[2, 31]]
    told = belonging(bag)
    assert told[7] == told[2]
    for _ in range(5):
        shuffled = generator.permutation(len(bag))
        assert np.array_equal(belonging(bag[shuffled]), told[shuffled])
        assert np.array_equal(
            bag[shuffled][canonical_rows(bag[shuffled])], bag[canonical_rows(bag)]
        )


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_chunks_nothing_can_be_told(generator: np.random.Generator, count: int) -> None:
    bag = unit_rows(generator, count, 384)
    assert belonging(bag).tolist() == [UNTOLD] * count
    assert belonging(np.repeat(bag, 4, axis=0)).tolist() == [UNTOLD] * (4 * count)


def test_copies_do_not_vouch_for_each_other(generator: np.random.Generator) -> None:
    bag = np.concatenate([cluster(generator, 12), unit_rows(generator, 1, 384)])
    copied = np.concatenate([bag, bag[[12, 12, 12, 0]]])
    assert np.array_equal(belonging(copied)[:13], belonging(bag))


def test_where_nothing_is_alike_nothing_belongs() -> None:
    assert belonging(np.eye(6, dtype=np.float32)).max() < 0.5


def test_the_dimension_does_not_matter(generator: np.random.Generator) -> None:
    bag = np.concatenate([cluster(generator, 20), unit_rows(generator, 2, 384)])
    wider = np.pad(bag, ((0, 0), (0, 960)))
    np.testing.assert_allclose(belonging(wider), belonging(bag), rtol=1e-6)


def test_duplicates_are_equal_but_for_rounding(generator: np.random.Generator) -> None:
    bag = unit_rows(generator, 6, 384)
    aside = unit_rows(generator, 1, 384)[0]
    aside = aside - (aside @ bag[1]) * bag[1]
    aside /= np.linalg.norm(aside)
    turned = [c * bag[1] + math.sqrt(1 - c * c) * aside for c in (0.9995, 0.998)]
    bag = np.stack([*bag, bag[4], *turned]).astype(np.float32)
    assert duplicates(bag) == [(1, 7), (4, 6), (7, 8)]
    assert duplicates(bag[:6]) == []
