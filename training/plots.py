"""Curves of a run as one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_curves(history: Sequence[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    """Draw loss, R@5 and MRR@10 (with DIRECT and the ceiling), and margin by epoch.

    Args:
        history: Lines of metrics.jsonl.
        report: The validation report, for DIRECT and the ceiling.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    for name, label in (
        ("train_listwise", "listwise"),
        ("train_order", "order"),
        ("train_margin_hinge", "margin hinge"),
    ):
        axes[0].plot(epochs, [line[name] for line in history], marker="o", label=label)
    axes[0].set_title("training loss, by part")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    direct = report["protocols"]["in_document"]["direct"]
    for axis, metric in ((axes[1], "r@5"), (axes[2], "mrr@10")):
        values = [line[f"validation_{metric}"] for line in history]
        axis.plot(epochs, values, marker="o", label="P8")
        for level, style, label in (
            (direct[metric]["value"], ":", "DIRECT"),
            (report["ceiling"][metric]["value"], "--", "ceiling of the space"),
        ):
            axis.axhline(level, linestyle=style, color="grey", label=label)
        axis.set_title(f"validation {metric}, in document")
        axis.legend(fontsize=8, loc="center right")
    margins = [line["validation_margin"] for line in history]
    axes[3].plot(epochs, margins, marker="o", label="next against prev")
    axes[3].axhline(0.0, linestyle=":", color="grey")
    axes[3].set_title("validation margin")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)
