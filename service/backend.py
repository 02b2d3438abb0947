"""What the service needs of the place where chunks are kept and searched.

``service.collection.Collection`` keeps them in a data folder: SQLite, and FAISS in memory.
``service.milvus`` keeps them in Milvus, which replicas share. Both answer the same questions with
the same words; tests/service/contract.py says what they must agree in.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from service.filters import ChunkFilter
from service.idempotency import IdempotencyKey, Written
from service.modes import ModelState
from service.rows import ChunkRow
from service.view import AnyView, Served

Told = Callable[[Written], None]
"""Told once a write is durable, before it can be found."""


class Prepared(Protocol):
    """A model that is ready for the chunks that there are, and not served yet."""

    @property
    def name(self) -> str:
        """Name that requests use."""


class Backend(Protocol):
    """Chunks that can be written and searched at once."""

    @property
    def view(self) -> AnyView:
        """What a request that comes now sees."""

    @property
    def latest(self) -> AnyView:
        """The same, with every write that was acknowledged anywhere."""

    def upsert(
        self, chunks: Sequence[ChunkRow], key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Write chunks; when this returns they can be found.

        Args:
            chunks: At least one; ids differ, vectors are of the same dimension as all others.
            key: The client's name for the write.
            on_stored: Told once the write is durable, before it can be found.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            UnavailableError: If nothing can be written now.
        """

    def delete(self, ids: Sequence[str], key: IdempotencyKey | None, on_stored: Told) -> Written:
        """Delete chunks by id; when this returns they are found no more.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            UnavailableError: If nothing can be written now.
        """

    def ids_matching(self, given: ChunkFilter) -> list[str]:
        """The ids of all chunks that pass a filter."""

    def contents(self, view: AnyView, slots: set[int]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Read texts and metadata by slot of a view; chunks that were deleted are left out."""

    def documents(self, limit: int, offset: int) -> dict[str, Any]:
        """List a page of the documents, as ``GET /v1/documents`` answers."""

    def store_status(self) -> dict[str, Any]:
        """Count what can be found."""

    def stats(self) -> dict[str, Any]:
        """Count what is stored, searched and indexed, as ``GET /v1/stats`` answers."""

    def indexes(self, served: Served) -> dict[str, dict[str, Any]]:
        """Describe the index of each space that a model uses."""

    def check(self) -> None:
        """Tell whether it can answer.

        Raises:
            UnavailableError: If it cannot.
        """

    def gauges(self) -> dict[str, Any]:
        """Say what metrics show of it: members of ``service.metrics.Gauges``."""

    def prepare_model(self, name: str, state: ModelState, *, rerank: bool) -> Prepared:
        """Make a model ready for the chunks that there are."""

    def trial(self, model: Any) -> AnyView:
        """What requests would see if a prepared model were the only one."""

    def set_model(self, model: Any) -> None:
        """Serve a prepared model under its name."""

    def discard(self, model: Any) -> None:
        """Let go of a prepared model that will not be served."""


class Opened(Protocol):
    """A backend that was opened, and what must be closed after it."""

    @property
    def collection(self) -> Backend:
        """What was opened."""

    def start(self) -> None:
        """Begin what goes on in the background."""

    def close(self) -> None:
        """End, and let go of everything."""
