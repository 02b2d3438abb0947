"""Plain FastAPI: pydantic models of lists of floats, sync endpoints, no batching.

    uvicorn benchmarks.peers.plain:app

Sync endpoints run in FastAPI's pool of threads, as its documentation says of blocking work.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from benchmarks.peers.job import Floats, Job, from_base64, from_numbers, from_octets


class Numbers(BaseModel):
    """A window of lists of numbers."""

    context: list[list[float]]


class Strings(BaseModel):
    """A window of base64 strings."""

    context: list[str]


class Ranked(BaseModel):
    """The best chunks."""

    ids: list[str]
    scores: list[float]


jobs: list[Job] = []


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Load before the first request."""
    jobs.append(Job())
    yield


app = FastAPI(lifespan=lifespan)


def _rank(context_LD: Floats) -> Any:
    return jobs[0].rank(context_LD[None])[0]


@app.post("/numbers", response_model=Ranked)
def numbers(window: Numbers) -> Any:
    """Rank for a window of numbers."""
    return _rank(from_numbers(window.context))


@app.post("/base64", response_model=Ranked)
def strings(window: Strings) -> Any:
    """Rank for a window of base64 strings."""
    return _rank(from_base64(window.context))


async def body(request: Request) -> bytes:
    """Read the body, which a sync endpoint cannot."""
    return await request.body()


@app.post("/octets", response_model=Ranked)
def octets(window: Annotated[bytes, Depends(body)]) -> Any:
    """Rank for a window of bare float32."""
    return _rank(from_octets(window))
