"""The ladder's picture: margins of every P by epoch, and how every row ranks."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Report = Mapping[str, Any]

PANELS_A_LINE = 5
COLOURS = {
    "baseline": "tab:gray",
    "free": "tab:red",
    "p8": "tab:blue",
    "rival": "tab:green",
    "ablation": "tab:purple",
}


def plot_ladder(report: Report, path: Path) -> None:
    """Draw margins by epoch, a panel a trained P, above R@5 and MRR@10 of all rows, as a PNG.

    Rows of the window group rank other candidates and stay out of the bars.
    """
    courses = [row for row in report["rows"] if row["epochs"] and row["group"] in ("free", "p8")]
    bars = [row for row in report["rows"] if row["group"] in COLOURS]
    lines = math.ceil(len(courses) / PANELS_A_LINE)
    heights = [2.6 * lines] if lines else []
    heights.append(max(3.0, 0.24 * len(bars) + 1.0))
    figure = Figure(figsize=(17, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if lines:
        axes = parts[0].subplots(lines, PANELS_A_LINE, squeeze=False).flat
        for axis, row in zip(axes, courses, strict=False):
            _course(axis, row)
        for axis in list(axes)[len(courses) :]:
            axis.set_axis_off()
        handles, labels = next(iter(parts[0].axes)).get_legend_handles_labels()
        parts[0].legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    for axis, (metric, label) in zip(
        parts[-1].subplots(1, 2, sharey=True), (("r@5", "R@5"), ("mrr@10", "MRR@10")), strict=True
    ):
        _bars(axis, bars, report, metric, label)
    figure.savefig(path, dpi=100)


def _course(axis: Axes, row: Report) -> None:
    epochs = [line["epoch"] for line in row["epochs"]]
    for metric, colour, label in (
        ("margin", "tab:blue", "next against prev"),
        ("margin_last", "tab:orange", "next against c_L"),
    ):
        for split, style in (("train", "-"), ("validation", "--")):
            values = [line[f"{split}_{metric}"] for line in row["epochs"]]
            axis.plot(epochs, values, style, marker=".", color=colour, label=f"{label}, {split}")
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_title(row["label"], fontsize=10)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=8)
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_ylabel("margin", fontsize=8)


def _bars(axis: Axes, rows: list[Report], report: Report, metric: str, label: str) -> None:
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        one = row["without"][metric]
        axis.barh(
            place,
            one["value"],
            xerr=[[one["value"] - one["low"]], [one["high"] - one["value"]]],
            color=COLOURS[row["group"]],
            height=0.7,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        if row["ceiling"] is not None:
            own = row["ceiling"][metric]["value"]
            axis.plot([own, own], [place - 0.4, place + 0.4], color="black", linewidth=2)
    direct = next((row for row in rows if row["name"] == "direct"), None)
    if direct is not None:
        level = direct["without"][metric]["value"]
        axis.axvline(level, linestyle=":", color="black", label=f"DIRECT {level:.3f}")
    ceiling = report["ceiling"][metric]["value"]
    name = "ceiling of mixing, raw space"
    axis.axvline(ceiling, linestyle="--", color="black", label=f"{name} {ceiling:.3f}")
    axis.plot([], [], color="black", linewidth=2, label="ceiling of the row's own space")
    axis.set_yticks(list(places), [row["label"] for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(f"{label}, in document, test documents, 95% interval")
    axis.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
