"""What operators ask: health, metrics, which models serve, and to load another."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service import browse
from service.answers import Model, Models, Ready, Reloaded
from service.api.reply import answer_media, look_up, metrics_of, service_of
from service.background import aside
from service.errors import NotFoundError
from service.media import Media, content_media, read_body, write_body
from service.modes import DEFAULT_MODEL
from service.openapi import answers, body_of, problems
from service.schemas import Reload, check
from service.security import requires

health = APIRouter(tags=["operate"])
metrics = APIRouter(tags=["operate"], dependencies=[requires("read", browser=True)])
models = APIRouter(prefix="/v1", tags=["operate"])


@health.get("/livez", responses=answers("livez"))
async def livez() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "alive"}


@health.get("/readyz", response_model=Ready, responses=answers("readyz", 503))
async def readyz(request: Request) -> Response:
    """Tell whether ranks can be answered, and with what; else what is not ready."""
    collection = service_of(request).engine.collection
    return Response(write_body(Media.JSON, browse.readiness(collection)), media_type=Media.JSON)


@metrics.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"example": "nextchunk_ready 1.0\n"}}},
        **problems(401, 403, 404, 429),
    },
)
async def scrape(request: Request) -> Response:
    """Show all metrics in the text format of Prometheus."""
    if not service_of(request).settings.metrics:
        raise NotFoundError("metrics are switched off")
    accept = request.headers.get("accept", "")
    # The state is read from the store's file, too.
    payload, content_type = await asyncio.to_thread(metrics_of(request).render, accept)
    return Response(payload, headers={"Content-Type": content_type})


@models.get(
    "/model",
    response_model=Model,
    responses=answers("model", 401, 403, 406, 422, 429, 503),
    dependencies=[requires("read")],
)
async def model(
    request: Request, name: Annotated[str, Query(alias="model")] = DEFAULT_MODEL
) -> Response:
    """Tell which model and index answer, in which mode, and why."""
    return await look_up(request, lambda engine: browse.model(engine.collection, name))


@models.get(
    "/models",
    response_model=Models,
    responses=answers("models", 401, 403, 406, 422, 429, 503),
    dependencies=[requires("read")],
)
async def all_models(request: Request) -> Response:
    """List the loaded models."""
    return await look_up(request, lambda engine: browse.models(engine.collection))


@models.post(
    "/model/reload",
    response_model=Reloaded,
    responses=answers("reload", 401, 403, 406, 409, 413, 415, 422, 429, 503),
    dependencies=[requires("admin")],
    openapi_extra=body_of("reload", Reload),
)
async def reload(request: Request) -> Response:
    """Load a checkpoint again, or another one, and serve with it; the old one serves meanwhile."""
    service = service_of(request)
    media = content_media(request.headers.get("content-type"))
    out = answer_media(request)
    body = await request.body()
    wanted = check(Reload, read_body(media, body) if body else {})
    # It takes seconds, or minutes where an index must be built; the workers go on answering.
    answer = await aside(lambda: service.reload(wanted.model, wanted.checkpoint))
    return Response(write_body(out, answer), media_type=out)
