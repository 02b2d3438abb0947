"""The re-ranker's share of a training step.

Each document of the batch is read as a bag once, and all its windows are judged in that bag: the
sets of the ``in_document`` protocol. Some bags hold runs of a document among hard negatives of
other documents instead, as the sets that an index retrieves do; some windows get a small set, as
callers post them. Mixture and verifier are seen as they will be served (no dropout) and take no
gradient from here.

Shapes: B documents, W windows, K candidates, N chunks of the batch, n chunks of a bag, L window
length, D dimension.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from models.bag import BagOutput
from models.model import P8Model
from models.rerank import CandidateSets, Moments, SetReranker
from training.batches import Batch
from training.losses.bag import bag_counts, bag_loss
from training.world import ALONE, World

WINDOWS_PER_DOCUMENT = 20
LONGEST_BAG = 128
BAGS_PER_DOCUMENT = 4
"""Most bags of one long document; each holds a part of it."""
TOGETHER = 4
"""Bags that are read in one pass, of like size: padding costs more than passes do."""
MIXED_SHARE = 0.4
"""Share of bags that are runs of a document among chunks of others."""
RUN = 12
"""Chunks of such a run; every other one is left out."""
SMALL_SETS = 12
SMALL_SIZE = 8
BAG_WEIGHT = 0.3


def rerank_loss(
    model: P8Model,
    reranker: SetReranker,
    batch: Batch,
    temperature: float,
    world: World = ALONE,
) -> Tensor:
    """Cross-entropy of the next chunk by mixture and re-ranker together, and the bag's own loss.

    Args:
        model: What the re-ranker belongs to.
        reranker: What is trained.
        batch: The whole batch, the same in every process.
        temperature: T of the cross-entropy.
        world: The processes among which the bags are dealt out.

    Returns:
        Scalar: mean over the sets seen, plus the weighted ``bag_loss``; this process's share of
        both, so that those of all processes add up to it.
    """
    with world.alike():
        bags = [
            _draw_bag(batch, number)
            for number, (_, chunks) in enumerate(batch.documents)
            for _ in range(min(BAGS_PER_DOCUMENT, -(-(chunks.stop - chunks.start) // LONGEST_BAG)))
        ]
        small_W = torch.randperm(len(batch.next_W))[:SMALL_SETS]
    bags.sort(key=lambda bag: len(bag.rows_n))
    own = slice(world.rank, None, world.size)
    seen = _Served(model, batch, torch.cat([small_W[own], *(bag.chosen_W for bag in bags[own])]))
    sums, shares = [], []
    readings = _readings(reranker, seen, bags, small_W, world)
    for reading, moments in _scaled(readings, reranker.mean_F, world):
        if reading.described:
            sums.append(judged_loss(reranker, reading.described, temperature, moments))
        elif moments is not None:
            reranker.follow(moments)
        if reading.bag_share is not None:
            shares.append(reading.bag_share)
    windows = len(small_W) + sum(len(bag.chosen_W) for bag in bags)
    nothing = seen.chunks_ND.new_zeros(1)
    judged = torch.stack(sums) if sums else nothing
    read = torch.stack(shares) if shares else nothing
    return judged.sum() / max(windows, 1) + BAG_WEIGHT * read.sum()


class _Bag(NamedTuple):
    """Chunks that are read together, and some windows that are judged among them."""

    rows_n: Tensor
    chosen_W: Tensor
    """Windows of the batch."""
    columns_WL: Tensor
    """Where in the bag their context stands."""


class _Reading(NamedTuple):
    """What a process read in one pass, and has yet to judge."""

    described: list["Described"]
    bag_share: Tensor | None
    """Its share of the bags' own loss; None if it read no bag."""


