"""What every backend must do alike, over the real API of a running service.

A module that runs it has a fixture ``backend`` (module scope), subclasses of ``AskContract`` and
``WriteContract`` and, if several services may use one store of that backend, of
``ReplicaContract``. It imports the fixtures ``asked`` and ``written`` with them.

Shapes: D dimension.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from .conftest import DIMENSION, Live, live, unit_rows, write_checkpoint
from .contract_data import (
    CONDITIONS,
    ODD_IDS,
    POSITIONS,
    READ,
    TWINS,
    Chunk,
    agree,
    asked_chunks,
    best,
    eventually,
)
from .test_filters import any_filter, passes

BATCH = 64
FLOAT32 = {"Accept": "application/octet-stream"}
MODELS = ("default", "raw", "rerank")


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A place where chunks are kept."""

    name: str
    store: Callable[[], AbstractContextManager[dict[str, Any]]]
    """Makes an empty store: settings of a service that uses it, among them its data folder."""
    settles_s: float = 5.0
    """Seconds after which counts have caught up."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A service on the backend, an embedded one with the same chunks, and those chunks."""

    here: Live
    reference: Live
    chunks: list[Chunk]
    vectors: dict[str, np.ndarray]
    """Of each chunk, by its id."""

    def rank(self, **body: Any) -> list[dict[str, Any]]:
        """Results of one question."""
        return list(self.here.ok("/v1/rank", body)["results"])

    def both(self, path: str, body: Any) -> Iterator[tuple[Any, Any]]:
        """Answers of both services to each question of a batch."""
        one, other = (running.ok(path, body) for running in (self.here, self.reference))
        return zip(one["answers"], other["answers"], strict=True)

    def names(self, *documents: str) -> set[str]:
        """Chunks of some documents."""
        return {one["id"] for one in self.chunks if one["document_id"] in documents}


@contextmanager
def served(options: dict[str, Any], checkpoint: Path | None, **more: Any) -> Iterator[Live]:
    """Run a service on a store."""
    given = {**options, **more}
    with live(given.pop("data"), checkpoint, in_place=True, **given) as running:
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint in a space of its own, one in the raw space, and one with a re-ranker."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "default": write_checkpoint(folder / "default"),
        "raw": write_checkpoint(folder / "raw", space="raw", seed=8),
        "rerank": write_checkpoint(folder / "rerank", rerank=True, seed=9),
    }


@pytest.fixture(scope="module")
def asked(
    backend: Backend, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asked]:
    """Services that are only asked."""
    more = {"more_checkpoints": ",".join(f"{name}={models[name]}" for name in MODELS[1:])}
    more["deadline_ms"] = 20_000
    embedded = {"data": tmp_path_factory.mktemp("reference") / "data"}
    chunks, vectors = asked_chunks()
    with ExitStack() as stack:
        options = stack.enter_context(backend.store())
        here = stack.enter_context(served(options, models["default"], **more))
        reference = stack.enter_context(served(embedded, models["default"], **more))
        for running in (here, reference):
            for start in range(0, len(chunks), 100):
                body = {"chunks": chunks[start : start + 100]}
                response = running.http.put("/v1/chunks", json=body)
                assert response.status_code == 200, response.text
        yield Asked(here=here, reference=reference, chunks=chunks, vectors=vectors)


@pytest.fixture(scope="module")
def written(backend: Backend, models: dict[str, Path]) -> Iterator[Live]:
    """A service that is written to; each test has documents of its own."""
    with backend.store() as options, served(options, models["default"]) as running:
        yield running


