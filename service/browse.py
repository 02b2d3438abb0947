"""Looking things up: chunks, documents, and what the service knows about itself."""

from typing import Any

from models.checkpoint import Checkpoint
from service.encode import gate_word
from service.engine import Engine
from service.errors import ChunkNotFoundError, DocumentNotFoundError
from service.library import RAW, Library
from service.modes import Mode, ModelState, choose


def chunk(library: Library, chunk_id: str) -> dict[str, Any]:
    """Describe one indexed chunk.

    Raises:
        ChunkNotFoundError: If there is none with that id.
    """
    row = library.row_of.get(chunk_id)
    if row is None:
        raise ChunkNotFoundError(f"there is no chunk {chunk_id!r}")
    return _chunks(library, [row])[0]


def documents(library: Library, limit: int, offset: int) -> dict[str, Any]:
    """List a page of the documents, in index order."""
    page = list(library.rows_of)[offset : offset + limit]
    first_ids = [library.catalogue.ids[library.rows_of[one][0]] for one in page]
    contents = library.store.contents(first_ids, library.info.version)
    return {
        "total": len(library.rows_of),
        "documents": [
            _summary(library, document_id, contents[first_id][1])
            for document_id, first_id in zip(page, first_ids, strict=True)
        ],
    }


def document(library: Library, document_id: str) -> dict[str, Any]:
    """Describe one document with its chunks, in order.

    Raises:
        DocumentNotFoundError: If there is none with that id.
    """
    rows = library.rows_of.get(document_id)
    if rows is None:
        raise DocumentNotFoundError(f"there is no document {document_id!r}")
    content = _chunks(library, rows.tolist())
    return {**_summary(library, document_id, content[0]["metadata"]), "content": content}


def model(engine: Engine) -> dict[str, Any]:
    """Say which model and index answer, in which mode, and why."""
    state, library = engine.state, engine.library
    choice = choose(Mode.AUTO, state)
    checkpoint = state.checkpoint
    config = None if state.usable is None else state.usable.model.config
    corpus = library.corpus
    indexes = {RAW: corpus.raw_index, "learned": corpus.projected_index}
    return {
        "mode": choice.mode,
        "method": choice.method,
        "fallback_reason": choice.reason,
        "checkpoint": checkpoint_status(state),
        "gate": None if checkpoint is None else checkpoint.gate,
        "gate_verdict": gate_word(state),
        "metrics": None if checkpoint is None else checkpoint.metrics,
        "window": engine.scorer.window,
        "dimension": library.info.dimension,
        "space": "raw" if config is None else config.space,
        "arch": None if config is None else config.arch,
        "order_weight": engine.scorer.order_weight,
        "embedding_model": library.info.embedding_model,
        "store": store_status(library),
        "indexes": {
            kind: {
                "factory": indexes[kind].factory,
                "size": indexes[kind].size,
                "fingerprint": fingerprint,
            }
            for kind, fingerprint in library.fingerprints.items()
        },
    }


def checkpoint_status(state: ModelState) -> dict[str, Any]:
    """Say what became of the checkpoint: ``ok``, or why ``auto`` does not use it."""
    checkpoint: Checkpoint | None = state.checkpoint
    return {
        "status": state.status,
        "reason": state.detail,
        "version": None if checkpoint is None else checkpoint.version,
    }


def store_status(library: Library) -> dict[str, Any]:
    """Say what the store holds."""
    info = library.info
    return {
        "name": info.name,
        "version": info.version,
        "chunks": info.chunks,
        "documents": len(library.rows_of),
    }


def readiness(engine: Engine) -> dict[str, Any]:
    """Say that, and with what, ranks can be answered.

    Raises:
        StoreChangedError: If the store was replaced since it was loaded.
    """
    engine.library.store.contents([], engine.library.info.version)
    return {
        "status": "ready",
        "mode": choose(Mode.AUTO, engine.state).mode,
        "checkpoint": checkpoint_status(engine.state),
        "store": store_status(engine.library),
        "index": {
            "size": engine.library.corpus.raw_index.size,
            "dimension": engine.library.info.dimension,
            "kinds": sorted(engine.library.fingerprints),
        },
    }


def _summary(library: Library, document_id: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": document_id,
        "title": metadata.get("title"),
        "chunks": len(library.rows_of[document_id]),
    }


def _chunks(library: Library, rows: list[int]) -> list[dict[str, Any]]:
    catalogue = library.catalogue
    contents = library.store.contents([catalogue.ids[row] for row in rows], library.info.version)
    return [
        {
            "id": catalogue.ids[row],
            "document_id": catalogue.document_ids[row],
            "position": catalogue.positions[row],
            "text": contents[catalogue.ids[row]][0],
            "metadata": contents[catalogue.ids[row]][1],
        }
        for row in rows
    ]
