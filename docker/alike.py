"""Ask two services that hold the same chunks the same questions: their answers have to be alike.

    python3 docker/alike.py --wait URL       only waits until it is ready, five minutes at most
    python3 docker/alike.py URL URL DATA

Needs nothing but Python. Scores may differ by what sums in another order differ by, and two chunks
change places only if their scores are as close.
"""

import sys
from pathlib import Path
from typing import Any

from ask import longest_document
from wire import Service, check

CLOSE = 1e-5
WINDOWS = 24
TOP_K = 10
PATIENCE_S = 300.0


def check_ranks(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Compare two answers of ``/v1/rank``; the largest difference of two weights or scores."""
    check(one["mode"] == other["mode"] == "p8", f"not by P8: {one['mode']}, {other['mode']}")
    left, right = one["results"], other["results"]
    check(len(left) == len(right) == TOP_K, f"expected {TOP_K} results: {left}, {right}")
    scores = {result["id"]: result["score"] for result in left}
    furthest = max(abs(a - b) for a, b in zip(one["alpha"], other["alpha"], strict=True))
    for a, b in zip(left, right, strict=True):
        # It scores as what stands in its place here, and as itself, if it is among the ten here.
        near = [a["score"], scores.get(b["id"], a["score"])]
        differences = [abs(b["score"] - score) for score in near]
        furthest = max(furthest, *differences)
        check(max(differences) < CLOSE, f"here {a}, there {b}")
    return furthest


def compare(here: Service, there: Service, ids: list[str]) -> str:
    """Ranks, with all weights, and pairs, both ways round."""
    furthest, pairs = 0.0, []
    for start in range(WINDOWS):
        window = ids[start : start + 1 + start % 5]
        body = {"context_ids": window, "mode": "p8", "top_k": TOP_K}
        answers = [service.ok("/v1/rank", body) for service in (here, there)]
        furthest = max(furthest, check_ranks(*answers))
        pairs += [
            {"a_id": ids[start], "b_id": ids[start + 1]},
            {"a_id": ids[start + 1], "b_id": ids[start]},
        ]
    told = [service.ok("/v1/order", {"pairs": pairs})["answers"] for service in (here, there)]
    apart = max(abs(a["p_b_after_a"] - b["p_b_after_a"]) for a, b in zip(*told, strict=True))
    check(apart < CLOSE, f"probabilities differ by {apart}")
    for place in range(0, len(pairs), 2):
        both = [told[1][place + turn]["p_b_after_a"] for turn in (0, 1)]
        check(both[0] == 1 - both[1], f"not complementary: {both}")
    return (
        f"{WINDOWS} windows, {TOP_K} results each: weights and scores differ by {furthest:.1e} at"
        f" most; {len(pairs)} order queries: by {apart:.1e}"
    )


def main(words: list[str]) -> None:
    """Run what the command line says."""
    if len(words) == 2 and words[0] == "--wait":
        Service(words[1]).wait(within_s=PATIENCE_S)
        return
    check(len(words) == 3, "usage: alike.py [--wait] URL [URL DATA]")
    ids = list(longest_document(Path(words[2])))
    check(len(ids) > WINDOWS + 5, f"DATA: expected a document of more than {WINDOWS + 5} chunks")
    sys.stdout.write(compare(Service(words[0]), Service(words[1]), ids) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
