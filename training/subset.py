"""Smaller data of the same make-up: some windows of every document, or some whole documents.

A window is named by its document and by the position t of its target, 1 <= t < count; its context
is whatever stands just before t.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import CHUNKS, Document, PreparedDataset, read_json_lines
from training.dataset_writer import DatasetWriter
from training.raw import Chunk, RawDocument
from training.splits import split_of

_LENGTH_CLASSES = 10


class SubsetError(ValueError):
    """A subset of that size cannot be made."""


def subset_windows(document_lengths: Sequence[int], n: int, seed: int) -> NDArray[np.int64]:
    """Draw windows so that every document keeps its share of them.

    Args:
        document_lengths: Chunks in each document.
        n: Number of windows to draw.
        seed: Same seed, same windows.

    Returns:
        Rows (n, 2) of document index and target position, sorted.

    Raises:
        SubsetError: If ``n`` is not between 1 and the number of windows.
    """
    windows = np.maximum(np.asarray(document_lengths, np.int64) - 1, 0)
    total = int(windows.sum())
    _check(n, total)
    generator = np.random.default_rng(seed)
    exact = windows * (n / total)
    shares = np.minimum(np.floor(exact).astype(np.int64), windows)
    # What rounding down left over goes to the largest remainders; chance decides between equals.
    ranked = np.lexsort((generator.random(len(windows)), shares - exact))
    spare = ranked[shares[ranked] < windows[ranked]]
    shares[spare[: n - int(shares.sum())]] += 1
    chosen = [
        np.sort(generator.choice(count, size=share, replace=False)) + 1
        for count, share in zip(windows.tolist(), shares.tolist(), strict=True)
    ]
    documents = np.repeat(np.arange(len(windows), dtype=np.int64), shares)
    return np.column_stack([documents, np.concatenate(chosen).astype(np.int64)])


def subset_documents(documents: Sequence[Document], windows: int, seed: int) -> list[Document]:
    """Draw whole documents, alike in split, source, licence and length, that hold about n windows.

    Args:
        documents: Documents to draw from.
        windows: Number of windows wanted; the result comes close, for documents stay whole.
        seed: Same seed, same documents.

    Returns:
        The chosen ones, in row order; at least one.

    Raises:
        SubsetError: If ``windows`` is not between 1 and the number of windows.
    """
    total = sum(document.count - 1 for document in documents)
    _check(windows, total)
    order = np.random.default_rng(seed).permutation(len(documents))
    counts = [document.count for document in documents]
    edges = np.quantile(counts, np.linspace(0, 1, _LENGTH_CLASSES + 1)[1:-1])

    def stratum(index: int) -> tuple[str, str, str, int]:
        document = documents[index]
        length = int(np.searchsorted(edges, document.count))
        return split_of(document.group), document.source, document.licence, length

    # Walking stratum by stratum, what one document owes is carried over to the next, so that every
    # stratum, however small, gets its share to within one document. Documents are owed, not
    # windows: owing windows would favour the short ones of a stratum.
    chosen: list[Document] = []
    owed = 0.5
    for index in sorted(order.tolist(), key=stratum):
        owed += windows / total
        if owed >= 1:
            chosen.append(documents[index])
            owed -= 1
    if not chosen:
        chosen = [min(documents, key=lambda document: abs(document.count - 1 - windows))]
    return sorted(chosen, key=lambda document: document.start)


def write_subset(dataset: PreparedDataset, out: Path, windows: int, seed: int) -> PreparedDataset:
    """Write whole documents with about ``windows`` windows as prepared data of their own.

    Vectors are copied where there are any.

    Returns:
        The smaller data.

    Raises:
        SubsetError: If ``windows`` is not between 1 and the number of windows.
        DatasetError: If ``out`` holds something other than prepared data.
    """
    chosen = subset_documents(dataset.documents, windows, seed)
    record: dict[str, Any] = dataset.manifest["vectors"] or {}
    options = {
        **dataset.manifest["options"],
        "subset": {"of": dataset.manifest["fingerprint"], "windows": windows, "seed": seed},
    }
    with DatasetWriter(
        out,
        name=f"{dataset.manifest['name']}-subset",
        options=options,
        carried_model=record.get("model"),
        carried_weights_sha256=record.get("weights_sha256"),
    ) as writer:
        for raw in _documents(dataset, chosen):
            writer.add(raw)
    return PreparedDataset.open(out)


def _documents(dataset: PreparedDataset, chosen: Sequence[Document]) -> Iterator[RawDocument]:
    vectors = dataset.vectors if dataset.manifest["vectors"] is not None else None
    lines = enumerate(read_json_lines(dataset.path / CHUNKS))
    for document in chosen:
        end = document.start + document.count
        chunks: list[Chunk] = []
        for row, line in lines:
            if row >= document.start:
                chunks.append(Chunk(**line))
            if row == end - 1:
                break
        yield RawDocument(
            doc_id=document.doc_id,
            chunks=tuple(chunks),
            origin=str(dataset.path),
            title=document.title,
            source=document.source,
            licence=document.licence,
            group=document.group,
            vectors=None if vectors is None else vectors[document.start : end],
        )


def _check(windows: int, total: int) -> None:
    if not 1 <= windows <= total:
        raise SubsetError(f"windows: expected 1 to {total}, as many as there are, got {windows}")
