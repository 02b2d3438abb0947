import numpy as np
import pytest
import torch

from models.bag_order import bag_evidence, order_by
from models.belonging import belonging
from models.model import P8Model
from models.restore import restore
from models.scoring import Scorer
from tests.synthetic import shape, unit_rows


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(3)
    model = P8Model(shape(rerank=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Scorer(model)


def test_a_bag_is_restored_with_all_that_is_known_of_it(
    scorer: Scorer, generator: np.random.Generator
) -> None:
    document = unit_rows(generator, 1, 16) + 0.5 * unit_rows(generator, 20, 16)
    document /= np.linalg.norm(document, axis=1, keepdims=True)
    bag = np.concatenate([document, -document[:1]])
    bag[9] = bag[4]
    restored = restore(scorer, bag)
    order = order_by(bag_evidence(scorer, bag))
    assert sorted(restored.rows_N.tolist()) == list(range(21))
    assert restored.rows_N.tolist() == order.rows_N.tolist()
    assert restored.confidence == pytest.approx(order.confidence, abs=1e-6)
    np.testing.assert_allclose(restored.chunk_confidence_N, order.chunk_confidence_N, atol=1e-5)
    assert np.array_equal(restored.belongs_N, belonging(bag))
    assert restored.outliers == [20]
    assert restored.duplicates == [(4, 9)]


def test_a_shuffled_bag_is_restored_alike_to_the_last_bit(
    scorer: Scorer, generator: np.random.Generator
) -> None:
    bag = unit_rows(generator, 37, 16)
    one = restore(scorer, bag)
    for _ in range(5):
        shuffled = generator.permutation(37)
        two = restore(scorer, bag[shuffled])
        assert shuffled[two.rows_N].tolist() == one.rows_N.tolist()
        assert two.confidence == one.confidence
        assert np.array_equal(two.chunk_confidence_N, one.chunk_confidence_N[shuffled])
        assert np.array_equal(two.belongs_N, one.belongs_N[shuffled])
        assert sorted(shuffled[two.outliers].tolist()) == one.outliers


def test_two_chunks_are_ordered_and_neither_is_doubted(
    scorer: Scorer, generator: np.random.Generator
) -> None:
    restored = restore(scorer, unit_rows(generator, 2, 16))
    assert sorted(restored.rows_N.tolist()) == [0, 1]
    assert (restored.outliers, restored.duplicates) == ([], [])


def test_one_chunk_has_no_order(scorer: Scorer, generator: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        restore(scorer, unit_rows(generator, 1, 16))
