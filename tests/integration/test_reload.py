"""Checkpoints change under load: no request fails, and one checkpoint answers each as a whole."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.integration.conftest import serving
from tests.service.conftest import index, unit_rows, write_checkpoint, write_prepared

CONNECTIONS = 32
SWAPS = 6
CHUNKS = {f"document-{number}": 20 + number % 7 for number in range(60)}
Answered = tuple[int, int, dict[str, Any]]
"""Which question, with which status, and the body."""


def test_reloading_under_load_fails_no_request(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    first = write_checkpoint(checkpoints / "first", rerank=True, seed=7)
    second = write_checkpoint(checkpoints / "second", rerank=True, seed=8)
    truncated = shutil.copytree(second, checkpoints / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    data = index(write_prepared(tmp_path / "prepared", counts=CHUNKS), tmp_path / "data", first)
    questions = [
        {"context": unit_rows(5, seed).tolist(), "mode": "p8", "top_k": 10} for seed in range(8)
    ]
    with serving("--data", data, "--checkpoint", first) as client:
        expected = {}
        for folder in (first, second):
            version = _reload(client, folder.name)["version"]
            expected[version] = [_ask(client, question) for question in questions]
        assert len(expected) == 2
        with _load(str(client.base_url), questions) as answered:
            before = len(answered)
            for turn in range(SWAPS):
                folder = (first, second)[turn % 2]
                told = _reload(client, folder.name)
                assert told["version"] == client.get("/v1/model").json()["checkpoint"]["version"]
                refused = client.post("/v1/model/reload", json={"checkpoint": "truncated"})
                assert refused.status_code == 409
                assert refused.json()["code"] == "checkpoint_rejected"
                assert refused.json()["reason"] == "checkpoint_invalid"
                assert told["version"] == client.get("/v1/model").json()["checkpoint"]["version"]
                _wait_for(answered, len(answered) + 2 * CONNECTIONS)
        assert len(answered) > before + SWAPS * 2 * CONNECTIONS
    assert Counter(status for _, status, _ in answered) == {200: len(answered)}
    seen = Counter(body["model"]["version"] for _, _, body in answered)
    assert set(seen) == set(expected)
    for number, _, body in answered:
        # Whatever a request begins with, it ends with. The last bits depend on the others that
        # are computed with it; the two checkpoints are further apart.
        assert _near(body, expected[body["model"]["version"]][number])
    one, other = expected.values()
    assert not any(_near(a, b) for a, b in zip(one, other, strict=True))


def test_a_reload_is_refused_for_what_cannot_serve_here(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    first = write_checkpoint(checkpoints / "first")
    write_checkpoint(checkpoints / "failed", verdict="failed", seed=8)
    write_checkpoint(checkpoints / "other-size", dimension=8)
    write_checkpoint(checkpoints / "other-vectors", vectors_of="another-model")
    data = index(write_prepared(tmp_path / "prepared"), tmp_path / "data", first)
    with serving("--data", data, "--checkpoint", first) as client:
        before = client.get("/v1/model").json()["checkpoint"]
        for name, reason in (
            ("failed", "gate_failed"),
            ("other-size", "dimension_mismatch"),
            ("other-vectors", "model_mismatch"),
            ("nowhere", "no_checkpoint"),
        ):
            refused = client.post("/v1/model/reload", json={"checkpoint": name})
            assert (refused.status_code, refused.json()["reason"]) == (409, reason)
            assert client.get("/v1/model").json()["checkpoint"] == before


def _reload(client: httpx.Client, name: str) -> dict[str, Any]:
    answer = client.post("/v1/model/reload", json={"checkpoint": name})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _ask(client: httpx.Client, question: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = client.post("/v1/rank", json=question).raise_for_status().json()
    assert len(body["results"]) == question["top_k"]
    return body


def _near(one: dict[str, Any], other: dict[str, Any]) -> bool:
    ids, scores = (
        [[hit[part] for hit in body["results"]] for body in (one, other)]
        for part in ("id", "score")
    )
    return ids[0] == ids[1] and bool(np.allclose(*scores, atol=1e-5))


@contextmanager
def _load(url: str, questions: list[dict[str, Any]]) -> Iterator[list[Answered]]:
    """Ask over many connections until the block ends; the list grows meanwhile."""
    answered: list[Answered] = []
    stop = threading.Event()

    def ask_on(first: int) -> None:
        number = first % len(questions)
        # How long a busy machine takes is not what is asked here.
        patience = {"X-Request-Timeout": "30"}
        with httpx.Client(base_url=url, timeout=60, headers=patience) as client:
            while not stop.is_set():
                response = client.post("/v1/rank", json=questions[number])
                answered.append((number, response.status_code, response.json()))
                number = (number + 1) % len(questions)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asking = [pool.submit(ask_on, first) for first in range(CONNECTIONS)]
        try:
            _wait_for(answered, 2 * CONNECTIONS)
            yield answered
        finally:
            stop.set()
    for one in asking:
        one.result()  # raises what broke a connection


def _wait_for(answered: list[Answered], count: int) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if len(answered) >= count:
            return
        pause.wait(0.01)
    raise AssertionError(f"only {len(answered)} answers")
