import numpy as np
import pytest
import torch

from models.bag_order import bag_evidence, order_by
from models.model import P8Model
from models.scoring import Method, Scorer
from tests.synthetic import shape, unit_rows, walks
from training.calibration import fit_bag, fit_tau
from training.ordering import evaluate_bags
from training.protocols import project_documents


def perturbed(*, rerank: bool) -> P8Model:
    model = P8Model(shape(rerank=rerank)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_evidence_is_the_bags_plus_a_share_of_the_verifiers(
    generator: np.random.Generator,
) -> None:
    model, raw = perturbed(rerank=True), unit_rows(generator, 9, 16)
    scorer, reranker = Scorer(model), model.reranker
    assert reranker is not None
    own = bag_evidence(scorer, raw)
    reranker.bag.pair_share.fill_(0.7)
    both = bag_evidence(scorer, raw)
    pair = np.array([scorer.order_logits(np.repeat(a[None], 9, 0), raw) for a in raw])
    np.fill_diagonal(pair, 0.0)
    np.testing.assert_allclose(both.after_NN, own.after_NN + 0.7 * pair, atol=1e-5)
    assert np.array_equal(both.after_NN, -both.after_NN.T)
    with torch.no_grad():
        whole = reranker.bag(torch.from_numpy(raw)[None], torch.ones(1, 9, dtype=torch.bool))
    assert own.follows_NN is not None
    np.testing.assert_allclose(own.follows_NN, whole.follows_BLNN[0, 0], atol=1e-5)
    np.testing.assert_allclose(own.place_N, whole.place_BN[0], atol=1e-5)


def test_without_a_bag_encoder_the_verifier_alone_tells(generator: np.random.Generator) -> None:
    scorer, raw = Scorer(perturbed(rerank=False)), unit_rows(generator, 7, 16)
    evidence = bag_evidence(scorer, raw)
    assert (evidence.follows_NN, evidence.follow_weight) == (None, 0.0)
    logit = scorer.order_logits(raw[2][None], raw[5][None])[0]
    assert evidence.after_NN[2, 5] == pytest.approx(logit, rel=1e-5)
    assert np.array_equal(evidence.after_NN, -evidence.after_NN.T)


@pytest.mark.parametrize("rerank", [False, True])
def test_a_shuffled_bag_is_put_into_the_same_order(
    generator: np.random.Generator, rerank: bool
) -> None:
    scorer, raw = Scorer(perturbed(rerank=rerank)), unit_rows(generator, 24, 16)
    shuffled = generator.permutation(24)
    one = order_by(bag_evidence(scorer, raw))
    two = order_by(bag_evidence(scorer, raw[shuffled]))
    assert shuffled[two.rows_N].tolist() == one.rows_N.tolist()
    assert two.confidence == pytest.approx(one.confidence, abs=1e-5)
    assert 0.5 < one.confidence < 1


def test_fitting_makes_the_order_of_bags_honest() -> None:
    """The place is set by hand to what the documents drift along, and is far too sure of itself."""
    model = P8Model(shape(rerank=True, space="raw")).eval()
    assert model.reranker is not None
    bag, drift = model.reranker.bag, torch.from_numpy(unit_rows(np.random.default_rng(7), 1, 16)[0])

    def look(hidden: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        bag.seen = args[0] @ drift

    bag.read.register_forward_pre_hook(look)  # type: ignore[arg-type]
    bag.place.register_forward_hook(lambda *_: 50.0 * bag.seen[..., None])
    documents = project_documents(Scorer(model), walks(5, 12))
    fit_tau(model, documents)
    before = evaluate_bags(Scorer(model), documents)
    fitted = fit_bag(model, documents)
    assert fitted is not None
    assert fitted["tau"] > 2
    after = evaluate_bags(Scorer(model), documents)
    assert after["order_in_bag"]["ece"].value < 0.5 * before["order_in_bag"]["ece"].value
    assert after["ordering"]["kendall_tau"].value > 0.5
    best = max(value for name, value in fitted.items() if name.startswith("kendall_tau"))
    assert after["ordering"]["kendall_tau"].value == pytest.approx(best)


def test_no_bag_encoder_nothing_to_fit() -> None:
    model = P8Model(shape())
    assert fit_bag(model, project_documents(Scorer(model), walks(5, 2))) is None


def test_a_document_read_once_scores_as_window_by_window(generator: np.random.Generator) -> None:
    """Evaluation reads a document once for all its windows; the service never does."""
    scorer, raw = Scorer(perturbed(rerank=True)), unit_rows(generator, 18, 16)
    rows = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [0, 0, 0, 0, 1]])
    mask = np.array([[True] * 5, [True] * 5, [False] * 3 + [True] * 2])
    allowed = ~(np.arange(18)[None, None] == rows[..., None]).any(1)
    packed = (raw[rows] * mask[..., None]).astype(np.float32)
    alone = scorer.query(packed, mask, Method.P8)
    once = scorer.query(packed, mask, Method.P8).select(np.arange(3))
    once = type(once)(**{**vars(once), "rows_BL": rows})
    one, two = (scorer.score(queries, raw, valid_BK=allowed) for queries in (alone, once))
    assert one.rerank_BK[allowed].std() > 1e-3
    np.testing.assert_allclose(two.total_BK[allowed], one.total_BK[allowed], atol=1e-5)
