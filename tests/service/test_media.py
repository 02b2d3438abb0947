import random
import struct
from typing import Any

import numpy as np
import orjson
import ormsgpack
import pytest

from models.scoring import Method
from service.errors import (
    InvalidRequestError,
    InvalidVectorError,
    MalformedBodyError,
    UnsupportedMediaTypeError,
)
from service.media import (
    DEPTH_LIMIT,
    Media,
    read_body,
    read_octets,
    vector_shape,
    write_body,
    write_plain,
)
from service.schemas import OrderPair, RankQuery, check
from service.vectors import decode_vector, decode_vectors

BOTH = (Media.JSON, Media.MSGPACK)


def _nested(depth: int, innermost: object) -> Any:
    value = innermost
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        {"context": [[1.0, -0.0], [0.5, 2]], "top_k": 3, "explain": True, "filter": None},
        {"größer": "\U0001f600 \x00", "deep": _nested(200, {})},
        [],
        None,
        [2**64 - 1, -(2**63), 5e-324, 1.7976931348623157e308, -1, 127, 128, 2**32],
    ],
)
def test_both_encodings_read_the_same(body: object) -> None:
    by_json = read_body(Media.JSON, orjson.dumps(body))
    by_msgpack = read_body(Media.MSGPACK, ormsgpack.packb(body))
    # repr, because 1 == 1.0 == True and 0.0 == -0.0
    assert repr(by_json) == repr(by_msgpack) == repr(body)


def test_octets_are_not_read_as_a_body() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="octet-stream"):
        read_body(Media.OCTETS, b"")


def test_what_msgpack_alone_can_say_arrives() -> None:
    body = {"vector": b"\x00\x01", "numbers": [float("nan"), float("-inf")]}
    read = read_body(Media.MSGPACK, ormsgpack.packb(body))
    assert repr(read) == repr(body)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "unexpected end of file"),
        (b"\x81\xa1a", "unexpected end of file"),
        (b"\xa5abc", "unexpected end of file"),
        (b"\xc4\x10abc", "unexpected end of file"),
        (b"\xdd\xff\xff\xff\xff", "unexpected end of file"),
        (b"\xdf\xff\xff\xff\xff", "unexpected end of file"),
        (b"\xc6\xff\xff\xff\xff", "unexpected end of file"),
        (b"\xdb\xff\xff\xff\xff", "unexpected end of file"),
        (b"\xdd\x7f\xff\xff\xff" * 900, "unexpected end of file"),
        (b"\xc1", "invalid type Reserved"),
        (b"\xa1\xff", "invalid UTF-8 string"),
        (b"\xa3\xed\xa0\x80", "invalid UTF-8 string"),
        (b"\xd4\x05\x00", "an extension type"),
        (b"\xd6\xff\x00\x00\x00\x00", "an extension type"),
        (b"\x81\xa1a\xc7\x03\x01abc", "an extension type"),
        (b"\x81\x01\x02", "a map key that is not a string"),
        (b"\x81\xc0\x02", "a map key that is not a string"),
        (b"\x81\xc4\x01a\x02", "a map key that is not a string"),
        (b"\x81\x91\x01\x02", "a map key that is not a string"),
        (b"\x80\x80", "bytes after the value"),
        (b"\x80\xc1", "bytes after the value"),
        (b"\x80\xc4", "bytes after the value"),
        (b"\x91" * 1022 + b"\x80", "Recursion limit reached"),
        (b"\x91" * 100_000 + b"\x80", "Recursion limit reached"),
        (b'{"context": []}', "bytes after the value"),
    ],
)
def test_what_is_no_messagepack_is_named(body: bytes, fault: str) -> None:
    with pytest.raises(MalformedBodyError, match="body: expected MessagePack") as caught:
        read_body(Media.MSGPACK, body)
    assert caught.value.members == {"field": "body", "expected": "MessagePack", "actual": fault}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "zero-length"),
        (b'{"a": 1', "unexpected end"),
        (b"{} {}", "unexpected content"),
        (b"[NaN]", "unexpected character"),
        (b"[1e999]", "infinity"),
        (b'"\xff"', "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b"[" * 100_000, "depth"),
        (ormsgpack.packb({"a": 1}), "UTF-8"),
    ],
)
def test_what_is_no_json_is_named(body: bytes, fault: str) -> None:
    with pytest.raises(MalformedBodyError, match="body: expected JSON") as caught:
        read_body(Media.JSON, body)
    assert caught.value.members["expected"] == "JSON"
    assert fault in caught.value.members["actual"]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bodies_are_read_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    inner = {"a": [1.5, -3, None, True], "text": "größer" * 9, "bin": b"\xc1" * 40, "map": {"k": 1}}
    whole = ormsgpack.packb({**inner, "again": inner, "many": list(range(300))})
    read, faults = 0, set()
    for _ in range(4000):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            value = read_body(Media.MSGPACK, bytes(damaged))
        except MalformedBodyError as error:
            faults.add(error.members["actual"])
        else:
            read += 1
            assert repr(read_body(Media.MSGPACK, ormsgpack.packb(value))) == repr(value)
    assert read > 0
    # Whatever the damage, the fault is one of few, none of which repeats a byte of the body.
    assert faults == {
        "unexpected end of file",
        "invalid UTF-8 string",
        "invalid type Reserved",
        "a map key that is not a string",
        "an extension type",
        "bytes after the value",
    }


