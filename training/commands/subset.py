"""``subset``: a smaller prepared folder of the same make-up."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "subset",
        help="write a smaller prepared folder",
        description="Write whole documents of a prepared folder as another one, alike in split, "
        "source, licence and document length. Vectors are copied.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared folder to draw from")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR2", help="folder to write")
    parser.add_argument(
        "--windows",
        type=int,
        required=True,
        metavar="N",
        help="windows to keep, about: documents stay whole (no default)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the subset, and say what it holds.

    Raises:
        ValueError: If the folder or the number is at fault.
    """
    from training.dataset import PreparedDataset
    from training.subset import SubsetError, write_subset

    if arguments.out.resolve() == arguments.data.resolve():
        raise SubsetError(f"--out: expected another folder than DIR, got {arguments.out}")
    dataset = PreparedDataset.open(arguments.data)
    smaller = write_subset(dataset, arguments.out, arguments.windows, arguments.seed)
    documents = len(smaller.documents)
    print(
        f"{arguments.out}: {documents} documents, {smaller.chunk_count} chunks, "
        f"{smaller.chunk_count - documents} windows"
    )
    return 0
