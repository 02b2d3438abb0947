"""All chunks in memory, in slots that are only ever appended.

A slot never changes but for the version at which its chunk died: replaced or deleted. So any number
of readers share the arrays with one writer and no lock. A reader holds a count and a version, and
for it exactly those slots exist that are below the count and did not die up to the version.

Shapes: N slots, D dimension.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from models.index import Rows
from models.scoring import Bools, Floats
from service.columns import Columns
from service.mapped import Growing
from service.rows import ChunkRow, Heads

ALIVE = np.iinfo(np.int64).max
NONE = -1


class Slots:
    """What is known of each chunk, by slot.

    Args:
        dimension: D of the vectors.
        rows: Holds the row of each slot; None is an array in memory.
        raw: Holds their vectors; the same. Both may hold some, whose chunks are yet to be told.
    """

    def __init__(
        self, dimension: int, rows: Growing | None = None, raw: Growing | None = None
    ) -> None:
        self.dimension = dimension
        self.ids: list[str] = []
        self.document_ids: list[str] = []
        self.rows = Growing(np.int64) if rows is None else rows
        """Row of the store, rising."""
        self.positions = Growing(np.int64)
        self.died = Growing(np.int64)
        """Store version at which the chunk was replaced or deleted, else ``ALIVE``."""
        self.older = Growing(np.int64)
        """Slot of the chunk that this one replaced, or -1."""
        self.raw = Growing(np.float32, dimension) if raw is None else raw
        self.columns = Columns()
        self.dead = 0
        """Slots whose chunk has died."""
        self.alive_in: dict[str, int] = {}
        """Living chunks of each document, documents in the order in which they came."""
        self._slot_of: dict[str, int] = {}
        self._slots_of: dict[str, list[int]] = {}
        self._names: dict[str, str] = {}
        """Each document's id, so that its chunks share one string."""

    @property
    def count(self) -> int:
        """Slots, dead ones included."""
        return len(self.ids)

    def make_room(self, more: int) -> None:
        """Make room for so many more slots.

        Raises:
            OSError: If the disk is full.
        """
        for array in (self.rows, self.raw):
            array.make_room(more)

    def append(self, rows: Sequence[int], chunks: Sequence[ChunkRow], version: int) -> None:
        """Add chunks, which replace those with the same ids at a version; ids differ."""
        first = self.count
        self._extend(np.array(rows, np.int64), np.stack([chunk.vector_D for chunk in chunks]))
        self._replace([chunk.id for chunk in chunks], version)
        self.positions.extend(np.array([chunk.position for chunk in chunks], np.int64))
        self.died.extend(np.full(len(chunks), ALIVE))
        for slot, chunk in enumerate(chunks, first):
            self.columns.append(slot, chunk.metadata)
        document_ids = [chunk.document_id for chunk in chunks]
        self._enter([chunk.id for chunk in chunks], document_ids, range(first, first + len(chunks)))

    def append_block(self, heads: Heads, vectors_ND: Floats, version: int) -> None:
        """Add chunks as the store has them, which replace those with the same ids at a version."""
        self._extend(heads.rows, vectors_ND)
        self._replace(heads.ids, version)
        self._append_heads(heads, np.arange(self.count, self.count + len(heads.rows)))

    def tell(self, heads: Heads) -> None:
        """Say what the chunks of some slots are of which the row and the vector are there.

        Slots between them have lost their chunks: they are dead.
        """
        slots = np.searchsorted(self.rows.array[: self.rows.size], heads.rows)
        self.older.extend(np.full(int(slots[-1]) + 1 - self.count, NONE))
        self._append_heads(heads, slots)

    def tell_dead(self, count: int) -> None:
        """Say that so many slots that come next have lost their chunks."""
        for array, value in ((self.positions, 0), (self.died, 0), (self.older, NONE)):
            array.extend(np.full(count, value, np.int64))
        self.document_ids += [""] * count
        self.ids += [""] * count
        self.dead += count

    def _extend(self, rows: Rows, vectors_ND: Floats) -> None:
        # First what may fail: then nothing has been changed.
        self.raw.extend(vectors_ND)
        self.rows.extend(rows)

    def _append_heads(self, heads: Heads, slots: Rows) -> None:
        first, last = self.count, int(slots[-1]) + 1
        places = slots - first
        positions, died = np.zeros((2, last - first), np.int64)
        positions[places], died[places] = heads.positions, ALIVE
        self.positions.extend(positions)
        self.died.extend(died)
        self.dead += len(died) - len(slots)
        self.columns.extend(slots, heads.metadata)
        if len(slots) == len(died):
            self._enter(heads.ids, heads.document_ids, range(first, last))
            return
        ids, document_ids = [""] * len(died), [""] * len(died)
        for place, chunk_id, document_id in zip(
            places.tolist(), heads.ids, heads.document_ids, strict=True
        ):
            ids[place], document_ids[place] = chunk_id, document_id
        self._enter(ids, document_ids, slots.tolist(), places.tolist())

    def _replace(self, ids: Sequence[str], version: int) -> None:
        """Let chunks that come next stand for those with the same ids so far."""
        older = np.full(len(ids), NONE)
        if not self._slot_of.keys().isdisjoint(ids):
            older = np.array([self._slot_of.get(chunk_id, NONE) for chunk_id in ids], np.int64)
            self.kill(ids, version)
        self.older.extend(older)

    def _enter(
        self,
        ids: Sequence[str],
        document_ids: Sequence[str],
        slots: Sequence[int],
        places: Sequence[int] | None = None,
    ) -> None:
        """Make chunks known by their ids.

        Args:
            ids: Of all slots that come next, dead ones included.
            document_ids: The same.
            slots: Those that live.
            places: Which of ``ids`` those are; None if all.
        """
        named = [self._names.setdefault(name, name) for name in document_ids]
        living = named if places is None else [named[place] for place in places]
        living_ids = ids if places is None else [ids[place] for place in places]
        for slot, document_id in zip(slots, living, strict=True):
            self._slots_of.setdefault(document_id, []).append(slot)
        for document_id, count in Counter(living).items():
            self.alive_in[document_id] = self.alive_in.get(document_id, 0) + count
        self.document_ids += named
        self.ids += ids
        self._slot_of.update(zip(living_ids, slots, strict=True))

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
