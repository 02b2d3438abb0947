"""Embed a prepared folder, block by block, so that an interrupted run loses one block at most.

Finished blocks wait in a hidden folder, which also says which data and model they belong to; the
last step joins them into vectors.npy. ``training.shards`` deals blocks out to several runs.

Shapes: n texts of a block, D dimension.
"""

import json
import os
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

    @property
    def bfloat16(self) -> bool:
        """Whether it multiplies matrices in bfloat16."""

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
    partial = claim_folder(dataset.path / _PARTIAL, identity_of(dataset, embedder))
    blocks = range(block_count(dataset))
    encode_blocks(dataset, embedder, partial, blocks, show_progress=show_progress)
    install_vectors(
        dataset.path,
        (np.load(block_path(partial, number), allow_pickle=False) for number in blocks),
        (dataset.chunk_count, embedder.dimension),
        model=embedder.name,
        weights_sha256=embedder.weights_sha256,
    )
    shutil.rmtree(partial)
    return PreparedDataset.open(dataset.path)


def block_count(dataset: PreparedDataset) -> int:
    """Blocks that a folder is embedded in; all but the last have ``BLOCK_ROWS`` chunks."""
    return -(-dataset.chunk_count // BLOCK_ROWS)


def block_rows(dataset: PreparedDataset, number: int) -> int:
    """Chunks of a block."""
    return min(BLOCK_ROWS, dataset.chunk_count - number * BLOCK_ROWS)


def block_path(folder: Path, number: int) -> Path:
    """Where a finished block lies."""
    return folder / f"block-{number:06}.npy"


def identity_of(dataset: PreparedDataset, embedder: TextEmbedder) -> dict[str, Any]:
    """What blocks must have in common to be joined."""
    return {
        "data": dataset.manifest["fingerprint"],
        "model": embedder.name,
        "dimension": embedder.dimension,
        "weights_sha256": embedder.weights_sha256,
        "bfloat16": embedder.bfloat16,
        "block_rows": BLOCK_ROWS,
    }


def claim_folder(folder: Path, identity: dict[str, Any]) -> Path:
    """A folder of finished blocks, emptied if they belong to other data or another model."""
    if read_identity(folder) != identity:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _IDENTITY).write_text(json.dumps(identity), encoding="utf-8")
    return folder


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What a folder of blocks belongs to; None if it does not say."""
    try:
        identity = json.loads((folder / _IDENTITY).read_bytes())
    except (OSError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def encode_blocks(
    dataset: PreparedDataset,
    embedder: TextEmbedder,
    folder: Path,
    blocks: range,
    *,
    show_progress: bool,
    name: str = "embed",
) -> None:
    """Embed those of some blocks in a row that are not in a folder yet."""
    todo = {number for number in blocks if not block_path(folder, number).exists()}
    rows = {number: block_rows(dataset, number) for number in blocks}
    done = sum(rows[number] for number in blocks if number not in todo)
    with tqdm(
        total=sum(rows.values()), initial=done, desc=name, unit="chunk", disable=not show_progress
    ) as bar:
        texts = _text_blocks(dataset.path / CHUNKS, blocks.start * BLOCK_ROWS)
        for number in blocks:
            block = next(texts)
            if number in todo:
                _save(block_path(folder, number), _encode_block(block, embedder, bar))


def _text_blocks(path: Path, first_row: int) -> Iterator[list[str]]:
    lines = enumerate(read_json_lines(path, first_row), 1 + first_row)
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
    # Whoever works on the same block writes a file of its own; the last one to finish stands.
    unfinished = target.with_suffix(f".unfinished-{os.getpid()}")
    with unfinished.open("wb") as file:
        np.save(file, vectors_nD, allow_pickle=False)
    unfinished.replace(target)
