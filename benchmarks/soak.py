"""Ten minutes at 80% of capacity: does memory grow, does p99 drift?

    python -m benchmarks.soak DATASET [--minutes 10] [--save]

Measures what the service answers to 32 connections that ask in binary without a pause, then sends
80% of that at a constant rate. Exit code 1 if a request fails, if memory grows, or if p99 drifts;
the first fifth is left out, in which buffers and pools still fill.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest.__main__ import machine
from benchmarks.contest.page import PAGE, RESULTS, replaced
from benchmarks.contest.prepare import find_wrk, peers_environment, prepare
from benchmarks.contest.race import Pace, Race
from benchmarks.contest.servers import Server
from benchmarks.contest.stats import slope
from benchmarks.contest.targets import BINARY, OURS_FLAGS, Target, ours

CONNECTIONS = 32
LOAD_SHARE = 0.8
SAMPLE_S = 5.0
SETTLING = 0.2
GROWTH_LIMIT = 0.0025
"""Of the memory, a minute: 2% over the eight minutes that count. A leak of 100 bytes a request at
500 a second is 3 MB a minute, 0.4% of a service of 800 MB; the allocator's own wandering, a tenth
of that."""
DRIFT_LIMIT = 1.5
"""Of the median p99 of the later half over that of the earlier half that counts."""
PACE = Pace(
    rounds=1,
    seconds=8,
    warm_up_s=4,
    connections=(CONNECTIONS,),
    encodings=(BINARY,),
    rates=(),
    rate_s=0,
    starts=1,
    floor_s=0.0,
)


class Sampler(threading.Thread):
    """Measures a server's memory every few seconds until it is told to stop."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._stop_asked = threading.Event()
        self.samples: list[tuple[float, float, float]] = []
        """Seconds since the start, MiB in total, and anonymous."""

    def run(self) -> None:
        """Sample."""
        began_s = time.monotonic()
        while not self._stop_asked.wait(SAMPLE_S):
            memory = self._server.memory()
            at_s = time.monotonic() - began_s
            self.samples.append((at_s, memory.total_mb, memory.anonymous_mb))

    def stop(self) -> None:
        """End it."""
        self._stop_asked.set()
        self.join()


def growth(samples: Sequence[tuple[float, float, float]]) -> float:
    """Growth of the anonymous memory, a minute, as a share of it; the first fifth is left out."""
    late = [sample for sample in samples if sample[0] >= SETTLING * samples[-1][0]]
    seconds, anonymous = [sample[0] for sample in late], [sample[2] for sample in late]
    return 60.0 * slope(seconds, anonymous) / statistics.median(anonymous)


def drift(p99_ms: Sequence[float]) -> float:
    """Median p99 of the later half of the minutes over that of the earlier half that counts."""
    counted = p99_ms[round(SETTLING * len(p99_ms)) :]
    half = max(1, len(counted) // 2)
    return statistics.median(counted[-half:]) / statistics.median(counted[:half])


def faults(soak: dict[str, Any]) -> list[str]:
    """Say what is wrong, if anything."""
    found = []
    if soak["failed"] or soak["dropped"]:
        found.append(f"expected no failures, got {soak['failed']} and {soak['dropped']} not sent")
    if soak["growth_share_minute"] > GROWTH_LIMIT:
        found.append(
            f"memory: expected to grow by at most {GROWTH_LIMIT:.2%} a minute, "
            f"got {soak['growth_share_minute']:.2%}"
        )
    if soak["drift"] > DRIFT_LIMIT:
        found.append(f"p99: expected to rise to at most {DRIFT_LIMIT} x, got {soak['drift']:.2f} x")
    return found


def measure(race: Race, target: Target, minutes: int, rate: int | None = None) -> dict[str, Any]:
    """Find the capacity, then soak at 80% of it, or at a rate that was asked for."""
    server = race.start(target)
    capacity = race.closed(0, target, BINARY, CONNECTIONS)["requests_s"]
    rate = rate or round(LOAD_SHARE * capacity)
    sampler = Sampler(server)
    sampler.start()
    found = race.at_rate(target, BINARY, rate, seconds=60 * minutes, minutes=minutes)
    sampler.stop()
    p99_ms = list(found["minutes"])
    rows = []
    for minute, value in enumerate(p99_ms):
        within = [s for s in sampler.samples if 60 * minute <= s[0] < 60 * (minute + 1)]
        total_mb, anonymous_mb = within[-1][1:] if within else sampler.samples[-1][1:]
        rows.append(
            {
                "minute": minute + 1,
                "p99_ms": value,
                "total_mb": total_mb,
                "anonymous_mb": anonymous_mb,
            }
        )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "setup": target.setup,
        "capacity_s": capacity,
        "rate": rate,
        "answered_s": found["answered_s"],
        "failed": found["failed"],
        "dropped": found["dropped"],
        "growth_share_minute": growth(sampler.samples),
        "drift": drift(p99_ms),
        "minutes": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print a table, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared and embedded folder, 384 dimensions")
    parser.add_argument("--minutes", type=int, default=10, help="default 10")
    parser.add_argument("--rate", type=int, help="requests a second (80%% of what was measured)")
    parser.add_argument("--work", type=Path, default=Path(".data/bench"), help=".data/bench")
    parser.add_argument("--flags", default=OURS_FLAGS, help=f"of our serve ({OURS_FLAGS})")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS} and its page")
    args = parser.parse_args(arguments)
    wrk, programs = find_wrk(), peers_environment(args.work / "peers")
    folder = args.work / args.dataset.resolve().name
    prepare(args.dataset, folder)
    target = ours(folder, args.flags)
    with Race([target], folder, wrk, programs / "k6", PACE) as race:
        soak = measure(race, target, args.minutes, args.rate)
    print("| minute | p99 ms | memory, MiB | anonymous |\n|---|---|---|---|")
    for row in soak["minutes"]:
        print(
            f"| {row['minute']} | {row['p99_ms']:.1f} | {row['total_mb']:.0f} "
            f"| {row['anonymous_mb']:.0f} |"
        )
    print(
        f"{soak['rate']} requests a second; memory {soak['growth_share_minute']:+.3%} a minute, "
        f"p99 {soak['drift']:.2f} x"
    )
    if args.save:
        run = json.loads(RESULTS.read_bytes()) | {"soak": soak}
        RESULTS.write_text(json.dumps(run, indent=1) + "\n")
        PAGE.write_text(replaced(PAGE.read_text(), run))
    found = faults(soak)
    for fault in found:
        print(f"soak: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
