"""What every backend must do alike when chunks are written, replaced and deleted."""

import random
from typing import Any

import httpx
import numpy as np
import pytest

from .conftest import DIMENSION, Live, unit_rows
from .contract_data import ODD_IDS, Chunk, chunk
from .test_columns import any_metadata
from .test_filters import any_filter, passes


def put(running: Live, *chunks: Chunk, query: str = "", **headers: str) -> httpx.Response:
    return running.http.put(f"/v1/chunks{query}", json={"chunks": chunks}, headers=headers)


def acknowledged(running: Live, *chunks: Chunk) -> int:
    """Write chunks; the version."""
    response = put(running, *chunks)
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["upserted"], body["status"]) == (len(chunks), "searchable")
    return int(body["version"])


def delete(running: Live, **body: Any) -> int:
    """Delete chunks; how many there were."""
    response = running.http.request("DELETE", "/v1/chunks", json=body)
    assert response.status_code == 200, response.text
    return int(response.json()["deleted"])


def rank(running: Live, vector_D: np.ndarray, **more: Any) -> list[dict[str, Any]]:
    body = {"context": [vector_D.tolist()], "mode": "retrieval", **more}
    return list(running.ok("/v1/rank", body)["results"])


def nearest(running: Live, vector_D: np.ndarray, **more: Any) -> list[str]:
    return [one["id"] for one in rank(running, vector_D, **more)]


def within(running: Live, document_id: str) -> set[str]:
    """What is found of a document, in both spaces."""
    wanted = {"filter": {"document_ids": [document_id]}, "top_k": 1000}
    raw, learned = (
        set(nearest(running, np.ones(DIMENSION), mode=mode, **wanted))
        for mode in ("retrieval", "p8")
    )
    assert raw == learned
    return raw


def content(running: Live, document_id: str) -> list[str]:
    """Ids of a document's chunks in order; of none if there is no such document."""
    response = running.http.get(f"/v1/documents/{document_id}")
    assert response.status_code in (200, 404)
    return [one["id"] for one in response.json().get("content", [])]


