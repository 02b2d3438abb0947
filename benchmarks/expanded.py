"""Real vectors expanded by noise to a size that no real set at hand has, and queries for them.

The first rows are the real vectors themselves, in a random order and each once; then come copies
with noise, round after round. The noise has the covariance of the real vectors, so that it lies
where they lie, and its length is drawn anew for each copy. Queries are real vectors that are not
in the set, moved a little in the same way.

Shapes: N vectors, B queries, D dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from models.scoring import Floats

NOISE = (0.3, 0.6)
"""Length of a copy's noise, least and most, where a vector's own length is 1."""
QUERY_NOISE = (0.1, 0.3)
HELD_OUT = 2000
BLOCK = 50_000
SAMPLE = 50_000
"""Vectors of which the covariance is taken."""


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """What is indexed and what is asked."""

    vectors_ND: Floats
    """Mapped from a file."""
    query_BD: Floats
    real: int
    """How many of the first vectors are real."""


def expanded(folders: Sequence[Path], size: int, scratch: Path, seed: int = 0) -> Expanded:
    """Make ``size`` vectors in a file of ``scratch``, or take those that stand there.

    Args:
        folders: Prepared and embedded folders, each with its ``vectors.npy``.
        size: N.
        scratch: Folder for the file, of N * D * 4 bytes.
        seed: Of order, noise and queries.
    """
    generator = np.random.default_rng(seed)
    real_ND = np.unique(np.concatenate([np.load(one / "vectors.npy") for one in folders]), axis=0)
    generator.shuffle(real_ND)
    held_BD, real_ND = real_ND[:HELD_OUT], real_ND[HELD_OUT:]
    covariance_DD = np.cov(real_ND[:SAMPLE], rowvar=False)
    shape_DD = np.linalg.cholesky(covariance_DD + 1e-7 * np.eye(len(covariance_DD)))
    shape_DD = (shape_DD / np.sqrt(np.trace(covariance_DD))).astype(np.float32)
    path = scratch / "vectors.npy"
    if not path.exists() or len(np.load(path, mmap_mode="r")) < size:
        _write(path, real_ND, size, shape_DD, seed)
    return Expanded(
        vectors_ND=np.load(path, mmap_mode="r")[:size],
        query_BD=_moved(held_BD, shape_DD, QUERY_NOISE, generator),
        real=min(size, len(real_ND)),
    )


def _write(path: Path, real_ND: Floats, size: int, shape_DD: Floats, seed: int) -> None:
    partial = path.with_suffix(".partial")
    array_ND = open_memmap(partial, "w+", np.float32, (size, real_ND.shape[1]))
    for start in range(0, size, BLOCK):
        rows = np.arange(start, min(start + BLOCK, size))
        block_ND = real_ND[rows % len(real_ND)]
        copies = rows >= len(real_ND)
        if copies.any():
            generator = np.random.default_rng((seed, start))
            block_ND[copies] = _moved(block_ND[copies], shape_DD, NOISE, generator)
        array_ND[rows[0] : rows[-1] + 1] = block_ND
    array_ND.flush()
    partial.replace(path)


def _moved(
    vectors_ND: Floats,
    shape_DD: Floats,
    noise: tuple[float, float],
    generator: np.random.Generator,
) -> Floats:
    noise_ND = generator.standard_normal(vectors_ND.shape, np.float32) @ shape_DD.T
    length_N1 = generator.uniform(*noise, (len(vectors_ND), 1)).astype(np.float32)
    moved_ND: NDArray[np.float32] = vectors_ND + length_N1 * noise_ND
    moved_ND /= np.linalg.norm(moved_ND, axis=1, keepdims=True)
    return moved_ND
