"""One small trainer for every row: AdamW, one schedule, the best epoch by validation MRR@10."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.config import P8Config
from models.model import P8Model
from models.scoring import Floats
from training.batches import batches
from training.calibration import fit_tau
from training.config import TrainConfig
from training.ladder.build import as_the_row_sees_it, train_options
from training.ladder.config import Budget, Row
from training.ladder.judge import tally_rows
from training.ladder.rankers import Learner
from training.loop import learning_rate_at
from training.losses import order_verifier_loss
from training.metrics import Tally
from training.protocols import DocumentVectors
from training.windows import Rows

MEASURED_DOCUMENTS = 80
"""Documents of a split whose margins are measured after an epoch."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Documents, as raw unit vectors (n, D), and the windows to train on."""

    train: list[Floats]
    keep: list[Rows]
    """For each training document the ``next`` rows to train on."""
    validation: list[Floats]
    test: list[Floats]


def fit_row(learner: Learner, row: Row, data: Data, budget: Budget) -> list[dict[str, Any]]:
    """Train a row and leave it with its best epoch's weights, in evaluation mode.

    Returns:
        A line an epoch: losses, margins on training and validation windows, validation R@5 and
        MRR@10, ``cos_anchor``, and what the row itself has to tell.
    """
    config = train_options(row, budget)
    optimizer = torch.optim.AdamW(
        {
            "params": list(group.parameters),
            "factor": group.rate_factor,
            "weight_decay": config.weight_decay if group.decays else 0.0,
        }
        for group in learner.groups()
    )
    steps = math.ceil(len(data.train) / config.batch_documents)
    best, history = -math.inf, []
    weights: dict[str, torch.Tensor] = {}
    with tqdm(total=steps * config.epochs, desc=row.name, unit="batch", leave=False) as bar:
        for epoch in range(config.epochs):
            started = time.perf_counter()
            loss = _run_epoch(learner, optimizer, row, data, config, epoch, steps, bar)
            line = {"epoch": epoch + 1, "train_loss": loss, **_measure(learner, row, data)}
            line |= {**learner.told(), "seconds": time.perf_counter() - started}
            history.append({name: round(value, 6) for name, value in line.items()})
            if line["validation_mrr@10"] > best:
                best = line["validation_mrr@10"]
                weights = {k: v.detach().clone() for k, v in learner.state_dict().items()}
    learner.load_state_dict(weights, strict=True)
    learner.eval()
    return history


def _run_epoch(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    row: Row,
    data: Data,
    config: TrainConfig,
    epoch: int,
    steps: int,
    bar: "tqdm[Any]",
) -> float:
    learner.train()
    torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
    total = 0.0
    for number, batch in enumerate(batches(data.train, data.keep, config, row.window, epoch)):
        rate = learning_rate_at(epoch * steps + number, config.epochs * steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        bar.update()
        if not len(batch.next_W):
            continue
        loss = learner.loss(as_the_row_sees_it(batch, row), epoch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.parameters(), config.clip)
        optimizer.step()
        total += loss.item()
    return total / steps


def _measure(learner: Learner, row: Row, data: Data) -> dict[str, float]:
    learner.eval()
    some = slice(MEASURED_DOCUMENTS)
    seen = tally_rows(learner, data.train[some], row, keep=data.keep[some], anchor=False)
    unseen = tally_rows(learner, data.validation, row, anchor=False)
    apart = tally_rows(learner, data.validation[some], row)
    return {
        **_means("train", seen, ("margin", "margin_last")),
        **_means("validation", unseen, ("margin", "margin_last", "r@5", "mrr@10")),
        "cos_anchor": apart.mean("cos_anchor"),
    }


def _means(split: str, tally: Tally, metrics: Sequence[str]) -> dict[str, float]:
    return {f"{split}_{metric}": tally.mean(metric) for metric in metrics}


def fit_verifier(shape: P8Config, row: Row, data: Data, budget: Budget) -> P8Model:
    """Train and calibrate the order verifier that rows without one of their own share.

    Returns:
        Networks of which only ``order`` is trained.
    """
    torch.manual_seed(budget.seed)
    model = P8Model(shape)
    config = train_options(row, budget)
    optimizer = torch.optim.AdamW(model.order.parameters(), weight_decay=config.weight_decay)
    steps = math.ceil(len(data.train) / config.batch_documents)
    with tqdm(total=steps * config.epochs, desc="verifier", unit="batch", leave=False) as bar:
        for epoch in range(config.epochs):
            model.train()
            for number, batch in enumerate(batches(data.train, data.keep, config, 1, epoch)):
                rate = learning_rate_at(epoch * steps + number, config.epochs * steps, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate * config.order_rate_factor
                logit_P = model.order.pairs(batch.chunks_ND, batch.first_P, batch.second_P)
                loss = order_verifier_loss(logit_P, batch.later_P)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                bar.update()
    model.eval()
    fit_tau(model, [DocumentVectors(raw_ND=raw, projected_ND=raw) for raw in data.validation])
    return model
