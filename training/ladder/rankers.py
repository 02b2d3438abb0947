"""What a row ranks with, and what it learns by: the baselines, P8 and the query tower.

Shapes: N chunks of a document or batch, W windows, L window length, D dimension, P order pairs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import CLASSIC_TEMPERATURE, P8Config
from models.model import P8Model
from models.p8 import QTower
from training.batches import Batch
from training.losses import (
    LossWeights,
    combined_p8_loss,
    listwise_ranking_loss,
    order_verifier_loss,
    prev_repel_margin_loss,
)

WEIGHTS = LossWeights()
SINGLE_RATE = 30.0
"""How many times faster single numbers learn: at a network's rate they would hardly move."""


class Group(NamedTuple):
    """Parameters that learn alike."""

    parameters: Iterable[nn.Parameter]
    rate_factor: float = 1.0
    """How many times faster than the schedule."""
    decays: bool = True
    """Whether weight decay pulls them towards 0."""


class Ranker(nn.Module, ABC):
    """Turns windows into queries, and scores chunks by them."""

    def space(self, chunks_ND: Tensor) -> Tensor:
        """Map raw unit vectors (N, D) into the space that queries are scored in."""
        return chunks_ND

    @abstractmethod
    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """Queries (W, D) of windows, given as rows of the raw chunks and of the same in space."""

    def score(self, query_WD: Tensor, space_ND: Tensor) -> Tensor:
        """Scores (W, N), in the unit of cosines; higher is better."""
        return query_WD @ space_ND.T

    @property
    def networks(self) -> P8Model | None:
        """Networks whose order verifier was trained along, or None."""
        return None

    @property
    def mixes_in_its_own_space(self) -> bool:
        """Whether queries are mixtures in a space that was learned, with a ceiling of its own."""
        return False


class Learner(Ranker):
    """A ranker with weights, and the loss that they follow."""

    @abstractmethod
    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Scalar loss of a batch; ``epoch`` counts from 0."""

    def groups(self) -> list[Group]:
        """All parameters, by how they learn."""
        return [Group(self.parameters())]

    def told(self) -> dict[str, float]:
        """What the row has to tell after an epoch, beside its metrics."""
        return {}


class Direct(Ranker):
    """DIRECT: the last chunk is the query."""

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return chunks_ND[context_WL[:, -1]]


class Mean(Ranker):
    """The mean of the window is the query."""

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return functional.normalize((chunks_ND[context_WL] * mask_WL[..., None]).sum(1), dim=-1)


class FixedWeights(Learner):
    """One weight a place of the window, the same for every window; P8's loss without a verifier.

    Args:
        window: L.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.place_L = nn.Parameter(torch.zeros(window))

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        alpha_WL = torch.softmax(self.place_L.masked_fill(~mask_WL, float("-inf")), dim=-1)
        mixed_WD = torch.einsum("wl,wld->wd", alpha_WL, chunks_ND[context_WL])
        return functional.normalize(mixed_WD, dim=-1)

    def groups(self) -> list[Group]:
        """See ``Learner.groups``."""
        return [Group([self.place_L], SINGLE_RATE, decays=False)]

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Listwise cross-entropy and the hinge against prev."""
        chunks_ND = batch.chunks_ND
        query_WD = self.query(chunks_ND, chunks_ND, batch.context_WL, batch.mask_WL)
        nothing_P = query_WD.new_zeros(0)
        return _combined(query_WD, chunks_ND, batch, nothing_P, nothing_P)

    def told(self) -> dict[str, float]:
        """The weights, oldest chunk first."""
        alpha_L = torch.softmax(self.place_L.detach(), dim=-1).tolist()
        return {f"alpha_{place}": alpha for place, alpha in enumerate(alpha_L, 1)}


class P8Ranker(Learner):
    """P8 with its order verifier, by ``combined_p8_loss``.

    Args:
        config: Shape of the networks.
        order_rate_factor: How many times faster the verifier learns.
        learned_temperature: Whether the listwise temperature is a parameter, starting at 0.07.
    """

    def __init__(
        self,
        config: P8Config,
        *,
        order_rate_factor: float = 2.0,
        learned_temperature: bool = False,
    ) -> None:
        super().__init__()
        self.model = P8Model(config)
        self.order_rate_factor = order_rate_factor
        start = torch.tensor(CLASSIC_TEMPERATURE).log()
        self.log_temperature = nn.Parameter(start) if learned_temperature else None

    @property
    def networks(self) -> P8Model | None:
        """See ``Ranker.networks``."""
        return self.model

    @property
    def mixes_in_its_own_space(self) -> bool:
        """See ``Ranker.mixes_in_its_own_space``."""
        return self.model.config.space == "learned"

    def groups(self) -> list[Group]:
        """See ``Learner.groups``."""
        single = [] if self.log_temperature is None else [self.log_temperature]
        return [
            Group(self.model.p8.parameters()),
            Group(self.model.order.parameters(), self.order_rate_factor),
            Group(single, SINGLE_RATE, decays=False),
        ]

    def space(self, chunks_ND: Tensor) -> Tensor:
        """See ``Ranker.space``."""
        return self.model.p8.project(chunks_ND)

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return self.model.p8.mix(space_ND[context_WL], mask_WL).query_BD

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """``combined_p8_loss``, or its parts with the learned temperature."""
        space_ND = self.space(batch.chunks_ND)
        query_WD = self.query(batch.chunks_ND, space_ND, batch.context_WL, batch.mask_WL)
        logit_P = self.model.order(batch.chunks_ND[batch.first_P], batch.chunks_ND[batch.second_P])
        if self.log_temperature is None:
            return _combined(query_WD, space_ND, batch, logit_P, batch.later_P)
        listwise = listwise_ranking_loss(
            query_WD / self.log_temperature.exp(),
            space_ND,
            batch.next_W,
            mask_BK=batch.allowed_WN,
            log_weight_BK=batch.log_weight_WN,
            temperature=1.0,
        )
        margin = prev_repel_margin_loss(
            query_WD,
            space_ND[batch.next_W],
            space_ND[batch.prev_W.clamp(min=0)],
            valid_B=batch.prev_W >= 0,
        )
        order = order_verifier_loss(logit_P, batch.later_P)
        return WEIGHTS.listwise * listwise + WEIGHTS.margin * margin + WEIGHTS.order * order

    def told(self) -> dict[str, float]:
        """The temperature, where it is learned."""
        if self.log_temperature is None:
            return {}
        return {"temperature": float(self.log_temperature.detach().exp())}


class TowerRanker(Learner):
    """The free-output query tower, by listwise cross-entropy, as ``train --tower`` does.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        self.tower = QTower(config)

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        query_WD: Tensor = self.tower(chunks_ND[context_WL] * mask_WL[..., None], mask_WL)
        return query_WD

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Listwise cross-entropy over the same candidates as P8."""
        chunks_ND = batch.chunks_ND
        return listwise_ranking_loss(
            self.query(chunks_ND, chunks_ND, batch.context_WL, batch.mask_WL),
            chunks_ND,
            batch.next_W,
            mask_BK=batch.allowed_WN,
            log_weight_BK=batch.log_weight_WN,
        )


def _combined(
    query_WD: Tensor, space_ND: Tensor, batch: Batch, logit_P: Tensor, later_P: Tensor
) -> Tensor:
    return combined_p8_loss(
        query_WD,
        space_ND,
        batch.next_W,
        batch.prev_W,
        logit_P,
        later_P,
        weights=WEIGHTS,
        mask_BK=batch.allowed_WN,
        log_weight_BK=batch.log_weight_WN,
    ).total
