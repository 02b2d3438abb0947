"""The training loop: batches of documents, one loss, validation and the kill criteria an epoch."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.config import P8Config
from models.model import P8Model
from models.p8 import QTower
from models.scoring import Floats, Method, Scorer
from training.batches import Batch, batches, own_part
from training.config import TrainConfig
from training.evaluation import tally_methods
from training.gate import kill_reason
from training.losses import combined_p8_loss, listwise_ranking_loss
from training.mining import Mined, mine_negatives
from training.protocols import project_documents
from training.reranking import rerank_loss
from training.state import (
    Progress,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from training.windows import Rows
from training.world import ALONE, World

VALIDATION_WINDOWS = 64
"""Most windows of a document that an epoch is judged by, spread over it; the gate takes all. A
novel's windows take forty times as long as an article's, for each is ranked among all chunks."""

Report = Callable[[dict[str, Any]], None]


def train_model(
    shape: P8Config,
    config: TrainConfig,
    train: Sequence[Floats],
    validation: Sequence[Floats],
    *,
    keep: Sequence[Rows] | None = None,
    state_folder: Path,
    identity: dict[str, Any],
    report: Report = lambda line: None,
    world: World = ALONE,
) -> tuple[P8Model, Progress]:
    """Train, resuming an unfinished run of the same identity.

    Of several processes the first one reads and writes the state, validates and reports; an
    unfinished run may go on with another number of them.

    Args:
        shape: Shape of the networks.
        config: Options.
        train: Documents to learn from, each (n, D) with n >= 2.
        validation: Documents that decide about the best epoch and early stopping.
        keep: For each training document the ``next`` rows to train on; all if None.
        state_folder: Where the unfinished run's state lies.
        identity: What must be equal for a resume: options and data fingerprint.
        report: Called with each epoch's line of metrics.
        world: The processes that train as one.

    Returns:
        The model with the best epoch's weights, in evaluation mode, and the run's progress. Only
        in the first process; in the others the last epoch's weights, and nothing of the progress.

    Raises:
        ResumeError: If an unfinished run with another identity lies in ``state_folder``.
        ValueError: If shape and loss have different temperatures.
    """
    if shape.temperature != config.loss.temperature:
        raise ValueError(
            f"temperature: expected that of the model, {shape.temperature}, in the loss too, "
            f"got {config.loss.temperature}"
        )
    torch.manual_seed(config.seed)
    model = P8Model(shape).to(world.device)
    optimizer = make_optimizer(model, config)
    progress = _resume(state_folder, identity, model, optimizer, world)
    mined = None
    if config.mined_negatives and len(train) > 1:
        mined = world.from_first(
            mine_negatives(train, config.mined_negatives, config.seed) if world.first else None
        )
    direct = _direct_r5(shape.window, validation) if world.first else 0.0
    while (epoch := world.from_first(_next_epoch(progress, config))) is not None:
        started = time.perf_counter()
        world.seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
        world.copy_first(model)
        with _repeatable(world.device):
            means = _run_epoch(model, optimizer, train, keep, mined, config, epoch, world)
        if not world.first:
            continue
        stepped = time.perf_counter()
        line = {"epoch": epoch + 1, **means, **_validate(model, validation)}
        line["validation_r@5_minus_direct"] = line["validation_r@5"] - direct
        _advance(progress, line, model)
        line["step_seconds"] = round(stepped - started, 3)
        line["seconds"] = round(time.perf_counter() - started, 3)
        progress.seconds += line["seconds"]
        progress.history.append(line)
        save_state(state_folder, identity, progress, model, optimizer)
        report(line)
    if world.first:
        model.load_state_dict(progress.best, strict=True)
    return model.cpu().eval(), progress


def _resume(
    folder: Path,
    identity: dict[str, Any],
    model: P8Model,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> Progress:
    """Restore an unfinished run from the first process's files, everywhere."""
    progress = load_state(folder, identity, model, optimizer) if world.first else Progress()
    moments = world.from_first(optimizer_tensors(optimizer))
    if not world.first:
        restore_optimizer(optimizer, moments)
    return progress


def _next_epoch(progress: Progress, config: TrainConfig) -> int | None:
    """The epoch to train, from 0; None if the run is over."""
    epoch = progress.epoch
    patient = not epoch or epoch - progress.best_epoch < config.patience
    return epoch if epoch < config.epochs and progress.killed is None and patient else None


def _advance(progress: Progress, line: dict[str, Any], model: P8Model) -> None:
    """Count an epoch, keep its weights if they are the best, and see whether to stop."""
    progress.epoch += 1
    if line["validation_mrr@10"] > progress.best_score:
        progress.best_score, progress.best_epoch = line["validation_mrr@10"], progress.epoch
        progress.best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    progress.killed = kill_reason(
        progress.epoch, line["validation_margin"], line["validation_r@5_minus_direct"]
    )


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Add gradients up in one order, however many threads there are, so that a resume is exact.

    PyTorch's gathers on several processors' threads otherwise add in whichever order they come.
    It would also fill all memory that it takes with NaN, which no result of ours depends on.
    """
    if device.type != "cpu":
        yield
        return
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    filled = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        options.fill_uninitialized_memory = filled


def make_optimizer(model: P8Model, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters, in one pass over their memory."""
    return torch.optim.AdamW(_groups(model, config), weight_decay=config.weight_decay, fused=True)


