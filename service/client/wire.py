"""How bodies are written and read: JSON with vectors as base64, MessagePack with them as bytes."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import ormsgpack
from numpy.typing import ArrayLike

from service.client.types import Encoding, Float32

JSON = "application/json"
MSGPACK = "application/msgpack"
ACCEPT: dict[Encoding, str] = {"base64": JSON, "msgpack": f"{MSGPACK}, {JSON};q=0.5"}


class PackedVector:
    """A vector (D,) as little-endian float32, in a body that is yet to be written."""

    def __init__(self, vector_D: ArrayLike) -> None:
        self.data = np.asarray(vector_D, "<f4").tobytes()


def write(body: Mapping[str, Any], encoding: Encoding) -> tuple[bytes, str]:
    """Write a body whose vectors are packed; its bytes and their media type.

    Raises:
        TypeError: If something in it has no form on the wire.
        ValueError: If a number in it is not finite.
    """
    if encoding == "msgpack":
        return ormsgpack.packb(body, default=_bytes_of), MSGPACK
    text = json.dumps(
        body, default=_base64_of, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode(), JSON


def read(response: httpx.Response) -> object:
    """Read a body by its media type; None if it is not what that says."""
    try:
        if response.headers.get("content-type", "").partition(";")[0].strip() == MSGPACK:
            return ormsgpack.unpackb(response.content)
        return response.json()
    except ValueError:
        return None


def encode_vector(vector_D: ArrayLike) -> str:
    """Write a vector (D,) as base64 of little-endian float32, its shortest form in JSON."""
    return base64.b64encode(np.asarray(vector_D, "<f4").tobytes()).decode()


def decode_vector(value: bytes | str | list[float]) -> Float32:
    """Read a vector (D,) in any of the forms that an answer may have."""
    if isinstance(value, list):
        return np.asarray(value, np.float32)
    data = base64.b64decode(value, validate=True) if isinstance(value, str) else value
    return np.frombuffer(data, "<f4").astype(np.float32)


def _bytes_of(value: object) -> bytes:
    if isinstance(value, PackedVector):
        return value.data
    raise TypeError(f"a value of type {type(value).__name__} has no form on the wire")


def _base64_of(value: object) -> str:
    return base64.b64encode(_bytes_of(value)).decode()
