"""Shares of a batch, without the processes: tests/integration/test_torchrun.py has them."""

import pytest
import torch

from models.bag import BagOutput
from models.model import P8Model
from tests.synthetic import shape, walks
from training.__main__ import build_parser, main
from training.batches import Batch, batches, own_part
from training.commands.train import train_command
from training.config import TrainConfig
from training.losses import WHOLE, CombinedLoss, LossShare, LossWeights, combined_p8_loss
from training.losses.bag import bag_counts, bag_loss
from training.world import ALONE, ElsewhereError, World, WorldError, refuse_company

CONFIG = TrainConfig(batch_documents=3, pairs_per_document=31)


@pytest.fixture
def batch() -> Batch:
    return next(iter(batches(walks(1, 3), None, CONFIG, 5, 0)))


def loss_of(model: P8Model, part: Batch, share: LossShare) -> CombinedLoss:
    projected_ND = model.p8.project(part.chunks_ND)
    return combined_p8_loss(
        model.p8.mix(projected_ND[part.context_WL], part.mask_WL).query_BD,
        projected_ND,
        part.next_W,
        part.prev_W,
        model.order.pairs(part.chunks_ND, part.first_P, part.second_P),
        part.later_P,
        weights=LossWeights(),
        mask_BK=part.allowed_WN,
        log_weight_BK=part.log_weight_WN,
        share=share,
    )


@pytest.mark.parametrize("size", [2, 3, 7, 150])
def test_the_losses_of_all_shares_add_up_to_that_of_the_batch(batch: Batch, size: int) -> None:
    model = P8Model(shape(dropout=0.0))
    parts = [own_part(batch, World(rank, size)) for rank in range(size)]
    found = [loss_of(model, part, share) for part, share in parts]
    for whole, *shares in zip(loss_of(model, batch, WHOLE), *found, strict=True):
        assert sum(share.item() for share in shares) == pytest.approx(whole.item(), rel=1e-4)
    counted = [part.next_W for part, share in parts if share.windows]
    assert torch.equal(torch.cat(counted), batch.next_W)


def test_one_process_takes_everything(batch: Batch) -> None:
    part, share = own_part(batch, ALONE)
    assert part is batch
    assert share == WHOLE == (1.0, 1.0, 1.0)


def test_shares_of_bags_add_up_to_their_loss() -> None:
    count, chunks, reach = 4, 9, 5
    document = torch.randint(0, 2, (count, chunks))
    document[1, 6:] = -1
    position = torch.stack([torch.randperm(chunks) for _ in range(count)])
    after = torch.randn(count, chunks, chunks)
    parts = (torch.randn(count, reach, chunks, chunks), torch.randn(count, chunks), after)
    whole = bag_loss(BagOutput(*parts), document, position)
    counts = bag_counts(document, position, reach)
    shares = [
        bag_loss(BagOutput(*(part[own] for part in parts)), document[own], position[own], counts)
        for own in (slice(0, 1), slice(1, 4))
    ]
    assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-5)  # type: ignore[union-attr]


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_company("embed")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(WorldError, match="embed: expected one process, got 4 from torchrun"):
        refuse_company("embed")
    assert main(["embed", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: process 0 of 4: embed: expected one process")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ElsewhereError):
        refuse_company("embed")
    assert main(["embed", "nowhere"]) == 2
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("machines", "words"),
    [("1", "torchrun --nproc-per-node 4 -m"), ("2", "torchrun --nproc-per-node 4 --nnodes 2 -m")],
)
def test_the_command_starts_as_many_processes_again(
    monkeypatch: pytest.MonkeyPatch, machines: str, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(4 * int(machines)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    args = build_parser().parse_args(["train", "a", "--out", "o"])
    assert train_command(args, args.default_of) == f"{words} training train a --out o"
