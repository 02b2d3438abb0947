"""What OpenAPI says beyond what the routes' signatures tell: request bodies, examples, problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import PROBLEM_TYPE
from service.schemas import OrderBatch, OrderPair, Problem, RankBatch, RankQuery, ScoreQuery

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    RankQuery,
    RankBatch,
    ScoreQuery,
    OrderPair,
    OrderBatch,
    Problem,
)

EXAMPLES: dict[str, dict[str, Any]] = {
    "rank": {
        "by ids": {"context_ids": ["a:0", "a:1"], "top_k": 3},
        "by vectors": {"context": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], "exclude_ids": ["a:7"]},
        "within documents": {
            "context_ids": ["a:0"],
            "filter": {"document_ids": ["a", "b"]},
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
}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="Problem")}
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: _problem("No such path, chunk or document"),
    409: _problem("No usable checkpoint for what was asked"),
    413: _problem("Body too large"),
    422: _problem("The body, or a member of it, cannot be used"),
    429: _problem("Queue full; try again after Retry-After seconds"),
    500: _problem("The service failed; its log knows the request id"),
    501: _problem("No embedder for texts"),
    503: _problem("Not ready"),
    504: _problem("Past the deadline"),
}


def body_of(name: str, *kinds: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body that is one of some models, with the examples of that name."""
    schemas = [{"$ref": _REF.format(model=kind.__name__)} for kind in kinds]
    content = {
        "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
        "examples": {title: {"value": value} for title, value in EXAMPLES[name].items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document of an application."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in _BODIES], ref_template=_REF
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
