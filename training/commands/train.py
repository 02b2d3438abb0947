"""``train``: learn, judge, save."""

import argparse
from pathlib import Path


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Options that shape the network, the same for ``train`` and ``pilot``."""
    parser.add_argument(
        "--arch",
        choices=["transformer", "lstm"],
        default="transformer",
        help="encoder of the window (default: transformer)",
    )
    parser.add_argument(
        "--space",
        choices=["raw", "learned"],
        default="learned",
        help="mix and score the vectors as they come, or after a learned adapter "
        "(default: learned)",
    )
    parser.add_argument(
        "--window", type=int, default=5, metavar="L", help="greatest context length (default: 5)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: 0)"
    )


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``python -m training``."""
    parser = subparsers.add_parser(
        "train", help="train P8 on a prepared folder, gate it and write a checkpoint"
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared and embedded data")
    parser.add_argument("--out", type=Path, required=True, metavar="CKPT", help="checkpoint folder")
    add_network_options(parser)
    parser.add_argument(
        "--rerank",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train a set-wise re-ranker of what the mixture retrieves (default: on)",
    )
    parser.add_argument(
        "--subset",
        type=int,
        metavar="N",
        help="train on N windows, the same share of every document (default: all windows)",
    )
    parser.add_argument(
        "--epochs", type=int, default=6, help="greatest number of epochs (default: 6)"
    )
    parser.add_argument(
        "--candidates",
        choices=["document", "classic8"],
        default="document",
        help="listwise candidates: every chunk of the document, or 8 (default: document)",
    )
    parser.add_argument(
        "--tower",
        action="store_true",
        help="also train a query tower, the fallback's first level (default: off)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="discard an unfinished run in CKPT (default: resume it)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is 0 whatever the gate says, for a failed gate is a result too."""
    from models.config import P8Config
    from training.config import TrainConfig
    from training.dataset import PreparedDataset
    from training.gate import gate_lines
    from training.run import train_checkpoint

    dataset = PreparedDataset.open(args.data)
    shape = P8Config(
        dimension=dataset.dimension,
        window=args.window,
        arch=args.arch,
        space=args.space,
        rerank=args.rerank,
        tower=args.tower,
    )
    config = TrainConfig(
        epochs=args.epochs, seed=args.seed, subset=args.subset, candidates=args.candidates
    )
    gate = train_checkpoint(dataset, args.out, shape, config, fresh=args.fresh, say=print)
    print("\n".join(gate_lines(gate)))
    print(f"wrote {args.out} (model card: {args.out / 'README.md'})")
    return 0
