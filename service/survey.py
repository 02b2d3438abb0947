"""What can be said of a data folder's collection as a whole: its documents, counts and indexes."""

import itertools
import time
from typing import TYPE_CHECKING, Any

from service.view import Served, Space, View

if TYPE_CHECKING:
    from service.collection import Collection


def documents(collection: "Collection", limit: int, offset: int) -> dict[str, Any]:
    """List a page of the documents, in the order in which they came."""
    view = collection.view
    # A copy, for the writer goes on changing it.
    names = list(view.slots.alive_in)
    page = [(one, view.document(one)) for one in itertools.islice(names, offset, offset + limit)]
    page = [(one, slots) for one, slots in page if len(slots)]
    contents = collection.contents(view, {int(slots[0]) for _, slots in page})
    return {
        "total": len(names),
        "documents": [
            {
                "id": one,
                "title": contents.get(int(slots[0]), ("", {}))[1].get("title"),
                "chunks": len(slots),
            }
            for one, slots in page
        ],
    }


def store_status(view: View) -> dict[str, Any]:
    """Say what the store holds."""
    return {
        "name": view.store_name,
        "version": view.version,
        "chunks": view.living,
        "documents": len(view.slots.alive_in),
    }


def stats(collection: "Collection") -> dict[str, Any]:
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
                if served.learned
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
    }


def indexes(view: View, served: Served) -> dict[str, dict[str, Any]]:
    """Describe the index of each space that a model uses."""
    spaces = {"raw": view.raw} | ({"learned": served.space} if served.learned else {})
    return {kind: _index(view, space) for kind, space in spaces.items()}


def gauges(collection: "Collection") -> dict[str, Any]:
    """Say what metrics show."""
    view = collection.view
    indexed = min(space.indexed for space in view.spaces)
    return {
        "chunks": view.living,
        "documents": len(view.slots.alive_in),
        "dead_slots": view.dead,
        "fresh_slots": view.count - indexed,
        "indexed_slots": indexed,
        "store_version": view.version,
        "indexed_version": collection.indexed_version,
        "seconds_since_build": time.time() - collection.built_at_s,
        "building": collection.building,
        "store_bytes": collection.store.size_bytes(),
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
