"""What surrounds every request: its id, its body limit, its log line, and the last resort."""

import logging
import re
import time
import uuid
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import PROBLEM_TYPE, BodyTooLargeError, ServiceError
from service.logs import where
from service.timing import Stages

log = logging.getLogger("service.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# So much of an oversized body is read and dropped, that a client which sends before it listens
# still gets to hear the 413.
DRAIN_TIMES_LIMIT = 4


class RequestMiddleware:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        body_limit_bytes: Greatest body that is let through.
    """

    def __init__(self, app: ASGIApp, body_limit_bytes: int) -> None:
        self._app = app
        self._limit = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"], state["stages"] = request_id, Stages()
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        failure: dict[str, Any] | None = None
        try:
            await self._app(scope, _Limited(receive, self._limit), send_with_id)
        except ClientDisconnect:
            status = 499
        except Exception as error:  # the last resort: say nothing outside, and where inside
            failure = where(error)
            if not status:
                answer = problem_response(ServiceError("the service failed"), request_id)
                await answer(scope, receive, send_with_id)
        _log(scope, status, (time.perf_counter() - started) * 1000.0, failure)


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


def problem_response(
    error: ServiceError, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a problem object."""
    headers = dict(headers or {})
    if "retry_after_s" in error.members:
        headers["Retry-After"] = str(error.members["retry_after_s"])
    return Response(
        orjson.dumps(error.problem(request_id)),
        status_code=error.status,
        media_type=PROBLEM_TYPE,
        headers=headers,
    )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return uuid.uuid4().hex


def _log(scope: Scope, status: int, total_ms: float, failure: dict[str, Any] | None) -> None:
    route = scope.get("route")
    fields: dict[str, Any] = {
        "request_id": scope["state"]["request_id"],
        "method": scope["method"],
        "route": getattr(route, "path", None),
        "status": status,
        "total_ms": round(total_ms, 3),
        "stages_ms": scope["state"]["stages"].elapsed_ms,
    }
    if failure is not None:
        fields["error"] = failure
    log.log(logging.ERROR if failure else logging.INFO, "request", extra={"fields": fields})
