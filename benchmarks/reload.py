"""Reloads checkpoints while 32 connections rank, and looks for failures and mixtures.

    python benchmarks/reload.py DATASET [--connections 32] [--swaps 2]

Serves the dataset with a copy of the checkpoint, swaps in another one (the same with its weights
moved a little) and back, and offers a truncated one in between, which must be refused while the old
one goes on. Exit code 1 if any rank fails, or any two answers of one checkpoint to one question
differ.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from serving import FIGURES_HEAD, SHIPPED, Figures, Load, Span, machine, serving, windows

from models.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from service.__main__ import main as service
from service.client import Client
from service.errors import CheckpointRejectedError
from service.prepared import open_prepared

MOVED_BY = 0.02
"""Of each tensor's spread, so that the other checkpoint ranks alike and scores differently."""
DEADLINE_MS = 2000.0
NEAR = 1e-5
Results = tuple[tuple[str, float], ...]
"""The service's own, unless it is set or the request says otherwise."""


def lay_out(checkpoint: Path, folder: Path) -> None:
    """Put three checkpoints beside each other: ``one``, ``other`` and ``truncated``."""
    shutil.copytree(checkpoint, folder / "one")
    loaded = load_checkpoint(checkpoint)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.numel() > 1:
                parameter.add_(MOVED_BY * parameter.std() * torch.randn_like(parameter))
    save_checkpoint(
        folder / "other",
        loaded.model,
        order_weight=loaded.order_weight,
        gate=loaded.gate,
        metrics=loaded.metrics,
        provenance=loaded.provenance,
        card="# Moved a little\n",
    )
    shutil.copytree(folder / "other", folder / "truncated")
    weights = folder / "truncated" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def swap(client: Client, name: str) -> Span:
    """Load a checkpoint; when that was."""
    start_s = time.monotonic()
    told = client.reload(checkpoint=name)
    span = Span(start_s, time.monotonic())
    print(
        f"reload {name}: {told['previous']} -> {told['version']}, {span.end_s - span.start_s:.1f} s"
    )
    return span


def refuse(client: Client) -> Span:
    """Offer the truncated checkpoint, which must be refused."""
    start_s = time.monotonic()
    before = client.model()["checkpoint"]
    try:
        client.reload(checkpoint="truncated")
    except CheckpointRejectedError as error:
        print(f"reload truncated: {error.code}: {error.members['reason']}")
    else:
        raise AssertionError("a truncated checkpoint was loaded")
    assert client.model()["checkpoint"] == before
    return Span(start_s, time.monotonic())


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measure, report, and tell the exit code."""
    print(machine())
    lay_out(args.checkpoint, folder / "checkpoints")
    one, data = folder / "checkpoints" / "one", folder / "data"
    wanted = ["index", str(args.dataset), "--data", str(data), "--checkpoint", str(one)]
    assert service(wanted) == 0
    contexts = windows(open_prepared(args.dataset).vectors_ND, 1, args.contexts)
    with serving(data, one) as url, Client(url, retry=None, timeout_s=900) as client:
        load = Load(url, args.connections, contexts, mode="p8", timeout_s=args.timeout_s)
        with load:
            time.sleep(args.quiet_s / 2)  # while they come up
            quiet = [_pause(args.quiet_s)]
            swaps, refusals = [], []
            for turn in range(args.swaps):
                swaps.append(swap(client, ("other", "one")[turn % 2]))
                refusals.append(refuse(client))
                quiet.append(_pause(args.quiet_s))
    return _report(load, {"quiet": quiet, "during a reload": swaps, "during a refusal": refusals})


def _pause(seconds: float) -> Span:
    start_s = time.monotonic()
    time.sleep(seconds)
    return Span(start_s, time.monotonic())


def _report(load: Load, phases: dict[str, list[Span]]) -> int:
    print("\n" + FIGURES_HEAD)
    base = Figures.of([one.took_ms for one in load.during(phases["quiet"])])
    for name, spans in phases.items():
        took_ms = [one.took_ms for one in load.during(spans)]
        print(Figures.of(took_ms).row(f"rank, {name}", None if name == "quiet" else base))
    problems = [one.problem for one in load.asked if one.problem is not None]
    late = sum(one.took_ms > DEADLINE_MS for one in load.asked)
    print(f"\nranks: {len(load.asked):,}; failed: {len(problems)} {sorted(set(problems))}")
    print(f"answered after more than {DEADLINE_MS:g} ms: {late}")
    answers: dict[tuple[int, str | None], set[Results]] = defaultdict(set)
    for one in load.asked:
        answers[one.context, one.version].add(one.results)
    mixed = sum(not _same(different) for different in answers.values())
    by_version = {version: 0 for _, version in answers}
    for one in load.asked:
        by_version[one.version] += 1
    print(f"answers by version: {by_version}")
    print(f"questions, by version: {len(answers)}; of which answered in two ways: {mixed}")
    return int(bool(problems) or bool(mixed))


def _same(answers: set[Results]) -> bool:
    """Whether answers differ by nothing but the last bits, which depend on the batch."""
    first, *others = map(dict, answers)
    least = min(first.values())
    for one in others:
        shared = one.keys() & first.keys()
        if any(abs(one[name] - first[name]) > NEAR for name in shared):
            return False
        # A tie at the last place may be decided either way.
        if any(one[name] - least > NEAR for name in one.keys() - shared):
            return False
    return True


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="prepared folder")
    parser.add_argument("--connections", type=int, default=32, help="default 32")
    parser.add_argument("--swaps", type=int, default=2, help="default 2")
    parser.add_argument("--contexts", type=int, default=64, help="questions (default 64)")
    parser.add_argument("--quiet-s", type=float, default=15.0, help="quiet phases (default 15)")
    parser.add_argument(
        "--timeout-s", type=float, default=30.0, help="X-Request-Timeout (default 30)"
    )
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help=f"default {SHIPPED}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nextchunk-reload-") as folder:
        return run(args, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
