"""The servers of a run: how each is started, asked and understood."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.contest.bodies import BOUNDARY, Form
from benchmarks.contest.prepare import ROOT, SERVICE
from benchmarks.peers import job
from benchmarks.peers.job import CHECKPOINT

JSON, BASE64, BINARY = "json", "base64", "binary"
ENCODINGS = (JSON, BASE64, BINARY)
OURS, PLAIN, BENTO, LITSERVE, MOSEC, RAY = "ours", "plain", "bentoml", "litserve", "mosec", "ray"
OURS_FLAGS = "--dtype bfloat16 --log-level warning"
"""No server here writes a line a request."""
TUNING = ROOT / "benchmarks" / "peers" / "tuning.json"
TOLERANCE = {"fp32": 1e-5, "packed-fp32": 1e-5, "bf16": 3e-3, "packed": 3e-3}
Answer = tuple[list[str], list[float]]

_IN_JSON = "application/json"
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a peer may be tuned by."""

    precision: str = "fp32"
    threads: int = 1
    """Of torch and FAISS."""
    batch: int = 1
    wait_ms: float = 0.0
    fast_queue: bool = False
    """LitServe's other queue."""

    def told(self, name: str) -> str:
        """Say it in words."""
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        if name == PLAIN:
            return f"{self.precision}, {threads}"
        queue = ", fast_queue" if self.fast_queue else ""
        return f"{self.precision}, {threads}, batches of {self.batch}, {self.wait_ms:g} ms{queue}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server that can be started."""

    name: str
    label: str
    command: Callable[[int], list[str]]
    """What starts it, given a port."""
    forms: Mapping[str, Form]
    """By encoding; one that is not there is not offered."""
    read: Callable[[Any], Answer]
    """Reads ids and scores out of an answer."""
    environment: Mapping[str, str] = field(default_factory=dict)
    tolerance: float
    """How far its scores may be from the exact ones."""
    setup: str
    """How it was set, in words."""
    aside: bool = False
    """Whether it is measured at few numbers of connections, and at no rate of arrival."""
    strict: bool = False
    """Whether a run ends if it does not answer every request; else those do not count."""


def read_ours(answer: Any) -> Answer:
    """Read an answer of the service."""
    hits = answer["results"]
    return [hit["id"] for hit in hits], [hit["score"] for hit in hits]


def read_peer(answer: Any) -> Answer:
    """Read an answer of a peer, or of one that answers a batch."""
    one = answer[0] if isinstance(answer, list) else answer
    return one["ids"], one["scores"]


def ours(
    folder: Path,
    flags: str,
    label: str = "nextchunk",
    name: str = OURS,
    *,
    contents: bool = False,
    aside: bool = False,
) -> Target:
    """The service, with some flags beside those that say what it serves.

    Args:
        folder: What was prepared.
        flags: Of ``serve``.
        label: What it is called on the page.
        name: What it is called in results.
        contents: Whether it answers texts and metadata, too.
        aside: Whether it is measured at few numbers of connections.
    """
    serve = [sys.executable, "-m", "service", "serve", *shlex.split(flags)]
    serve += ["--checkpoint", str(folder / CHECKPOINT)]
    members = (("top_k", job.TOP_K), ("contents", contents))
    query = f"top_k={job.TOP_K}&contents={str(contents).lower()}"
    return Target(
        name=name,
        label=label,
        command=lambda port: [*serve, "--data", str(_data(folder, name)), "--port", str(port)],
        forms={
            JSON: Form(path="/v1/rank", content_type=_IN_JSON, kind="numbers", members=members),
            BASE64: Form(path="/v1/rank", content_type=_IN_JSON, kind="base64", members=members),
            BINARY: Form(path=f"/v1/rank?{query}", content_type=_OCTETS, kind="octets"),
        },
        read=read_ours,
        environment={"PYTHONPATH": str(ROOT)},
        tolerance=TOLERANCE["bf16" if "bf" in flags else "fp32"],
        setup=flags,
        strict=True,
        aside=aside,
    )


