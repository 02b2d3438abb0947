"""From a data folder and checkpoints to a collection.

What ``serve`` does when it starts, and ``index`` to build what a start then only reads.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.builder import Builder
from service.collection import Collection
from service.folder import DataFolder, FolderInUseError
from service.loaded import load_learned, load_raw_index, load_slots
from service.modes import DEFAULT_MODEL, ModelState, embedding_models, load_state
from service.settings import Settings
from service.snapshot import Snapshots
from service.store import STORE_FILE, Store, StoreError
from service.vectorfiles import VectorFiles

log = logging.getLogger(__name__)


class OpenedFolder:
    """A collection and what must be closed after it.

    Args:
        folder: Held for the collection alone.
        collection: The collection.
    """

    def __init__(self, folder: DataFolder, collection: Collection) -> None:
        self.collection = collection
        self._folder = folder
        self._builder: Builder | None = None

    def start(self) -> None:
        """Build indexes in the background when enough has changed."""
        self._builder = Builder(self.collection)
        self._builder.start()

    def close(self) -> None:
        """Keep the vectors, close the store and let go of the folder."""
        if self._builder is not None:
            self._builder.stop()
        self.collection.close()
        self._folder.close()


def checkpoints_of(settings: Settings) -> dict[str, Path | None]:
    """Name the checkpoint folder of each model; the default comes first."""
    return {DEFAULT_MODEL: settings.checkpoint, **settings.further_checkpoints}


def open_collection(settings: Settings) -> OpenedFolder:
    """Open the data folder, load the checkpoints, and read or project what they need.

    Raises:
        StoreError: If the folder cannot be used, or its store is damaged.
    """
    try:
        folder = DataFolder(settings.data)
    except FolderInUseError as error:
        raise StoreError(str(error)) from error
    try:
        store = Store(settings.data / STORE_FILE, create=True)
        try:
            collection = _collect(store, settings)
        except BaseException:
            store.close()
            raise
    except BaseException:
        folder.close()
        raise
    return OpenedFolder(folder, collection)


def _collect(store: Store, settings: Settings) -> Collection:
    before, after = store.migrated
    if 0 < before < after:
        log.info("the store was migrated from schema version %d to %d", before, after)
    info = store.info()
    paths = checkpoints_of(settings)
    dimension = info.dimension or settings.dimension
    name = info.embedding_model or settings.embedder
    first = load_state(settings.checkpoint, dimension, name, settings.dtype)
    if first.usable is not None:
        dimension = first.usable.model.config.dimension
        name = name or next(iter(embedding_models(first.usable)), "")
    states: Mapping[str, ModelState] = {
        model: first
        if model == DEFAULT_MODEL
        else load_state(path, dimension, name, settings.dtype)
        for model, path in paths.items()
    }
    snapshots = Snapshots(settings.data, info.store_id)
    files = VectorFiles(settings.data, info.store_id)
    with _uncollected():
        slots = load_slots(store, files, dimension or 0, info.version)
        models = [
            load_learned(model, state, slots, files, snapshots, rerank=settings.rerank)
            for model, state in states.items()
        ]
    return Collection(
        store=store,
        info=info,
        slots=slots,
        raw_index=load_raw_index(slots, snapshots),
        models=models,
        files=files,
        snapshots=snapshots,
        embedding_model=name,
        index_memory_bytes=settings.index_memory_bytes or None,
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: among millions of new objects that takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
