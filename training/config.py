"""Options of a training run, frozen and checked."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from models.config import Space
from training.losses import LossWeights

LEARNED_TEMPERATURE = 0.15
"""A softer softmax than the classic 0.07 makes a learned space spread: the margin grows by two
thirds and the ranking stays (docs/LOG.md). The raw space cannot spread."""

CandidateKind = Literal["document", "classic8"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train, beside the shape of the network (``models.config.P8Config``).

    Raises:
        ValueError: If a field is out of range; the message names field, expected and actual.
    """

    epochs: int = 6
    """Greatest number of passes over the training documents."""
    batch_documents: int = 8
    """Documents a step; all their windows are trained at once."""
    learning_rate: float = 1e-3
    """Peak of the warm-up and cosine schedule."""
    order_rate_factor: float = 2.0
    """How many times faster the order verifier learns."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    warmup: float = 0.05
    """Share of all steps spent warming up."""
    clip: float = 1.0
    """Greatest norm of the gradient."""
    patience: int = 6
    """Epochs without a better validation MRR@10 before an early stop."""
    candidates: CandidateKind = "document"
    """Listwise candidates: every chunk of the document, or the classic set of 8."""
    outside_weight: float = 0.1
    """How much a chunk of another document of the batch counts as a negative; 0 for not at all."""
    mined_negatives: int = 32
    """Hard negatives of each document from others, mined by an index; 0 for none."""
    pairs_per_document: int = 128
    """Order pairs drawn from a document a step."""
    subset: int | None = None
    """Train on this many windows, the same share of every document; all if None."""
    seed: int = 0
    """Seed of initial weights, shuffling, negatives and dropout."""
    loss: LossWeights = field(default_factory=LossWeights)
    """Weights and constants of the loss; its temperature is the model's too."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("epochs", "batch_documents", "patience", "pairs_per_document"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.mined_negatives < 0:
            raise ValueError(f"mined_negatives: expected at least 0, got {self.mined_negatives}")
        for name in ("warmup", "outside_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if self.subset is not None and self.subset < 1:
            raise ValueError(f"subset: expected at least 1 window, got {self.subset}")
        if self.candidates not in get_args(CandidateKind):
            raise ValueError(
                f"candidates: expected one of {get_args(CandidateKind)}, got {self.candidates!r}"
            )


def loss_for(space: Space) -> LossWeights:
    """The loss that ``train`` uses in a space."""
    if space == "raw":
        return LossWeights()
    return LossWeights(temperature=LEARNED_TEMPERATURE, hinge=LEARNED_TEMPERATURE)
