"""``embed``: turn the chunks of a prepared folder into vectors."""

import argparse
import time
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "embed",
        help="embed the chunks of a prepared folder",
        description="Embed the chunks of a prepared folder. An interrupted run goes on where it "
        "stopped; a finished one is not repeated, unless the model changed.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="prepared folder")
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="sentence-transformers model (default: all-MiniLM-L6-v2, from its offline package "
        "where that is installed)",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="multiply matrices in bfloat16: twice as fast on processors that have it (default: "
        "off)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="embed the I-th of N parts alone, into DIR/shards; merge-shards joins them (default: "
        "everything)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Embed, and say what was done.

    Raises:
        ValueError: If the folder or the model is at fault.
    """
    from models.embedder import find_embedder, load_embedder
    from training.dataset import PreparedDataset
    from training.embed import embed_dataset, is_embedded
    from training.shards import Shard, embed_shard

    shard = None if arguments.shard is None else Shard.parse(arguments.shard)
    dataset = PreparedDataset.open(arguments.data)
    source = find_embedder(arguments.model)
    if is_embedded(dataset, source):
        print(f"{arguments.data}: already embedded with {source.name}, nothing to do")
        return 0
    embedder = load_embedder(arguments.model, bfloat16=arguments.bfloat16)
    started = time.perf_counter()
    if shard is not None:
        count = embed_shard(dataset, embedder, shard)
        print(
            f"{shard.folder(dataset)}: {count} vectors of {embedder.dimension} dimensions by "
            f"{embedder.name} in {time.perf_counter() - started:.0f} s"
        )
        return 0
    dataset = embed_dataset(dataset, embedder)
    print(
        f"{arguments.data}: {dataset.chunk_count} vectors of {dataset.dimension} dimensions by "
        f"{embedder.name} in {time.perf_counter() - started:.0f} s"
    )
    return 0
