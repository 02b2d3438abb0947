import math

import pytest
import torch
from torch.nn.functional import normalize

from training.losses import (
    LossWeights,
    combined_p8_loss,
    listwise_ranking_loss,
    order_verifier_loss,
    prev_repel_margin_loss,
)


@pytest.fixture
def query() -> torch.Tensor:
    return normalize(torch.randn(3, 8), dim=-1)


@pytest.fixture
def candidates() -> torch.Tensor:
    return normalize(torch.randn(3, 6, 8), dim=-1)


def slow_listwise(
    query: torch.Tensor,
    candidates: torch.Tensor,
    targets: list[int],
    mask: torch.Tensor,
    weight: torch.Tensor,
    temperature: float,
) -> float:
    total = 0.0
    for b in range(len(query)):
        terms = [
            weight[b, k].item() * math.exp(float(query[b] @ candidates[b, k]) / temperature)
            for k in range(candidates.shape[1])
            if mask[b, k]
        ]
        top = math.exp(float(query[b] @ candidates[b, targets[b]]) / temperature)
        total += -math.log(weight[b, targets[b]].item() * top / sum(terms))
    return total / len(query)


def test_listwise_matches_its_formula(query: torch.Tensor, candidates: torch.Tensor) -> None:
    mask = torch.rand(3, 6) > 0.3
    weight = torch.rand(3, 6) + 0.1
    targets = [0, 4, 2]
    mask[range(3), targets] = True
    loss = listwise_ranking_loss(
        query,
        candidates,
        torch.tensor(targets),
        mask_BK=mask,
        log_weight_BK=weight.log(),
        temperature=0.2,
    )
    expected = slow_listwise(query, candidates, targets, mask, weight, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_listwise_takes_shared_candidates(query: torch.Tensor, candidates: torch.Tensor) -> None:
    shared = listwise_ranking_loss(query, candidates[0])
    own = listwise_ranking_loss(query, candidates[:1].expand(3, -1, -1))
    torch.testing.assert_close(shared, own)


def test_listwise_refuses_nonsense(query: torch.Tensor, candidates: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        listwise_ranking_loss(query, candidates, temperature=0)
    with pytest.raises(ValueError, match="mask: expected every target"):
        listwise_ranking_loss(query, candidates, mask_BK=torch.zeros(3, 6, dtype=torch.bool))


def test_listwise_falls_when_the_target_is_nearer(
    query: torch.Tensor, candidates: torch.Tensor
) -> None:
    nearer = candidates.clone()
    nearer[:, 0] = query
    assert listwise_ranking_loss(query, nearer) < listwise_ranking_loss(query, candidates)


def test_margin_matches_its_formula(query: torch.Tensor, candidates: torch.Tensor) -> None:
    following, before = candidates[:, 0], candidates[:, 1]
    valid = torch.tensor([True, False, True])
    hinges = [
        max(0.0, 0.07 - float(query[b] @ following[b]) + float(query[b] @ before[b]))
        for b in (0, 2)
    ]
    loss = prev_repel_margin_loss(query, following, before, valid_B=valid)
    assert loss.item() == pytest.approx(sum(hinges) / 2, rel=1e-5)


def test_margin_without_any_prev_is_zero_and_differentiable(query: torch.Tensor) -> None:
    query.requires_grad_()
    loss = prev_repel_margin_loss(query, query, query, valid_B=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert not query.grad.any()


def test_margin_is_zero_once_it_is_kept() -> None:
    east, west = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert prev_repel_margin_loss(east, east, west).item() == 0.0
    assert prev_repel_margin_loss(east, west, east).item() == pytest.approx(2.07)


def test_order_matches_its_formula() -> None:
    logits, later = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    expected = sum(
        -math.log(1 / (1 + math.exp(-z)) if y else 1 - 1 / (1 + math.exp(-z)))
        for z, y in zip(logits.tolist(), later.tolist(), strict=True)
    )
    assert order_verifier_loss(logits, later).item() == pytest.approx(expected / 3, rel=1e-5)
    assert order_verifier_loss(torch.zeros(0), torch.zeros(0)).item() == 0.0


@pytest.mark.parametrize("shared", [True, False])
def test_combined_is_the_weighted_sum(
    query: torch.Tensor, candidates: torch.Tensor, shared: bool
) -> None:
    given = candidates[0] if shared else candidates
    target, prev = torch.tensor([0, 2, 4]), torch.tensor([1, -1, 3])
    logits, later = torch.randn(5), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    weights = LossWeights(listwise=0.9, margin=0.4, order=0.3)
    loss = combined_p8_loss(query, given, target, prev, logits, later, weights=weights)
    own = candidates[:1].expand(3, -1, -1) if shared else candidates
    rows = torch.arange(3)
    listwise = listwise_ranking_loss(query, own, target)
    margin = prev_repel_margin_loss(
        query, own[rows, target], own[rows, prev.clamp(min=0)], valid_B=prev >= 0
    )
    order = order_verifier_loss(logits, later)
    torch.testing.assert_close(loss.listwise, listwise)
    torch.testing.assert_close(loss.margin, margin)
    torch.testing.assert_close(loss.order, order)
    torch.testing.assert_close(loss.total, 0.9 * listwise + 0.4 * margin + 0.3 * order)


def test_default_weights_are_the_design() -> None:
    weights = LossWeights()
    assert (weights.listwise, weights.margin, weights.order) == (1.0, 0.5, 0.2)
    assert (weights.temperature, weights.hinge) == (0.07, 0.07)
    with pytest.raises(ValueError, match="order: expected a weight >= 0, got -1"):
        LossWeights(order=-1)
    with pytest.raises(ValueError, match="temperature: expected > 0"):
        LossWeights(temperature=0)
