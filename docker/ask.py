"""Ask a running service real questions and fail loudly if an answer is wrong.

    python3 docker/ask.py URL DATA CKPT
    python3 docker/ask.py --wait URL      only waits until it is ready
    python3 docker/ask.py --demo URL      asks about the chunks that a first start brings

Needs nothing but Python. What the answers ought to be comes from the vectors in DATA and from
version and verdict of CKPT, the checkpoint that should answer; never from the service.
"""

import base64
import json
import math
import sqlite3
import struct
import sys
import urllib.parse
from pathlib import Path

from wire import Service, check

WINDOW = 3
TOP_K = 10
MOST_CANDIDATES = 200
CLOSE = 1e-4

Vector = tuple[float, ...]


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


def check_demo(service: Service) -> str:
    """What the README asks; the answer that it tells, for the language reference holds still."""
    service.wait()
    window = [f"topics/types:{place}" for place in range(3, 8)]
    answer = service.ok("/v1/rank", {"context_ids": window, "top_k": 3})
    check(answer["mode"] == "p8", f"expected an answer by p8, got {answer}")
    ids = [one["id"] for one in answer["results"]]
    check(len(ids) == 3 and "topics/types:8" in ids, f"expected topics/types:8 among {ids}")
    forth, back = (
        service.ok("/v1/order", {"a_id": a, "b_id": b})["p_b_after_a"]
        for a, b in ((window[0], window[-1]), (window[-1], window[0]))
    )
    check(math.isclose(forth + back, 1, abs_tol=CLOSE), f"order: {forth} + {back} is not 1")
    return f"{window[-1]} -> {ids[0]}, order {forth:.4f}, swapped {back:.4f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--wait"]:
        Service(sys.argv[2]).wait()
    elif sys.argv[1:2] == ["--demo"]:
        sys.stdout.write(check_demo(Service(sys.argv[2])) + "\n")
    else:
        main(sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve())
