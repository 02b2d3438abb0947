"""Filters of the live index: what a request may say, and which slots it leaves.

Shapes: N slots.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.columns import KEY_LIMIT, Columns, Condition, Scalar, Slots, as_number

DOCUMENT_LIMIT = 10_000
DOCUMENT_ID_LIMIT = 1024
METADATA_LIMIT = 64
IN_LIMIT = 10_000
BOUNDS = ("gt", "gte", "lt", "lte")

_NUMBER = {"type": "number"}
_STRING = {"type": "string"}
_SCALAR = {"anyOf": [_STRING, _NUMBER, {"type": "boolean"}]}


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool):
        return value
    return _number_or_string(value, "a string, a number or a boolean")


def _bound(value: object) -> str | float:
    return _number_or_string(value, "a number or a string")


def _number_or_string(value: object, expected: str) -> str | float:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected {expected}, got {_found(value)}")
    if not math.isfinite(number := as_number(value)):
        raise ValueError("expected a finite float64 number, got one beyond it")
    return number


def _few_short_keys(members: object) -> object:
    # Limits of the types themselves would say less: the field of a long key's message would repeat
    # all of it, and pydantic does not count the members of an object that has too many.
    if not isinstance(members, dict):
        raise ValueError(f"expected an object of keys and conditions, got {_found(members)}")
    if len(members) > METADATA_LIMIT:
        raise ValueError(f"expected at most {METADATA_LIMIT} keys, got {len(members)}")
    for key in members:
        if isinstance(key, str) and len(key) > KEY_LIMIT:
            wanted = f"keys of at most {KEY_LIMIT} characters"
            raise ValueError(f"expected {wanted}, got one of {len(key)}")
    return members


def _found(value: object) -> str:
    known = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    return known.get(type(value), f"a value of type {type(value).__name__}")


AnyScalar = Annotated[Any, PlainValidator(_scalar), WithJsonSchema(_SCALAR)]
Bound = Annotated[Any, PlainValidator(_bound), WithJsonSchema({"anyOf": [_NUMBER, _STRING]})]
DocumentId = Annotated[str, Field(min_length=1, max_length=DOCUMENT_ID_LIMIT)]


class _Part(BaseModel):
    """What all parts of a filter share: no coercion, no unknown members, and at least one."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="after")
    def _one_at_least(self) -> "_Part":
        if not self._given():
            names = ", ".join(info.alias or name for name, info in type(self).model_fields.items())
            raise ValueError(f"expected at least one of {names}, got none")
        return self

    def _given(self) -> set[str]:
        return {name for name in self.model_fields_set if getattr(self, name) is not None}


class PositionRange(_Part):
    """Bounds of a chunk's position in its document; all that are given must hold."""

    gt: int | None = None
    gte: int | None = None
    lt: int | None = None
    lte: int | None = None


class MetadataCondition(_Part):
    """What a metadata value must pass: the value it must equal, or an object of conditions.

    All members that are given must hold. Strings, numbers and booleans are of different kinds and
    never equal; numbers are compared as float64. A list passes if one of its elements passes all.
    """

    eq: AnyScalar = Field(default=None, description="Equal to this.")
    in_: list[AnyScalar] = Field(
        default_factory=list,
        alias="in",
        min_length=1,
        max_length=IN_LIMIT,
        description="Equal to one of these.",
    )
    gt: Bound = Field(
        default=None,
        description="Above this; strings are compared by code point, and with strings alone.",
    )
    gte: Bound = Field(default=None, description="This or above.")
    lt: Bound = Field(default=None, description="Below this.")
    lte: Bound = Field(default=None, description="This or below.")
    exists: bool = Field(
        default=True,
        description="Whether there is a value at all. Null, an empty list, an object and a list "
        "of nothing but objects or lists are none.",
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        whole = handler.resolve_ref_schema(schema)
        conditions = {key: whole.pop(key) for key in ("type", "properties", "additionalProperties")}
        for member in conditions["properties"].values():
            member.pop("default", None)
        whole["anyOf"] = [*_SCALAR["anyOf"], {**conditions, "minProperties": 1}]
        return schema

    @model_validator(mode="before")
    @classmethod
    def _object_of_conditions(cls, value: object) -> object:
        if isinstance(value, dict | cls):
            return value
        if isinstance(value, str | int | float):
            return {"eq": value}
        wanted = "a string, a number, a boolean or an object of conditions"
        raise ValueError(f"expected {wanted}, got {_found(value)}")

    @model_validator(mode="after")
    def _bounds_of_one_kind(self) -> "MetadataCondition":
        kinds = {isinstance(getattr(self, name), str) for name in BOUNDS if name in self._given()}
        if len(kinds) > 1:
            raise ValueError("expected all bounds to be numbers or all to be strings, got both")
        return self

    def condition(self) -> Condition:
        """Say it to ``Columns``."""
        return Condition(
            eq=self.eq,
            one_of=tuple(self.in_) or None,
            gt=self.gt,
            gte=self.gte,
            lt=self.lt,
            lte=self.lte,
            exists=self.exists,
        )


Conditions = Annotated[
    dict[str, MetadataCondition],
    Field(min_length=1, max_length=METADATA_LIMIT),
    BeforeValidator(_few_short_keys),
]


class ChunkFilter(_Part):
    """Which indexed chunks may be answered: those that pass all members that are given."""

    document_ids: list[DocumentId] | None = Field(
        default=None,
        min_length=1,
        max_length=DOCUMENT_LIMIT,
        description="Chunks of these documents; ids that are not indexed match nothing.",
    )
    position: PositionRange | None = None
    metadata: Conditions | None = Field(
        default=None,
        description="A condition for each metadata key; members of nested objects have dotted "
        "keys, such as a.b.",
    )


def matching_slots(
    filter_: ChunkFilter,
    *,
    columns: Columns,
    positions_N: NDArray[np.int64],
    slots_of_document: Callable[[str], Slots],
    count: int,
) -> NDArray[np.bool_]:
    """Tell which of the first ``count`` slots (count,) pass all members of a filter.

    Args:
        filter_: A checked filter.
        columns: Metadata of the slots.
        positions_N: Position of each slot in its document; may be longer than ``count``.
        slots_of_document: Slots of a document, which may go beyond ``count``; empty for one that
            is unknown.
        count: Slots that exist for the reader.
    """
    if filter_.document_ids is None:
        matching_N = np.ones(count, np.bool_)
    else:
        matching_N = np.zeros(count, np.bool_)
        slots = np.concatenate([slots_of_document(one) for one in set(filter_.document_ids)])
        matching_N[slots[slots < count]] = True
    if filter_.position is not None:
        matching_N &= _within(filter_.position, positions_N[:count])
    for key, wanted in (filter_.metadata or {}).items():
        matching_N &= columns.matching(key, wanted.condition(), count)
    return matching_N


def _within(wanted: PositionRange, positions_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    bounds = Condition(gt=wanted.gt, gte=wanted.gte, lt=wanted.lt, lte=wanted.lte).bounds
    within_N = np.ones(len(positions_N), np.bool_)
    for compare, bound in bounds:
        within_N &= compare(positions_N, bound)
    return within_N
