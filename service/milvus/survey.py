"""What can be said of the chunks in Milvus as a whole: their documents, counts and indexes.

Counts are those of the last look, at most a few seconds ago: nothing that a probe asks again and
again waits for Milvus.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from service.milvus.store import MilvusStore
from service.milvus.tables import CHUNKS, DOCUMENTS, any_of

if TYPE_CHECKING:
    from service.milvus.collection import MilvusCollection, MilvusModel

KIND = "milvus"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was counted."""

    chunks: int = 0
    documents: int = 0
    learned: dict[str, int] = field(default_factory=dict)
    """Rows of each learned table."""
    at_s: float = field(default_factory=time.time)


def count(store: MilvusStore, tables: Sequence[str]) -> Facts:
    """Count the rows of tables."""
    if not store.dimension:
        return Facts()
    return Facts(
        chunks=store.count(CHUNKS),
        documents=store.count(DOCUMENTS),
        learned={table: store.count(table) for table in tables},
    )


def documents(store: MilvusStore, limit: int, offset: int) -> dict[str, Any]:
    """List a page of the documents, in the order of their ids."""
    if not store.dimension:
        return {"total": 0, "documents": []}
    fields = ["key", "document_id", "document_key"]
    rows = itertools.chain.from_iterable(store.walk(DOCUMENTS, fields))
    page = {
        row["document_key"]: row["document_id"]
        for row in itertools.islice(rows, offset, offset + limit)
    }
    fields = ["document_key", "position", "written", "metadata"]
    found = store.query(CHUNKS, any_of("document_key", page), fields) if page else []
    firsts: dict[str, dict[str, Any]] = {}
    sizes = dict.fromkeys(page, 0)
    for row in found:
        key = row["document_key"]
        sizes[key] += 1
        if key not in firsts or _place(row) < _place(firsts[key]):
            firsts[key] = row
    return {
        "total": store.count(DOCUMENTS),
        "documents": [
            {
                "id": name,
                "title": orjson.loads(firsts[key]["metadata"]).get("title"),
                "chunks": sizes[key],
            }
            for key, name in page.items()
            if sizes[key]
        ],
    }


def store_status(collection: "MilvusCollection") -> dict[str, Any]:
    """Say what the store holds."""
    facts, store = collection.facts, collection.store
    return {
        "name": store.about.name,
        "version": store.next_version(),
        "chunks": facts.chunks,
        "documents": facts.documents,
    }


def stats(collection: "MilvusCollection", models: Iterable["MilvusModel"]) -> dict[str, Any]:
    """Count what is stored, searched and indexed; bytes are Milvus' own matter, and 0 here."""
    facts, store = collection.facts, collection.store
    status = store_status(collection)
    return {
        "store": {
            **status,
            "id": store.about.store_id,
            "rows": facts.chunks,
            "bytes": 0,
            "dimension": store.dimension or None,
            "embedding_model": store.about.embedding_model,
        },
        "index": {
            "searchable": facts.chunks,
            "dead": 0,
            "raw": _index(facts.chunks),
            "learned": {
                model.name: _index(facts.learned.get(model.table, 0))
                for model in models
                if model.table is not None
            },
            "version": status["version"],
            "built_s_ago": round(time.time() - facts.at_s, 3),
            "building": False,
        },
        "metadata_keys": 0,
        "memory_bytes": {"vectors": 0, "indexes": 0, "metadata": 0},
    }


def indexes(collection: "MilvusCollection", model: "MilvusModel") -> dict[str, dict[str, Any]]:
    """Describe the index of each space that a model uses."""
    found = {"raw": _index(collection.facts.chunks)}
    if model.table is not None:
        found["learned"] = _index(collection.facts.learned.get(model.table, 0))
    return found


def gauges(collection: "MilvusCollection") -> dict[str, Any]:
    """Say what metrics show."""
    facts = collection.facts
    return {
        "chunks": facts.chunks,
        "documents": facts.documents,
        "indexed_slots": min([facts.chunks, *facts.learned.values()]),
        "index_available": collection.store.link.available,
    }


def _index(size: int) -> dict[str, Any]:
    return {"kind": KIND, "recall_at_10": None, "memory_bytes": 0, "size": size, "fresh": 0}


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return row["position"], row["written"]