def _readings(
    reranker: SetReranker, seen: "_Served", bags: list[_Bag], small_W: Tensor, world: World
) -> Iterator[_Reading]:
    """This process's bags, some at a time, then its small sets; as many times in each process."""
    for first in range(0, len(bags), TOGETHER):
        group = bags[first : first + TOGETHER]
        own = [bag for n, bag in enumerate(group, first) if n % world.size == world.rank]
        if not own:
            yield _Reading([], None)
            continue
        output, share = _read_bags(reranker, seen, own, group)
        described = [
            seen.describe(reranker, _one_bag(output, place, len(bag.rows_n)), bag)
            for place, bag in enumerate(own)
            if len(bag.chosen_W)
        ]
        yield _Reading(described, share * len(group) / len(bags))
    yield _Reading(seen.describe_small(reranker, small_W, world), None)


def _scaled(
    readings: Iterator[_Reading], like_F: Tensor, world: World
) -> Iterator[tuple[_Reading, Moments | None]]:
    """Readings, and the moments of their features in all processes together.

    One process judges what it reads before it reads on, by its own moments (None).
    """
    if world.size == 1:
        for reading in readings:
            yield reading, None
        return
    ready = list(readings)
    table = world.add_up(torch.stack([_sums(reading, len(like_F)) for reading in ready]))
    for reading, sums in zip(ready, table, strict=True):
        yield reading, _moments(sums, like_F.device)


def _draw_bag(batch: Batch, number: int) -> _Bag:
    """A document as a bag, with some of its windows that lie in it whole."""
    rows_n = _draw_rows(batch, number)
    return _Bag(rows_n, *_windows_inside(batch, number, rows_n))


def _read_bags(
    reranker: SetReranker, seen: "_Served", own: list[_Bag], group: list[_Bag]
) -> tuple[BagOutput, Tensor]:
    """Read bags of about the same size together, and their share of the group's ``bag_loss``."""
    rows_Bn, valid_Bn = _padded(own)
    output = reranker.bag(seen.chunks_ND[rows_Bn], valid_Bn.to(seen.device))
    counts = None
    if len(own) < len(group):
        counts = bag_counts(*seen.origin(*_padded(group)), reranker.bag.reach)
    return output, bag_loss(output, *seen.origin(rows_Bn, valid_Bn), counts)


def _padded(bags: list[_Bag]) -> tuple[Tensor, Tensor]:
    """Rows of several bags, (B, n), and which of them are there."""
    rows_Bn = pad_sequence([bag.rows_n for bag in bags], batch_first=True, padding_value=-1)
    return rows_Bn.clamp(min=0), rows_Bn >= 0


def _one_bag(output: BagOutput, place: int, size: int) -> BagOutput:
    one = slice(place, place + 1)
    return BagOutput(
        output.follows_BLNN[one, :, :size, :size],
        output.place_BN[one, :size],
        output.after_BNN[one, :size, :size],
    )


def _draw_rows(batch: Batch, number: int) -> Tensor:
    """Rows (n,) of a document's bag: itself, a part of it if it is long, or runs among others."""
    chunks = batch.documents[number][1]
    mined = batch.mined[number]
    count = chunks.stop - chunks.start
    if count > LONGEST_BAG:
        first = int(torch.randint(count - LONGEST_BAG + 1, ()))
        chunks = slice(chunks.start + first, chunks.start + first + LONGEST_BAG)
    rows_n = torch.arange(chunks.start, chunks.stop)
    if mined.stop == mined.start or float(torch.rand(())) >= MIXED_SHARE:
        return rows_n
    # Runs start at a random place, so that any chunk may be a run's last.
    run_n = (torch.arange(len(rows_n)) + int(torch.randint(RUN, ()))) // RUN
    kept_n = rows_n[run_n % 2 == int(torch.randint(2, ()))]
    others_n = torch.arange(mined.start, mined.stop)
    return torch.cat([kept_n if len(kept_n) else rows_n, others_n])


