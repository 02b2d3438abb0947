import numpy as np
import pytest
import torch

from models.bag import BagOutput
from training.losses.bag import bag_loss


def slow_bag_loss(
    follows: np.ndarray, after: np.ndarray, document: list[int], position: list[int]
) -> float:
    """The loss of one bag, each pair written out."""
    present = [i for i, owner in enumerate(document) if owner >= 0]
    pairs = [(i, j) for i in present for j in present if document[i] == document[j]]
    total = 0.0
    for distance, weight in enumerate((1.0, 0.5, 0.3, 0.3, 0.3)):
        score = follows[distance]
        true = [(i, j) for i, j in pairs if position[j] - position[i] == distance + 1]
        for i, j in true:
            row = np.exp([score[i, x] for x in present if x != i]).sum()
            column = np.exp([score[x, j] for x in present if x != j]).sum()
            total += weight * (np.log(row) - score[i, j]) / len(true)
            total += weight * 0.5 * (np.log(column) - score[i, j]) / len(true)
    ordered = [(i, j) for i, j in pairs if position[j] > position[i]]
    weights = [4.0 if position[j] - position[i] <= 3 else 1.0 for i, j in ordered]
    losses = [np.log1p(np.exp(-after[i, j])) for i, j in ordered]
    return float(total + 0.5 * np.dot(weights, losses) / np.sum(weights))


@pytest.mark.parametrize("absent", [0, 3])
def test_bag_loss_matches_its_formula(generator: np.random.Generator, absent: int) -> None:
    follows = generator.standard_normal((1, 5, 14, 14))
    after = generator.standard_normal((1, 14, 14))
    after = after - after.transpose(0, 2, 1)
    document = [4] * 8 + [9] * 3 + [2] * 3
    position = [3, 4, 5, 9, 0, 1, 10, 11, 7, 6, 2, 1, 30, 31]
    if absent:
        document[-absent:] = [-1] * absent
    output = BagOutput(*map(torch.from_numpy, (follows, np.zeros((1, 14)), after)))
    loss = bag_loss(output, torch.tensor([document]), torch.tensor([position]))
    assert loss.item() == pytest.approx(slow_bag_loss(follows[0], after[0], document, position))


def test_nothing_to_learn_is_no_loss_and_no_nan() -> None:
    score = torch.zeros(1, 5, 4, 4, requires_grad=True)
    output = BagOutput(score, torch.zeros(1, 4), torch.zeros(1, 4, 4))
    loss = bag_loss(output, torch.tensor([[0, 1, -1, -1]]), torch.tensor([[0, 0, 0, 0]]))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert score.grad is not None
    assert bool(torch.isfinite(score.grad).all())
