"""The live collection: store, chunks in memory, indexes and models, and how they change together.

The store is written first; what is in memory follows, and then a new view is published, all before
a write is acknowledged as searchable. Readers take a view and need no lock. Whoever changes memory
(the writer, the builder, a reload) holds the collection's own.

Shapes: N slots, n chunks of one write, D dimension.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.index import VectorIndex
from service import survey
from service.errors import StorageFullError
from service.filters import ChunkFilter
from service.loaded import Loaded, compacted, fill, load_model
from service.modes import DEFAULT_MODEL, ModelState
from service.slots import Slots
from service.snapshot import Snapshots
from service.store import ChunkRow, IdempotencyKey, Kind, Store, StoreInfo, Written
from service.vectorfiles import VectorFiles
from service.view import AnyView, Served, Space, View

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
        files: Where vectors are kept.
        snapshots: Where built indexes are kept.
        embedding_model: What makes the vectors, for a store that does not say.
        limits: When to build.
        index_memory_bytes: Most that all indexes together may take; None for any.
    """

    def __init__(
        self,
        *,
        store: Store,
        info: StoreInfo,
        slots: Slots,
        raw_index: VectorIndex | None,
        models: Sequence[Loaded],
        files: VectorFiles,
        snapshots: Snapshots,
        embedding_model: str,
        limits: Limits | None = None,
        index_memory_bytes: int | None = None,
    ) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.built_at_s = time.time()
        self.indexed_version = info.version
        self.changed = threading.Event()
        """Set by every change, for whoever builds indexes."""
        self._about = info
        self._index_memory_bytes = index_memory_bytes
        self._embedding_model = info.embedding_model or embedding_model
        self._slots = slots
        self._raw_index = raw_index
        self._models = {model.name: model for model in models}
        self._files = files
        self._snapshots = snapshots
        self._version = info.version
        self._write = threading.Lock()
        """Held while a change goes to the store and then to memory."""
        self._lock = threading.Lock()
        """Held while memory changes; always taken after ``_write``."""
        self._building = threading.Lock()
        self._keeping = threading.Lock()
        """Held while vectors are kept, or their files deleted."""
        self._kept = 0
        """Slots that the next start need not read from the store."""
        self.view = self._view()

    @property
    def latest(self) -> View:
        """The view: a write is in it before it is acknowledged."""
        return self.view

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
            with self._lock:
                self._decide_dimension(kind.dimension)
                self._make_room(len(chunks))
            written = self.store.write(chunks, kind=kind, key=key)
            on_stored(written)
            if not written.replayed:
                with self._lock:
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

    def ids_matching(self, given: ChunkFilter) -> list[str]:
        """The ids of all chunks that pass a filter."""
        view = self.view
        return [view.slots.ids[slot] for slot in np.flatnonzero(view.alive & view.matching(given))]

    def contents(self, view: AnyView, slots: set[int]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Read texts and metadata by slot of a view; chunks that were deleted are left out."""
        rows = view.slots.rows.array
        found = self.store.contents({int(rows[slot]): view.slots.ids[slot] for slot in slots})
        return {slot: found[row] for slot in slots if (row := int(rows[slot])) in found}

    def documents(self, limit: int, offset: int) -> dict[str, Any]:
        """List a page of the documents, in the order in which they came."""
        return survey.documents(self, limit, offset)

    def store_status(self) -> dict[str, Any]:
        """Count what can be found."""
        return survey.store_status(self.view)

    def stats(self) -> dict[str, Any]:
        """Count what is stored, searched and indexed."""
        return survey.stats(self)

    def indexes(self, served: Served) -> dict[str, dict[str, Any]]:
        """Describe the index of each space that a model uses."""
        return survey.indexes(self.view, served)

    def check(self) -> None:
        """Tell that it can answer: all that is asked is in memory."""

    def gauges(self) -> dict[str, Any]:
        """Say what metrics show of it."""
        return survey.gauges(self)

    def prepare_model(self, name: str, state: ModelState, *, rerank: bool) -> Loaded:
        """Make a model ready for the chunks that there are, with an index of its own."""
        view = self.view
        if not view.dimension and state.usable is not None:
            with self._write, self._lock:
                self._decide_dimension(state.usable.model.config.dimension)
                self._publish(self._version)
            view = self.view
        model = load_model(name, state, view.slots, self._files, rerank=rerank)
        if model.projected is not None and view.raw.index is not None:
            model.index = VectorIndex.build(
                model.projected.array[: view.raw.indexed], budget_bytes=self._budget(view)
            )
        return model

    def trial(self, model: Loaded) -> View:
        """What requests would see if a prepared model were the only one."""
        with self._lock:
            view = self._view()
            if model.slots is self._slots:
                model.catch_up()
            else:  # compacted meanwhile: it will be made anew
                view = replace(view, count=0, dead=0)
            return replace(view, models={DEFAULT_MODEL: model.served(view.raw)})

    def set_model(self, model: Loaded) -> None:
        """Serve a prepared model under its name."""
        with self._lock:
            if model.slots is not self._slots:  # compacted meanwhile
                _remove([model])
                rerank = model.scorer is not model.plain
                model = load_model(model.name, model.state, self._slots, self._files, rerank=rerank)
            old = self._models.get(model.name)
            self._models = {**self._models, model.name: model}
            self._publish(self._version)
        self.changed.set()
        self.keep(replaced=[] if old is None else [old])
        if model.index is not None:
            rows = model.slots.rows.array[: model.index.size]
            with self._building:  # which saves, too
                self._snapshots.save(model.state, model.index, rows, model.name)

    def discard(self, model: Loaded) -> None:
        """Let go of a prepared model that will not be served."""
        _remove([model])

    def keep(self, replaced: Iterable[Loaded] = ()) -> bool:
        """Keep the vectors, so that the next start need not read them from the store.

        Args:
            replaced: Models whose vectors are no longer used; their files are deleted.

        Returns:
            Whether it could be done.
        """
        with self._keeping:
            with self._lock:
                slots, count = self._slots, self._slots.count
                projections = [model.projection for model in self._models.values()]
            if not self._files.save(slots, count, [one for one in projections if one is not None]):
                return False
            self._kept = count
            _remove(replaced)
            return True

    def close(self) -> None:
        """Keep the vectors and close the store."""
        self.keep()
        self._files.close()
        self.store.close()

    @property
    def unkept(self) -> bool:
        """Whether so much is not kept that a start would take noticeably longer."""
        return self.view.count - self._kept > self.limits.fresh

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
            self.keep()
            view = self.view
            if not view.count:
                return
            rows = view.slots.rows.array[: view.count]
            if view.raw.indexed < view.count:
                index = self._grown(view, view.raw, self._snapshots.scratch(None))
                with self._lock:
                    self._raw_index = index
                    self._publish(self._version)
                self._snapshots.save(None, index, rows)
            for name, served in view.models.items():
                if served.space is view.raw or served.space.indexed == view.count:
                    continue
                scratch = self._snapshots.scratch(served.state, name)
                index = self._grown(view, served.space, scratch)
                with self._lock:
                    # A model that was loaded meanwhile has come with an index of its own.
                    if self._models[name].scorer is served.scorer:
                        self._models[name].index = index
                        self._publish(self._version)
                self._snapshots.save(served.state, index, rows, name)
            self.built_at_s, self.indexed_version = time.time(), view.version

    def _grown(self, view: View, space: Space, scratch: Path) -> VectorIndex:
        vectors_ND = space.vectors[: view.count]
        if space.index is not None:
            return space.index.extended(vectors_ND, scratch=scratch)
        return VectorIndex.build(vectors_ND, budget_bytes=self._budget(view), scratch=scratch)

    def _budget(self, view: View) -> int | None:
        """Memory that one index may take."""
        most = self._index_memory_bytes
        return None if most is None else most // len(view.spaces)

    def _compact(self) -> None:
        """Leave the dead slots out: fill others from the store, which then take over."""
        old = self.view
        slots, models = compacted(old, self.store, self._files)
        with self._write:  # store and memory say the same while it is held
            last = int(old.slots.rows.array[old.count - 1])
            fill(slots, self.store, self._version, after=last)
            stored = np.isin(slots.rows.array[: slots.count], self.store.row_numbers())
            # Those that were replaced meanwhile died when the later row was filled in.
            gone = np.flatnonzero(~stored & slots.alive(slots.count, self._version))
            slots.kill([slots.ids[slot] for slot in gone], self._version)
            with self._lock:
                replaced = list(self._models.values())
                self._slots, self._raw_index = slots, None
                for model in models:
                    state = self._models[model.name].state
                    if state is not model.state:  # reloaded meanwhile
                        _remove([model])
                        rerank = model.scorer is not model.plain
                        model = load_model(model.name, state, slots, self._files, rerank=rerank)
                    self._models[model.name] = model
                self._publish(self._version)
        if self.keep(replaced):
            for array in (old.slots.raw, old.slots.rows):
                array.remove()
        log.info("compacted %d slots to %d", old.count, slots.count)

    def _decide_dimension(self, dimension: int) -> None:
        if self._slots.dimension != dimension and not self._slots.count:
            self._slots = self._files.new_slots(dimension)
            for model in self._models.values():
                model.slots = self._slots

    def _make_room(self, more: int) -> None:
        """Make room for vectors before the store has chunks that would not fit."""
        try:
            self._slots.make_room(more)
            for model in self._models.values():
                if model.projected is not None:
                    model.projected.make_room(more)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFullError("the disk of the vectors is full") from error

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


def _remove(models: Iterable[Loaded]) -> None:
    for model in models:
        if model.projected is not None:
            model.projected.remove()
