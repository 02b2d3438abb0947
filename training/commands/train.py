"""``train``: learn, judge, save."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.world import World, launcher, open_world

if TYPE_CHECKING:
    from training.dataset import PreparedDataset


_NOT_OPTIONS = ("command", "data", "out", "fresh", "run", "default_of")


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
        "train",
        help="train P8 on prepared folders, gate it and write a checkpoint",
        description="Train P8 on prepared folders, gate it and write a checkpoint. Several "
        "processes, on one machine or more, train as one when torchrun starts them: torchrun "
        "--standalone --nproc-per-node 2 -m training train DIR --out CKPT",
    )
    parser.add_argument(
        "data",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="prepared and embedded data; several folders are trained on as one, and each is a "
        "kind that the gate judges by itself",
    )
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
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is 0 whatever the gate says, for a failed gate is a result too."""
    from training.dataset import PreparedDataset
    from training.gate import gate_lines

    with open_world() as world:
        gate = _train(args, [PreparedDataset.open(path) for path in args.data], world)
    if world.first:
        print("\n".join(gate_lines(gate)))
        print(f"wrote {args.out} (model card: {args.out / 'README.md'})")
    return 0


def _train(
    args: argparse.Namespace, datasets: "list[PreparedDataset]", world: World
) -> dict[str, Any]:
    """Turn options into shape and configuration, and train."""
    from models.config import P8Config
    from training.config import TrainConfig, loss_for
    from training.run import train_checkpoint

    loss = loss_for(args.space)
    shape = P8Config(
        dimension=datasets[0].dimension,
        temperature=loss.temperature,
        window=args.window,
        arch=args.arch,
        space=args.space,
        rerank=args.rerank,
        tower=args.tower,
    )
    config = TrainConfig(
        epochs=args.epochs,
        seed=args.seed,
        subset=args.subset,
        candidates=args.candidates,
        loss=loss,
    )
    command = train_command(args, args.default_of)
    return train_checkpoint(
        datasets,
        args.out,
        shape,
        config,
        command=command,
        fresh=args.fresh,
        say=print,
        world=world,
    )


def train_command(args: argparse.Namespace, default_of: Callable[[str], Any]) -> str:
    """The command that starts this run again, defaults left out.

    It goes into the checkpoint, so absolute paths, the machine's own business, lose their folders.

    Args:
        args: Parsed arguments.
        default_of: Default of an option, by its name.
    """
    words = [*launcher(), "training", "train", *map(_place, args.data)]
    words += ["--out", _place(args.out)]
    for name, value in vars(args).items():
        if name in _NOT_OPTIONS or value == default_of(name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def _place(path: Path) -> str:
    return path.name if path.is_absolute() else str(path)
