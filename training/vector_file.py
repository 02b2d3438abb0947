"""Write vectors.npy: unit rows, checked, a block at a time.

Shapes: N rows, D dimension.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import DatasetError

BLOCK_ROWS = 8192
_TINY = 1e-12


def blocks_of(array_ND: NDArray[Any], rows: int = BLOCK_ROWS) -> Iterable[NDArray[Any]]:
    """Cut an array, possibly a memory map, into blocks of ``rows`` rows."""
    return (array_ND[start : start + rows] for start in range(0, len(array_ND), rows))


def unit_rows(block_ND: NDArray[Any], name: str, first_row: int = 0) -> NDArray[np.float32]:
    """Normalise rows to unit length.

    Args:
        block_ND: Vectors of any floating type.
        name: What to call them in messages.
        first_row: Number of the first row, for messages.

    Returns:
        A new C-contiguous float32 array (N, D).

    Raises:
        DatasetError: If a row holds NaN or infinity, or is zero.
    """
    # float64: squares of large float32 values would overflow, those of tiny ones vanish.
    wide_ND = np.asarray(block_ND, np.float64)
    for fault, bad_N in (
        ("finite numbers, got NaN or infinity", ~np.isfinite(wide_ND).all(axis=1)),
        ("a vector with a direction, got a zero vector", np.abs(wide_ND).max(axis=1) < _TINY),
    ):
        if bad_N.any():
            row = first_row + int(np.argmax(bad_N))
            raise DatasetError(f"{name} row {row}: expected {fault}")
    scaled_ND = wide_ND / np.abs(wide_ND).max(axis=1, keepdims=True)
    scaled_ND /= np.linalg.norm(scaled_ND, axis=1, keepdims=True)
    return np.ascontiguousarray(scaled_ND, np.float32)


def write_vectors(
    target: Path, blocks: Iterable[NDArray[Any]], shape: tuple[int, int], name: str
) -> str:
    """Write unit vectors in bounded memory; the file appears whole or not at all.

    Args:
        target: File to write or replace.
        blocks: Blocks (n, D) that make up all rows.
        shape: N and D.
        name: What to call the vectors in messages.

    Returns:
        The sha256 of the rows' bytes.

    Raises:
        DatasetError: If the blocks do not make up ``shape``, or a row is not usable.
    """
    digest = hashlib.sha256()
    partial = target.with_name(target.name + ".partial")
    rows = 0
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block_ND in blocks:
                if block_ND.shape[1:] != shape[1:]:
                    raise DatasetError(
                        f"{name}: expected {shape[1]} dimensions, got shape {block_ND.shape}"
                    )
                data = unit_rows(block_ND, name, rows).astype("<f4", copy=False).tobytes()
                digest.update(data)
                file.write(data)
                rows += len(block_ND)
            if rows != shape[0]:
                raise DatasetError(f"{name}: expected {shape[0]} rows, one a chunk, got {rows}")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def load_vectors(source: Path | NDArray[Any], rows: int) -> NDArray[Any]:
    """Map a .npy file, or take an array, and check that it is a matrix of ``rows`` numbers.

    Raises:
        DatasetError: If it cannot be read, or has another shape or type.
        FileNotFoundError: If there is no such file.
    """
    name = source.name if isinstance(source, Path) else "vectors"
    array: NDArray[Any]
    if isinstance(source, Path):
        try:
            array = np.load(source, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DatasetError(f"{name}: expected a .npy file of numbers: {error}") from error
        if not isinstance(array, np.ndarray):
            raise DatasetError(f"{name}: expected a .npy file, got an archive of several arrays")
    else:
        array = source
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise DatasetError(
            f"{name}: expected a matrix of floating-point numbers (chunks, dimension), "
            f"got {array.dtype} {array.shape}"
        )
    if len(array) != rows:
        raise DatasetError(f"{name}: expected {rows} rows, one a chunk, got {len(array)}")
    return array
