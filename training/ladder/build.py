"""From a row of the registry to its ranker, and to batches of the kind that it trains on.

Shapes: N chunks of a batch, W windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from models.config import P8Config
from models.scoring import Floats
from training.batches import Batch
from training.config import TrainConfig
from training.ladder.config import Budget, Free, Row
from training.ladder.free import (
    BLEND,
    Blend,
    Curriculum,
    Defended,
    Displacement,
    FreeOutput,
    MarginAlone,
    NextToken,
    Regression,
    RegressionMargin,
    fit_codebook,
)
from training.ladder.rankers import Direct, FixedWeights, Mean, P8Ranker, Ranker, TowerRanker
from training.ladder.recommenders import Core, SasRec


def build_ranker(row: Row, shape: P8Config, budget: Budget, train: Sequence[Floats]) -> Ranker:
    """Build a row's ranker, untrained; the same weights for the same seed.

    Args:
        row: Which row.
        shape: Shape of the networks; window, encoder and space follow the row.
        budget: For the seed and the number of epochs.
        train: Training documents, for P6's codebook.
    """
    torch.manual_seed(budget.seed)
    config = replace(shape, window=row.window, arch=row.arch, space=row.space)
    if row.kind == "free":
        assert row.free is not None
        return _free(row.free, config, budget, train)
    makers: dict[str, Callable[[], Ranker]] = {
        "direct": Direct,
        "mean": Mean,
        "fixed": lambda: FixedWeights(row.window),
        "p8": lambda: P8Ranker(
            config,
            order_rate_factor=TrainConfig().order_rate_factor,
            learned_temperature=row.learned_temperature,
        ),
        "qtower": lambda: TowerRanker(config),
        "core": lambda: Core(config, row.sampled),
        "sasrec": lambda: SasRec(config, row.sampled),
    }
    return makers[row.kind]()


def _free(name: Free, config: P8Config, budget: Budget, train: Sequence[Floats]) -> FreeOutput:
    makers: dict[Free, Callable[[], FreeOutput]] = {
        "p1": lambda: Regression(config),
        "p2": lambda: RegressionMargin(config),
        "p3": lambda: MarginAlone(config),
        "p4": lambda: Displacement(config),
        "p5": lambda: Curriculum(config, budget.epochs),
        "p6": lambda: NextToken(config, fit_codebook(train, budget.seed)),
        "p6b": lambda: Defended(config),
        "p7": lambda: Blend(config, BLEND),
        "p7-student": lambda: Blend(config, 1.0 - BLEND),
    }
    return makers[name]()


def train_options(row: Row, budget: Budget) -> TrainConfig:
    """Options that batches and the schedule of a row follow."""
    outside = {"document": 0.0, "both": TrainConfig().outside_weight, "batch": 1.0}
    return TrainConfig(
        epochs=budget.epochs,
        batch_documents=budget.batch_documents,
        learning_rate=budget.learning_rate,
        outside_weight=outside[row.candidates],
        seed=budget.seed,
    )


def as_the_row_sees_it(batch: Batch, row: Row) -> Batch:
    """Change a batch where the row's definitions differ from the usual ones.

    With the old ``prev`` the last chunk of the window is what the hinge repels, and a candidate, as
    ``[next, prev, negatives]`` makes it one. With negatives of the batch alone, the document's own
    chunks are none. Chunks before the target that judgement hides are hidden here too.
    """
    allowed_WN, prev_W = batch.allowed_WN.clone(), batch.prev_W
    rows_W = torch.arange(len(batch.next_W))
    for windows, chunks in batch.documents:
        own_wn = allowed_WN[windows, chunks]
        if row.candidates == "batch":
            own_wn[:] = False
        if row.hidden > row.window:
            back_wn = batch.next_W[windows, None] - torch.arange(chunks.start, chunks.stop)
            own_wn &= (back_wn < 1) | (back_wn > row.hidden)
    if row.old_prev:
        prev_W = batch.next_W - 1
        allowed_WN[rows_W, prev_W] = True
    allowed_WN[rows_W, batch.next_W] = True
    return replace(batch, allowed_WN=allowed_WN, prev_W=prev_W)
