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
        command += ["--data", str(self._folder / "data"), "--checkpoint", str(CHECKPOINT)]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--log-level", "warning", *self._options], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it can answer ranks."""
        Service(self.url).wait()

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
        for old, new in (("listen 8080", f"listen 127.0.0.1:{self.port}"), ("/tmp/", f"{folder}/")):
            check(old in text, f"nginx.conf: expected {old}")
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        told = subprocess.run([*command, "-t"], capture_output=True, text=True)
        check(told.returncode == 0, f"nginx -t: {told.stderr}")
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen([*command, "-g", "daemon off;"], stderr=log)
        Service(self.url).wait("/balancer")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


@dataclass(kw_only=True)
class Load:
    """Asks one question without a pause, over some connections, until it is stopped."""

    port: int
    question: dict[str, Any]
    connections: int = 6
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    worst_s: float = 0.0

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
        headers = {"Content-Type": "application/json", "X-Request-Timeout": "20"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/rank", body, headers)
                response = connection.getresponse()
                answer = json.loads(response.read())
                told = "" if response.status == 200 else f"{response.status} {answer}"
                told = told or ("" if answer["results"] else f"no results: {answer}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                told = repr(error)
                connection.close()
            with self._lock:
                self.worst_s = max(self.worst_s, time.monotonic() - began)
                if told:
                    self.failed.append(told)
                else:
                    self.answered += 1
        connection.close()


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
