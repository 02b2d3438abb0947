"""A short way to the operations that ask questions.

FastAPI finds a route, solves its dependencies and wraps its endpoint anew for every request, which
takes several times as long as all else that the event loop does for one. Where an operation takes
nothing but the request and is guarded by one scope, it is called straight away; what it answers is
the same, as ``tests/service/test_direct.py`` shows.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.keys import Scope as KeyScope
from service.problems import problem_response
from service.security import admit


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation that takes nothing but the request."""

    route: APIRoute
    scope: KeyScope
    """What the caller's key must allow."""
    answer: Callable[[Request], Awaitable[Response]]


class Direct:
    """ASGI application of some operations.

    Args:
        routes: Of operations that take the request alone.
        scope: What guards them.
    """

    def __init__(self, routes: Iterable[BaseRoute], scope: KeyScope) -> None:
        self._operations = {
            (method, route.path): Operation(route=route, scope=scope, answer=route.endpoint)
            for route in routes
            if isinstance(route, APIRoute)
            for method in route.methods or ()
        }

    def has(self, scope: Scope) -> bool:
        """Whether a request is for one of the operations."""
        return scope["type"] == "http" and (scope["method"], scope["path"]) in self._operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for one of them."""
        operation = self._operations[scope["method"], scope["path"]]
        scope["route"] = operation.route
        request = Request(scope, receive)
        try:
            admit(request, operation.scope)
            response = await operation.answer(request)
        except ServiceError as error:
            response = problem_response(error, scope["state"]["request_id"])
        await response(scope, receive, send)