@pytest.mark.parametrize("seed", range(5))
def test_cut_or_lengthened_bodies_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    whole = ormsgpack.packb({"a": rng.randbytes(20), "b": [rng.random() for _ in range(10)]})
    for end in range(len(whole)):
        with pytest.raises(MalformedBodyError):
            read_body(Media.MSGPACK, whole[:end])
    for size in range(1, 40):
        with pytest.raises(MalformedBodyError, match="bytes after the value"):
            read_body(Media.MSGPACK, whole + rng.randbytes(size))


# --- octets


def test_octets_make_the_request_that_json_makes() -> None:
    rows_LD = np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)
    query = {"top_k": "7", "rerank": "false", "explain": "true", "mode": "retrieval"}
    by_octets = read_octets(rows_LD.tobytes(), query, ("context",), RankQuery, dimension=6)
    by_json = {
        "context": rows_LD.tolist(),
        "top_k": 7,
        "rerank": False,
        "explain": True,
        "mode": "retrieval",
    }
    checked, wanted = check(RankQuery, by_octets), check(RankQuery, by_json)
    assert checked.model_dump(exclude={"context"}) == wanted.model_dump(exclude={"context"})
    decoded = [decode_vectors(query.context or [], "context", 6) for query in (checked, wanted)]
    assert decoded[0].tobytes() == decoded[1].tobytes()


def test_octets_of_a_pair_are_two_rows() -> None:
    rows_2D = np.random.default_rng(5).normal(size=(2, 4)).astype(np.float32)
    pair = check(OrderPair, read_octets(rows_2D.tobytes(), {}, ("a", "b"), OrderPair, dimension=4))
    assert decode_vector(pair.a, "a", 4).tobytes() == decode_vector(rows_2D[0], "a", 4).tobytes()
    assert decode_vector(pair.b, "b", 4).tobytes() == decode_vector(rows_2D[1], "b", 4).tobytes()
    with pytest.raises(InvalidVectorError, match="expected 2 rows of 4 float32, 16 bytes each"):
        read_octets(bytes(48), {}, ("a", "b"), OrderPair, dimension=4)


def test_octets_without_a_dimension_are_left_to_the_decoder() -> None:
    rank = read_octets(b"abc", {"top_k": "2"}, ("context",), RankQuery, dimension=0)
    assert rank == {"context": [b"abc"], "top_k": 2}
    pair = read_octets(b"abc", {}, ("a", "b"), OrderPair, dimension=0)
    assert pair == {"a": b"abc", "b": b"abc"}


