"""What the checks of the image share: a service on the other side of a socket.

Needs nothing but Python, as the machine that checks an image may have nothing else.
"""

import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

READY_WITHIN_S = 60.0
TIMEOUT_S = 30.0


class Service:
    """The service under test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(
        self, path: str, body: dict[str, Any] | None = None, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """GET, or POST if there is a body, unless told otherwise; status and decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ok(
        self, path: str, body: dict[str, Any] | None = None, method: str | None = None
    ) -> dict[str, Any]:
        """Answer of a request that must succeed."""
        status, answer = self.call(path, body, method)
        check(status == 200, f"{path} answered {status}: {answer}")
        return answer

    def wait(self, path: str = "/readyz", within_s: float = READY_WITHIN_S) -> None:
        """Wait until a path answers 200; by default, until ranks can be answered."""
        until = time.monotonic() + within_s
        while True:
            try:
                with self._opener.open(self._url + path, timeout=TIMEOUT_S):
                    return
            except urllib.error.HTTPError as error:
                told = error.read().decode(errors="replace")
            except OSError as error:
                told = str(error)
            check(time.monotonic() < until, f"{path}: not 200 in {within_s:g} s: {told}")
            time.sleep(0.02)


def check(holds: bool, otherwise: str) -> None:
    """Stop with a message unless a condition holds."""
    if not holds:
        raise SystemExit(f"FAILED: {otherwise}")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
