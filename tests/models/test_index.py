from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.index import IndexKind, VectorIndex
from models.index.kinds import choose, needed_bytes
from models.index.tuning import Truth
from models.model import P8Model
from models.ranking import Corpus, rank_corpus
from models.scoring import Method, Scorer, best_first
from tests.synthetic import unit_rows

KINDS = list(IndexKind)
LISTED = [IndexKind.IVF_SQ8, IndexKind.IVF_RABITQ]


def near_rows(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Unit vectors that lie about a few places, as real ones do."""
    places = unit_rows(np.random.default_rng(5), 40, dimension)
    rows = places[generator.integers(0, 40, count)] + 0.7 * unit_rows(generator, count, dimension)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def recall(found: np.ndarray, true_scores: np.ndarray, k: int = 10) -> float:
    """Tie-aware: a row counts as found if its true score reaches the k-th best."""
    kth = np.sort(true_scores, axis=1)[:, ::-1][:, k - 1 : k]
    return float((np.take_along_axis(true_scores, found, axis=1) >= kth - 1e-6).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_search_agrees_with_brute_force(generator: np.random.Generator, kind: IndexKind) -> None:
    vectors, queries = near_rows(generator, 3000, 32), near_rows(generator, 50, 32)
    index = VectorIndex.build(vectors, kind)
    scores, rows = index.search(queries, 10)
    true = queries @ vectors.T
    assert (str(scores.dtype), str(rows.dtype), index.kind) == ("float32", "int64", kind)
    np.testing.assert_allclose(scores, np.take_along_axis(true, rows, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall(rows, true) >= 0.95


def test_lists_without_fine_codes_are_refined_from_the_vectors(
    generator: np.random.Generator,
) -> None:
    vectors, queries = near_rows(generator, 3000, 32), near_rows(generator, 50, 32)
    lean = VectorIndex.build(vectors, "ivf_rabitq", budget_bytes=120_000)
    full = VectorIndex.build(vectors, "ivf_rabitq")
    assert (lean.facts()["fine"], full.facts()["fine"]) == (False, True)
    assert lean.facts()["memory_bytes"] <= 120_000 < full.facts()["memory_bytes"]
    assert recall(lean.search(queries, 10)[1], queries @ vectors.T) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_rows_than_asked_for(generator: np.random.Generator, kind: IndexKind) -> None:
    index = VectorIndex.build(unit_rows(generator, 3, 8), kind)
    scores, rows = index.search(unit_rows(generator, 1, 8), 5)
    assert sorted(rows[0]) == [-1, -1, 0, 1, 2]
    assert np.isneginf(scores[0, 3:]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.01])
def test_allowed_rows(generator: np.random.Generator, kind: IndexKind, share: float) -> None:
    vectors, queries = near_rows(generator, 3000, 32), near_rows(generator, 40, 32)
    allowed = generator.random(3000) < share
    index = VectorIndex.build(vectors, kind)
    rows = index.search(queries, 10, allowed, effort=4)[1]
    assert allowed[rows].all()
    assert recall(rows, np.where(allowed, queries @ vectors.T, -2.0)) >= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_allowed(generator: np.random.Generator, kind: IndexKind) -> None:
    index = VectorIndex.build(unit_rows(generator, 300, 8), kind)
    scores, rows = index.search(unit_rows(generator, 2, 8), 3, np.zeros(300, bool))
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


@pytest.mark.parametrize("kind", LISTED)
def test_more_effort_looks_into_more_lists(generator: np.random.Generator, kind: IndexKind) -> None:
    vectors, queries = unit_rows(generator, 4000, 32), unit_rows(generator, 60, 32)
    index = VectorIndex.build(vectors, kind, target=0.3)
    true = queries @ vectors.T
    narrow, wide = (recall(index.search(queries, 10, effort=n)[1], true) for n in (1, 64))
    assert narrow < wide - 0.2
    assert wide > 0.95


def test_size_chooses_the_type(generator: np.random.Generator) -> None:
    assert VectorIndex.build(unit_rows(generator, 20_000, 2)).kind == "flat"
    assert choose(20_001, 384, None) == (IndexKind.HNSW, True)
    assert choose(200_000, 384, None) == (IndexKind.HNSW, True)
    assert choose(200_001, 384, None) == (IndexKind.IVF_RABITQ, True)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (2**30, (IndexKind.IVF_RABITQ, True)),
        (425_000_000, (IndexKind.IVF_SQ8, True)),
        (100_000_000, (IndexKind.IVF_RABITQ, False)),
    ],
)
def test_a_budget_chooses_the_type(budget: int, expected: tuple[IndexKind, bool]) -> None:
    kind, fine = choose(1_000_000, 384, budget)
    assert (kind, fine) == expected
    assert needed_bytes(kind, 1_000_000, 384, fine=fine) <= budget


def test_a_budget_that_is_too_small_is_refused(generator: np.random.Generator) -> None:
    vectors = unit_rows(generator, 1000, 8)
    with pytest.raises(ValueError, match=r"budget_bytes: expected at least \d+ for 1000 .* got 9"):
        VectorIndex.build(vectors, budget_bytes=9)
    with pytest.raises(ValueError, match="budget_bytes: expected at least 32000"):
        VectorIndex.build(vectors, "flat", budget_bytes=31_999)
    assert VectorIndex.build(vectors, "flat", budget_bytes=32_000).kind == "flat"


def test_an_unknown_kind_is_refused(generator: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of flat, hnsw, .* got 'HNSW32,Flat'"):
        VectorIndex.build(unit_rows(generator, 5, 4), "HNSW32,Flat")


@pytest.mark.parametrize("target", [0.0, 1.1])
def test_a_target_that_is_no_recall_is_refused(
    generator: np.random.Generator, target: float
) -> None:
    with pytest.raises(ValueError, match=f"target: expected a recall .* got {target}"):
        VectorIndex.build(unit_rows(generator, 5, 4), target=target)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4), np.float32), np.zeros((3, 4)), np.zeros(3)])
def test_wrong_vectors_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vectors: expected a non-empty float32 matrix"):
        VectorIndex.build(vectors)


def test_truth_is_what_brute_force_finds(generator: np.random.Generator) -> None:
    vectors = unit_rows(generator, 700, 16)
    truth = Truth(vectors)
    for start in range(0, 700, 90):
        truth.see(start, vectors[start : start + 90])
    scores = truth.query_BD @ vectors.T
    scores[np.arange(len(scores)), truth.own_B] = -2
    best = np.argsort(-scores, axis=1)
    assert truth.recall(best[:, :10]).mean == 1.0
    assert truth.recall(np.column_stack([truth.own_B, best[:, :10]])).mean == 1.0
    assert truth.recall(best[:, 5:15]).mean == pytest.approx(0.5)
    assert truth.recall(best[:, 5:15]).lower == pytest.approx(0.5)
    assert truth.recall(best[::-1, :10]).mean < 0.2


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_recall_that_is_told_was_measured(
    generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = unit_rows(generator, 3000, 24)
    told = {}
    for target in (0.6, 0.95):
        index = VectorIndex.build(vectors, kind, target=target)
        facts = index.facts()
        truth = Truth(vectors)
        truth.see(0, vectors)
        measured = truth.recall(index.search(truth.query_BD, 11)[1])
        assert facts["recall_at_10"] == pytest.approx(measured.mean, abs=0.01)
        assert facts["recall_at_10"] >= facts["recall_at_least"] >= target
        assert (facts["recall_target"], facts["recall_queries"]) == (target, 480)
        told[target] = facts
    if kind in LISTED:
        assert told[0.6]["probes"] < told[0.95]["probes"] <= told[0.95]["lists"]


@pytest.mark.parametrize("kind", KINDS)
def test_extending_leaves_the_first_as_it_is(
    generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = near_rows(generator, 1000, 16)
    index = VectorIndex.build(vectors[:-50], kind)
    before = index.search(vectors[-5:], 3)
    more = index.extended(vectors)
    assert (index.size, more.size, more.kind) == (950, 1000, kind)
    assert more.search(vectors[-5:], 1)[1][:, 0].tolist() == list(range(995, 1000))
    assert more.search(vectors[:5], 1)[1][:, 0].tolist() == list(range(5))
    allowed = np.arange(1000) % 2 == 1
    assert more.search(vectors[-5:], 1, allowed)[1][::2, 0].tolist() == [995, 997, 999]
    for was, now in zip(before, index.search(vectors[-5:], 3), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("kind", LISTED)
def test_lists_are_built_anew_when_they_have_grown_by_a_quarter(
    generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = near_rows(generator, 2000, 16)
    index = VectorIndex.build(vectors[:1000], kind)
    tailed = index.extended(vectors[:1100]).extended(vectors[:1250])
    anew = tailed.extended(vectors[:1251])
    assert (tailed.facts()["parts"], anew.facts()["parts"]) == ([1000, 250], [1251])
    assert tailed.facts()["recall_measured_at_size"] == 1000
    assert anew.facts()["recall_measured_at_size"] == 1251
    assert anew.facts()["kind"] == kind


def test_growing_into_another_size_changes_the_type(generator: np.random.Generator) -> None:
    vectors = unit_rows(generator, 20_001, 2)
    assert VectorIndex.build(vectors[:20_000]).extended(vectors).kind == "hnsw"


def test_progress_is_told_to_the_end(generator: np.random.Generator) -> None:
    told: list[tuple[str, int, int]] = []
    vectors = unit_rows(generator, 3000, 8)
    VectorIndex.build(vectors, "ivf_sq8", progress=lambda *one: told.append(one))
    assert list(dict.fromkeys(one[0] for one in told)) == ["train", "add", "tune"]
    assert ("add", 3000, 3000) in told
    assert told[-1][1] == told[-1][2]


def test_facts_can_be_written_as_json(tmp_path: Path, generator: np.random.Generator) -> None:
    import json

    facts: dict[str, Any] = VectorIndex.build(unit_rows(generator, 500, 8), "ivf_rabitq").facts()
    assert json.loads(json.dumps(facts)) == facts


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


def test_given_queries_set_the_width(generator: np.random.Generator) -> None:
    vectors, hard = near_rows(generator, 3000, 32), unit_rows(generator, 200, 32)
    # One that lies between the lists needs more of them than one beside a vector.
    made = VectorIndex.build(vectors, IndexKind.IVF_SQ8).facts()
    given = VectorIndex.build(vectors, IndexKind.IVF_SQ8, query_BD=hard).facts()
    assert (made["recall_queries"], given["recall_queries"]) == (480, 200)
    assert given["probes"] > made["probes"]
    assert given["recall_at_least"] >= given["recall_target"]
