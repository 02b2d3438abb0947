import numpy as np
import pytest
import torch

from models.model import P8Model
from models.scoring import Method, Scorer
from tests.synthetic import shape, walks
from training import protocols
from training.evaluation import tally_methods
from training.protocols import project_documents, window_groups, window_queries
from training.windows import document_windows

DOCUMENTS = [document[: 2 + 3 * number] for number, document in enumerate(walks(3, 12))]


def scorer() -> Scorer:
    torch.manual_seed(0)
    model = P8Model(shape(rerank=True))
    for parameter in model.p8.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Scorer(model)


@pytest.mark.parametrize("method", [Method.P8, Method.DIRECT, Method.MEAN])
def test_queries_made_together_are_those_made_alone(
    monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    judge = scorer()
    documents = project_documents(judge, DOCUMENTS)
    for together in (1, 40, 10_000):  # alone, in several groups, all at once
        monkeypatch.setattr(protocols, "QUERIES_TOGETHER", together)
        groups = list(window_groups(judge, documents, method))
        for (own, windows, queries), document in zip(groups, documents, strict=True):
            assert own is document
            alone = window_queries(judge, document, windows, method)
            assert len(windows.next_W) == len(document.raw_ND) - 1
            np.testing.assert_allclose(queries.vectors_BD, alone.vectors_BD, atol=1e-5)
            np.testing.assert_array_equal(queries.context_BLD, alone.context_BLD)
            np.testing.assert_array_equal(queries.mask_BL, windows.mask_WL)


def test_queries_from_projected_context_are_those_from_raw() -> None:
    judge = scorer()
    document = project_documents(judge, DOCUMENTS[-1:])[0]
    windows = document_windows(len(document.raw_ND), judge.window)
    ours = window_queries(judge, document, windows, Method.P8)
    raw_WLD = document.raw_ND[windows.context_WL] * windows.mask_WL[..., None]
    served = judge.query(np.asarray(raw_WLD, np.float32), windows.mask_WL, Method.P8)
    np.testing.assert_allclose(ours.vectors_BD, served.vectors_BD, atol=1e-5)
    np.testing.assert_allclose(ours.alpha_BL, served.alpha_BL, atol=1e-5)


def test_some_windows_of_a_document_are_spread_over_it() -> None:
    judge = scorer()
    documents = project_documents(judge, DOCUMENTS)
    for document, windows, queries in window_groups(judge, documents, Method.P8, 7):
        count = len(document.raw_ND)
        assert len(queries.vectors_BD) == len(windows.next_W) == min(7, count - 1)
        assert windows.next_W[0] == 1
        assert windows.next_W[-1] == count - 1
        gaps = np.diff(windows.next_W)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_tallies_of_some_windows_rank_them_as_among_all() -> None:
    judge = scorer()
    documents = project_documents(judge, DOCUMENTS[-2:])
    everything, _ = tally_methods(judge, documents, [Method.P8], classic8=False)
    most = max(len(document.raw_ND) for document in documents)
    same, _ = tally_methods(judge, documents, [Method.P8], classic8=False, most_windows=most)
    some, _ = tally_methods(judge, documents, [Method.P8], classic8=False, most_windows=5)
    whole, part = (tallies[Method.P8].in_document for tallies in (everything, some))
    assert same[Method.P8].in_document.mean("mrr@10") == whole.mean("mrr@10")
    assert part.sums("mrr@10")[1].tolist() == [5, 5]
    assert (part.sums("r@5")[0] <= whole.sums("r@5")[0]).all()
