"""The networks that travel together in one checkpoint."""

from torch import nn

from models.config import P8Config
from models.order import OrderVerifier
from models.p8 import P8Constrained, QTower, build_p8


class P8Model(nn.Module):
    """A constrained mixture, its order verifier and, by configuration, a query tower.

    Args:
        config: Shape of all parts.
    """

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.config = config
        self.p8: P8Constrained = build_p8(config)
        self.order = OrderVerifier(config.dimension, config.order_hidden, config.dropout)
        self.tower: QTower | None = QTower(config) if config.tower else None
