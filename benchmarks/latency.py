"""Latency of the service on the demo index, one connection: a first look, not a contest.

Run by ``make bench`` after ``make run`` has built the demo. Times depend on the machine and its
load; compare only figures of one run.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from service.client import Client

ROUNDS = 300
WARM_UP = 30


def percentiles(ask: Callable[[int], object]) -> tuple[float, float, float]:
    """p50, p95 and p99 in ms over ROUNDS calls."""
    for number in range(WARM_UP):
        ask(number)
    times = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        ask(number)
        times.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[94], cuts[98]


def main() -> None:
    """Start the service on the demo and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path(".data/demo"), help="default .data/demo")
    shipped = Path("checkpoints/p8-minilm-l6-v2")
    parser.add_argument("--checkpoint", type=Path, default=shipped, help=f"default {shipped}")
    args = parser.parse_args()
    demo = args.demo
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    command += ["--data", str(demo / "index"), "--checkpoint", str(args.checkpoint)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as p:
        try:
            assert p.stdout is not None
            url = next(filter(None, (re.search(r"listening on (\S+)", line) for line in p.stdout)))[
                1
            ]
            assert any("ready" in line for line in p.stdout)
            measure(url, np.load(demo / "prepared" / "vectors.npy", mmap_mode="r"))
        finally:
            p.terminate()


def measure(url: str, vectors: np.ndarray) -> None:
    """Ask in every way and print a line each."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with Client(url) as client:
        print(f"indexes: {client.model()['indexes']}")

        def window(number: int) -> np.ndarray:
            start = number * 17 % (len(vectors) - 6)
            return np.array(vectors[start : start + 5])

        ways: dict[str, Callable[[int], object]] = {
            "rank, p8": lambda n: client.rank(context=window(n), mode="p8"),
            "rank, retrieval": lambda n: client.rank(context=window(n), mode="retrieval"),
            "order": lambda n: client.order(a=window(n)[0], b=window(n)[4]),
        }
        print(f"{'':18}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
        for name, ask in ways.items():
            print(f"{name:18}" + "".join(f"{value:9.2f}" for value in percentiles(ask)))


if __name__ == "__main__":
    main()
