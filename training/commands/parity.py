"""``parity``: do the splits look alike?"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.parity import Parity


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "parity",
        help="compare train, validation and test",
        description="Compare the splits of a prepared and embedded folder: cosines by distance, "
        "forward movement and document lengths. Writes parity.json and parity.png.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared and embedded folder")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the files (default: DIR/parity)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table and the verdict, and write the files.

    Raises:
        ValueError: If the folder has no vectors or too few documents.
    """
    from training.dataset import PreparedDataset
    from training.parity import measure_parity
    from training.parity_plot import plot_parity

    parity = measure_parity(PreparedDataset.open(arguments.data))
    out = arguments.out or arguments.data / "parity"
    out.mkdir(parents=True, exist_ok=True)
    report = json.dumps(parity.json(), indent=2)
    (out / "parity.json").write_text(report + "\n", encoding="utf-8")
    plot_parity(parity, out / "parity.png")
    _print_table(parity)
    print(f"written: {out / 'parity.json'}, {out / 'parity.png'}")
    return 0


def _print_table(parity: "Parity") -> None:
    from training.parity import CONFIDENCE, SMALL_EFFECT

    interval = f"{CONFIDENCE:.0%} interval"
    print(f"{'measure':<16} {'splits':<20} {'KS':>6} {'p':>8} {'Cliff':>7} {'d':>7}  {interval}")
    for one in parity.comparisons:
        print(
            f"{one.measure:<16} {one.a + ' - ' + one.b:<20} {one.ks:6.3f} {one.ks_p:8.1e} "
            f"{one.cliffs_delta:+7.3f} {one.cohens_d:+7.3f}  "
            f"[{one.cohens_d_low:+.3f}, {one.cohens_d_high:+.3f}]"
            f"{'  doubtful' if one.doubtful else ''}"
        )
    print(
        f"doubtful: |Cohen's d| of {SMALL_EFFECT} or more, and its interval over documents "
        "excludes 0. The p of KS takes chunks for independent and is tiny whenever there are many."
    )
    print(parity.verdict)
