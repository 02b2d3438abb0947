"""Batches of whole documents: every chunk is encoded once, and all its windows share that.

After the documents' own chunks may come hard negatives from others, mined for each document.

Shapes: N chunks of the batch, W windows, L window length, P order pairs, D dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.scoring import Floats
from training.candidates import create_candidate_set, sample_order_pairs
from training.config import TrainConfig
from training.losses import WHOLE, LossShare
from training.mining import Mined
from training.windows import Rows, document_windows, hide_context
from training.world import World


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
    document_N: Tensor
    """Which document of the whole split a chunk belongs to."""
    position_N: Tensor
    """Its place in that document."""
    documents: tuple[tuple[slice, slice], ...]
    """Windows and chunks of each document of the batch."""
    mined: tuple[slice, ...]
    """For each document the chunks that were mined for it; they stand behind all documents'."""


def own_part(batch: Batch, world: World) -> tuple[Batch, LossShare]:
    """The windows and order pairs that are this process's, among all chunks of the batch.

    Windows and pairs are dealt out evenly, wherever they come from; ``documents`` and ``mined``
    stay those of the whole batch. A process for which none is left takes one that counts nothing,
    so that all take the same way through the networks.
    """
    if world.size == 1:
        return batch, WHOLE
    windows, window_share = _own(len(batch.next_W), world)
    pairs, pair_share = _own(len(batch.first_P), world)
    part = replace(
        batch,
        context_WL=batch.context_WL[windows],
        mask_WL=batch.mask_WL[windows],
        next_W=batch.next_W[windows],
        prev_W=batch.prev_W[windows],
        allowed_WN=batch.allowed_WN[windows],
        log_weight_WN=batch.log_weight_WN[windows],
        first_P=batch.first_P[pairs],
        second_P=batch.second_P[pairs],
        later_P=batch.later_P[pairs],
    )
    prevs, all_prevs = int((part.prev_W >= 0).sum()), int((batch.prev_W >= 0).sum())
    prev_share = prevs / max(all_prevs, 1) if window_share else 0.0
    return part, LossShare(window_share, prev_share, pair_share)


def _own(count: int, world: World) -> tuple[slice, float]:
    """Which of ``count`` things are this process's, and what share of all that is."""
    start, stop = (count * rank // world.size for rank in (world.rank, world.rank + 1))
    if start == stop:
        return slice(0, 1), 0.0
    return slice(start, stop), (stop - start) / count


def batches(
    documents: Sequence[Floats],
    keep: Sequence[Rows] | None,
    config: TrainConfig,
    window: int,
    epoch: int,
    mined: Mined | None = None,
) -> Iterator[Batch]:
    """Shuffle documents and cut them into batches, the same for the same seed and epoch.

    Args:
        documents: Raw unit vectors (n, D) of each document, of two chunks or more.
        keep: For each document the ``next`` rows to train on; all if None.
        config: Options.
        window: L.
        epoch: Epoch, from 0; part of the seed, so that a resumed run draws as it would have.
        mined: Hard negatives of each document from others; none if left out.
    """
    generator = np.random.default_rng([config.seed, epoch])
    shuffled = generator.permutation(len(documents))
    for start in range(0, len(shuffled), config.batch_documents):
        chosen = shuffled[start : start + config.batch_documents]
        yield _assemble(documents, chosen, keep, config, window, generator, mined)


def _assemble(
    everything: Sequence[Floats],
    chosen: Rows,
    keep: Sequence[Rows] | None,
    config: TrainConfig,
    window: int,
    generator: np.random.Generator,
    mined: Mined | None,
) -> Batch:
    documents = [everything[index] for index in chosen]
    own = int(sum(len(document) for document in documents))
    others = [] if mined is None else [mined.vectors(everything, index) for index in chosen]
    ends = own + np.cumsum([0] + [len(other) for other in others])
    places = [slice(int(ends[n]), int(ends[n + 1])) for n in range(len(others))]
    total = int(ends[-1])
    outside = np.log(config.outside_weight) if config.outside_weight else -np.inf
    parts: dict[str, list[np.ndarray]] = {}
    start = 0
    for number, document in enumerate(documents):
        count = len(document)
        windows = document_windows(count, window)
        if keep is not None:
            windows = windows.select(np.isin(windows.next_W, keep[chosen[number]]))
        inside_WN = hide_context(windows, count)
        if config.candidates == "classic8":
            inside_WN &= _classic_mask(document, windows.next_W, window, generator)
        shape = (len(windows.next_W), total)
        allowed_WN = np.zeros(shape, np.bool_)
        allowed_WN[:, :own] = bool(config.outside_weight)
        if places:
            allowed_WN[:, places[number]] = bool(config.outside_weight)
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
        start += count
    origin = _origin(documents, chosen, mined)
    tensors = {name: torch.from_numpy(np.concatenate(part)) for name, part in parts.items()}
    return Batch(
        chunks_ND=torch.from_numpy(np.concatenate([*documents, *others])),
        document_N=torch.from_numpy(origin[0]),
        position_N=torch.from_numpy(origin[1]),
        documents=_slices([len(part) for part in parts["next_W"]], documents),
        mined=tuple(places) or (slice(own, own),) * len(documents),
        **tensors,
    )


def _origin(documents: Sequence[Floats], chosen: Rows, mined: Mined | None) -> tuple[Rows, Rows]:
    """Document and position of every chunk of a batch, (N,) each."""
    counts = [len(document) for document in documents]
    document = [np.repeat(chosen, counts)]
    position = [np.concatenate([np.arange(count) for count in counts])]
    if mined is not None:
        found = mined.document[chosen] >= 0
        document.append(mined.document[chosen][found])
        position.append(mined.row[chosen][found])
    return np.concatenate(document), np.concatenate(position)


def _slices(windows: Sequence[int], documents: Sequence[Floats]) -> tuple[tuple[slice, slice], ...]:
    window_ends = np.cumsum([0, *windows])
    chunk_ends = np.cumsum([0] + [len(document) for document in documents])
    return tuple(
        (
            slice(int(window_ends[n]), int(window_ends[n + 1])),
            slice(int(chunk_ends[n]), int(chunk_ends[n + 1])),
        )
        for n in range(len(documents))
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
