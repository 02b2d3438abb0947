"""A small application inside the real middleware, served by uvicorn on a free port."""

import asyncio
import io
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import ChunkNotFoundError, NotFoundError, QueueFullError, ServiceError
from service.logs import JsonFormatter
from service.metrics import Metrics
from service.middleware import RequestMiddleware, problem_response
from service.timing import Stages
from service.tracing import Tracer

SECRET = "do-not-tell"
"""Stands for a text, an id and an API key in requests to the application."""
STAGE_S = 0.002


def _work(stages: Stages) -> None:
    with stages.stage("parse"):
        time.sleep(STAGE_S)
    for _ in range(2):
        own = Stages()
        for name in ("query", "search"):
            with own.stage(name):
                time.sleep(STAGE_S)
        stages.absorb(own)


async def _rank(request: Request) -> Response:
    body = await request.body()
    request.state.key_name = "reader"
    await run_in_threadpool(_work, request.state.stages)
    return Response(body)


async def _chunk(chunk_id: str) -> None:
    raise ChunkNotFoundError(f"there is no chunk {chunk_id!r}")


async def _busy() -> None:
    raise QueueFullError("too many wait", retry_after_s=7)


async def _broken() -> None:
    raise RuntimeError(SECRET)


async def _slow() -> None:
    await asyncio.sleep(30)


async def _livez() -> dict[str, str]:
    return {"status": "alive"}


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error, request.state.request_id)


async def _on_http_exception(request: Request, _: Exception) -> Response:
    return problem_response(NotFoundError("nothing here"), request.state.request_id)


def build(metrics: Metrics, tracer: Tracer | None) -> FastAPI:
    async def scrape(request: Request) -> Response:
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    app = FastAPI(openapi_url=None)
    app.add_api_route("/v1/rank", _rank, methods=["POST"])
    app.add_api_route("/v1/chunks/{chunk_id:path}", _chunk)
    app.add_api_route("/busy", _busy)
    app.add_api_route("/broken", _broken)
    app.add_api_route("/slow", _slow)
    app.add_api_route("/livez", _livez)
    app.add_api_route("/metrics", scrape)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(RequestMiddleware, body_limit_bytes=4096, metrics=metrics, tracer=tracer)
    return app


@dataclass
class Small:
    http: httpx.Client
    port: int
    metrics: Metrics
    log: io.StringIO
    """What the request log says, as the ``serve`` command would write it."""

    def wait_for_lines(self, count: int) -> list[str]:
        """The log, once so many requests have ended; an answer is there before its line."""
        until = time.monotonic() + 10
        while (lines := self.log.getvalue().splitlines()) == [] or len(lines) < count:
            assert time.monotonic() < until, lines
            time.sleep(0.005)
        return lines


@contextmanager
def serve_small(metrics: Metrics | None = None, tracer: Tracer | None = None) -> Iterator[Small]:
    metrics = metrics or Metrics()
    config = uvicorn.Config(
        build(metrics, tracer),
        port=0,
        http="h11",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=0,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("service.request")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as http:
            yield Small(http, port, metrics, log)
    finally:
        server.should_exit = True
        thread.join()
        logger.setLevel(level)
        logger.removeHandler(handler)
