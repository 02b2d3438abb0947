"""The network that is laid out for inference computes what the trained one does."""

import numpy as np
import pytest
import torch

from models import packed
from models.model import P8Model
from models.packed import Dtype, PackedP8, pack
from models.scoring import Method, Scorer
from tests.synthetic import shape, unit_rows


def _windows(generator: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = generator.integers(1, 6, count)
    context, mask = Scorer(window=5).pack([unit_rows(generator, n, 16) for n in lengths])
    return torch.from_numpy(context), torch.from_numpy(mask)


@pytest.mark.parametrize("operators", ["fused", "plain"])
@pytest.mark.parametrize("count", [1, 7, 32])
def test_the_same_queries_and_weights(
    any_model: P8Model,
    generator: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    operators: str,
    count: int,
) -> None:
    if operators == "plain":
        monkeypatch.setattr(packed, "_can_pack", lambda: False)
    context, mask = _windows(generator, count)
    with torch.inference_mode():
        expected = any_model.p8(context, mask)
        p8 = pack(any_model.p8)
        actual = p8.mix(p8.project(context), mask)
    np.testing.assert_allclose(actual.query_BD, expected.query_BD, atol=1e-6)
    np.testing.assert_allclose(actual.alpha_BL, expected.alpha_BL, atol=1e-6)
    assert isinstance(p8, PackedP8) == (any_model.config.arch == "transformer")


def test_this_build_of_torch_has_the_fused_operators() -> None:
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        assert packed._can_pack()


def test_bfloat16_is_refused_by_a_processor_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = P8Model(shape()).eval()
    monkeypatch.setattr(packed, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"dtype: expected float32, .* got bfloat16"):
        Scorer(model, dtype="bfloat16")
    assert Scorer(model).dtype == "float32"


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_changes_the_weights_alone(generator: np.random.Generator) -> None:
    model = P8Model(shape()).eval()
    context, mask = _windows(generator, 32)
    with torch.inference_mode():
        full, half = pack(model.p8), pack(model.p8, "bfloat16")
        projected = full.project(context)
        assert torch.equal(half.project(context), projected)
        wanted, found = full.mix(projected, mask), half.mix(projected, mask)
        mixed = torch.einsum("bl,bld->bd", found.alpha_BL, projected)
        mixed = torch.nn.functional.normalize(mixed, dim=-1)
    difference = float((found.alpha_BL - wanted.alpha_BL).abs().max())
    assert 0 < difference < 0.01
    np.testing.assert_allclose(found.query_BD, mixed, atol=1e-6)


def test_a_context_that_is_projected_already(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model)
    context, mask = scorer.pack([unit_rows(generator, n, 16) for n in (5, 2)])
    projected = scorer.project(context)
    projected[~mask] = 7.0  # what stands under a False mask does not count
    given = scorer.query(context, mask, Method.P8, projected)
    made = scorer.query(context, mask, Method.P8)
    np.testing.assert_array_equal(given.vectors_BD, made.vectors_BD)


def test_shapes_are_checked() -> None:
    p8 = pack(P8Model(shape()).eval().p8)
    for wrong in (torch.zeros(2, 4, 16), torch.zeros(2, 5, 15)):
        with pytest.raises(ValueError, match=r"context: expected \(B, 5, 16\)"):
            p8.mix(wrong, torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.parametrize("operators", ["fused", "plain"])
@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float32", 0.0, 1e-5), ("bfloat16", 1e-5, 0.1)]
)
@pytest.mark.usefixtures("bfloat16")
def test_a_packed_reranker_judges_alike(
    generator: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    operators: str,
    dtype: Dtype,
    least: float,
    most: float,
) -> None:
    model = P8Model(shape(rerank=True)).eval()
    reranker = model.reranker
    assert reranker is not None
    for last in (reranker.out, reranker.straight):
        torch.nn.init.normal_(last.weight)
    context, mask = (part.numpy() for part in _windows(generator, 6))
    candidates = unit_rows(generator, 6 * 9, 16).reshape(6, 9, 16)
    valid = np.arange(9) < generator.integers(3, 10, 6)[:, None]
    if operators == "plain":
        monkeypatch.setattr(packed, "_can_pack", lambda: False)
    kept, packed_one = Scorer(model), Scorer(model, dtype=dtype)
    kept.reranker = reranker
    wanted, found = (
        scorer.score(scorer.query(context, mask, Method.P8), candidates, valid_BK=valid)
        for scorer in (kept, packed_one)
    )
    assert np.ptp(wanted.rerank_BK[valid]) > 0.01
    difference = np.abs(found.rerank_BK - wanted.rerank_BK)[valid].max()
    assert least <= difference < most


def test_what_is_fitted_later_counts_in_a_packed_reranker() -> None:
    model = P8Model(shape(rerank=True)).eval()
    assert model.reranker is not None
    scorer = Scorer(model)
    model.reranker.bag.tau.fill_(3.0)
    assert scorer.reranker is not None
    assert scorer.reranker is not model.reranker
    assert float(scorer.reranker.bag.tau) == 3.0
