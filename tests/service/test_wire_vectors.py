import base64

import numpy as np
import pytest

from service.client import encode_vector
from service.errors import InvalidVectorError, WrongDimensionError
from service.vectors import decode_vector, decode_vectors

from .conftest import unit_rows


def _b64(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def test_numbers_and_base64_give_the_same_bits() -> None:
    rows_ND = np.random.default_rng(3).normal(size=(50, 7)).astype(np.float32)
    for row_D in rows_ND:
        by_numbers = decode_vector(row_D.tolist(), "v", 7)
        by_base64 = decode_vector(encode_vector(row_D), "v", 7)
        np.testing.assert_array_equal(by_numbers, by_base64)
        assert np.linalg.norm(by_numbers.astype(np.float64)) == pytest.approx(1.0, abs=1e-7)


def test_unit_vectors_are_left_untouched() -> None:
    rows_ND = unit_rows(200, 5, 384)
    decoded_ND = decode_vectors([row_D.tolist() for row_D in rows_ND], "v", 384)
    np.testing.assert_array_equal(decoded_ND, rows_ND)


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
    ],
)
def test_what_is_no_vector_is_named(value: object, message: str) -> None:
    with pytest.raises(InvalidVectorError, match=message) as caught:
        decode_vector(value, "context.2", 2)
    assert caught.value.members["field"] == "context.2"


@pytest.mark.parametrize("value", [[], [1.0], [1.0, 2.0, 3.0], _b64(1.0), _b64(1.0, 2.0, 3.0)])
def test_another_dimension_is_named(value: object) -> None:
    with pytest.raises(WrongDimensionError, match="v: expected 2 numbers, got"):
        decode_vector(value, "v", 2)
