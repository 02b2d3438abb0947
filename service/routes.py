"""The HTTP routes: each reads its body, hands it to a worker, and returns what comes back."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service import browse
from service.encode import to_json
from service.engine import Engine
from service.errors import MalformedJsonError
from service.lifecycle import Service
from service.openapi import PROBLEMS, body_of
from service.schemas import (
    Chunk,
    Document,
    Documents,
    OrderAnswer,
    OrderAnswers,
    OrderBatch,
    OrderPair,
    RankAnswer,
    RankAnswers,
    RankBatch,
    RankQuery,
    ScoreAnswer,
    ScoreQuery,
)
from service.timing import Deadline, Stages

router = APIRouter()
v1 = APIRouter(prefix="/v1", responses=PROBLEMS)

Ask = Callable[[Engine, object, Stages, Deadline], dict[str, Any]]
LookUp = Callable[[Engine], dict[str, Any]]


@v1.post(
    "/rank",
    response_model=RankAnswer | RankAnswers,
    openapi_extra=body_of("rank", RankQuery, RankBatch),
)
async def rank(request: Request) -> Response:
    """Rank which chunks come next: of the index, or of explicit candidates."""
    return await _compute(request, lambda engine, *rest: engine.rank(*rest))


@v1.post("/score", response_model=ScoreAnswer, openapi_extra=body_of("score", ScoreQuery))
async def score(request: Request) -> Response:
    """Score explicit candidates, in the given order."""
    return await _compute(request, lambda engine, *rest: engine.score(*rest))


@v1.post(
    "/order",
    response_model=OrderAnswer | OrderAnswers,
    openapi_extra=body_of("order", OrderPair, OrderBatch),
)
async def order(request: Request) -> Response:
    """Tell the probability that one chunk comes after another."""
    return await _compute(request, lambda engine, body, stages, _: engine.order(body, stages))


@v1.get("/model")
async def model(request: Request) -> Response:
    """Tell which model and index answer, in which mode, and why."""
    return await _look_up(request, browse.model)


@v1.get("/chunks/{chunk_id:path}", response_model=Chunk)
async def chunk(request: Request, chunk_id: str) -> Response:
    """Look up one indexed chunk."""
    return await _look_up(request, lambda engine: browse.chunk(engine.library, chunk_id))


@v1.get("/documents", response_model=Documents)
async def documents(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """List the indexed documents."""
    return await _look_up(request, lambda engine: browse.documents(engine.library, limit, offset))


@v1.get("/documents/{document_id:path}", response_model=Document)
async def document(request: Request, document_id: str) -> Response:
    """Look up one document with its chunks, in order."""
    return await _look_up(request, lambda engine: browse.document(engine.library, document_id))


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: PROBLEMS[503]})
async def readyz(request: Request) -> Response:
    """Tell whether ranks can be answered, and with what."""
    engine = _service(request).engine
    # Not in a worker: readiness must be told while the queue is full.
    ready = await asyncio.to_thread(browse.readiness, engine)
    return Response(to_json(ready), media_type="application/json")


router.include_router(v1)


async def _compute(request: Request, ask: Ask) -> Response:
    service = _service(request)
    engine, stages = service.engine, request.state.stages
    body = await request.body()
    arrived = time.perf_counter()
    deadline = Deadline(service.settings.deadline_ms)

    def job() -> bytes:
        stages.add("wait", (time.perf_counter() - arrived) * 1000.0)
        with stages.stage("parse"):
            parsed = _parse(body)
        answer = ask(engine, parsed, stages, deadline)
        with stages.stage("write"):
            return to_json(answer)

    payload = await service.workers.run(job)
    timing = ", ".join(f"{name};dur={ms:g}" for name, ms in stages.elapsed_ms.items())
    return Response(payload, media_type="application/json", headers={"Server-Timing": timing})


async def _look_up(request: Request, find: LookUp) -> Response:
    service = _service(request)
    engine = service.engine
    payload = await service.workers.run(lambda: to_json(find(engine)))
    return Response(payload, media_type="application/json")


def _parse(body: bytes) -> object:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedJsonError(
            f"body: expected JSON, got a mistake in line {error.lineno} column {error.colno}: "
            f"{error.msg}",
            field="body",
            expected="JSON",
            actual=error.msg,
        ) from error
    return parsed


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
