"""The live index: writing, deleting and looking up chunks and documents."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service import browse
from service.answers import (
    Acknowledgement,
    Chunk,
    DeletionAcknowledgement,
    Document,
    Documents,
    Stats,
)
from service.api.reply import answer_media, attend, look_up, metrics_of, service_of
from service.backend import Told
from service.media import (
    Media,
    content_media,
    read_body,
    vector_shape,
    write_body,
)
from service.openapi import answers, body_of
from service.schemas import Deletion, Upsert
from service.security import requires
from service.store import IdempotencyKey, Written
from service.timing import Deadline
from service.write import Writer, answer, idempotency_key

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["data"])
_READ = [requires("read")]
_WRITE = [requires("write")]
_READING = (401, 403, 404, 406, 422, 429, 503)
_WRITING = (400, 401, 403, 404, 406, 413, 415, 422, 429, 501, 503, 507)
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "Stored for good; it will be searchable in a moment"}
}

Act = Callable[[Writer, object, IdempotencyKey | None, Told], Written]
Wait = Annotated[bool, Query(description="Answer when it can be found, not when it is stored.")]


@router.put(
    "/chunks",
    response_model=Acknowledgement,
    responses=answers("upsert", *_WRITING) | _ACCEPTED,
    dependencies=_WRITE,
    openapi_extra=body_of("upsert", Upsert, headers=("Idempotency-Key",)),
)
async def upsert(request: Request, wait: Wait = True) -> Response:
    """Write chunks, all or none; those with the same ids are replaced."""
    stages = request.state.stages
    return await _write(
        request,
        "upserted",
        lambda writer, body, *rest: writer.upsert(body, stages, *rest),
        wait=wait,
    )


@router.delete(
    "/chunks",
    response_model=DeletionAcknowledgement,
    responses=answers("delete", *_WRITING) | _ACCEPTED,
    dependencies=_WRITE,
    openapi_extra=body_of("delete", Deletion, headers=("Idempotency-Key",)),
)
async def delete(request: Request, wait: Wait = True) -> Response:
    """Delete chunks by their ids, or those that pass a filter; all or none."""
    stages = request.state.stages
    return await _write(
        request,
        "deleted",
        lambda writer, body, *rest: writer.delete(body, stages, *rest),
        wait=wait,
    )


@router.delete(
    "/chunks/{chunk_id:path}",
    response_model=DeletionAcknowledgement,
    responses=answers("delete", *_WRITING) | _ACCEPTED,
    dependencies=_WRITE,
)
async def delete_chunk(request: Request, chunk_id: str, wait: Wait = True) -> Response:
    """Delete one chunk."""
    stages = request.state.stages
    return await _write(
        request,
        "deleted",
        lambda writer, _, *rest: writer.delete_chunk(chunk_id, stages, *rest),
        wait=wait,
        bodiless=True,
    )


@router.delete(
    "/documents/{document_id:path}",
    response_model=DeletionAcknowledgement,
    responses=answers("delete", *_WRITING) | _ACCEPTED,
    dependencies=_WRITE,
)
async def delete_document(request: Request, document_id: str, wait: Wait = True) -> Response:
    """Delete a document with all its chunks."""
    stages = request.state.stages
    return await _write(
        request,
        "deleted",
        lambda writer, _, *rest: writer.delete_document(document_id, stages, *rest),
        wait=wait,
        bodiless=True,
    )


@router.get(
    "/chunks/{chunk_id:path}",
    response_model=Chunk,
    responses=answers("chunk", *_READING),
    dependencies=_READ,
)
async def chunk(request: Request, chunk_id: str, vector: bool = False) -> Response:
    """Look up one indexed chunk; as octets, its vector alone."""
    return await _vectors_or(
        request,
        lambda octets: browse.chunk(
            service_of(request).engine.collection, chunk_id, vector=vector or octets
        ),
    )


@router.get(
    "/documents",
    response_model=Documents,
    responses=answers("documents", *_READING),
    dependencies=_READ,
)
async def documents(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """List the indexed documents, in the order in which they came, or in Milvus of their ids."""
    return await look_up(request, lambda engine: engine.collection.documents(limit, offset))


@router.get(
    "/documents/{document_id:path}",
    response_model=Document,
    responses=answers("document", *_READING),
    dependencies=_READ,
)
async def document(request: Request, document_id: str, vectors: bool = False) -> Response:
    """Look up one document with its chunks, in order; as octets, their vectors alone."""
    return await _vectors_or(
        request,
        lambda octets: browse.document(
            service_of(request).engine.collection, document_id, vectors=vectors or octets
        ),
    )


@router.get(
    "/stats", response_model=Stats, responses=answers("stats", *_READING), dependencies=_READ
)
async def stats(request: Request) -> Response:
    """Count what is stored, searched and indexed."""
    return await look_up(request, lambda engine: browse.stats(engine.collection))


async def _vectors_or(request: Request, find: Callable[[bool], dict[str, Any]]) -> Response:
    service = service_of(request)
    out = answer_media(request, tuple(Media))

    def job() -> tuple[bytes, dict[str, str]]:
        found = find(out is Media.OCTETS)
        if out is not Media.OCTETS:
            return write_body(out, found), {}
        rows_ND = np.stack([one["vector"] for one in found.get("content", [found])])
        return write_body(out, rows_ND), vector_shape(rows_ND)

    payload, headers = await service.workers.run(job)
    return Response(payload, media_type=out, headers=headers)


async def _write(
    request: Request, word: str, act: Act, *, wait: bool, bodiless: bool = False
) -> Response:
    """Have the writer change something, and acknowledge it."""
    service, stages = service_of(request), request.state.stages
    writer = service.writer
    media = content_media(request.headers.get("content-type"))
    out = answer_media(request)
    body = await request.body()
    key = idempotency_key(
        request.headers.get("idempotency-key"), request.method, request.url.path, body
    )
    loop = asyncio.get_running_loop()
    stored: asyncio.Future[Written] = loop.create_future()
    arrived = time.perf_counter()

    def keep(written: Written) -> None:
        if not stored.done():
            stored.set_result(written)

    def tell(written: Written) -> None:
        loop.call_soon_threadsafe(keep, written)

    def job() -> Written:
        stages.add("wait", (time.perf_counter() - arrived) * 1000.0)
        with stages.stage("parse"):
            parsed = None if bodiless else read_body(media, body)
        return act(writer, parsed, key, tell)

    working = asyncio.ensure_future(service.writers.run(job))
    if wait:
        # A write that waits is dropped with its client; one that has begun is done to its end.
        written = await attend(request, working, Deadline(math.inf))
        status, code = "searchable", 200
    else:
        await asyncio.wait({working, stored}, return_when=asyncio.FIRST_COMPLETED)
        written = stored.result() if stored.done() else working.result()
        status, code = "stored", 202
        working.add_done_callback(_tell_failure)
    counted = metrics_of(request).written if word == "upserted" else metrics_of(request).deleted
    if not written.replayed:
        counted(written.count)
    headers = {"Idempotency-Replayed": "true"} if written.replayed else {}
    payload = write_body(out, answer(written, word, status))
    return Response(payload, status_code=code, media_type=out, headers=headers)


def _tell_failure(working: "asyncio.Future[Written]") -> None:
    if not working.cancelled() and working.exception() is not None:
        log.error("a stored write could not be made searchable", exc_info=working.exception())
