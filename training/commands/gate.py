"""``gate``: judge a checkpoint on documents of some kind, and have the service heed it."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "gate", help="judge a checkpoint on the documents of a prepared folder"
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint folder")
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared and embedded data")
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        default="validation",
        help="documents to judge on (default: validation)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the verdict into the checkpoint: a kind that fails makes it fail, and the "
        "service falls back (default: off)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judge; exit code 0 if this kind passed, 1 if it did not."""
    from models.scoring import Scorer
    from training.folders import open_with_checkpoint
    from training.gate import gate_lines, gate_report, with_kinds
    from training.protocols import project_documents
    from training.run import split_vectors

    checkpoint, dataset = open_with_checkpoint(args.checkpoint, args.data)
    scorer = Scorer(checkpoint.model, order_weight=checkpoint.order_weight)
    documents = project_documents(scorer, split_vectors(dataset, args.split))
    kinds = {dataset.manifest["name"]: documents}
    report = gate_report(scorer, kinds, split=args.split, seed=args.seed)
    print("\n".join(gate_lines(report)))
    if args.write:
        gate = with_kinds(checkpoint.gate, report["kinds"])
        _write(args.checkpoint, gate)
        print(f"wrote {args.checkpoint / 'gate.json'}: the checkpoint is now {gate['verdict']}")
    return 0 if report["verdict"] == "passed" else 1


def _write(checkpoint: Path, gate: dict[str, Any]) -> None:
    """Replace the checkpoint's gate report, and the verdict that its card shows."""
    from models.checkpoint import CARD, GATE, write_atomically
    from training.card import with_verdict

    write_atomically(checkpoint / GATE, (json.dumps(gate, indent=2) + "\n").encode())
    card = checkpoint / CARD
    if card.is_file():
        write_atomically(card, with_verdict(card.read_text("utf-8"), gate).encode())
