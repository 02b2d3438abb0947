"""Media types: which one a request comes in, which one its answer goes out in, and their bytes.

JSON and MessagePack carry the same members; bare octets carry nothing but float32 vectors, and the
query string the scalars beside them. Whatever the form, the same request object comes out, and
scores go in as numpy float32 and come out of every form as exactly that float32.
"""

import math
import re
import secrets
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import orjson
import ormsgpack

from models.scoring import Floats
from service.accept import MediaType, parse_media_type, preference
from service.errors import (
    InvalidRequestError,
    InvalidVectorError,
    MalformedBodyError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from service.schemas import SHOWN_CHARACTERS, Body


class Media(StrEnum):
    """The media types that bodies and answers come in."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"
    OCTETS = "application/octet-stream"


# What requests may call each instead; answers always have the name above.
ALIASES = {
    Media.JSON: frozenset[str](),
    Media.MSGPACK: frozenset({"application/x-msgpack", "application/vnd.msgpack"}),
    Media.OCTETS: frozenset[str](),
}
# What curl -d says of any body unless it is told otherwise.
FORM = "application/x-www-form-urlencoded"
# Greatest depth of a JSON value from a request that may come back inside an answer: orjson and
# ormsgpack write about 250 levels, and the answer around it takes a few.
DEPTH_LIMIT = 100

_NESTING = (dict, list)
# Every result has these, and looking into them would take longer than writing the answer.
_WITHOUT_VECTORS = frozenset({"metadata", "parts"})
_INTEGER = re.compile(r"-?[0-9]{1,9}")
# What stands behind a MessagePack body while it is read; no sender can know it.
_END = secrets.token_bytes(16)


def content_media(content_type: str | None, readable: tuple[Media, ...] = tuple(Media)) -> Media:
    """Tell which media type a body comes in; without the header it is JSON.

    Args:
        content_type: The ``Content-Type`` header.
        readable: What the operation reads.

    Raises:
        UnsupportedMediaTypeError: If it is another, or JSON in another charset than UTF-8.
    """
    if content_type is None:
        return Media.JSON
    if content_type in readable:
        return Media(content_type)
    wanted = " or ".join(readable)
    parsed = parse_media_type(content_type)
    if parsed is None:
        raise _unsupported(wanted, _shown(content_type))
    media = next((one for one in readable if parsed.name in {one, *ALIASES[one]}), None)
    if media is None:
        hint = ""
        if parsed.name == FORM:
            hint = f"; send the header content-type: {Media.JSON} (curl: -H) with a JSON body"
        raise _unsupported(wanted, _shown(parsed.name), hint)
    charset = parsed.parameters.get("charset", "utf-8")
    if media is Media.JSON and charset not in ("utf-8", "utf8"):
        raise _unsupported(f"{Media.JSON} in UTF-8", f"charset {_shown(charset)}")
    return media


def accepted_media(accept: str | None, offered: tuple[Media, ...]) -> Media:
    """Choose the media type of an answer (RFC 9110, section 12.5.1).

    The greatest q-value wins, then the type that is named most exactly, then the one that is
    offered first. An absent or empty header accepts everything; a range that cannot be read counts
    for nothing.

    Args:
        accept: The ``Accept`` header; where there are several, joined by commas.
        offered: What the operation can write, the default first.

    Raises:
        NotAcceptableError: If none of them is accepted.
    """
    if accept is None or not accept.strip():
        return offered[0]
    wanted = [(preference(accept, _sent(media), ALIASES[media]), media) for media in offered]
    (weight, _), best = max(wanted, key=lambda pair: pair[0])
    if weight > 0.0:
        return best
    expected, actual = " or ".join(offered), _shown(accept)
    raise NotAcceptableError(
        f"accept: expected {expected}, got {actual}",
        field="header.accept",
        expected=expected,
        actual=actual,
    )


def read_body(media: Media, body: bytes) -> object:
    """Decode a JSON or MessagePack body; a MessagePack ``bin`` becomes ``bytes``.

    Raises:
        MalformedBodyError: If the body is not what the media type says.
        UnsupportedMediaTypeError: If the media type is octets, which ``read_octets`` reads.
    """
    if media is Media.MSGPACK:
        return _read_msgpack(body)
    if media is Media.OCTETS:
        raise _unsupported(f"{Media.JSON} or {Media.MSGPACK}", repr(str(media)))
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(
            f"body: expected JSON, got a mistake in line {error.lineno} column {error.colno}: "
            f"{error.msg}",
            field="body",
            expected="JSON",
            actual=error.msg,
        ) from error
    return parsed


def read_octets(
    body: bytes,
    parameters: Mapping[str, str],
    members: tuple[str, ...],
    kind: type[Body],
    *,
    dimension: int,
) -> dict[str, object]:
    """Make of bare float32 and a query string the object that a JSON body would have been.

    Args:
        body: Little-endian float32, row after row.
        parameters: The query string.
        members: Where the rows go: one member takes the list of all, several take one row each.
        kind: What the object will be checked as; it says which parameters there can be.
        dimension: D, the length of a row; 0 while there are no chunks.

    Raises:
        InvalidVectorError: If the body is not such rows.
        InvalidRequestError: If a parameter is unknown, or not of its type.
    """
    scalars = {name: _scalar(name, text, kind) for name, text in parameters.items()}
    row_bytes = 4 * dimension
    fixed = len(members) > 1
    if not dimension:  # refused later, for want of chunks and not for its rows
        return {**dict.fromkeys(members, body if fixed else [body]), **scalars}
    fits = len(body) == len(members) * row_bytes if fixed else len(body) % row_bytes == 0
    if not body or not fits:
        rows = f"{len(members)} rows" if fixed else "rows"
        expected = f"{rows} of {dimension} float32, {row_bytes} bytes each"
        raise InvalidVectorError("body", expected, f"{len(body)} bytes")
    rows_ND = np.frombuffer(body, "<f4").reshape(-1, dimension).astype(np.float32)
    if fixed:
        return {**dict(zip(members, rows_ND, strict=True)), **scalars}
    return {members[0]: list(rows_ND), **scalars}


def write_body(media: Media, answer: object) -> bytes:
    """Write an answer body.

    Args:
        media: JSON writes float32 as their shortest exact text; MessagePack writes them as float32,
            and a member ``vector`` that is a float32 array as ``bin``, little-endian; octets are
            for a bare array.
        answer: What to write; float32 scalars and arrays stay numpy until here.
    """
    if media is Media.MSGPACK:
        option = ormsgpack.OPT_SERIALIZE_NUMPY
        return ormsgpack.packb(_with_bins(answer), default=_contiguous, option=option)
    if media is Media.OCTETS:
        if not isinstance(answer, np.ndarray):
            raise TypeError(f"octets are written of an array, not of a {type(answer).__name__}")
        return _octets(answer)
    return orjson.dumps(answer, default=_contiguous, option=orjson.OPT_SERIALIZE_NUMPY)


def vector_shape(rows_ND: Floats) -> dict[str, str]:
    """Write the header that tells the shape of an answer in octets."""
    count, dimension = rows_ND.shape
    return {"X-Vector-Shape": f"{count},{dimension}"}


def write_plain(value: object, field: str) -> bytes:
    """Write a value of a request as JSON, to be kept and to come back in answers of every form.

    MessagePack can say more than JSON can: bytes, NaN, infinity.

    Raises:
        InvalidRequestError: If it cannot be said in JSON, or nests too deeply.
    """
    _check_plain(value, field, DEPTH_LIMIT)
    return orjson.dumps(value)


def _check_plain(value: object, field: str, depth: int) -> None:
    if isinstance(value, bytes):
        raise InvalidRequestError(field, "what JSON can say", "bytes")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(field, "what JSON can say", "NaN or infinity")
    if isinstance(value, dict | list):
        if depth == 0:
            raise InvalidRequestError(field, f"at most {DEPTH_LIMIT} levels of nesting", "more")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_plain(inner, field, depth - 1)


def _read_msgpack(body: bytes) -> object:
    # ormsgpack stops after the first value and ignores what follows. Read as the first of a pair,
    # a body with more or less in it than one value leaves something else for the second.
    try:
        first: object
        first, second = ormsgpack.unpackb(b"\x92" + body + b"\xc4\x10" + _END)
        if second == _END:
            return first
        fault = "bytes after the value"
    except ormsgpack.MsgpackDecodeError as error:
        fault = str(error)
    try:
        ormsgpack.unpackb(body)
    except ormsgpack.MsgpackDecodeError as error:
        fault = str(error)
    else:
        # Only the pair's own level can have failed of what the body alone does not.
        fault = fault if fault.startswith("Recursion") else "bytes after the value"
    fault = _plain_fault(fault)
    raise MalformedBodyError(
        f"body: expected MessagePack, got a mistake: {fault}",
        field="body",
        expected="MessagePack",
        actual=fault,
    )


def _plain_fault(fault: str) -> str:
    """Say in the words of the format what ormsgpack says in those of its reader."""
    if fault == "ext_hook missing":
        return "an extension type"
    # The reader names the type that it found, and of small integers the value.
    if fault.startswith("invalid type") and fault != "invalid type Reserved":
        return "a map key that is not a string"
    return fault


def _with_bins(answer: Any) -> Any:
    """Put bytes in the place of every vector of an answer, which itself stays as it is."""
    if type(answer) is list:
        return [_with_bins(value) for value in answer]
    if type(answer) is not dict:
        return answer
    changed = {
        name: _with_bins(value)
        for name, value in answer.items()
        if type(value) in _NESTING and name not in _WITHOUT_VECTORS
    }
    if isinstance(answer.get("vector"), np.ndarray):
        changed["vector"] = _octets(answer["vector"])
    return {**answer, **changed} if changed else answer


def _octets(rows: Floats) -> bytes:
    return np.ascontiguousarray(rows, "<f4").tobytes()


def _contiguous(value: object) -> object:
    """Give an array that is a slice of another a form that the writers take."""
    if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
        return np.ascontiguousarray(value)
    raise TypeError(f"no form on the wire for a value of type {type(value).__name__}")


def _scalar(name: str, text: str, kind: type[Body]) -> object:
    parse = _SCALARS.get(name)
    if parse is None or name not in kind.model_fields:
        raise InvalidRequestError(f"query.{name}", "no such parameter", "one")
    expected, read = parse
    value = read(text)
    if value is None:
        raise InvalidRequestError(f"query.{name}", expected, _shown(text))
    return value


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


# Ranges and choices are the schema's to check, for this form as for the others.
_SCALARS: dict[str, tuple[str, Callable[[str], object]]] = {
    **dict.fromkeys(("top_k", "max_per_document"), ("an integer", _integer)),
    **dict.fromkeys(
        ("rerank", "explain", "only_unseen", "contents"),
        ("true or false", {"true": True, "false": False}.get),
    ),
    **dict.fromkeys(("mode", "model"), ("a string", str)),
}


def _unsupported(expected: str, actual: str, hint: str = "") -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError(
        f"content-type: expected {expected}, got {actual}{hint}",
        field="header.content-type",
        expected=expected,
        actual=actual,
    )


def _sent(media: Media) -> MediaType:
    """Give the media type of an answer with the parameters that a client may rightly ask of it."""
    parameters = {"charset": "utf-8"} if media is Media.JSON else {}
    return MediaType(name=media, parameters=parameters)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"{len(text)} characters"
