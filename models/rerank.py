"""The set-wise re-ranker: what a set of candidates tells that no single candidate does.

Judged one by one, every chunk near the last one looks like the next. Seen together, some follow a
chunk that is itself a candidate, some come before the window, some are near everything. The bag
encoder reads window and candidates together and says which follows which; each candidate is then
described by that evidence and by its cosines, the candidates attend to each other, and each gets
one logit. Equivariant under permutation, for any number of candidates.

It only re-orders what the mixture's query retrieved: the query itself stays in its cone.

Shapes: B windows, L window length, K candidates, N chunks of a bag, D dimension, F features.
Candidates are (B, K, D), or (1, K, D) shared by all windows. Masks are True = present.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bag import BagEncoder, BagOutput
from models.config import P8Config
from models.layers import EncoderLayer
from models.relations import relation_count, relations

RIVAL_DISTANCES = 3
HIDDEN = -30.0  # a log-score that counts as nothing
MOMENTUM = 0.02


class CandidateSets(NamedTuple):
    """Windows, the candidates of each, and what mixture and verifier say of them."""

    raw_context_BLD: Tensor
    """Raw context vectors, right-aligned, zero where the mask is False."""
    context_BLD: Tensor
    """The same in the model's space."""
    mask_BL: Tensor
    raw_XKD: Tensor
    """Raw candidates, (B, K, D) or (1, K, D)."""
    projected_XKD: Tensor
    """The same in the model's space."""
    valid_BK: Tensor
    """True where a candidate belongs to the set."""
    base_BK: Tensor
    """Cosine of query and candidate in the model's space."""
    order_BK: Tensor
    """Log-odds, by the order verifier, that a candidate follows the last context chunk."""


class Moments(NamedTuple):
    """Mean and variance of features, and of how many."""

    number: int
    mean_F: Tensor
    variance_F: Tensor
    """Unbiased; means nothing for fewer than two."""


def pair_feature_count(window: int) -> int:
    """How many features ``pair_features`` answers."""
    return 3 * window + min(RIVAL_DISTANCES, window) + 3


def feature_count(window: int) -> int:
    """F: pair evidence, two spaces of relations, the base score, order and size of the set."""
    return pair_feature_count(window) + 2 * relation_count(window) + 4


def pair_features(
    output: BagOutput, rows_BL: Tensor, mask_BL: Tensor, allowed_BN: Tensor
) -> Tensor:
    """Describe every chunk of a bag by how it follows a window whose chunks are in the bag too.

    How well it follows each context chunk at that one's distance, as it is and against all other
    candidates; how well it stands *before* the window's first chunk, at each distance; how much
    better it follows the last chunks than its best rival predecessors among the candidates; how
    well the chunk has successors; how much later it stands than the last context chunk and than
    the window on average.

    Args:
        output: Of (B, N) bags, or of one bag (1, N) shared by all windows.
        rows_BL: Where in its bag each context chunk stands, right-aligned.
        mask_BL: True where a context chunk is present.
        allowed_BN: True where a chunk of the bag is a candidate.

    Returns:
        Features (B, N, ``pair_feature_count(L)``); those of chunks that are no candidates mean
        nothing.
    """
    batch, reach = rows_BL.shape
    bags_B = torch.arange(batch) if len(output.place_BN) == batch else torch.zeros(batch).long()
    first_B = rows_BL.gather(1, mask_BL.int().argmax(1, keepdim=True)).squeeze(1)
    here_BNN = _no_self(output.follows_BLNN[:, 0])
    forth, back, against, rivals = [], [], [], []
    for distance in range(reach):
        follows_XNN = output.follows_BLNN[:, distance]
        row_B = rows_BL[:, reach - 1 - distance]
        present_B1 = mask_BL[:, reach - 1 - distance, None]
        forth_BN = follows_XNN[bags_B, row_B]
        hidden_BN = forth_BN.masked_fill(~allowed_BN, HIDDEN)
        share_BN = forth_BN - hidden_BN.logsumexp(1, keepdim=True)
        forth.append(forth_BN * present_B1)
        against.append(share_BN * present_B1)
        back.append(follows_XNN[bags_B, :, first_B])
        if distance < RIVAL_DISTANCES:
            rival_BN = _best_predecessor(_no_self(follows_XNN)[bags_B], allowed_BN, row_B)
            rivals.append((forth_BN - rival_BN) * present_B1)
    context_BN = torch.zeros_like(allowed_BN, dtype=torch.long).scatter_add(
        1, rows_BL, mask_BL.long()
    )
    present_BN = allowed_BN | (context_BN > 0)
    successors_BN = here_BNN[bags_B].masked_fill(~present_BN[:, None], HIDDEN).logsumexp(2)
    place_BN = output.place_BN[bags_B]
    context_BL = place_BN.gather(1, rows_BL)
    mean_B1 = (context_BL * mask_BL).sum(1, keepdim=True) / mask_BL.sum(1, keepdim=True)
    places = [place_BN - context_BL[:, -1:], place_BN - mean_B1]
    return torch.stack([*forth, *against, *back, *rivals, successors_BN, *places], dim=-1)


def _no_self(follows_XNN: Tensor) -> Tensor:
    own_NN = torch.eye(follows_XNN.shape[-1], dtype=torch.bool, device=follows_XNN.device)
    return follows_XNN.masked_fill(own_NN, HIDDEN)


def _best_predecessor(follows_BNN: Tensor, allowed_BN: Tensor, row_B: Tensor) -> Tensor:
    """How well each chunk follows the candidates and the chunk at ``row_B``, summed, (B, N)."""
    rows_BN = allowed_BN.scatter(1, row_B[:, None], True)
    return follows_BNN.masked_fill(~rows_BN[:, :, None], HIDDEN).logsumexp(1)


