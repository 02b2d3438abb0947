"""From checked bodies to changes of the collection.

Runs in the one thread that writes, so that what is looked up here still holds when it is written.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from models.scoring import Floats
from service.backend import Backend, Told
from service.decode import Embed, check_text, check_unique
from service.errors import (
    BatchTooLargeError,
    ChunkNotFoundError,
    DocumentNotFoundError,
    InvalidRequestError,
    MetadataTooLargeError,
)
from service.media import write_plain
from service.schemas import Deletion, NewChunk, Upsert, check
from service.settings import Settings
from service.store import ChunkRow, IdempotencyKey, Written
from service.timing import Stages
from service.vectors import decode_vectors, dimension_of


class Writer:
    """Writes and deletes chunks.

    Args:
        collection: What is changed.
        settings: Limits.
        embed: Turns texts into vectors.
    """

    def __init__(self, collection: Backend, settings: Settings, embed: Embed) -> None:
        self._collection = collection
        self._settings = settings
        self._embed = embed

    def upsert(
        self, body: object, stages: Stages, key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Write the chunks of a body, all or none.

        Args:
            body: Of ``PUT /v1/chunks``.
            stages: Timed into.
            key: The client's name for the write.
            on_stored: Told once the write is durable.

        Raises:
            ServiceError: If the request is at fault, or nothing can be written.
        """
        with stages.stage("decode"):
            chunks = check(Upsert, body).chunks
            self._check_number(len(chunks), "chunks")
            check_unique([chunk.id for chunk in chunks], "chunks")
            for place, chunk in enumerate(chunks):
                self._check_content(chunk, f"chunks.{place}")
        vectors = self._vectors(chunks, stages)
        rows = [
            ChunkRow(
                id=chunk.id,
                document_id=chunk.document_id,
                position=chunk.position,
                text=chunk.text or "",
                metadata=chunk.metadata,
                vector_D=vector_D,
            )
            for chunk, vector_D in zip(chunks, vectors, strict=True)
        ]
        return _timed(stages, lambda told: self._collection.upsert(rows, key, told), on_stored)

    def delete(
        self, body: object, stages: Stages, key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Delete the chunks that a body names or filters, all or none.

        Args:
            body: Of ``DELETE /v1/chunks``.
            stages: Timed into.
            key: The client's name for the write.
            on_stored: Told once the write is durable.

        Raises:
            ServiceError: If the request is at fault, or nothing can be written.
        """
        with stages.stage("decode"):
            deletion = check(Deletion, body)
            if deletion.ids is not None:
                self._check_number(len(deletion.ids), "ids")
            ids = self._filtered(deletion) if deletion.ids is None else deletion.ids
        return self._delete(ids, stages, key, on_stored)

    def delete_chunk(
        self, chunk_id: str, stages: Stages, key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Delete one chunk.

        Raises:
            ChunkNotFoundError: If there is none with that id.
        """
        written = self._delete([chunk_id], stages, key, _of_any(on_stored))
        if not written.count:
            raise ChunkNotFoundError(f"there is no chunk {chunk_id!r}")
        return written

    def delete_document(
        self, document_id: str, stages: Stages, key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Delete all chunks of a document.

        Raises:
            DocumentNotFoundError: If there is none with that id.
        """
        view = self._collection.latest
        ids = [view.slots.ids[slot] for slot in view.document(document_id)]
        written = self._delete(ids, stages, key, _of_any(on_stored))
        if not written.count:
            raise DocumentNotFoundError(f"there is no document {document_id!r}")
        return written

    def _delete(
        self, ids: list[str], stages: Stages, key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        return _timed(stages, lambda told: self._collection.delete(ids, key, told), on_stored)

    def _check_number(self, count: int, field: str) -> None:
        limit = self._settings.upsert_limit
        if count > limit:
            raise BatchTooLargeError(field, f"at most {limit} {field}", str(count))

    def _check_content(self, chunk: NewChunk, field: str) -> None:
        check_text(chunk.text or "", f"{field}.text", self._settings.text_limit)
        limit = self._settings.metadata_limit_bytes
        size = len(write_plain(chunk.metadata, f"{field}.metadata"))
        if size > limit:
            raise MetadataTooLargeError(
                f"{field}.metadata", f"at most {limit} bytes as JSON", str(size)
            )

    def _vectors(self, chunks: list[NewChunk], stages: Stages) -> list[Floats]:
        view = self._collection.view
        dimension = view.dimension or _dimension_of(chunks)
        given = [place for place, chunk in enumerate(chunks) if chunk.vector is not None]
        vectors: dict[int, Floats] = {}
        with stages.stage("decode"):
            values = [chunks[place].vector for place in given]
            field = lambda row: f"chunks.{given[row]}.vector"  # noqa: E731
            vectors.update(zip(given, decode_vectors(values, field, dimension), strict=True))
        bare = [place for place in range(len(chunks)) if place not in vectors]
        if bare:
            with stages.stage("embed"):
                texts = [chunks[place].text or "" for place in bare]
                vectors.update(zip(bare, self._embed(texts, dimension), strict=True))
        return [vectors[place] for place in range(len(chunks))]

    def _filtered(self, deletion: Deletion) -> list[str]:
        assert deletion.filter is not None
        return self._collection.ids_matching(deletion.filter)


def _timed(stages: Stages, change: Callable[[Told], Written], on_stored: Told) -> Written:
    """Make a change, and time what comes before it is stored and what comes after."""
    since_s = time.perf_counter()

    def told(written: Written) -> None:
        nonlocal since_s
        now_s = time.perf_counter()
        stages.add("store", (now_s - since_s) * 1000.0)
        since_s = now_s
        on_stored(written)

    written = change(told)
    stages.add("apply", (time.perf_counter() - since_s) * 1000.0)
    return written


def _of_any(told: Told) -> Told:
    """Tell of a change only if something was changed."""
    return lambda written: told(written) if written.count else None


def _dimension_of(chunks: list[NewChunk]) -> int:
    """The dimension that the first vector decides; 0 if there are only texts."""
    for place, chunk in enumerate(chunks):
        if chunk.vector is not None:
            return dimension_of(chunk.vector, f"chunks.{place}.vector")
    return 0


def idempotency_key(
    given: str | None, method: str, path: str, body: bytes
) -> IdempotencyKey | None:
    """Read the header of that name, with a digest of what it names.

    Raises:
        InvalidRequestError: If it is not 1 to 128 visible ASCII characters.
    """
    if given is None:
        return None
    if not (1 <= len(given) <= 128 and all("!" <= letter <= "~" for letter in given)):
        raise InvalidRequestError(
            "header.idempotency-key", "1 to 128 visible ASCII characters", f"{len(given)} others"
        )
    digest = hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()
    return IdempotencyKey(key=given, request=digest)


def answer(written: Written, word: str, status: str) -> dict[str, Any]:
    """Acknowledge a write; ``word`` is ``upserted`` or ``deleted``."""
    return {word: written.count, "version": written.version, "status": status}
