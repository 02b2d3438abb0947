"""``merge-shards``: join what ``embed --shard`` embedded."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "merge-shards",
        help="join the shards of a prepared folder that were embedded one by one",
        description="Join the shards that embed --shard left in DIR/shards into DIR/vectors.npy, "
        "and remove them. Shards from other machines are copied there first. All must be "
        "finished, of the same data and by the same model; otherwise nothing is changed.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Merge, and say what came of it.

    Raises:
        ValueError: If the folder or a shard is at fault.
    """
    from training.dataset import PreparedDataset
    from training.shards import merge_shards

    dataset, shards = merge_shards(PreparedDataset.open(arguments.data))
    print(
        f"{arguments.data}: {dataset.chunk_count} vectors of {dataset.dimension} dimensions by "
        f"{dataset.manifest['vectors']['model']}, from {shards} shards"
    )
    return 0
