import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contest.load import Closed, FailedLoadError, Open
from benchmarks.contest.page import PAGE, RESULTS, findings, render, replaced
from benchmarks.contest.plot import plot_run
from benchmarks.contest.stats import (
    against,
    best_floor,
    highest_kept,
    kept,
    middle,
    ratio,
    share_of_floor,
    slope,
)

WRK = """Running 3s test @ http://127.0.0.1:8131
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   105.43ms    9.93ms 141.11ms   81.50%
Requests/sec:    301.48
{"requests": 906, "seconds": 3.020000, "p50_ms": 105.040, "p99_ms": 126.630, "worst_ms": 141.110, \
"not_200": 0, "broken": 0}
"""


def test_wrk_output_is_read() -> None:
    found = Closed.parse(WRK)
    assert found == Closed(requests_s=300.0, p50_ms=105.04, p99_ms=126.63, failed=0)


@pytest.mark.parametrize(
    ("member", "value"), [("not_200", 1), ("broken", 2), ("requests", 0)], ids=str
)
def test_a_load_with_failures_is_no_measurement(member: str, value: int) -> None:
    line = json.loads(WRK.splitlines()[-1]) | {member: value}
    with pytest.raises(FailedLoadError, match=member):
        Closed.parse(json.dumps(line))
    if member == "requests":
        with pytest.raises(FailedLoadError, match=member):
            Closed.parse(json.dumps(line), strict=False)
        return
    lenient = Closed.parse(json.dumps(line), strict=False)
    assert lenient.failed == value
    assert lenient.requests_s == (905 if member == "not_200" else 906) / 3.02


def k6_metrics(**more: object) -> str:
    took = {"med": 4.0, "p(99)": 9.5, "max": 12.0, "count": 490}
    return json.dumps(
        {
            "http_req_duration{scenario:load}": {"type": "trend", "values": took},
            "http_reqs": {"type": "counter", "values": {"count": 900}},  # the warm-up too
            "http_req_failed{scenario:load}": {
                "type": "rate",
                "values": {"rate": 0.02, "passes": 10},
            },
            "http_reqs{scenario:load}": {"type": "counter", "values": {"count": 490, "rate": 98.0}},
            **more,
        }
    )


def test_k6_output_is_read() -> None:
    dropped = {"type": "counter", "values": {"count": 7, "rate": 1.4}}
    found = Open.parse(
        k6_metrics(**{"dropped_iterations{scenario:load}": dropped}), rate=100, seconds=5
    )
    assert found == Open(
        offered_s=100, answered_s=96.0, failed=10, dropped=7, p50_ms=4.0, p99_ms=9.5
    )


def test_k6_minutes_come_in_their_order() -> None:
    minutes = {
        f"http_req_duration{{minute:{minute}}}": {"values": {"p(99)": float(minute)}}
        for minute in (10, 2, 0)
    }
    assert Open.parse(k6_metrics(**minutes), rate=100, seconds=5).minutes == (0.0, 2.0, 10.0)


def cell(target: str, turn: int, speed: float, **more: object) -> dict[str, object]:
    row = {"round": turn, "target": target, "encoding": "json", "connections": 32}
    return {**row, "requests_s": speed, "p50_ms": 1000 / speed, "p99_ms": 3000 / speed, **more}


def small_run() -> dict[str, Any]:
    """Two servers, three rounds of which the machine was half as fast in the second."""
    closed = []
    for turn, pace in enumerate((1.0, 0.5, 1.2)):
        for encoding in ("json", "binary"):
            for connections in (1, 32):
                where = {"encoding": encoding, "connections": connections}
                closed.append(cell("ours", turn, 1000 * pace, **where))
                closed.append(cell("litserve", turn, 200 * pace, **where))
                closed.append(cell("plain", turn, 100 * pace, **where))
    floor = [
        {"round": turn, "batch": batch, "way": f"{way}, batches of {batch}", "windows_s": speed}
        for turn, pace in enumerate((1.0, 0.5, 1.2))
        for batch in (32, 1)
        for way, speed in (("fp32", 900 * pace), ("bf16", 2000 * pace))
    ]
    names = {"ours": "nextchunk", "litserve": "LitServe", "plain": "FastAPI, no batching"}
    memory = {"total_mb": 700.0, "anonymous_mb": 500.0}
    return {
        "date": "2026-11-25",
        "machine": {
            "processor": "AMD EPYC",
            "cores": 2,
            "memory_gb": 24,
            "system": "Linux 6.1",
            "load": 0.1,
        },
        "versions": {"torch": "2.13.0"},
        "settings": {"quick": False, "rounds": 3, "seconds": 3},
        "job": {"data": "elife", "chunks": 71_926, "parameters": 13_700_000},
        "targets": [
            {"name": name, "label": label, "setup": "default"} for name, label in names.items()
        ],
        "closed": closed,
        "open": [
            offered(name, rate, answered=min(rate, limit))
            for name, limit in (("ours", 900), ("litserve", 250))
            for rate in (100, 200, 400)
            if rate <= 2 * limit
        ],
        "floor": floor,
        "starts": [{"target": name, "seconds": 2.0} for name in names],
        "memory": [
            {"target": name, "when": when, **memory}
            for name in names
            for when in ("idle", "loaded")
        ],
        "verified": [
            {"target": name, "encoding": "json", "windows": 50, "recall": 0.99, "worst_error": 1e-7}
            for name in names
        ],
    }


