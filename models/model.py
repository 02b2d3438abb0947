"""The networks that travel together in one checkpoint."""

from torch import nn

from models.config import P8Config
from models.order import OrderVerifier
from models.p8 import P8Constrained, QTower, build_p8
from models.rerank import SetReranker


class P8Model(nn.Module):
    """A constrained mixture, its order verifier and, if configured, a re-ranker and a query tower.

    Args:
        config: Shape of all parts.
    """

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.config = config
        self.p8: P8Constrained = build_p8(config)
        self.order = OrderVerifier(config.dimension, config.order_hidden, config.dropout)
        self.reranker: SetReranker | None = SetReranker(config) if config.rerank else None
        self.tower: QTower | None = QTower(config) if config.tower else None
