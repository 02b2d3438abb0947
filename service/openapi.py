"""What OpenAPI says beyond what the routes' signatures tell: request bodies, examples, problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.answers import Problem
from service.errors import PROBLEM_TYPE
from service.examples import ANSWERS, REQUESTS, problems_of
from service.schemas import (
    Deletion,
    OrderBatch,
    OrderPair,
    RankBatch,
    RankQuery,
    Reload,
    ScoreQuery,
    SequenceQuery,
    Upsert,
)

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    RankQuery,
    RankBatch,
    ScoreQuery,
    OrderPair,
    OrderBatch,
    SequenceQuery,
    Upsert,
    Deletion,
    Reload,
    Problem,
)

_DESCRIPTIONS = {
    400: "The request could not be read",
    401: "No API key, or none that is known",
    403: "The API key may not do this",
    404: "No such path, chunk or document",
    406: "No media type of the answer is accepted",
    409: "No usable checkpoint for what was asked",
    413: "Body too large",
    415: "The body's media type is not read",
    422: "The body, or a member of it, cannot be used",
    429: "Too many requests; try again after Retry-After seconds",
    500: "The service failed; its log knows the request id",
    501: "No embedder for texts",
    503: "Not ready; try again after Retry-After seconds",
    504: "Past the deadline",
    507: "The store's disk is full",
}
_HEADERS = {
    "Idempotency-Key": "The client's own name for this write. Sent again within a day, the same "
    "request is answered as before and not written twice.",
    "X-Request-Timeout": "Seconds that the answer may take.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that an operation may answer, with an example of each code."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {
                PROBLEM_TYPE: {
                    "schema": {"$ref": _REF.format(model="Problem")},
                    "examples": {
                        code: {"value": value} for code, value in problems_of(status).items()
                    },
                }
            },
        }
        for status in sorted({*statuses, 500})
    }


def answers(name: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe what an operation answers: an example, and the problems of some statuses."""
    content = {"application/json": {"example": ANSWERS[name]}}
    return {200: {"content": content}, **problems(*statuses)}


def body_of(name: str, *kinds: type[BaseModel], headers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Describe a request body that is one of some models, with the examples of that name."""
    schemas = [{"$ref": _REF.format(model=kind.__name__)} for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    shown = {title: {"value": value} for title, value in REQUESTS[name].items()}
    content: dict[str, Any] = {
        "application/json": {"schema": schema, "examples": shown},
        "application/msgpack": {"schema": schema},
    }
    parameters = [
        {
            "name": header,
            "in": "header",
            "required": False,
            "description": _HEADERS[header],
            "schema": {"type": "string"},
        }
        for header in headers
    ]
    body = {"requestBody": {"required": name != "reload", "content": content}}
    return body | ({"parameters": parameters} if parameters else {})


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
