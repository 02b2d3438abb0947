"""Filling memory: chunks from the store, and models with the vectors of their spaces.

Shapes: N slots, D dimension.
"""

import logging
from dataclasses import dataclass

import numpy as np
import orjson

from models.index import Rows, VectorIndex
from models.scoring import Scorer
from service.mapped import Growing
from service.modes import ModelState
from service.slots import Slots
from service.snapshot import Snapshots
from service.store import Store, StoreError
from service.vectorfiles import Projection, VectorFiles
from service.view import Served, Space, View

log = logging.getLogger(__name__)

PROJECTED_AT_ONCE = 4096


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
        raw_ND = self.slots.raw.array
        for start in range(self.projected.size, count, PROJECTED_AT_ONCE):
            # A copy, as torch takes no array that cannot be written to.
            fresh_ND = raw_ND[start : min(start + PROJECTED_AT_ONCE, count)].copy()
            self.projected.extend(self.scorer.project(fresh_ND))

    @property
    def projection(self) -> Projection | None:
        """Its learned space, to be kept; None if it has none."""
        if self.projected is None:
            return None
        return Projection(name=self.name, state=self.state, vectors=self.projected)

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


def make_model(name: str, state: ModelState, slots: Slots, *, rerank: bool) -> Loaded:
    """Make a model that knows no slots yet, with no place for projections."""
    plain = state.scorer(rerank=False)
    return Loaded(
        name=name,
        state=state,
        scorer=state.scorer() if rerank else plain,
        plain=plain,
        slots=slots,
        projected=None,
    )


def load_model(
    name: str, state: ModelState, slots: Slots, files: VectorFiles, *, rerank: bool
) -> Loaded:
    """Make a model ready for all slots, without an index."""
    loaded = make_model(name, state, slots, rerank=rerank)
    if state.learned:
        loaded.projected = files.new_learned(name, state, slots)
        loaded.catch_up()
    return loaded


def fill(slots: Slots, store: Store, version: int, *, after: int = 0) -> None:
    """Append the store's chunks, or those of later rows, at a version.

    Raises:
        StoreError: If the store is damaged.
    """
    try:
        for heads, vectors_ND in store.blocks(after):
            slots.append_block(heads, vectors_ND, version)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"{store.path}: damaged: {error}") from error


def load_slots(store: Store, files: VectorFiles, dimension: int, version: int) -> Slots:
    """Read all chunks, with the vectors from their files as far as those may be trusted.

    Raises:
        StoreError: If the store is damaged.
    """
    store_rows = store.row_numbers()
    slots = files.open_slots(store, dimension, store_rows) if len(store_rows) else None
    files.clean()
    if slots is None:
        slots = files.new_slots(dimension, len(store_rows))
        fill(slots, store, version)
        return slots
    last = int(slots.rows.array[slots.rows.size - 1])
    try:
        for heads in store.heads(last):
            slots.tell(heads)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"{store.path}: damaged: {error}") from error
    slots.tell_dead(slots.rows.size - slots.count)
    fill(slots, store, version, after=last)
    return slots


def load_raw_index(slots: Slots, snapshots: Snapshots) -> VectorIndex | None:
    """Read the saved index of the raw space, if it can be used."""
    if not slots.count:
        return None
    saved = snapshots.load(None, slots.raw.array[: slots.count])
    if saved is None:
        return None
    index, covered = saved
    if not _of_first(slots, covered):
        log.warning("rebuilding the raw index: it covers other chunks, or mostly such as are gone")
        return None
    newer = int(slots.alive(slots.count, 0)[index.size :].sum())
    gone = index.size - int(slots.alive(index.size, 0).sum())
    if newer or gone:
        log.info("the index is behind the store: %d chunks are newer, %d are gone", newer, gone)
    return index


def load_learned(
    name: str,
    state: ModelState,
    slots: Slots,
    files: VectorFiles,
    snapshots: Snapshots,
    *,
    rerank: bool,
) -> Loaded:
    """Make a model ready for all slots, with what is kept of it where that can be used."""
    if not state.learned or not slots.count:
        return load_model(name, state, slots, files, rerank=rerank)
    loaded = make_model(name, state, slots, rerank=rerank)
    loaded.projected = files.open_learned(name, state, slots, loaded.plain)
    if loaded.projected is None:
        loaded = load_model(name, state, slots, files, rerank=rerank)
    loaded.catch_up()
    assert loaded.projected is not None
    saved = snapshots.load(state, loaded.projected.array[: slots.count], name)
    if saved is None:
        return loaded
    index, covered = saved
    if not _of_first(slots, covered):
        log.warning("rebuilding the learned index: it covers other chunks than the raw one")
        return loaded
    loaded.index = index
    return loaded


def compacted(old: View, store: Store, files: VectorFiles) -> tuple[Slots, list[Loaded]]:
    """Make slots of the chunks that live, and models for them; what came after a view is missing.

    Vectors and projections are copied from the view, since a row never changes.

    Raises:
        StoreError: If the store is damaged.
    """
    slots = files.new_slots(old.dimension, old.living)
    models = [
        make_model(name, served.state, slots, rerank=served.scorer is not served.plain)
        for name, served in old.models.items()
    ]
    for model in models:
        if model.state.learned:
            model.projected = files.new_learned(model.name, model.state, slots)
    old_rows = old.slots.rows.array[: old.count]
    for heads in store.heads(int(old_rows[-1])):
        places = np.searchsorted(old_rows, heads.rows)
        slots.append_block(heads, old.raw.vectors[places], old.version)
        for model in models:
            if model.projected is not None:
                model.projected.extend(old.models[model.name].space.vectors[places])
    return slots, models


def _of_first(slots: Slots, rows: Rows) -> bool:
    return len(rows) <= slots.count and np.array_equal(rows, slots.rows.array[: len(rows)])
