"""Filling memory: chunks from the store, and models with the vectors of their spaces.

Shapes: N slots, D dimension.
"""

import logging
from dataclasses import dataclass

import numpy as np

from models.index import Rows, VectorIndex
from models.scoring import Scorer
from service.modes import ModelState
from service.slots import Growing, Slots
from service.snapshot import LEARNED, Snapshots, usable_part
from service.store import Store
from service.view import Served, Space

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Loaded:
    """A model with its vectors, as the collection holds and grows it."""

    name: str
    state: ModelState
    scorer: Scorer
    plain: Scorer
    """The same without the re-ranker."""
    slots: Slots
    projected: Growing | None
    """Vectors of the learned space by slot; None if the model works in the raw space."""
    index: VectorIndex | None = None
    """Over the first of them."""

    def catch_up(self) -> None:
        """Project the slots that it does not know yet."""
        if self.projected is None:
            return
        # In this order: an array that is looked up after the count has at least so many rows.
        count = self.slots.count
        fresh_ND = self.slots.raw.array[self.projected.size : count]
        if len(fresh_ND):
            self.projected.extend(self.scorer.project(fresh_ND))

    def served(self, raw: Space) -> Served:
        """Itself as requests see it."""
        space = raw
        if self.projected is not None:
            space = Space(vectors=self.projected.array, index=self.index)
        return Served(
            name=self.name,
            state=self.state,
            scorer=self.scorer,
            plain=self.plain,
            space=space,
        )


def load_model(name: str, state: ModelState, slots: Slots, *, rerank: bool) -> Loaded:
    """Make a model ready for all slots, without an index."""
    plain = state.scorer(rerank=False)
    model = state.usable
    learned = model is not None and model.model.config.space == LEARNED
    loaded = Loaded(
        name=name,
        state=state,
        scorer=state.scorer() if rerank else plain,
        plain=plain,
        slots=slots,
        projected=Growing(np.float32, slots.dimension) if learned else None,
    )
    loaded.catch_up()
    return loaded


def fill(slots: Slots, store: Store, version: int, *, after: int = 0) -> None:
    """Append the store's chunks, or those of later rows, at a version."""
    for rows, chunks in store.blocks(after):
        slots.append(rows, chunks, version)


def fill_like(slots: Slots, store: Store, version: int, gone: Rows) -> None:
    """Append the store's chunks, with dead slots where rows stood that an index covers."""
    for rows, chunks in store.blocks(0):
        between, gone = gone[gone < rows[-1]], gone[gone >= rows[-1]]
        start = 0
        for row in between:
            stop = int(np.searchsorted(rows, row))
            if stop > start:
                slots.append(rows[start:stop], chunks[start:stop], version)
            slots.append_dead(np.array([row]))
            start = stop
        slots.append(rows[start:], chunks[start:], version)
    slots.append_dead(gone)


def load_slots(
    store: Store, snapshots: Snapshots, dimension: int, version: int
) -> tuple[Slots, VectorIndex | None]:
    """Read all chunks, in the order of the saved raw index where there is one to be used."""
    slots, store_rows = Slots(dimension), store.row_numbers()
    slots.reserve(len(store_rows))
    saved = snapshots.load(None, dimension) if len(store_rows) else None
    if saved is None:
        fill(slots, store, version)
        return slots, None
    index, covered = saved
    if not usable_part(covered, store_rows):
        log.warning("rebuilding the raw index: it covers other chunks, or mostly such as are gone")
        fill(slots, store, version)
        return slots, None
    fill_like(slots, store, version, covered[~np.isin(covered, store_rows)])
    newer, gone = int((store_rows > covered[-1]).sum()), slots.dead
    if newer or gone:
        log.info("the index is behind the store: %d chunks are newer, %d are gone", newer, gone)
    return slots, index


def load_learned(
    name: str, state: ModelState, slots: Slots, snapshots: Snapshots, *, rerank: bool
) -> Loaded:
    """Make a model ready for all slots, with its saved index where that can be used."""
    model = state.usable
    learned = model is not None and model.model.config.space == LEARNED
    saved = snapshots.load(state, slots.dimension, name) if learned and slots.count else None
    if saved is None:
        return load_model(name, state, slots, rerank=rerank)
    index, covered = saved
    if not np.array_equal(covered, slots.rows.array[: min(index.size, slots.count)]):
        log.warning("rebuilding the learned index: it covers other chunks than the raw one")
        return load_model(name, state, slots, rerank=rerank)
    plain = state.scorer(rerank=False)
    projected = Growing(np.float32, slots.dimension)
    projected.extend(index.vectors())
    loaded = Loaded(
        name=name,
        state=state,
        scorer=state.scorer() if rerank else plain,
        plain=plain,
        slots=slots,
        projected=projected,
        index=index,
    )
    loaded.catch_up()
    return loaded
