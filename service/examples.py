"""Examples that OpenAPI shows: a request and an answer of every operation, and every problem."""

from typing import Any

from service.errors import FieldError, ServiceError, UnreachableError, error_classes

REQUESTS: dict[str, dict[str, Any]] = {
    "rank": {
        "by ids": {"context_ids": ["a:0", "a:1"], "top_k": 3},
        "by place, only what is not read yet": {
            "context_at": {"document_id": "a", "position": 7},
            "only_unseen": True,
            "max_per_document": 2,
        },
        "by vectors": {"context": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], "exclude_ids": ["a:7"]},
        "filtered": {
            "context_ids": ["a:0"],
            "filter": {
                "document_ids": ["a", "b"],
                "position": {"gte": 10},
                "metadata": {"section": "Results", "year": {"gte": 2012}, "doi": {"exists": True}},
            },
            "explain": True,
        },
        "explicit candidates": {
            "context": ["mpkZP83MTD8AAAAA"],
            "candidates": [{"id": "a:2"}, {"id": "mine", "vector": [0.0, 0.6, 0.8]}],
            "mode": "p8",
        },
        "a batch": {"queries": [{"context_ids": ["a:0"]}, {"context_ids": ["b:0", "b:1"]}]},
    },
    "score": {
        "two candidates": {
            "context_ids": ["a:0", "a:1"],
            "candidates": [{"id": "a:2"}, {"vector": [0.0, 0.6, 0.8]}],
        }
    },
    "order": {
        "by ids": {"a_id": "a:0", "b_id": "a:1"},
        "by vectors": {"a": [0.6, 0.8, 0.0], "b": [0.0, 0.6, 0.8]},
        "several": {"pairs": [{"a_id": "a:0", "b_id": "a:1"}, {"a_id": "a:1", "b_id": "a:0"}]},
    },
    "sequence": {
        "by ids": {"ids": ["a:1", "a:0", "b:4"]},
        "by vectors": {"chunks": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]]},
        "a document": {"document_id": "a"},
    },
    "upsert": {
        "a vector with its text": {
            "chunks": [
                {
                    "id": "a:0",
                    "document_id": "a",
                    "position": 0,
                    "vector": [0.6, 0.8, 0.0],
                    "text": "It was a dark night.",
                    "metadata": {"section": "One", "year": 2012},
                }
            ]
        },
        "a text to be embedded": {
            "chunks": [{"id": "a:1", "document_id": "a", "position": 1, "text": "It rained."}]
        },
    },
    "delete": {
        "by ids": {"ids": ["a:0", "a:1"]},
        "by filter": {"filter": {"document_ids": ["a"], "position": {"gte": 10}}},
    },
    "reload": {
        "the same folder again": {},
        "another checkpoint beside it": {"model": "default", "checkpoint": "p8-2026-12"},
    },
}

_MODEL = {
    "name": "default",
    "version": "1d50fd5d8f82",
    "method": "p8",
    "space": "learned",
    "gate": "passed",
    "embedding_model": "all-MiniLM-L6-v2",
}
_CHECKPOINT = {"status": "ok", "reason": None, "version": "1d50fd5d8f82"}
_STORE = {"name": "docs", "version": 3, "chunks": 48, "documents": 4}
_INDEX = {"kind": "flat", "recall_at_10": 1.0, "memory_bytes": 3072, "size": 48, "fresh": 0}
_CHUNK = {
    "id": "a:2",
    "document_id": "a",
    "position": 2,
    "text": "It rained.",
    "metadata": {"section": "One"},
}
_SCORED = {"score": 0.67, "parts": {"mixture": 0.6, "order": 0.0, "rerank": 0.07}}
_RANKED = {
    "mode": "p8",
    "fallback_reason": None,
    "model": _MODEL,
    "index_version": 3,
    "alpha": [0.14, 0.86],
    "results": [_CHUNK | _SCORED],
    "timings_ms": {"decode": 0.1, "query": 1.1, "search": 0.4, "rerank": 9.8, "encode": 0.2},
}
_SUMMARY = {"id": "a", "title": "A dark night", "chunks": 12}

ANSWERS: dict[str, Any] = {
    "rank": _RANKED,
    "score": _RANKED | {"results": [{**_CHUNK, **_SCORED, "candidate": 0}]},
    "order": {"p_b_after_a": 0.83},
    "sequence": {
        "model": _MODEL,
        "confidence": 0.81,
        "order": [
            {"index": 1, "id": "a:0", "confidence": 0.84, "belongs": 0.97},
            {"index": 0, "id": "a:1", "confidence": 0.8, "belongs": 0.96},
            {"index": 2, "id": "b:4", "confidence": 0.79, "belongs": 0.08},
        ],
        "outliers": [2],
        "duplicates": [],
    },
    "upsert": {"upserted": 1, "version": 4, "status": "searchable"},
    "delete": {"deleted": 2, "version": 5, "status": "searchable"},
    "chunk": _CHUNK,
    "documents": {"total": 4, "documents": [_SUMMARY]},
    "document": _SUMMARY | {"content": [_CHUNK]},
    "stats": {
        "store": {
            **_STORE,
            "id": "a201de46e4e74bc4a36b929f97b2f3bb",
            "rows": 48,
            "bytes": 262144,
            "dimension": 384,
            "embedding_model": "all-MiniLM-L6-v2",
        },
        "index": {
            "searchable": 48,
            "dead": 0,
            "raw": _INDEX,
            "learned": {"default": _INDEX},
            "version": 3,
            "built_s_ago": 12.5,
            "building": False,
        },
        "metadata_keys": 4,
        "memory_bytes": {"vectors": 6144, "indexes": 6144, "metadata": 6144},
        "models": [{"name": "default", **_CHECKPOINT, "gate": "passed"}],
    },
    "model": {
        "name": "default",
        "mode": "p8",
        "method": "p8",
        "fallback_reason": None,
        "checkpoint": _CHECKPOINT,
        "gate": {"verdict": "passed"},
        "gate_verdict": "passed",
        "metrics": {},
        "window": 5,
        "dimension": 384,
        "space": "learned",
        "arch": "transformer",
        "order_weight": 0.0,
        "rerank": True,
        "embedding_model": "all-MiniLM-L6-v2",
        "store": _STORE,
        "indexes": {"raw": _INDEX, "learned": _INDEX},
    },
    "models": {"models": [{"name": "default", **_CHECKPOINT, "gate": "passed"}]},
    "reload": {
        "model": "default",
        "version": "77aa01f2c3d4",
        "previous": "1d50fd5d8f82",
        "status": "ok",
        "took_ms": 840.5,
    },
    "livez": {"status": "alive"},
    "readyz": {
        "status": "ready",
        "mode": "p8",
        "checkpoint": _CHECKPOINT,
        "store": _STORE,
        "index": {"size": 48, "dimension": 384, "kinds": ["learned", "raw"]},
    },
}


def problems_of(status: int) -> dict[str, dict[str, Any]]:
    """An example of each problem with a status, by its code."""
    return {
        kind.code: _example(kind).problem("5f0c2c7be7a147f9a6b5c2b7d1e1a0aa")
        for kind in error_classes()
        if kind.status == status and kind is not UnreachableError
    }


def _example(kind: type[ServiceError]) -> ServiceError:
    if issubclass(kind, FieldError):
        return kind("some.member", "what it should be", "what it was")
    detail = (kind.__doc__ or kind.title).split("\n")[0].rstrip(".")
    return kind(detail, retry_after_s=1 if kind.status in (429, 503) else None)