QUESTIONS: list[dict[str, Any]] = [
    {"context_ids": ["alpha:3"]},
    {"context_ids": ["alpha:2", "alpha:3", "beta:1"], "top_k": 25},
    {"context_ids": ["r1", "o'1", 'o"2', "o\\3", "o😀4"], "contents": False},
    {"context_ids": ["delta:4", "delta:5"], "mode": "p8", "rerank": False},
    {"context_ids": ["delta:4", "delta:5"], "mode": "retrieval", "explain": True},
    {"context_at": {"document_id": "delta", "position": 7}},
    {"context_at": {"document_id": "x/y:z", "position": -5}, "top_k": 3},
    {"context_at": {"document_id": "delta", "position": 25}, "only_unseen": True, "top_k": 60},
    {"context_ids": ["alpha:11"], "only_unseen": True, "filter": {"document_ids": ["alpha"]}},
    {"context_ids": ["beta:4"], "exclude_ids": ["r7", "nowhere", "o'1", "o/5/6", "beta:4"]},
    {"context_ids": ["beta:4"], "exclude_ids": [f"r{n}" for n in range(500)], "top_k": 70},
    {"context_ids": ["beta:4"], "max_per_document": 1, "top_k": 12},
    {"context_ids": ["beta:4"], "max_per_document": 2, "top_k": 30, "mode": "retrieval"},
    {"context_ids": ["beta:4"], "max_per_document": 1, "filter": {"document_ids": ["d1", "d2"]}},
    {"context_ids": ["beta:4"], "filter": {"document_ids": ["beta", "nowhere"]}, "top_k": 99},
    {"context_ids": ["beta:4"], "filter": {"document_ids": ["nowhere"]}},
    {"context_ids": ["r1"], "filter": {"position": {"gte": 2, "lt": 5}}, "top_k": 20},
    {"context_ids": ["r1"], "filter": {"metadata": {"section": {"in": ["Part 0", "Part 2"]}}}},
    {
        "context_ids": ["alpha:0", "alpha:1"],
        "filter": {"document_ids": ["delta"], "metadata": {"title": "About delta"}},
        "exclude_ids": ["delta:2"],
        "only_unseen": True,
        "max_per_document": 4,
    },
    {"context_ids": ["alpha:0"], "candidates": [{"id": "delta:3"}, {"id": "o😀4"}, {"id": "r3"}]},
    {
        "context_ids": ["alpha:0", "alpha:1"],
        "candidates": [
            {"id": "delta:3"},
            {"vector": unit_rows(1, 50)[0].tolist()},
            {"id": "mine", "vector": unit_rows(1, 51)[0].tolist()},
            {"id": "alpha:0"},
            {"id": "delta:4"},
        ],
        "exclude_ids": ["nowhere", "delta:4"],
    },
]


