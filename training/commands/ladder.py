"""``ladder``: every earlier idea and its rivals, trained and judged alike, a row each."""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "ladder", help="train and judge P8, what came before it and its rivals, a row each"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "data", type=Path, nargs="?", metavar="DIR", help="prepared and embedded data"
    )
    source.add_argument(
        "--render",
        type=Path,
        metavar="FILE",
        help="print the page of an earlier run's ladder.json instead (default: off)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the results go (default: DIR/ladder)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less of everything, in minutes (default: off)",
    )
    parser.add_argument(
        "--rows", metavar="NAME,...", help="climb these rows alone (default: all rows)"
    )
    parser.add_argument(
        "--windows", type=int, metavar="N", help="windows to train on (default: 20000; quick: 6000)"
    )
    parser.add_argument(
        "--epochs", type=int, help="epochs of every row, at least 3 (default: 6; quick: 3)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: 0)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Climb, write ladder.json, ladder.md and ladder.png, and print the findings."""
    from models.checkpoint import write_atomically
    from training.dataset import PreparedDataset
    from training.ladder.config import QUICK, Budget
    from training.ladder.plot import plot_ladder
    from training.ladder.report import finding_lines, render
    from training.ladder.run import climb

    if args.render is not None:
        print(render(json.loads(args.render.read_bytes())), end="")
        return 0
    chosen = {"windows": args.windows, "epochs": args.epochs, "seed": args.seed}
    budget = replace(
        QUICK if args.quick else Budget(),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    out = args.out or args.data / "ladder"
    report = climb(
        PreparedDataset.open(args.data),
        out,
        budget,
        names=args.rows.split(",") if args.rows else None,
        say=partial(print, flush=True),
    )
    write_atomically(out / "ladder.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / "ladder.md", render(report).encode())
    plot_ladder(report, out / "ladder.png")
    print("\n".join(finding_lines(report)))
    print(f"wrote {out / 'ladder.json'}, ladder.md and ladder.png")
    return 0
