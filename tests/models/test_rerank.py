import numpy as np
import pytest
import torch

from models.bag import BagOutput
from models.model import P8Model
from models.rerank import (
    HIDDEN,
    CandidateSets,
    SetReranker,
    feature_count,
    pair_feature_count,
    pair_features,
)
from models.scoring import RERANK_LIMIT, Method, Scorer
from tests.synthetic import shape, unit_rows


@pytest.fixture
def model() -> P8Model:
    model = P8Model(shape(rerank=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def log_sum(values: list[float]) -> float:
    return float(np.log(np.sum(np.exp(np.array(values, np.float64)))))


def slow_pair_features(
    follows: np.ndarray, place: np.ndarray, context: list[int], allowed: list[int], x: int
) -> list[float]:
    """The features of one chunk of one bag, each written out."""
    reach, last = len(follows), context[::-1]
    forth, against, back, rivals = [], [], [], []
    for distance in range(reach):
        back.append(follows[distance][x, context[0]])
        c = last[distance] if distance < len(last) else None
        forth.append(0.0 if c is None else follows[distance][c, x])
        shares = [] if c is None else [follows[distance][c, y] for y in allowed]
        shares += [HIDDEN] * (len(place) - len(shares))
        against.append(0.0 if c is None else forth[-1] - log_sum(shares))
        if distance < 3:
            before = [follows[distance][y, x] for y in {*allowed, c} - {x, None}]
            before += [HIDDEN] * (len(place) - len(before))
            rivals.append(0.0 if c is None else forth[-1] - log_sum(before))
    after = [follows[0][x, y] for y in {*allowed, *context} - {x}]
    after += [HIDDEN] * (len(place) - len(after))
    places = [place[x] - place[last[0]], place[x] - float(np.mean([place[c] for c in context]))]
    return [*forth, *against, *back, *rivals, log_sum(after), *places]


@pytest.mark.parametrize("length", [1, 3, 5])
def test_pair_features_match_their_definition(generator: np.random.Generator, length: int) -> None:
    follows = 2.0 * generator.standard_normal((5, 14, 14)).astype(np.float32)
    place = generator.standard_normal(14).astype(np.float32)
    rows = generator.permutation(14)
    context, allowed = rows[:length].tolist(), rows[length:12].tolist()
    output = BagOutput(
        torch.from_numpy(follows)[None], torch.from_numpy(place)[None], torch.zeros(1, 14, 14)
    )
    rows_L = torch.tensor([[context[0]] * (5 - length) + context])
    mask_L = torch.tensor([[False] * (5 - length) + [True] * length])
    allowed_N = torch.zeros(1, 14, dtype=torch.bool)
    allowed_N[0, allowed] = True
    features = pair_features(output, rows_L, mask_L, allowed_N)
    assert features.shape == (1, 14, pair_feature_count(5))
    for x in allowed:
        np.testing.assert_allclose(
            features[0, x], slow_pair_features(follows, place, context, allowed, x), atol=1e-4
        )


def test_a_shared_bag_judges_as_bags_of_their_own(
    model: P8Model, generator: np.random.Generator
) -> None:
    """Training reads a document once for all its windows; serving reads a bag for each."""
    reranker = model.reranker
    assert reranker is not None
    document = torch.from_numpy(unit_rows(generator, 15, 16))
    context_WL = torch.tensor([[0, 1, 2, 3, 4], [6, 7, 8, 9, 10], [0, 0, 0, 0, 1]])
    mask_WL = torch.tensor([[True] * 5, [True] * 5, [False] * 3 + [True] * 2])
    is_context = (torch.arange(15)[None, None] == context_WL[..., None]).any(1)
    context_WLD = document[context_WL] * mask_WL[..., None]
    sets = CandidateSets(
        raw_context_BLD=context_WLD,
        context_BLD=context_WLD,
        mask_BL=mask_WL,
        raw_XKD=document[None],
        projected_XKD=document[None],
        valid_BK=~is_context,
        base_BK=context_WLD[:, -1] @ document.T,
        order_BK=torch.zeros(3, 15),
    )
    with torch.no_grad():
        whole = reranker.bag(document[None], torch.ones(1, 15, dtype=torch.bool))
        shared = reranker.judge(whole, context_WL, sets)
        own = reranker(sets)
    assert shared[~is_context].std() > 1e-2
    torch.testing.assert_close(shared[~is_context], own[~is_context], atol=1e-4, rtol=1e-4)


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


def test_scale_follows_what_training_sees() -> None:
    reranker = SetReranker(shape(rerank=True)).train()
    features = 3.0 + 2.0 * torch.randn(4, 50, feature_count(5))
    valid = torch.ones(4, 50, dtype=torch.bool)
    reranker.logits(features, valid)
    torch.testing.assert_close(reranker.mean_F, features.mean((0, 1)))
    torch.testing.assert_close(reranker.variance_F, features.flatten(0, 1).var(0))
    before = reranker.mean_F.clone()
    reranker.logits(features + 1, valid)
    assert bool(((reranker.mean_F > before) & (reranker.mean_F < before + 0.1)).all())
    reranker.eval()
    fixed = reranker.mean_F.clone()
    reranker.logits(features - 5, valid)
    assert torch.equal(reranker.mean_F, fixed)


def test_of_a_large_set_only_the_best_are_looked_at(
    model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(model, order_weight=0.01)
    queries = scorer.query(*scorer.pack([unit_rows(generator, 5, 16)]), Method.P8)
    many = unit_rows(generator, RERANK_LIMIT + 100, 16)
    scores = scorer.score(queries, many)
    base = scores.mixture_BK[0] + scores.order_BK[0]
    best = np.sort(np.argsort(-base, kind="stable")[:RERANK_LIMIT])
    alone = scorer.score(queries, many[best])
    np.testing.assert_allclose(scores.rerank_BK[0, best], alone.rerank_BK[0], atol=1e-5)
    rest = np.setdiff1d(np.arange(len(many)), best)
    assert np.ptp(scores.rerank_BK[0, rest]) == 0
    assert scores.total_BK[0, rest].max() <= scores.total_BK[0, best].min() + 1e-6
