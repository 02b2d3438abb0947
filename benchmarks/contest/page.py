"""A run for people: a section of ``docs/benchmarks.md``, every figure of it out of saved JSON.

    python -m benchmarks.contest.page

renders what stands between the markers anew; the rest of the page is written by hand.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.contest.stats import (
    KEPT_P99_MS,
    KEPT_SHARE,
    Row,
    Run,
    against,
    best_floor,
    by_round,
    highest_kept,
    kept,
    middle,
    of,
    ratio,
    share_of_floor,
)

ROOT = Path(__file__).parents[2]
PAGE, RESULTS, PLOT = (ROOT / "docs" / f"benchmarks.{kind}" for kind in ("md", "json", "svg"))
SECTION = re.compile(r"(?<=<!-- contest:begin -->\n).*?(?=<!-- contest:end -->)", re.DOTALL)
ENCODINGS = {"json": "JSON numbers", "base64": "Base64 in JSON", "binary": "Binary"}
ASKED = {
    "json": (4.0, 1 / 3),
    "base64": (5.0, None),
    "binary": (5.0, None),
}
"""Of us against LitServe at 32 connections: least requests a second, most of p99."""
ONE_P50 = 0.5
"""Of us against plain FastAPI at one connection."""
FLOOR_SHARE = 0.55


def render(run: Run) -> str:
    """Write the section."""
    parts = [
        _account(run),
        ["### What it shows", "", *findings(run)],
        *(_closed(run, encoding) for encoding in _encodings(run["closed"])),
        _open(run),
        _floor(run),
        _starts(run),
        _setups(run),
        *([_soak(run["soak"])] if run.get("soak") else []),
    ]
    return "\n" + "\n\n".join("\n".join(lines) for lines in parts) + "\n\n"


def replaced(page: str, run: Run) -> str:
    """Put a run into the page.

    Raises:
        ValueError: If the page has no place for it.
    """
    if not SECTION.search(page):
        raise ValueError("page: expected the markers contest:begin and contest:end, got none")
    text = render(run)
    return SECTION.sub(lambda _: text, page)


def findings(run: Run) -> Iterator[str]:
    """Say how far we are from what was asked for, a line each."""
    for encoding in _encodings(run["closed"]):
        least, most_p99 = ASKED[encoding]
        cell = {"encoding": encoding, "connections": 32}
        pair = ({"target": "ours", **cell}, {"target": "litserve", **cell})
        gain = against(run, "requests_s", *pair)
        if gain is not None:
            also = "".join(
                f"; {other['label']}: {part:.2f} x"
                for other in run["targets"]
                if other["name"].startswith("litserve-")
                and (part := against(run, "requests_s", pair[0], cell | {"target": other["name"]}))
            )
            yield _verdict(
                f"{ENCODINGS[encoding]}, 32 connections: {gain:.2f} x LitServe's requests a second"
                + also,
                f"at least {least:g} x",
                met=gain >= least,
            )
        tail = against(run, "p99_ms", *pair)
        if tail is not None and most_p99 is not None:
            yield _verdict(
                f"{ENCODINGS[encoding]}, 32 connections: p99 is {tail:.2f} of LitServe's",
                "at most a third",
                met=tail <= most_p99,
            )
    cell = {"encoding": "json", "connections": 1}
    share = against(run, "p50_ms", {"target": "ours", **cell}, {"target": "plain", **cell})
    if share is not None:
        yield _verdict(
            f"JSON numbers, one connection: p50 is {share:.2f} of plain FastAPI's",
            "at most half",
            met=share <= ONE_P50,
        )
    part = share_of_floor(run, "ours", "binary")
    plain = share_of_floor(run, "ours", "binary", torch_alone=True)
    if part is not None and plain is not None:
        yield _verdict(
            f"Binary, 32 connections: {part:.0%} of the compute alone, with the load beside it; "
            f"{plain:.0%} of torch's own",
            f"at least {FLOOR_SHARE:.0%}",
            met=part >= FLOOR_SHARE,
        )


def _verdict(found: str, asked: str, *, met: bool) -> str:
    return f"- {found} (asked for: {asked}; **{'met' if met else 'not met'}**)."


def _account(run: Run) -> list[str]:
    machine, versions = run["machine"], run["versions"]
    settings = run["settings"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    quick = "`make bench QUICK=1`, a first look" if settings["quick"] else "`make bench`"
    return [
        f"{quick}, on {run['date']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, no GPU; {machine['system']}; load average before it "
        f"{machine['load']}. The load generator ran on the same cores as the servers. {listed}.",
        "",
        f"The job: P8 with {run['job']['parameters'] / 1e6:.1f} million parameters (hidden 512, "
        "4 layers, random weights, seed 0), five vectors of 384 dimensions as context, then the "
        f"ten nearest of {run['job']['chunks']:,} chunks ({run['job']['data']}).",
        "",
        f"{settings['rounds']} round{'s' * (settings['rounds'] > 1)} of all servers in turn, "
        f"{settings['seconds']} s a cell after a warm-up; others are frozen meanwhile. Medians "
        "over rounds; ratios are taken within a round, then their median.",
    ]


def _encodings(rows: Iterable[Row]) -> list[str]:
    present = {row["encoding"] for row in rows}
    return [encoding for encoding in ENCODINGS if encoding in present]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _closed(run: Run, encoding: str) -> list[str]:
    rows = of(run["closed"], encoding=encoding)
    counts = sorted({row["connections"] for row in rows})
    heads = [f"{count} conn.: req/s (x LitServe), p50 / p99 ms" for count in counts]
    lines = []
    for target in run["targets"]:
        if of(rows, target=target["name"]):
            cells = [_cell(rows, target["name"], count) for count in counts]
            lines.append([target["label"], *cells])
    table = _table(["", *heads], lines)
    return [f"### Closed loop: {ENCODINGS[encoding]}", "", *table, *_failures(run, rows)]


def _failures(run: Run, rows: Sequence[Row]) -> list[str]:
    """Say which servers refused or dropped requests, which do not count above."""
    told = []
    for target in run["targets"]:
        for count in sorted({row["connections"] for row in rows}):
            cell = of(rows, target=target["name"], connections=count)
            if failed := sum(row.get("failed", 0) for row in cell):
                told.append(f"{target['label']}, {count} connections: {failed:,}")
    return ["", f"Not answered with 200, and not counted: {'; '.join(told)}."] if told else []


def _cell(rows: Sequence[Row], name: str, connections: int) -> str:
    mine = of(rows, target=name, connections=connections)
    if not mine:
        return ""
    rate, p50, p99 = (middle(mine, member) for member in ("requests_s", "p50_ms", "p99_ms"))
    other = by_round(rows, "requests_s", target="litserve", connections=connections)
    gain = ratio(by_round(mine, "requests_s"), other)
    beside = "" if gain is None or name == "litserve" else f" ({gain:.2f})"
    return f"**{_number(rate, 0)}**{beside}, {_number(p50)} / {_number(p99)}"


def _open(run: Run) -> list[str]:
    lines = []
    rates = sorted({row["offered_s"] for row in run["open"]})
    for encoding in _encodings(run["open"]):
        for target in run["targets"]:
            mine = {
                row["offered_s"]: row
                for row in of(run["open"], encoding=encoding, target=target["name"])
            }
            if mine:
                best = highest_kept(list(mine.values()), target["name"], encoding)
                top = "none" if best is None else f"**{best['offered_s']:,}**"
                cells = [_rate_cell(mine.get(rate)) for rate in rates]
                lines.append([f"{target['label']}, {ENCODINGS[encoding]}", top, *cells])
    heads = ["", "kept up with, req/s", *(f"{rate:,} req/s" for rate in rates)]
    return [
        "### Open loop: constant rate of arrival",
        "",
        f"p50 / p99 in ms, by k6. Kept up with: no failure, at least {KEPT_SHARE:.0%} answered "
        f"while it ran, p99 at most {KEPT_P99_MS:g} ms. A server is asked for no higher rate once "
        "it has not.",
        "",
        *_table(heads, lines),
    ]


def _rate_cell(row: Row | None) -> str:
    if row is None:
        return ""
    told = f"{_number(row['p50_ms'])} / {_number(row['p99_ms'])}"
    return told if kept(row) else f"*{told}*"


def _floor(run: Run) -> list[str]:
    lines = []
    for batch in sorted({row["batch"] for row in run["floor"]}, reverse=True):
        best = best_floor(run, batch)
        for way in dict.fromkeys(row["way"] for row in of(run["floor"], batch=batch)):
            speed = _number(middle(run["floor"], "windows_s", way=way), 0)
            chosen = best is not None and way == best[0]
            lines.append([way, f"**{speed}**" if chosen else speed])
    shares = []
    for target in run["targets"]:
        parts = [
            (ENCODINGS[encoding], share_of_floor(run, target["name"], encoding))
            for encoding in _encodings(run["closed"])
        ]
        told = [f"{name} {part:.0%}" for name, part in parts if part is not None]
        shares.append(f"- {target['label']}: {', '.join(told)}")
    return [
        "### The compute alone",
        "",
        "Forward and search (efSearch 64, ten results) in a tight loop, without a server and "
        "without load on the cores. fp32 and bf16: the forward is torch's own, as the peers use "
        "it; packed: the service's, in bfloat16.",
        "",
        *_table(["", "windows/s"], lines),
        "",
        "Share of the best, at 32 connections:",
        "",
        *shares,
    ]


def _starts(run: Run) -> list[str]:
    lines = []
    for target in run["targets"]:
        mine = of(run["memory"], target=target["name"])
        told = [_number(middle(run["starts"], "seconds", target=target["name"]))]
        for when in ("idle", "loaded"):
            total, anonymous = (
                _number(middle(mine, member, when=when), 0)
                for member in ("total_mb", "anonymous_mb")
            )
            told.append(f"{total} ({anonymous})")
        lines.append([target["label"], *told])
    return [
        "### Cold start and memory",
        "",
        "From the start of the process to its first answer, files in the page cache; memory of all "
        "its processes in MiB, what they share counted once, of which anonymous in brackets. "
        "Loaded: after all of the load.",
        "",
        *_table(["", "first answer, s", "idle", "loaded"], lines),
    ]


def _setups(run: Run) -> list[str]:
    lines = []
    for target in run["targets"]:
        found = of(run["verified"], target=target["name"])
        recall = min((row["recall"] for row in found), default=0.0)
        worst = max((row["worst_error"] for row in found), default=0.0)
        lines.append([target["label"], target["setup"], f"{recall:.3f}", f"{worst:.1e}"])
    windows = max((row["windows"] for row in run["verified"]), default=0)
    return [
        "### How each was set, and how right it is",
        "",
        f"{windows} windows in each encoding, 16 at once, against the direct computation: every "
        "score must be that of its chunk, to 1e-5 in float32 and 3e-3 in bfloat16; recall is of "
        "the exact best ten. A run ends if the service does not answer every request with 200.",
        "",
        *_table(["", "settings", "recall@10", "greatest error of a score"], lines),
    ]


def _soak(soak: Mapping[str, object]) -> list[str]:
    rows: list[Row] = soak["minutes"]  # type: ignore[assignment]
    lines = [
        [str(row["minute"]), _number(row["p99_ms"]), _number(row["total_mb"], 0)] for row in rows
    ]
    return [
        "### Soak",
        "",
        f"{len(rows)} minutes at {soak['rate']} requests a second in binary, of the "
        f"{soak['capacity_s']:,.0f} that 32 connections had got before: {soak['failed']} failed, "
        f"anonymous memory {soak['growth_share_minute']:+.2%} a minute over the last four fifths "
        f"of the time, p99 of the later half {soak['drift']:.2f} x that of the earlier.",
        "",
        *_table(["minute", "p99 ms", "memory, MiB"], lines),
    ]


def main() -> None:
    """Render the page again."""
    run = json.loads(RESULTS.read_bytes())
    PAGE.write_text(replaced(PAGE.read_text(), run))


if __name__ == "__main__":
    main()