def offered(
    target: str, rate: float, *, answered: float, p99_ms: float = 20.0
) -> dict[str, object]:
    return {
        "target": target,
        "encoding": "json",
        "offered_s": rate,
        "answered_s": answered,
        "failed": 0,
        "dropped": 0,
        "p50_ms": 5.0,
        "p99_ms": p99_ms,
    }


def test_medians_over_rounds() -> None:
    rows = [cell("ours", turn, speed) for turn, speed in enumerate((10.0, 50.0, 20.0))]
    assert middle(rows, "requests_s", target="ours") == 20.0
    assert middle(rows, "requests_s", target="theirs") is None


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine slowed down for all in the second round; the ratio has not moved.
    assert ratio({0: 8.0, 1: 2.0, 2: 8.8}, {0: 4.0, 1: 1.0, 2: 4.0}) == 2.0
    assert ratio({0: 8.0}, {1: 4.0}) is None
    mine = {"target": "ours", "encoding": "json", "connections": 32}
    other = mine | {"target": "litserve"}
    assert against(small_run(), "requests_s", mine, other) == pytest.approx(5.0)


def test_the_floor_is_the_fastest_way() -> None:
    found = best_floor(small_run(), 32)
    assert found is not None
    assert found[0] == "bf16, batches of 32"
    assert share_of_floor(small_run(), "ours", "binary") == pytest.approx(0.5)
    assert best_floor({"floor": []}, 32) is None
    run = small_run()
    run["floor"] += [
        row | {"way": f"packed, batches of {row['batch']}", "windows_s": 2 * row["windows_s"]}
        for row in run["floor"]
        if row["way"].startswith("bf16")
    ]
    assert best_floor(run, 32)[0] == "packed, batches of 32"
    assert best_floor(run, 32, torch_alone=True) == found


def test_a_server_keeps_up_or_does_not() -> None:
    assert kept(offered("ours", 100, answered=98))
    assert not kept(offered("ours", 100, answered=90))
    assert not kept(offered("ours", 100, answered=100, p99_ms=400.0))
    assert not kept(offered("ours", 100, answered=100) | {"failed": 1})
    rows = [offered("ours", rate, answered=min(rate, 250)) for rate in (400, 100, 200)]
    rows.append(offered("ours", 600, answered=600))  # a fluke beyond the first that was not kept
    best = highest_kept(rows, "ours", "json")
    assert best is not None
    assert best["offered_s"] == 200
    assert highest_kept(rows, "ours", "binary") is None


def test_a_slope_is_that_of_the_line() -> None:
    assert slope([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0]) == pytest.approx(2.0)
    assert slope([1.0], [5.0]) == 0.0


def test_findings_say_what_was_met() -> None:
    lines = list(findings(small_run()))
    assert lines[0] == (
        "- JSON numbers, 32 connections: 5.00 x LitServe's requests a second "
        "(asked for: at least 4 x; **met**)."
    )
    assert "p99 is 0.20 of LitServe's (asked for: at most a third; **met**)" in lines[1]
    assert "Binary, 32 connections: 5.00 x" in lines[2]
    assert "p50 is 0.10 of plain FastAPI's (asked for: at most half; **met**)" in lines[3]
    assert "50% of the compute alone, with the load beside it; 50% of torch's own" in lines[4]
    assert "**not met**" in lines[4]


def test_a_finding_names_the_variants_too() -> None:
    run = small_run()
    run["targets"].append({"name": "litserve-fp32", "label": "LitServe, torch in float32"})
    run["closed"] += [
        row | {"target": "litserve-fp32", "requests_s": row["requests_s"] / 2}
        for row in run["closed"]
        if row["target"] == "litserve"
    ]
    assert "5.00 x LitServe's requests a second; LitServe, torch in float32: 10.00 x (" in next(
        findings(run)
    )


def test_a_run_is_written_as_tables() -> None:
    text = render(small_run())
    assert "| nextchunk | **1,000** (5.00), 1.0 / 3.0 | **1,000** (5.00), 1.0 / 3.0 |" in text
    assert "| LitServe, JSON numbers | **200** | 5.0 / 20.0 | 5.0 / 20.0 | *5.0 / 20.0* |" in text
    assert "| bf16, batches of 32 | **2,000** |" in text
    assert "- LitServe: JSON numbers 10%, Binary 10%" in text
    assert "### Soak" not in text


def test_a_soak_is_written_too() -> None:
    minutes = [{"minute": 1, "p99_ms": 12.0, "total_mb": 700.4, "anonymous_mb": 500.0}]
    soak = {"rate": 800, "capacity_s": 1000.0, "failed": 0, "growth_share_minute": 0.0004}
    text = render(small_run() | {"soak": soak | {"drift": 1.1, "minutes": minutes}})
    assert "1 minutes at 800 requests a second in binary, of the 1,000" in text
    assert "+0.04% a minute" in text
    assert "| 1 | 12.0 | 700 |" in text


def test_a_run_goes_between_the_markers() -> None:
    page = "# Title\n<!-- contest:begin -->\nold\n<!-- contest:end -->\nafter\n"
    run = small_run()
    assert replaced(page, run) == page.replace("old\n", render(run))
    assert replaced(replaced(page, run), run) == replaced(page, run)
    with pytest.raises(ValueError, match="contest:begin"):
        replaced("# Title\n", run)


def test_the_page_is_what_its_results_make() -> None:
    page = PAGE.read_text()
    assert replaced(page, json.loads(RESULTS.read_bytes())) == page


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    plot_run(small_run(), tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text()
