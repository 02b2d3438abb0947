"""What all routes share: reading a body, waiting for a worker, writing an answer."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.engine import Engine, Question
from service.errors import InvalidRequestError
from service.lifecycle import Service
from service.media import Media, accepted_media, content_media, read_body, read_octets, write_body
from service.metrics import Metrics
from service.ranking import Outcome
from service.schemas import Body
from service.timing import Deadline, Stages

log = logging.getLogger(__name__)

T = TypeVar("T")
ANSWERS = (Media.JSON, Media.MSGPACK)
TIMEOUT = "x-request-timeout"
WATCHED_AFTER_S = 0.1
"""After which a client is watched for going away: to watch costs more than short work does."""

Ask = Callable[[Engine, object, Stages, Deadline], dict[str, Any]]
AskTogether = Callable[[Engine, object, Stages, Deadline], Question]


@dataclass(frozen=True, kw_only=True)
class Octets:
    """How an operation reads a body of bare float32."""

    kind: type[Body]
    """What the body will be checked as."""
    members: tuple[str, ...]
    """Members that the rows are: one that takes all, or one each."""


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


def metrics_of(request: Request) -> Metrics:
    """Where its events are counted."""
    metrics: Metrics = request.app.state.metrics
    return metrics


def answer_media(request: Request, offered: tuple[Media, ...] = ANSWERS) -> Media:
    """Choose the media type of an answer.

    Raises:
        NotAcceptableError: If the request accepts none of those offered.
    """
    given = request.headers.getlist("accept")
    return accepted_media(", ".join(given), offered) if given else offered[0]


async def compute(request: Request, ask: Ask, octets: Octets) -> Response:
    """Have a worker answer a question by itself.

    Args:
        request: With the question as its body.
        ask: Answers the parsed body.
        octets: How a body of bare float32 is read.
    """
    service, call = service_of(request), await _call(request, octets)

    def job() -> tuple[bytes, dict[str, Any]]:
        answer = ask(call.engine, call.parse(), call.stages, call.deadline)
        return call.write(answer), answer

    payload, answer = await attend(request, service.workers.run(job), call.deadline)
    _count(request, answer)
    return Response(payload, media_type=call.out)


async def compute_together(request: Request, ask: AskTogether, octets: Octets) -> Response:
    """Have a worker answer a question together with others that wait.

    Args:
        request: With the question as its body.
        ask: Decodes the parsed body.
        octets: How a body of bare float32 is read.
    """
    service, call = service_of(request), await _call(request, octets)

    def prepare() -> Question:
        return ask(call.engine, call.parse(), call.stages, call.deadline)

    def finish(question: Question, outcomes: list[Outcome]) -> tuple[bytes, dict[str, Any]]:
        answer = question.answer(outcomes)
        return call.write(answer), answer

    working = service.workers.ask(prepare, finish)
    payload, answer = await attend(request, working, call.deadline)
    _count(request, answer)
    return Response(payload, media_type=call.out)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A question that has come, and how it is read and answered."""

    engine: Engine
    stages: Stages
    deadline: Deadline
    out: Media
    media: Media
    body: bytes
    arrived_s: float
    octets: Octets
    query: Mapping[str, str]

    def parse(self) -> object:
        """Read the body, in a worker."""
        self.stages.add("wait", (time.perf_counter() - self.arrived_s) * 1000.0)
        self.deadline.check()
        with self.stages.stage("parse"):
            if self.media is not Media.OCTETS:
                return read_body(self.media, self.body)
            dimension = self.engine.collection.view.dimension
            members, kind = self.octets.members, self.octets.kind
            return read_octets(self.body, self.query, members, kind, dimension=dimension)

    def write(self, answer: dict[str, Any]) -> bytes:
        """Write the answer, in a worker."""
        with self.stages.stage("write"):
            return write_body(self.out, answer)


async def _call(request: Request, octets: Octets) -> _Call:
    service = service_of(request)
    engine = service.engine
    media = content_media(request.headers.get("content-type"), tuple(Media))
    return _Call(
        engine=engine,
        stages=request.state.stages,
        deadline=Deadline(_limit_ms(request, service)),
        out=answer_media(request),
        media=media,
        body=await request.body(),
        arrived_s=time.perf_counter(),
        octets=octets,
        query=request.query_params if media is Media.OCTETS else {},
    )


async def look_up(request: Request, find: Callable[[Engine], dict[str, Any]]) -> Response:
    """Have a worker look something up."""
    service = service_of(request)
    engine = service.engine
    out = answer_media(request)
    payload = await service.workers.run(lambda: write_body(out, find(engine)))
    return Response(payload, media_type=out)


async def attend(request: Request, work: Awaitable[T], deadline: Deadline) -> T:
    """Wait for work, or stop it when the client goes away.

    Raises:
        ClientDisconnect: If it went.
    """
    working = asyncio.ensure_future(work)
    watch = _Watch(request, working)
    try:
        return await working
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientDisconnect from None
        raise
    finally:
        watch.end()
        if working.cancelled():
            deadline.cancel()


class _Watch:
    """Cancels work when the client goes away; only work that takes long is watched.

    Args:
        request: Of the client.
        working: The work.
    """

    def __init__(self, request: Request, working: "asyncio.Future[Any]") -> None:
        self._request = request
        self._working = working
        self._watching: asyncio.Task[None] | None = None
        self._timer = working.get_loop().call_later(WATCHED_AFTER_S, self._begin)

    @property
    def gone(self) -> bool:
        """Whether the client went away."""
        done = self._watching is not None and self._watching.done()
        return done and self._watching is not None and not self._watching.cancelled()

    def end(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _begin(self) -> None:
        self._watching = asyncio.ensure_future(_until_gone(self._request))
        self._watching.add_done_callback(lambda _: self.gone and self._working.cancel())


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _limit_ms(request: Request, service: Service) -> float:
    """The request's own time limit, or else the setting.

    Raises:
        InvalidRequestError: If it is no number of seconds, or more than the settings allow.
    """
    given = request.headers.get(TIMEOUT)
    if given is None:
        return service.settings.deadline_ms
    most_s = service.settings.deadline_limit_ms / 1000.0
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= most_s:
        raise InvalidRequestError(
            f"header.{TIMEOUT}", f"seconds above 0, at most {most_s:g}", repr(given[:40])
        )
    return seconds * 1000.0


def _count(request: Request, answer: dict[str, Any]) -> None:
    """Count what was answered, how, and why not otherwise."""
    metrics = metrics_of(request)
    operation = request.scope["path"].rpartition("/")[2]
    answers = answer.get("answers", [answer])
    metrics.batch(len(answers))
    for one in answers:
        metrics.answer(operation, str(one.get("mode", "p8")), one.get("fallback_reason"))
