"""``pilot``: is a full run worth its time? Asked of the mixture alone, without a re-ranker."""

import argparse
import json
import tempfile
from pathlib import Path

from training.commands.train import add_network_options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "pilot", help="10,000 windows, 2 epochs, the kill criteria and a verdict"
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared and embedded data")
    add_network_options(parser)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the verdict there too (default: no file)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the pilot; exit code 0 for ``go``, 1 for ``stop``."""
    from models.config import P8Config
    from training.config import loss_for
    from training.dataset import PreparedDataset
    from training.metrics_log import MetricsLog
    from training.pilot import run_pilot

    dataset = PreparedDataset.open(args.data)
    shape = P8Config(
        dimension=dataset.dimension,
        window=args.window,
        arch=args.arch,
        space=args.space,
        temperature=loss_for(args.space).temperature,
    )
    with tempfile.TemporaryDirectory() as scratch:
        log = MetricsLog(Path(scratch) / "metrics.jsonl", print)
        verdict = run_pilot(dataset, shape, args.seed, Path(scratch), log.write)
    for metric, estimate in verdict["difference"].items():
        print(
            f"  {metric} against DIRECT: {estimate['value']:+.4f} "
            f"({estimate['low']:+.4f} to {estimate['high']:+.4f})"
        )
    print(
        f"pilot: {verdict['verdict']} ({verdict['reason']}; {verdict['windows']} windows, "
        f"{verdict['epochs']} epochs, {verdict['seconds']} s)"
    )
    if args.json:
        args.json.write_text(json.dumps(verdict, indent=2) + "\n")
    return 0 if verdict["verdict"] == "go" else 1