def _groups(model: P8Model, config: TrainConfig) -> list[dict[str, Any]]:
    """The verifier learns faster than the rest."""
    own = list(model.order.parameters())
    taken = {id(parameter) for parameter in own}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return [
        {"params": rest, "lr": config.learning_rate, "factor": 1.0},
        {"params": own, "lr": config.learning_rate, "factor": config.order_rate_factor},
    ]


def learning_rate_at(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then cosine decay to zero; ``step`` counts from 0."""
    warm = max(1, round(config.warmup * total))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _run_epoch(
    model: P8Model,
    optimizer: torch.optim.Optimizer,
    train: Sequence[Floats],
    keep: Sequence[Rows] | None,
    mined: Mined | None,
    config: TrainConfig,
    epoch: int,
    world: World,
) -> dict[str, float]:
    model.train()
    sums = np.zeros(4)
    steps = math.ceil(len(train) / config.batch_documents)
    bar = tqdm(
        batches(train, keep, config, model.config.window, epoch, mined),
        total=steps,
        desc=f"epoch {epoch + 1}/{config.epochs}",
        unit="batch",
        mininterval=0.5,
        leave=False,
        disable=not world.first,
    )
    for number, batch in enumerate(bar):
        rate = learning_rate_at(epoch * steps + number, config.epochs * steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        sums += train_step(model, optimizer, batch, config, world)
        if number % 10 == 9:
            bar.set_postfix(loss=f"{sums[0] * world.size / (number + 1):.3f}")
    means = world.add_up(torch.from_numpy(sums)).numpy() / steps
    names = ("loss", "listwise", "margin_hinge", "order")
    return {f"train_{name}": float(mean) for name, mean in zip(names, means, strict=True)}


def train_step(
    model: P8Model,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    world: World = ALONE,
) -> tuple[float, float, float, float]:
    """One step of the optimizer.

    Args:
        model: What is trained; the same in every process.
        optimizer: Its optimizer.
        batch: The whole batch, the same in every process.
        config: Options.
        world: The processes that share the step.

    Returns:
        The loss and its three parts, this process's share of each.
    """
    device = next(model.parameters()).device
    part, share = own_part(batch, world)
    # bfloat16 only where the machine gains from it; plain CPUs of the AVX2 kind lose.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        chunks_ND = batch.chunks_ND.to(device)
        with world.alike():  # a chunk is the same negative for everybody
            projected_ND = model.p8.project(chunks_ND)
        context_WL, mask_WL = part.context_WL.to(device), part.mask_WL.to(device)
        query_WD = model.p8.mix(projected_ND[context_WL], mask_WL).query_BD
        own_ND = chunks_ND[: batch.documents[-1][1].stop]  # no pair holds a mined chunk
        logit_P = model.order.pairs(own_ND, part.first_P, part.second_P)
        loss = combined_p8_loss(
            query_WD,
            projected_ND,
            part.next_W.to(device),
            part.prev_W.to(device),
            logit_P,
            part.later_P.to(device),
            weights=config.loss,
            mask_BK=part.allowed_WN.to(device),
            log_weight_BK=part.log_weight_WN.to(device),
            share=share,
        )
        total = loss.total
        if model.tower is not None:
            total = total + share.windows * _tower_loss(model.tower, chunks_ND, part, config)
    if model.reranker is not None:
        total = total + rerank_loss(model, model.reranker, batch, config.loss.temperature, world)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    world.add_up_gradients(model.parameters())
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return loss.total.item(), loss.listwise.item(), loss.margin.item(), loss.order.item()


def _tower_loss(
    tower: QTower, chunks_ND: torch.Tensor, batch: Batch, config: TrainConfig
) -> torch.Tensor:
    context_WLD = chunks_ND[batch.context_WL] * batch.mask_WL.to(chunks_ND.device)[..., None]
    return listwise_ranking_loss(
        tower(context_WLD, batch.mask_WL.to(chunks_ND.device)),
        chunks_ND,
        batch.next_W.to(chunks_ND.device),
        mask_BK=batch.allowed_WN.to(chunks_ND.device),
        log_weight_BK=batch.log_weight_WN.to(chunks_ND.device),
        temperature=config.loss.temperature,
    )


def _direct_r5(window: int, validation: Sequence[Floats]) -> float:
    scorer = Scorer(window=window)
    documents = project_documents(scorer, validation)
    tallies, _ = tally_methods(
        scorer, documents, [Method.DIRECT], classic8=False, most_windows=VALIDATION_WINDOWS
    )
    return tallies[Method.DIRECT].in_document.mean("r@5")


def _validate(model: P8Model, validation: Sequence[Floats]) -> dict[str, float]:
    """Ranking on the validation documents, without the order part: its weight comes later."""
    device = next(model.parameters()).device
    scorer = Scorer(model.cpu())
    documents = project_documents(scorer, validation)
    tallies, _ = tally_methods(
        scorer, documents, [Method.P8], classic8=False, most_windows=VALIDATION_WINDOWS
    )
    tally = tallies[Method.P8].in_document
    model.to(device)
    return {
        f"validation_{metric}": tally.mean(metric)
        for metric in ("r@1", "r@5", "mrr@10", "margin", "margin_last")
    }
