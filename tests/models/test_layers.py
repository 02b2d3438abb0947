import pytest
import torch
from torch import Tensor, nn

from models.layers import ByteDropout, EncoderLayer, drop
from models.order import OrderVerifier


def bag(seed: int, *sizes: int) -> tuple[Tensor, Tensor]:
    """Random values (B, N, 16), and a mask that is True where there is nothing."""
    torch.manual_seed(seed)
    values_BNH = torch.randn(len(sizes), max(sizes), 16)
    absent_BN = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
    return values_BNH, absent_BN


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_takes_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    values = torch.full((201, 999), 2.0)
    kept = drop(values, rate)
    taken = float((kept == 0.0).float().mean())
    assert taken == pytest.approx(round(rate * 256) / 256, abs=0.005)
    assert kept.unique().tolist() == pytest.approx([0.0, 2.0 * 256 / (256 - round(rate * 256))])
    assert float(kept.mean()) == pytest.approx(2.0, rel=0.02)


def test_dropout_repeats_with_its_seed_and_rests_in_evaluation() -> None:
    layer = ByteDropout(0.5)
    values = torch.ones(7, 5)
    torch.manual_seed(3)
    first = layer(values)
    assert not torch.equal(first, layer(values))
    torch.manual_seed(3)
    assert torch.equal(first, layer(values))
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(drop(values, 0.0), values)


def test_dropout_passes_the_gradient_of_what_it_kept() -> None:
    torch.manual_seed(0)
    values = torch.ones(40, 40, requires_grad=True)
    kept = drop(values, 0.25)
    kept.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, kept.detach())


@pytest.mark.parametrize("rate", [1.0, 0.999, -0.1])
def test_dropout_refuses_to_take_everything(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate: expected .* got {rate}"):
        drop(torch.ones(3), rate)


@pytest.mark.parametrize("training", [False, True])
def test_the_layer_computes_what_pytorchs_own_does(training: bool) -> None:
    theirs = nn.TransformerEncoderLayer(
        16, 2, 32, 0.0, activation="gelu", batch_first=True, norm_first=True
    ).train(training)
    ours = EncoderLayer(16, 2, 32, 0.0).train(training)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    values_BNH, absent_BN = bag(1, 9, 4, 1)
    expected = theirs(values_BNH, src_key_padding_mask=absent_BN)
    answered = ours(values_BNH, src_key_padding_mask=absent_BN)
    assert torch.allclose(answered[~absent_BN], expected[~absent_BN], atol=1e-5)
    added = torch.zeros(absent_BN.shape).masked_fill(absent_BN, float("-inf"))
    again = ours(values_BNH, src_key_padding_mask=added)
    assert torch.equal(again[~absent_BN], answered[~absent_BN])
    assert torch.allclose(ours(values_BNH), theirs(values_BNH), atol=1e-5)


def test_dropout_of_the_attention_keeps_its_mean() -> None:
    layer = EncoderLayer(16, 2, 32, 0.25)
    nn.init.zeros_(layer.linear2.weight)  # what is left is linear in the attention's shares
    nn.init.zeros_(layer.linear2.bias)
    values_BNH, absent_BN = bag(2, 6, 3)
    expected = layer.eval()(values_BNH, src_key_padding_mask=absent_BN)
    layer.train()
    layer.dropout1.p = 0.0
    draws = torch.stack(
        [layer(values_BNH, src_key_padding_mask=absent_BN).detach() for _ in range(3000)]
    )
    assert draws.std(0)[~absent_BN].mean() > 0.01
    assert torch.allclose(draws.mean(0)[~absent_BN], expected[~absent_BN], atol=0.03)


def test_the_layer_refuses_an_order() -> None:
    layer = EncoderLayer(16, 2, 32, 0.0)
    values_BNH, _ = bag(0, 4)
    with pytest.raises(ValueError, match="src_mask: expected none"):
        layer(values_BNH, src_mask=torch.zeros(4, 4))
    with pytest.raises(ValueError, match="src_mask: expected none"):
        layer(values_BNH, is_causal=True)


def test_pairs_of_rows_are_judged_as_pairs_of_vectors() -> None:
    torch.manual_seed(0)
    order = OrderVerifier(16, 32).eval()
    chunks_ND = nn.functional.normalize(torch.randn(9, 16), dim=-1)
    first_P, second_P = torch.randint(9, (2, 40))
    expected = order(chunks_ND[first_P], chunks_ND[second_P])
    assert torch.allclose(order.pairs(chunks_ND, first_P, second_P), expected, atol=1e-5)
    swapped = order.pairs(chunks_ND, second_P, first_P)
    assert torch.allclose(swapped, -expected, atol=1e-5)
