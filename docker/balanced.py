"""Real replicas behind a real nginx with the configuration of compose.scale.yaml, and load on them.

Shapes of what is asked do not matter here: one question, asked again and again.
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wire import TIMEOUT_S, Service, check, free_port

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "checkpoints" / "p8-minilm-l6-v2"
REFUSED_PAUSE_S = 0.1


class Replica:
    """One process of the service.

    Args:
        folder: Its own; the data folder and the log are there.
        options: Flags of ``serve`` beside the usual ones.
    """

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start, or start again on the same port and folder."""
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port)]
        command += ["--data", str(self.data), "--checkpoint", str(CHECKPOINT)]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--log-level", "warning", *self._options], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it can answer ranks."""
        Service(self.url).wait()

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._folder / "data"

    @property
    def runs(self) -> bool:
        """Whether the process that was started last is there."""
        return self._process.poll() is None

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        self._process.send_signal(number)
        return self._process.wait(TIMEOUT_S)

    def answered(self) -> float:
        """Ranks that it has answered since it was started."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
        connection.close()
        found = re.findall(
            r'^nextchunk_requests_total\{.*"/v1/rank".*\} (\S+)$', page, re.MULTILINE
        )
        return sum(map(float, found))


class Balancer:
    """nginx in front of some ports of this machine.

    Args:
        binary: The program.
        folder: A folder of its own.
        ports: What replicas.conf shall name instead.
    """

    def __init__(self, binary: Path, folder: Path, ports: list[int]) -> None:
        folder.mkdir()
        names = (HERE / "balancer" / "replicas.conf").read_text()
        for port in ports:
            names, found = re.subn(r"replica-\d:8000", f"127.0.0.1:{port}", names, count=1)
            check(found == 1, f"replicas.conf: expected {len(ports)} replicas")
        (folder / "replicas.conf").write_text(names)
        self.port = free_port()
        text = (HERE / "balancer" / "nginx.conf").read_text()
        changes = {
            "listen 8080": f"listen 127.0.0.1:{self.port}",
            "/tmp/": f"{folder}/",
        }
        for old, new in changes.items():
            check(old in text, f"nginx.conf: expected {old}")
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        told = subprocess.run([*command, "-t"], capture_output=True, text=True)
        check(told.returncode == 0, f"nginx -t: {told.stderr}")
        with (folder / "log").open("w") as log:
            # What NGINX names for us would be sockets to nginx.
            self._process = subprocess.Popen(
                [*command, "-g", "daemon off;"],
                stderr=log,
                env={name: value for name, value in os.environ.items() if name != "NGINX"},
            )
        Service(self.url).wait("/balancer")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: dict[str, Any]
    content_type: str
    retry_after: str

    def refuses(self, code: str) -> bool:
        """Whether it is the 503 of this code, complete: a problem that says when to come again."""
        return (
            (self.status, self.body.get("code")) == (503, code)
            and self.content_type == "application/problem+json"
            and self.retry_after == str(self.body.get("retry_after_s"))
        )


class Caller:
    """A connection that is kept, and made again after it broke."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, body: str | None = None) -> Answer:
        """Send one request.

        Raises:
            OSError, http.client.HTTPException, ValueError: If no answer in JSON comes.
        """
        headers = {"Content-Type": "application/json", "X-Request-Timeout": "20"}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            raise
        kind, later = (response.getheader(name, "") for name in ("Content-Type", "Retry-After"))
        return Answer(status=response.status, body=answer, content_type=kind, retry_after=later)

    def close(self) -> None:
        """Until the next request."""
        self._connection.close()


@dataclass(kw_only=True)
class Load:
    """Asks one question without a pause, over some connections, until it is stopped.

    ``refusal`` is the code of a problem that is no failure, but counted by itself; who gets it
    pauses for a moment. Times are those of ``time.monotonic``.
    """

    port: int
    question: dict[str, Any]
    refusal: str = ""
    connections: int = 6
    answered: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    worst_s: float = 0.0
    last_answered_s: float = 0.0
    last_refused_s: float = 0.0

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.connections)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the last answers."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        body = json.dumps(self.question)
        caller = Caller(self.port)
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                answer = caller.ask("POST", "/v1/rank", body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._count(began, None, repr(error))
                continue
            refused = bool(self.refusal) and answer.refuses(self.refusal)
            if refused or (answer.status == 200 and answer.body["results"]):
                self._count(began, answer)
            else:
                self._count(began, answer, f"{answer.status} {answer.body}")
            if refused:
                self._stopping.wait(REFUSED_PAUSE_S)
        caller.close()

    def _count(self, began: float, answer: Answer | None, failed: str = "") -> None:
        now = time.monotonic()
        with self._lock:
            self.worst_s = max(self.worst_s, now - began)
            if failed or answer is None:
                self.failed.append(f"after {now - began:.1f} s: {failed}")
            elif answer.status == 200:
                self.answered += 1
                self.last_answered_s = now
            else:
                self.refused += 1
                self.last_refused_s = now


def start_replicas(data: Path | None, folder: Path, index_url: str, count: int) -> list[Replica]:
    """Start replicas: each on a copy of a data folder, or all on one shared index."""
    replicas = []
    for number in range(1, count + 1):
        own = folder / f"replica-{number}"
        if data is not None:
            shutil.copytree(data, own / "data")
        (own / "data").mkdir(parents=True, exist_ok=True)
        replicas.append(Replica(own, ("--index-url", index_url) if index_url else ()))
    for replica in replicas:
        replica.wait()
    return replicas


def find_nginx() -> Path:
    """The program, from ``NGINX`` or the path."""
    found = shutil.which(os.environ.get("NGINX", "nginx"), path=os.environ["PATH"] + ":/usr/sbin")
    check(found is not None, "nginx: not found; name it in NGINX, or install Debian's package")
    return Path(str(found))
