"""Embed a prepared folder, block by block, so that an interrupted run loses one block at most.

Finished blocks wait in a hidden folder, which also says which data and model they belong to; the
last step joins them into vectors.npy.

Shapes: n texts of a block, D dimension.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.dataset import CHUNKS, DatasetError, PreparedDataset, read_json_lines
from training.dataset_writer import install_vectors

BLOCK_ROWS = 1024
"""Chunks a block: what an interruption can cost."""

_STEP_ROWS = 64
_PARTIAL = ".embedding"
_IDENTITY = "identity.json"


class ModelRecord(Protocol):
    """What tells one embedding model from another."""

    @property
    def name(self) -> str:
        """Name of the model, for records."""

    @property
    def weights_sha256(self) -> str | None:
        """Hash of its weights; None if unknown."""


class TextEmbedder(ModelRecord, Protocol):
    """What embeds texts: :class:`models.embedder.Embedder`, or anything shaped like it."""

    @property
    def dimension(self) -> int:
        """D of its vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Turn texts into unit vectors (n, D)."""


def is_embedded(dataset: PreparedDataset, model: ModelRecord) -> bool:
    """Whether the folder's vectors were made with exactly this model."""
    record = dataset.manifest.get("vectors")
    return record is not None and (record["model"], record["weights_sha256"]) == (
        model.name,
        model.weights_sha256,
    )


def embed_dataset(
    dataset: PreparedDataset, embedder: TextEmbedder, *, show_progress: bool = True
) -> PreparedDataset:
    """Embed every chunk; go on where an interrupted run with the same data and model stopped.

    Args:
        dataset: The prepared data; vectors of another model are replaced.
        embedder: What turns texts into vectors.
        show_progress: Draw a bar with the rate on stderr.

    Returns:
        The data with vectors; ``dataset`` itself if they were there already.

    Raises:
        DatasetError: If a chunk has no text, or the embedder answers unusable vectors.
    """
    if is_embedded(dataset, embedder):
        return dataset
    partial = _claim_partial(dataset, embedder)
    rows = dataset.chunk_count
    targets = [partial / f"block-{number:06}.npy" for number in range(-(-rows // BLOCK_ROWS))]
    done = sum(
        min(BLOCK_ROWS, rows - number * BLOCK_ROWS)
        for number, target in enumerate(targets)
        if target.exists()
    )
    with tqdm(
        total=rows, initial=done, desc="embed", unit="chunk", disable=not show_progress
    ) as bar:
        for target, texts in zip(targets, _text_blocks(dataset.path / CHUNKS), strict=True):
            if not target.exists():
                _save(target, _encode_block(texts, embedder, bar))
    install_vectors(
        dataset.path,
        (np.load(target, allow_pickle=False) for target in targets),
        (rows, embedder.dimension),
        model=embedder.name,
        weights_sha256=embedder.weights_sha256,
    )
    shutil.rmtree(partial)
    return PreparedDataset.open(dataset.path)


def _claim_partial(dataset: PreparedDataset, embedder: TextEmbedder) -> Path:
    """The folder of finished blocks, emptied if it belongs to other data or another model."""
    partial = dataset.path / _PARTIAL
    identity = {
        "data": dataset.manifest["fingerprint"],
        "model": embedder.name,
        "dimension": embedder.dimension,
        "weights_sha256": embedder.weights_sha256,
        "block_rows": BLOCK_ROWS,
    }
    try:
        found = json.loads((partial / _IDENTITY).read_bytes())
    except (OSError, ValueError):
        found = None
    if found != identity:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / _IDENTITY).write_text(json.dumps(identity), encoding="utf-8")
    return partial


def _text_blocks(path: Path) -> Iterator[list[str]]:
    lines = enumerate(read_json_lines(path), 1)
    while block := list(islice(lines, BLOCK_ROWS)):
        for number, chunk in block:
            if not chunk["text"].strip():
                raise DatasetError(f"{path} line {number}: text: expected words to embed, got none")
        yield [chunk["text"] for _, chunk in block]


def _encode_block(
    texts: list[str], embedder: TextEmbedder, bar: "tqdm[Any]"
) -> NDArray[np.float32]:
    """Embed a block, longest texts first: texts of like length waste little on padding."""
    vectors_nD = np.empty((len(texts), embedder.dimension), np.float32)
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    for start in range(0, len(order), _STEP_ROWS):
        rows = order[start : start + _STEP_ROWS]
        answer = embedder.encode([texts[row] for row in rows])
        if answer.shape != (len(rows), embedder.dimension):
            raise DatasetError(
                f"{embedder.name}: expected vectors of shape {(len(rows), embedder.dimension)}, "
                f"got {answer.shape}"
            )
        vectors_nD[rows] = answer
        bar.update(len(rows))
    return vectors_nD


def _save(target: Path, vectors_nD: NDArray[np.float32]) -> None:
    unfinished = target.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.save(file, vectors_nD, allow_pickle=False)
    unfinished.replace(target)
