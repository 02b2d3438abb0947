import numpy as np
import pytest
import torch

from models.model import P8Model
from models.order import OrderVerifier, probability_after
from models.scoring import Method, Scorer, best_first, cosine
from tests.synthetic import unit_rows


def slow_verifier(net: OrderVerifier, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """f on [a, b, a*b, a-b] with one matrix, written out: the a-b columns are absorbed by two."""
    weight = torch.cat([net.first.weight, net.second.weight, net.product.weight], dim=1)

    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = torch.cat([x, y, x * y * x.shape[-1] ** 0.5])
        hidden = torch.nn.functional.gelu(weight @ features + net.first.bias)
        hidden = torch.nn.functional.gelu(net.middle.weight @ hidden + net.middle.bias)
        return (net.out.weight @ hidden).squeeze()

    return (f(a, b) - f(b, a)) / net.tau


def test_verifier_matches_its_formula(generator: np.random.Generator) -> None:
    net = OrderVerifier(16, 8).eval()
    net.tau.fill_(1.7)
    rows = torch.from_numpy(unit_rows(generator, 8, 16))
    with torch.inference_mode():
        fast = net(rows[:4], rows[4:])
        slow = torch.stack(
            [slow_verifier(net, a, b) for a, b in zip(rows[:4], rows[4:], strict=True)]
        )
    torch.testing.assert_close(fast, slow)


def test_order_is_antisymmetric_to_the_last_bit(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model)
    a, b = unit_rows(generator, 300, 16), unit_rows(generator, 300, 16)
    forth, back = scorer.order_probability(a, b), scorer.order_probability(b, a)
    assert (forth == 1.0 - back).all()
    assert (back == 1.0 - forth).all()
    assert forth.std() > 0.01
    assert (scorer.order_probability(a, a) == 0.5).all()
    # Whatever else is asked with it.
    alone = np.array([scorer.order_probability(b[[row]], a[[row]])[0] for row in range(300)])
    assert (alone == back).all()
    many = scorer.order_probability(np.tile(b, (4, 1)), np.tile(a, (4, 1)))
    assert (many == np.tile(back, 4)).all()
    logits = scorer.order_logits(a, b).astype(np.float64)
    np.testing.assert_allclose(forth, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_probability_matches_the_logistic_function() -> None:
    logits = torch.linspace(-40, 40, 201)
    torch.testing.assert_close(probability_after(logits), torch.sigmoid(logits.double()))


def test_parts_sum_to_the_score_and_follow_their_definition(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model, order_weight=0.02)
    chunks = unit_rows(generator, 20, 16)
    context, mask = scorer.pack([chunks[:5], chunks[5:7]])
    queries = scorer.query(context, mask, Method.P8)
    scores = scorer.score(queries, chunks[7:])
    np.testing.assert_array_equal(scores.total_BK, scores.mixture_BK + scores.order_BK)
    projected = scorer.project(chunks[7:])
    np.testing.assert_allclose(scores.mixture_BK, queries.vectors_BD @ projected.T, atol=1e-6)
    for row, last in enumerate((chunks[4], chunks[6])):
        logits = scorer.order_logits(np.repeat(last[None], 13, axis=0), chunks[7:])
        np.testing.assert_allclose(scores.order_BK[row], 0.02 * logits, atol=1e-6)


def test_shared_and_own_candidates_score_alike(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model, order_weight=0.02)
    chunks = unit_rows(generator, 20, 16)
    context, mask = scorer.pack([chunks[:5], chunks[5:7]])
    queries = scorer.query(context, mask, Method.P8)
    shared = scorer.score(queries, chunks[7:])
    own = scorer.score(queries, np.stack([chunks[7:]] * 2))
    np.testing.assert_allclose(shared.total_BK, own.total_BK, atol=1e-6)


def test_training_free_methods_need_no_model(generator: np.random.Generator) -> None:
    scorer = Scorer(window=5)
    chunks = unit_rows(generator, 9, 16)
    context, mask = scorer.pack([chunks[:3]])
    direct = scorer.query(context, mask, Method.DIRECT)
    np.testing.assert_array_equal(direct.vectors_BD[0], chunks[2])
    mean = scorer.query(context, mask, Method.MEAN)
    expected = chunks[:3].mean(0)
    np.testing.assert_allclose(mean.vectors_BD[0], expected / np.linalg.norm(expected), atol=1e-6)
    scores = scorer.score(direct, chunks[3:])
    np.testing.assert_allclose(scores.total_BK[0], chunks[3:] @ chunks[2], atol=1e-6)
    with pytest.raises(ValueError, match="expected a trained checkpoint, got none"):
        scorer.query(context, mask, Method.P8)


def test_ties_keep_their_column_order() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0]], np.float32)
    np.testing.assert_array_equal(best_first(scores, 3), [[1, 2, 3]])


def test_cosine_of_own_and_shared_candidates(generator: np.random.Generator) -> None:
    queries, rows = unit_rows(generator, 3, 16), unit_rows(generator, 7, 16)
    np.testing.assert_allclose(
        cosine(queries, rows), cosine(queries, np.stack([rows] * 3)), atol=1e-6
    )
