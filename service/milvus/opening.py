"""From settings to a collection in Milvus."""

from service.backend import Backend
from service.milvus.collection import MilvusCollection
from service.milvus.link import Link
from service.milvus.store import MilvusStore
from service.modes import embedding_models, load_state
from service.opening import checkpoints_of
from service.rows import Kind
from service.settings import Settings


class OpenedMilvus:
    """A collection in Milvus, and its connection.

    Args:
        collection: The collection.
    """

    def __init__(self, collection: MilvusCollection) -> None:
        self._collection = collection

    @property
    def collection(self) -> Backend:
        """What was opened."""
        return self._collection

    def start(self) -> None:
        """Look whether Milvus is there, and after what is derived."""
        self._collection.store.link.watch(self._collection.look_after)

    def close(self) -> None:
        """End the connection."""
        self._collection.store.close()


def open_milvus(settings: Settings) -> OpenedMilvus:
    """Connect, load the checkpoints, and project what their tables lack.

    Raises:
        IndexUnavailableError: If Milvus is not there.
        StoreError: If what lies there cannot be used.
    """
    store = MilvusStore(Link.from_settings(settings))
    try:
        return OpenedMilvus(_collect(store, settings))
    except BaseException:
        store.close()
        raise


def _collect(store: MilvusStore, settings: Settings) -> MilvusCollection:
    dimension = store.dimension or settings.dimension
    name = store.about.embedding_model or settings.embedder
    first = load_state(settings.checkpoint, dimension, name, settings.dtype)
    if first.usable is not None:
        dimension = first.usable.model.config.dimension
        name = name or next(iter(embedding_models(first.usable)), "")
    collection = MilvusCollection(store, name)
    if dimension:
        store.create(Kind(dimension=dimension, embedding_model=name))
    for model, path in checkpoints_of(settings).items():
        state = load_state(path, dimension, name, settings.dtype)
        collection.set_model(collection.prepare_model(model, state, rerank=settings.rerank))
    collection.count()
    return collection
