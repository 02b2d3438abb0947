"""Vectors on the wire, in four forms with one meaning.

JSON has them as numbers or as base64 of little-endian float32, MessagePack also as the bytes
themselves, and a body of bare octets as rows of an array. Whatever the form, a vector is rounded
to float32, checked, and brought to unit length; the same bits come out, so that the same answer
does.
"""

import base64
import binascii
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.scoring import Floats
from service.errors import InvalidVectorError, WrongDimensionError

Doubles = NDArray[np.float64]

# A vector whose length is this close to 1 is left as it is: a second normalisation would change
# its last bits, and a stored chunk sent back as a vector would score differently from its id.
UNIT_TOLERANCE = 1e-6


def decode_vector(value: object, field: str, dimension: int) -> Floats:
    """Turn a vector from a request body into a unit float32 vector (D,).

    Args:
        value: A list of numbers, little-endian float32 as bytes or as a base64 string, or a float32
            array (D,).
        field: Dotted path of the vector in the body, for messages.
        dimension: D, the dimension that is needed.

    Raises:
        InvalidVectorError: If it is none of these, is zero, or holds NaN or infinity.
        WrongDimensionError: If its dimension is not ``dimension``.
    """
    # A copy, so that the vector neither keeps the body alive nor is read-only like it.
    raw_D = np.array(_raw(value, field, dimension))
    if not np.isfinite(raw_D).all():
        raise InvalidVectorError(field, "finite float32 numbers", "NaN or infinity")
    return unit(raw_D, field)


def decode_vectors(
    values: Sequence[object] | Floats, field: str | Callable[[int], str], dimension: int
) -> Floats:
    """Turn many vectors into unit rows (N, D), each as ``decode_vector`` does, but faster.

    Args:
        values: The vectors, each in any form, or float32 rows (N, D).
        field: Dotted path of their list, or what gives that of each.
        dimension: D, the dimension that is needed.

    Raises:
        InvalidVectorError: If one of them is no vector, is zero, or holds NaN or infinity.
        WrongDimensionError: If the dimension of one is not ``dimension``.
    """
    field_of = (lambda row: f"{field}.{row}") if isinstance(field, str) else field
    rows_ND = np.empty((len(values), dimension), np.float32)
    for row, value in enumerate(values):
        rows_ND[row] = _raw(value, field_of(row), dimension)
    finite_ND = np.isfinite(rows_ND)
    if not finite_ND.all():
        row = int(finite_ND.all(axis=1).argmin())
        raise InvalidVectorError(field_of(row), "finite float32 numbers", "NaN or infinity")
    wide_ND = rows_ND.astype(np.float64)
    norm_N = _norm(wide_ND)
    if not norm_N.all():
        raise _zero(field_of(int(norm_N.argmin())))
    off_N = np.abs(norm_N - 1.0) > UNIT_TOLERANCE
    if off_N.any():
        rows_ND[off_N] = wide_ND[off_N] / norm_N[off_N, None]
    return rows_ND


def dimension_of(value: object, field: str) -> int:
    """Tell the dimension of a vector from a request body, whose numbers are not yet checked.

    Raises:
        InvalidVectorError: If it has none of the forms of a vector.
    """
    return len(_read(value, field))


def unit(raw_D: Floats, field: str) -> Floats:
    """Bring a finite vector (D,) to unit length, leaving one that has it untouched.

    Raises:
        InvalidVectorError: If its length is zero.
    """
    wide_D = raw_D.astype(np.float64)
    norm = float(_norm(wide_D))
    if norm == 0.0:
        raise _zero(field)
    if abs(norm - 1.0) <= UNIT_TOLERANCE:
        return raw_D
    scaled: Floats = (wide_D / norm).astype(np.float32)
    return scaled


def _norm(wide: Doubles) -> Doubles:
    # Of one vector or of many rows, it is the same dot product, and so gives the same bits.
    norm: Doubles = np.sqrt(np.vecdot(wide, wide))
    return norm


def _zero(field: str) -> InvalidVectorError:
    return InvalidVectorError(field, "a vector of positive length", "the zero vector")


def _raw(value: object, field: str, dimension: int) -> Floats:
    raw_D = _read(value, field)
    if len(raw_D) != dimension:
        raise WrongDimensionError(field, f"{dimension} numbers", str(len(raw_D)))
    return raw_D


def _read(value: object, field: str) -> Floats:
    if isinstance(value, list):
        return _from_numbers(value, field)
    if isinstance(value, bytes):
        return _from_bytes(value, field, "one or more little-endian float32, 4 bytes each")
    if isinstance(value, str):
        return _from_base64(value, field)
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim == 1:
        return value
    raise InvalidVectorError(field, "a list of numbers, or float32 in base64", _kind(value))


def _from_numbers(value: list[object], field: str) -> Floats:
    # One pass over the types is far cheaper than a schema's check of every element, and a count
    # cheaper than a set, which only integers need.
    kinds = list(map(type, value))
    if kinds.count(float) != len(kinds):
        others = set(kinds) - {int, float}
        if others:
            found = ", ".join(sorted(kind.__name__ for kind in others))
            raise InvalidVectorError(field, "numbers only", f"elements of type {found}")
    numbers: list[float] = value  # type: ignore[assignment]
    with np.errstate(over="ignore"):  # what is too great for float32 becomes infinity
        return np.fromiter(numbers, np.float64, len(numbers)).astype(np.float32)


def _from_base64(text: str, field: str) -> Floats:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidVectorError(
            field, "base64 of little-endian float32", f"a string that is not base64 ({error})"
        ) from error
    return _from_bytes(raw, field, "base64 of one or more float32, 4 bytes each")


def _from_bytes(raw: bytes, field: str, expected: str) -> Floats:
    if not raw or len(raw) % 4:
        raise InvalidVectorError(field, expected, f"{len(raw)} bytes")
    return np.frombuffer(raw, "<f4")


def _kind(value: object) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"
