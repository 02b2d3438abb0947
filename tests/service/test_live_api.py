"""The live index over a real socket: what is acknowledged is found, and nothing else."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import COUNTS, DIMENSION, Live, live, unit_rows

IDS = [f"{doc_id}:{place}" for doc_id, count in COUNTS.items() for place in range(count)]
RAW_ND = unit_rows(len(IDS), 1)


@pytest.fixture
def own(data: Path, checkpoint: Path) -> Iterator[Live]:
    with live(data, checkpoint) as running:
        yield running


def new(name: str, vector_D: np.ndarray, **more: Any) -> dict[str, Any]:
    members = {"id": name, "document_id": "new", "position": 0, "vector": vector_D.tolist()}
    return members | more


def put(running: Live, *chunks: dict[str, Any], query: str = "", **headers: str) -> Any:
    return running.http.put(f"/v1/chunks{query}", json={"chunks": chunks}, headers=headers)


def delete(running: Live, **body: Any) -> dict[str, Any]:
    response = running.http.request("DELETE", "/v1/chunks", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def nearest(running: Live, vector_D: np.ndarray, **more: Any) -> list[str]:
    body = {"context": [vector_D.tolist()], "mode": "retrieval", **more}
    return [result["id"] for result in running.ok("/v1/rank", body)["results"]]


def test_a_written_chunk_is_found_in_both_spaces_and_read_back(own: Live) -> None:
    vector_D = unit_rows(1, 90)[0]
    metadata = {"a": {"b": [1, "größer", None]}, "n": 2**53, "t": True}
    response = put(own, new("n/1:0", vector_D * 3, text="größer", metadata=metadata))
    assert response.json() == {"upserted": 1, "version": 2, "status": "searchable"}
    assert nearest(own, vector_D)[0] == "n/1:0"
    p8 = own.ok("/v1/rank", {"context": [vector_D.tolist()], "mode": "p8", "top_k": 49})
    assert p8["index_version"] == 2
    found = {result["id"]: result for result in p8["results"]}["n/1:0"]
    scored = own.ok(
        "/v1/score",
        {"context": [vector_D.tolist()], "candidates": [{"vector": vector_D.tolist()}]},
    )
    assert found["score"] == pytest.approx(scored["results"][0]["score"], abs=1e-5)
    chunk = own.http.get("/v1/chunks/n/1:0?vector=true").json()
    np.testing.assert_allclose(chunk.pop("vector"), vector_D, atol=1e-7)
    assert chunk == {
        "id": "n/1:0",
        "document_id": "new",
        "position": 0,
        "text": "größer",
        "metadata": metadata,
    }


def test_replacing_and_deleting_take_effect_at_once(own: Live) -> None:
    first_D, second_D = unit_rows(2, 91)
    put(own, new("n", first_D, text="first"), new("m", first_D))
    put(own, new("n", second_D, text="second", document_id="other", position=7))
    assert nearest(own, second_D)[0] == "n"
    assert nearest(own, first_D)[0] == "m"
    assert own.http.get("/v1/chunks/n").json()["text"] == "second"
    assert [one["id"] for one in own.http.get("/v1/documents/new").json()["content"]] == ["m"]
    assert delete(own, ids=["n", "nowhere"]) == {
        "deleted": 1,
        "version": 4,
        "status": "searchable",
    }
    assert "n" not in nearest(own, second_D, top_k=100)
    assert own.http.get("/v1/chunks/n").status_code == 404
    assert own.http.get("/v1/documents/other").status_code == 404
    assert own.http.delete("/v1/documents/x/y:z").json()["deleted"] == 7
    assert own.http.delete("/v1/chunks/alpha:3").json()["deleted"] == 1
    documents = own.http.get("/v1/documents").json()
    counts = {one["id"]: one["chunks"] for one in documents["documents"]}
    assert counts == {"alpha": 11, "beta": 9, "delta": 20, "new": 1}
    stats = own.http.get("/v1/stats").json()
    assert stats["store"]["rows"] == stats["index"]["searchable"] == 41
    context = {"context_ids": ["alpha:3"]}
    assert own.post("/v1/rank", context).json()["code"] == "unknown_id"


def test_deleting_by_filter(own: Live) -> None:
    some = {"document_ids": ["alpha", "beta"], "position": {"lt": 3}}
    assert delete(own, filter=some)["deleted"] == 6
    assert delete(own, filter=some)["deleted"] == 0
    assert delete(own, filter={"metadata": {"section": "Part 0"}})["deleted"] == 2 + 2 + 5 + 5


def test_a_batch_is_written_wholly_or_not_at_all(own: Live) -> None:
    good, bad = unit_rows(1, 92)[0], np.zeros(DIMENSION)
    assert put(own, new("n", good), new("m", bad)).status_code == 422
    assert put(own, new("n", good), new("n", good)).json()["code"] == "duplicate_id"
    assert own.http.get("/v1/chunks/n").status_code == 404
    assert own.http.get("/v1/stats").json()["store"]["version"] == 1


def test_not_waiting_is_still_stored_for_good(own: Live) -> None:
    vector_D = unit_rows(1, 93)[0]
    response = put(own, new("n", vector_D), query="?wait=false")
    assert (response.status_code, response.json()["status"]) == (202, "stored")
    until = time.monotonic() + 10
    while nearest(own, vector_D)[0] != "n":
        assert time.monotonic() < until
    assert own.http.delete("/v1/chunks/n?wait=false").status_code == 202
    # A mistake is told all the same, and so is nothing to delete.
    assert put(own, new("n", vector_D[1:]), query="?wait=false").status_code == 422
    assert own.http.delete("/v1/chunks/none?wait=false").status_code == 404


def test_an_idempotency_key_answers_as_before(own: Live) -> None:
    vector_D = unit_rows(1, 94)[0]
    first = put(own, new("n", vector_D), **{"Idempotency-Key": "k-1"})
    put(own, new("n", vector_D, text="later"))
    again = put(own, new("n", vector_D), **{"Idempotency-Key": "k-1"})
    assert again.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert own.http.get("/v1/chunks/n").json()["text"] == "later"
    gone = own.http.delete("/v1/chunks/n", headers={"Idempotency-Key": "k-2"})
    again = own.http.delete("/v1/chunks/n", headers={"Idempotency-Key": "k-2"})
    assert again.json() == gone.json() == {**gone.json(), "deleted": 1}
    wrong = put(own, new("n", vector_D), **{"Idempotency-Key": "with space"})
    assert wrong.json()["field"] == "header.idempotency-key"


def test_the_window_that_ends_at_a_place(service: Live) -> None:
    at = {"context_at": {"document_id": "alpha", "position": 6}}
    by_ids = {"context_ids": [f"alpha:{place}" for place in range(2, 7)]}
    one, other = service.ok("/v1/rank", at), service.ok("/v1/rank", by_ids)
    assert (one["results"], one["alpha"]) == (other["results"], other["alpha"])
    start = {"context_at": {"document_id": "alpha", "position": 0}}
    assert len(service.ok("/v1/rank", start)["alpha"]) == 1


def test_only_unseen_leaves_out_what_was_read(service: Live) -> None:
    at = {"context_at": {"document_id": "alpha", "position": 6}, "top_k": 100}
    everything = {one["id"] for one in service.ok("/v1/rank", at)["results"]}
    unseen = {one["id"] for one in service.ok("/v1/rank", {**at, "only_unseen": True})["results"]}
    assert everything - unseen == {"alpha:0", "alpha:1"}
    assert unseen == set(IDS) - {f"alpha:{place}" for place in range(7)}


@pytest.mark.parametrize("mode", ["p8", "retrieval"])
def test_max_per_document_keeps_the_best_of_each(service: Live, mode: str) -> None:
    body = {"context_ids": ["beta:4"], "mode": mode, "top_k": 47}
    ranked = service.ok("/v1/rank", body)["results"]
    for limit, top_k in ((1, 4), (2, 5), (3, 47)):
        held: dict[str, int] = {}
        expected = []
        for one in ranked:
            held[one["document_id"]] = held.get(one["document_id"], 0) + 1
            if held[one["document_id"]] <= limit:
                expected.append(one["id"])
        limited = {**body, "top_k": top_k, "max_per_document": limit}
        found = [one["id"] for one in service.ok("/v1/rank", limited)["results"]]
        assert found == expected[:top_k]


def test_metadata_filters_are_exact(service: Live) -> None:
    wanted = {"section": {"in": ["Part 1", "Part 2"]}, "title": "About delta"}
    body = {"context_ids": ["beta:4"], "top_k": 100, "filter": {"metadata": wanted}}
    found = {one["id"] for one in service.ok("/v1/rank", body)["results"]}
    assert found == {f"delta:{place}" for place in range(5, 15)}
    body["filter"] = {"metadata": {"missing": {"exists": False}}, "position": {"gte": 12}}
    found = {one["id"] for one in service.ok("/v1/rank", body)["results"]}
    assert found == {f"delta:{place}" for place in range(12, 20)}


def test_an_empty_folder_becomes_a_collection(tmp_path: Path) -> None:
    with live(tmp_path / "new") as running:
        assert running.http.get("/readyz").json()["store"]["chunks"] == 0
        assert running.http.get("/v1/documents").json() == {"total": 0, "documents": []}
        rows_ND = unit_rows(3, 95, dimension=5)
        chunks = [new(f"n:{row}", rows_ND[row], position=row) for row in range(3)]
        assert put(running, *chunks).json()["version"] == 1
        assert nearest(running, rows_ND[1])[0] == "n:1"
        assert put(running, new("m", unit_rows(1, 1)[0])).json()["code"] == "wrong_dimension"
        assert running.http.get("/v1/model").json()["dimension"] == 5


def test_a_checkpoint_decides_the_dimension_of_an_empty_folder(
    tmp_path: Path, checkpoint: Path
) -> None:
    with live(tmp_path / "new", checkpoint) as running:
        assert running.ok("/v1/rank", {"context": [[1.0] * DIMENSION]})["results"] == []
        wrong = put(running, new("n", np.ones(4)))
        assert wrong.json()["code"] == "wrong_dimension"
        put(running, new("n", np.ones(DIMENSION)))
        assert running.ok("/v1/rank", {"context": [[1.0] * DIMENSION]})["mode"] == "p8"
        assert running.http.get("/v1/model").json()["embedding_model"] == "synthetic-16"


def test_what_was_written_is_there_after_a_restart(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    vector_D = unit_rows(1, 96)[0]
    with live(folder, checkpoint, in_place=True) as running:
        put(running, new("n", vector_D, text="kept"))
        delete(running, ids=["alpha:0"])
        before = running.ok("/v1/rank", {"context": [vector_D.tolist()], "top_k": 100})
    with live(folder, checkpoint, in_place=True) as running:
        after = running.ok("/v1/rank", {"context": [vector_D.tolist()], "top_k": 100})
        assert after["results"] == before["results"]
        assert after["index_version"] == before["index_version"] == 3
        assert len(after["results"]) == 48


def test_readers_and_a_writer_at_once(own: Live) -> None:
    """Every answer shows some moment: never half a batch, never what was gone before it began."""
    pairs_ND = unit_rows(40, 97)
    stop = threading.Event()
    faults: list[str] = []

    def read() -> int:
        asked = 0
        with Live(own.url, []).http as http:
            while not stop.is_set():
                body = {"context": [pairs_ND[0].tolist()], "mode": "retrieval", "top_k": 500}
                body |= {"filter": {"document_ids": ["pair"]}}
                response = http.post("/v1/rank", json=body)
                names = {one["id"] for one in response.json()["results"]}
                if {name[1:] for name in names if name[0] == "a"} != {
                    name[1:] for name in names if name[0] == "b"
                }:
                    faults.append(str(names))
                asked += 1
        return asked

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for row in range(40):
            both = [new(f"{side}{row}", pairs_ND[row], document_id="pair") for side in "ab"]
            assert put(own, *both).status_code == 200
            if row % 3 == 0:
                delete(own, ids=[f"a{row // 2}", f"b{row // 2}"])
        stop.set()
        assert sum(reader.result() for reader in readers) > 20
    assert not faults


def test_texts_are_embedded_when_written(data: Path) -> None:
    class Table:
        dimension = DIMENSION

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.concatenate([unit_rows(1, len(text)) for text in texts])

    with live(data, load_embedder=lambda _: Table()) as running:
        chunks = [
            {"id": "t:0", "document_id": "t", "position": 0, "text": "sixteen letters!"},
            new("t:1", unit_rows(1, 98)[0], text="has a vector"),
            {"id": "t:2", "document_id": "t", "position": 2, "text": "five!"},
        ]
        assert put(running, *chunks).json()["upserted"] == 3
        assert nearest(running, unit_rows(1, 16)[0])[0] == "t:0"
        assert nearest(running, unit_rows(1, 98)[0])[0] == "t:1"
        assert nearest(running, unit_rows(1, 5)[0])[0] == "t:2"
