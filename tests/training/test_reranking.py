import pytest
import torch

from models.model import P8Model
from tests.synthetic import shape, walks
from training.batches import batches
from training.config import TrainConfig
from training.reranking import Described, judged_loss, rerank_loss

TRAIN = walks(1, 8)


def described(seed: int, windows: int, candidates: int, features: int) -> Described:
    torch.manual_seed(seed)
    valid_WK = torch.rand(windows, candidates) < 0.8
    target_W = torch.randint(candidates, (windows,))
    valid_WK[torch.arange(windows), target_W] = True
    return Described(
        torch.randn(windows, candidates, features),
        valid_WK,
        torch.rand(windows, candidates),
        target_W,
    )


def test_bags_judged_together_lose_what_they_lose_alone() -> None:
    torch.manual_seed(0)
    model = P8Model(shape(rerank=True)).eval()
    reranker = model.reranker
    assert reranker is not None
    for parameter in reranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    features = reranker.read.in_features
    bags = [described(1, 3, 9, features), described(2, 5, 4, features)]
    together = judged_loss(reranker, bags, 0.15)
    alone = sum(judged_loss(reranker, [bag], 0.15).item() for bag in bags)
    assert together.item() == pytest.approx(alone, rel=1e-4)


def test_the_loss_reaches_the_reranker_alone() -> None:
    torch.manual_seed(0)
    model = P8Model(shape(rerank=True)).train()
    assert model.reranker is not None
    batch = next(iter(batches(TRAIN, None, TrainConfig(batch_documents=4), 5, 0)))
    loss = rerank_loss(model, model.reranker, batch, 0.15)
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert model.reranker.read.weight.grad is not None
    assert model.reranker.bag.read.weight.grad is not None
    for part in (model.p8, model.order):
        assert all(parameter.grad is None for parameter in part.parameters())
        assert all(module.training for module in part.modules())