class WriteContract:
    """What every backend must do alike when chunks are written, replaced and deleted."""

    def test_a_written_chunk_is_found_at_once(self, written: Live) -> None:
        for place, vector_D in enumerate(unit_rows(5, 60)):
            name = f"at-once:{place}"
            version = acknowledged(written, chunk(name, "at once", place, vector_D, text="now"))
            answer = written.ok("/v1/rank", {"context": [vector_D.tolist()], "mode": "retrieval"})
            assert answer["results"][0]["id"] == name
            assert answer["results"][0]["text"] == "now"
            assert answer["index_version"] >= version
            assert within(written, "at once") == {f"at-once:{one}" for one in range(place + 1)}
        assert content(written, "at once") == [f"at-once:{one}" for one in range(5)]

    def test_a_replaced_chunk_is_found_by_what_it_is_now(self, written: Live) -> None:
        old_D, new_D, other_D = unit_rows(3, 61)
        first = chunk("rep:0", "rep old", 3, old_D, text="first", metadata={"state": "old"})
        acknowledged(written, first, chunk("rep:1", "rep old", 4, other_D))
        acknowledged(
            written,
            chunk("rep:0", "rep new", 7, new_D, text="second", metadata={"state": "new"}),
        )
        found = rank(written, new_D, top_k=1)[0]
        assert (found["id"], found["position"], found["text"]) == ("rep:0", 7, "second")
        assert found["score"] == pytest.approx(1.0, abs=1e-5)
        assert nearest(written, old_D, top_k=1) != ["rep:0"]
        assert within(written, "rep new") == {"rep:0"} == set(content(written, "rep new"))
        assert within(written, "rep old") == {"rep:1"} == set(content(written, "rep old"))
        for state, expected in (("old", set()), ("new", {"rep:0"})):
            wanted = {"filter": {"metadata": {"state": state}}, "top_k": 100}
            assert set(nearest(written, new_D, **wanted)) == expected
            assert set(nearest(written, new_D, mode="p8", **wanted)) == expected
        at = {"context_at": {"document_id": "rep new", "position": 7}}
        assert written.ok("/v1/rank", at)["results"]
        at = {"context_at": {"document_id": "rep old", "position": 3}}
        assert written.post("/v1/rank", at).json()["code"] == "unknown_id"
        # In the learned space, too, its vector is the new one.
        same = {"filter": {"document_ids": ["rep new"]}, "mode": "p8", "top_k": 1}
        by_rank = rank(written, other_D, **same)[0]
        candidates = [{"vector": new_D.tolist()}]
        body = {"context": [other_D.tolist()], "candidates": candidates, "mode": "p8"}
        by_score = written.ok("/v1/score", body)["results"][0]
        assert by_rank["score"] == pytest.approx(by_score["score"], abs=1e-5)

    def test_the_last_of_a_document_leaves_it(self, written: Live) -> None:
        vector_D = unit_rows(1, 62)[0]
        acknowledged(written, chunk("move:0", "left", 0, vector_D))
        acknowledged(written, chunk("move:0", "arrived", 0, vector_D))
        assert content(written, "left") == []
        assert content(written, "arrived") == ["move:0"]
        listed = written.http.get("/v1/documents?limit=1000").json()["documents"]
        assert {"left", "arrived"} & {one["id"] for one in listed} == {"arrived"}

    def test_deleting(self, written: Live) -> None:
        rows_ND = unit_rows(12, 63)
        for name in ("del a", "del b"):
            chunks = [
                chunk(f"{name}:{place}", name, place, row_D, metadata={"even": place % 2 == 0})
                for place, row_D in enumerate(rows_ND[:6] if name == "del a" else rows_ND[6:])
            ]
            acknowledged(written, *chunks)
        assert delete(written, ids=["del a:0", "nowhere", "del b:0"]) == 2
        assert delete(written, ids=["del a:0", "nowhere"]) == 0
        assert "del a:0" not in nearest(written, rows_ND[0])
        assert within(written, "del a") == {f"del a:{place}" for place in range(1, 6)}
        some = {"document_ids": ["del a", "del b"], "metadata": {"even": True}}
        assert delete(written, filter=some) == 4
        assert delete(written, filter=some) == 0
        assert content(written, "del a") == ["del a:1", "del a:3", "del a:5"]
        assert written.http.delete("/v1/chunks/del a:1").json()["deleted"] == 1
        response = written.http.delete("/v1/chunks/del a:1")
        assert (response.status_code, response.json()["code"]) == (404, "chunk_not_found")
        assert written.http.get("/v1/chunks/del a:1").status_code == 404
        assert written.http.delete("/v1/documents/del a").json()["deleted"] == 2
        response = written.http.delete("/v1/documents/del a")
        assert (response.status_code, response.json()["code"]) == (404, "document_not_found")
        assert within(written, "del a") == set()
        assert within(written, "del b") == {f"del b:{place}" for place in (1, 3, 5)}
        acknowledged(written, chunk("del a:0", "del a", 0, rows_ND[0]))
        assert nearest(written, rows_ND[0])[0] == "del a:0"

    def test_deleting_by_any_filter(self, written: Live) -> None:
        rng = random.Random(7)
        rows_ND = unit_rows(80, 64)
        kept = [
            chunk(
                f"any{number}",
                f"d{rng.randrange(6)}",
                rng.randrange(8),
                row_D,
                metadata=any_metadata(rng),
            )
            for number, row_D in enumerate(rows_ND)
        ]
        acknowledged(written, *kept)
        documents = [f"d{number}" for number in range(6)]
        turns = 0
        while turns < 12:
            # Only of those documents: other tests have chunks of theirs here.
            given = {"document_ids": documents, **any_filter(rng, 6)}
            gone = [one for one in kept if passes(one, given)]
            if len(gone) > 12:
                continue
            turns += 1
            assert delete(written, filter=given) == len(gone), given
            kept = [one for one in kept if one not in gone]
        found: set[str] = set().union(*(within(written, name) for name in documents))
        assert found == {one["id"] for one in kept}
        assert 0 < len(kept) < 80

    def test_odd_ids_are_written_and_deleted(self, written: Live) -> None:
        rows_ND = unit_rows(len(ODD_IDS), 65)
        chunks = [
            chunk(name, f"in {name}"[:1024], 0, row_D)
            for name, row_D in zip(ODD_IDS, rows_ND, strict=True)
        ]
        acknowledged(written, *chunks)
        names = [one["document_id"] for one in chunks]
        wanted = {"filter": {"document_ids": names}, "exclude_ids": ODD_IDS[:3]}
        found = nearest(written, rows_ND[0], top_k=100, **wanted)
        assert sorted(found) == sorted(ODD_IDS[3:])
        assert delete(written, ids=ODD_IDS[::2]) == len(ODD_IDS[::2])
        found = nearest(written, rows_ND[0], top_k=100, filter=wanted["filter"])
        assert sorted(found) == sorted(ODD_IDS[1::2])
        assert delete(written, filter=wanted["filter"]) == len(ODD_IDS[1::2])

    def test_a_batch_is_written_wholly_or_not_at_all(self, written: Live) -> None:
        good_D = unit_rows(1, 66)[0]
        good = chunk("whole:0", "whole", 0, good_D)
        for bad, code in (
            ({**good, "id": "whole:1", "vector": [1.0] * (DIMENSION - 1)}, "wrong_dimension"),
            ({**good, "id": "whole:1", "vector": [0.0] * DIMENSION}, "invalid_vector"),
            (good, "duplicate_id"),
        ):
            response = put(written, good, bad)
            assert (response.status_code, response.json()["code"]) == (422, code)
        assert written.http.get("/v1/chunks/whole:0").status_code == 404
        assert content(written, "whole") == []
        assert within(written, "whole") == set()

    def test_versions_rise(self, written: Live) -> None:
        vector_D = unit_rows(1, 67)[0]
        versions = [
            acknowledged(written, chunk("rise:0", "rise", turn, vector_D)) for turn in range(3)
        ]
        body = {"ids": ["rise:0"]}
        versions.append(written.http.request("DELETE", "/v1/chunks", json=body).json()["version"])
        assert versions == sorted(set(versions))
        assert written.http.get("/v1/stats").json()["store"]["version"] >= versions[-1]
        asking = {"context": [vector_D.tolist()], "mode": "retrieval"}
        assert written.ok("/v1/rank", asking)["index_version"] >= versions[-1]

    def test_an_idempotency_key_writes_once(self, written: Live) -> None:
        vector_D = unit_rows(1, 68)[0]
        given = chunk("key:0", "key", 0, vector_D, text="first")
        key = {"Idempotency-Key": "contract-1"}
        first = put(written, given, **key)
        assert "Idempotency-Replayed" not in first.headers
        acknowledged(written, {**given, "text": "later"})
        again = put(written, given, **key)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
        assert written.http.get("/v1/chunks/key:0").json()["text"] == "later"
        other = put(written, {**given, "text": "other"}, **key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        key = {"Idempotency-Key": "contract-2"}
        gone = written.http.delete("/v1/chunks/key:0", headers=key)
        again = written.http.delete("/v1/chunks/key:0", headers=key)
        assert again.json() == gone.json() == {**gone.json(), "deleted": 1}

    def test_not_waiting_is_stored_all_the_same(self, written: Live) -> None:
        vector_D = unit_rows(1, 69)[0]
        response = put(written, chunk("later:0", "later", 0, vector_D), query="?wait=false")
        assert (response.status_code, response.json()["status"]) == (202, "stored")
        # What is written after it, and can be found, shows that it can, too.
        acknowledged(written, chunk("later:1", "later", 1, unit_rows(1, 70)[0]))
        assert within(written, "later") == {"later:0", "later:1"}
