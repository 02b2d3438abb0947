"""Texts to vectors, by an embedding model that is loaded when the first text arrives."""

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

from models.scoring import Floats
from service.errors import EmbedderUnavailableError


class Embedder(Protocol):
    """What ``models.embedder`` provides, and a test may."""

    @property
    def dimension(self) -> int:
        """D of its vectors."""

    def encode(self, texts: list[str]) -> Floats:
        """Turn texts into unit vectors (n, D)."""


LoadEmbedder = Callable[[str], Embedder]


class CannotEmbedError(Exception):
    """A loader says that its model is not there; the message is one line."""


def load_installed(name: str) -> Embedder:
    """Load an embedding model with the packages of the ``text`` extra.

    Raises:
        CannotEmbedError: If they are not installed or the model cannot be loaded.
    """
    from models.embedder import EmbedderError, load_embedder  # torch's friends are heavy

    try:
        return load_embedder(name or None)
    except EmbedderError as error:
        raise CannotEmbedError(str(error)) from error


class LazyEmbedder:
    """Loads its model at the first text, once, and encodes one request at a time.

    Args:
        load: Loads a model by name.
        name: Which model; empty for the loader's own default.
    """

    def __init__(self, load: LoadEmbedder, name: str) -> None:
        self._load = load
        self._name = name
        self._lock = threading.Lock()
        self._model: Embedder | None = None

    def __call__(self, texts: list[str], dimension: int) -> Floats:
        """Turn texts into unit vectors (n, D).

        Args:
            texts: Any number.
            dimension: D that is needed; 0 if any will do.

        Raises:
            EmbedderUnavailableError: If the model is not installed or of another dimension.
        """
        with self._lock:
            if self._model is None:
                self._model = self._loaded()
            found = self._model.dimension
            if dimension not in (0, found):
                raise EmbedderUnavailableError(
                    f"embedder: expected dimension {dimension} of the collection, got {found}",
                    reason="dimension_mismatch",
                )
            return np.ascontiguousarray(self._model.encode(texts), np.float32)

    def _loaded(self) -> Embedder:
        try:
            model = self._load(self._name)
        except CannotEmbedError as error:
            raise EmbedderUnavailableError(
                "texts cannot be embedded here; send vectors or ids instead",
                reason=" ".join(str(error).split()),
            ) from error
        return model
