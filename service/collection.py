"""The live collection: store, chunks in memory, indexes and models, and how they change together.

The store is written first; what is in memory follows, and then a new view is published, all before
a write is acknowledged as searchable. Readers take a view and need no lock. Whoever changes memory
(the writer, the builder, a reload) holds the collection's own.

Shapes: N slots, n chunks of one write, D dimension.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.index import VectorIndex
from service.loaded import Loaded, fill, load_model
from service.modes import ModelState
from service.slots import Slots
from service.snapshot import Snapshots
from service.store import ChunkRow, IdempotencyKey, Kind, Store, StoreInfo, Written
from service.view import Space, View

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When indexes are built again: at so many slots, and at such a share of all."""

    fresh: int = 8192
    """Slots that the indexes do not cover yet."""
    fresh_share: float = 0.1
    dead: int = 8192
    """Slots whose chunks were replaced or deleted."""
    dead_share: float = 0.3


class Collection:
    """Chunks that can be written and searched at once.

    Args:
        store: The truth.
        info: What it says about itself.
        slots: Its chunks.
        raw_index: Over the first of the slots, if there is one.
        models: Loaded models, each up to date with the slots.
        snapshots: Where built indexes are kept.
        embedding_model: What makes the vectors, for a store that does not say.
        limits: When to build.
    """

    def __init__(
        self,
        store: Store,
        info: StoreInfo,
        slots: Slots,
        raw_index: VectorIndex | None,
        models: Sequence[Loaded],
        snapshots: Snapshots,
        embedding_model: str,
        limits: Limits | None = None,
    ) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.built_at_s = time.time()
        self.indexed_version = info.version
        self.changed = threading.Event()
        """Set by every change, for whoever builds indexes."""
        self._about = info
        self._embedding_model = info.embedding_model or embedding_model
        self._slots = slots
        self._raw_index = raw_index
        self._models = {model.name: model for model in models}
        self._snapshots = snapshots
        self._version = info.version
        self._write = threading.Lock()
        """Held while a change goes to the store and then to memory."""
        self._lock = threading.Lock()
        """Held while memory changes; always taken after ``_write``."""
        self._building = threading.Lock()
        self.view = self._view()

    @property
    def building(self) -> bool:
        """Whether indexes are being built."""
        return self._building.locked()

    def upsert(
        self,
        chunks: Sequence[ChunkRow],
        key: IdempotencyKey | None = None,
        on_stored: Callable[[Written], None] = lambda _: None,
    ) -> Written:
        """Write chunks; when this returns they can be found.

        Args:
            chunks: At least one; ids differ, vectors are of the collection's dimension.
            key: The client's name for the write.
            on_stored: Told once the write is durable, before it can be found.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            StorageFullError: If the disk is full.
        """
        kind = Kind(dimension=len(chunks[0].vector_D), embedding_model=self._embedding_model)
        with self._write:
            written = self.store.write(chunks, kind=kind, key=key)
            on_stored(written)
            if not written.replayed:
                with self._lock:
                    self._decide_dimension(kind.dimension)
                    self._slots.append(written.rows, chunks, written.version)
                    self._publish(written.version)
        self.changed.set()
        return written

    def delete(
        self,
        ids: Sequence[str],
        key: IdempotencyKey | None = None,
        on_stored: Callable[[Written], None] = lambda _: None,
    ) -> Written:
        """Delete chunks by id; when this returns they are found no more.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            StorageFullError: If the disk is full.
        """
        with self._write:
            written = self.store.write([], ids, key=key)
            on_stored(written)
            if not written.replayed:
                with self._lock:
                    self._slots.kill(ids, written.version)
                    self._publish(written.version)
        self.changed.set()
        return written

    def prepare_model(self, name: str, state: ModelState, *, rerank: bool) -> Loaded:
        """Make a model ready for the chunks that there are, with an index of its own."""
        view = self.view
        if not view.dimension and state.usable is not None:
            with self._write, self._lock:
                self._decide_dimension(state.usable.model.config.dimension)
                self._publish(self._version)
            view = self.view
        model = load_model(name, state, view.slots, rerank=rerank)
        if model.projected is not None and view.raw.index is not None:
            model.index = VectorIndex.build(model.projected.array[: view.raw.indexed])
        return model

    def set_model(self, model: Loaded) -> None:
        """Serve a prepared model under its name."""
        with self._lock:
            if model.slots is not self._slots:  # compacted meanwhile
                model = load_model(
                    model.name, model.state, self._slots, rerank=model.scorer is not model.plain
                )
            self._models = {**self._models, model.name: model}
            self._publish(self._version)
        self.changed.set()
        if model.index is not None:
            rows = model.slots.rows.array[: model.index.size]
            with self._building:  # which saves, too
                self._snapshots.save(model.state, model.index, rows, model.name)

    def due(self) -> bool:
        """Whether enough has changed for the indexes to be built again."""
        view = self.view
        fresh = view.count - min(space.indexed for space in view.spaces)
        most = max(self.limits.fresh, self.limits.fresh_share * view.count)
        return fresh > most or self._mostly_dead(view)

    def build(self) -> None:
        """Build the indexes over all chunks and keep them, while others read and write."""
        with self._building:
            if self._mostly_dead(self.view):
                self._compact()
            view = self.view
            if not view.count:
                return
            raw_index = _grown(view.raw, view.count)
            learned = {
                name: _grown(served.space, view.count)
                for name, served in view.models.items()
                if served.space is not view.raw
            }
            with self._lock:
                self._raw_index = raw_index
                for name, index in learned.items():
                    # A model that was loaded meanwhile has come with an index of its own.
                    if self._models[name].scorer is view.models[name].scorer:
                        self._models[name].index = index
                self._publish(self._version)
                self.built_at_s, self.indexed_version = time.time(), view.version
            rows = view.slots.rows.array[: view.count]
            self._snapshots.save(None, raw_index, rows)
            for name, index in learned.items():
                self._snapshots.save(view.models[name].state, index, rows, name)

    def _compact(self) -> None:
        """Leave the dead slots out: fill others from the store, which then take over."""
        old = self.view
        slots = Slots(old.dimension)
        fill(slots, self.store, old.version)
        models = [
            load_model(name, served.state, slots, rerank=served.scorer is not served.plain)
            for name, served in old.models.items()
        ]
        with self._write:  # store and memory say the same while it is held
            last = int(slots.rows.array[slots.count - 1]) if slots.count else 0
            fill(slots, self.store, self._version, after=last)
            stored = np.isin(slots.rows.array[: slots.count], self.store.row_numbers())
            # Those that were replaced meanwhile died when the later row was filled in.
            gone = np.flatnonzero(~stored & slots.alive(slots.count, self._version))
            slots.kill([slots.ids[slot] for slot in gone], self._version)
            with self._lock:
                self._slots, self._raw_index = slots, None
                for model in models:
                    if self._models[model.name].state is not model.state:  # reloaded meanwhile
                        state, rerank = (
                            self._models[model.name].state,
                            model.scorer is not model.plain,
                        )
                        model = load_model(model.name, state, slots, rerank=rerank)
                    self._models[model.name] = model
                self._publish(self._version)
        log.info("compacted %d slots to %d", old.count, slots.count)

    def _decide_dimension(self, dimension: int) -> None:
        if not self._slots.dimension:
            self._slots = Slots(dimension)
            for model in self._models.values():
                model.slots = self._slots

    def _mostly_dead(self, view: View) -> bool:
        return view.dead > max(self.limits.dead, self.limits.dead_share * view.count)

    def _publish(self, version: int) -> None:
        for model in self._models.values():
            model.catch_up()
        self._version = version
        self.view = self._view()

    def _view(self) -> View:
        slots = self._slots
        raw = Space(vectors=slots.raw.array, index=self._raw_index)
        return View(
            slots=slots,
            count=slots.count,
            version=self._version,
            dead=slots.dead,
            raw=raw,
            models={name: model.served(raw) for name, model in self._models.items()},
            store_id=self._about.store_id,
            store_name=self._about.name,
            embedding_model=self._embedding_model,
        )


def _grown(space: Space, count: int) -> VectorIndex:
    vectors_ND = space.vectors[:count]
    return (
        VectorIndex.build(vectors_ND) if space.index is None else space.index.extended(vectors_ND)
    )
