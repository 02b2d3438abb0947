"""Prepared folders in company: several that are trained on as one, or one beside a checkpoint."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from models.checkpoint import Checkpoint, load_checkpoint
from training.dataset import PreparedDataset

COMMONEST_LICENCES = 12


class FoldersError(ValueError):
    """Folders do not go together; the message names both and what differs."""


def check_alike(datasets: Sequence[PreparedDataset]) -> None:
    """Check that folders can be trained on as one.

    Raises:
        DatasetError: If one of them has no vectors.
        FoldersError: If two have the same name, or vectors of another dimension or model.
    """
    for one, other in combinations(datasets, 2):
        _check_pair(one, other)


def _check_pair(one: PreparedDataset, other: PreparedDataset) -> None:
    both = f"{one.path} and {other.path}"
    if one.manifest["name"] == other.manifest["name"]:
        raise FoldersError(
            f"{both}: name: expected every folder to have its own, got "
            f"{one.manifest['name']!r} twice; give one another with: prepare --name"
        )
    _same(both, "dimension", one.dimension, other.dimension)
    records = one.manifest["vectors"], other.manifest["vectors"]
    if any(record.get("model") is None for record in records):
        return  # vectors that somebody brought along: who made them is theirs to know
    _same(both, "model", *(record["model"] for record in records))
    hashes = [record.get("weights_sha256") for record in records]
    if None not in hashes:
        _same(both, "weights_sha256", *hashes)


def _same(both: str, field: str, one: object, other: object) -> None:
    if one != other:
        raise FoldersError(f"{both}: vectors.{field}: expected the same, got {one!r} and {other!r}")


def open_with_checkpoint(checkpoint: Path, data: Path) -> tuple[Checkpoint, PreparedDataset]:
    """Load a checkpoint, and open the data that it is to be judged on.

    Raises:
        CheckpointError: If the checkpoint is missing or damaged.
        DatasetError: If the data are.
        FoldersError: If their dimensions differ.
    """
    dataset = PreparedDataset.open(data)
    loaded = load_checkpoint(checkpoint)
    if loaded.model.config.dimension != dataset.dimension:
        raise FoldersError(
            f"checkpoint: expected dimension {dataset.dimension} as in {data}, "
            f"got {loaded.model.config.dimension}"
        )
    return loaded, dataset


def describe(
    dataset: PreparedDataset, splits: Mapping[str, Mapping[str, Sequence[Any]]]
) -> dict[str, Any]:
    """What a checkpoint remembers of a folder that it was trained on.

    Args:
        dataset: The folder.
        splits: For each split that was used, the documents of every folder by its name.
    """
    name = dataset.manifest["name"]
    counts = Counter(document.licence or "unknown" for document in dataset.documents)
    licences = Counter(dict(counts.most_common(COMMONEST_LICENCES)))
    rest = counts.total() - licences.total()
    if rest:
        licences["other"] += rest
    return {
        "name": name,
        "fingerprint": dataset.fingerprint,
        "documents": len(dataset.documents),
        "chunks": dataset.chunk_count,
        "vectors": dataset.manifest["vectors"],
        "licences": dict(licences),
        "used": {split: len(documents[name]) for split, documents in splits.items()},
    }
