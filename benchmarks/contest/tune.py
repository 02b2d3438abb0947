"""Finds the settings with which each peer is best, and writes them where runs read them.

    python -m benchmarks.contest.tune DATASET [--only litserve]

Best is the most requests a second, JSON numbers, 32 connections. First precision and threads are
tried, then, with the best of these, sizes of batches and waits; the best three are measured once
more, and the lower figure counts.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.contest.prepare import find_wrk, peers_environment, prepare
from benchmarks.contest.race import Pace, Race
from benchmarks.contest.targets import (
    BENTO,
    JSON,
    LABELS,
    LITSERVE,
    PLAIN,
    TUNING,
    Options,
    peer,
)

PACE = Pace(
    rounds=1,
    seconds=3,
    warm_up_s=1,
    connections=(32,),
    encodings=(JSON,),
    rates=(),
    rate_s=0,
    starts=1,
    floor_s=0.0,
)
COMPUTING = [
    {"precision": precision, "threads": threads}
    for precision in ("fp32", "bf16")
    for threads in (1, 2)
]
BATCHING: list[dict[str, Any]] = [
    {"batch": 16, "wait_ms": 5.0},
    {"batch": 64, "wait_ms": 5.0},
    {"batch": 32, "wait_ms": 1.0},
    {"batch": 32, "wait_ms": 20.0},
]
# What it calls max_latency_ms is not a wait, but what it answers 503 beyond: left at its default.
BENTO_BATCHING: list[dict[str, Any]] = [{"batch": batch} for batch in (16, 64, 100)]
FINALISTS = 3
FIRST = {
    PLAIN: Options(),
    BENTO: Options(batch=32, wait_ms=60_000.0),
}


def tune(name: str, folder: Path, programs: Path, wrk: str) -> list[dict[str, Any]]:
    """Measure a peer with all settings; rows of options and figures, best first."""
    tried: list[dict[str, Any]] = []

    def measure(options: Options, before: float = math.inf) -> None:
        target = peer(name, folder, programs, options)
        with Race([target], folder, wrk, programs / "k6", PACE) as race:
            race.start(target)
            row = race.closed(0, target, JSON, 32)
        row = {member: row[member] for member in ("requests_s", "p50_ms", "p99_ms")}
        row["requests_s"] = min(before, row["requests_s"])
        tried.append({"target": name, **asdict(options), **row})
        tried.sort(key=lambda one: -one["requests_s"])
        print(f"{name}: {options.told(name)}: {row}", flush=True)

    first = FIRST.get(name, Options(batch=32, wait_ms=5.0))
    for change in COMPUTING:
        measure(replace(first, **change))
    batching = {PLAIN: [], BENTO: BENTO_BATCHING}.get(name, BATCHING)
    computing = {member: tried[0][member] for member in COMPUTING[0]}
    for change in batching:
        measure(replace(first, **computing, **change))
    if name == LITSERVE:
        measure(replace(_options(tried[0]), fast_queue=True))
    for row in tried[:FINALISTS]:
        tried.remove(row)
        measure(_options(row), row["requests_s"])
    return tried


def _options(row: dict[str, Any]) -> Options:
    return Options(**{name: row[name] for name in asdict(Options())})


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune some peers and keep what is known of the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest.tune", description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared and embedded folder")
    parser.add_argument("--work", type=Path, default=Path(".data/bench"), help=".data/bench")
    parser.add_argument("--only", default=",".join(LABELS), help="peers, comma-separated")
    args = parser.parse_args(arguments)
    wrk, programs = find_wrk(), peers_environment(args.work / "peers")
    folder = args.work / args.dataset.resolve().name
    prepare(args.dataset, folder, service_too=False)
    known = json.loads(TUNING.read_bytes()) if TUNING.exists() else {"chosen": {}, "tried": []}
    for name in args.only.split(","):
        tried = tune(name, folder, programs, wrk)
        known["chosen"][name] = asdict(_options(tried[0]))
        known["tried"] = [row for row in known["tried"] if row["target"] != name] + tried
        known["chosen"] = {one: known["chosen"][one] for one in LABELS if one in known["chosen"]}
        TUNING.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
