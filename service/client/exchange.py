"""What a call becomes on the wire: requests, until there is an answer or no more to try."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

from service.client import wire
from service.client.bodies import visible_ascii
from service.client.calls import Call
from service.client.problems import from_problem
from service.client.retry import Attempts, Retry, retry_after_s
from service.client.types import Encoding
from service.errors import ServiceError, UnreachableError

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 30.0
# So that an answer which the service gives at its deadline still arrives.
GRACE_S = 2.0
# All are kept, since the pool counts busy connections among the idle ones that it closes; and for
# less time than the service keeps them, so that none is used that it has just closed.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)
RETRY = Retry()
ONCE = Retry(attempts=1)
TRIED_AGAIN = (429, 503)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a client makes its calls."""

    timeout_s: float
    encoding: Encoding
    retry: Retry | None
    clock: Callable[[], float] = time.monotonic


class RefusedError(Exception):
    """The service answered, and the answer is an error."""

    def __init__(self, error: ServiceError, response: httpx.Response) -> None:
        super().__init__(str(error))
        self.error = error
        self.response = response


class Exchange(Generic[T]):
    """The requests and answers of one call.

    Args:
        call: What is asked.
        http: Whose connections will carry it.
        manner: How.
    """

    def __init__(
        self, call: Call[T], http: httpx.Client | httpx.AsyncClient, manner: Manner
    ) -> None:
        headers = {"Accept": wire.ACCEPT[manner.encoding], **call.headers}
        budget_s = manner.timeout_s
        if call.timeout_s is not None:
            headers["X-Request-Timeout"] = str(call.timeout_s)
            budget_s = max(budget_s, call.timeout_s + GRACE_S)
        content = None
        if call.body is not None:
            content, headers["Content-Type"] = wire.write(call.body, manner.encoding)
        self._call = call
        self._http = http
        # Written once: an Idempotency-Key stands for these very bytes.
        self._request = http.build_request(
            call.method, call.path, params=call.params or None, headers=headers, content=content
        )
        self._attempts = Attempts(manner.retry or ONCE, budget_s, manner.clock)

    @property
    def left_s(self) -> float:
        """Seconds left for the call."""
        return self._attempts.left_s

    def request(self) -> httpx.Request:
        """Give the request, to be sent now."""
        self._request.extensions["timeout"] = httpx.Timeout(self.left_s).as_dict()
        return self._request

    def answer(self, response: httpx.Response) -> T:
        """Read the answer.

        Raises:
            RefusedError: If it is an error, or nothing that the service would say.
        """
        body = wire.read(response)
        if response.is_success and isinstance(body, dict):
            try:
                return self._call.read(body)
            except (AttributeError, KeyError, TypeError, ValueError):
                body = None
        raise RefusedError(from_problem(response.status_code, body), response)

    def pause_s(self, failure: httpx.RequestError | RefusedError) -> float:
        """Tell after how many seconds to send the request again.

        Raises:
            ServiceError: If there is no sense or no time in that; ``UnreachableError`` if there was
                no answer.
        """
        if isinstance(failure, RefusedError):
            pause_s = None
            if failure.response.status_code in TRIED_AGAIN and not self._call.probe:
                pause_s = self._attempts.pause_s(retry_after_s(failure.response.headers))
            if pause_s is None:
                raise failure.error from None
            return pause_s
        # Whatever broke may break only once. A timeout has used up all the time there was.
        if isinstance(failure, httpx.NetworkError | httpx.RemoteProtocolError):
            pause_s = self._attempts.pause_s(0.0)
            if pause_s is not None:
                return pause_s
        raise UnreachableError(
            f"no service answers at {shown(self._http)} ({type(failure).__name__})"
        ) from failure


def default_headers(api_key: str | None) -> dict[str, str]:
    """Headers of all requests.

    Raises:
        ValueError: If the key cannot stand in a header.
    """
    if api_key is None:
        return {}
    return {"Authorization": f"Bearer {visible_ascii('api_key', api_key)}"}


def shown(http: httpx.Client | httpx.AsyncClient) -> str:
    """Where a client's requests go, without a password."""
    return str(http.base_url.copy_with(userinfo=b"")).rstrip("/")
