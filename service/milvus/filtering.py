"""Filters as Milvus evaluates them, over one JSON field that is derived from the metadata.

    t     digests: of each key that has a value, and of each key with its value
    Knl   lowest number of a key (K is its digest), Knh the highest
    Ksl   lowest string of a key, Ksh the highest: the first bytes, in hexadecimal

No word of a request ever stands in an expression, so nothing needs quoting. What is found passes
every condition of which Milvus can be told exactly, and perhaps a little more: two bounds that two
elements of one list pass between them, long strings, digests that meet by chance. So whoever
searches checks what was found with ``service.filters.matching_slots`` and asks for more.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from service.columns import Condition, Scalar, as_number, kind_of, values_of
from service.filters import ChunkFilter, PositionRange

SEARCH_LIMIT_BYTES = 65_000
STRING_BYTES = 24
BEYOND = "g"
"""Sorts after every hexadecimal digit."""
NOTHING = "position < 0 and position > 0"
_KINDS = {str: "s", bool: "b", float: "n"}


def search_field(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What filters of a chunk's metadata are told by."""
    terms: dict[str, None] = {}
    spans: dict[str, Any] = {}
    for key, kind, value in values_of(metadata):
        name = _digest("k", key)
        terms[name] = None
        terms[_term(key, kind, value)] = None
        if kind is not bool:
            text = kind is str
            low, high = (_low(value), _high(value)) if text else (_finite(value),) * 2
            lowest, highest = (f"{name}{_mark(value)}{end}" for end in "lh")
            spans[lowest] = min(spans.get(lowest, low), low)
            spans[highest] = max(spans.get(highest, high), high)
    return {"t": list(terms), **spans}


def expression_of(given: ChunkFilter, document_keys: list[str] | None) -> str:
    """Say a filter to Milvus.

    Args:
        given: The filter.
        document_keys: Digests of its documents.
    """
    parts: list[str] = []
    if document_keys is not None:
        parts.append("document_key in [" + ",".join(f'"{key}"' for key in document_keys) + "]")
    if given.position is not None:
        parts += _position(given.position)
    for key, wanted in (given.metadata or {}).items():
        parts += _conditions(key, wanted.condition())
    return " and ".join(parts)


def _position(wanted: PositionRange) -> Iterator[str]:
    # Milvus reads no integer beyond 64 bits, nor the least of those that a position can be.
    for name, bound in (("gt", wanted.gt), ("gte", wanted.gte)):
        if bound is not None:
            least = bound + (name == "gt")
            if least > sys.maxsize:
                yield NOTHING
            elif least >= -sys.maxsize:
                yield f"position >= {least}"
    for name, bound in (("lt", wanted.lt), ("lte", wanted.lte)):
        if bound is not None:
            most = bound - (name == "lt")
            if most < -sys.maxsize - 1:
                yield NOTHING
            elif most < -sys.maxsize:
                yield f"position < {-sys.maxsize}"
            elif most < sys.maxsize:
                yield f"position <= {most}"


def _conditions(key: str, condition: Condition) -> Iterator[str]:
    name = _digest("k", key)
    if not condition.asks_for_a_value:
        yield ("" if condition.exists else "not ") + _has(name)
        return
    if not condition.exists:
        # Nothing both is and is not there.
        yield NOTHING
        return
    for values in ((condition.eq,), condition.one_of):
        if values is not None and values != (None,):
            terms = {_term(key, kind_of(one), one) for one in values if one is not None}
            yield _has_any(sorted(terms))
    for bound in (condition.gt, condition.gte):
        if bound is not None:
            low = f'"{_low(bound)}"' if isinstance(bound, str) else _number(bound)
            yield f'search["{name}{_mark(bound)}h"] >= {low}'
    for bound in (condition.lt, condition.lte):
        if bound is not None:
            high = f'"{_high(bound)}"' if isinstance(bound, str) else _number(bound)
            yield f'search["{name}{_mark(bound)}l"] <= {high}'


def _has(term: str) -> str:
    return f'json_contains(search["t"], "{term}")'


def _has_any(terms: list[str]) -> str:
    listed = ",".join(f'"{term}"' for term in terms)
    return f'json_contains_any(search["t"], [{listed}])'


def _mark(bound: Scalar) -> str:
    return "s" if isinstance(bound, str) else "n"


def _number(bound: float) -> str:
    return repr(_finite(as_number(bound)))


def _term(key: str, kind: type, value: Any) -> str:
    # Zero has two signs, and is one number.
    text = repr(float(value) + 0.0) if kind is float else str(value)
    return _digest(_KINDS[kind], f"{len(key)}:{key}{text}")


def _digest(mark: str, text: str) -> str:
    octets = f"{mark}{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(octets, digest_size=8).hexdigest()


def _low(value: str) -> str:
    return _octets(value)[:STRING_BYTES].hex()


def _high(value: str) -> str:
    octets = _octets(value)
    return octets[:STRING_BYTES].hex() + (BEYOND if len(octets) > STRING_BYTES else "")


def _octets(value: str) -> bytes:
    # UTF-8 sorts as code points do.
    return value.encode("utf-8", "surrogatepass")


def _finite(value: float) -> float:
    return max(-sys.float_info.max, min(value, sys.float_info.max))
