"""Both clients behind one face, a clock that only sleepers move, and a server with a script."""

import asyncio
import inspect
import json
import socket
import ssl
import struct
import threading
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args, get_origin, is_typeddict
from urllib.parse import parse_qs, urlsplit

import numpy as np

from service.client import AsyncClient, Client

KINDS = ("sync", "async")
Connect = Callable[..., Any]


class Time:
    """A clock that only its sleepers move.

    Args:
        before_waking: Called in every sleep.
    """

    def __init__(self, before_waking: Callable[[], None] = lambda: None) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []
        self._before_waking = before_waking

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        self._before_waking()

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Waited:
    """An async client whose calls are waited for, so that a test reads the same for both."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def __repr__(self) -> str:
        return repr(self.client)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._each(result)
            return self._runner.run(result)

        return call

    def _each(self, results: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()

        async def following() -> Any:
            return await anext(results, end)

        while (result := self._runner.run(following())) is not end:
            yield result


@contextmanager
def connecting(kind: str) -> Iterator[Connect]:
    """Open clients of a kind until the block ends; ``time=`` gives them a clock and a sleep."""
    opened: list[Client] = []
    with asyncio.Runner() as runner:

        def connect(url: str, *, time: Time | None = None, **options: Any) -> Any:
            if kind == "sync":
                if time is not None:
                    options |= {"clock": time.clock, "sleep": time.sleep}
                client: Any = Client(url, **options)
            else:
                if time is not None:
                    options |= {"clock": time.clock, "sleep": time.sleep_async}
                client = Waited(AsyncClient(url, **options), runner)
            opened.append(client)
            return client

        try:
            yield connect
        finally:
            for client in opened:
                client.close() if kind == "sync" else client.aclose()


@dataclass(frozen=True, kw_only=True)
class Play:
    """One answer of the script, or what happens in its place."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    break_off: str = ""
    """``silent``: hang up without a byte; ``reset``: abort; ``half``: hang up within the body."""
    until: threading.Event | None = None
    """Answered only after this."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    port: int
    """Of the client's end: one for each connection."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Scripted(ThreadingHTTPServer):
    """A real HTTP server that plays a script, its last answer again and again.

    Args:
        script: What it answers, one request after the other.
        port: Where it listens on the loop-back address.
        tls: With it, it speaks HTTPS.
    """

    daemon_threads = True

    def __init__(
        self, script: list[Play], *, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}"
        self.asked: list[Asked] = []
        self._script = script
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def play(self, asked: Asked) -> Play:
        self.asked.append(asked)
        return self._script[min(len(self.asked), len(self._script)) - 1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that leave; what they were told is what the tests look at."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Scripted

    def _answer(self) -> None:
        url = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=url.path,
            query=parse_qs(url.query),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("content-length", 0))),
            port=self.client_address[1],
        )
        play = self.server.play(asked)
        if play.until is not None:
            play.until.wait(20)
        if play.break_off in ("silent", "reset"):
            self._hang_up(play.break_off == "reset")
            return
        payload = play.body if isinstance(play.body, bytes) else json.dumps(play.body).encode()
        self.send_response_only(play.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(payload))}
        for name, value in (headers | play.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if play.break_off == "half":
            self.wfile.write(payload[: len(payload) // 2])
            self._hang_up(False)
        else:
            self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _hang_up(self, abort: bool) -> None:
        if abort:
            linger = struct.pack("ii", 1, 0)  # close at once, and tell by RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""


def problem(kind: type[Any], **members: Any) -> dict[str, Any]:
    """The problem object of an error of the service."""
    return {
        "type": f"urn:nextchunk:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "so it is",
        "code": kind.code,
        "request_id": "r-1",
        **members,
    }


def check_type(value: Any, kind: Any) -> None:
    """Check that a value is exactly what a typed dictionary says."""
    assert _fault(value, kind) is None


def _fault(value: Any, kind: Any, place: str = "answer") -> str | None:
    """Tell where a value is not exactly what a typed dictionary says."""
    origin, inner = get_origin(kind), get_args(kind)
    parts: list[tuple[Any, Any, Any]] = []
    if origin in (types.UnionType, typing.Union):
        fine = any(_fault(value, one) is None for one in inner)
    elif is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        fine = type(value) is dict and kind.__required_keys__ <= value.keys() <= hints.keys()
        parts = [(name, member, hints[name]) for name, member in value.items()] if fine else []
    elif origin in (list, dict):
        fine = type(value) is origin
        pairs = (value.items() if origin is dict else enumerate(value)) if fine else ()
        parts = [(name, member, inner[-1]) for name, member in pairs]
    elif origin is typing.Literal:
        fine = value in inner
    elif origin is np.ndarray:
        fine = value.dtype == np.float32
    else:
        fine = kind is Any or type(value) is kind or (kind is float and type(value) is int)
    if not fine:
        return f"{place}: {value!r}"
    faults = (_fault(member, part, f"{place}.{name}") for name, member, part in parts)
    return next(filter(None, faults), None)
