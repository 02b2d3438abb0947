"""The re-ranker's switches, over a real socket: in a request, and for the whole service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client

from .conftest import Live, index, live, write_checkpoint

PARTS = ("mixture", "order", "rerank")
WINDOW = {"context_ids": ["alpha:0", "alpha:1", "alpha:2"], "mode": "p8"}
CANDIDATES = [{"id": f"delta:{place}"} for place in range(20)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> tuple[Path, Path]:
    """A data folder, and a checkpoint whose re-ranker says something."""
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "rerank", rerank=True)
    return index(prepared, tmp_path_factory.mktemp("data"), checkpoint), checkpoint


@pytest.fixture(scope="module")
def on(folders: tuple[Path, Path]) -> Iterator[Live]:
    with live(*folders) as running:
        yield running


@pytest.fixture(scope="module")
def off(folders: tuple[Path, Path]) -> Iterator[Live]:
    with live(*folders, rerank=False) as running:
        yield running


def _parts(results: list[dict[str, Any]], name: str) -> dict[str, float]:
    return {result["id"]: result["parts"][name] for result in results}


def _check_sums(results: list[dict[str, Any]]) -> None:
    for result in results:
        mixture, order, rerank = (np.float32(result["parts"][p]) for p in PARTS)
        assert mixture + order + rerank == np.float32(result["score"])


QUESTIONS = {
    "index": ("/v1/rank", {"top_k": 45}),
    "filter": ("/v1/rank", {"top_k": 45, "filter": {"document_ids": ["delta", "beta"]}}),
    "candidates": ("/v1/rank", {"top_k": 20, "candidates": CANDIDATES}),
    "score": ("/v1/score", {"candidates": CANDIDATES}),
}


@pytest.mark.parametrize(("path", "body"), QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_request_may_leave_it_out(on: Live, path: str, body: dict[str, Any]) -> None:
    body = {**WINDOW, **body}
    with_it = on.ok(path, body)
    assert on.ok(path, {**body, "rerank": True})["results"] == with_it["results"]
    without = on.ok(path, {**body, "rerank": False})
    assert without["alpha"] == with_it["alpha"]
    assert without["mode"] == "p8"
    assert without["model"] == with_it["model"]
    for name in ("mixture", "order"):
        assert _parts(without["results"], name) == _parts(with_it["results"], name)
    assert set(_parts(without["results"], "rerank").values()) == {0.0}
    assert 0.0 not in _parts(with_it["results"], "rerank").values()
    orders = []
    for answer in (with_it, without):
        _check_sums(answer["results"])
        scores = [result["score"] for result in answer["results"]]
        assert path == "/v1/score" or scores == sorted(scores, reverse=True)
        orders.append([result["id"] for result in answer["results"]])
    # This re-ranker changes what comes first; scored candidates keep the given order.
    assert (orders[0] == orders[1]) is (path == "/v1/score")


@pytest.mark.parametrize(("path", "body"), QUESTIONS.values(), ids=QUESTIONS.keys())
def test_switched_off_for_the_service_wins_over_a_request(
    on: Live, off: Live, path: str, body: dict[str, Any]
) -> None:
    body = {**WINDOW, **body}
    expected = on.ok(path, {**body, "rerank": False})["results"]
    for asked in ({}, {"rerank": True}, {"rerank": False}):
        assert off.ok(path, {**body, **asked})["results"] == expected


def test_each_query_of_a_batch_decides_for_itself(on: Live) -> None:
    queries = [{**WINDOW, "rerank": wanted} for wanted in (True, False, True)]
    answers = on.ok("/v1/rank", {"queries": queries})["answers"]
    for query, answer in zip(queries, answers, strict=True):
        alone = on.ok("/v1/rank", query)["results"]
        assert [hit["id"] for hit in answer["results"]] == [hit["id"] for hit in alone]
        assert [hit["score"] for hit in answer["results"]] == pytest.approx(
            [hit["score"] for hit in alone], abs=1e-5
        )
        assert any(hit["parts"]["rerank"] for hit in answer["results"]) == query["rerank"]


def test_without_a_re_ranker_the_switch_changes_nothing(service: Live) -> None:
    plain = service.ok("/v1/rank", WINDOW)["results"]
    assert service.ok("/v1/rank", {**WINDOW, "rerank": False})["results"] == plain


def test_the_client_has_the_switch(on: Live) -> None:
    with Client(on.url) as client:
        ids = WINDOW["context_ids"]
        for wanted in (True, False):
            ranked = client.rank(context_ids=ids, rerank=wanted)["results"]
            scored = client.score(CANDIDATES, context_ids=ids, rerank=wanted)["results"]
            assert {bool(one["parts"]["rerank"]) for one in [*ranked, *scored]} == {wanted}


def test_it_is_true_or_false(on: Live) -> None:
    problem = on.post("/v1/rank", {**WINDOW, "rerank": "false"}).json()
    assert (problem["code"], problem["field"]) == ("invalid_request", "rerank")
