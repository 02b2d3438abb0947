import numpy as np
import pytest
import torch

from models.config import P8Config
from models.model import P8Model
from models.p8 import Adapter
from models.scoring import Method, Scorer, cos_anchor
from tests.synthetic import shape, unit_rows


def test_query_stays_in_the_cone_of_its_context(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model)
    chunks = unit_rows(generator, 12, 16)
    context, mask = scorer.pack([chunks[:5], chunks[5:8], chunks[8:9]])
    queries = scorer.query(context, mask, Method.P8)
    assert (queries.alpha_BL >= 0).all()
    assert (queries.alpha_BL[~mask] == 0).all()
    np.testing.assert_allclose(queries.alpha_BL.sum(1), 1, rtol=1e-6)
    space = scorer.project(context.reshape(-1, 16)).reshape(context.shape)
    mixed = np.einsum("bl,bld->bd", queries.alpha_BL, np.where(mask[..., None], space, 0))
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(queries.vectors_BD, mixed, atol=1e-6)
    np.testing.assert_allclose(cos_anchor(queries.vectors_BD, space, mask), 1, atol=1e-5)


def test_free_tower_leaves_the_span(any_model: P8Model, generator: np.random.Generator) -> None:
    scorer = Scorer(any_model)
    context, mask = scorer.pack([unit_rows(generator, 5, 16) for _ in range(4)])
    queries = scorer.query(context, mask, Method.TOWER)
    assert (cos_anchor(queries.vectors_BD, context, mask) < 0.99).all()


def test_a_short_window_does_not_see_its_padding(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    chunks = torch.from_numpy(unit_rows(generator, 5, 16))[None]
    mask = torch.tensor([[False, False, True, True, True]])
    garbage = chunks.clone()
    garbage[:, :2] = torch.from_numpy(unit_rows(generator, 2, 16))
    with torch.inference_mode():
        expected, actual = any_model.p8(chunks, mask), any_model.p8(garbage, mask)
    if any_model.config.arch == "lstm":  # its steps over zeroed padding are the same for both
        assert torch.equal(expected.query_BD, actual.query_BD)
    torch.testing.assert_close(expected.query_BD, actual.query_BD)
    torch.testing.assert_close(expected.alpha_BL, actual.alpha_BL)


def test_untrained_adapter_is_the_identity(generator: np.random.Generator) -> None:
    rows = torch.from_numpy(unit_rows(generator, 6, 16))
    torch.testing.assert_close(Adapter(16, 32, 0.0)(rows), rows)


def test_raw_space_projects_nothing(generator: np.random.Generator) -> None:
    rows = unit_rows(generator, 6, 16)
    np.testing.assert_array_equal(Scorer(P8Model(shape(space="raw"))).project(rows), rows)


@pytest.mark.parametrize(
    ("context", "mask", "message"),
    [
        (
            torch.zeros(1, 4, 16),
            torch.ones(1, 4, dtype=torch.bool),
            r"context: expected \(B, 5, 16",
        ),
        (torch.zeros(1, 5, 8), torch.ones(1, 5, dtype=torch.bool), "context: expected"),
        (torch.zeros(1, 5, 16), torch.ones(1, 5), "mask: expected bool"),
        (torch.zeros(1, 5, 16), torch.zeros(1, 5, dtype=torch.bool), "right-aligned"),
    ],
)
def test_wrong_windows_are_refused(
    any_model: P8Model, context: torch.Tensor, mask: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        any_model.p8(context, mask)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 0),
        ("window", 0),
        ("arch", "rnn"),
        ("space", "other"),
        ("dropout", 1.0),
        ("hidden", 15),
    ],
)
def test_wrong_shapes_name_their_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        shape(**{field: value})


def test_window_lengths_are_checked(generator: np.random.Generator) -> None:
    scorer = Scorer(window=5)
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"expected 1 to 5 chunks, got {count}"):
            scorer.pack([unit_rows(generator, 6, 16)[:count]])


def test_everyday_dimensions() -> None:
    for dimension in (384, 768):
        model = P8Model(P8Config(dimension=dimension)).eval()
        context = torch.nn.functional.normalize(torch.randn(2, 5, dimension), dim=-1)
        output = model.p8(context, torch.ones(2, 5, dtype=torch.bool))
        assert output.query_BD.shape == (2, dimension)
