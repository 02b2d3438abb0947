"""Several processes that train as one, started by ``torchrun``.

Each knows every batch as a whole, works out its share of the loss, and all add their gradients up:
docs/decisions/0012. Messages between processes go through gloo, between GPUs through NCCL.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from training.world import ElsewhereError, LostProcessError, Value, World, WorldError

STEP_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another one that computes a step, too."""
FIRST_TIMEOUT = timedelta(hours=12)
"""How long the others wait while the first one reads, judges or writes."""
_FAILED = "failed"

Lots = tuple[Tensor, Tensor | None]


class DistributedWorld(World):
    """The processes that ``torchrun`` started; build it with ``join``.

    Args:
        rank: Number of this process among all.
        size: Number of processes.
        device: Where this process computes.
        waiting: Group in which the others wait for the first one.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, waiting: dist.ProcessGroup
    ) -> None:
        super().__init__(rank, size)
        self._device = device
        self._waiting = waiting
        self._common = self._lots()

    @property
    def device(self) -> torch.device:
        """See ``World``."""
        return self._device

    def seed(self, number: int) -> None:
        """See ``World``; the common lots are those that one process alone would draw."""
        torch.manual_seed(number)
        self._common = self._lots()
        own = np.random.SeedSequence([number, 1 + self.rank]).generate_state(1)
        torch.manual_seed(int(own[0]))

    @contextmanager
    def alike(self) -> Iterator[None]:
        """See ``World``."""
        own = self._lots()
        self._draw_from(self._common)
        try:
            yield
        finally:
            self._common = self._lots()
            self._draw_from(own)

    def add_up(self, values: Tensor) -> Tensor:
        """See ``World``."""
        total = values.detach().to(self.device, copy=True)
        with _reaching_others():
            dist.all_reduce(total)
        return total.to(values.device)

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """See ``World``; a parameter that nobody has a gradient of has none afterwards."""
        tensors = list(parameters)
        parts = [
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors
        ]
        known = torch.tensor([float(tensor.grad is not None) for tensor in tensors])
        flat = torch.cat([*(part.flatten() for part in parts), known.to(self.device)])
        with _reaching_others():
            dist.all_reduce(flat)
        sizes = [*(tensor.numel() for tensor in tensors), len(tensors)]
        *sums, counts = torch.split(flat, sizes)
        for tensor, total, count in zip(tensors, sums, counts.tolist(), strict=True):
            tensor.grad = total.view_as(tensor) if count else None

    def copy_first(self, module: torch.nn.Module) -> None:
        """See ``World``."""
        with torch.no_grad(), _reaching_others():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, src=0)

    def from_first(self, value: Value) -> Value:
        """See ``World``; what is given must be picklable, with tensors on the CPU."""
        holder = [value]
        with _reaching_others():
            dist.broadcast_object_list(holder, src=0, group=self._waiting)
        return holder[0]

    def check_same(self, values: Mapping[str, Any]) -> None:
        """See ``World``."""
        expected = self.from_first(values)
        differing = sorted(
            name
            for name in values.keys() | expected.keys()
            if values.get(name) != expected.get(name)
        )
        if differing:
            raise WorldError(
                f"{', '.join(differing)}: expected what process 0 has, got something else; "
                "give every process the same options and the same data"
            )
        # Whoever differs has now left, so that nobody goes on without it.
        self.add_up(torch.zeros(1))

    def _lots(self) -> Lots:
        """State of the generators that dropout and sampling draw from."""
        on_gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), on_gpu

    def _draw_from(self, lots: Lots) -> None:
        torch.set_rng_state(lots[0])
        if lots[1] is not None:
            torch.cuda.set_rng_state(lots[1], self._device)


@contextmanager
def join() -> Iterator[World]:
    """Join the processes that ``torchrun`` started; see ``training.world.open_world``."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with _reaching_others():
        store, _, _ = next(rendezvous("env://", timeout=STEP_TIMEOUT))
    # A run that torchrun starts again must not read what the one before it wrote.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    failures = PrefixStore(f"nextchunk/{attempt}", store)
    try:
        device = _own_device()
        with _reaching_others():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(f"groups/{attempt}", store),
                rank=rank,
                world_size=size,
                timeout=STEP_TIMEOUT,
            )
            waiting = dist.new_group(backend="gloo", timeout=FIRST_TIMEOUT)
        yield DistributedWorld(rank, size, device, waiting)
    except BaseException as error:
        # It reports before it ends, so whoever notices its end finds the report.
        if _reports(failures) > 1:
            raise ElsewhereError("the run has failed; another process says why") from error
        raise
    dist.destroy_process_group()


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if here > torch.cuda.device_count():
        raise WorldError(
            f"--nproc-per-node: expected at most {torch.cuda.device_count()}, one process a GPU, "
            f"got {here}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _reports(failures: Store) -> int:
    """Count this failure in; 1 for the first, or if nobody can be asked any more."""
    try:
        return int(failures.add(_FAILED, 1))
    except RuntimeError:
        return 1


@contextmanager
def _reaching_others() -> Iterator[None]:
    """Say in our own words that a message did not reach the others."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise LostProcessError(
            f"another process of this run has ended or does not answer: {reason}"
        ) from error
