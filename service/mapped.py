"""Arrays that only grow at their end: in memory, or in a file that is mapped into memory.

A mapped array costs no memory that the system cannot take back: its pages are those of the file.
It is written with ``pwrite`` and read through a mapping that cannot be written to: so a full disk
is an ``OSError`` of the writer and never a signal, and who holds the array cannot spoil the file.
When it grows the file is mapped anew: nothing is copied, and who holds the array as it was still
sees the same pages.
"""

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 1024
GROWTH_LIMIT_BYTES = 1 << 28
"""Most that a file grows at once beyond what is asked for."""
HEADER_BYTES = 4096
"""Room for what a file says about itself; the rows begin on a page of their own."""


class FileMismatchError(ValueError):
    """A file of rows is missing, too short, or not the one that was asked for."""


class Growing:
    """An array that grows at its end; a reader may keep what ``array`` was at any time.

    Args:
        dtype: Type of an element.
        width: Columns, for a matrix.
    """

    def __init__(self, dtype: Any, width: int | None = None) -> None:
        self._shape = () if width is None else (width,)
        self.array: NDArray[Any] = np.empty((0, *self._shape), dtype)
        """At least as long as what was appended, the rest is not yet filled."""
        self.size = 0

    def reserve(self, capacity: int) -> None:
        """Make room for so many in all, so that appending them moves nothing.

        Raises:
            OSError: If it lies in a file and the disk is full.
        """
        if capacity > len(self.array):
            longer = np.empty((capacity, *self._shape), self.array.dtype)
            longer[: self.size] = self.array[: self.size]
            self.array = longer

    def extend(self, values: NDArray[Any]) -> None:
        """Append values (n,) or rows (n, width).

        Raises:
            OSError: If it lies in a file and the disk is full or broken; nothing is appended then.
        """
        self.make_room(len(values))
        self._put(values)
        self.size += len(values)

    def make_room(self, more: int) -> None:
        """Make room for so many more, and for others that will come.

        Raises:
            OSError: If it lies in a file and the disk is full.
        """
        end = self.size + more
        if end > len(self.array):
            self.reserve(max(FIRST_CAPACITY, end, len(self.array) * 3 // 2))

    def flush(self) -> None:
        """Have what was appended reach the disk, if it lies in a file."""

    def remove(self) -> None:
        """Delete its file, if it has one; who holds the array still can read it."""

    def close(self) -> None:
        """Close its file, if it has one; who holds the array still can read it."""

    def _put(self, values: NDArray[Any]) -> None:
        self.array[self.size : self.size + len(values)] = values


class Mapped(Growing):
    """The same in a file.

    Args:
        path: The file.
        about: What it says about itself, which must be the same when it is opened again.
        dtype: Type of an element, in the byte order of the file.
        width: Columns, for a matrix.
        size: How much an existing file is known to hold; None makes an empty one.

    Raises:
        FileMismatchError: If it is to be opened, and is missing, shorter, or another file.
        OSError: If it cannot be made.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        dtype: Any,
        width: int | None = None,
        *,
        size: int | None = None,
    ) -> None:
        super().__init__(dtype, width)
        self.path = path
        self._row_bytes = self.array.dtype.itemsize * (1 if width is None else width)
        header = json.dumps({**about, "dtype": str(np.dtype(dtype)), "width": width}).encode()
        header = header.ljust(HEADER_BYTES)
        if size is None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write(self._file, header, 0)
            except OSError:
                self.remove()
                raise
        else:
            self._file = _existing(path, header, HEADER_BYTES + size * self._row_bytes)
            self.size = size
            self._map()

    def reserve(self, capacity: int) -> None:
        """Make room for so many in all on the disk.

        Raises:
            OSError: If the disk is full.
        """
        if capacity > len(self.array):
            _allocate(self._file, self._offset(capacity))
            self._map()

    def make_room(self, more: int) -> None:
        """Make room for so many more, and for a quarter of all if the disk has that, too.

        Raises:
            OSError: If the disk is full.
        """
        end = self.size + more
        if end <= len(self.array):
            return
        spare = max(FIRST_CAPACITY, min(end // 4, GROWTH_LIMIT_BYTES // self._row_bytes))
        try:
            self.reserve(end + spare)
        except OSError:
            self.reserve(end)

    def flush(self) -> None:
        """Have what was appended reach the disk."""
        os.fsync(self._file)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        """Close the file when nothing appends to it any more."""
        if hasattr(self, "_file"):
            self.close()

    def _put(self, values: NDArray[Any]) -> None:
        rows = np.ascontiguousarray(values, self.array.dtype)
        _write(self._file, rows.reshape(-1).view(np.uint8).data, self._offset(self.size))

    def _offset(self, row: int) -> int:
        return HEADER_BYTES + row * self._row_bytes

    def _map(self) -> None:
        rows = (os.fstat(self._file).st_size - HEADER_BYTES) // self._row_bytes
        if rows:
            pages = mmap.mmap(self._file, self._offset(rows), prot=mmap.PROT_READ)
            self.array = np.frombuffer(
                pages, self.array.dtype, rows * self._row_bytes // self.array.itemsize, HEADER_BYTES
            ).reshape(rows, *self._shape)


def _existing(path: Path, header: bytes, least_bytes: int) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError as error:
        raise FileMismatchError(f"{path.name}: there is none") from error
    try:
        if os.pread(descriptor, HEADER_BYTES, 0) != header:
            raise FileMismatchError(f"{path.name}: another file, or damaged")
        size = os.fstat(descriptor).st_size
        if size < least_bytes:
            raise FileMismatchError(
                f"{path.name}: expected {least_bytes} bytes or more, got {size}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _write(descriptor: int, content: "bytes | memoryview", offset: int) -> None:
    rest = memoryview(content)
    while len(rest):
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done