def _data(folder: Path, name: str) -> Path:
    """The data folder of a service of ours: its own, since only one process may have it."""
    if name == OURS:
        return folder / SERVICE
    own = folder / f"{SERVICE}-{name}"
    shutil.rmtree(own, ignore_errors=True)
    return Path(shutil.copytree(folder / SERVICE, own))


def _one_path(path: str, binary: str = _OCTETS, kind: str = "octets") -> dict[str, Form]:
    return {
        JSON: Form(path=path, content_type=_IN_JSON, kind="numbers"),
        BASE64: Form(path=path, content_type=_IN_JSON, kind="base64"),
        BINARY: Form(path=path, content_type=binary, kind=kind),
    }


def _starts(name: str, programs: Path, port: int) -> list[str]:
    run = [str(programs / "python"), "-m"]
    uvicorn = ["--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return {
        PLAIN: [*run, "uvicorn", "benchmarks.peers.plain:app", *uvicorn],
        BENTO: [
            *(str(programs / "bentoml"), "serve", "benchmarks.peers.bento:Ranker"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        LITSERVE: [*run, "benchmarks.peers.lit"],
        MOSEC: [*run, "benchmarks.peers.rust", "--port", str(port), "--capacity", "2048"],
        RAY: [*run, "benchmarks.peers.rays"],
    }[name]


VARIANTS = {"fp32": "torch in float32", "packed": "our forward"}
LABELS = {
    PLAIN: "FastAPI, no batching",
    BENTO: "BentoML",
    LITSERVE: "LitServe",
    MOSEC: "Mosec",
    RAY: "Ray Serve",
}
FORMS = {
    PLAIN: {
        JSON: Form(path="/numbers", content_type=_IN_JSON, kind="numbers"),
        BASE64: Form(path="/base64", content_type=_IN_JSON, kind="base64"),
        BINARY: Form(path="/octets", content_type=_OCTETS, kind="octets"),
    },
    BENTO: {
        JSON: Form(path="/numbers", content_type=_IN_JSON, kind="numbers", nested=True),
        BASE64: Form(path="/base64", content_type=_IN_JSON, kind="base64", nested=True),
    },
    LITSERVE: _one_path("/rank", f"multipart/form-data; boundary={BOUNDARY}", "file"),
    MOSEC: _one_path("/inference"),
    RAY: _one_path("/rank"),
}


def peer(
    name: str,
    folder: Path,
    programs: Path,
    options: Options,
    label: str | None = None,
    called: str | None = None,
) -> Target:
    """One of the other servers, with some options, and maybe under a name of its own."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(options.threads),
        job.FOLDER: str(folder.resolve()),
        job.PRECISION: options.precision,
        job.THREADS: str(options.threads),
        job.BATCH: str(options.batch),
        job.WAIT_MS: str(options.wait_ms),
        "CONTEST_FAST_QUEUE": str(int(options.fast_queue)),
        "BENTOML_DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    return Target(
        name=called or name,
        label=label or LABELS[name],
        command=lambda port: ["env", f"{job.PORT}={port}", *_starts(name, programs, port)],
        forms=FORMS[name],
        read=read_peer,
        environment=environment,
        tolerance=TOLERANCE[options.precision],
        setup=options.told(name),
        aside=called is not None or name in (MOSEC, RAY),
    )


def peers(folder: Path, programs: Path) -> list[Target]:
    """All peers at their best, and LitServe with other forwards, to tell what comes of what."""
    best = chosen()
    targets = [peer(name, folder, programs, options) for name, options in best.items()]
    for precision, label in VARIANTS.items():
        options = replace(best[LITSERVE], precision=precision)
        called = f"{LITSERVE}-{precision}"
        targets.append(peer(LITSERVE, folder, programs, options, f"LitServe, {label}", called))
    return targets


def chosen() -> dict[str, Options]:
    """Read the options with which each peer was best."""
    told = json.loads(TUNING.read_bytes())["chosen"]
    return {name: Options(**options) for name, options in told.items()}
