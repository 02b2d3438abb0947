"""Small prepared folders for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.dataset import PreparedDataset
from training.dataset_writer import DatasetWriter
from training.raw import Chunk, RawDocument


def raw_document(doc_id: str, count: int = 2, **fields: object) -> RawDocument:
    chunks = tuple(Chunk(text=f"{doc_id} chunk {place}", section="S") for place in range(count))
    return RawDocument(**{"doc_id": doc_id, "chunks": chunks, "origin": "a test", **fields})


def write_prepared(
    out: Path, lengths: Sequence[int], *, dimension: int | None = None, seed: int = 0
) -> PreparedDataset:
    """Documents d0, d1, ... of the given lengths, with random vectors if there is a dimension."""
    generator = np.random.default_rng(seed)
    with DatasetWriter(out, name="small", options={"made": "by a test"}) as writer:
        for number, length in enumerate(lengths):
            writer.add(raw_document(f"d{number}", length))
        if dimension is not None:
            writer.attach_vectors(generator.normal(size=(sum(lengths), dimension)), model="random")
    return PreparedDataset.open(out)
