"""P1 to P7: free-output models, each in the smallest form that keeps its idea.

All share one network, ``q = normalize(f(window))`` with f a window transformer and an MLP, and work
in the raw space; they differ in what they want of q. Their margin is wanted against c_L, the last
chunk of the window, as earlier work had it.

Shapes: N chunks of a batch, W windows, L window length, D dimension, V codebook entries.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import CLASSIC_TEMPERATURE, P8Config
from models.p8 import WindowTransformer
from models.scoring import Floats
from training.batches import Batch
from training.ladder.rankers import Learner
from training.losses import listwise_ranking_loss, prev_repel_margin_loss

TEACHER_EPOCHS = 2
BLEND = 0.8
CODEBOOK = 512
CODEBOOK_SAMPLE = 20_000
CODEBOOK_ROUNDS = 8
DISPLACEMENT_MARGIN = 0.5


class FreeOutput(Learner):
    """A query that may point anywhere.

    Args:
        config: Shape of the network.
        outputs: Width of the output; D if left out.
    """

    def __init__(self, config: P8Config, outputs: int | None = None) -> None:
        super().__init__()
        self.encoder = WindowTransformer(config)
        self.out = nn.Sequential(
            nn.Linear(config.hidden, 2 * config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.hidden, outputs or config.dimension),
        )

    def predict(self, chunks_ND: Tensor, context_WL: Tensor, mask_WL: Tensor) -> Tensor:
        """``f(window)``, of any length."""
        context_WLD = chunks_ND[context_WL] * mask_WL[..., None]
        predicted: Tensor = self.out(self.encoder(context_WLD, mask_WL)[:, -1])
        return predicted

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return functional.normalize(self.predict(chunks_ND, context_WL, mask_WL), dim=-1)

    def query_of(self, batch: Batch) -> Tensor:
        """Queries (W, D) of a batch."""
        return self.query(batch.chunks_ND, batch.chunks_ND, batch.context_WL, batch.mask_WL)


class Regression(FreeOutput):
    """P1: predict the next vector; mean squared error between q and next.

    The best answer to a squared error is the mean of what could come next, which lies amid the
    document rather than ahead.
    """

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """``|q - next|^2``, averaged over windows."""
        return squared_error(self.query_of(batch), batch)


class RegressionMargin(FreeOutput):
    """P2: P1 plus a directional margin, ``cos(q, next) - cos(q, c_L) > 0.07``."""

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Squared error and hinge, summed."""
        query_WD = self.query_of(batch)
        return squared_error(query_WD, batch) + last_hinge(query_WD, batch)


class MarginAlone(FreeOutput):
    """P3: the directional margin alone; nothing says where next is, only that c_L is not it."""

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """The hinge against c_L."""
        return last_hinge(self.query_of(batch), batch)


class Displacement(FreeOutput):
    """P4: the step ``q - c_L`` shall point where the true step ``next - c_L`` points."""

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Hinge on the cosine of the two steps, wanted above 0.5."""
        last_WD, next_WD = batch.chunks_ND[batch.next_W - 1], batch.chunks_ND[batch.next_W]
        cos_W = functional.cosine_similarity(self.query_of(batch) - last_WD, next_WD - last_WD)
        return torch.relu(DISPLACEMENT_MARGIN - cos_W).mean()


class Curriculum(FreeOutput):
    """P5: the margin against negatives of the document that come closer from epoch to epoch.

    First the chunk least like the last one, at the end the one most like it.

    Args:
        config: Shape of the network.
        epochs: Epochs of the run.
    """

    def __init__(self, config: P8Config, epochs: int) -> None:
        super().__init__(config)
        self.epochs = epochs

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Squared error to next, and the hinge against this epoch's negative."""
        query_WD = self.query_of(batch)
        negative_W, valid_W = graded_negatives(batch, epoch / max(1, self.epochs - 1))
        hinge = prev_repel_margin_loss(
            query_WD, batch.chunks_ND[batch.next_W], batch.chunks_ND[negative_W], valid_B=valid_W
        )
        return squared_error(query_WD, batch) + hinge


