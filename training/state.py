"""The state of an unfinished run, so that it resumes exactly where its last epoch ended.

One safetensors file (weights now, weights of the best epoch, optimizer moments) and one JSON file
(counters and history). Nothing is pickled. Randomness needs no state: every epoch draws from a
generator seeded by run seed and epoch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from models.checkpoint import write_atomically

TENSORS, COUNTERS = "state.safetensors", "state.json"


class ResumeError(ValueError):
    """An unfinished run is there, but it was started with other options or other data."""


@dataclass(kw_only=True)
class Progress:
    """Where a run stands after its last finished epoch."""

    epoch: int = 0
    """Finished epochs."""
    best_epoch: int = 0
    best_score: float = float("-inf")
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best epoch."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One line an epoch, as in metrics.jsonl."""
    killed: str | None = None
    seconds: float = 0.0


def save_state(
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state; counters come last and carry the epoch that the tensors belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"now/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in progress.best.items()}
    tensors |= {f"optimizer/{name}": value for name, value in optimizer_tensors(optimizer).items()}
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    epoch = str(progress.epoch)
    write_atomically(folder / TENSORS, save(contiguous, metadata={"epoch": epoch}))
    counters = {
        "identity": identity,
        "epoch": progress.epoch,
        "best_epoch": progress.best_epoch,
        "best_score": progress.best_score,
        "history": progress.history,
        "killed": progress.killed,
        "seconds": progress.seconds,
    }
    write_atomically(folder / COUNTERS, json.dumps(counters, indent=2).encode())


def load_state(
    folder: Path,
    identity: dict[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore model and optimizer, if an unfinished run is there.

    Raises:
        ResumeError: If that run had other options or other data.
    """
    if not (folder / COUNTERS).is_file():
        return Progress()
    counters = json.loads((folder / COUNTERS).read_bytes())
    if counters["identity"] != json.loads(json.dumps(identity)):
        differing = sorted(
            name
            for name in identity.keys() | counters["identity"].keys()
            if json.loads(json.dumps(identity.get(name))) != counters["identity"].get(name)
        )
        raise ResumeError(
            f"{folder}: an unfinished run is here with other {', '.join(differing)}; "
            "give the same options, another --out, or --fresh to discard it"
        )
    tensors = load_file(folder / TENSORS)
    model.load_state_dict(_under(tensors, "now/"), strict=True)
    restore_optimizer(optimizer, _under(tensors, "optimizer/"))
    counters.pop("identity")
    return Progress(best=_under(tensors, "best/"), **counters)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, on the CPU, by number of the parameter and name."""
    return {
        f"{index}/{name}": value.detach().cpu()
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer what ``optimizer_tensors`` read from another."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, field_name = name.split("/")
        moments.setdefault(int(index), {})[field_name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def discard_state(folder: Path) -> None:
    """Remove the state of a run, finished or given up."""
    (folder / COUNTERS).unlink(missing_ok=True)
    (folder / TENSORS).unlink(missing_ok=True)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