class AskContract:
    """What every backend must do alike."""

    @pytest.mark.parametrize("model", MODELS)
    def test_ranks_are_those_of_the_embedded_one(self, asked: Asked, model: str) -> None:
        queries = [{**query, "model": model} for query in QUESTIONS]
        vectors = {"context": unit_rows(3, 52).tolist(), "model": model, "top_k": 30}
        queries += [{**vectors, "mode": mode} for mode in ("auto", "p8", "retrieval")]
        if model == "rerank":
            # It sees one twin as the other's neighbour, whichever comes first.
            queries = [
                {**one, "exclude_ids": [*one.get("exclude_ids", []), *TWINS]} for one in queries
            ]
        for query, (one, other) in zip(
            queries, asked.both("/v1/rank", {"queries": queries}), strict=True
        ):
            assert one.keys() == other.keys(), query
            for member in ("mode", "fallback_reason", "model"):
                assert one[member] == other[member], query
            np.testing.assert_allclose(one["alpha"], other["alpha"], atol=1e-5)
            agree(one["results"], other["results"])
            if "explain" in other:
                assert one["explain"]["method"] == other["explain"]["method"]
                agree(one["explain"]["results"], other["explain"]["results"])

    def test_one_by_one_they_are_the_same(self, asked: Asked) -> None:
        some = QUESTIONS[::5]
        answers = asked.here.ok("/v1/rank", {"queries": some})["answers"]
        for query, answer in zip(some, answers, strict=True):
            agree(asked.rank(**query), answer["results"])

    def test_retrieval_is_brute_force(self, asked: Asked) -> None:
        for query_D in unit_rows(3, 53):
            body = {"context": [query_D.tolist()], "mode": "retrieval", "contents": False}
            found = asked.rank(**body, top_k=40)
            every = {one["id"] for one in asked.chunks}
            expected = best(asked.vectors, query_D, every)
            assert [one["score"] for one in found] == pytest.approx(
                [one["score"] for one in expected[:40]], abs=1e-5
            )
            by_name = {one["id"]: one["score"] for one in expected}
            for one in found:
                assert one["score"] == pytest.approx(by_name[one["id"]], abs=1e-5)

    def test_more_is_asked_than_there_is(self, asked: Asked) -> None:
        body = {"context_ids": ["beta:4"], "top_k": 1000, "mode": "retrieval"}
        found = [one["id"] for one in asked.rank(**body)]
        assert len(found) == len(asked.chunks) - 1
        assert {*found, "beta:4"} == {one["id"] for one in asked.chunks}
        body = {**body, "filter": {"document_ids": ["alpha"]}, "exclude_ids": ["alpha:3"]}
        assert {one["id"] for one in asked.rank(**body)} == asked.names("alpha") - {"alpha:3"}

    def test_what_was_read_is_left_out(self, asked: Asked) -> None:
        at = {"context_at": {"document_id": "alpha", "position": 13}, "only_unseen": True}
        found = asked.rank(**at, filter={"document_ids": ["alpha", "beta"]}, top_k=100)
        expected = asked.names("alpha", "beta") - {f"alpha:{place}" for place in range(7)}
        assert {one["id"] for one in found} == expected

    @pytest.mark.parametrize("kind", ["metadata", "position", "random"])
    def test_filters_are_exact(self, asked: Asked, kind: str) -> None:
        rng = random.Random(5)
        filters = {
            "metadata": [{"metadata": one} for one in CONDITIONS],
            "position": [{"position": one} for one in POSITIONS],
            "random": [any_filter(rng, 6) for _ in range(40)],
        }[kind]
        base = {"context_ids": ["alpha:0"], "mode": "retrieval", "top_k": 1000, "contents": False}
        queries = [{**base, "filter": one} for one in filters]
        answers = asked.here.ok("/v1/rank", {"queries": queries})["answers"]
        some = 0
        for given, answer in zip(filters, answers, strict=True):
            found = {one["id"] for one in answer["results"]}
            allowed = [one for one in asked.chunks if passes({"metadata": {}, **one}, given)]
            expected = {one["id"] for one in allowed} - {"alpha:0"}
            assert found == expected, (given, found ^ expected)
            assert len(answer["results"]) == len(found)
            some += bool(expected)
        assert some > len(filters) / 3

    def test_filters_as_the_documentation_puts_it(self, asked: Asked) -> None:
        def found(**conditions: Any) -> set[str]:
            wanted = {"document_ids": ["odd"], "metadata": conditions}
            results = asked.rank(context_ids=["alpha:0"], filter=wanted, top_k=100)
            return {one["id"] for one in results}

        assert found(n={"gt": 2, "lt": 5}) == {"m1", "m2", "m3", "m9"}
        assert found(n=3) == {"m1", "m2", "m3"}
        assert found(n="3") == {"m4"}
        assert found(n=1) == {"m0", "m1", "m6"}
        assert found(n=True) == {"m5"}
        assert found(n=0) == {"m14", "m15"}

    def test_a_chunk_reads_back(self, asked: Asked) -> None:
        by_name = {one["id"]: one for one in asked.chunks}
        # No path holds a line feed, so that chunk cannot be asked for by name.
        odd = [name for name in ODD_IDS if "\n" not in name]
        for name in [*odd, "m20", "m31", "m35", "e0", "e6", "x/y:z:6"]:
            given, path = by_name[name], f"/v1/chunks/{quote(name, safe='/:')}"
            raw = asked.here.http.get(path, params={"vector": "true"}, headers=FLOAT32)
            assert raw.status_code == 200, name
            assert raw.content == asked.vectors[name].tobytes(), name
            found = asked.here.http.get(path).json()
            reference = asked.reference.http.get(path).json()
            assert found == reference
            assert found["metadata"] == given.get("metadata", {})
            assert (found["id"], found["position"]) == (name, given["position"])

    def test_documents_read_back(self, asked: Asked) -> None:
        for name in ("delta", "x/y:z", "odd", "edges"):
            one = asked.here.http.get(f"/v1/documents/{name}?vectors=true").json()
            assert one == asked.reference.http.get(f"/v1/documents/{name}?vectors=true").json()
            positions = [each["position"] for each in one["content"]]
            assert positions == sorted(positions)
        for kind in ("document", "chunk"):
            response = asked.here.http.get(f"/v1/{kind}s/nowhere")
            assert (response.status_code, response.json()["code"]) == (404, f"{kind}_not_found")

    def test_documents_are_listed_in_pages(self, asked: Asked) -> None:
        def page(running: Live, limit: int, offset: int) -> dict[str, Any]:
            asking = {"limit": limit, "offset": offset}
            return dict(running.http.get("/v1/documents", params=asking).json())

        expected = page(asked.reference, 1000, 0)
        counts = {one["id"]: one for one in expected["documents"]}
        eventually(lambda: page(asked.here, 1, 0)["total"] == expected["total"])
        pages = [page(asked.here, 7, offset) for offset in range(0, len(counts) + 7, 7)]
        assert {one["total"] for one in pages} == {len(counts)}
        listed = [one for each in pages for one in each["documents"]]
        assert len(listed) == len(counts)
        assert {one["id"]: one for one in listed} == counts
        assert [page(asked.here, 7, offset) for offset in (0, 7)] == pages[:2]
        assert counts["delta"] == {"id": "delta", "title": "About delta", "chunks": READ["delta"]}

    def test_order_and_sequence(self, asked: Asked) -> None:
        pairs = [
            {"a_id": "alpha:0", "b_id": "alpha:1"},
            {"a_id": "o'1", "b_id": "o😀4"},
            {"a_id": "r1", "b": unit_rows(1, 54)[0].tolist()},
        ]
        for one, other in asked.both("/v1/order", {"pairs": pairs}):
            assert one == pytest.approx(other, abs=1e-9)
        for bag in (
            {"ids": ["alpha:3", "o\\3", "alpha:1", "alpha:2", "r5"]},
            {"document_id": "x/y:z"},
            {"document_id": "delta", "model": "rerank"},
        ):
            one, other = (
                running.ok("/v1/sequence", bag) for running in (asked.here, asked.reference)
            )
            assert [each["id"] for each in one["order"]] == [each["id"] for each in other["order"]]
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-6)
            assert one["model"] == other["model"]
            assert (one["outliers"], one["duplicates"]) == (other["outliers"], other["duplicates"])

    def test_scores_keep_the_given_order(self, asked: Asked) -> None:
        body = {
            "context_ids": ["alpha:0", "alpha:1"],
            "candidates": [{"id": "o'1"}, {"vector": [1.0] * DIMENSION}, {"id": "alpha:0"}],
        }
        one, other = (running.ok("/v1/score", body) for running in (asked.here, asked.reference))
        assert [each["id"] for each in one["results"]] == ["o'1", None, "alpha:0"]
        agree(one["results"], other["results"])

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"context_ids": ["alpha:0", "nowhere"]}, "context_ids.1"),
            ({"context_ids": ["alpha:0' or 1==1"]}, "context_ids.0"),
            ({"context_at": {"document_id": "nowhere", "position": 0}}, "context_at.document_id"),
            ({"context_at": {"document_id": "alpha", "position": 0}}, "context_at.position"),
            ({"context_ids": ["alpha:0"], "candidates": [{"id": "no"}]}, "candidates.0.id"),
        ],
    )
    def test_unknown_ids_are_named(self, asked: Asked, body: dict[str, Any], field: str) -> None:
        response = asked.here.post("/v1/rank", body)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "unknown_id")
        assert problem["field"] == field

    def test_counts_are_told(self, asked: Asked, backend: Backend) -> None:
        http, chunks = asked.here.http, len(asked.chunks)
        documents = len({one["document_id"] for one in asked.chunks})

        def counted() -> bool:
            store = http.get("/readyz").json()["store"]
            return bool((store["chunks"], store["documents"]) == (chunks, documents))

        eventually(counted, backend.settles_s)
        stats = http.get("/v1/stats").json()
        assert (stats["store"]["chunks"], stats["store"]["documents"]) == (chunks, documents)
        assert stats["store"]["dimension"] == DIMENSION
        assert stats["index"]["searchable"] == chunks
        assert [one["name"] for one in stats["models"]] == list(MODELS)
        about = http.get("/v1/model").json()
        assert (about["dimension"], about["store"]["chunks"]) == (DIMENSION, chunks)
        assert about["indexes"].keys() == {"raw", "learned"}
        assert http.get("/v1/model?model=raw").json()["indexes"].keys() == {"raw"}
        assert http.get("/readyz").json()["index"]["dimension"] == DIMENSION
        gauges = metrics(http)
        assert gauges["nextchunk_chunks"] == chunks
        assert gauges["nextchunk_documents"] == documents
        assert gauges["nextchunk_ready"] == gauges["nextchunk_index_available"] == 1

    def test_before_the_first_chunk(self, backend: Backend) -> None:
        rows_ND = unit_rows(3, 55, dimension=5)
        with backend.store() as options, served(options, None) as running:
            question = {"context": [rows_ND[1].tolist()]}
            response = running.post("/v1/rank", question)
            problem = response.json()
            assert (response.status_code, problem["code"]) == (503, "not_ready")
            assert problem["reason"] == "empty"
            assert running.http.get("/readyz").json()["store"]["chunks"] == 0
            assert running.http.get("/v1/documents").json() == {"total": 0, "documents": []}
            assert running.http.get("/v1/chunks/n:1").status_code == 404
            deleted = running.http.request("DELETE", "/v1/chunks", json={"ids": ["n:1"]})
            assert deleted.json()["deleted"] == 0
            chunks = [
                {"id": f"n:{row}", "document_id": "n", "position": row, "vector": row_D.tolist()}
                for row, row_D in enumerate(rows_ND)
            ]
            response = running.http.put("/v1/chunks", json={"chunks": chunks})
            assert (response.status_code, response.json()["upserted"]) == (200, 3)
            answer = running.ok("/v1/rank", question)
            assert answer["results"][0]["id"] == "n:1"
            assert (answer["mode"], answer["fallback_reason"]) == ("retrieval", "no_checkpoint")
            wrong = {**chunks[0], "vector": [1.0] * 6}
            response = running.http.put("/v1/chunks", json={"chunks": [wrong]})
            assert response.json()["code"] == "wrong_dimension"


def metrics(http: httpx.Client) -> dict[str, float]:
    """The metrics without labels."""
    lines = http.get("/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs if "{" not in name}
