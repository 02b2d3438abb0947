import random
from typing import Any

import numpy as np
import pytest

from service.columns import KEY_LIMIT, Condition
from service.errors import InvalidRequestError
from service.filters import ChunkFilter, MetadataCondition, matching_slots
from service.schemas import Body, check

from .test_columns import COMPARE, any_members, any_metadata, filled, holds


class Query(Body):
    filter: ChunkFilter | None = None


def parsed(filter_: dict[str, Any]) -> ChunkFilter:
    checked = check(Query, {"filter": filter_}).filter
    assert checked is not None
    return checked


def any_filter(rng: random.Random, documents: int) -> dict[str, Any]:
    ids = [f"d{rng.randrange(documents + 2)}" for _ in range(rng.randrange(1, 5))]
    metadata: dict[str, Any] = {}
    for key in rng.sample(["a", "b", "c", "a.b"], rng.randrange(1, 3)):
        members = any_members(rng)
        metadata[key] = members["eq"] if list(members) == ["eq"] else members
    range_ = {name: rng.randrange(-1, 8) for name in rng.sample(list(COMPARE), rng.randrange(1, 3))}
    every = {"document_ids": ids, "position": range_, "metadata": metadata}
    return {name: every[name] for name in rng.sample(list(every), rng.randrange(1, 4))}


def passes(chunk: dict[str, Any], filter_: dict[str, Any]) -> bool:
    if "document_ids" in filter_ and chunk["document_id"] not in filter_["document_ids"]:
        return False
    bounds = filter_.get("position", {}).items()
    if not all(COMPARE[name](chunk["position"], bound) for name, bound in bounds):
        return False
    return all(
        holds(chunk["metadata"], key, wanted if isinstance(wanted, dict) else {"eq": wanted})
        for key, wanted in filter_.get("metadata", {}).items()
    )


@pytest.mark.parametrize("seed", range(4))
def test_filters_agree_with_brute_force(seed: int) -> None:
    rng, documents = random.Random(seed), 6
    chunks = [
        {
            "document_id": f"d{rng.randrange(documents)}",
            "position": rng.randrange(8),
            "metadata": any_metadata(rng),
        }
        for _ in range(200)
    ]
    columns = filled([chunk["metadata"] for chunk in chunks])
    positions = np.array([chunk["position"] for chunk in chunks])

    def slots_of(document_id: str) -> np.ndarray:
        return np.flatnonzero([chunk["document_id"] == document_id for chunk in chunks])

    partly = 0
    for _ in range(300):
        filter_ = any_filter(rng, documents)
        count = rng.choice([0, rng.randrange(len(chunks)), len(chunks)])
        found = matching_slots(
            parsed(filter_),
            columns=columns,
            positions_N=positions,
            slots_of_document=slots_of,
            count=count,
        )
        assert found.dtype == np.bool_
        assert found.tolist() == [passes(chunk, filter_) for chunk in chunks[:count]], filter_
        partly += 0 < found.sum() < count
    assert partly > 50


def test_documents_alone_need_neither_positions_nor_metadata() -> None:
    slots = {"x": np.array([1, 5, 9]), "y": np.array([3])}
    found = matching_slots(
        parsed({"document_ids": ["x", "y", "x", "none"]}),
        columns=filled([]),
        positions_N=np.empty(0, np.int64),
        slots_of_document=lambda one: slots.get(one, np.empty(0, np.int64)),
        count=6,
    )
    assert found.tolist() == [False, True, False, True, False, True]


def test_positions_are_compared_exactly_however_large() -> None:
    positions = np.array([2**53, 2**53 + 1, 2**63 - 1, -(2**63)])

    def slots(**bounds: int) -> list[int]:
        found = matching_slots(
            parsed({"position": bounds}),
            columns=filled([]),
            positions_N=positions,
            slots_of_document=lambda _: np.empty(0, np.int64),
            count=4,
        )
        return np.flatnonzero(found).tolist()

    assert slots(gt=2**53) == [1, 2]
    assert slots(lte=2**53, gte=0) == [0]
    assert slots(lt=10**30) == [0, 1, 2, 3]
    assert slots(gte=10**30) == []


def test_a_condition_says_the_same_to_the_columns() -> None:
    filter_ = parsed(
        {
            "metadata": {
                "scalar": "x",
                "object": {"eq": "x"},
                "zero": 0,
                "false": {"eq": False},
                "several": {"in": [1, "1", True], "gt": 0, "lte": 2.5, "exists": True},
                "absent": {"exists": False},
            }
        }
    )
    assert filter_.metadata is not None
    assert {key: one.condition() for key, one in filter_.metadata.items()} == {
        "scalar": Condition(eq="x"),
        "object": Condition(eq="x"),
        "zero": Condition(eq=0.0),
        "false": Condition(eq=False),
        "several": Condition(one_of=(1.0, "1", True), gt=0.0, lte=2.5),
        "absent": Condition(exists=False),
    }
    assert filter_.metadata["false"].condition().eq is False
    assert ChunkFilter.model_validate(filter_) is filter_


