"""Servers that refuse everything, as replicas do whose index is away, behind the balancer."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from balanced import Balancer, Caller
from wire import check

CODE = "index_unavailable"
RETRY_AFTER_S = 7
TIMES = 20
ASKED = (
    ("POST", "/v1/rank"),
    ("PUT", "/v1/chunks"),
    ("GET", "/readyz"),
    ("POST", "/v1/model/reload"),
)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 503 with a problem, whatever comes."""

    protocol_version = "HTTP/1.1"

    def refuse(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        problem = {"status": 503, "code": CODE, "retry_after_s": RETRY_AFTER_S}
        body = json.dumps(problem).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", str(RETRY_AFTER_S))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = refuse

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Its connections are broken when the balancer ends."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def refusing(count: int) -> Iterator[list[int]]:
    """Their ports."""
    with contextlib.ExitStack() as ending:
        ports = []
        for _ in range(count):
            server = Server(("127.0.0.1", 0), Refusing)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ending.callback(server.server_close)
            ending.callback(server.shutdown)
            ports.append(server.server_port)
        yield ports


def check_passes(binary: Path, folder: Path, count: int = 3) -> str:
    """What every replica refuses is refused in their words, again and again; says so."""
    with refusing(count) as ports:
        balancer = Balancer(binary, folder / "refusing", ports)
        caller = Caller(balancer.port)
        for method, path in ASKED:
            for number in range(TIMES):
                answer = caller.ask(method, path, None if method == "GET" else "{}")
                check(answer.refuses(CODE), f"{method} {path}, try {number}: {answer}")
        caller.close()
        balancer.stop()
    return f"passes:  {TIMES * len(ASKED)} of {TIMES * len(ASKED)} refusals of replicas as they are"
