"""``prepare``: read documents, chunk them, write the folder that everything else starts from."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.chunking import ChunkingConfig
    from training.raw import RawDocument


class PrepareError(ValueError):
    """The flags do not go together."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its flags."""
    parser = subparsers.add_parser(
        "prepare",
        help="read and chunk documents into a prepared folder",
        description="Read documents (JSON lines, JATS XML, Markdown, HTML, plain text, NPZ "
        "sequences, or folders of these), cut them into chunks, and write a prepared folder.",
    )
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="files and folders; none with --demo"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE.npy",
        help="vectors of all chunks, one row a chunk in reading order (default: none; "
        "'embed' makes them)",
    )
    parser.add_argument(
        "--vectors-model",
        metavar="NAME",
        help="model that made --vectors or those in NPZ inputs, for the manifest "
        "(default: unknown)",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="add the demo corpus: the documentation inside this Python (default: off)",
    )
    parser.add_argument(
        "--packages",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="with --demo, add the docstrings of these installed packages, such as numpy torch "
        "(default: none)",
    )
    parser.add_argument(
        "--topics",
        action="store_true",
        help="with --demo, take the language reference alone, a thousand chunks (default: off)",
    )
    parser.add_argument("--name", help="name of the data (default: the name of --out)")
    parser.add_argument(
        "--min-words",
        type=int,
        default=15,
        help="shorter paragraphs join a neighbour (default: 15; 0 joins none)",
    )
    parser.add_argument(
        "--max-words",
        type=int,
        default=300,
        help="longer paragraphs are cut at sentence ends (default: 300)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, and say what was written.

    Raises:
        ValueError: If the flags or an input are at fault.
    """
    from training.chunking import ChunkingConfig
    from training.dataset_writer import DatasetWriter

    _check(arguments)
    chunking = ChunkingConfig(min_words=arguments.min_words, max_words=arguments.max_words)
    options = {
        "inputs": [path.name or str(path) for path in arguments.inputs],
        "demo": arguments.demo,
        "packages": list(arguments.packages),
        "topics": arguments.topics,
        "min_words": chunking.min_words,
        "max_words": chunking.max_words,
    }
    name = arguments.name or arguments.out.resolve().name
    model = arguments.vectors_model
    with DatasetWriter(arguments.out, name=name, options=options, carried_model=model) as writer:
        for document in _documents(arguments, chunking):
            writer.add(document)
        if arguments.vectors is not None:
            writer.attach_vectors(arguments.vectors, model=model)
    print(f"{arguments.out}: {writer.documents} documents, {writer.chunks} chunks")
    if not writer.has_vectors:
        print(f"next: python -m training embed {arguments.out}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.inputs and not arguments.demo:
        raise PrepareError("INPUT: expected at least one file or folder, or --demo, got none")
    if arguments.packages and not arguments.demo:
        raise PrepareError("--packages: expected --demo beside it, got --packages alone")
    if arguments.topics and not arguments.demo:
        raise PrepareError("--topics: expected --demo beside it, got --topics alone")


def _documents(
    arguments: argparse.Namespace, chunking: "ChunkingConfig"
) -> "Iterator[RawDocument]":
    from training.readers import read_inputs

    yield from read_inputs(arguments.inputs, chunking)
    if arguments.demo:
        from training.demo import demo_documents

        yield from demo_documents(arguments.packages, chunking, topics_alone=arguments.topics)
