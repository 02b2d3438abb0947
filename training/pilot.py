"""The pilot: 10,000 windows, two epochs, the kill criteria, and a verdict in under a minute."""

import time
from pathlib import Path
from typing import Any

from models.config import P8Config
from models.scoring import Method, Scorer
from training.config import TrainConfig, loss_for
from training.dataset import PreparedDataset
from training.evaluation import differences, tally_methods
from training.loop import Report, train_model
from training.protocols import project_documents
from training.run import keep_windows, split_vectors

PILOT_WINDOWS = 10_000
PILOT_EPOCHS = 2


def run_pilot(
    dataset: PreparedDataset, shape: P8Config, seed: int, scratch: Path, report: Report
) -> dict[str, Any]:
    """Train briefly and say whether a full run is worth its time.

    Returns:
        ``verdict`` (``go`` or ``stop``), ``reason``, ``windows``, ``seconds``, and the validation
        differences to DIRECT with their intervals.
    """
    started = time.perf_counter()
    train, validation = split_vectors(dataset, "train"), split_vectors(dataset, "validation")
    windows = min(PILOT_WINDOWS, sum(len(document) - 1 for document in train))
    config = TrainConfig(
        epochs=PILOT_EPOCHS,
        subset=windows,
        seed=seed,
        pairs_per_document=32,
        batch_documents=16,
        mined_negatives=0,
        loss=loss_for(shape.space),
    )
    model, progress = train_model(
        shape,
        config,
        train,
        validation,
        keep=keep_windows(train, config),
        state_folder=scratch,
        identity={"pilot": dataset.fingerprint, "seed": seed},
        report=report,
    )
    scorer = Scorer(model)
    documents = project_documents(scorer, validation)
    tallies, _ = tally_methods(scorer, documents, [Method.DIRECT, Method.P8], classic8=False)
    return {
        "verdict": "go" if progress.killed is None else "stop",
        "reason": progress.killed or "no kill criterion was met",
        "windows": windows,
        "epochs": progress.epoch,
        "difference": {
            metric: estimate.json()
            for metric, estimate in differences(tallies, "in_document", Method.P8, seed).items()
        },
        "margin": round(tallies[Method.P8].in_document.mean("margin"), 6),
        "seconds": round(time.perf_counter() - started, 1),
    }
