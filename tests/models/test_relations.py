import numpy as np
import pytest
import torch

from models.relations import relation_count, relations
from models.scoring import Scorer
from tests.synthetic import unit_rows


def slow_relations(context: np.ndarray, candidates: np.ndarray, window: int) -> np.ndarray:
    """The features of one window, each written out."""
    mean = candidates.mean(0)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    pad = [0.0] * (window - len(context))
    rows = []
    for k, x in enumerate(candidates):
        others = [cosine(x, y) for j, y in enumerate(candidates) if j != k]
        plain = [cosine(c, x) for c in context]
        centred = [cosine(c - mean, x - mean) for c in context]
        last = [cosine(context[-1], y) for y in candidates]
        last_centred = [cosine(context[-1] - mean, y - mean) for y in candidates]
        rows.append(
            pad
            + plain
            + pad
            + centred
            + [
                float(np.mean(plain)),
                cosine(mean, x),
                max(others),
                plain[-1] - max(others),
                plain[-1] - max(last),
                centred[-1] - max(last_centred),
                float(np.log1p(sum(value > last[k] for value in last))),
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_relations_match_their_definition(generator: np.random.Generator, length: int) -> None:
    context, candidates = unit_rows(generator, length, 16), unit_rows(generator, 9, 16)
    packed, mask = Scorer(window=5).pack([context])
    # Two rows that do not belong to the set stand among the candidates.
    stored = np.concatenate([candidates[:4], unit_rows(generator, 2, 16), candidates[4:]])
    valid = np.ones((1, 11), np.bool_)
    valid[0, 4:6] = False
    features = relations(*map(torch.from_numpy, (packed, mask, stored[None], valid)))[0]
    np.testing.assert_allclose(
        features[valid[0]], slow_relations(context, candidates, 5), atol=1e-5
    )


def test_shared_candidates_are_the_same_as_own(generator: np.random.Generator) -> None:
    packed, mask = Scorer(window=5).pack([unit_rows(generator, n, 16) for n in (5, 2, 3)])
    stored = unit_rows(generator, 12, 16)[None]
    valid = generator.random((3, 12)) < 0.8
    shared = relations(*map(torch.from_numpy, (packed, mask, stored, valid)))
    own = relations(*map(torch.from_numpy, (packed, mask, stored.repeat(3, axis=0), valid)))
    torch.testing.assert_close(shared, own)
    assert shared.shape[-1] == relation_count(5)
