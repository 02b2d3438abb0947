import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.contest.bodies import BOUNDARY, Form, write_bodies, write_for_k6
from benchmarks.contest.prepare import PROJECTED
from benchmarks.contest.servers import Server, StartError, descendants, free_port, post
from benchmarks.contest.verify import Direct, WrongAnswerError
from benchmarks.peers.job import CHECKPOINT, IDS, from_json, from_octets
from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import P8Config
from models.model import P8Model
from models.scoring import Method, Scorer

PROGRAM = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(422 if self.path == "/mistake" else 200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    running = Server([sys.executable, "-c", PROGRAM, str(port)], {}, tmp_path / "log", port)
    yield running
    running.stop()


def states(pids: set[int]) -> set[str]:
    return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}


def test_a_server_is_all_of_its_processes(server: Server) -> None:
    assert server.wait("/", "text/plain", b"hello") > 0.0
    assert post(server.port, "/", "text/plain", b"body") == (200, b"body")
    tree = descendants(server.pid)
    assert len(tree) == 2
    memory = server.memory()
    assert memory.total_mb > memory.anonymous_mb > 1.0
    server.freeze()
    deadline = time.monotonic() + 10.0
    while states(tree) != {"T"}:
        assert time.monotonic() < deadline
    server.thaw()
    assert post(server.port, "/", "text/plain", b"again") == (200, b"again")
    server.stop()
    deadline = time.monotonic() + 10.0
    while any(
        Path(f"/proc/{pid}/maps").exists() and Path(f"/proc/{pid}/maps").read_text() for pid in tree
    ):
        assert time.monotonic() < deadline


def test_a_mistake_is_told_at_once(server: Server) -> None:
    server.wait("/", "text/plain", b"hello")
    with pytest.raises(StartError, match="422"):
        server.wait("/mistake", "text/plain", b"hello")


def test_a_server_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "print('no such file'); raise SystemExit(3)"]
    dead = Server(program, {}, tmp_path / "log", free_port())
    with pytest.raises(StartError, match="no such file"):
        dead.wait("/", "text/plain", b"")
    dead.stop()


WINDOW = np.random.default_rng(0).standard_normal((5, 384)).astype(np.float32)


@pytest.mark.parametrize("kind", ["numbers", "base64"])
@pytest.mark.parametrize("nested", [False, True])
def test_windows_come_through_json_to_the_last_bit(kind: str, nested: bool) -> None:
    form = Form(path="/", content_type="application/json", kind=kind, nested=nested)
    context = json.loads(form.body(WINDOW))["context"]
    assert np.array_equal(from_json(context[0] if nested else context), WINDOW)


def test_windows_come_through_as_octets() -> None:
    octets = Form(path="/", content_type="application/octet-stream", kind="octets").body(WINDOW)
    assert np.array_equal(from_octets(octets), WINDOW)
    form = Form(path="/", content_type="multipart/form-data", kind="file").body(WINDOW)
    head, _, rest = form.partition(b"\r\n\r\n")
    assert head.startswith(b"--" + BOUNDARY.encode())
    assert rest == octets + f"\r\n--{BOUNDARY}--\r\n".encode()


def test_files_of_bodies(tmp_path: Path) -> None:
    write_bodies([b"one", b"\nthree\n"], tmp_path / "wrk")
    assert (tmp_path / "wrk").read_bytes() == b"3\none7\n\nthree\n"
    assert write_for_k6([b'{"a": 1}', b'{"b": 12}'], tmp_path / "texts") == 9
    written = (tmp_path / "texts").read_bytes()
    assert [json.loads(written[:9]), json.loads(written[9:])] == [{"a": 1}, {"b": 12}]
    assert write_for_k6([b"\x00\x01", b"\x02\x03"], tmp_path / "octets") == 2
    assert (tmp_path / "octets").read_bytes() == b"\x00\x01\x02\x03"


CHUNKS, DIMENSION = 60, 16


@pytest.fixture
def direct(tmp_path: Path) -> Direct:
    torch.manual_seed(0)
    model = P8Model(P8Config(dimension=DIMENSION, hidden=16, layers=1)).eval()
    gate = {"verdict": "passed", "tower": None}
    save_checkpoint(
        tmp_path / CHECKPOINT,
        model,
        order_weight=0.0,
        gate=gate,
        metrics={},
        provenance={"data": []},
        card="# x\n",
    )
    np.save(tmp_path / PROJECTED, Scorer(model).project(chunks()))
    (tmp_path / IDS).write_text(json.dumps([f"chunk:{row}" for row in range(CHUNKS)]))
    return Direct(tmp_path, [chunks()[:5], chunks()[7:12]])


def chunks() -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((CHUNKS, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def right_answers(folder: Path) -> list[tuple[list[str], list[float]]]:
    scorer = Scorer(load_checkpoint(folder / CHECKPOINT).model)
    projected = np.load(folder / PROJECTED)
    answers = []
    for window in (chunks()[:5], chunks()[7:12]):
        scores = projected @ scorer.query(*scorer.pack([window]), Method.P8).vectors_BD[0]
        best = np.argsort(-scores)[:10]
        answers.append(([f"chunk:{row}" for row in best], scores[best].tolist()))
    return answers


def test_right_answers_are_right(direct: Direct, tmp_path: Path) -> None:
    found = direct.compare("one", right_answers(tmp_path), 1e-5)
    assert (found.windows, found.recall) == (2, 1.0)
    assert found.worst_error <= 1e-6


def test_a_wrong_score_is_found(direct: Direct, tmp_path: Path) -> None:
    answers = right_answers(tmp_path)
    answers[1][1][-1] -= 1e-3
    with pytest.raises(WrongAnswerError, match="one: expected scores within 1e-05"):
        direct.compare("one", answers, 1e-5)
    assert direct.compare("one", answers, 3e-3).worst_error == pytest.approx(1e-3, rel=0.01)


def test_ids_that_are_not_the_best_are_found(direct: Direct, tmp_path: Path) -> None:
    (ids, scores), other = right_answers(tmp_path)
    # Scores that belong to their chunks, of chunks that are not the ten best.
    scorer = Scorer(load_checkpoint(tmp_path / CHECKPOINT).model)
    query = scorer.query(*scorer.pack([chunks()[:5]]), Method.P8).vectors_BD[0]
    scores_N = np.load(tmp_path / PROJECTED) @ query
    worst = np.argsort(scores_N)[:10][::-1]
    ids, scores = [f"chunk:{row}" for row in worst], scores_N[worst].tolist()
    with pytest.raises(WrongAnswerError, match=r"recall of 0\.95, got .* and 0\.500"):
        direct.compare("one", [(ids, scores), other], 1e-5)


def test_answers_that_are_no_ranking_are_found(direct: Direct, tmp_path: Path) -> None:
    (ids, scores), other = right_answers(tmp_path)
    for wrong in ((ids[::-1], scores[::-1]), (ids[:9], scores[:9])):
        with pytest.raises(WrongAnswerError, match="expected 10 ids, best first"):
            direct.compare("one", [wrong, other], 1e-5)
