"""All chunks in memory, in slots that are only ever appended.

A slot never changes but for the version at which its chunk died: replaced or deleted. So any number
of readers share the arrays with one writer and no lock. A reader holds a count and a version, and
for it exactly those slots exist that are below the count and did not die up to the version.

Shapes: N slots, D dimension.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.index import Rows
from models.scoring import Bools
from service.columns import Columns
from service.store import ChunkRow

ALIVE = np.iinfo(np.int64).max
NONE = -1
FIRST_CAPACITY = 1024


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
        """Make room for so many, so that appending them moves nothing."""
        if capacity > len(self.array):
            grown = np.empty((capacity, *self._shape), self.array.dtype)
            grown[: self.size] = self.array[: self.size]
            self.array = grown

    def extend(self, values: NDArray[Any]) -> None:
        """Append values (n,) or rows (n, width)."""
        end = self.size + len(values)
        if end > len(self.array):
            self.reserve(max(FIRST_CAPACITY, end, len(self.array) * 3 // 2))
        self.array[self.size : end] = values
        self.size = end


class Slots:
    """What is known of each chunk, by slot.

    Args:
        dimension: D of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.ids: list[str] = []
        self.document_ids: list[str] = []
        self.rows = Growing(np.int64)
        """Row of the store, rising."""
        self.positions = Growing(np.int64)
        self.died = Growing(np.int64)
        """Store version at which the chunk was replaced or deleted, else ``ALIVE``."""
        self.older = Growing(np.int64)
        """Slot of the chunk that this one replaced, or -1."""
        self.raw = Growing(np.float32, dimension)
        self.columns = Columns()
        self.dead = 0
        """Slots whose chunk has died."""
        self.alive_in: dict[str, int] = {}
        """Living chunks of each document, documents in the order in which they came."""
        self._slot_of: dict[str, int] = {}
        self._slots_of: dict[str, list[int]] = {}

    @property
    def count(self) -> int:
        """Slots, dead ones included."""
        return len(self.ids)

    def reserve(self, capacity: int) -> None:
        """Make room for so many slots."""
        for array in (self.rows, self.positions, self.died, self.older, self.raw):
            array.reserve(capacity)

    def append(self, rows: Sequence[int], chunks: Sequence[ChunkRow], version: int) -> None:
        """Add chunks, which replace those with the same ids at a version; ids differ."""
        first = self.count
        older = [self._slot_of.get(chunk.id, NONE) for chunk in chunks]
        self.kill([chunk.id for chunk in chunks], version)
        self.rows.extend(np.array(rows, np.int64))
        self.positions.extend(np.array([chunk.position for chunk in chunks], np.int64))
        self.died.extend(np.full(len(chunks), ALIVE))
        self.older.extend(np.array(older, np.int64))
        self.raw.extend(np.stack([chunk.vector_D for chunk in chunks]))
        for slot, chunk in enumerate(chunks, first):
            self.columns.append(slot, chunk.metadata)
            self._slots_of.setdefault(chunk.document_id, []).append(slot)
            self.alive_in[chunk.document_id] = self.alive_in.get(chunk.document_id, 0) + 1
            self.document_ids.append(chunk.document_id)
            self.ids.append(chunk.id)
            self._slot_of[chunk.id] = slot

    def append_dead(self, rows: Rows) -> None:
        """Add slots whose chunks are gone, to stand where a saved index has them."""
        for array, value in ((self.positions, 0), (self.died, 0), (self.older, NONE)):
            array.extend(np.full(len(rows), value, np.int64))
        self.rows.extend(rows)
        self.raw.extend(np.zeros((len(rows), self.dimension), np.float32))
        self.document_ids += [""] * len(rows)
        self.ids += [""] * len(rows)
        self.dead += len(rows)

    def kill(self, ids: Iterable[str], version: int) -> None:
        """Mark chunks as deleted at a version; unknown and dead ones are left alone."""
        for chunk_id in ids:
            slot = self._slot_of.get(chunk_id)
            if slot is None or self.died.array[slot] != ALIVE:
                continue
            self.died.array[slot] = version
            self.dead += 1
            document_id = self.document_ids[slot]
            self.alive_in[document_id] -= 1
            if not self.alive_in[document_id]:
                del self.alive_in[document_id]

    def slot(self, chunk_id: str, count: int, version: int) -> int | None:
        """The living slot of a chunk, for a reader."""
        slot = self._slot_of.get(chunk_id, NONE)
        while slot >= count:  # written again since
            slot = int(self.older.array[slot])
        return slot if slot >= 0 and self.died.array[slot] > version else None

    def document(self, document_id: str, count: int, version: int) -> Rows:
        """The living slots of a document in the order of positions, for a reader."""
        slots = self.of_document(document_id)
        slots = slots[slots < count]
        slots = slots[self.died.array[slots] > version]
        return slots[np.argsort(self.positions.array[slots], kind="stable")]

    def of_document(self, document_id: str) -> Rows:
        """All slots that a document has or had, those that came after a reader included."""
        return np.array(self._slots_of.get(document_id, ()), np.int64)

    def alive(self, count: int, version: int) -> Bools:
        """Which slots live, (count,), for a reader."""
        living: Bools = self.died.array[:count] > version
        return living