@pytest.mark.parametrize("size", [0, 1, 15, 17, 20, 31])
def test_octets_are_whole_rows(size: int) -> None:
    with pytest.raises(InvalidVectorError) as caught:
        read_octets(bytes(size), {}, ("context",), RankQuery, dimension=4)
    assert caught.value.members == {
        "field": "body",
        "expected": "rows of 4 float32, 16 bytes each",
        "actual": f"{size} bytes",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("top_k", "ten", "query.top_k: expected an integer, got 'ten'"),
        ("top_k", "1.0", "expected an integer, got '1.0'"),
        ("top_k", " 1", "expected an integer"),
        ("top_k", "+1", "expected an integer"),
        ("top_k", "1_0", "expected an integer"),
        ("top_k", "\u0663", "expected an integer"),
        ("top_k", "9" * 5000, "expected an integer, got 5000 characters"),
        ("rerank", "True", "query.rerank: expected true or false, got 'True'"),
        ("explain", "", "query.explain: expected true or false, got ''"),
        ("topk", "1", "query.topk: expected no such parameter, got one"),
        ("context", "[]", "query.context: expected no such parameter, got one"),
        ("filter", "{}", "query.filter: expected no such parameter, got one"),
    ],
)
def test_parameters_that_do_not_fit_are_named(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_octets(bytes(16), {name: text}, ("context",), RankQuery, dimension=4)
    assert message in caught.value.detail


def test_parameters_are_those_of_the_operation() -> None:
    with pytest.raises(InvalidRequestError, match=r"query\.top_k: expected no such parameter"):
        read_octets(bytes(32), {"top_k": "1"}, ("a", "b"), OrderPair, dimension=4)


def test_ranges_are_the_schemas_to_check() -> None:
    rows = np.ones((1, 4), np.float32)
    body = read_octets(rows.tobytes(), {"top_k": "-1"}, ("context",), RankQuery, dimension=4)
    with pytest.raises(InvalidRequestError, match="top_k"):
        check(RankQuery, body)


# --- answers


def _bits(number: float) -> bytes:
    return struct.pack("<f", number)


@pytest.mark.parametrize("seed", range(6))
def test_every_encoding_carries_float32_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 2**32, 2000, np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    extremes = np.array([0.0, -0.0, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38, 0.1], np.float32)
    numbers = np.concatenate([extremes, numbers])
    answer = {"alpha": numbers, "scores": list(numbers), "vector": numbers}
    by_json = orjson.loads(write_body(Media.JSON, answer))
    by_msgpack = ormsgpack.unpackb(write_body(Media.MSGPACK, answer))
    for read in (by_json["alpha"], by_json["scores"], by_json["vector"]):
        assert np.array(read, np.float64).astype(np.float32).tobytes() == numbers.tobytes()
    for read in (by_msgpack["alpha"], by_msgpack["scores"]):
        assert b"".join(map(_bits, read)) == numbers.tobytes()
    assert by_msgpack["vector"] == numbers.astype("<f4").tobytes()
    assert write_body(Media.OCTETS, numbers[None]) == numbers.astype("<f4").tobytes()


def test_vectors_become_bin_wherever_they_stand() -> None:
    row_D = np.array([0.6, 0.8], np.float32)
    answer = {
        "content": [
            {"id": "a", "vector": row_D, "metadata": {"vector": [1, 2], "x": None}},
            {"id": "b", "vector": np.stack([row_D, row_D], axis=1)[:, 0], "metadata": {}},
            {"id": "c", "vector": None, "metadata": {}},
        ],
        "inner": {"deeper": [[{"vector": row_D}]]},
        "alpha": row_D,
        "strided": np.arange(6, dtype=np.float32)[::2],
        "method": Method.P8,
        "count": np.int64(3),
        "score": np.float32(0.1),
    }
    packed = write_body(Media.MSGPACK, answer)
    read, raw = ormsgpack.unpackb(packed), row_D.astype("<f4").tobytes()
    assert [chunk["vector"] for chunk in read["content"]] == [raw, raw, None]
    assert read["content"][0]["metadata"] == {"vector": [1, 2], "x": None}
    assert read["inner"]["deeper"][0][0]["vector"] == raw
    assert b"\xa5score\xca" in packed  # a float32, not a float64
    assert read["strided"] == [0.0, 2.0, 4.0]
    assert answer["content"][0]["vector"] is row_D
    by_json = orjson.loads(write_body(Media.JSON, answer))
    assert [chunk["vector"] for chunk in by_json["content"]] == [[0.6, 0.8], [0.6, 0.8], None]
    rest = {"method", "count", "strided"}
    assert {name: read[name] for name in rest} == {name: by_json[name] for name in rest}


def test_octets_are_written_of_arrays_alone() -> None:
    rows_ND = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert vector_shape(rows_ND) == {"X-Vector-Shape": "3,4"}
    assert write_body(Media.OCTETS, rows_ND.T.copy().T) == rows_ND.astype("<f4").tobytes()
    with pytest.raises(TypeError, match="not of a dict"):
        write_body(Media.OCTETS, {"vector": rows_ND})
    for media in BOTH:
        with pytest.raises(TypeError):
            write_body(media, {"what": object()})


def test_what_json_cannot_say_is_not_kept() -> None:
    kept = {"größe": [1, 2.5, True, None, {"a": _nested(DEPTH_LIMIT - 3, "x")}]}
    assert orjson.loads(write_plain(kept, "metadata")) == kept
    for value, message in (
        ({"a": [b"x"]}, "got bytes"),
        ({"a": {"b": float("nan")}}, "got NaN or infinity"),
        ([float("inf")], "got NaN or infinity"),
        (_nested(DEPTH_LIMIT + 1, 1), f"at most {DEPTH_LIMIT} levels"),
        (_nested(1000, {}), f"at most {DEPTH_LIMIT} levels"),
    ):
        with pytest.raises(InvalidRequestError, match=f"chunks.0.metadata: .*{message}"):
            write_plain(value, "chunks.0.metadata")


@pytest.mark.parametrize("media", BOTH)
def test_what_is_kept_can_be_answered(media: Media) -> None:
    deepest = _nested(DEPTH_LIMIT, 1)
    write_plain(deepest, "metadata")
    answer = {"answers": [{"explain": {"results": [{"metadata": deepest}]}}]}
    assert read_body(media, write_body(media, answer)) == answer
