"""Rankers from session recommendation, on chunk vectors in place of item embeddings.

An item's embedding is a learned linear map of the chunk's vector, shared by context and candidates
as a table of embeddings would be. CORE-style: Hou et al., SIGIR 2022 (transformer variant).
SASRec-style: Kang and McAuley, ICDM 2018. Losses: sampled softmax, and gBCE (Petrov and Macdonald,
gSASRec, RecSys 2023).

Shapes: N chunks, W windows, L window length, D dimension, E embedding width, K sampled negatives.
"""

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import CLASSIC_TEMPERATURE, P8Config
from models.p8 import WindowTransformer
from training.batches import Batch
from training.ladder.rankers import SINGLE_RATE, Group, Learner

NEGATIVES = 32
CALIBRATION = 0.75
"""gBCE's t, between plain binary cross-entropy (0) and full calibration (1)."""


class Sampled(NamedTuple):
    """Negatives of each window, drawn with replacement in proportion to their weight."""

    rows_WK: Tensor
    total_W: Tensor
    """Weight of all a window's negatives together: the catalogue's effective size."""


def sample_negatives(batch: Batch, count: int = NEGATIVES) -> Sampled:
    """Draw negatives from the candidates that the other rows rank, next excluded."""
    weight_WN = batch.log_weight_WN.exp() * batch.allowed_WN
    weight_WN = weight_WN.scatter(1, batch.next_W[:, None], 0.0)
    total_W = weight_WN.sum(1)
    # A window without any negative draws its own next, at a weight of nothing.
    fallback_WN = torch.zeros_like(weight_WN).scatter(1, batch.next_W[:, None], 1.0)
    usable_WN = torch.where((total_W > 0)[:, None], weight_WN, fallback_WN)
    return Sampled(torch.multinomial(usable_WN, count, replacement=True), total_W)


def sampled_softmax(positive_W: Tensor, negative_WK: Tensor, total_W: Tensor) -> Tensor:
    """Cross-entropy with the sum over negatives estimated from K draws.

    ``-log( e^s / (e^s + Z/K sum_k e^(s_k)) )``: unbiased for the weighted sum of
    ``listwise_ranking_loss``, since negatives are drawn in proportion to their weight.

    Args:
        positive_W: Logits of next.
        negative_WK: Logits of the drawn negatives.
        total_W: Z, see ``Sampled``.
    """
    shift_W1 = (total_W / negative_WK.shape[1]).log()[:, None]
    logits = torch.cat([positive_W[:, None], negative_WK + shift_W1], dim=1)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def gbce_loss(
    positive_W: Tensor, negative_WK: Tensor, total_W: Tensor, calibration: float = CALIBRATION
) -> Tensor:
    """Generalised binary cross-entropy: ``-(beta log s(s+) + sum_k log(1 - s(s_k))) / (K + 1)``.

    ``beta = a (t (1 - 1/a) + 1/a)`` with a = K/Z, the share of the catalogue that is sampled;
    it takes back the overconfidence that sampling negatives breeds.

    Args:
        positive_W: Logits of next.
        negative_WK: Logits of the drawn negatives.
        total_W: Z, see ``Sampled``; a is at most 1.
        calibration: t.
    """
    count = negative_WK.shape[1]
    share_W = (count / total_W.clamp(min=1e-12)).clamp(max=1.0)
    beta_W = share_W * (calibration * (1.0 - 1.0 / share_W) + 1.0 / share_W)
    positive = beta_W * functional.logsigmoid(positive_W)
    negative_WK = functional.logsigmoid(-negative_WK) * (total_W > 0)[:, None]
    return -((positive + negative_WK.sum(1)) / (count + 1)).mean()


