"""How long training takes: the pilot, and an epoch of P8 beside one of RecBole's CORE, in turns.

    python -m benchmarks.epochs DATA [--recbole-python PATH]

DATA is a prepared and embedded folder. CORE (Hou et al., SIGIR 2022) is what P8's learned space
takes after: a transformer that mixes a session's items in the space in which they are scored.
Documents are the sessions and chunks the items, and both train on the same windows with encoders
of the same depth, width and threads, each in its own batches. The jobs differ all the same: CORE
learns a vector an item and ranks the next one among all items of the catalogue; P8 is given the
vectors, learns one map for all of them and an order verifier, and ranks among the batch's chunks
and hard negatives. So CORE's time grows with windows times items, P8's with windows.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serving import machine
from models.config import P8Config
from training.config import TrainConfig, loss_for
from training.dataset import PreparedDataset
from training.loop import train_model
from training.run import split_vectors
from training.windows import document_windows

WINDOW = 5
SHAPE = P8Config(dimension=1, window=WINDOW)  # of which the encoder's shape counts here
NAME = "chunks"
RUN_RECBOLE = """
from recbole.quick_start import run_recbole
run_recbole(model="CORE", dataset="chunks", config_file_list=["core.yaml"], saved=False)
"""
CONFIG = """
data_path: .
benchmark_filename: [train, valid, test]
load_col: {{inter: [session_id, item_id_list, item_id]}}
alias_of_item_id: [item_id_list]
USER_ID_FIELD: session_id
ITEM_LIST_LENGTH_FIELD: item_length
MAX_ITEM_LIST_LENGTH: {window}
train_neg_sample_args: null
epochs: 1
eval_step: 0
use_gpu: false
show_progress: false
dnn_type: {kind}
embedding_size: {width}
inner_size: {inner}
n_layers: {layers}
n_heads: {heads}
"""
HOW_TO = """RecBole is not measured: give --recbole-python. It needs an environment of its own:

    python3 -m venv recbole-venv
    recbole-venv/bin/pip install recbole==1.2.1 'numpy<2' 'pandas<2.3' 'scipy<1.14' \\
        'setuptools<81' torch==2.13.0
    python -m benchmarks.epochs DATA --recbole-python recbole-venv/bin/python
"""
LOGGED = re.compile(r"epoch 0 training \[time: ([\d.]+)s")

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def main() -> None:
    """Measure in turns and print a table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    dataset = PreparedDataset.open(args.data)
    documents = some_documents(split_vectors(dataset, "train"), args.windows)
    validation = split_vectors(dataset, "validation")[:2]
    windows = sum(len(document) - 1 for document in documents)
    chunks = windows + len(documents)
    print(f"{machine()}; {args.threads} threads")
    print(f"{dataset.manifest['name']}: {len(documents)} documents, {chunks:,} chunks", flush=True)
    runs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sessions(folder / NAME, [len(document) for document in documents])
        for turn in range(args.turns):
            print(f"turn {turn + 1} of {args.turns}", file=sys.stderr, flush=True)
            for name, rerank in (("P8", False), ("P8 with re-ranker", True)):
                seconds = p8_epoch(documents, validation, folder / f"{turn}-{rerank}", rerank)
                runs.setdefault(name, []).append(seconds)
            if args.recbole_python is None:
                continue
            for kind, width in (("trm", SHAPE.hidden), ("trm", dataset.dimension)):
                seconds = core_epoch(folder, args.recbole_python, args.threads, kind, width)
                runs.setdefault(f"CORE ({kind}), {width} wide", []).append(seconds)
    print("\n".join(table(runs, windows)))
    if args.recbole_python is None:
        print(f"\n{HOW_TO}")
    if args.pilot:
        print(f"\npilot, from the command to its verdict: {pilot_seconds(args):.1f} s")


def some_documents(documents: Sequence[Vectors], windows: int | None) -> list[Vectors]:
    """Every document, or as many from the first on as have that many windows."""
    if windows is None:
        return list(documents)
    ends = np.cumsum([len(document) - 1 for document in documents])
    return list(documents[: int(np.searchsorted(ends, windows)) + 1])


