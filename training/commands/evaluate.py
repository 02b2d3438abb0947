"""``evaluate``: every protocol and metric of a checkpoint on prepared documents."""

import argparse
import json
from pathlib import Path
from typing import Any

from training.tables import cell, render_files


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a checkpoint on a prepared folder, with intervals",
        usage="%(prog)s [options] CKPT DIR\n       %(prog)s --render FILE [FILE ...]",
    )
    checkpoint = parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="checkpoint folder"
    )
    data = parser.add_argument("data", type=Path, metavar="DIR", help="prepared and embedded data")
    # Not needed beside --render. With nargs="?" Python 3.11 would refuse CKPT --split all DIR.
    checkpoint.required = data.required = False
    parser.add_argument(
        "--render",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="print the page of reports that --json wrote instead (default: off)",
    )
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        default="test",
        help="documents to measure on (default: test)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of negatives, bootstrap (default: 0)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="what the encoders of window and bag compute in (default: float32)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there too (default: no file)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the tables, or those of earlier reports."""
    wanted = args.render is None
    if any((given is not None) != wanted for given in (args.checkpoint, args.data)):
        raise ValueError("evaluate: expected either CKPT and DIR or --render FILE")
    if not wanted:
        print(render_files(args.render), end="")
        return 0

    from models.scoring import Scorer
    from training.evaluation import evaluate
    from training.folders import open_with_checkpoint
    from training.run import split_vectors

    checkpoint, dataset = open_with_checkpoint(args.checkpoint, args.data)
    scorer = Scorer(checkpoint.model, order_weight=checkpoint.order_weight, dtype=args.dtype)
    report: dict[str, Any] = {
        "checkpoint": checkpoint.version,
        "space": checkpoint.model.config.space,
        "data": {"name": dataset.manifest["name"], "fingerprint": dataset.fingerprint},
        "split": args.split,
        "seed": args.seed,
        "dtype": args.dtype,
        **evaluate(scorer, split_vectors(dataset, args.split), seed=args.seed),
    }
    print("\n".join(report_lines(report)))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report for people: a table a protocol, the baseline first."""
    lines = [
        f"{report['data']['name']}, {report['split']} split: {report['documents']} documents, "
        f"{report['windows']} windows, {report['candidates']:.1f} candidates in document"
    ]
    for protocol, methods in report["protocols"].items():
        metrics = list(next(iter(methods.values())))
        lines += ["", f"{protocol:<12}" + "".join(f"{metric:>26}" for metric in metrics)]
        for method, values in methods.items():
            lines.append(f"  {method:<10}" + "".join(f"{cell(values[m]):>26}" for m in metrics))
        if protocol == "in_document":
            ceiling = "".join(f"{cell(report['ceiling'][m]):>26}" for m in metrics[:3])
            lines.append(f"  {'ceiling':<10}{ceiling}  (best mixture, answer known)")
    for title in ("difference", "order", "order_in_bag", "ordering", "ordering_by_place"):
        for name, value in report.get(title, {}).items():
            if title == "difference":
                shown = ", ".join(f"{m} {cell(v, '+')}" for m, v in value.items())
                lines.append(f"p8 minus direct, {name}: {shown}")
            else:
                lines.append(f"{title} {name}: {cell(value)}")
    lines += [f"cos_anchor {name}: {value}" for name, value in report["cos_anchor"].items()]
    return lines
