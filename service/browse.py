"""Looking things up: chunks, documents, and what the service knows about itself."""

from typing import Any

from models.checkpoint import Checkpoint
from service.backend import Backend
from service.encode import gate_word
from service.errors import ChunkNotFoundError, DocumentNotFoundError
from service.modes import Mode, ModelState, choose
from service.view import AnyView, Served


def chunk(collection: Backend, chunk_id: str, *, vector: bool = False) -> dict[str, Any]:
    """Describe one indexed chunk.

    Raises:
        ChunkNotFoundError: If there is none with that id.
    """
    view = collection.view
    slot = view.find([chunk_id])[0]
    found = [] if slot is None else _chunks(collection, view, [slot], vector)
    if not found:
        raise ChunkNotFoundError(f"there is no chunk {chunk_id!r}")
    return found[0]


def document(collection: Backend, document_id: str, *, vectors: bool = False) -> dict[str, Any]:
    """Describe one document with its chunks, in order.

    Raises:
        DocumentNotFoundError: If there is none with that id.
    """
    view = collection.view
    slots = view.document(document_id)
    content = _chunks(collection, view, slots.tolist(), vectors)
    if not content:
        raise DocumentNotFoundError(f"there is no document {document_id!r}")
    title = content[0]["metadata"].get("title")
    return {"id": document_id, "title": title, "chunks": len(slots), "content": content}


def model(collection: Backend, name: str) -> dict[str, Any]:
    """Say which model and index answer, in which mode, and why.

    Raises:
        UnknownModelError: If no model of that name is loaded.
    """
    view = collection.view
    served = view.served(name, "query.model")
    state = served.state
    choice = choose(Mode.AUTO, state)
    checkpoint = state.checkpoint
    config = None if state.usable is None else state.usable.model.config
    return {
        "name": name,
        "mode": choice.mode,
        "method": choice.method,
        "fallback_reason": choice.reason,
        "checkpoint": checkpoint_status(state),
        "gate": None if checkpoint is None else checkpoint.gate,
        "gate_verdict": gate_word(state),
        "metrics": None if checkpoint is None else checkpoint.metrics,
        "window": served.scorer.window,
        "dimension": view.dimension or None,
        "space": "raw" if config is None else config.space,
        "arch": None if config is None else config.arch,
        "order_weight": served.scorer.order_weight,
        "rerank": served.scorer.reranker is not None,
        "embedding_model": view.embedding_model,
        "store": collection.store_status(),
        "indexes": collection.indexes(served),
    }


def models(collection: Backend) -> dict[str, Any]:
    """List the loaded models."""
    return {
        "models": [
            {"name": name, **checkpoint_status(served.state), "gate": gate_word(served.state)}
            for name, served in collection.view.models.items()
        ]
    }


def checkpoint_status(state: ModelState) -> dict[str, Any]:
    """Say what became of the checkpoint: ``ok``, or why ``auto`` does not use it."""
    checkpoint: Checkpoint | None = state.checkpoint
    return {
        "status": state.status,
        "reason": state.detail,
        "version": None if checkpoint is None else checkpoint.version,
    }


def stats(collection: Backend) -> dict[str, Any]:
    """Count what is stored, searched and indexed."""
    return {**collection.stats(), "models": models(collection)["models"]}


def readiness(collection: Backend) -> dict[str, Any]:
    """Say that, and with what, ranks can be answered.

    Raises:
        UnavailableError: If they cannot.
    """
    collection.check()
    view, store = collection.view, collection.store_status()
    served: Served = next(iter(view.models.values()))
    return {
        "status": "ready",
        "mode": choose(Mode.AUTO, served.state).mode,
        "checkpoint": checkpoint_status(served.state),
        "store": store,
        "index": {
            "size": store["chunks"],
            "dimension": view.dimension or None,
            "kinds": ["learned", "raw"] if served.learned else ["raw"],
        },
    }


def _chunks(
    collection: Backend, view: AnyView, slots: list[int], vector: bool
) -> list[dict[str, Any]]:
    positions, ids = view.slots.positions.array, view.slots.ids
    contents = collection.contents(view, set(slots))
    found = []
    for slot in slots:
        if slot not in contents:  # deleted since the view was taken
            continue
        text, metadata = contents[slot]
        one: dict[str, Any] = {
            "id": ids[slot],
            "document_id": view.slots.document_ids[slot],
            "position": int(positions[slot]),
            "text": text,
            "metadata": metadata,
        }
        if vector:
            one["vector"] = view.raw.vectors[slot]
        found.append(one)
    return found
