"""What was measured is what is served: evaluation's rankings, over a real socket."""

from pathlib import Path

import numpy as np
import pytest

from models.checkpoint import load_checkpoint
from models.ranking import Corpus, rank_corpus
from models.scoring import Method, Scorer
from service.__main__ import main as service
from tests.integration.conftest import serving
from training.dataset import PreparedDataset
from training.protocols import corpus_ranks, project_documents
from training.run import split_vectors
from training.splits import documents_of
from training.windows import document_windows

WINDOWS = 200
TOP = 64
# The service runs on another number of threads than this process, and sums differ in their last
# bits; candidates whose scores are closer than this count as tied.
TIE = 5e-5


@pytest.mark.parametrize("mode", ["p8", "retrieval"])
def test_served_rankings_are_the_evaluated_ones(
    tmp_path: Path, embedded: Path, checkpoint: Path, mode: str
) -> None:
    dataset = PreparedDataset.open(embedded)
    loaded = load_checkpoint(checkpoint)
    scorer = Scorer(loaded.model, order_weight=loaded.order_weight)
    method = Method.P8 if mode == "p8" else Method.DIRECT
    documents = project_documents(scorer, split_vectors(dataset, "all"))
    corpus = Corpus.build(np.array(dataset.vectors), scorer)
    offline_ranks = list(corpus_ranks(scorer, documents, corpus, method))
    # Documents that training never saw first, then others until there are 200 windows.
    held_out = {
        doc.doc_id for split in ("test", "validation") for doc in documents_of(dataset, split)
    }
    order = sorted(range(len(documents)), key=lambda n: dataset.documents[n].doc_id not in held_out)
    assert (
        service(["index", str(embedded), "--data", str(tmp_path), "--checkpoint", str(checkpoint)])
        == 0
    )
    checked = exact = 0
    with serving("--data", tmp_path, "--checkpoint", checkpoint) as client:
        for number in order:
            entry, document = dataset.documents[number], documents[number]
            windows = document_windows(entry.count, scorer.window)
            excluded = [
                entry.start + rows[mask]
                for rows, mask in zip(windows.context_WL, windows.mask_WL, strict=True)
            ]
            for row, target in enumerate(windows.next_W):
                # One window at a time, as served: sums over a batch may differ in their last bit.
                context = document.raw_ND[windows.context_WL[row][windows.mask_WL[row]]]
                queries = scorer.query(*scorer.pack([context]), method)
                ranking = rank_corpus(scorer, queries, corpus, [excluded[row]], TOP)[0]
                ids = [f"{entry.doc_id}:{place - entry.start}" for place in excluded[row]]
                body = {"context_ids": ids, "top_k": TOP, "mode": mode}
                answer = client.post("/v1/rank", json=body).raise_for_status().json()
                assert answer["mode"] == mode
                served = [(hit["document_id"], hit["position"]) for hit in answer["results"]]
                expected = [_name(dataset, place) for place in ranking.rows_K]
                scores = np.array([hit["score"] for hit in answer["results"]])
                np.testing.assert_allclose(scores, ranking.scores_K, atol=TIE)
                exact += served == expected
                known = dict(zip(expected, ranking.scores_K, strict=True))
                least = ranking.scores_K[-1]  # as good as the best that was not retrieved
                for name, score in zip(served, ranking.scores_K, strict=True):
                    # The same place, but for ties.
                    assert abs(known.get(name, least) - score) <= TIE
                name = (entry.doc_id, int(target))
                rank = served.index(name) + 1 if name in served else np.inf
                evaluated = offline_ranks[number][row]
                if rank != evaluated and min(rank, evaluated) <= 50:  # no metric looks further
                    places = [int(min(place, TOP)) - 1 for place in (rank, evaluated)]
                    assert abs(scores[places[0]] - scores[places[1]]) <= TIE
                checked += 1
                if checked == WINDOWS:
                    assert exact >= 0.95 * WINDOWS
                    return
    raise AssertionError(f"only {checked} windows")


def _name(dataset: PreparedDataset, row: int) -> tuple[str, int]:
    document = next(d for d in dataset.documents if d.start <= row < d.start + d.count)
    return document.doc_id, row - document.start
