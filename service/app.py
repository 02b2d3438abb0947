"""Puts the application together."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import ask, router
from service.direct import Direct
from service.embedding import LoadEmbedder, load_installed
from service.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
    ServiceError,
)
from service.lifecycle import Service
from service.metrics import Metrics
from service.middleware import RequestMiddleware
from service.milvus.place import check_place
from service.modes import FallbackReason
from service.openapi import describe
from service.pages import add_pages, cors_options
from service.problems import problem_response
from service.security import Guard
from service.settings import Settings
from service.tracing import open_tracer

API_VERSION = "1"


class App(FastAPI):
    """The application, with a short way to the operations that ask questions."""

    direct: Direct
    front: ASGIApp
    """Around those."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if self.direct.has(scope):
            scope["app"] = self
            await self.front(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    load_embedder: LoadEmbedder = load_installed,
    announce: Callable[[str], None] = lambda _: None,
) -> FastAPI:
    """Build the application; nothing is loaded before its lifespan starts.

    Args:
        settings: All settings.
        load_embedder: Loads an embedding model by name, at the first text.
        announce: Told one line about a checkpoint that cannot serve, and one when ready.

    Raises:
        SettingsError: If a file or a package that a setting needs is missing or unfit.
    """
    check_place(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()
            if tracer is not None:
                tracer.close()

    app = App(
        title="nextchunk",
        version=API_VERSION,
        summary="Which chunk of a document comes next, and which of two comes first.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    service = Service(settings, load_embedder, announce, lambda size: metrics.computed(size))
    metrics = Metrics(service.gauges, FallbackReason)
    app.state.guard = Guard.from_settings(settings)
    tracer = open_tracer(settings.otlp_endpoint)
    app.state.service, app.state.metrics = service, metrics
    app.include_router(router)
    add_pages(app, settings)

    def around(inner: ASGIApp) -> ASGIApp:
        return RequestMiddleware(
            inner, settings.body_limit_bytes, metrics, tracer, settings.retry_after_s
        )

    # What is added last lies outermost: a page may read the problems of all that is inside.
    app.add_middleware(around)
    app.direct = Direct(ask.router.routes, "read")
    app.front = around(app.direct)
    cors = cors_options(settings)
    if cors is not None:
        app.add_middleware(CORSMiddleware, **cors)
        app.front = CORSMiddleware(app.front, **cors)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.openapi = lambda: _cached_openapi(app)  # type: ignore[method-assign]
    return app


def _cached_openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app)
    return app.openapi_schema


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error, request.state.request_id)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    problem: ServiceError
    if error.status_code == NotFoundError.status:
        problem = NotFoundError("there is nothing at this path")
    elif error.status_code == MethodNotAllowedError.status:
        problem = MethodNotAllowedError(f"{request.method} is not allowed at this path")
    elif error.status_code < 500:
        problem = RequestError("the request could not be read")
    else:
        problem = ServiceError("the service failed")
    return problem_response(problem, request.state.request_id, headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    wanted = first["msg"].removeprefix("Input should be ")
    problem = InvalidRequestError(field, wanted, repr(first["input"])[:40])
    return problem_response(problem, request.state.request_id)