ANY_SCALAR = "a string, a number or a boolean"
ANY_CONDITION = "a string, a number, a boolean or an object of conditions"
CONDITIONS = "at least one of eq, in, gt, gte, lt, lte, exists"
LONG_KEY = "k" * (KEY_LIMIT + 1)


@pytest.mark.parametrize(
    ("filter_", "field", "expected", "actual"),
    [
        ({}, "", "at least one of document_ids, position, metadata", "none"),
        ({"document_ids": None}, "", "at least one of document_ids, position, metadata", "none"),
        ({"documents": ["d"]}, ".documents", "no such member", "one"),
        (["d"], "", "a JSON object", "a value of type list"),
        ({"document_ids": []}, ".document_ids", "at least 1 items", "0"),
        ({"document_ids": ["d"] * 10_001}, ".document_ids", "at most 10000 items", "10001"),
        ({"document_ids": ["d", 1]}, ".document_ids.1", "a valid string", "1"),
        ({"document_ids": ["d", ""]}, ".document_ids.1", "at least 1 character", "''"),
        ({"document_ids": ["d" * 1025]}, ".document_ids.0", "at most 1024", "a value of type str"),
        ({"position": {}}, ".position", "at least one of gt, gte, lt, lte", "none"),
        ({"position": {"gt": None}}, ".position", "at least one of gt, gte, lt, lte", "none"),
        ({"position": {"gt": "1"}}, ".position.gt", "a valid integer", "'1'"),
        ({"position": {"lte": 1.0}}, ".position.lte", "a valid integer", "1.0"),
        ({"position": {"lte": True}}, ".position.lte", "a valid integer", "True"),
        ({"position": {"eq": 1}}, ".position.eq", "no such member", "one"),
        ({"metadata": {}}, ".metadata", "at least 1 items", "0"),
        ({"metadata": ["k"]}, ".metadata", "an object of keys and conditions", "a list"),
        ({"metadata": {f"{i}": 1 for i in range(65)}}, ".metadata", "at most 64 keys", "65"),
        ({"metadata": {LONG_KEY: 1}}, ".metadata", "keys of at most 1024", "one of 1025"),
        ({"metadata": {"k": None}}, ".metadata.k", ANY_CONDITION, "null"),
        ({"metadata": {"k": [1]}}, ".metadata.k", ANY_CONDITION, "a list"),
        ({"metadata": {"k": b"1"}}, ".metadata.k", ANY_CONDITION, "a value of type bytes"),
        ({"metadata": {"k": {}}}, ".metadata.k", CONDITIONS, "none"),
        ({"metadata": {"k": {"in_": [1]}}}, ".metadata.k.in_", "no such member", "one"),
        ({"metadata": {"k": {"b": 1}}}, ".metadata.k.b", "no such member", "one"),
        ({"metadata": {"k": {"eq": None}}}, ".metadata.k.eq", ANY_SCALAR, "null"),
        ({"metadata": {"k": {"eq": {"b": 1}}}}, ".metadata.k.eq", ANY_SCALAR, "an object"),
        ({"metadata": {"k": {"in": []}}}, ".metadata.k.in", "at least 1 items", "0"),
        ({"metadata": {"k": {"in": "a"}}}, ".metadata.k.in", "a valid list", "'a'"),
        ({"metadata": {"k": {"in": [1, None]}}}, ".metadata.k.in.1", ANY_SCALAR, "null"),
        ({"metadata": {"k": {"gt": True}}}, ".metadata.k.gt", "a number or a string", "a boolean"),
        ({"metadata": {"k": {"lt": None}}}, ".metadata.k.lt", "a number or a string", "null"),
        ({"metadata": {"k": {"gt": 1, "lt": "a"}}}, ".metadata.k", "all to be strings", "both"),
        ({"metadata": {"k": {"exists": 1}}}, ".metadata.k.exists", "a valid boolean", "1"),
        ({"metadata": {"k": {"eq": 10**400}}}, ".metadata.k.eq", "a finite float64", "one beyond"),
        ({"metadata": {"k": {"gt": float("nan")}}}, ".metadata.k.gt", "a finite float64", "beyond"),
    ],
)
def test_mistakes_are_named(filter_: object, field: str, expected: str, actual: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check(Query, {"filter": filter_})
    members = caught.value.members
    assert members["field"] == f"filter{field}"
    assert expected in members["expected"]
    assert actual in members["actual"]


def test_the_schema_shows_both_forms_of_a_condition() -> None:
    schema = MetadataCondition.model_json_schema(by_alias=True)
    kinds = {form["type"]: form for form in schema["anyOf"]}
    assert list(kinds) == ["string", "number", "boolean", "object"]
    members = kinds["object"]["properties"]
    assert list(members) == ["eq", "in", "gt", "gte", "lt", "lte", "exists"]
    assert all(member["description"] for member in members.values())
    assert kinds["object"]["additionalProperties"] is False
    metadata = ChunkFilter.model_json_schema()["properties"]["metadata"]["anyOf"][0]
    assert metadata["additionalProperties"] == {"$ref": "#/$defs/MetadataCondition"}
    assert (metadata["minProperties"], metadata["maxProperties"]) == (1, 64)
