"""Load on a server: wrk without a pause (closed loop), k6 at a constant rate (open loop)."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONNECTIONS_OPEN = 512
"""Most requests that k6 has under way; what it cannot send then counts as dropped."""
K6_BODIES = 32
K6_WARM_UP_S = 2
LOAD = "{scenario:load}"
"""What k6.js reports without its warm-up."""


class FailedLoadError(RuntimeError):
    """A server did not answer every request with 200."""


@dataclass(frozen=True, kw_only=True)
class Closed:
    """What some connections got that asked without a pause."""

    requests_s: float
    """Of those that were answered with 200."""
    p50_ms: float
    p99_ms: float
    failed: int

    @classmethod
    def parse(cls, output: str, *, strict: bool = True) -> "Closed":
        """Read what wrk.lua printed.

        Args:
            output: Its last line is JSON.
            strict: Whether a single failure is one too many.

        Raises:
            FailedLoadError: If a request failed and ``strict``, or if none was answered with 200.
        """
        told: dict[str, Any] = json.loads(output.rstrip().rpartition("\n")[2])
        failed = told["not_200"] + told["broken"]
        answered = told["requests"] - told["not_200"]
        if answered <= 0 or (strict and failed):
            raise FailedLoadError(f"wrk: expected only answers of 200, got {told}")
        return cls(
            requests_s=answered / told["seconds"],
            p50_ms=told["p50_ms"],
            p99_ms=told["p99_ms"],
            failed=failed,
        )


@dataclass(frozen=True, kw_only=True)
class Open:
    """What came of requests that were sent at a constant rate."""

    offered_s: float
    answered_s: float
    """Of those that were answered with 200."""
    failed: int
    dropped: int
    """That could not be sent, since too many were under way."""
    p50_ms: float
    p99_ms: float
    minutes: tuple[float, ...] = ()
    """p99 of each minute, in ms."""

    @classmethod
    def parse(cls, output: str, rate: float, seconds: float) -> "Open":
        """Read the metrics that k6.js printed."""
        metrics: dict[str, Any] = json.loads(output[output.index("{") :])
        took = metrics[f"http_req_duration{LOAD}"]["values"]
        failed = round(_value(metrics, f"http_req_failed{LOAD}", "passes"))
        by_minute = {
            int(name.partition("minute:")[2].rstrip("}")): metric["values"]["p(99)"]
            for name, metric in metrics.items()
            if name.startswith("http_req_duration{minute:")
        }
        return cls(
            offered_s=rate,
            answered_s=(_value(metrics, f"http_reqs{LOAD}", "count") - failed) / seconds,
            failed=failed,
            dropped=round(_value(metrics, f"dropped_iterations{LOAD}", "count")),
            p50_ms=took["med"],
            p99_ms=took["p(99)"],
            minutes=tuple(by_minute[minute] for minute in sorted(by_minute)),
        )


def _value(metrics: Mapping[str, Any], name: str, kind: str) -> float:
    return float(metrics.get(name, {}).get("values", {}).get(kind, 0.0))


def closed(
    wrk: str,
    url: str,
    path: str,
    content_type: str,
    bodies: Path,
    *,
    connections: int,
    seconds: int,
    strict: bool = True,
) -> Closed:
    """Ask over some connections without a pause.

    Raises:
        FailedLoadError: As ``Closed.parse`` does.
    """
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "wrk.lua"), url, "--", str(bodies), path, content_type]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FailedLoadError(f"wrk: {done.stdout}{done.stderr}")
    return Closed.parse(done.stdout, strict=strict)


def open_loop(
    k6: Path,
    url: str,
    content_type: str,
    bodies: Path,
    *,
    rate: int,
    seconds: int,
    size: int,
    minutes: int = 0,
) -> Open:
    """Ask at a constant rate.

    Args:
        k6: The program.
        url: With the path.
        content_type: Of all bodies.
        bodies: File of them, as ``write_for_k6`` writes it.
        rate: Requests a second.
        seconds: For how long.
        size: Bytes of each body.
        minutes: How many of them to report apart.
    """
    settings = {
        "URL": url,
        "BODIES": bodies.resolve(),
        "CONTENT_TYPE": content_type,
        "RATE": rate,
        "SECONDS": seconds,
        "WARM_UP": K6_WARM_UP_S,
        "SIZE": size,
        "MINUTES": minutes,
        "CONNECTIONS": min(CONNECTIONS_OPEN, max(64, rate)),
    }
    command = [str(k6), "run", "--quiet", "--no-usage-report", "--log-output=none"]
    for name, value in settings.items():
        command += ["-e", f"{name}={value}"]
    done = subprocess.run([*command, str(HERE / "k6.js")], capture_output=True, text=True)
    if done.returncode or "{" not in done.stdout:
        raise FailedLoadError(f"k6: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return Open.parse(done.stdout, rate, seconds)
