"""Ask a running service real questions and fail loudly if an answer is wrong.

    python3 docker/ask.py URL DATA CKPT
    python3 docker/ask.py --wait URL      only waits until it is ready

Needs nothing but Python. What the answers ought to be comes from the vectors in DATA and from
version and verdict of CKPT, the checkpoint that should answer; never from the service.
"""

import base64
import json
import math
import sqlite3
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

READY_WITHIN_S = 60.0
TIMEOUT_S = 30.0
WINDOW = 3
TOP_K = 10
MOST_CANDIDATES = 200
CLOSE = 1e-4

Vector = tuple[float, ...]


class Service:
    """The service under test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """GET, or POST if there is a body; status and decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ok(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answer of a request that must succeed."""
        status, answer = self.call(path, body)
        check(status == 200, f"{path} answered {status}: {answer}")
        return answer

    def wait(self) -> None:
        """Wait until ranks can be answered."""
        until = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                status, answer = self.call("/readyz")
            except OSError as error:
                status, answer = 0, {"detail": str(error)}
            if status == 200:
                return
            check(time.monotonic() < until, f"not ready in {READY_WITHIN_S:g} s: {answer}")
            time.sleep(0.02)


def check(holds: bool, otherwise: str) -> None:
    """Stop with a message unless a condition holds."""
    if not holds:
        raise SystemExit(f"ask: FAILED: {otherwise}")


def longest_document(data: Path) -> dict[str, Vector]:
    """Ids and vectors of the longest document's chunks, in order, from the store itself."""
    store = sqlite3.connect(f"{(data / 'store.sqlite').as_uri()}?mode=ro", uri=True)
    rows = store.execute(
        "SELECT id, vector FROM chunks WHERE document_id = (SELECT document_id FROM chunks"
        " GROUP BY document_id ORDER BY count(*) DESC, document_id LIMIT 1) ORDER BY position"
    ).fetchall()
    store.close()
    check(len(rows) > WINDOW + 1, "DATA: expected a document of at least 5 chunks")
    return {name: struct.unpack(f"<{len(blob) // 4}f", blob) for name, blob in rows}


def check_checkpoint(service: Service, checkpoint: Path) -> str:
    """The checkpoint that is served is the one that is meant."""
    wanted = json.loads((checkpoint / "config.json").read_text())["weights_sha256"][:12]
    found = service.ok("/v1/model")["checkpoint"]
    check(found["version"] == wanted, f"checkpoint: expected version {wanted}, got {found}")
    return f"version {wanted}, {found['status']}"


def check_rank(service: Service, vectors: dict[str, Vector], passed: bool) -> str:
    """Rank by P8, in all three spellings of a vector; the first result's description."""
    ids = list(vectors)
    window, rest = ids[:WINDOW], set(ids[WINDOW:])
    document = service.ok("/v1/chunks/" + urllib.parse.quote(ids[0]))["document_id"]
    same = {"filter": {"document_ids": [document]}, "top_k": TOP_K, "exclude_ids": window}
    by_id = service.ok("/v1/rank", {"context_ids": window, "mode": "p8", **same})
    check(by_id["mode"] == "p8" and by_id["model"]["method"] == "p8", f"not by P8: {by_id}")
    check(len(by_id["alpha"]) == WINDOW, f"expected {WINDOW} weights, got {by_id['alpha']}")
    check(math.isclose(sum(by_id["alpha"]), 1, abs_tol=CLOSE), f"alpha: {by_id['alpha']}")
    results = by_id["results"]
    scores = [one["score"] for one in results]
    check(len(results) == min(TOP_K, len(rest)), f"expected {TOP_K} results: {results}")
    check({one["id"] for one in results} <= rest, f"results from elsewhere: {results}")
    check(scores == sorted(scores, reverse=True), f"not best first: {scores}")
    check(all(one["text"] for one in results), "results without text")

    numbers = [vectors[name] for name in window]
    base64s = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in numbers]
    for context in (numbers, base64s):
        by_vector = service.ok("/v1/rank", {"context": context, "mode": "p8", **same})
        for one, other in zip(by_vector["results"], results, strict=True):
            near = math.isclose(one["score"], other["score"], abs_tol=CLOSE)
            check(one["id"] == other["id"] and near, f"by vectors {one}, by ids {other}")

    auto = service.ok("/v1/rank", {"context_ids": window, "top_k": TOP_K})
    wanted = ("p8", None) if passed else ("retrieval", "gate_failed")
    check((auto["mode"], auto["fallback_reason"]) == wanted, f"auto: not {wanted}: {auto}")
    check(len(auto["results"]) == TOP_K, "expected results from the whole index")
    return f"{window[-1]} -> {results[0]['id']} ({scores[0]:.4f}), auto by {auto['mode']}"


def check_direct(service: Service, vectors: dict[str, Vector]) -> str:
    """Compare retrieval with cosines that are computed here; applies to DIRECT only."""
    last, *others = list(vectors)[:MOST_CANDIDATES]
    candidates = [{"id": name, "vector": vectors[name]} for name in others]
    body = {"context": [vectors[last]], "candidates": candidates, "mode": "retrieval"}
    answer = service.ok("/v1/score", body)
    if answer["model"]["method"] != "direct":
        return "not compared, the checkpoint's tower answers"
    for one, name in zip(answer["results"], others, strict=True):
        cosine = math.fsum(a * b for a, b in zip(vectors[last], vectors[name], strict=True))
        near = math.isclose(one["score"], cosine, abs_tol=CLOSE)
        check(one["id"] == name and near, f"{name}: expected cosine {cosine}, got {one}")
    return f"{len(others)} cosines as computed here"


def check_order(service: Service, vectors: dict[str, Vector]) -> str:
    """Ask for the order of the first chunk and the last, both ways."""
    ids = list(vectors)
    forth = service.ok("/v1/order", {"a_id": ids[0], "b_id": ids[-1]})["p_b_after_a"]
    body = {"a": vectors[ids[-1]], "b": vectors[ids[0]]}
    back = service.ok("/v1/order", body)["p_b_after_a"]
    check(0 < forth < 1 and forth != 0.5, f"order: expected a probability, got {forth}")
    check(math.isclose(forth + back, 1, abs_tol=CLOSE), f"order: {forth} + {back} is not 1")
    return f"P({ids[-1]} after {ids[0]}) = {forth:.4f}, swapped {back:.4f}"


def check_refusal(service: Service) -> str:
    """A vector of a wrong dimension is the caller's mistake, and is told so."""
    status, problem = service.call("/v1/rank", {"context": [[1.0, 0.0]]})
    check(400 <= status < 500 and "code" in problem, f"expected a 4xx problem, got {problem}")
    return f"{status} {problem['code']}"


def main(url: str, data: Path, checkpoint: Path) -> None:
    """Ask everything."""
    service = Service(url)
    service.wait()
    vectors = longest_document(data)
    passed = json.loads((checkpoint / "gate.json").read_text())["verdict"] == "passed"
    said = {
        "model": check_checkpoint(service, checkpoint),
        "rank": check_rank(service, vectors, passed),
        "direct": check_direct(service, vectors),
        "order": check_order(service, vectors),
        "wrong": check_refusal(service),
    }
    sys.stdout.write("".join(f"{name + ':':8}{line}\n" for name, line in said.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--wait"]:
        Service(sys.argv[2]).wait()
    else:
        main(sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve())
