"""Several models, reloading one while others ask, deadlines of one's own, and clients that go."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from .conftest import DIMENSION, Live, live, unit_rows, write_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that stand beside each other."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, seed in (("one", 7), ("two", 8)):
        write_checkpoint(folder / name, seed=seed)
    write_checkpoint(folder / "failed", verdict="failed")
    write_checkpoint(folder / "wide", dimension=8)
    write_checkpoint(folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


@pytest.fixture
def two(data: Path, folders: Path) -> Iterator[Live]:
    with live(data, folders / "one", more_checkpoints=f"second={folders / 'two'}") as running:
        yield running


def _rank(running: Live, model: str = "default") -> dict[str, Any]:
    return running.ok("/v1/rank", {"context_ids": ["alpha:0", "alpha:1"], "model": model})


def test_a_request_names_its_model(two: Live) -> None:
    first, second = _rank(two), _rank(two, "second")
    assert (first["model"]["name"], second["model"]["name"]) == ("default", "second")
    assert first["model"]["version"] != second["model"]["version"]
    assert first["results"] != second["results"]
    pair = {"a_id": "alpha:0", "b_id": "alpha:1"}
    assert two.ok("/v1/order", pair) != two.ok("/v1/order", {**pair, "model": "second"})
    names = [one["name"] for one in two.http.get("/v1/models").json()["models"]]
    assert names == ["default", "second"]
    model = two.http.get("/v1/model?model=second").json()
    assert model["checkpoint"]["version"] == second["model"]["version"]
    response = two.http.get("/v1/model?model=third")
    assert (response.status_code, response.json()["field"]) == (422, "query.model")


def test_reloading_swaps_and_a_bad_one_changes_nothing(two: Live) -> None:
    first, second = _rank(two), _rank(two, "second")
    vector = unit_rows(1, 50)[0].tolist()
    chunk = {"id": "n", "document_id": "n", "position": 0, "vector": vector}
    for folder, reason in (
        ("none", "no_checkpoint"),
        ("cut", "checkpoint_invalid"),
        ("wide", "dimension_mismatch"),
        ("failed", "gate_failed"),
    ):
        response = two.post("/v1/model/reload", {"checkpoint": folder})
        assert (response.status_code, response.json()["code"]) == (409, "checkpoint_rejected")
        assert response.json()["reason"] == reason
        assert _rank(two)["results"] == first["results"]
    answer = two.ok("/v1/model/reload", {"checkpoint": "two"})
    assert answer["previous"] == first["model"]["version"]
    assert answer["version"] == second["model"]["version"]
    assert _rank(two)["results"] == second["results"]
    # Chunks written now are in the space of the new one, too.
    two.http.put("/v1/chunks", json={"chunks": [chunk]})
    body = {"context": [vector], "top_k": 49}
    assert (
        two.ok("/v1/rank", body)["results"]
        == two.ok("/v1/rank", {**body, "model": "second"})["results"]
    )
    assert two.ok("/v1/model/reload", {})["version"] == second["model"]["version"]
    response = two.http.post("/v1/model/reload")
    assert response.json()["previous"] == second["model"]["version"]


def test_a_reload_meets_writes_that_come_meanwhile(two: Live) -> None:
    rows_ND = unit_rows(80, 51)

    def write() -> None:
        with Live(two.url, []).http as http:
            for row, vector_D in enumerate(rows_ND):
                chunk = {"id": f"w:{row}", "document_id": "w", "position": row}
                body = {"chunks": [{**chunk, "vector": vector_D.tolist()}]}
                assert http.put("/v1/chunks", json=body).status_code == 200

    writer = threading.Thread(target=write)
    writer.start()
    reloads = 0
    while writer.is_alive() or reloads % 2:
        folder = ("two", "one")[reloads % 2]
        two.ok("/v1/model/reload", {"checkpoint": folder})
        reloads += 1
    assert reloads >= 4
    two.ok("/v1/model/reload", {"checkpoint": "two"})
    body = {"context": [rows_ND[0].tolist()], "top_k": 1000}
    # Projected in other batches, vectors may differ in their last bits.
    found, other = (
        {one["id"]: one["score"] for one in two.ok("/v1/rank", {**body, "model": name})["results"]}
        for name in ("default", "second")
    )
    assert len(found) == 48 + len(rows_ND)
    assert found == pytest.approx(other, abs=1e-5)


def test_a_request_may_set_its_own_deadline(service: Live) -> None:
    ask = service.http.post
    body = {"context_ids": ["alpha:0"]}
    answer = ask("/v1/rank", json=body, headers={"X-Request-Timeout": "1e-9"}).json()
    assert answer["fallback_reason"] == "deadline"
    answer = ask("/v1/rank", json=body, headers={"X-Request-Timeout": "60"}).json()
    assert answer["mode"] == "p8"
    for wrong in ("0", "-1", "soon", "nan", "inf", "61"):
        problem = ask("/v1/rank", json=body, headers={"X-Request-Timeout": wrong}).json()
        assert problem["field"] == "header.x-request-timeout"


class Slow:
    """An embedder that waits until it may go on, and counts what it was asked."""

    dimension = DIMENSION

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.asked = 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += 1
        self.entered.set()
        assert self.go_on.wait(20)
        return unit_rows(len(texts), 1)


def test_a_client_that_goes_away_takes_its_work_with_it(data: Path) -> None:
    slow = Slow()
    with live(data, load_embedder=lambda _: slow, workers=1, queue_limit=8) as running:
        address = httpx.URL(running.url)
        body = b'{"context_texts": ["x"]}'
        head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        going = []
        for _ in range(4):  # one runs, three wait
            one = socket.create_connection((address.host, address.port))
            one.sendall(head.encode() + body)
            going.append(one)
        assert slow.entered.wait(20)
        _until(lambda: _metric(running, "nextchunk_queue_waiting") == 3)
        for one in going:
            one.close()
        _until(lambda: _metric(running, "nextchunk_queue_waiting") == 0)
        slow.go_on.set()
        running.ok("/v1/rank", {"context_ids": ["alpha:0"]})
        assert slow.asked == 1
        assert _metric(running, 'nextchunk_rejected_total{reason="cancelled"}') == 4


def _metric(running: Live, name: str) -> float:
    lines = running.http.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    return float(found[0].rpartition(" ")[2])


def _until(condition: Any, limit_s: float = 10.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("drain_s", [60, 0])
def test_a_signal_lets_running_requests_finish_while_there_is_time(
    data: Path, folders: Path, tmp_path: Path, drain_s: int
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", str(folder)]
    command += ["--checkpoint", str(folders / "one"), "--batch-limit", "5000", "--workers", "1"]
    command += ["--drain-s", str(drain_s), "--retry-after-s", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(2)]
        url = next(line for line in lines if "listening" in line).split()[-1]
        # Slow enough that most of them wait when it is told to stop, and all have come.
        batch = {"pairs": [{"a_id": "alpha:0", "b_id": "alpha:1"}] * 5000}
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/order", json=batch, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        with Live(url, []).http as http:
            waiting = 'nextchunk_queue_waiting{queue="compute"} '

            def all_came() -> bool:
                lines = http.get("/metrics").text.splitlines()
                found = next(line for line in lines if line.startswith(waiting))
                return len(answers) + 1 + float(found.removeprefix(waiting)) >= 8

            _until(all_came)
        assert len(answers) < 8
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert (len(answers), bool(refused)) == (8, not drain_s)
        for answer in refused:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
            problem = answer.json()
            assert (problem["code"], problem["reason"]) == ("unavailable", "stopping")
        assert process.wait(20) in (0, -signal.SIGTERM)
