"""The chunks that every backend is asked about, and how two answers are compared."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from service.client import encode_vector

from .conftest import unit_rows
from .test_columns import any_metadata

Chunk = dict[str, Any]
Hit = dict[str, Any]

NEAR = 1e-5
READ = {"alpha": 12, "beta": 9, "x/y:z": 7, "delta": 20}
"""Documents to read in, and their chunks."""
RANDOM = 120
"""Chunks with metadata at random."""
ODD_IDS = [
    "o'1",
    'o"2',
    "o\\3",
    "o😀4",
    "o/5/6",
    "o 7%41",
    "o\n8",
    'o"] or id != "',
    "o{9}",
    "o\u00e9",
    "oe\u0301",
    "O",
    "o",
    "o ",
    "größer:Ω",
    "o" * 1024,
]
TWINS = [f"twin{number}" for number in range(4)]
"""Chunks of the same vector: which of them comes first is decided somehow."""
LONG = "the same thirty-two bytes, then "
ODD_METADATA: list[dict[str, Any]] = [
    {"n": [1, 9]},
    {"n": [1, 3, 9]},
    {"n": 3},
    {"n": 3.0, "s": "3"},
    {"n": "3"},
    {"n": True},
    {"n": 1},
    {"n": "true"},
    {"n": [None, [3], {"n": 3}]},
    {"n": [None, [3], 4.5]},
    {"n": None},
    {"n": []},
    {"n": {}},
    {"n": ""},
    {"n": -0.0},
    {"n": 0},
    {"n": False},
    {"n": 2**53},
    {"n": 2**53 + 1},
    {"n": 2**63 - 1},
    {"n": -(2**63)},
    {"n": 10**25},
    {"n": -1e308},
    {"n": 5e-324},
    {"s": LONG + "a"},
    {"s": LONG + "b"},
    {"s": [LONG + "c", LONG]},
    {"s": LONG[:24]},
    {"s": LONG[:23]},
    {"s": "\U0001f600" * 8},
    {"s": "\uffff"},
    {"s": "nul\u0000l"},
    {"a": {"b": {"c": 1, "d": ["x", "y"]}}},
    {"a.b.c": 1},
    {"a": {"b.c": [1, 2]}},
    {"it's": 1, 'a "quote"': 2, "back\\slash": 3, "größe 😀": 4, "": 5, "x]['y": 6, "%": 7},
]
CONDITIONS: list[dict[str, Any]] = [
    {"n": {"gt": 2, "lt": 5}},
    {"n": {"gte": 3, "lte": 3}},
    {"n": {"gt": 8}},
    {"n": {"lt": 0}},
    {"n": 3},
    {"n": "3"},
    {"n": True},
    {"n": False},
    {"n": 1},
    {"n": 0},
    {"n": -0.0},
    {"n": ""},
    {"n": {"in": [1, "3", True, 4.5]}},
    {"n": {"in": [1, 9], "gt": 1}},
    {"n": {"eq": 3, "in": [9, 3]}},
    {"n": {"eq": 3, "in": [9]}},
    {"n": {"exists": True}},
    {"n": {"exists": False}},
    {"n": {"exists": True, "gt": 1}},
    {"n": {"exists": False, "eq": 3}},
    {"n": 2**53},
    {"n": 2**53 + 1},
    {"n": {"gte": 2**63 - 1}},
    {"n": {"gt": 1e25}},
    {"n": {"gte": 1e25}},
    {"n": {"lte": -1e308}},
    {"n": {"gt": 0, "lt": 1}},
    {"n": {"gte": "", "lt": "4"}},
    {"n": {"gt": "3"}},
    {"s": LONG + "a"},
    {"s": {"in": [LONG + "b", LONG]}},
    {"s": {"gt": LONG + "a"}},
    {"s": {"gte": LONG + "a", "lt": LONG + "c"}},
    {"s": {"lt": LONG}},
    {"s": {"lte": LONG[:24]}},
    {"s": {"gt": "\ud7ff"}},
    {"s": {"gt": "\uffff"}},
    {"s": "nul\u0000l"},
    {"s": "nul"},
    {"a.b.c": 1},
    {"a.b.c": {"gt": 1}},
    {"a.b.d": "y"},
    {"a.b": {"exists": True}},
    {"a": {"exists": False}, "n": {"exists": False}, "s": {"exists": False}},
    {"it's": 1, 'a "quote"': 2, "back\\slash": 3, "größe 😀": 4, "": 5, "x]['y": 6, "%": 7},
    {"it's": 2},
    {"back\\slash": {"gte": 3}},
    {"größe 😀": {"lt": 5}},
]
POSITIONS: list[dict[str, Any]] = [
    {"gte": -(2**63)},
    {"gt": -(2**63)},
    {"gt": -(2**63) + 1},
    {"lte": -(2**63)},
    {"lt": -(2**63)},
    {"lt": -(2**63) + 2},
    {"lt": 2**64 - 1},
    {"lte": 2**63 - 1},
    {"lt": 2**63 - 1},
    {"gt": 2**63 - 1},
    {"gte": 2**64 - 1},
    {"gt": -1, "lte": 30},
]
EDGES = [-(2**63), -(2**63) + 1, -1, 0, 2**53 + 1, 2**63 - 2, 2**63 - 1]
"""Positions of the chunks of the document ``edges``."""


def chunk(name: str, document_id: str, position: int, vector_D: np.ndarray, **more: Any) -> Chunk:
    """A chunk as ``PUT /v1/chunks`` wants it."""
    return {
        "id": name,
        "document_id": document_id,
        "position": position,
        "vector": encode_vector(vector_D),
        **more,
    }


def asked_chunks() -> tuple[list[Chunk], dict[str, np.ndarray]]:
    """All chunks that are asked about, and the vector of each."""
    rng = random.Random(11)
    bare: list[Chunk] = [
        {
            "id": f"{name}:{place}",
            "document_id": name,
            "position": place * 3 - 5,
            "text": f"Chunk {place} of {name}: größer.",
            "metadata": {"section": f"Part {place // 5}", "title": f"About {name}"},
        }
        for name, count in READ.items()
        for place in range(count)
    ]
    bare += [
        {
            "id": f"r{number}",
            "document_id": f"d{rng.randrange(6)}",
            "position": rng.randrange(8),
            "metadata": any_metadata(rng),
        }
        for number in range(RANDOM)
    ]
    bare += [
        {"id": name, "document_id": f"doc of {name[:900]}", "position": 0, "text": f"Of {name}"}
        for name in ODD_IDS
    ]
    bare += [
        {"id": f"m{number}", "document_id": "odd", "position": number, "metadata": metadata}
        for number, metadata in enumerate(ODD_METADATA)
    ]
    bare += [
        {"id": f"e{number}", "document_id": "edges", "position": position}
        for number, position in enumerate(EDGES)
    ]
    bare += [{"id": name, "document_id": "twins", "position": 0} for name in TWINS]
    rows_ND = unit_rows(len(bare), 40)
    rows_ND[-len(TWINS) :] = rows_ND[-len(TWINS)]
    vectors = {one["id"]: row_D for one, row_D in zip(bare, rows_ND, strict=True)}
    for one in bare:
        one["vector"] = encode_vector(vectors[one["id"]])
    return bare, vectors


def agree(found: list[Hit], expected: list[Hit]) -> None:
    """Check that two rankings are the same, but for the order of level ones."""
    scores, wanted = [one["score"] for one in found], [one["score"] for one in expected]
    np.testing.assert_allclose(scores, wanted, atol=NEAR)
    assert len({one["id"] for one in found}) == len(found)
    theirs = {one["id"]: one for one in expected}
    mine = {one["id"]: one for one in found}
    for name in mine.keys() & theirs.keys():
        _same_hit(mine[name], theirs[name])
    # Of chunks that are level, one or the other may be answered.
    odd = [
        sorted(one["score"] for name, one in these.items() if name not in others)
        for these, others in ((mine, theirs), (theirs, mine))
    ]
    np.testing.assert_allclose(*odd, atol=NEAR)


def _same_hit(one: Hit, other: Hit) -> None:
    assert one.keys() == other.keys()
    for member in one.keys() - {"score", "parts"}:
        assert one[member] == other[member], member
    for part, value in one["parts"].items():
        assert abs(value - other["parts"][part]) <= NEAR, part


def best(vectors: dict[str, np.ndarray], query_D: np.ndarray, names: set[str]) -> list[Hit]:
    """Rank chunks by their cosine to a query, by brute force."""
    scored = [{"id": name, "score": float(vectors[name] @ query_D)} for name in names]
    return sorted(scored, key=lambda one: -one["score"])


def eventually(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait until something holds."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)
