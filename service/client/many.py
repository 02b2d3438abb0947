"""What takes several calls, one after the other."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from service.client import calls
from service.client.calls import Call
from service.client.types import ChunkInput, Documents, DocumentSummary, Upserted

BATCH_SIZE = 500
PAGE_SIZE = 100


def upserts(
    chunks: Iterable[ChunkInput | Mapping[str, Any]],
    batch_size: int,
    wait: bool,
    timeout_s: float | None,
) -> Iterator[Call[Upserted]]:
    """Write any number of chunks in batches, each under a key of its own.

    Raises:
        ValueError: If a batch could hold no chunk.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    remaining = iter(chunks)
    while batch := list(islice(remaining, batch_size)):
        yield calls.upsert(batch, wait=wait, timeout_s=timeout_s)


class Pages:
    """The pages of all documents; each must be taken before the next is asked for.

    Args:
        size: Documents on a page.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._offset = 0
        self._more = True

    def __iter__(self) -> Iterator[Call[Documents]]:
        """Ask for one page after the other."""
        while self._more:
            yield calls.documents(limit=self._size, offset=self._offset)

    def take(self, page: Documents) -> list[DocumentSummary]:
        """Take the documents of the page that was asked for."""
        # A page lacks those that were deleted while it was made, so its length says nothing.
        self._offset += self._size
        self._more = self._offset < page["total"]
        return page["documents"]
