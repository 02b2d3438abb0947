from pathlib import Path

import numpy as np
import pytest

from models.index import IndexMismatchError, VectorIndex
from models.model import P8Model
from models.ranking import Corpus, rank_corpus
from models.scoring import Method, Scorer, best_first
from tests.synthetic import unit_rows

PRINT = {"store": 1, "checkpoint": "raw"}


@pytest.mark.parametrize(("factory", "recall"), [("Flat", 1.0), ("HNSW32,Flat", 0.97)])
def test_search_agrees_with_brute_force(
    generator: np.random.Generator, factory: str, recall: float
) -> None:
    vectors, queries = unit_rows(generator, 3000, 24), unit_rows(generator, 50, 24)
    scores, rows = VectorIndex.build(vectors, factory).search(queries, 10)
    exact = np.sort(queries @ vectors.T, axis=1)[:, ::-1]
    # Tie-aware: a row counts as found if its true score reaches the tenth best.
    true = np.take_along_axis(queries @ vectors.T, rows, axis=1)
    np.testing.assert_allclose(scores, true, atol=1e-5)
    assert (true >= exact[:, 9:10] - 1e-6).mean() >= recall


def test_fewer_rows_than_asked_for(generator: np.random.Generator) -> None:
    index = VectorIndex.build(unit_rows(generator, 3, 8))
    scores, rows = index.search(unit_rows(generator, 1, 8), 5)
    assert sorted(rows[0]) == [-1, -1, 0, 1, 2]
    assert np.isneginf(scores[0, 3:]).all()


def test_allowed_rows(generator: np.random.Generator) -> None:
    index = VectorIndex.build(unit_rows(generator, 50, 8))
    _, rows = index.search(unit_rows(generator, 2, 8), 3, np.isin(np.arange(50), [4, 9]))
    assert {tuple(sorted(line)) for line in rows.tolist()} == {(-1, 4, 9)}


def test_size_chooses_the_type(generator: np.random.Generator) -> None:
    assert VectorIndex.build(unit_rows(generator, 20_000, 2)).factory == "Flat"
    assert VectorIndex.build(unit_rows(generator, 20_001, 2)).factory == "HNSW32,Flat"


@pytest.mark.parametrize("factory", ["Flat", "HNSW32,Flat"])
def test_extending_leaves_the_first_as_it_is(generator: np.random.Generator, factory: str) -> None:
    count = 300 if factory == "Flat" else 20_100
    vectors = unit_rows(generator, count, 4)
    index = VectorIndex.build(vectors[:-50])
    assert index.factory == factory or factory != "Flat"
    more = index.extended(vectors)
    assert (index.size, more.size, more.factory) == (count - 50, count, factory)
    _, rows = more.search(vectors[-5:], 1)
    assert rows[:, 0].tolist() == list(range(count - 5, count))
    np.testing.assert_array_equal(more.vectors(), vectors)
    assert index.search(vectors[-5:], 1)[1].max() < count - 50


def test_save_and_load(tmp_path: Path, generator: np.random.Generator) -> None:
    path = tmp_path / "index.faiss"
    vectors = unit_rows(generator, 100, 8)
    index = VectorIndex.build(vectors)
    rows = np.arange(100) * 3
    index.save(path, PRINT, rows)
    again, kept = VectorIndex.load(path, PRINT)
    np.testing.assert_array_equal(kept, rows)
    np.testing.assert_array_equal(again.search(vectors, 5)[1], index.search(vectors, 5)[1])
    with pytest.raises(IndexMismatchError, match="other data or another checkpoint"):
        VectorIndex.load(path, {**PRINT, "store": 2})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IndexMismatchError, match="damaged"):
        VectorIndex.load(path, PRINT)
    with pytest.raises(IndexMismatchError, match="there is none"):
        VectorIndex.load(tmp_path / "none.faiss", PRINT)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4), np.float32), np.zeros((3, 4)), np.zeros(3)])
def test_wrong_vectors_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vectors: expected a non-empty float32 matrix"):
        VectorIndex.build(vectors)


def test_ranking_is_the_exact_order_of_what_is_retrieved(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model, order_weight=0.02)
    chunks = unit_rows(generator, 60, 16)  # fewer than the depth: everything is re-ranked
    corpus = Corpus.build(chunks, scorer)
    for method in (Method.P8, Method.DIRECT, Method.TOWER):
        queries = scorer.query(*scorer.pack([chunks[:5], chunks[9:10]]), method)
        excluded = [np.arange(5), np.array([9])]
        scores = scorer.score(queries, chunks, corpus.projected_ND).total_BK.copy()
        rankings = rank_corpus(scorer, queries, corpus, excluded, 10)
        for row, (ranking, drop) in enumerate(zip(rankings, excluded, strict=True)):
            scores[row, drop] = -np.inf
            np.testing.assert_array_equal(ranking.rows_K, best_first(scores[row : row + 1], 10)[0])
            np.testing.assert_allclose(
                ranking.scores_K, ranking.mixture_K + ranking.order_K, atol=1e-6
            )


def test_asking_for_less_never_changes_the_first(
    any_model: P8Model, generator: np.random.Generator
) -> None:
    scorer = Scorer(any_model, order_weight=0.02)
    chunks = unit_rows(generator, 500, 16)
    corpus = Corpus.build(chunks, scorer)
    queries = scorer.query(*scorer.pack([chunks[:5]]), Method.P8)
    many = rank_corpus(scorer, queries, corpus, [np.arange(5)], 64)[0]
    few = rank_corpus(scorer, queries, corpus, [np.arange(5)], 3)[0]
    np.testing.assert_array_equal(few.rows_K, many.rows_K[:3])