def _windows_inside(batch: Batch, number: int, rows_n: Tensor) -> tuple[Tensor, Tensor]:
    """Some windows of a document that lie in a bag with their next chunk.

    Returns:
        Windows (W,), and where in the bag their context stands, (W, L).
    """
    windows = batch.documents[number][0]
    column_N = torch.full((len(batch.chunks_ND),), -1)
    column_N[rows_n] = torch.arange(len(rows_n))
    columns_WL = column_N[batch.context_WL[windows]]
    whole_W = ((columns_WL >= 0) | ~batch.mask_WL[windows]).all(1)
    usable_W = torch.nonzero(whole_W & (column_N[batch.next_W[windows]] >= 0)).squeeze(1)
    chosen_W = usable_W[torch.randperm(len(usable_W))[:WINDOWS_PER_DOCUMENT]]
    return windows.start + chosen_W, columns_WL[chosen_W].clamp(min=0)


class _Served:
    """A batch, and some windows of it, as the served model sees them.

    What stands where is drawn and worked out on the CPU; vectors lie on the model's device.
    """

    def __init__(self, model: P8Model, batch: Batch, chosen_W: Tensor) -> None:
        self.batch = batch
        self.order = model.order
        self.device = model.order.tau.device
        self.chunks_ND = batch.chunks_ND.to(self.device)
        self.query_WD = self.chunks_ND.new_zeros(len(batch.next_W), self.chunks_ND.shape[1])
        with torch.no_grad():
            model.p8.eval()
            self.projected_ND = model.p8.project(self.chunks_ND)
            if len(chosen_W):
                context_WLD = self.projected_ND[batch.context_WL[chosen_W]]
                mask_WL = batch.mask_WL[chosen_W].to(self.device)
                self.query_WD[chosen_W] = model.p8.mix(context_WLD, mask_WL).query_BD
            model.p8.train()

    def origin(self, rows_Bn: Tensor, valid_Bn: Tensor) -> tuple[Tensor, Tensor]:
        """Document (-1 where there is no chunk) and position of the chunks of bags, (B, n) each."""
        document_Bn = torch.where(valid_Bn, self.batch.document_N[rows_Bn], -1)
        return document_Bn.to(self.device), self.batch.position_N[rows_Bn].to(self.device)

    def describe(self, reranker: SetReranker, output: BagOutput, bag: _Bag) -> "Described":
        """Some windows of one bag, whose other chunks are their candidates."""
        batch, rows_n, chosen_W = self.batch, bag.rows_n, bag.chosen_W
        is_context_Wn = (rows_n[None, None] == batch.context_WL[chosen_W, :, None]).any(1)
        sets = self._sets(chosen_W, rows_n[None], ~is_context_Wn)
        return Described(
            reranker.features(output, bag.columns_WL.to(self.device), sets),
            sets.valid_BK,
            sets.base_BK,
            (rows_n[None] == batch.next_W[chosen_W, None]).int().argmax(1).to(self.device),
        )

    def describe_small(
        self, reranker: SetReranker, small_W: Tensor, world: World
    ) -> list["Described"]:
        """This process's small sets: the next chunk of a window and 7 others of its document."""
        batch = self.batch
        with world.alike():
            lottery_WN = torch.rand(len(small_W), len(batch.document_N))
        own = slice(world.rank, None, world.size)
        chosen_W, lottery_WN = small_W[own], lottery_WN[own]
        if not len(chosen_W):
            return []
        own_WN = batch.document_N[None] == batch.document_N[batch.next_W[chosen_W], None]
        lottery_WN = lottery_WN.masked_fill(~own_WN, -1.0)
        lottery_WN.scatter_(1, batch.context_WL[chosen_W], -1.0)
        lottery_WN.scatter_(1, batch.next_W[chosen_W, None], 2.0)
        drawn = lottery_WN.topk(min(SMALL_SIZE, lottery_WN.shape[1]), dim=1)
        sets = self._sets(chosen_W, drawn.indices, drawn.values >= 0)
        target_W = torch.zeros(len(chosen_W), dtype=torch.long)  # it drew the highest lot
        features_WKF = reranker.set_features(sets)
        return [Described(features_WKF, sets.valid_BK, sets.base_BK, target_W.to(self.device))]

    @torch.no_grad()
    def _sets(self, chosen_W: Tensor, rows_XK: Tensor, valid_WK: Tensor) -> CandidateSets:
        """What the scoring path hands to the re-ranker; rows are (W, K), or (1, K) shared."""
        batch = self.batch
        raw_XKD, projected_XKD = self.chunks_ND[rows_XK], self.projected_ND[rows_XK]
        mask_WL = batch.mask_WL[chosen_W].to(self.device)
        context_WL = batch.context_WL[chosen_W]
        raw_WLD = self.chunks_ND[context_WL] * mask_WL[..., None]
        self.order.eval()
        order_WK = self.order(raw_WLD[:, -1:], raw_XKD)
        self.order.train()
        return CandidateSets(
            raw_context_BLD=raw_WLD,
            context_BLD=self.projected_ND[context_WL] * mask_WL[..., None],
            mask_BL=mask_WL,
            raw_XKD=raw_XKD,
            projected_XKD=projected_XKD,
            valid_BK=valid_WK.to(self.device),
            base_BK=(self.query_WD[chosen_W][:, None] @ projected_XKD.mT).squeeze(1),
            order_BK=order_WK,
        )


