"""What surrounds every request: id, body limit, metrics, trace, log line, and the last resort."""

import asyncio
import logging
import os
import re
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, ServiceError, stopping
from service.logs import where
from service.metrics import CLIENT_CLOSED, UNMATCHED, Metrics
from service.problems import problem_response
from service.timing import Stages
from service.tracing import Exchange, Tracer

log = logging.getLogger("service.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# So much of an oversized body is read and dropped, that a client which sends before it listens
# still gets to hear the 413.
DRAIN_TIMES_LIMIT = 4


class RequestMiddleware:
    """ASGI middleware around the whole application.

    It puts ``request_id`` and ``stages`` into the request's state, and looks there for
    ``key_name``, the name of the API key if one was used.

    Args:
        app: The application.
        body_limit_bytes: Greatest body that is let through.
        metrics: Where requests are counted, if anywhere.
        tracer: What makes traces of them, if anything.
        retry_after_s: What a caller is told to wait that is cut off when the server goes down.
    """

    def __init__(
        self,
        app: ASGIApp,
        body_limit_bytes: int,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
        retry_after_s: int = 1,
    ) -> None:
        self._app = app
        self._limit = body_limit_bytes
        self._metrics = metrics
        self._tracer = tracer
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, stages = _request_id(scope), Stages()
        state = scope.setdefault("state", {})
        state["request_id"], state["stages"] = request_id, stages
        started_s = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", _server_timing(stages, started_s)),
                ]
            await send(message)

        failure: dict[str, Any] | None = None
        try:
            await self._app(scope, _Limited(receive, self._limit), send_with_headers)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except asyncio.CancelledError:  # the server is going down and waits no longer
            if status:
                raise
            error = stopping(self._retry_after_s)
            state["problem"] = error.code
            await problem_response(error, request_id)(scope, receive, send_with_headers)
        except Exception as error:  # the last resort: say nothing outside, and where inside
            failure = where(error)
            state["problem"] = ServiceError.code
            if not status:
                problem = problem_response(ServiceError("the service failed"), request_id)
                await problem(scope, receive, send_with_headers)
        finally:
            self._finish(scope, status, started_s, failure)

    def _finish(
        self, scope: Scope, status: int, started_s: float, failure: dict[str, Any] | None
    ) -> None:
        state, ended_s = scope["state"], time.perf_counter()
        stages: Stages = state["stages"]
        exchange = Exchange(
            method=scope["method"],
            route=getattr(scope.get("route"), "path_format", None),
            scheme=scope.get("scheme", "http"),
            status=status,
            problem=state.get("problem"),
            request_id=state["request_id"],
            headers=scope["headers"],
            started_s=started_s,
            ended_s=ended_s,
            intervals=stages.intervals,
        )
        stages_ms = stages.elapsed_ms
        if self._metrics is not None:
            _count(self._metrics, exchange, stages_ms)
        trace_id = None if self._tracer is None else self._tracer.record(exchange)
        _log(exchange, stages_ms, failure, state.get("key_name"), trace_id)


class _Limited:
    """A receive channel that stops at too many bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen <= self._limit:
            return message
        while message.get("more_body") and self._seen <= self._limit * DRAIN_TIMES_LIMIT:
            message = await self._receive()
            self._seen += len(message.get("body", b""))
        raise BodyTooLargeError(
            f"body: expected at most {self._limit} bytes, got more",
            field="body",
            expected=f"at most {self._limit} bytes",
            actual="more",
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return os.urandom(16).hex()


def _server_timing(stages: Stages, started_s: float) -> bytes:
    total_ms = (time.perf_counter() - started_s) * 1000.0
    parts = [f"{name};dur={ms:g}" for name, ms in stages.elapsed_ms.items()]
    return ", ".join([*parts, f"total;dur={total_ms:.3f}"]).encode("latin-1")


def _count(metrics: Metrics, exchange: Exchange, stages_ms: dict[str, float]) -> None:
    seconds = exchange.ended_s - exchange.started_s
    metrics.request(exchange.method, exchange.route or UNMATCHED, exchange.status, seconds)
    for name, ms in stages_ms.items():
        metrics.stage(name, ms)
    if exchange.problem is not None:
        metrics.problem(exchange.problem)


def _log(
    exchange: Exchange,
    stages_ms: dict[str, float],
    failure: dict[str, Any] | None,
    key_name: str | None,
    trace_id: str | None,
) -> None:
    level = logging.ERROR if failure else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "key": key_name,
        "total_ms": round((exchange.ended_s - exchange.started_s) * 1000.0, 3),
        "stages_ms": stages_ms,
    }
    more = {"problem": exchange.problem, "trace_id": trace_id, "error": failure}
    fields.update({name: value for name, value in more.items() if value is not None})
    log.log(level, "request", extra={"fields": fields})
