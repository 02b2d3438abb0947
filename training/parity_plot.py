"""The picture of split parity: three distributions, and how likeness fades with distance."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.parity import LAGS, Parity

_BINS = 60


def plot_parity(parity: Parity, path: Path) -> None:
    """Draw adjacent cosine, forward delta, document length and mean cosine by lag, as a PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, measure in zip(
        axes.flat, ("adjacent_cosine", "forward_delta", "document_length"), strict=False
    ):
        _distribution(axis, parity, measure)
    _fading(axes[1, 1], parity)
    figure.suptitle(parity.verdict)
    figure.savefig(path, dpi=120)


def _distribution(axis: Axes, parity: Parity, measure: str) -> None:
    splits = list(parity.samples[measure])
    everything = np.concatenate([parity.values(measure, split) for split in splits])
    edges = np.histogram_bin_edges(everything, bins=_BINS).tolist()
    for split in splits:
        axis.hist(parity.values(measure, split), edges, density=True, histtype="step", label=split)
    axis.set_xlabel(measure.replace("_", " "))
    axis.set_ylabel("density")
    axis.legend()


def _fading(axis: Axes, parity: Parity) -> None:
    measures = [name for name in parity.samples if name.endswith("_cosine")]
    for split in parity.samples[measures[0]]:
        means = [float(parity.values(measure, split).mean()) for measure in measures]
        axis.plot(list(LAGS), means, marker="o", label=split)
    axis.set_xlabel("lag in chunks")
    axis.set_ylabel("mean cosine")
    axis.legend()
