"""What one request sees: chunks, indexes and models as they stood at one moment.

A view is never changed. A write, a built index or a loaded checkpoint makes another one, and
requests that have begun keep theirs.

Shapes: N slots, D dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from models.index import Rows
from models.scoring import Bools, Floats, Method, Scorer
from service.errors import UnknownModelError
from service.filters import ChunkFilter, matching_slots
from service.modes import ModelState
from service.retrieval import Scope, retrieve_many
from service.retrieval import Space as Space
from service.slots import Slots


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that requests may name."""

    name: str
    state: ModelState
    scorer: Scorer
    plain: Scorer
    """The same without the re-ranker."""
    space: Space
    """The space in which ``p8`` makes its queries."""

    @property
    def learned(self) -> bool:
        """Whether that is a space of its own."""
        return self.state.learned


class AnyView(Protocol):
    """What decoding, ranking and encoding need of a view, wherever its chunks are kept."""

    @property
    def slots(self) -> Slots:
        """What is known of the chunks, by slot."""

    @property
    def version(self) -> int:
        """Version of the store."""

    @property
    def dimension(self) -> int:
        """D, or 0 before the first chunk of a store of which nothing is known."""

    @property
    def raw(self) -> Space:
        """The raw vectors of all slots that are known now."""

    @property
    def waits(self) -> bool:
        """Whether a search waits for another process, so that several may be under way at once."""

    @property
    def models(self) -> Mapping[str, Served]:
        """Models by name; the default comes first."""

    @property
    def store_name(self) -> str:
        """Name of the store; empty if it has none."""

    @property
    def embedding_model(self) -> str:
        """What made the vectors; empty if that is not known."""

    def find(self, ids: Sequence[str]) -> list[int | None]:
        """The slot of each chunk, or None where there is none."""

    def named(self, ids: Sequence[str]) -> Rows:
        """Slots by which those chunks can be excluded; unknown ones are left out."""

    def document(self, document_id: str) -> Rows:
        """The slots of a document in the order of positions; empty if there is none."""

    def matching(self, given: ChunkFilter) -> Bools | None:
        """Which slots pass a filter; None if that is not known before a search."""

    def served(self, name: str, field: str = "model") -> Served:
        """The model of a name.

        Raises:
            UnknownModelError: If none of that name is loaded.
        """

    def space_for(self, served: Served, method: Method) -> Space:
        """The space in which a method makes its queries, with all slots that are known now."""

    def retrieve(
        self,
        served: Served,
        method: Method,
        query_BD: Floats,
        scopes: Sequence[Scope],
        *,
        depth: int,
        wanted: Sequence[int],
    ) -> list[Rows]:
        """Find the candidates of several queries: slots, rising.

        Args:
            served: The model.
            method: Which made the queries.
            query_BD: Unit queries.
            scopes: Which slots may be answered to each.
            depth: Candidates to find at once.
            wanted: For each, the results that must be left when a limit a document is applied.
        """


@dataclass(frozen=True, kw_only=True)
class View:
    """Slots below ``count`` that had not died at ``version``."""

    slots: Slots
    count: int
    version: int
    """Version of the store."""
    dead: int
    """Slots below ``count`` that had died."""
    raw: Space
    models: Mapping[str, Served]
    store_id: str
    store_name: str
    embedding_model: str
    """What made the vectors; empty if that is not known."""

    @property
    def dimension(self) -> int:
        """D, or 0 before the first chunk of a store of which nothing is known."""
        return self.slots.dimension

    @property
    def waits(self) -> bool:
        """Never: all is in memory."""
        return False

    @property
    def living(self) -> int:
        """Chunks that can be found."""
        return self.count - self.dead

    @property
    def spaces(self) -> list[Space]:
        """The raw space and the learned ones."""
        learned = [one.space for one in self.models.values() if one.space is not self.raw]
        return [self.raw, *learned]

    @cached_property
    def alive(self) -> Bools:
        """Which slots live."""
        return self.slots.alive(self.count, self.version)

    def slot(self, chunk_id: str) -> int | None:
        """The slot of a chunk, or None."""
        return self.slots.slot(chunk_id, self.count, self.version)

    def find(self, ids: Sequence[str]) -> list[int | None]:
        """The slot of each chunk, or None where there is none."""
        return [self.slots.slot(one, self.count, self.version) for one in ids]

    def named(self, ids: Sequence[str]) -> Rows:
        """Slots by which those chunks can be excluded; unknown ones are left out."""
        return np.array([slot for slot in self.find(ids) if slot is not None], np.int64)

    def document(self, document_id: str) -> Rows:
        """The slots of a document in the order of positions; empty if there is none."""
        return self.slots.document(document_id, self.count, self.version)

    def matching(self, given: ChunkFilter) -> Bools:
        """Which slots pass a filter; dead ones may, too."""
        return matching_slots(
            given,
            columns=self.slots.columns,
            positions_N=self.slots.positions.array,
            slots_of_document=self.slots.of_document,
            count=self.count,
        )

    def served(self, name: str, field: str = "model") -> Served:
        """The model of a name.

        Raises:
            UnknownModelError: If none of that name is loaded.
        """
        return served_of(self.models, name, field)

    def space_for(self, served: Served, method: Method) -> Space:
        """The space in which a method makes its queries."""
        return served.space if method is Method.P8 else self.raw

    def retrieve(
        self,
        served: Served,
        method: Method,
        query_BD: Floats,
        scopes: Sequence[Scope],
        *,
        depth: int,
        wanted: Sequence[int],
    ) -> list[Rows]:
        """Find the candidates of several queries: slots, rising."""
        space = self.space_for(served, method)
        return retrieve_many(self, space, query_BD, scopes, depth=depth, wanted=wanted)


def served_of(models: Mapping[str, Served], name: str, field: str) -> Served:
    """The model of a name.

    Raises:
        UnknownModelError: If none of that name is loaded.
    """
    found = models.get(name)
    if found is None:
        raise UnknownModelError(field, " or ".join(map(repr, models)), repr(name))
    return found