def write_sessions(folder: Path, lengths: Sequence[int]) -> None:
    """Write every window of documents of these lengths as RecBole's atomic files.

    Chunks are numbered from 1 on through all documents. RecBole asks for files to judge on, too;
    they hold a few of the same windows and count for nothing.
    """
    lines = []
    first = 1
    for length in lengths:
        windows = document_windows(length, WINDOW)
        for context_L, mask_L, following in zip(
            windows.context_WL, windows.mask_WL, windows.next_W, strict=True
        ):
            items = " ".join(str(first + row) for row in context_L[mask_L])
            lines.append(f"{len(lines)}\t{items}\t{first + following}\n")
        first += length
    folder.mkdir(parents=True)
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    for part, some in (("train", lines), ("valid", lines[:16]), ("test", lines[:16])):
        (folder / f"{NAME}.{part}.inter").write_text(head + "".join(some))


def p8_epoch(
    documents: list[Vectors], validation: list[Vectors], state: Path, rerank: bool
) -> float:
    """Seconds of the first epoch's steps, as ``python -m training train`` takes them."""
    loss = loss_for("learned")
    shape = P8Config(
        dimension=documents[0].shape[1],
        window=WINDOW,
        temperature=loss.temperature,
        rerank=rerank,
    )
    lines: list[dict[str, Any]] = []
    train_model(
        shape,
        TrainConfig(epochs=1, loss=loss),
        documents,
        validation,
        state_folder=state,
        identity={},
        report=lines.append,
    )
    return float(lines[0]["step_seconds"])


def core_epoch(scratch: Path, python: Path, threads: int, kind: str, width: int) -> float:
    """Seconds of CORE's first epoch, as RecBole itself logs them.

    Raises:
        RuntimeError: If RecBole logs no epoch.
    """
    shape = {"layers": SHAPE.layers, "heads": SHAPE.heads, "inner": 4 * SHAPE.hidden}
    text = CONFIG.format(window=WINDOW, kind=kind, width=width, **shape)
    (scratch / "core.yaml").write_text(text)
    done = subprocess.run(
        [python, "-W", "ignore", "-c", RUN_RECBOLE],
        cwd=scratch,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = LOGGED.search(done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"RecBole: expected an epoch in its log, got:\n{done.stderr[-2000:]}")
    return float(found[1])


def pilot_seconds(args: argparse.Namespace) -> float:
    """Seconds of ``python -m training pilot``, imports and all."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "training", "pilot", str(args.data)],
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,  # a verdict of "stop" is an answer, too
    )
    return time.perf_counter() - started


def table(runs: dict[str, list[float]], windows: int) -> list[str]:
    """Markdown lines: each run's epochs, their median, windows a second and ratio to P8's."""
    ours = statistics.median(runs["P8"])
    lines = [
        f"| an epoch of {windows:,} windows | seconds, by turn | median | windows/s | times P8 |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in runs.items():
        median = statistics.median(seconds)
        turns = ", ".join(f"{second:.1f}" for second in seconds)
        lines.append(
            f"| {name} | {turns} | {median:.1f} | {windows / median:,.0f} | {median / ours:.2f} |"
        )
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path, metavar="DATA", help="prepared and embedded folder")
    parser.add_argument(
        "--recbole-python",
        type=Path,
        metavar="PATH",
        help="Python of an environment with RecBole (default: RecBole is left out)",
    )
    parser.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help="as many documents as have about N windows (default: all of the train split)",
    )
    parser.add_argument("--turns", type=int, default=3, help="epochs of each (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each (default: 2)")
    parser.add_argument(
        "--pilot",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the pilot, too (default: on)",
    )
    args = parser.parse_args()
    if args.recbole_python is not None:
        args.recbole_python = args.recbole_python.absolute()
    return args


if __name__ == "__main__":
    main()
