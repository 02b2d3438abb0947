import base64
from typing import Any

import numpy as np
import orjson
import ormsgpack
import pytest

from service.errors import InvalidVectorError, WrongDimensionError
from service.vectors import decode_vector, decode_vectors, dimension_of, unit


def _b64(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def _bytes(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def _unit_rows(count: int, seed: int, dimension: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _hostile_rows(seed: int, dimension: int) -> np.ndarray:
    """Finite rows of any bits: subnormals, both zeros, the greatest, and ordinary ones."""
    rng = np.random.default_rng(seed)
    bits_ND = rng.integers(0, 2**32, (40, dimension), np.uint32)
    bits_ND[:10] &= 0x807FFFFF  # subnormal
    rows_ND = bits_ND.view(np.float32).copy()
    rows_ND[~np.isfinite(rows_ND)] = -0.0
    rows_ND[10:30] = rng.normal(size=(20, dimension))
    rows_ND[30:32] = 3.4028235e38
    rows_ND[:, 0] = np.where(rows_ND[:, 0] == 0, np.float32(1e-45), rows_ND[:, 0])
    rows_ND[20:30] /= np.linalg.norm(rows_ND[20:30], axis=1, keepdims=True)
    return rows_ND


def _forms(rows_ND: np.ndarray) -> dict[str, Any]:
    """The same rows in every form that a request may have them in, as its parser gives them."""
    raw = [row_D.astype("<f4").tobytes() for row_D in rows_ND]
    by_json = orjson.dumps(list(rows_ND), option=orjson.OPT_SERIALIZE_NUMPY)
    singles = ormsgpack.packb(list(rows_ND), option=ormsgpack.OPT_SERIALIZE_NUMPY)
    return {
        "shortest JSON": orjson.loads(by_json),
        "JSON of float64": orjson.loads(orjson.dumps(rows_ND.tolist())),
        "base64": [base64.b64encode(one).decode() for one in raw],
        "msgpack float32": ormsgpack.unpackb(singles),
        "msgpack float64": ormsgpack.unpackb(ormsgpack.packb(rows_ND.tolist())),
        "msgpack bin": ormsgpack.unpackb(ormsgpack.packb(raw)),
        "octets": list(np.frombuffer(b"".join(raw), "<f4").reshape(rows_ND.shape)),
        "block": rows_ND,
    }


def _plainly(row_D: np.ndarray) -> np.ndarray:
    wide_D = row_D.astype(np.float64)
    norm = float(np.sqrt(wide_D @ wide_D))
    return row_D if abs(norm - 1.0) <= 1e-6 else (wide_D / norm).astype(np.float32)


@pytest.mark.parametrize("dimension", [1, 3, 16, 384, 768])
@pytest.mark.parametrize("seed", range(4))
def test_every_form_gives_the_same_bits(seed: int, dimension: int) -> None:
    rows_ND = _hostile_rows(seed, dimension)
    wanted = np.stack([_plainly(row_D) for row_D in rows_ND]).tobytes()
    sent = rows_ND.tobytes()
    for name, values in _forms(rows_ND).items():
        together_ND = decode_vectors(values, "v", dimension)
        assert together_ND.dtype == np.float32
        assert together_ND.flags.writeable
        assert together_ND.tobytes() == wanted, name
        for row, value in enumerate(values):
            alone_D = decode_vector(value, "v", dimension)
            assert alone_D.flags.writeable
            assert alone_D.tobytes() == together_ND[row].tobytes(), name
            assert dimension_of(value, "v") == dimension
    assert rows_ND.tobytes() == sent


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_rounded_as_numpy_rounds_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fine_ND = rng.normal(size=(20, 9)) * 10.0 ** rng.integers(-44, 38, (20, 9))
    # Halfway between two float32, where the even one is the nearest.
    halves = [1.0 + 2.0**-24, 1.0 + 3 * 2.0**-24, 2**24 + 1, -(2**24) - 3, 1, -3, 0, 1e-46, -0.0]
    huge = [2**64 - 1, -(2**63), 2**53 + 1, 1e38, -1e38, 3.4e38, 2**40, 2**63, 1]
    for numbers in [*fine_ND.tolist(), halves, huge]:
        rounded_D = np.array(numbers, np.float64).astype(np.float32)
        for parsed in (
            orjson.loads(orjson.dumps(numbers)),
            ormsgpack.unpackb(ormsgpack.packb(numbers)),
        ):
            assert decode_vector(parsed, "v", 9).tobytes() == _plainly(rounded_D).tobytes()


def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    rows_ND = _hostile_rows(9, 33)
    wanted_ND = decode_vectors(rows_ND, "v", 33)
    for start in range(len(rows_ND)):
        np.testing.assert_array_equal(decode_vectors(rows_ND[start:], "v", 33), wanted_ND[start:])
    strided_ND = np.asfortranarray(rows_ND)
    np.testing.assert_array_equal(decode_vectors(list(strided_ND), "v", 33), wanted_ND)


def test_unit_vectors_are_left_untouched() -> None:
    rows_ND = _unit_rows(200, 5, 384)
    for values in _forms(rows_ND).values():
        np.testing.assert_array_equal(decode_vectors(values, "v", 384), rows_ND)
    np.testing.assert_array_equal(unit(rows_ND[0], "v"), rows_ND[0])
    signed = _bytes(-0.0, 1.0)
    assert decode_vector(signed, "v", 2).astype("<f4").tobytes() == signed


def test_extreme_but_finite_vectors_are_normalised() -> None:
    for numbers in ([3e38, 3e38], [1e-38, 1e-38], [1, 1]):
        np.testing.assert_allclose(decode_vector(numbers, "v", 2), [0.5**0.5] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.0, 0.0], "zero vector"),
        ([1e-60, 0.0], "zero vector"),
        ([1e300, 0.0], "NaN or infinity"),
        ([True, 1.0], "elements of type bool"),
        (["1", 1.0], "elements of type str"),
        ([[1.0], 1.0], "elements of type list"),
        ([None, 1.0], "elements of type NoneType"),
        (None, "null"),
        (1.0, "type float"),
        ({"x": 1}, "type dict"),
        ("not base64!", "not base64"),
        ("größer", "not base64"),
        ("AAAA", "3 bytes"),
        ("", "0 bytes"),
        (_b64(np.nan, 1.0), "NaN or infinity"),
        (_b64(-np.inf, 1.0), "NaN or infinity"),
        (_b64(0.0, 0.0), "zero vector"),
        (b"", "0 bytes"),
        (b"abc", "little-endian float32, 4 bytes each, got 3 bytes"),
        (_bytes(np.nan, 1.0), "NaN or infinity"),
        (b"\x00\x00\xa0\x7f\x00\x00\x80\x3f", "NaN or infinity"),  # a signalling NaN
        (_bytes(1.0, np.inf), "NaN or infinity"),
        (_bytes(0.0, -0.0), "zero vector"),
        (bytearray(8), "type bytearray"),
        ([float("nan"), 1.0], "NaN or infinity"),
        ([b"\x00", 1.0], "elements of type bytes"),
        (np.array([np.nan, 1.0], np.float32), "NaN or infinity"),
        (np.array([0.6, 0.8]), "type ndarray"),
        (np.zeros((1, 2), np.float32), "type ndarray"),
    ],
)
def test_what_is_no_vector_is_named(value: object, message: str) -> None:
    with pytest.raises(InvalidVectorError, match=message) as caught:
        decode_vector(value, "context.2", 2)
    assert caught.value.members["field"] == "context.2"
    with pytest.raises(InvalidVectorError, match=message) as caught:
        decode_vectors([[1, 0], _b64(1, 0), value], "context", 2)
    assert caught.value.members["field"] == "context.2"


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1.0],
        [1.0, 2.0, 3.0],
        _b64(1.0),
        _b64(1.0, 2.0, 3.0),
        _bytes(1.0),
        _bytes(1.0, 2.0, 3.0),
        np.ones(1, np.float32),
    ],
)
def test_another_dimension_is_named(value: object) -> None:
    with pytest.raises(WrongDimensionError, match="v: expected 2 numbers, got"):
        decode_vector(value, "v", 2)
    with pytest.raises(WrongDimensionError, match=r"pairs\.1\.b: expected 2 numbers, got"):
        decode_vectors([[1, 2], value], lambda row: f"pairs.{row}.b", 2)


def test_a_block_of_another_dimension_is_named() -> None:
    with pytest.raises(WrongDimensionError, match=r"v\.0: expected 3 numbers, got 2"):
        decode_vectors(np.ones((4, 2), np.float32), "v", 3)
