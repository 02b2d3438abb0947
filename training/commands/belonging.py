"""``belonging``: how well foreign chunks in a bag are told, on prepared documents."""

import argparse
import json
from pathlib import Path
from typing import Any

from training.tables import cell


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "belonging", help="measure how well foreign chunks in a bag are told; needs no checkpoint"
    )
    parser.add_argument(
        "data", type=Path, nargs="+", metavar="DIR", help="prepared and embedded data"
    )
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        default="test",
        help="documents to make bags of (default: test)",
    )
    parser.add_argument(
        "--bags", type=int, default=1200, help="bags of every folder (default: 1200)"
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="fit the constants of models/belonging.py and print them instead (default: off)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of bags, bootstrap (default: 0)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there too (default: no file)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print a table a folder, or fit."""
    from dataclasses import asdict

    from training.belonging import evaluate_belonging, fit_belonging, make_bags
    from training.dataset import PreparedDataset
    from training.folders import check_alike
    from training.run import split_vectors

    datasets = [PreparedDataset.open(folder) for folder in args.data]
    check_alike(datasets)
    kinds = {dataset.manifest["name"]: split_vectors(dataset, args.split) for dataset in datasets}
    report: dict[str, Any] = {
        "data": {dataset.manifest["name"]: dataset.fingerprint for dataset in datasets},
        "split": args.split,
        "bags": args.bags,
        "seed": args.seed,
    }
    if args.fit:
        bags = [bag for name in kinds for bag in make_bags(kinds, name, args.bags, args.seed)]
        report["fit"] = asdict(fit_belonging(bags))
        print(json.dumps(report["fit"], indent=2))
    else:
        report["kinds"] = {
            name: {
                part: {metric: estimate.json() for metric, estimate in estimates.items()}
                for part, estimates in evaluate_belonging(kinds, name, args.bags, args.seed).items()
            }
            for name in kinds
        }
        print("\n".join(report_lines(report)))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report for people: a table a folder."""
    lines = [f"{report['split']} split, {report['bags']} bags of every folder"]
    for name, parts in report["kinds"].items():
        metrics = list(parts["all"])
        lines += ["", f"{name:<14}" + "".join(f"{metric:>24}" for metric in metrics)]
        for part, values in parts.items():
            shown = (cell(values[metric]) if metric in values else "-" for metric in metrics)
            lines.append(f"  {part:<12}" + "".join(f"{text:>24}" for text in shown))
    return lines
