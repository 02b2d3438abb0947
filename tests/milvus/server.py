"""A real Milvus in a folder: started, stopped, killed, frozen, and started again.

The program comes with the PyPI package ``milvus`` (``.ci/milvus`` unpacks it). It listens on every
address there is, and nothing can change that, so it runs only where there is none but loopback: in
a network namespace (``unshare --net``, then ``ip link set lo up``).
"""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

PORT = 19530
READY_WITHIN_S = 60.0
# At SIGTERM its one query node waits for another to take over, which never comes.
STOPPED_WITHIN_S = 3.0
TAIL_LINES = 30

# Milvus takes any of its settings from the environment: ``queryNode.port`` from QUERYNODE_PORT.
SETTINGS = {
    "DEPLOY_MODE": "STANDALONE",
    "ETCD_USE_EMBED": "true",
    "COMMON_STORAGETYPE": "local",
    "MQ_TYPE": "rocksmq",
    "LOG_LEVEL": "warn",
    # Rows that are not indexed yet are searched exactly; the index that Milvus makes of them in
    # memory misses some (docs/deploy.md has figures).
    "QUERYNODE_SEGCORE_INTERIMINDEX_ENABLEINDEX": "false",
    # What was loaded is loaded again only when the session of the process that died has ended.
    "COMMON_SESSION_TTL": "5",
}
PORTS = (
    "PROXY_PORT",
    "PROXY_INTERNALPORT",
    "ROOTCOORD_PORT",
    "DATACOORD_PORT",
    "DATANODE_PORT",
    "INDEXCOORD_PORT",
    "INDEXNODE_PORT",
    "QUERYCOORD_PORT",
    "QUERYNODE_PORT",
    "METRICS_PORT",
)
"""Settings that name ports, in their order from the first one."""


class MilvusServer:
    """One Milvus, with an etcd of its own in the same process.

    Args:
        folder: Where all of it is kept; made if missing.
        binary: The program ``milvus``, with its libraries beside it.
        port: The first of the twelve that it takes. Another server needs others.
        settings: Of Milvus, as environment variables, beside or instead of ``SETTINGS``.
    """

    def __init__(
        self,
        folder: Path,
        binary: Path,
        port: int = PORT,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._folder = folder.resolve()
        self._binary = binary.resolve(strict=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        ports = {name: str(port + place) for place, name in enumerate(PORTS)}
        self._health = f"http://127.0.0.1:{ports['METRICS_PORT']}/healthz"
        etcd, peers = (f"127.0.0.1:{port + len(PORTS) + place}" for place in range(2))
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "LD_LIBRARY_PATH": str(self._binary.parent),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LOCALSTORAGE_PATH": str(self._folder / "storage"),
            "ROCKSMQ_PATH": str(self._folder / "rocksmq"),
            "ETCD_DATA_DIR": str(self._folder / "etcd"),
            "ETCD_CONFIG_PATH": str(self._folder / "etcd.yaml"),
            "ETCD_ENDPOINTS": etcd,
            **SETTINGS,
            **ports,
            **(settings or {}),
        }
        # Without this file it ends, and says nothing.
        (self._folder / "configs").mkdir(parents=True, exist_ok=True)
        (self._folder / "configs" / "glog.conf").write_text("--logtostderr=true\n")
        (self._folder / "etcd.yaml").write_text(
            f"listen-client-urls: http://{etcd}\nadvertise-client-urls: http://{etcd}\n"
            f"listen-peer-urls: http://{peers}\ninitial-advertise-peer-urls: http://{peers}\n"
            f"initial-cluster: default=http://{peers}\n"
        )

    @property
    def uri(self) -> str:
        """What pymilvus is given."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, database: str = "default") -> str:
        """What ``--index-url`` is given."""
        return f"milvus://127.0.0.1:{self.port}/{database}"

    def start(self) -> float:
        """Start, or start again on the same folder and ports; seconds until it answers.

        What was loaded may not be yet.
        """
        routes = Path("/proc/self/net/route").read_text().splitlines()[1:]
        if routes:
            raise RuntimeError("expected a network namespace of its own: run this by .ci/milvus")
        if self._process is not None:
            raise RuntimeError("it runs already")
        began = time.monotonic()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), "run", "standalone"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Signals are for all that it starts, and none of the caller's are for it.
                start_new_session=True,
            )
        while not (self._is_healthy() and self._answers()):
            ended = self._process.poll()
            if ended is not None or time.monotonic() - began > READY_WITHIN_S:
                told = "not up in time" if ended is None else f"ended with {ended}"
                self.kill()
                raise RuntimeError(f"Milvus: {told}; its log ends:\n{self.tail()}")
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self) -> float:
        """SIGTERM, and SIGKILL if it is still there after a while; seconds until it was gone."""
        if self._process is None:
            return 0.0
        began = time.monotonic()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOPPED_WITHIN_S)
        self.kill()
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it take connections and answer nothing, until ``thaw`` or ``kill``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on. After longer than its sessions last (5 s) it may end instead."""
        self._signal(signal.SIGCONT)

    def memory_mb(self) -> tuple[int, int]:
        """Resident megabytes: now, and the most since it was started."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        now, most = (int(fields[name].split()[0]) * 1024 // 10**6 for name in ("VmRSS", "VmHWM"))
        return now, most

    def tail(self) -> str:
        """The last lines of its log."""
        lines = (self._folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(line[:400] for line in lines[-TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _is_healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._health, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _answers(self) -> bool:
        """Whether a collection can be made and dropped."""
        from pymilvus import DataType, MilvusClient, MilvusException

        try:
            client = MilvusClient(self.uri, timeout=5)
            schema = MilvusClient.create_schema()
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
            client.create_collection("is_it_there", schema=schema)
            client.drop_collection("is_it_there")
            client.close()
        except MilvusException:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
