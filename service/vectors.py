"""Vectors on the wire: JSON numbers, or base64 of little-endian float32, with one meaning.

Either way a vector is rounded to float32, checked, and brought to unit length; the same bits come
out, so that the same answer does.
"""

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from models.scoring import Floats
from service.errors import InvalidVectorError, WrongDimensionError

# A vector whose length is this close to 1 is left as it is: a second normalisation would change
# its last bits, and a stored chunk sent back as a vector would score differently from its id.
UNIT_TOLERANCE = 1e-6


def decode_vector(value: object, field: str, dimension: int) -> Floats:
    """Turn a vector from a request body into a unit float32 vector (D,).

    Args:
        value: A list of numbers, or a base64 string of little-endian float32.
        field: Dotted path of the vector in the body, for messages.
        dimension: D, the dimension that is needed.

    Raises:
        InvalidVectorError: If it is neither, is zero, or holds NaN or infinity.
        WrongDimensionError: If its dimension is not ``dimension``.
    """
    raw_D = _from_base64(value, field) if isinstance(value, str) else _from_numbers(value, field)
    if len(raw_D) != dimension:
        raise WrongDimensionError(field, f"{dimension} numbers", str(len(raw_D)))
    if not np.isfinite(raw_D).all():
        raise InvalidVectorError(field, "finite float32 numbers", "NaN or infinity")
    return unit(raw_D, field)


def decode_vectors(values: Sequence[object], field: str, dimension: int) -> Floats:
    """Turn a list of vectors from a request body into unit rows (N, D), as ``decode_vector``."""
    return np.stack(
        [decode_vector(value, f"{field}.{row}", dimension) for row, value in enumerate(values)]
    )


def unit(raw_D: Floats, field: str) -> Floats:
    """Bring a finite vector (D,) to unit length, leaving one that has it untouched.

    Raises:
        InvalidVectorError: If its length is zero.
    """
    wide_D = raw_D.astype(np.float64)
    norm = float(np.sqrt(wide_D @ wide_D))
    if norm == 0.0:
        raise InvalidVectorError(field, "a vector of positive length", "the zero vector")
    if abs(norm - 1.0) <= UNIT_TOLERANCE:
        return raw_D
    scaled: Floats = (wide_D / norm).astype(np.float32)
    return scaled


def _from_base64(text: str, field: str) -> Floats:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidVectorError(
            field, "base64 of little-endian float32", f"a string that is not base64 ({error})"
        ) from error
    if not raw or len(raw) % 4:
        raise InvalidVectorError(
            field, "base64 of one or more float32, 4 bytes each", f"{len(raw)} bytes"
        )
    return np.frombuffer(raw, "<f4").astype(np.float32)


def _from_numbers(value: object, field: str) -> Floats:
    if not isinstance(value, list):
        raise InvalidVectorError(field, "a list of numbers or a base64 string", _kind(value))
    # One pass over the types is far cheaper than a schema's check of every element.
    kinds = set(map(type, value))
    if not kinds <= {int, float}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds - {int, float}))
        raise InvalidVectorError(field, "numbers only", f"elements of type {found}")
    with np.errstate(over="ignore"):
        return np.array(value, np.float64).astype(np.float32)


def _kind(value: object) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"
