"""``/v1/rank`` and ``/v1/score`` over a real socket, against an obvious re-computation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.checkpoint import load_checkpoint
from models.scoring import Method, Scorer
from service.client import encode_vector

from .conftest import COUNTS, DIMENSION, Live, live, unit_rows

IDS = [f"{doc_id}:{place}" for doc_id, count in COUNTS.items() for place in range(count)]
RAW_ND = unit_rows(len(IDS), 1)
ROW = {chunk_id: row for row, chunk_id in enumerate(IDS)}


@pytest.fixture(scope="module")
def scorer(checkpoint: Path) -> Scorer:
    loaded = load_checkpoint(checkpoint)
    return Scorer(loaded.model, order_weight=loaded.order_weight)


def _expected(
    scorer: Scorer, context_LD: np.ndarray, allowed: list[str], method: Method = Method.P8
) -> list[tuple[str, float]]:
    """Score every allowed chunk on its own, and sort."""
    queries = scorer.query(*scorer.pack([context_LD]), method)
    scored = [
        (one, float(scorer.score(queries, RAW_ND[ROW[one]][None, None]).total_BK[0, 0]))
        for one in allowed
    ]
    return sorted(scored, key=lambda pair: -pair[1])


def _ranked(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(result["id"], result["score"]) for result in answer["results"]]


def _check(answer: dict[str, Any], expected: list[tuple[str, float]], top_k: int = 10) -> None:
    expected = expected[:top_k]
    assert [one for one, _ in _ranked(answer)] == [one for one, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in _ranked(answer)], [score for _, score in expected], atol=1e-5
    )


@pytest.mark.parametrize("length", [1, 3, 5])
def test_by_ids(service: Live, scorer: Scorer, length: int) -> None:
    window = IDS[12 : 12 + length]
    answer = service.ok("/v1/rank", {"context_ids": window, "top_k": 7})
    rows = [ROW[one] for one in window]
    allowed = [one for one in IDS if one not in window]
    _check(answer, _expected(scorer, RAW_ND[rows], allowed), 7)
    assert (answer["mode"], answer["fallback_reason"]) == ("p8", None)
    assert answer["model"]["method"] == "p8"
    assert answer["model"]["space"] == "learned"
    assert answer["model"]["gate"] == "passed"
    assert answer["index_version"] == 1
    assert len(answer["alpha"]) == length
    assert sum(answer["alpha"]) == pytest.approx(1.0, abs=1e-6)
    assert {"decode", "query", "search", "rerank", "encode"} <= answer["timings_ms"].keys()


def test_results_carry_their_chunk(service: Live) -> None:
    body = {"context_ids": ["delta:0"], "top_k": 47}
    results = service.ok("/v1/rank", body)["results"]
    assert sorted(result["id"] for result in results) == sorted(set(IDS) - {"delta:0"})
    for result in results:
        document_id, _, position = result["id"].rpartition(":")
        assert result["document_id"] == document_id
        assert result["position"] == int(position)
        assert result["text"] == f"Chunk {position} of {document_id}: größer."
        assert result["metadata"]["title"] == f"About {document_id}"
        mixture, order, rerank = (np.float32(part) for part in result["parts"].values())
        assert mixture + order + rerank == np.float32(result["score"])
        assert "candidate" not in result


def test_vectors_equal_ids_and_base64_equals_numbers(service: Live) -> None:
    window = ["alpha:3", "alpha:4", "alpha:5"]
    context = [RAW_ND[ROW[one]] for one in window]
    same = {"exclude_ids": window, "top_k": 20}
    by_ids = service.ok("/v1/rank", {"context_ids": window, **same})
    by_numbers = service.ok("/v1/rank", {"context": [v.tolist() for v in context], **same})
    by_base64 = service.ok("/v1/rank", {"context": [encode_vector(v) for v in context], **same})
    mixed = service.ok(
        "/v1/rank", {"context": [context[0].tolist(), *map(encode_vector, context[1:])], **same}
    )
    for answer in (by_numbers, by_base64, mixed):
        assert answer["results"] == by_ids["results"]
        assert answer["alpha"] == by_ids["alpha"]


def test_length_does_not_matter(service: Live, scorer: Scorer) -> None:
    context_LD = np.random.default_rng(9).normal(size=(2, DIMENSION)).astype(np.float32) * 30
    answer = service.ok("/v1/rank", {"context": context_LD.tolist()})
    unit_LD = context_LD / np.linalg.norm(context_LD, axis=1, keepdims=True)
    _check(answer, _expected(scorer, unit_LD, IDS))


def test_retrieval_is_cosine_to_the_last_chunk(service: Live) -> None:
    body = {"context_ids": ["alpha:0", "alpha:1"], "mode": "retrieval"}
    answer = service.ok("/v1/rank", body)
    cosines_N = RAW_ND @ RAW_ND[1]
    best = [IDS[row] for row in np.argsort(-cosines_N) if row not in (0, 1)]
    assert [result["id"] for result in answer["results"]] == best[:10]
    assert (answer["mode"], answer["fallback_reason"]) == ("retrieval", None)
    assert answer["model"]["space"] == "raw"
    assert answer["model"]["version"] is None
    assert answer["alpha"] == [0.0, 1.0]
    assert all(result["parts"]["order"] == 0 for result in answer["results"])


def test_filter_and_exclusions(service: Live, scorer: Scorer) -> None:
    answer = service.ok(
        "/v1/rank",
        {
            "context_ids": ["alpha:0", "alpha:1"],
            "filter": {"document_ids": ["alpha", "x/y:z", "unheard-of"]},
            "exclude_ids": ["alpha:2", "x/y:z:0", "unheard-of:1"],
            "top_k": 1000,
        },
    )
    gone = {"alpha:0", "alpha:1", "alpha:2", "x/y:z:0"}
    allowed = [one for one in IDS if one.startswith(("alpha", "x/")) and one not in gone]
    _check(answer, _expected(scorer, RAW_ND[:2], allowed), 1000)
    body = {"context_ids": ["alpha:0"], "filter": {"document_ids": ["unheard-of"]}}
    assert service.ok("/v1/rank", body)["results"] == []
    body = {"context_ids": ["alpha:0"], "exclude_ids": IDS}
    assert service.ok("/v1/rank", body)["results"] == []


def test_fewer_results_are_the_same_results(service: Live) -> None:
    many = service.ok("/v1/rank", {"context_ids": ["beta:4"], "top_k": 40})
    few = service.ok("/v1/rank", {"context_ids": ["beta:4"], "top_k": 3})
    assert few["results"] == many["results"][:3]


def test_explain_adds_what_retrieval_would_have_answered(service: Live) -> None:
    body = {"context_ids": ["beta:4"], "filter": {"document_ids": ["beta"]}, "top_k": 4}
    explained = service.ok("/v1/rank", {**body, "explain": True})
    plain = service.ok("/v1/rank", body)
    retrieval = service.ok("/v1/rank", {**body, "mode": "retrieval"})
    assert explained["results"] == plain["results"]
    assert explained["explain"] == {"method": "direct", "results": retrieval["results"]}
    assert "explain" not in plain


def test_explicit_candidates(service: Live, scorer: Scorer) -> None:
    vector_D = unit_rows(1, 77)[0]
    candidates = [
        {"id": "delta:3"},
        {"vector": vector_D.tolist()},
        {"id": "alpha:0"},
        {"id": "mine", "vector": encode_vector(RAW_ND[ROW["delta:4"]])},
        {"id": "delta:5"},
    ]
    body = {"context_ids": ["alpha:0", "alpha:1"], "candidates": candidates}
    ranked = service.ok("/v1/rank", {**body, "exclude_ids": ["delta:5"]})
    scored = service.ok("/v1/score", body)
    assert [result["candidate"] for result in scored["results"]] == [0, 1, 2, 3, 4]
    assert [result["id"] for result in scored["results"]] == [
        "delta:3",
        None,
        "alpha:0",
        "mine",
        "delta:5",
    ]
    by_place = {result["candidate"]: result for result in scored["results"]}
    # The window's own chunk and the excluded one are not results; nothing else differs.
    best = sorted((0, 1, 3), key=lambda place: -by_place[place]["score"])
    assert ranked["results"] == [by_place[place] for place in best]
    assert by_place[1]["text"] is by_place[3]["document_id"] is None
    assert by_place[0]["position"] == 3
    expected = dict(_expected(scorer, RAW_ND[:2], ["delta:3", "delta:4"]))
    assert by_place[0]["score"] == pytest.approx(expected["delta:3"], abs=1e-5)
    assert by_place[3]["score"] == pytest.approx(expected["delta:4"], abs=1e-5)
    assert len(service.ok("/v1/rank", {**body, "top_k": 2})["results"]) == 2


def test_equal_scores_keep_their_order(service: Live) -> None:
    vector = unit_rows(1, 5)[0].tolist()
    candidates = [{"id": name, "vector": vector} for name in "zyxw"]
    answer = service.ok("/v1/rank", {"context_ids": ["alpha:0"], "candidates": candidates})
    assert [result["id"] for result in answer["results"]] == list("zyxw")


@pytest.mark.parametrize("mode", ["p8", "retrieval"])
def test_score_agrees_with_rank(service: Live, mode: str) -> None:
    body = {"context_ids": ["alpha:0", "alpha:1"], "mode": mode}
    ranked = service.ok("/v1/rank", {**body, "top_k": 46})["results"]
    candidates = [{"id": result["id"]} for result in ranked]
    scored = service.ok("/v1/score", {**body, "candidates": candidates})["results"]
    np.testing.assert_allclose(
        [result["score"] for result in scored], [result["score"] for result in ranked], atol=1e-5
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same ids, and scores to within what a batch may change."""
    assert [hit["id"] for hit in one["results"]] == [hit["id"] for hit in other["results"]]
    for part in ("mixture", "order", "rerank"):
        np.testing.assert_allclose(
            [hit["parts"][part] for hit in one["results"]],
            [hit["parts"][part] for hit in other["results"]],
            atol=1e-5,
        )
    np.testing.assert_allclose(one["alpha"], other["alpha"], atol=1e-5)
    for member in ("mode", "fallback_reason", "model", "index_version"):
        assert one[member] == other[member]


