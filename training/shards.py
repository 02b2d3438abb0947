"""Embed a large corpus in shards: each a run of its own, on whichever machine, and then one file.

A shard is a range of the blocks that an unsharded run would embed one after the other, so the
vectors are the same. It is kept in ``DIR/shards/I-of-N``, which can be copied to another machine:

    identity.json       data, model and options, and which shard of how many
    block-000000.npy    (n, D) float32, a block
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.dataset import DatasetError, PreparedDataset
from training.dataset_writer import install_vectors
from training.embed import (
    BLOCK_ROWS,
    TextEmbedder,
    block_count,
    block_path,
    block_rows,
    claim_folder,
    encode_blocks,
    identity_of,
    read_identity,
)

SHARDS = "shards"


class ShardError(DatasetError):
    """Shards are missing, unfinished, damaged, or do not go together."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts of a corpus."""

    number: int
    """From 1."""
    of: int
    """How many there are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``I/N``, such as ``2/8``.

        Raises:
            ShardError: If it is not that, or I is not in 1 to N.
        """
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(number=int(number), of=int(of))
        raise ShardError(f"shard: expected I/N with 1 <= I <= N, such as 2/8, got {text!r}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, dataset: PreparedDataset) -> Path:
        """Where its blocks lie."""
        return dataset.path / SHARDS / f"{self.number}-of-{self.of}"

    def blocks(self, dataset: PreparedDataset) -> range:
        """Its blocks; none if there are more shards than blocks."""
        total = block_count(dataset)
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)

    def missing(self, dataset: PreparedDataset) -> list[int]:
        """Those of its blocks that are not embedded yet."""
        folder = self.folder(dataset)
        return [n for n in self.blocks(dataset) if not block_path(folder, n).exists()]


def embed_shard(
    dataset: PreparedDataset, embedder: TextEmbedder, shard: Shard, *, show_progress: bool = True
) -> int:
    """Embed one shard; go on where an interrupted run with the same data and model stopped.

    Args:
        dataset: The prepared data, the same for all shards.
        embedder: What turns texts into vectors.
        shard: Which part to embed.
        show_progress: Draw a bar with the rate on stderr.

    Returns:
        How many vectors the shard has.

    Raises:
        DatasetError: If a chunk has no text, or the embedder answers unusable vectors.
    """
    identity = {**identity_of(dataset, embedder), "shard": shard.number, "of": shard.of}
    folder = claim_folder(shard.folder(dataset), identity)
    blocks = shard.blocks(dataset)
    name = f"shard {shard}"
    encode_blocks(dataset, embedder, folder, blocks, show_progress=show_progress, name=name)
    return sum(block_rows(dataset, number) for number in blocks)


def merge_shards(dataset: PreparedDataset) -> tuple[PreparedDataset, int]:
    """Join finished shards into ``vectors.npy``, the same file as an unsharded run's.

    Returns:
        The data with vectors, and how many shards it had; their folder is gone.

    Raises:
        ShardError: If a shard is missing, unfinished or damaged, or belongs to other data, another
            model or another number of shards. Nothing is changed then.
    """
    shards = _found(dataset)
    identity = _agreed(dataset, shards)
    dimension = int(identity["dimension"])
    for shard in shards:
        for number in shard.blocks(dataset):
            _load_block(dataset, shard, number, dimension)
    install_vectors(
        dataset.path,
        _blocks(dataset, shards, dimension),
        (dataset.chunk_count, dimension),
        model=identity["model"],
        weights_sha256=identity["weights_sha256"],
    )
    shutil.rmtree(dataset.path / SHARDS)
    return PreparedDataset.open(dataset.path), len(shards)


def _found(dataset: PreparedDataset) -> list[Shard]:
    """All shards, complete and in order."""
    place = dataset.path / SHARDS
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if not names:
        raise ShardError(
            f"{place}: expected shards, found none; make them with: "
            f"python -m training embed {dataset.path} --shard 1/2"
        )
    found = {_parse_folder(place, name) for name in names}
    counts = sorted({shard.of for shard in found})
    if len(counts) > 1:
        raise ShardError(
            f"{place}: expected shards of one number, got "
            f"{' and '.join(f'some of {count}' for count in counts)}; remove those not wanted"
        )
    wanted = [Shard(number=number, of=counts[0]) for number in range(1, counts[0] + 1)]
    absent = [str(shard) for shard in wanted if shard not in found]
    if absent:
        raise ShardError(
            f"{place}: expected all {counts[0]} shards, got {len(found)}; "
            f"missing: {', '.join(absent)}"
        )
    return wanted


def _parse_folder(place: Path, name: str) -> Shard:
    try:
        shard = Shard.parse(name.replace("-of-", "/"))
    except ShardError as error:
        raise ShardError(f"{place / name}: expected a shard, named I-of-N") from error
    return shard


def _agreed(dataset: PreparedDataset, shards: list[Shard]) -> dict[str, Any]:
    """What all shards belong to; each must be finished."""
    first: dict[str, Any] | None = None
    for shard in shards:
        folder = shard.folder(dataset)
        identity = read_identity(folder)
        if identity is None:
            raise ShardError(f"{folder}: cannot tell what it belongs to: it has no identity.json")
        own = {"shard": shard.number, "of": shard.of}
        common = {name: value for name, value in identity.items() if name not in own}
        given = {
            **own,
            "data": dataset.manifest["fingerprint"],
            "block_rows": BLOCK_ROWS,
        }
        _same(folder, identity, given, "as this folder and this version have it")
        _same(folder, identity, first or common, f"as in shard {shards[0]}")
        first = first or common
        missing = shard.missing(dataset)
        if missing:
            raise ShardError(
                f"{folder}: expected {len(shard.blocks(dataset))} blocks, {len(missing)} of them "
                f"missing; finish it with: python -m training embed {dataset.path} --shard {shard}"
            )
    assert first is not None
    return first


def _same(folder: Path, identity: Mapping[str, Any], expected: Mapping[str, Any], why: str) -> None:
    for field, value in expected.items():
        if identity.get(field) != value:
            raise ShardError(
                f"{folder}: {field}: expected {value!r}, {why}, got {identity.get(field)!r}"
            )


def _blocks(
    dataset: PreparedDataset, shards: list[Shard], dimension: int
) -> Iterator[NDArray[np.float32]]:
    for shard in shards:
        for number in shard.blocks(dataset):
            yield _load_block(dataset, shard, number, dimension)


def _load_block(
    dataset: PreparedDataset, shard: Shard, number: int, dimension: int
) -> NDArray[np.float32]:
    """Map a block, checked."""
    path = block_path(shard.folder(dataset), number)
    try:
        block: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: expected a block of vectors: {error}") from error
    expected = (block_rows(dataset, number), dimension)
    if block.shape != expected or block.dtype != np.float32:
        raise ShardError(f"{path}: expected float32 {expected}, got {block.dtype} {block.shape}")
    return block
