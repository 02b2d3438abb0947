"""How a problem is answered (RFC 9457)."""

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import PROBLEM_TYPE, ServiceError


def problem_response(
    error: ServiceError, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a problem object."""
    headers = {**error.headers, **(headers or {})}
    if "retry_after_s" in error.members:
        headers["Retry-After"] = str(error.members["retry_after_s"])
    return _Problem(error, request_id, headers)


class _Problem(Response):
    """Tells the middleware its code when it is sent."""

    def __init__(self, error: ServiceError, request_id: str, headers: dict[str, str]) -> None:
        body = orjson.dumps(error.problem(request_id))
        super().__init__(body, error.status, headers, PROBLEM_TYPE)
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._code
        await super().__call__(scope, receive, send)
