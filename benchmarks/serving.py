"""What the benchmarks of the live index share: a service in a process of its own, load, figures."""

import multiprocessing
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from service.client import Client
from service.errors import NotReadyError, ServiceError, UnreachableError

SHIPPED = Path("checkpoints/p8-minilm-l6-v2")
READY_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0
TOP_K = 10
PROCESSES = 2
"""In which the connections of the load are."""


@contextmanager
def serving(data: Path, checkpoint: Path, *flags: str) -> Iterator[str]:
    """Run ``python -m service serve`` on a free port until the block ends; gives its address.

    Its log goes to ``serve.log`` beside the data folder.
    """
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", str(data)]
    command += ["--checkpoint", str(checkpoint), *flags]
    with (
        (data.parent / "serve.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = (re.search(r"listening on (\S+)", line) for line in process.stdout)
            url = next(filter(None, found))[1]
            _wait_until_ready(url)
            yield url
        finally:
            process.terminate()
            process.wait(STOP_LIMIT_S)


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + READY_LIMIT_S
    with Client(url) as client:
        while True:
            try:
                client.ready()
                return
            except (NotReadyError, UnreachableError):
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)


def machine() -> str:
    """Say in a line what measures, and how busy it is."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {load}; Python {platform.python_version()}, "
        f"torch {version('torch')}, faiss {version('faiss-cpu')}, niceness {os.nice(0)}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"model name\s*: (.+)", text)
    return platform.machine() if found is None else found[1]


def windows(vectors_ND: np.ndarray, seed: int, count: int, length: int = 5) -> list[np.ndarray]:
    """Draw windows (length, D) of neighbouring rows."""
    starts = np.random.default_rng(seed).integers(0, len(vectors_ND) - length, count)
    return [np.array(vectors_ND[start : start + length]) for start in starts]


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds of the monotonic clock, which all processes share."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Asked:
    """One answered, or refused, request of the load."""

    context: int
    """Which window it was asked with."""
    began_s: float
    took_ms: float
    problem: str | None
    """Code of the problem, if it was refused."""
    version: str | None
    """Of the checkpoint that answered."""
    results: tuple[tuple[str, float], ...]
    """Ids and scores."""
    stages_ms: dict[str, float]
    """What the service says it took."""

    @property
    def ended_s(self) -> float:
        """When the answer was there."""
        return self.began_s + self.took_ms / 1000.0


class Load:
    """Connections that rank without a pause, in processes of their own, until the block ends.

    Args:
        url: Of the service.
        connections: How many.
        contexts: Windows to ask with, in turn.
        members: Further arguments of each question.
    """

    def __init__(
        self, url: str, connections: int, contexts: Sequence[np.ndarray], **members: Any
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._results: multiprocessing.Queue[list[Asked]] = context.Queue()
        shared = (contexts, {"top_k": TOP_K, **members}, self._stop, self._results)
        self._processes = [
            context.Process(
                target=_ask_on, args=(url, range(number, connections, PROCESSES), *shared)
            )
            for number in range(min(PROCESSES, connections))
        ]
        self.asked: list[Asked] = []
        """All of them, once the block has ended."""

    def __enter__(self) -> "Load":
        """Start."""
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and collect what was measured."""
        self._stop.set()
        for _process in self._processes:
            self.asked += self._results.get(timeout=STOP_LIMIT_S)
        for process in self._processes:
            process.join()
        self.asked.sort(key=lambda one: one.began_s)

    def during(self, spans: Sequence[Span]) -> list[Asked]:
        """Requests that were under way within any of some stretches of time."""
        return [
            one
            for one in self.asked
            if any(one.began_s < span.end_s and span.start_s < one.ended_s for span in spans)
        ]


def _ask_on(
    url: str,
    numbers: Sequence[int],
    contexts: Sequence[np.ndarray],
    members: dict[str, Any],
    stop: Any,
    results: Any,
) -> None:
    asked: list[Asked] = []

    def ask(first: int) -> None:
        with Client(url, retry=None) as client:
            number = first * len(contexts) // (max(numbers) + 1)
            while not stop.is_set():
                asked.append(_ask(client, number, contexts[number], members))
                number = (number + 1) % len(contexts)

    threads = [threading.Thread(target=ask, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(asked)


def _ask(client: Client, number: int, context_LD: np.ndarray, members: dict[str, Any]) -> Asked:
    problem, answering, stages_ms = None, None, {}
    results: tuple[tuple[str, float], ...] = ()
    began_s = time.monotonic()
    try:
        answer = client.rank(context_LD, **members)
        answering, stages_ms = answer["model"]["version"], answer["timings_ms"]
        results = tuple((str(hit["id"]), hit["score"]) for hit in answer["results"])
    except ServiceError as error:
        problem = error.code
    took_ms = (time.monotonic() - began_s) * 1000.0
    return Asked(number, began_s, took_ms, problem, answering, results, stages_ms)


@dataclass(frozen=True)
class Figures:
    """Percentiles of some latencies, in ms."""

    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Figures":
        """Compute them; of none they are not numbers."""
        if not times_ms:
            return cls(0, *[float("nan")] * 4)
        cuts = np.percentile(times_ms, [50, 95, 99, 100])
        return cls(len(times_ms), *map(float, cuts))

    def row(self, name: str, base: "Figures | None" = None) -> str:
        """Write a line of a Markdown table, with ratios to a base if there is one."""
        cells = [f"{self.count:,}"]
        for mine, other in (
            (self.p50, base and base.p50),
            (self.p95, base and base.p95),
            (self.p99, base and base.p99),
        ):
            cells.append(f"{mine:.1f}" + (f" ({mine / other:.2f}x)" if other else ""))
        return f"| {name} | " + " | ".join([*cells, f"{self.worst:.0f}"]) + " |"


def stage_medians(asked: Sequence[Asked]) -> str:
    """Write the median ms of each stage of some requests."""
    names = dict.fromkeys(name for one in asked for name in one.stages_ms)
    medians = {name: np.median([one.stages_ms.get(name, 0.0) for one in asked]) for name in names}
    return ", ".join(f"{name} {ms:.1f}" for name, ms in medians.items())


FIGURES_HEAD = "| | requests | p50 ms | p95 ms | p99 ms | worst ms |\n|---|---|---|---|---|---|"
