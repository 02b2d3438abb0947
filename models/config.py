"""Configurations of the networks, frozen and checked when they are built."""

from dataclasses import dataclass
from typing import Literal, get_args

Arch = Literal["transformer", "lstm"]
Space = Literal["raw", "learned"]

CLASSIC_TEMPERATURE = 0.07


@dataclass(frozen=True, kw_only=True)
class P8Config:
    """Shape of a constrained mixture (P8) and of the parts that travel with it.

    Raises:
        ValueError: If a field is out of range; the message names field, expected and actual.
    """

    dimension: int
    """D, the dimension of the embedding vectors."""
    window: int = 5
    """L, the greatest number of context chunks."""
    arch: Arch = "transformer"
    """Encoder of the window."""
    space: Space = "learned"
    """``raw``: mix and score the vectors as they come; ``learned``: after the residual adapter."""
    hidden: int = 128
    """Width of the window encoder."""
    layers: int = 2
    """Depth of the window encoder."""
    heads: int = 4
    """Attention heads of the transformer encoder."""
    temperature: float = CLASSIC_TEMPERATURE
    """Temperature of the softmax over scores: a unit of the re-ranker's logit, in cosines."""
    adapter_hidden: int = 1024
    """Width of the adapter's hidden layer (learned space only)."""
    order_hidden: int = 256
    """Width of the order verifier's hidden layer."""
    dropout: float = 0.3
    """Dropout rate while training."""
    rerank: bool = False
    """Whether a set-wise re-ranker judges what the mixture retrieves."""
    rerank_hidden: int = 64
    """Width of the re-ranker's judgement of a candidate."""
    bag_hidden: int = 192
    """Width of the re-ranker's bag encoder, a multiple of 32."""
    bag_layers: int = 3
    """Depth of the bag encoder."""
    bag_rank: int = 64
    """Rank of each of the bag encoder's pair scores."""
    tower: bool = False
    """Whether a free-output query tower travels along, as the first level of the fallback."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("dimension", "window", "hidden", "layers", "heads"):
            _at_least_one(name, getattr(self, name))
        for name in ("adapter_hidden", "order_hidden", "rerank_hidden"):
            _at_least_one(name, getattr(self, name))
        for name in ("bag_hidden", "bag_layers", "bag_rank"):
            _at_least_one(name, getattr(self, name))
        if self.bag_hidden % 32:
            raise ValueError(f"bag_hidden: expected a multiple of 32, got {self.bag_hidden}")
        _one_of("arch", self.arch, get_args(Arch))
        _one_of("space", self.space, get_args(Space))
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden: expected a multiple of heads={self.heads}, got {self.hidden}"
            )
        if not self.temperature > 0.0:
            raise ValueError(f"temperature: expected > 0, got {self.temperature}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {self.dropout}")


def _at_least_one(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")
