"""The commands as a person runs them: in processes of their own."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import as_first_process, main
from service.client import Client

from .conftest import Live


@pytest.fixture(scope="module")
def served(
    data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[str]]]:
    """Run ``serve`` until it is ready, then stop it; yields url and stdout lines."""
    data = Path(shutil.copytree(data, tmp_path_factory.mktemp("served") / "data"))
    command = [sys.executable, "-m", "service", "serve", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while len(lines) < 2:  # in either order
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines.append(line.strip())
    match = re.search(r"http://\S+", "\n".join(lines))
    assert match
    yield match[0], lines
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM)
    assert out == ""
    logs = [json.loads(line) for line in err.splitlines()]
    requests = [log for log in logs if log["message"] == "request"]
    assert {"request_id", "method", "route", "status", "total_ms", "stages_ms"} <= requests[
        0
    ].keys()
    ranks = [log for log in requests if log["route"] == "/v1/rank" and log["status"] == 200]
    assert {"wait", "parse", "decode", "query", "search", "rerank"} <= ranks[0]["stages_ms"].keys()
    assert "größer" not in err
    assert not [log for log in logs if log["level"] == "error"]


def test_serve_tells_where_and_how(served: tuple[str, list[str]]) -> None:
    assert sorted(served[1]) == [
        f"listening on {served[0]}",
        "ready: 48 chunks, 4 documents, mode p8",
    ]


def test_rank_prints_for_people_and_for_programs(
    served: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["rank", "--ids", "alpha:0", "alpha:1", "--top-k", "3", "--url", served[0]]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mode p8, method p8, space learned"
    assert len(lines) == 4
    assert main([*asked, "--json", "--documents", "alpha"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {result["document_id"] for result in answer["results"]} == {"alpha"}
    assert main(["rank", "--ids", "nowhere", "--url", served[0]]) == 1
    assert capsys.readouterr().err.startswith("rank: unknown_id: context_ids.0: expected")


def test_order_prints_the_earlier_chunk_first(
    served: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["order", "alpha:0", "alpha:1", "--url", served[0], "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["p_b_after_a"]
    said = set()
    for pair in (["alpha:0", "alpha:1"], ["alpha:1", "alpha:0"]):
        assert main(["order", *pair, "--url", served[0]]) == 0
        said.add(capsys.readouterr().out)
    first, second = ("alpha:0", "alpha:1") if after > 0.5 else ("alpha:1", "alpha:0")
    probability = max(after, 1 - after)
    assert said == {f"{first} comes before {second} with probability {probability:.4f}\n"}
    assert main(["order", "a", "b", "--url", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.startswith("order: unreachable:")


def test_the_client_speaks_every_endpoint(service: Live) -> None:
    with Client(service.url) as client:
        answer = client.rank(context_ids=["alpha:0"], top_k=2, explain=True)
        assert len(answer["results"]) == 2
        candidates = [{"id": "beta:0"}, {"vector": [1.0] * 16}]
        scored = client.score(candidates, [[0.5] * 16, [0.25] * 16])
        assert [result["id"] for result in scored["results"]] == ["beta:0", None]
        ranked = client.rank([[0.5] * 16], candidates=candidates, exclude_ids=["beta:0"])
        assert [result["id"] for result in ranked["results"]] == [None]
        narrowed = client.rank(context_ids=["alpha:0"], document_ids=["x/y:z"], top_k=50)
        assert len(narrowed["results"]) == 7
        assert client.ready()["status"] == "ready"
        assert client.model()["mode"] == "p8"
        assert client.chunk("x/y:z:0")["position"] == 0
        assert client.document("x/y:z")["chunks"] == 7
        assert client.documents(limit=1)["documents"][0]["id"] == "alpha"


def test_settings_out_of_range_stop_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--data", "x", "--port", "-1"]) == 2
    assert "--port (NEXTCHUNK_PORT)" in capsys.readouterr().err


def test_the_first_process_of_a_container_ends_when_told_to_and_leaves_no_zombies() -> None:
    code = (
        "import os, signal, time\n"
        "from service.__main__ import as_first_process\n"
        "as_first_process(os.getpid())\n"
        "if os.fork() == 0:\n"
        "    os._exit(0)\n"
        "try:\n"
        "    os.wait()\n"
        "except ChildProcessError:\n"
        "    print('reaped', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(30)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (told.stdout, told.returncode) == ("reaped\n", 128 + signal.SIGTERM), told.stderr


def test_any_other_process_keeps_its_signals() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)]
    as_first_process(0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)] == before
