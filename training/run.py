"""A whole run: split, train, calibrate, gate, evaluate, write the checkpoint and its report."""

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import round_weights, save_checkpoint
from models.config import P8Config
from models.model import P8Model
from models.scoring import Floats, Scorer
from training.calibration import fit_bag, fit_order_weight, fit_tau
from training.card import model_card
from training.config import TrainConfig
from training.dataset import PreparedDataset
from training.evaluation import evaluate_tallied
from training.folders import check_alike, describe
from training.gate import gate_report
from training.loop import train_model
from training.metrics_log import MetricsLog
from training.plots import plot_curves
from training.protocols import project_documents
from training.splits import documents_of
from training.state import Progress, discard_state
from training.subset import subset_windows
from training.windows import Rows
from training.world import ALONE, World

Say = Callable[[str], None]


class TooFewDocumentsError(ValueError):
    """A split has no document to train or to judge on."""


def split_vectors(dataset: PreparedDataset, split: str) -> list[Floats]:
    """Vectors (n, D) of every document of a split that has two chunks or more.

    They are views of the memory-mapped file, so that data need no memory of their own.

    Raises:
        TooFewDocumentsError: If there is none.
    """
    vectors = [
        dataset.vectors[document.start : document.start + document.count]
        for document in documents_of(dataset, split)
        if document.count >= 2
    ]
    if not vectors:
        raise TooFewDocumentsError(
            f"{dataset.path}: expected at least one document of two chunks in the {split} split, "
            f"got none of {len(dataset.documents)}; add documents"
        )
    return vectors


def train_checkpoint(
    datasets: Sequence[PreparedDataset],
    out: Path,
    shape: P8Config,
    config: TrainConfig,
    *,
    command: str = "",
    fresh: bool = False,
    say: Say = lambda line: None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train, judge and save; an interrupted run with the same options goes on where it stopped.

    Of several processes the first one judges, says and writes everything; the others only train.

    Args:
        datasets: Folders that are trained on as one, and judged together and one by one.
        out: Folder of the checkpoint.
        shape: Shape of the networks.
        config: Options.
        command: What a person typed to start this, for the model card.
        fresh: Discard an unfinished run in ``out``.
        say: Called with each line for a person.
        world: The processes that train as one; each has the data.

    Returns:
        The gate's report, as in gate.json; the same in every process.

    Raises:
        FoldersError: If two folders do not go together.
        TooFewDocumentsError: If a split of a folder is empty.
        ResumeError: If an unfinished run with other options lies in ``out``.
        WorldError: If processes have other options or data than the first.
    """
    check_alike(datasets)
    state_folder = out / "state"
    if world.first:
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            discard_state(state_folder)
    splits = {
        split: {data.manifest["name"]: split_vectors(data, split) for data in datasets}
        for split in ("train", "validation")
    }
    train, validation = _all(splits["train"]), _all(splits["validation"])
    keep = keep_windows(train, config)
    options = {"model": dataclasses.asdict(shape), "training": dataclasses.asdict(config)}
    identity = {**options, "data": "+".join(data.fingerprint for data in datasets)}
    world.check_same(identity)
    log = MetricsLog(out / "metrics.jsonl", say)
    model, progress = train_model(
        shape,
        config,
        train,
        validation,
        keep=keep,
        state_folder=state_folder,
        identity=identity,
        report=log.write,
        world=world,
    )
    gate: dict[str, Any] = {}
    if world.first:
        log.rewrite(progress.history)  # a resumed run may have logged an epoch that it repeated
        say("calibrating and judging on the validation documents")
        provenance = {
            "command": command,
            **options,
            **({"processes": world.size} if world.size > 1 else {}),
            "data": [describe(data, splits) for data in datasets],
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        gate = _judge_and_save(out, model, splits["validation"], progress, provenance)
        discard_state(state_folder)
    return world.from_first(gate)


def _judge_and_save(
    out: Path,
    model: P8Model,
    validation: Mapping[str, list[Floats]],
    progress: Progress,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write the checkpoint with its report; returns the gate's."""
    round_weights(model)
    seed = provenance["training"]["seed"]
    order_weight, report, gate = judge(model, validation, progress.killed, seed)
    metrics = {
        "split": "validation",
        "best_epoch": progress.best_epoch,
        "train_seconds": round(progress.seconds, 1),
        **report,
    }
    plot_curves(progress.history, report, out / "curves.png")
    save_checkpoint(
        out,
        model,
        order_weight=order_weight,
        gate=gate,
        metrics=metrics,
        provenance=provenance,
        card=model_card(gate, metrics, provenance, order_weight),
    )
    return gate


def judge(
    model: P8Model, validation: Mapping[str, list[Floats]], killed: str | None, seed: int
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Calibrate on validation documents of every kind, evaluate there and pass judgement.

    Returns:
        The order weight, the validation report and the gate's report.
    """
    kinds = {name: project_documents(Scorer(model), own) for name, own in validation.items()}
    documents = [document for own in kinds.values() for document in own]
    tau = fit_tau(model, documents, seed)
    bag = fit_bag(model, documents, seed)
    order_weight, tried = fit_order_weight(model, documents)
    scorer = Scorer(model, order_weight=order_weight)
    report, tallies = evaluate_tallied(scorer, _all(validation), seed=seed, corpus=False)
    report["calibration"] = {
        "tau": tau,
        "bag": bag,
        "order_weight": order_weight,
        "mrr@10_by_weight": tried,
    }
    gate = gate_report(scorer, kinds, killed=killed, seed=seed, tallies=tallies)
    return order_weight, report, gate


def _all(by_kind: Mapping[str, list[Floats]]) -> list[Floats]:
    return [document for own in by_kind.values() for document in own]


def keep_windows(train: list[Floats], config: TrainConfig) -> list[Rows] | None:
    """The ``next`` rows of each document that ``config.subset`` leaves; None if it leaves all."""
    if config.subset is None:
        return None
    chosen = subset_windows([len(document) for document in train], config.subset, config.seed)
    return [chosen[chosen[:, 0] == number, 1] for number in range(len(train))]