class Recommender(Learner):
    """What both have in common: sampled negatives, and one of two losses.

    Args:
        loss: Which.
    """

    def __init__(self, loss: Literal["softmax", "gbce"]) -> None:
        super().__init__()
        self.loss_name = loss
        # A binary loss needs to know how rare next is; ranking does not see it. gBCE only.
        self.bias = nn.Parameter(torch.zeros(()), requires_grad=loss == "gbce")

    def groups(self) -> list[Group]:
        """See ``Learner.groups``."""
        networks = [value for value in self.parameters() if value is not self.bias]
        return [Group(networks), Group([self.bias], SINGLE_RATE, decays=False)]

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Logits (W, N) of every chunk of the batch."""

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """The chosen loss, on negatives drawn anew in each step."""
        logits_WN = self.logits(batch) + self.bias
        sampled = sample_negatives(batch)
        positive_W = logits_WN.gather(1, batch.next_W[:, None]).squeeze(1)
        negative_WK = logits_WN.gather(1, sampled.rows_WK)
        chosen = sampled_softmax if self.loss_name == "softmax" else gbce_loss
        return chosen(positive_W, negative_WK, sampled.total_W)


class Core(Recommender):
    """CORE: the session is a weighted sum of its items' embeddings (the consistent space).

    Decoded by the robust distance: cosine over temperature 0.07, with dropout on the embeddings of
    session and candidates. The embedding starts as the identity.

    Args:
        config: Shape of the network.
        loss: Which loss.
    """

    def __init__(self, config: P8Config, loss: Literal["softmax", "gbce"]) -> None:
        super().__init__(loss)
        self.items = nn.Linear(config.dimension, config.dimension, bias=False)
        nn.init.eye_(self.items.weight)
        self.encoder = WindowTransformer(config)
        self.head = nn.Linear(config.hidden, 1)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def mixes_in_its_own_space(self) -> bool:
        """See ``Ranker.mixes_in_its_own_space``."""
        return True

    def space(self, chunks_ND: Tensor) -> Tensor:
        """Embeddings of unit length: only their directions are compared."""
        return functional.normalize(self.items(chunks_ND), dim=-1)

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return self._session(self.items(chunks_ND)[context_WL], mask_WL)

    def logits(self, batch: Batch) -> Tensor:
        """See ``Recommender.logits``."""
        items_ND = self.items(batch.chunks_ND)
        query_WD = self._session(self.dropout(items_ND[batch.context_WL]), batch.mask_WL)
        candidates_ND = functional.normalize(self.dropout(items_ND), dim=-1)
        return query_WD @ candidates_ND.T / CLASSIC_TEMPERATURE

    def _session(self, items_WLD: Tensor, mask_WL: Tensor) -> Tensor:
        logits_WL = self.head(self.encoder(items_WLD, mask_WL)).squeeze(-1)
        alpha_WL = torch.softmax(logits_WL.masked_fill(~mask_WL, float("-inf")), dim=-1)
        return functional.normalize(torch.einsum("wl,wld->wd", alpha_WL, items_WLD), dim=-1)


class SasRec(Recommender):
    """SASRec: causal self-attention over the session; the last state is matched by dot product.

    Its free output lives in the space of item embeddings. Scores are dot products times 0.07, the
    unit in which a cosine over temperature 0.07 would be a logit.

    Args:
        config: Shape of the network; items are embedded in its hidden width.
        loss: Which loss.
    """

    def __init__(self, config: P8Config, loss: Literal["softmax", "gbce"]) -> None:
        super().__init__(loss)
        self.heads = config.heads
        self.items = nn.Linear(config.dimension, config.hidden, bias=False)
        self.position_LE = nn.Parameter(torch.randn(config.window, config.hidden) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.hidden,
            config.heads,
            config.hidden,
            config.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(config.hidden), enable_nested_tensor=False
        )

    def space(self, chunks_ND: Tensor) -> Tensor:
        """Embeddings (N, E) of chunks."""
        embedded: Tensor = self.items(chunks_ND)
        return embedded

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        length = context_WL.shape[1]
        # As in the paper's code: small embeddings to match by, scaled up to be read.
        read_WLE = space_ND[context_WL] * space_ND.shape[1] ** 0.5
        hidden_WLE = self.dropout(read_WLE + self.position_LE)
        # Every place sees itself, so that padding, which nothing reads, stays finite.
        seen_LL = torch.ones(length, length, dtype=torch.bool).tril()
        own_LL = torch.eye(length, dtype=torch.bool)
        hidden_WLL = ~((seen_LL & mask_WL[:, None, :]) | own_LL)
        blocked = hidden_WLL.repeat_interleave(self.heads, dim=0)
        states_WLE: Tensor = self.blocks(hidden_WLE, mask=blocked)
        return states_WLE[:, -1]

    def score(self, query_WD: Tensor, space_ND: Tensor) -> Tensor:
        """See ``Ranker.score``."""
        return query_WD @ space_ND.T * CLASSIC_TEMPERATURE

    def logits(self, batch: Batch) -> Tensor:
        """See ``Recommender.logits``."""
        space_NE = self.space(batch.chunks_ND)
        return self.query(batch.chunks_ND, space_NE, batch.context_WL, batch.mask_WL) @ space_NE.T
