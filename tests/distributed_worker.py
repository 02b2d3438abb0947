"""What each process of a distributed test runs: ``torchrun -m tests.distributed_worker``.

learn OUT [--dropout RATE] [--stop-after EPOCH]
    train on synthetic documents; leave the weights of every process and the first one's losses
train OUT DIR DIR
    ``python -m training train``, the first process on one folder, the others on another
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.synthetic import shape, walks
from training.__main__ import main as training
from training.config import TrainConfig
from training.loop import train_model
from training.world import ElsewhereError, open_world, process_name

CONFIG = TrainConfig(epochs=2, batch_documents=5, pairs_per_document=31, mined_negatives=8)


def learn(out: Path, dropout: float, stop_after: int) -> None:
    """Train, and leave what came of it."""

    def report(line: dict[str, Any]) -> None:
        if line["epoch"] == stop_after:
            raise ArithmeticError("stopped on purpose")

    with open_world() as world:
        model, progress = train_model(
            shape(dropout=dropout, rerank=True, tower=True),
            CONFIG,
            walks(1, 12),
            walks(2, 4),
            state_folder=out / "state",
            identity={},
            report=report,
            world=world,
        )
        save_file(model.state_dict(), out / f"process-{world.rank}.safetensors")
        if world.first:
            (out / "history.json").write_text(json.dumps(progress.history))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["learn", "train"])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="*")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--stop-after", type=int, default=0)
    words = parser.parse_args()
    if words.command == "learn":
        try:
            learn(words.out, words.dropout, words.stop_after)
        except ElsewhereError:
            sys.exit(2)
    else:
        mine = words.data[0 if process_name().startswith("process 0") else 1]
        sys.exit(training(["train", mine, "--out", str(words.out), "--epochs", "1"]))
