"""The picture of a run: requests a second and p99 by connections, and p99 by rate of arrival."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from benchmarks.contest.stats import Run, best_floor, middle, of

LOOKS = {
    "ours": ("tab:blue", "o-"),
    "ours-texts": ("tab:blue", "s:"),
    "ours-float32": ("tab:blue", "^--"),
    "plain": ("tab:gray", "o-"),
    "bentoml": ("tab:purple", "o-"),
    "litserve": ("tab:green", "o-"),
    "litserve-fp32": ("tab:green", "^--"),
    "litserve-packed": ("tab:green", "s:"),
    "mosec": ("tab:orange", "o-"),
    "ray": ("tab:red", "o-"),
}
"""Colour, marker and line of a server; those of one kind share a colour."""
TITLES = {"json": "JSON numbers", "base64": "base64 in JSON", "binary": "bare octets"}


def plot_run(run: Run, path: Path) -> None:
    """Draw a run as an SVG: a column an encoding; throughput above, p99 below, open loop last."""
    encodings = list(dict.fromkeys(row["encoding"] for row in run["closed"]))
    labels = {target["name"]: target["label"] for target in run["targets"]}
    figure = Figure(figsize=(4.4 * (len(encodings) + 1), 7.6), layout="constrained")
    axes = figure.subplots(2, len(encodings) + 1, squeeze=False)
    for column, encoding in enumerate(encodings):
        _closed(axes[0][column], run, labels, encoding, "requests_s")
        _closed(axes[1][column], run, labels, encoding, "p99_ms")
        axes[0][column].set_title(f"{TITLES[encoding]}, closed loop", fontsize=10)
    for row, encoding in enumerate(("json", "binary")):
        _open(axes[row][-1], run, labels, encoding)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=-(-len(names) // 2), frameon=False
    )
    figure.savefig(path, metadata={"Date": None})


def _closed(axis: Axes, run: Run, labels: Mapping[str, str], encoding: str, member: str) -> None:
    counts = sorted({row["connections"] for row in run["closed"]})
    for name, label in labels.items():
        cells = {"target": name, "encoding": encoding}
        if of(run["closed"], **cells):
            values = [middle(run["closed"], member, connections=one, **cells) for one in counts]
            _line(axis, name, label, counts, values)
    floor = best_floor(run, 32) if member == "requests_s" else None
    if floor is not None:
        level = median(floor[1].values())
        axis.axhline(level, linestyle="--", color="black", linewidth=1, label="compute alone")
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(one) for one in counts])
    axis.set_yscale("log")
    _plain_ticks(axis)
    axis.set_xlabel("connections")
    axis.set_ylabel("requests a second" if member == "requests_s" else "p99, ms")


def _open(axis: Axes, run: Run, labels: Mapping[str, str], encoding: str) -> None:
    rows = of(run["open"], encoding=encoding)
    for name, label in labels.items():
        mine = sorted(of(rows, target=name), key=lambda row: row["offered_s"])
        if mine:
            rates = [row["offered_s"] for row in mine]
            _line(axis, name, label, rates, [row["p99_ms"] for row in mine])
    axis.set_yscale("log")
    _plain_ticks(axis)
    axis.set_xlabel("requests a second, offered")
    axis.set_ylabel("p99, ms")
    axis.set_title(f"{TITLES[encoding]}, open loop", fontsize=10)


def _line(axis: Axes, name: str, label: str, xs: list[int], ys: list[float | None]) -> None:
    colour, look = LOOKS.get(name, ("tab:cyan", "o-"))
    width = 2.4 if name == "ours" else 1.2
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    axis.plot(*zip(*known, strict=True), look, ms=4, color=colour, linewidth=width, label=label)


def _plain_ticks(axis: Axes) -> None:
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]
    axis.set_yticks([step for step in steps if low <= step <= high])
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, alpha=0.3)