class NextToken(FreeOutput):
    """P6: next-chunk prediction as next-token prediction over a codebook of chunk kinds.

    The vocabulary are the centroids of the training chunks; the query is the expected centroid.

    Args:
        config: Shape of the network.
        codebook_VD: Unit centroids.
    """

    codebook_VD: Tensor

    def __init__(self, config: P8Config, codebook_VD: Tensor) -> None:
        super().__init__(config, outputs=len(codebook_VD))
        self.register_buffer("codebook_VD", codebook_VD)

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        share_WV = self.predict(chunks_ND, context_WL, mask_WL).softmax(dim=-1)
        return functional.normalize(share_WV @ self.codebook_VD, dim=-1)

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Cross-entropy of the entry closest to next."""
        logits_WV = self.predict(batch.chunks_ND, batch.context_WL, batch.mask_WL)
        token_W = (batch.chunks_ND[batch.next_W] @ self.codebook_VD.T).argmax(dim=-1)
        return functional.cross_entropy(logits_WV, token_W)


class Defended(FreeOutput):
    """P6b: P2 with a controller, which raises the margin's weight while the margin is negative.

    The weight rises by 2% a step while the batch's margin against c_L is below the target, and
    falls by as much otherwise, between 0.1 and 20.
    """

    target, step, lowest, highest = 0.0, 1.02, 0.1, 20.0

    def __init__(self, config: P8Config) -> None:
        super().__init__(config)
        self.pressure = 1.0

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """Squared error and the controlled hinge, summed."""
        query_WD = self.query_of(batch)
        last_WD, next_WD = batch.chunks_ND[batch.next_W - 1], batch.chunks_ND[batch.next_W]
        margin = float((query_WD.detach() * (next_WD - last_WD)).sum(-1).mean())
        factor = self.step if margin < self.target else 1.0 / self.step
        self.pressure = min(max(self.pressure * factor, self.lowest), self.highest)
        return squared_error(query_WD, batch) + self.pressure * last_hinge(query_WD, batch)

    def told(self) -> dict[str, float]:
        """The weight that the controller has arrived at."""
        return {"pressure": self.pressure}


class Blend(FreeOutput):
    """P7: the query is blended from a teacher, the last chunk, and the free output.

    ``q = normalize(share * c_L + (1 - share) * normalize(f))``, by InfoNCE against the other
    windows' next chunks. In the first two epochs a teacher-pull term holds f near c_L; then the
    teacher leaves and f may go where it likes.

    Args:
        config: Shape of the network.
        share: The teacher's share. Lambda = 0.8 is read in both ways: 0.8 or 0.2 is the teacher's.
    """

    def __init__(self, config: P8Config, share: float) -> None:
        super().__init__(config)
        self.share = share

    def query(
        self, chunks_ND: Tensor, space_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> Tensor:
        """See ``Ranker.query``."""
        return self._blend(chunks_ND, context_WL, mask_WL)[0]

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """InfoNCE, and the teacher's pull in the first two epochs."""
        query_WD, own_WD = self._blend(batch.chunks_ND, batch.context_WL, batch.mask_WL)
        contrast = listwise_ranking_loss(
            query_WD,
            batch.chunks_ND[batch.next_W],
            torch.arange(len(batch.next_W)),
            temperature=CLASSIC_TEMPERATURE,
        )
        if epoch >= TEACHER_EPOCHS:
            return contrast
        return contrast + squared_distance(own_WD, batch.chunks_ND[batch.next_W - 1])

    def _blend(
        self, chunks_ND: Tensor, context_WL: Tensor, mask_WL: Tensor
    ) -> tuple[Tensor, Tensor]:
        own_WD = functional.normalize(self.predict(chunks_ND, context_WL, mask_WL), dim=-1)
        teacher_WD = chunks_ND[context_WL[:, -1]]
        mixed_WD = self.share * teacher_WD + (1.0 - self.share) * own_WD
        return functional.normalize(mixed_WD, dim=-1), own_WD


def squared_distance(query_WD: Tensor, target_WD: Tensor) -> Tensor:
    """``|q - x|^2``, averaged over windows."""
    return (query_WD - target_WD).square().sum(-1).mean()


def squared_error(query_WD: Tensor, batch: Batch) -> Tensor:
    """``|q - next|^2``, averaged over windows."""
    return squared_distance(query_WD, batch.chunks_ND[batch.next_W])


def last_hinge(query_WD: Tensor, batch: Batch) -> Tensor:
    """``max(0, 0.07 - cos(q, next) + cos(q, c_L))``, averaged over windows."""
    return prev_repel_margin_loss(
        query_WD, batch.chunks_ND[batch.next_W], batch.chunks_ND[batch.next_W - 1]
    )


def graded_negatives(batch: Batch, hardness: float) -> tuple[Tensor, Tensor]:
    """A negative (W,) of each window's document, and whether there is one.

    Args:
        batch: Documents.
        hardness: 0 for the chunk least like c_L, 1 for the most like it, between them by rank.
    """
    similarity_WN = batch.chunks_ND[batch.next_W - 1] @ batch.chunks_ND.T
    own_WN = batch.allowed_WN & (batch.log_weight_WN == 0.0)
    own_WN = own_WN.scatter(1, batch.next_W[:, None], False)
    count_W = own_WN.sum(1)
    order_WN = similarity_WN.masked_fill(~own_WN, float("inf")).argsort(dim=1)
    place_W = (hardness * (count_W - 1).clamp(min=0)).round().long()
    return order_WN.gather(1, place_W[:, None]).squeeze(1), count_W > 0


def fit_codebook(documents: Sequence[Floats], seed: int, size: int = CODEBOOK) -> Tensor:
    """Unit centroids (V, D) of training chunks, by spherical k-means on a sample."""
    generator = np.random.default_rng(seed)
    chunks_ND = np.concatenate(documents)
    chunks_ND = chunks_ND[generator.permutation(len(chunks_ND))[:CODEBOOK_SAMPLE]]
    sample_ND = torch.from_numpy(chunks_ND)
    codebook_VD = sample_ND[:size].clone()
    for _ in range(CODEBOOK_ROUNDS):
        nearest_N = (sample_ND @ codebook_VD.T).argmax(dim=1)
        sums_VD = torch.zeros_like(codebook_VD).index_add_(0, nearest_N, sample_ND)
        # An entry that nothing is closest to stays where it is.
        found_V1 = (sums_VD.norm(dim=1) > 0)[:, None]
        codebook_VD = torch.where(found_V1, functional.normalize(sums_VD, dim=1), codebook_VD)
    return codebook_VD
