"""Each loss of the ladder against a slow, obvious version of its formula."""

import math

import numpy as np
import pytest
import torch

from tests.synthetic import shape, walks
from training.batches import Batch, batches
from training.config import TrainConfig
from training.ladder.free import (
    Blend,
    Defended,
    Displacement,
    MarginAlone,
    NextToken,
    Regression,
    fit_codebook,
    graded_negatives,
)
from training.ladder.recommenders import gbce_loss, sample_negatives, sampled_softmax
from training.losses import listwise_ranking_loss

TRAIN = walks(1, 8)


@pytest.fixture
def batch() -> Batch:
    return next(iter(batches(TRAIN, None, TrainConfig(batch_documents=3), 5, 0)))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def test_sampled_softmax_matches_its_formula() -> None:
    positive, negative = torch.randn(4), torch.randn(4, 6)
    total = torch.tensor([12.0, 6.0, 40.0, 3.0])
    expected = [
        -math.log(
            math.exp(positive[w])
            / (math.exp(positive[w]) + total[w] / 6 * sum(math.exp(s) for s in negative[w]))
        )
        for w in range(4)
    ]
    loss = sampled_softmax(positive, negative, total)
    assert loss.item() == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_sampled_softmax_estimates_the_listwise_loss(batch: Batch) -> None:
    query = torch.nn.functional.normalize(torch.randn(len(batch.next_W), 16), dim=-1)
    logits = query @ batch.chunks_ND.T / 0.5
    sampled = sample_negatives(batch, 4000)
    estimate = sampled_softmax(
        logits.gather(1, batch.next_W[:, None]).squeeze(1),
        logits.gather(1, sampled.rows_WK),
        sampled.total_W,
    )
    exact = listwise_ranking_loss(
        query,
        batch.chunks_ND,
        batch.next_W,
        mask_BK=batch.allowed_WN,
        log_weight_BK=batch.log_weight_WN,
        temperature=0.5,
    )
    assert estimate.item() == pytest.approx(exact.item(), rel=5e-3)


def test_sampled_negatives_are_candidates(batch: Batch) -> None:
    sampled = sample_negatives(batch, 50)
    assert batch.allowed_WN.gather(1, sampled.rows_WK).all()
    assert not (sampled.rows_WK == batch.next_W[:, None]).any()


def test_gbce_matches_its_formula() -> None:
    positive, negative = torch.randn(3), torch.randn(3, 8)
    total, t = torch.tensor([16.0, 80.0, 4.0]), 0.75
    expected = []
    for w in range(3):
        alpha = min(1.0, 8 / total[w].item())
        beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
        parts = beta * math.log(sigmoid(positive[w]))
        parts += sum(math.log(1 - sigmoid(s)) for s in negative[w])
        expected.append(-parts / 9)
    loss = gbce_loss(positive, negative, total, t)
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_gbce_without_calibration_is_binary_cross_entropy() -> None:
    logits = torch.randn(5, 9)
    labels = torch.zeros(5, 9)
    labels[:, 0] = 1.0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    total = torch.full((5,), 100.0)
    torch.testing.assert_close(gbce_loss(logits[:, 0], logits[:, 1:], total, 0.0), expected)


def test_free_losses_match_their_formulas(batch: Batch) -> None:
    last, following = batch.chunks_ND[batch.next_W - 1], batch.chunks_ND[batch.next_W]
    for kind, slow in (
        (Regression, lambda q, n, c: float(((q - n) ** 2).sum())),
        (MarginAlone, lambda q, n, c: max(0.0, 0.07 - float(q @ n) + float(q @ c))),
        (
            Displacement,
            lambda q, n, c: max(
                0.0, 0.5 - float((q - c) @ (n - c)) / float((q - c).norm() * (n - c).norm())
            ),
        ),
    ):
        ranker = kind(shape()).eval()
        with torch.no_grad():
            query = ranker.query_of(batch)
            loss = ranker.loss(batch, 0)
        expected = np.mean([slow(*vectors) for vectors in zip(query, following, last, strict=True)])
        assert loss.item() == pytest.approx(expected, rel=1e-4), kind.__name__


def test_the_curriculum_goes_from_far_to_near(batch: Batch) -> None:
    for hardness, pick in ((0.0, min), (1.0, max)):
        negative, valid = graded_negatives(batch, hardness)
        for windows, chunks in batch.documents:
            for row in range(windows.start, windows.stop):
                target = int(batch.next_W[row])
                own = [
                    k
                    for k in range(chunks.start, chunks.stop)
                    if batch.allowed_WN[row, k] and k != target
                ]
                last = batch.chunks_ND[target - 1]
                expected = pick(own, key=lambda k, last=last: float(last @ batch.chunks_ND[k]))
                assert valid[row]
                assert int(negative[row]) == expected


def test_the_controller_raises_and_lowers_its_pressure(batch: Batch) -> None:
    ranker = Defended(shape())
    ranker.target = 1.0
    ranker.loss(batch, 0)
    assert ranker.told()["pressure"] == pytest.approx(1.02)
    ranker.target = -1.0
    for _ in range(300):
        ranker.loss(batch, 0)
    assert ranker.told()["pressure"] == ranker.lowest


def test_the_teacher_pulls_for_two_epochs_and_leaves(batch: Batch) -> None:
    ranker = Blend(shape(), 0.2).eval()
    with torch.no_grad():
        losses = [float(ranker.loss(batch, epoch)) for epoch in range(4)]
    assert losses[0] == losses[1] > losses[2] == losses[3]


def test_more_of_the_teacher_is_closer_to_the_last_chunk(batch: Batch) -> None:
    last = batch.chunks_ND[batch.next_W - 1]
    cosines = []
    for share in (0.2, 0.8, 1.0):
        torch.manual_seed(0)
        with torch.no_grad():
            query = Blend(shape(), share).eval().query_of(batch)
        cosines.append(float((query * last).sum(-1).mean()))
    assert cosines == sorted(cosines)
    assert cosines[-1] == pytest.approx(1.0, abs=1e-5)


def test_the_codebook_is_closer_to_chunks_than_chance() -> None:
    codebook = fit_codebook(TRAIN, 0, size=12)
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(12))
    chunks = torch.from_numpy(np.concatenate(TRAIN))
    start = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)
    assert (chunks @ codebook.T).amax(1).mean() > (chunks @ start.T).amax(1).mean()
    query = NextToken(shape(), codebook).eval()
    assert query.out[-1].out_features == 12
