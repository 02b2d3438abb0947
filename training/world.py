"""Who takes part in a training run: one process, or several that train as one.

This module knows one process. Where ``torchrun`` started several, ``open_world`` answers with
``training.distributed``, which is loaded only then.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")


class WorldError(ValueError):
    """The processes of a run do not go together."""


class LostProcessError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


class ElsewhereError(RuntimeError):
    """The run has failed, and another process has said why."""


class World:
    """All processes of a run; this one is that of a process that runs alone.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def first(self) -> bool:
        """Whether this process judges, logs and writes files for all."""
        return self.rank == 0

    @property
    def device(self) -> "torch.device":
        """Where this process computes."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seed(self, number: int) -> None:
        """Seed PyTorch's lots: in each process its own, but for those drawn under ``alike``."""
        import torch

        torch.manual_seed(number)

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Draw what every process draws alike; all must draw as much."""
        yield

    def add_up(self, values: "Tensor") -> "Tensor":
        """Sum of the values of every process, of the same shape in each."""
        return values

    def add_up_gradients(self, parameters: "Iterable[Tensor]") -> None:
        """Give every process the sum of all gradients."""

    def copy_first(self, module: "torch.nn.Module") -> None:
        """Give every process the first one's parameters and buffers."""

    def from_first(self, value: Value) -> Value:
        """The first process's value; the others wait for it, however long it takes to work it out.

        Args:
            value: What the first process gives; that of the others counts for nothing.
        """
        return value

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Check that all were given the same.

        Raises:
            WorldError: If a value differs from the first process's; the message names it.
        """


ALONE = World()


def open_world() -> AbstractContextManager[World]:
    """Join the run that ``torchrun`` started; a run of one process needs nobody else.

    Leaving the context on an error ends the others, too; the first to fail says why.

    Raises:
        WorldError: If a machine has fewer GPUs than processes.
        LostProcessError: If the others do not come.
    """
    if started_processes() == 1:
        return _alone()
    from training.distributed import join

    return join()


@contextmanager
def _alone() -> Iterator[World]:
    yield ALONE


def started_processes() -> int:
    """How many processes ``torchrun`` started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_company(command: str) -> None:
    """Refuse to do in several processes what one does; the first of them says so.

    Raises:
        WorldError: In the first of several processes.
        ElsewhereError: In the others.
    """
    if started_processes() == 1:
        return
    message = f"expected one process, got {started_processes()} from torchrun"
    error = WorldError if os.environ.get("RANK") == "0" else ElsewhereError
    raise error(f"{command}: {message}; only train is shared")


def process_name() -> str:
    """What to put before a message, where several processes could have sent it."""
    size = started_processes()
    return "" if size == 1 else f"process {os.environ.get('RANK', '?')} of {size}: "


def launcher() -> list[str]:
    """The words that start a Python module as this run was started."""
    if started_processes() == 1:
        return ["python", "-m"]
    words = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    return [*words, *(["--nnodes", machines] if machines != "1" else []), "-m"]
