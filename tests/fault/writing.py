"""What is written to a service that will be killed, and what of it was acknowledged.

Every chunk has revisions, and each differs from all others in text, metadata and vector, so that
what is found can be told to the bit. Each writer has chunks of its own.
"""

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from service.store import ChunkRow

MOST_CHUNKS = 500
DELETIONS = 0.12
REWRITES = 0.4
BARELY_STORED = 0.25

State = dict[int, int | None]
"""Revision of some rows; None is a chunk that is not there."""


class Contents:
    """All revisions of all chunks.

    Args:
        chunks: Their first revisions.
    """

    def __init__(self, chunks: Sequence[ChunkRow]) -> None:
        self._chunks = chunks
        self._rows = {chunk.id: row for row, chunk in enumerate(chunks)}

    def __len__(self) -> int:
        return len(self._chunks)

    def id(self, row: int) -> str:
        return self._chunks[row].id

    def row(self, chunk_id: str) -> int | None:
        return self._rows.get(chunk_id)

    def vector(self, row: int, revision: int) -> np.ndarray:
        return np.roll(self._chunks[row].vector_D, revision)

    def about(self, row: int, revision: int) -> dict[str, Any]:
        """All of a chunk but its vector."""
        chunk = self._chunks[row]
        return {
            "id": chunk.id,
            "document_id": chunk.document_id,
            "position": chunk.position,
            "text": f"{chunk.text} [{revision}]",
            "metadata": {**chunk.metadata, "revision": revision},
        }

    def body(self, row: int, revision: int) -> dict[str, Any]:
        """A chunk as it is sent."""
        vector = base64.b64encode(self.vector(row, revision).astype("<f4").tobytes()).decode()
        return {**self.about(row, revision), "vector": vector}

    def revision(self, found: dict[str, Any]) -> tuple[int, int] | None:
        """The row and revision of a chunk that was found, or None if it is none of them."""
        row, revision = self.row(found["id"]), found["metadata"].get("revision")
        vector = np.frombuffer(found.pop("vector"), "<f4")
        if row is None or not isinstance(revision, int) or found != self.about(row, revision):
            return None
        return (row, revision) if np.array_equal(vector, self.vector(row, revision)) else None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One request that writes or deletes."""

    changes: State
    key: str
    wait: bool

    @property
    def deletes(self) -> bool:
        return None in self.changes.values()


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the service said to a batch."""

    status: int
    version: int
    replayed: bool
    text: str


def send(http: httpx.Client, contents: Contents, batch: Batch) -> Answered:
    """Send a batch.

    Raises:
        httpx.TransportError: If there was no answer.
    """
    body: dict[str, Any]
    if batch.deletes:
        method, body = "DELETE", {"ids": [contents.id(row) for row in batch.changes]}
    else:
        body = {"chunks": [contents.body(row, of) for row, of in batch.changes.items() if of]}
        method = "PUT"
    answer = http.request(
        method,
        "/v1/chunks",
        params={"wait": str(batch.wait).lower()},
        json=body,
        headers={"Idempotency-Key": batch.key},
    )
    return Answered(
        status=answer.status_code,
        version=answer.json().get("version", 0),
        replayed=answer.headers.get("idempotency-replayed") == "true",
        text=answer.text,
    )


@dataclass(kw_only=True)
class Writer:
    """Writes batches of its own rows until the service is gone, and keeps what was acknowledged."""

    name: str
    contents: Contents
    rows: list[int]
    generator: np.random.Generator
    state: State = field(default_factory=dict)
    """As acknowledged."""
    pending: Batch | None = None
    """Sent, and not answered."""
    acknowledged: int = 0
    """Batches."""
    last: list[int] = field(default_factory=list)
    """Rows of the last acknowledged batch."""
    version: int = 0
    """Of the store, as last acknowledged."""
    troubles: list[str] = field(default_factory=list)
    _revisions: dict[int, int] = field(default_factory=dict)
    _begun: int = 0

    def start(self, url: str) -> threading.Thread:
        """Write until there is no answer."""
        thread = threading.Thread(target=self._run, args=(url,))
        thread.start()
        return thread

    def living(self) -> list[int]:
        return [row for row, revision in self.state.items() if revision is not None]

    def finish(self, http: httpx.Client) -> None:
        """Write all that is not there."""
        missing = [row for row in self.rows if self.state.get(row) is None]
        for start in range(0, len(missing), MOST_CHUNKS):
            self._send(http, self._put(missing[start : start + MOST_CHUNKS]))

    def settle(self, *, written: bool) -> None:
        """Take note of what became of the batch that was sent."""
        if self.pending is not None and written:
            self.state.update(self.pending.changes)
        self.pending = None

    def _run(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not self.troubles:
                try:
                    self._send(http, self._next())
                except httpx.TransportError:
                    return

    def _send(self, http: httpx.Client, batch: Batch) -> None:
        self.pending = batch
        answer = send(http, self.contents, batch)
        if answer.status not in ((200,) if batch.wait else (200, 202)):
            self.troubles.append(f"{self.name}: answered {answer.status}: {answer.text[:200]}")
            return
        if answer.replayed or answer.version <= self.version:
            self.troubles.append(f"{self.name}: version {answer.version} after {self.version}")
        self.version = answer.version
        self.settle(written=True)
        self.acknowledged += 1
        self.last = list(batch.changes)

    def _next(self) -> Batch:
        size = int(10 ** self.generator.uniform(0, np.log10(MOST_CHUNKS)))
        living = self.living()
        if len(living) > size and self.generator.random() < DELETIONS:
            return self._batch(dict.fromkeys(self._some(living, 1 + size // 4)))
        old = []
        if living and self.generator.random() < REWRITES:
            old = self._some(living, 1 + size // 2)
        fresh = self.rows[self._begun : self._begun + size - len(old)]
        self._begun += len(fresh)
        if not (old or fresh):  # all have been written once: what was deleted comes again
            gone = [row for row in self.rows if self.state.get(row) is None]
            old = self._some(gone or living, size)
        return self._put([*old, *fresh])

    def _put(self, rows: list[int]) -> Batch:
        for row in rows:
            self._revisions[row] = self._revisions.get(row, 0) + 1
        return self._batch({row: self._revisions[row] for row in rows})

    def _batch(self, changes: State) -> Batch:
        key = f"{self.name}-{self.generator.integers(2**62)}"
        wait = bool(self.generator.random() >= BARELY_STORED)
        return Batch(changes=changes, key=key, wait=wait)

    def _some(self, rows: list[int], count: int) -> list[int]:
        size = min(count, len(rows))
        return [int(row) for row in self.generator.choice(rows, size, replace=False)]