class SetReranker(nn.Module):
    """Logits for the candidates of a set, each in the light of all.

    Args:
        config: Shape.
    """

    mean_F: Tensor
    variance_F: Tensor
    fitted: Tensor

    def __init__(self, config: P8Config) -> None:
        super().__init__()
        features, hidden = feature_count(config.window), config.rerank_hidden
        self.bag = BagEncoder(config)
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("variance_F", torch.ones(features))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.read = nn.Linear(features, hidden)
        self.block: nn.Module = EncoderLayer(hidden, 4, 2 * hidden, config.dropout / 3)
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        self.straight = nn.Linear(features, 1)
        # Starts as nothing, so that training begins from the mixture's own ranking.
        for last in (self.out, self.straight):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, sets: CandidateSets) -> Tensor:
        """Logits (B, K) of sets that were retrieved or posted; each window has a bag of its own.

        Those under a False ``valid_BK`` mean nothing.
        """
        return self.logits(self.set_features(sets), sets.valid_BK)

    def set_features(self, sets: CandidateSets) -> Tensor:
        """What ``logits`` judges sets by whose windows have a bag each, (B, K, F)."""
        batch, window = sets.mask_BL.shape
        candidates_BKD = sets.raw_XKD.expand(batch, -1, -1)
        bag_BND = torch.cat([sets.raw_context_BLD, candidates_BKD], dim=1)
        output = self.bag(bag_BND, torch.cat([sets.mask_BL, sets.valid_BK], dim=1))
        rows_BL = torch.arange(window, device=sets.mask_BL.device).expand(batch, -1)
        return self.features(output, rows_BL, sets, first_candidate=window)

    def judge(
        self, output: BagOutput, rows_BL: Tensor, sets: CandidateSets, *, first_candidate: int = 0
    ) -> Tensor:
        """Logits (B, K) from bags that have been read.

        Args:
            output: Of (B, N) bags, or of one bag (1, N) shared by all windows.
            rows_BL: Where in its bag each context chunk stands, right-aligned.
            sets: The sets; their candidates are the bag's chunks from ``first_candidate`` on.
            first_candidate: Row of the first candidate in the bags.
        """
        features_BKF = self.features(output, rows_BL, sets, first_candidate=first_candidate)
        return self.logits(features_BKF, sets.valid_BK)

    def features(
        self, output: BagOutput, rows_BL: Tensor, sets: CandidateSets, *, first_candidate: int = 0
    ) -> Tensor:
        """What ``logits`` judges by, (B, K, F); arguments are those of ``judge``."""
        allowed_BN = functional.pad(sets.valid_BK, (first_candidate, 0))
        pairs_BNF = pair_features(output, rows_BL, sets.mask_BL, allowed_BN)
        with torch.no_grad():
            given_BKF = self._given(sets)
        return torch.cat([pairs_BNF[:, first_candidate:], given_BKF], dim=-1)

    def _given(self, sets: CandidateSets) -> Tensor:
        """Features that nothing here has learned."""
        valid_BK, order_BK = sets.valid_BK, sets.order_BK
        size_BK = valid_BK.sum(1, keepdim=True).clamp(min=1).log().expand(-1, valid_BK.shape[1])
        single_BKF = torch.stack([sets.base_BK, order_BK, order_BK.abs(), size_BK], dim=-1)
        spaces = (
            (sets.raw_context_BLD, sets.raw_XKD),
            (sets.context_BLD, sets.projected_XKD),
        )
        described = [
            relations(context_BLD, sets.mask_BL, set_XKD, valid_BK)
            for context_BLD, set_XKD in spaces
        ]
        return torch.cat([*described, single_BKF], dim=-1)

    def logits(
        self, features_BKF: Tensor, valid_BK: Tensor, moments: Moments | None = None
    ) -> Tensor:
        """Logits (B, K) of described candidates; those that are not valid mean nothing.

        Args:
            features_BKF: From ``features`` or ``set_features``.
            valid_BK: True where a candidate belongs to the set.
            moments: What the scale of the features follows in training; these features' own if
                left out. Several processes that share a step have seen more of them.
        """
        if self.training:
            self.follow(moments or _moments(features_BKF[valid_BK]))
        scaled_BKF = (features_BKF - self.mean_F) * (self.variance_F + 1e-4).rsqrt()
        scaled_BKF = scaled_BKF.masked_fill(~valid_BK[..., None], 0.0)
        hidden_BKH = self.block(self.read(scaled_BKF), src_key_padding_mask=~valid_BK)
        middle_BKH = functional.gelu(self.middle(functional.gelu(hidden_BKH)))
        logits_BK1: Tensor = self.out(middle_BKH) + self.straight(scaled_BKF)
        return logits_BK1.squeeze(-1)

    @torch.no_grad()
    def follow(self, moments: Moments) -> None:
        """Let the scale of the features follow those that are seen in training."""
        if moments.number < 2:
            return
        share = MOMENTUM if bool(self.fitted) else 1.0
        self.mean_F.lerp_(moments.mean_F, share)
        self.variance_F.lerp_(moments.variance_F, share)
        self.fitted.fill_(True)


@torch.no_grad()
def _moments(features_NF: Tensor) -> Moments:
    if len(features_NF) < 2:
        return Moments(len(features_NF), features_NF.new_zeros(()), features_NF.new_zeros(()))
    return Moments(len(features_NF), features_NF.mean(0), features_NF.var(0))
