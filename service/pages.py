"""The pages about the API, /docs and /openapi.json, and which foreign pages may call it."""

import importlib.util
import re
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from service.security import requires
from service.settings import Settings, SettingsError, flag_of, variable_of

OPENAPI_PATH = "/openapi.json"
DOCS_PATH = "/docs"
STATIC_PATH = "/docs/static"
# Holds Swagger UI itself, so that the page needs nothing from anywhere else.
PACKAGE = "fastapi_offline"

ORIGIN = re.compile(
    r"\*|[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:\d+)?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:\d+)?"
)
METHODS = ("GET", "POST", "PUT", "DELETE")
HEADERS_IN = ("Authorization", "X-API-Key", "X-Request-ID", "X-Request-Timeout", "Idempotency-Key")
HEADERS_OUT = (
    "X-Request-ID",
    "Server-Timing",
    "Retry-After",
    "WWW-Authenticate",
    "Idempotency-Replayed",
    "X-Vector-Shape",
)


def add_pages(app: FastAPI, settings: Settings) -> None:
    """Add /openapi.json and, if it is wanted, /docs.

    Raises:
        SettingsError: If /docs is wanted and what it shows is not installed.
    """
    router = APIRouter(include_in_schema=False, dependencies=[requires("read", browser=True)])

    @router.get(OPENAPI_PATH)
    async def document() -> Response:
        return JSONResponse(app.openapi())

    if settings.docs:
        _add_docs(app, router)
    app.include_router(router)


def _add_docs(app: FastAPI, router: APIRouter) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        raise SettingsError(
            f"{flag_of('docs')} ({variable_of('docs')}): needs pip install 'nextchunk[docs]'"
        )

    @router.get(DOCS_PATH)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        static = f"{root}{STATIC_PATH}"
        return get_swagger_ui_html(
            openapi_url=f"{root}{OPENAPI_PATH}",
            title=app.title,
            swagger_js_url=f"{static}/swagger-ui-bundle.js",
            swagger_css_url=f"{static}/swagger-ui.css",
            swagger_favicon_url=f"{static}/favicon.png",
        )

    # Without a key: these files are the same everywhere and tell nothing of this service.
    app.mount(STATIC_PATH, StaticFiles(packages=[(PACKAGE, "static")]), name="docs-static")


def cors_options(settings: Settings) -> dict[str, Any] | None:
    """Tell Starlette's CORS middleware which pages of other origins may call; None if none may.

    Raises:
        SettingsError: If what is listed is not an origin.
    """
    origins = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            name = "cors_origins"
            raise SettingsError(
                f"{flag_of(name)} ({variable_of(name)}): expected origins such as "
                f"https://example.org, without a path, or *, got {origin!r}"
            )
    if not origins:
        return None
    return {
        "allow_origins": origins,
        "allow_methods": METHODS,
        "allow_headers": HEADERS_IN,
        "expose_headers": HEADERS_OUT,
    }
