import numpy as np
import pytest
import torch

from models.model import P8Model
from models.rerank import SetReranker, feature_count, relations
from models.scoring import Method, Scorer
from tests.synthetic import shape, unit_rows


@pytest.fixture
def model() -> P8Model:
    model = P8Model(shape(rerank=True, rerank_hidden=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


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
    assert shared.shape[-1] * 2 + 4 == feature_count(5)


def test_order_of_candidates_does_not_matter(
    model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(model, order_weight=0.01)
    queries = scorer.query(*scorer.pack([unit_rows(generator, 5, 16)]), Method.P8)
    stored = unit_rows(generator, 20, 16)
    shuffled = generator.permutation(20)
    scores = scorer.score(queries, stored)
    assert np.ptp(scores.rerank_BK) > 1e-3
    np.testing.assert_allclose(
        scorer.score(queries, stored[shuffled]).total_BK,
        scores.total_BK[:, shuffled],
        atol=1e-5,
    )


def test_what_is_outside_the_set_changes_nothing(
    model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(model)
    queries = scorer.query(*scorer.pack([unit_rows(generator, 5, 16)]), Method.P8)
    stored = unit_rows(generator, 20, 16)
    valid = np.arange(20)[None] < 12
    alone = scorer.score(queries, stored[:12]).total_BK
    among = scorer.score(queries, stored, valid_BK=valid).total_BK[:, :12]
    np.testing.assert_allclose(alone, among, atol=1e-5)
    other = scorer.score(queries, stored).total_BK[:, :12]
    assert np.abs(other - alone).max() > 1e-4, "a larger set must be able to matter"


def test_untrained_reranker_adds_nothing(generator: np.random.Generator) -> None:
    scorer = Scorer(P8Model(shape(rerank=True)))
    queries = scorer.query(*scorer.pack([unit_rows(generator, 5, 16)]), Method.P8)
    assert not scorer.score(queries, unit_rows(generator, 9, 16)).rerank_BK.any()


def test_scale_is_fixed_by_the_first_training_batch() -> None:
    reranker = SetReranker(shape(rerank=True)).train()
    features = 3.0 + 2.0 * torch.randn(4, 50, feature_count(5))
    valid = torch.ones(4, 50, dtype=torch.bool)
    reranker(features, valid)
    scaled = (features - reranker.mean_F) * reranker.scale_F
    torch.testing.assert_close(
        scaled.mean((0, 1)), torch.zeros(feature_count(5)), atol=1e-4, rtol=0
    )
    before = reranker.mean_F.clone()
    reranker(features + 1, valid)
    assert torch.equal(before, reranker.mean_F)
