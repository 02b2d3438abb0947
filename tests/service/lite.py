"""A milvus-lite server in a process of its own, which tests may kill and start again."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pymilvus import MilvusClient

LIMIT_S = 30.0
# Its command line ends in order at SIGINT alone, which a shell's background jobs ignore.
PROGRAM = """
import signal, sys
from milvus_lite.adapter.grpc.server import run_server
signal.signal(signal.SIGTERM, signal.default_int_handler)
run_server(sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]))
"""


class LiteServer:
    """A server on a port of its own, the same one whenever it is started again.

    Args:
        folder: Where it keeps what it is given, and its output; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Held, and never listened at, so that no one else is given the port while it is down.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As ``index_url`` names it."""
        return f"milvus://127.0.0.1:{self.port}/default"

    def start(self) -> "LiteServer":
        """Start it, and wait until it answers."""
        assert self._process is None
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.folder / "data"), str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self._wait()
            client = self.client()
            # The big server loads by itself what was loaded before it ended; this one does not.
            for table in client.list_collections():
                client.load_collection(table)
            client.close()
        except BaseException:
            self.kill()
            raise
        return self

    def client(self) -> MilvusClient:
        """A connection of its own, which whoever asks for it closes."""
        client = MilvusClient(
            uri=f"http://127.0.0.1:{self.port}",
            timeout=LIMIT_S,
            dedicated=True,
            # Else it waits as long as a service in this process does that has lost its connection.
            grpc_options={"grpc.use_local_subchannel_pool": 1},
        )
        client.list_collections(timeout=LIMIT_S)
        return client

    def empty(self) -> None:
        """Drop all that it holds."""
        client = self.client()
        try:
            for table in client.list_collections():
                client.drop_collection(table)
        finally:
            client.close()

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a lost machine would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and let go of its port and its folder."""
        self.kill()
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        until = time.monotonic() + LIMIT_S
        while True:
            assert self._process is not None
            log = (self.folder / "server.log").read_text()
            assert self._process.poll() is None, log
            assert time.monotonic() < until, log
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                time.sleep(0.01)
            else:
                return

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