class Described(NamedTuple):
    """Candidates of some windows, as the re-ranker judges them."""

    features_WKF: Tensor
    valid_WK: Tensor
    base_WK: Tensor
    target_W: Tensor
    """Column of the next chunk."""


def judged_loss(
    reranker: SetReranker,
    described: Sequence[Described],
    temperature: float,
    moments: Moments | None = None,
) -> Tensor:
    """Summed cross-entropy of windows of several bags, judged in one pass.

    Args:
        reranker: What judges.
        described: Windows and their candidates.
        temperature: T.
        moments: See ``SetReranker.logits``.
    """
    most = max(one.valid_WK.shape[1] for one in described)
    features_WKF, valid_WK, base_WK, target_W = (
        torch.cat([_widened(part, most) for part in parts])
        for parts in zip(*described, strict=True)
    )
    logits_WK = reranker.logits(features_WKF, valid_WK, moments)
    return _cross_entropy(base_WK, valid_WK, logits_WK, target_W, temperature)


@torch.no_grad()
def _sums(reading: _Reading, width: int) -> Tensor:
    """Count of a reading's candidates, sums and sums of squares of their features, (1 + 2F)."""
    sums = torch.zeros(1 + 2 * width, dtype=torch.float64)
    for one in reading.described:
        features_NF = one.features_WKF[one.valid_WK].double()
        parts = [features_NF.sum(0), features_NF.square().sum(0)]
        sums += torch.cat([sums.new_tensor([len(features_NF)]), *(part.cpu() for part in parts)])
    return sums


def _moments(sums: Tensor, device: torch.device) -> Moments:
    """Moments from the sums over all processes."""
    count = int(sums[0])
    mean_F, square_F = sums[1:].view(2, -1) / max(count, 1)
    variance_F = (square_F - mean_F.square()).clamp(min=0.0) * count / max(count - 1, 1)
    return Moments(count, mean_F.float().to(device), variance_F.float().to(device))


def _widened(part_WK: Tensor, columns: int) -> Tensor:
    """Add columns of zeros to (W, K) or (W, K, F); (W,) stays."""
    if part_WK.ndim == 1:
        return part_WK
    padding = (0, columns - part_WK.shape[1])
    return functional.pad(part_WK, padding if part_WK.ndim == 2 else (0, 0, *padding))


def _cross_entropy(
    base_WK: Tensor, valid_WK: Tensor, logits_WK: Tensor, target_W: Tensor, temperature: float
) -> Tensor:
    total_WK = base_WK / temperature + logits_WK
    hidden_WK = total_WK.masked_fill(~valid_WK, float("-inf"))
    return functional.cross_entropy(hidden_WK, target_W, reduction="sum")
