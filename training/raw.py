"""What a reader hands on: a document with its chunks, not yet stored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class InputError(ValueError):
    """An input cannot be read; the message names the file and the place in it."""


class EmptyInputError(InputError):
    """An input is in order, but holds no text."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A paragraph and the heading under which it stands."""

    text: str
    """The paragraph; empty where only its vector is known."""
    section: str = ""
    """Nearest heading, or empty."""


@dataclass(frozen=True, kw_only=True)
class RawDocument:
    """A document as it was read."""

    doc_id: str
    """Unique in the prepared data."""
    chunks: tuple[Chunk, ...]
    """In the order of the document."""
    origin: str
    """Where it was read, for messages: file name and place."""
    title: str = ""
    """Title, or empty."""
    source: str = ""
    """Collection that it comes from, or empty."""
    licence: str = ""
    """Licence, or empty if unknown."""
    group: str | None = None
    """What is hashed for splitting; None for ``doc_id``."""
    vectors: NDArray[np.float32] | None = None
    """Vectors (chunks, D) that came with the document, of any length; None if none did."""
