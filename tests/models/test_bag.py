import numpy as np
import pytest
import torch

from models.bag import BagEncoder
from tests.synthetic import shape, unit_rows


@pytest.fixture
def bag() -> BagEncoder:
    encoder = BagEncoder(shape(rerank=True, bag_layers=2)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        encoder.tau.fill_(1.7)
    return encoder


def everyone(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def test_order_of_the_bag_does_not_matter(bag: BagEncoder, generator: np.random.Generator) -> None:
    chunks = torch.from_numpy(unit_rows(generator, 12, 16))[None]
    shuffled = torch.from_numpy(generator.permutation(12))
    one, two = bag(chunks, everyone(12)), bag(chunks[:, shuffled], everyone(12))
    pairs = torch.meshgrid(shuffled, shuffled, indexing="ij")
    torch.testing.assert_close(two.place_BN, one.place_BN[:, shuffled], atol=1e-5, rtol=1e-5)
    for before, after in ((one.follows_BLNN, two.follows_BLNN), (one.after_BNN, two.after_BNN)):
        torch.testing.assert_close(after, before[..., pairs[0], pairs[1]], atol=1e-4, rtol=1e-4)


def test_absent_chunks_change_nothing(bag: BagEncoder, generator: np.random.Generator) -> None:
    chunks = torch.from_numpy(unit_rows(generator, 12, 16))[None]
    alone = bag(chunks[:, :8], everyone(8))
    among = bag(chunks, everyone(12) & (torch.arange(12) < 8))
    torch.testing.assert_close(
        among.follows_BLNN[..., :8, :8], alone.follows_BLNN, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(among.place_BN[:, :8], alone.place_BN, atol=1e-5, rtol=1e-5)


def test_after_is_antisymmetric_and_scaled_by_tau(
    bag: BagEncoder, generator: np.random.Generator
) -> None:
    chunks = torch.from_numpy(unit_rows(generator, 9, 16))[None]
    output = bag(chunks, everyone(9))
    torch.testing.assert_close(output.after_BNN, -output.after_BNN.mT, atol=1e-5, rtol=1e-5)
    assert output.follows_BLNN.shape == (1, 5, 9, 9)
    turned = output.follows_BLNN - output.follows_BLNN.mT
    by_hand = output.place_BN[0, 3] - output.place_BN[0, 7]
    by_hand = by_hand + (bag.turn_L * turned[0, :, 7, 3]).sum()
    torch.testing.assert_close(output.after_BNN[0, 7, 3], by_hand / 1.7)


def test_company_changes_what_a_pair_means(bag: BagEncoder, generator: np.random.Generator) -> None:
    chunks = torch.from_numpy(unit_rows(generator, 12, 16))[None]
    pair, bagful = bag(chunks[:, :2], everyone(2)), bag(chunks, everyone(12))
    assert (pair.follows_BLNN - bagful.follows_BLNN[..., :2, :2]).abs().max() > 1e-3
