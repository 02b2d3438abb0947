"""Filters as they are told to Milvus: whatever passes the filter passes the expression."""

import random
import re
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from service.milvus.filtering import SEARCH_LIMIT_BYTES, expression_of, search_field
from service.milvus.tables import key_of

from .contract_data import CONDITIONS, EDGES, LONG, ODD_METADATA, POSITIONS
from .test_columns import any_metadata
from .test_filters import any_filter, parsed, passes


class Nowhere:
    """What Milvus makes of a member that is not there: every comparison with it is false."""

    def __ge__(self, other: object) -> bool:
        return False

    __le__ = __ge__


class Members(dict[str, Any]):
    def __missing__(self, key: str) -> Nowhere:
        return Nowhere()


def told(filter_: Mapping[str, Any]) -> str:
    given = parsed(dict(filter_))
    ids = given.document_ids
    return expression_of(given, None if ids is None else sorted(map(key_of, ids)))


def holds(expression: str, chunk: Mapping[str, Any]) -> bool:
    """Evaluate an expression, whose grammar is Python's."""
    return bool(eval(expression or "True", {"__builtins__": {}}, names_of(chunk)))


def names_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "search": Members(orjson.loads(orjson.dumps(search_field(chunk["metadata"])))),
        "position": chunk["position"],
        "document_key": key_of(chunk["document_id"]),
        "json_contains": lambda held, one: one in held,
        "json_contains_any": lambda held, some: not set(held).isdisjoint(some),
    }


def chunk_of(rng: random.Random, metadata: Mapping[str, Any]) -> dict[str, Any]:
    place = {"document_id": f"d{rng.randrange(6)}", "position": rng.randrange(8)}
    return {**place, "metadata": metadata}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_passes_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    chunks = [chunk_of(rng, any_metadata(rng)) for _ in range(150)]
    names = [names_of(chunk) for chunk in chunks]
    lost, passed, more = 0, 0, 0
    for _ in range(100):
        filter_ = any_filter(rng, 6)
        expression = compile(told(filter_), "expression", "eval")
        for chunk, known in zip(chunks, names, strict=True):
            wanted, found = passes(chunk, filter_), bool(eval(expression, {}, known))
            lost += wanted and not found
            passed += wanted
            more += found and not wanted
    assert lost == 0
    assert more < passed / 5


@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
def test_nor_of_what_is_odd(conditions: dict[str, Any]) -> None:
    expression = told({"metadata": conditions})
    for metadata in ODD_METADATA:
        chunk = {"document_id": "odd", "position": 0, "metadata": metadata}
        if passes(chunk, {"metadata": conditions}):
            assert holds(expression, chunk), metadata


@pytest.mark.parametrize("bounds", POSITIONS, ids=str)
def test_positions_are_told_exactly(bounds: dict[str, int]) -> None:
    expression = told({"position": bounds})
    for position in EDGES:
        chunk = {"document_id": "edges", "position": position, "metadata": {}}
        assert holds(expression, chunk) == passes(chunk, {"position": bounds}), position
    # Milvus reads integers of 64 bits, and a minus as a sign of its own.
    assert all(int(digits) < 2**63 for digits in re.findall(r"\d+", expression))


@pytest.mark.parametrize(
    "conditions",
    [
        {"k": 3},
        {"k": "3"},
        {"k": True},
        {"k": {"in": [3, "x", False]}},
        {"k": {"exists": True}},
        {"k": {"exists": False}},
        {"k": {"exists": False, "eq": 3}},
        {"k": {"eq": 3, "in": [4]}},
        {"k": 0},
    ],
    ids=str,
)
def test_equality_is_told_exactly(conditions: dict[str, Any]) -> None:
    for value in (3, 3.0, "3", True, "x", False, 4, 0, -0.0, None, [], [3, "x"], {"k": 3}):
        chunk = {"document_id": "d", "position": 0, "metadata": {"k": value}}
        assert holds(told({"metadata": conditions}), chunk) == passes(
            chunk, {"metadata": conditions}
        ), value


def test_two_elements_may_pass_two_bounds_between_them() -> None:
    chunk = {"document_id": "d", "position": 0, "metadata": {"k": [1, 9]}}
    assert holds(told({"metadata": {"k": {"gt": 2, "lt": 5}}}), chunk)
    assert not holds(told({"metadata": {"k": {"gt": 9.5}}}), chunk)


def test_strings_are_told_by_their_first_bytes() -> None:
    def found(value: str, **bounds: str) -> bool:
        chunk = {"document_id": "d", "position": 0, "metadata": {"k": value}}
        return holds(told({"metadata": {"k": bounds}}), chunk)

    assert found(LONG + "a", gte=LONG + "b")  # which who checks drops
    assert not found("a", gte="b")
    assert not found("b", lt="a\u0000")
    assert found("\U0001f600", gt="\uffff")
    assert not found("\uffff", gt="\U0001f600")
    assert found("", lte="")


def test_no_word_of_a_request_stands_in_an_expression() -> None:
    odd = "\"] or key != '\\"
    filter_ = {
        "document_ids": [odd],
        "metadata": {
            odd: odd,
            f"{odd}.a": {"in": [odd, "x"]},
            f"{odd}.b": {"gte": odd, "lt": odd + odd},
            f"{odd}.c": {"exists": False},
        },
    }
    expression = told(filter_)
    assert "\\" not in expression
    assert "'" not in expression
    words = set(re.findall(r"\"([^\"]*)\"", expression))
    assert all(re.fullmatch(r"t|[0-9a-f]+g?|[0-9a-f]{16}[ns][lh]", word) for word in words)


def test_the_field_is_small_and_says_no_more_than_digests() -> None:
    field = search_field({"title": "A secret", "n": [3, 1, 2], "gone": None, "deep": {"x": True}})
    assert "secret" not in str(field)
    assert len(field["t"]) == 3 + 1 + 3 + 1
    assert {value for key, value in field.items() if key[16:] == "nl"} == {1.0}
    assert {value for key, value in field.items() if key[16:] == "nh"} == {3.0}
    assert search_field({}) == {"t": []}
    # The greatest metadata that the service takes, in short values, is what passes this limit.
    many = search_field({"k": [f"{number}" for number in range(4000)]})
    assert len(orjson.dumps(many)) > SEARCH_LIMIT_BYTES
