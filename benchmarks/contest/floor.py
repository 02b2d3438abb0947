"""The compute alone: forward and search in a tight loop, without a server.

    python -m benchmarks.contest.floor FOLDER

Runs in a process of its own, which reads what to measure from its input, a line of JSON each.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.contest.prepare import ROOT, WINDOWS
from benchmarks.peers import job
from models.scoring import Floats

WARM_UP_S = 0.3
PRECISIONS = ("fp32", "bf16", "packed")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to compute."""

    precision: str
    batch: int
    streams: int
    """Batches that are computed at once, each in a thread of its own."""
    threads: int
    """Of torch and FAISS, for each batch."""

    def told(self) -> str:
        """Say it in words."""
        return (
            f"{self.precision}, batches of {self.batch}, {self.streams} at once, "
            f"{self.threads} thread{'s' * (self.threads > 1)} each"
        )


WAYS = tuple(
    Way(precision=precision, batch=batch, streams=streams, threads=threads)
    for batch in (32, 1)
    for precision in PRECISIONS
    for streams, threads in ((1, 1), (1, 2), (2, 1))
)


class Floor:
    """A process that computes when it is told to."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contest.floor", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def measure(self, way: Way, seconds: float) -> float:
        """Windows a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"way": asdict(way), "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["windows_s"])

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _measure(jobs: dict[str, job.Job], windows: Floats, way: Way, seconds: float) -> float:
    job.use_threads(way.threads)
    done = [0] * way.streams
    start = threading.Barrier(way.streams + 1)

    def stream(number: int) -> None:
        job.use_threads(way.threads)
        place = number * way.batch
        start.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            jobs[way.precision].rank(windows[place : place + way.batch])
            place = (place + way.batch) % (len(windows) - way.batch + 1)
            done[number] += way.batch

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(way.streams)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def main() -> None:
    """Measure what comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.environ[job.FOLDER] = str(folder)
    jobs = {}
    for precision in PRECISIONS:
        os.environ[job.PRECISION] = precision
        jobs[precision] = job.Job()
    windows = np.load(folder / WINDOWS)
    for line in sys.stdin:
        told = json.loads(line)
        way = Way(**told["way"])
        _measure(jobs, windows, way, min(WARM_UP_S, told["seconds"] / 2))
        print(json.dumps({"windows_s": _measure(jobs, windows, way, told["seconds"])}), flush=True)


if __name__ == "__main__":
    main()
