"""Small prepared folders for tests."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from tests.synthetic import walks
from training.dataset import PreparedDataset
from training.dataset_writer import DatasetWriter
from training.raw import Chunk, RawDocument
from training.splits import split_of


def raw_document(doc_id: str, length: int = 2, **fields: object) -> RawDocument:
    chunks = tuple(Chunk(text=f"{doc_id} chunk {place}", section="S") for place in range(length))
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


def write_walks(
    out: Path, seed: int, *, train: int, validation: int, shuffle: bool = False, dimension: int = 16
) -> PreparedDataset:
    """Synthetic documents (tests.synthetic), named after the folder, so many of each split.

    With ``shuffle`` their chunks stand in no order, so that nothing tells which comes next.
    """
    wanted = {"train": train, "validation": validation}
    names = (f"{out.name}-{number}" for number in count())
    documents = walks(seed, train + validation, dimension)
    with DatasetWriter(out, name=out.name) as writer:
        for document in documents:
            doc_id = next(name for name in names if wanted.get(split_of(name)))
            wanted[split_of(doc_id)] -= 1
            writer.add(raw_document(doc_id, len(document), licence=f"{out.name} licence"))
        if shuffle:
            documents = [np.random.default_rng(seed).permutation(rows) for rows in documents]
        rows = np.concatenate(documents)
        writer.attach_vectors(rows, model="walks")
    return PreparedDataset.open(out)
