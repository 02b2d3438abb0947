"""What one request sees: chunks, indexes and models as they stood at one moment.

A view is never changed. A write, a built index or a loaded checkpoint makes another one, and
requests that have begun keep theirs.

Shapes: N slots, D dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from models.index import Rows, VectorIndex
from models.scoring import Bools, Floats, Method, Scorer
from service.errors import UnknownModelError
from service.modes import ModelState
from service.slots import Slots


@dataclass(frozen=True, kw_only=True)
class Space:
    """Unit vectors of all slots, and an index over the first of them."""

    vectors: Floats
    """By slot; at least as many rows as slots."""
    index: VectorIndex | None
    """Over the slots below its size; those above are compared one by one."""

    @property
    def indexed(self) -> int:
        """Slots that the index covers."""
        return 0 if self.index is None else self.index.size


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

    def document(self, document_id: str) -> Rows:
        """The slots of a document in the order of positions; empty if there is none."""
        return self.slots.document(document_id, self.count, self.version)

    def served(self, name: str, field: str = "model") -> Served:
        """The model of a name.

        Raises:
            UnknownModelError: If none of that name is loaded.
        """
        found = self.models.get(name)
        if found is None:
            raise UnknownModelError(field, " or ".join(map(repr, self.models)), repr(name))
        return found

    def space_for(self, served: Served, method: Method) -> Space:
        """The space in which a method makes its queries."""
        return served.space if method is Method.P8 else self.raw
