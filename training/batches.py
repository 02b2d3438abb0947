"""Batches of whole documents: every chunk is encoded once, and all its windows share that.

Shapes: N chunks of the batch, W windows, L window length, P order pairs, D dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.scoring import Floats
from training.candidates import create_candidate_set, sample_order_pairs
from training.config import TrainConfig
from training.windows import Rows, document_windows, hide_context


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some documents, as the loss needs them; all rows count from the batch's first chunk."""

    chunks_ND: Tensor
    context_WL: Tensor
    mask_WL: Tensor
    next_W: Tensor
    prev_W: Tensor
    """Row of the chunk before the window, -1 where there is none."""
    allowed_WN: Tensor
    """True where a chunk is a candidate of the window."""
    log_weight_WN: Tensor
    """Logarithm of a candidate's weight: 0 in the document, lower outside."""
    first_P: Tensor
    second_P: Tensor
    later_P: Tensor
    documents: tuple[tuple[slice, slice], ...]
    """Windows and chunks of each document of the batch."""


def batches(
    documents: Sequence[Floats],
    keep: Sequence[Rows] | None,
    config: TrainConfig,
    window: int,
    epoch: int,
) -> Iterator[Batch]:
    """Shuffle documents and cut them into batches, the same for the same seed and epoch.

    Args:
        documents: Raw unit vectors (n, D) of each document, of two chunks or more.
        keep: For each document the ``next`` rows to train on; all if None.
        config: Options.
        window: L.
        epoch: Epoch, from 0; part of the seed, so that a resumed run draws as it would have.
    """
    generator = np.random.default_rng([config.seed, epoch])
    shuffled = generator.permutation(len(documents))
    for start in range(0, len(shuffled), config.batch_documents):
        chosen = shuffled[start : start + config.batch_documents]
        yield _assemble(
            [documents[index] for index in chosen],
            None if keep is None else [keep[index] for index in chosen],
            config,
            window,
            generator,
        )


def _assemble(
    documents: Sequence[Floats],
    keep: Sequence[Rows] | None,
    config: TrainConfig,
    window: int,
    generator: np.random.Generator,
) -> Batch:
    starts = np.cumsum([0] + [len(document) for document in documents])
    total = int(starts[-1])
    outside = np.log(config.outside_weight) if config.outside_weight else -np.inf
    parts: dict[str, list[np.ndarray]] = {}
    for number, document in enumerate(documents):
        start, count = int(starts[number]), len(document)
        windows = document_windows(count, window)
        if keep is not None:
            windows = windows.select(np.isin(windows.next_W, keep[number]))
        inside_WN = hide_context(windows, count)
        if config.candidates == "classic8":
            inside_WN &= _classic_mask(document, windows.next_W, window, generator)
        shape = (len(windows.next_W), total)
        allowed_WN = np.full(shape, bool(config.outside_weight), np.bool_)
        allowed_WN[:, start : start + count] = inside_WN
        weight_WN = np.full(shape, outside, np.float32)
        weight_WN[:, start : start + count] = 0.0
        pairs = sample_order_pairs(count, config.pairs_per_document, generator)
        for name, part in {
            "context_WL": windows.context_WL + start,
            "mask_WL": windows.mask_WL,
            "next_W": windows.next_W + start,
            "prev_W": np.where(windows.prev_W >= 0, windows.prev_W + start, -1),
            "allowed_WN": allowed_WN,
            "log_weight_WN": weight_WN,
            "first_P": pairs.first_P + start,
            "second_P": pairs.second_P + start,
            "later_P": pairs.later_P,
        }.items():
            parts.setdefault(name, []).append(part)
    tensors = {name: torch.from_numpy(np.concatenate(part)) for name, part in parts.items()}
    ends = np.cumsum([0] + [len(part) for part in parts["next_W"]])
    return Batch(
        chunks_ND=torch.from_numpy(np.concatenate(documents)),
        documents=tuple(
            (slice(int(ends[n]), int(ends[n + 1])), slice(int(starts[n]), int(starts[n + 1])))
            for n in range(len(documents))
        ),
        **tensors,
    )


def _classic_mask(
    document: Floats, next_W: Rows, window: int, generator: np.random.Generator
) -> np.ndarray:
    """Mask (W, n) of each window's classic set, its negatives those closest to the last chunk."""
    similarity_WN = document[next_W - 1] @ document.T
    mask_WN = np.zeros((len(next_W), len(document)), np.bool_)
    for row, (target, similarity_N) in enumerate(zip(next_W, similarity_WN, strict=True)):
        rows_K = create_candidate_set(
            len(document), int(target), window, generator, similarity_N=similarity_N
        )
        mask_WN[row, rows_K[rows_K >= 0]] = True
    return mask_WN