QUERIES: list[dict[str, Any]] = [
    *({"context_ids": [one], "top_k": 5} for one in IDS[:12]),
    *({"context_ids": IDS[at : at + 4], "mode": "retrieval"} for at in range(12, 18)),
    *({"context_ids": [one], "rerank": False} for one in IDS[20:24]),
    *({"context_ids": [one], "filter": {"document_ids": ["delta"]}} for one in IDS[:4]),
    {"context_ids": IDS[:2], "max_per_document": 1, "top_k": 3},
    {"context_ids": IDS[:1], "exclude_ids": IDS[1:40]},
    {"context_ids": IDS[:3], "candidates": [{"id": "delta:3"}, {"id": "beta:0"}]},
    {"context_at": {"document_id": "delta", "position": 9}, "only_unseen": True, "top_k": 48},
]


def test_many_at_once_get_what_each_would_get_alone(data: Path, checkpoint: Path) -> None:
    with live(data, checkpoint) as running, ThreadPoolExecutor(16) as pool:
        alone = [running.ok("/v1/rank", query) for query in QUERIES]
        together = list(pool.map(lambda query: running.ok("/v1/rank", query), QUERIES * 4))
    for place, answer in enumerate(together):
        _same(answer, alone[place % len(QUERIES)])


def test_a_batch_of_queries_is_its_queries_one_by_one(service: Live) -> None:
    answers = service.ok("/v1/rank", {"queries": QUERIES})["answers"]
    for query, answer in zip(QUERIES, answers, strict=True):
        _same(answer, service.ok("/v1/rank", query))


