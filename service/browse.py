"""Looking things up: chunks, documents, and what the service knows about itself."""

import itertools
import time
from typing import Any

from models.checkpoint import Checkpoint
from models.index import Rows
from service.collection import Collection
from service.encode import gate_word
from service.errors import ChunkNotFoundError, DocumentNotFoundError
from service.modes import Mode, ModelState, choose
from service.view import Served, Space, View


def chunk(collection: Collection, chunk_id: str, *, vector: bool = False) -> dict[str, Any]:
    """Describe one indexed chunk.

    Raises:
        ChunkNotFoundError: If there is none with that id.
    """
    view = collection.view
    slot = view.slot(chunk_id)
    found = [] if slot is None else _chunks(collection, view, [slot], vector)
    if not found:
        raise ChunkNotFoundError(f"there is no chunk {chunk_id!r}")
    return found[0]


def documents(collection: Collection, limit: int, offset: int) -> dict[str, Any]:
    """List a page of the documents, in the order in which they came."""
    view = collection.view
    alive_in = view.slots.alive_in
    # A copy, for the writer goes on changing it.
    names = list(alive_in)
    page = [(one, view.document(one)) for one in itertools.islice(names, offset, offset + limit)]
    page = [(one, slots) for one, slots in page if len(slots)]
    rows, ids = view.slots.rows.array, view.slots.ids
    firsts = [int(slots[0]) for _, slots in page]
    contents = collection.store.contents({int(rows[slot]): ids[slot] for slot in firsts})
    return {
        "total": len(names),
        "documents": [
            _summary(one, slots, contents.get(int(rows[slots[0]]), ("", {}))[1])
            for one, slots in page
        ],
    }


def document(collection: Collection, document_id: str, *, vectors: bool = False) -> dict[str, Any]:
    """Describe one document with its chunks, in order.

    Raises:
        DocumentNotFoundError: If there is none with that id.
    """
    view = collection.view
    slots = view.document(document_id)
    content = _chunks(collection, view, slots.tolist(), vectors)
    if not content:
        raise DocumentNotFoundError(f"there is no document {document_id!r}")
    return {**_summary(document_id, slots, content[0]["metadata"]), "content": content}


def model(collection: Collection, name: str) -> dict[str, Any]:
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
    spaces = {"raw": view.raw} | ({} if served.space is view.raw else {"learned": served.space})
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
        "store": store_status(view),
        "indexes": {kind: _index(view, space) for kind, space in spaces.items()},
    }


def models(collection: Collection) -> dict[str, Any]:
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


def store_status(view: View) -> dict[str, Any]:
    """Say what the store holds."""
    return {
        "name": view.store_name,
        "version": view.version,
        "chunks": view.living,
        "documents": len(view.slots.alive_in),
    }


def stats(collection: Collection) -> dict[str, Any]:
    """Count what is stored, searched and indexed."""
    view, info = collection.view, collection.store.info()
    slots = view.slots
    return {
        "store": {
            **store_status(view),
            "id": view.store_id,
            "rows": info.chunks,
            "bytes": collection.store.size_bytes(),
            "dimension": view.dimension or None,
            "embedding_model": view.embedding_model,
        },
        "index": {
            "searchable": view.living,
            "dead": view.dead,
            "raw": _index(view, view.raw),
            "learned": {
                name: _index(view, served.space)
                for name, served in view.models.items()
                if served.space is not view.raw
            },
            "version": collection.indexed_version,
            "built_s_ago": round(time.time() - collection.built_at_s, 3),
            "building": collection.building,
        },
        "metadata_keys": len(slots.columns.keys()),
        "memory_bytes": {
            "vectors": sum(space.vectors[: view.count].nbytes for space in view.spaces),
            "indexes": sum(_index(view, space)["memory_bytes"] for space in view.spaces),
            "metadata": slots.columns.nbytes,
        },
        "models": models(collection)["models"],
    }


def readiness(collection: Collection) -> dict[str, Any]:
    """Say that, and with what, ranks can be answered."""
    view = collection.view
    served: Served = next(iter(view.models.values()))
    return {
        "status": "ready",
        "mode": choose(Mode.AUTO, served.state).mode,
        "checkpoint": checkpoint_status(served.state),
        "store": store_status(view),
        "index": {
            "size": view.living,
            "dimension": view.dimension or None,
            "kinds": ["raw"] if served.space is view.raw else ["learned", "raw"],
        },
    }


def _index(view: View, space: Space) -> dict[str, Any]:
    facts = {} if space.index is None else space.index.facts()
    return {
        "kind": facts.get("kind"),
        "recall_at_10": facts.get("recall_at_10"),
        "memory_bytes": facts.get("memory_bytes", 0),
        "size": space.indexed,
        "fresh": view.count - space.indexed,
    }


def _summary(document_id: str, slots: Rows, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"id": document_id, "title": metadata.get("title"), "chunks": len(slots)}


def _chunks(
    collection: Collection, view: View, slots: list[int], vector: bool
) -> list[dict[str, Any]]:
    rows, positions = view.slots.rows.array, view.slots.positions.array
    ids = view.slots.ids
    contents = collection.store.contents({int(rows[slot]): ids[slot] for slot in slots})
    found = []
    for slot in slots:
        if int(rows[slot]) not in contents:  # deleted since the view was taken
            continue
        text, metadata = contents[int(rows[slot])]
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
