"""Servers as processes: started, frozen while others have their turn, measured, stopped.

A server may be several processes; all descendants of the one that was started belong to it.
"""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

START_LIMIT_S = 180.0
STOP_LIMIT_S = 20.0
ASK_LIMIT_S = 30.0
AGAIN_S = 0.02
MISTAKES = (400, 401, 403, 405, 406, 413, 415, 422)


class StartError(RuntimeError):
    """A server did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of all processes of a server, in MiB; what several share is counted once."""

    total_mb: float
    anonymous_mb: float
    """Without what the kernel could read again from files."""


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(port: int, path: str, content_type: str, body: bytes) -> tuple[int, bytes]:
    """Send one request over a connection of its own; status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_LIMIT_S)
    try:
        connection.request("POST", path, body, {"content-type": content_type})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Server:
    """A running server.

    Args:
        command: What starts it.
        environment: Added to that of this process.
        log: Where its output goes.
        port: Where it will listen.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, port: int
    ) -> None:
        self.port = port
        self._log = log
        with log.open("wb") as file:
            self._began_s = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self._known: set[int] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def wait(self, path: str, content_type: str, body: bytes) -> float:
        """Ask until there is an answer; seconds from its start to that.

        Raises:
            StartError: If it ends, or takes too long.
        """
        while (took_s := time.perf_counter() - self._began_s) < START_LIMIT_S:
            if self._process.poll() is not None:
                break
            try:
                status, answer = post(self.port, path, content_type, body)
                if status == 200:
                    return time.perf_counter() - self._began_s
                if status in MISTAKES:
                    raise StartError(f"{path}: expected 200, got {status}: {answer!r}")
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(AGAIN_S)
        tail = self._log.read_text(errors="replace")[-2000:]
        raise StartError(
            f"{self._process.args}: no answer after {took_s:.0f} s; {self._log}: {tail}"
        )

    def freeze(self) -> None:
        """Stop its clock, so that it takes nothing from others."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def memory(self) -> Memory:
        """Measure its memory."""
        sums = {"Pss:": 0, "Pss_Anon:": 0}
        for pid in self._tree():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:  # it has ended
                continue
            for words in map(str.split, lines):
                if words[0] in sums:
                    sums[words[0]] += int(words[1])
        return Memory(total_mb=sums["Pss:"] / 1024.0, anonymous_mb=sums["Pss_Anon:"] / 1024.0)

    def stop(self) -> None:
        """End all of its processes."""
        tree = self._tree()
        self.thaw()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT_S)
        _signal_all(tree, signal.SIGKILL)
        self._process.wait()

    def _tree(self) -> set[int]:
        # One whose parent has ended is no descendant any more: it is remembered.
        self._known |= descendants(self._process.pid)
        self._known = {pid for pid in self._known if Path(f"/proc/{pid}").exists()}
        return self._known

    def _signal(self, number: signal.Signals) -> None:
        _signal_all(self._tree(), number)


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> set[int]:
    """Find a process and all that it, or one of these, has started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(after_name[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