def test_one_mistake_rejects_the_batch_and_is_located(service: Live) -> None:
    queries = [{"context_ids": ["alpha:0"]}, {"context_ids": ["alpha:0", "nowhere"]}]
    response = service.post("/v1/rank", {"queries": queries})
    assert response.status_code == 422
    assert response.json()["field"] == "queries.1.context_ids.1"


def test_looking_things_up(service: Live) -> None:
    chunk = service.http.get("/v1/chunks/x%2Fy%3Az%3A6").json()
    assert (chunk["id"], chunk["position"]) == ("x/y:z:6", 6)
    assert service.http.get("/v1/chunks/x/y:z:6").json() == chunk
    page = service.http.get("/v1/documents?limit=2&offset=1").json()
    assert page == {
        "total": 4,
        "documents": [
            {"id": "beta", "title": "About beta", "chunks": 9},
            {"id": "x/y:z", "title": "About x/y:z", "chunks": 7},
        ],
    }
    document = service.http.get("/v1/documents/x/y:z").json()
    assert [one["position"] for one in document["content"]] == list(range(7))
    assert document["content"][6] == chunk
    model = service.http.get("/v1/model").json()
    assert (model["window"], model["dimension"], model["space"]) == (5, DIMENSION, "learned")
    assert model["indexes"]["learned"]["size"] == len(IDS)
    assert model["gate"]["verdict"] == "passed"
    assert service.http.get("/livez").json() == {"status": "alive"}


def test_timings_and_request_ids_travel(service: Live) -> None:
    response = service.http.post(
        "/v1/rank", json={"context_ids": ["alpha:0"]}, headers={"X-Request-ID": "my-id.1"}
    )
    assert response.headers["X-Request-ID"] == "my-id.1"
    assert "query;dur=" in response.headers["Server-Timing"]
    for bad in ("a b", "x" * 65, ""):
        response = service.http.get("/livez", headers={"X-Request-ID": bad})
        assert len(response.headers["X-Request-ID"]) == 32
