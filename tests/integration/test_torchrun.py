"""Real processes, started by torchrun, that train as one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoint import load_checkpoint
from tests.prepared import write_walks
from training.__main__ import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
WORKER = "tests.distributed_worker"

pytestmark = pytest.mark.timeout(300)  # every process imports PyTorch

# What is added to every logit of a softmax alike, or to both sides of a difference, has no gradient
# but rounding, which AdamW scales up to whole steps; no answer depends on it.
IDLE = re.compile(
    r"(p8\.head|p8\.encoder\.blocks\.norm|bag\.place|reranker\.out)\.bias|in_proj_bias"
    r"|reranker\.straight\."  # it also reads the size of the set, the same for all candidates
)


def start(processes: int, *words: str | Path, restarts: int = 0) -> "subprocess.Popen[str]":
    """Start a module, alone or as several processes."""
    launcher = [*TORCHRUN, str(processes), "--max-restarts", str(restarts)]
    if processes == 1:
        launcher = []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", *map(str, words)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(processes: int, *words: str | Path, code: int = 0) -> tuple[str, str]:
    """What a run says on stdout and stderr."""
    with start(processes, *words) as process:
        said, errors = process.communicate(timeout=110)
    assert process.returncode == code, errors
    return said, errors


def our_errors(stderr: str) -> list[str]:
    return re.findall(r"^error: (.*)$", stderr, re.MULTILINE)


def last_weights(out: Path) -> dict[str, Tensor]:
    """Weights after the last epoch, of the process that writes the state."""
    tensors = load_file(out / "state" / "state.safetensors")
    return {
        name.removeprefix("now/"): value
        for name, value in tensors.items()
        if name.startswith("now/")
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    run(1, WORKER, "learn", out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("data") / "data", 1, train=24, validation=10).path


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(
    alone: Path, tmp_path: Path, processes: int
) -> None:
    run(processes, WORKER, "learn", tmp_path)
    expected, history = (
        json.loads((folder / "history.json").read_bytes()) for folder in (alone, tmp_path)
    )
    for line, other in zip(history, expected, strict=True):
        for name, value in other.items():
            if "seconds" not in name:
                assert line[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    weights, single = last_weights(tmp_path), last_weights(alone)
    for name, value in single.items():
        if not IDLE.search(name):
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for rank in range(1, processes):
        for name, value in load_file(tmp_path / f"process-{rank}.safetensors").items():
            assert torch.equal(value, weights[name]), (rank, name)


def test_a_failed_process_ends_all_and_the_run_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run(2, WORKER, "learn", whole, "--dropout", "0.3")
    _, errors = run(2, WORKER, "learn", cut, "--dropout", "0.3", "--stop-after", "1", code=1)
    assert errors.count("ArithmeticError: stopped on purpose") == 1
    assert "LostProcessError" not in errors
    assert not (cut / "process-1.safetensors").exists()
    run(2, WORKER, "learn", cut, "--dropout", "0.3")
    resumed = last_weights(cut)
    for name, value in last_weights(whole).items():
        assert torch.equal(resumed[name], value), name


def test_two_processes_make_a_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    said, _ = run(2, "training", "train", data, "--out", out, "--epochs", "2")
    assert len(re.findall(r"^epoch 1: loss", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^gate: ", said, re.MULTILINE)) == 1
    loaded = load_checkpoint(out)
    assert loaded.provenance["processes"] == 2
    assert loaded.provenance["command"] == (
        "torchrun --nproc-per-node 2 -m training train data --out checkpoint --epochs 2"
    )
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert not list((out / "state").iterdir())
    report = tmp_path / "report.json"
    words = ["--split", "validation", "--json", str(report)]
    assert main(["evaluate", str(out), str(data), *words]) == 0
    found = json.loads(report.read_bytes())["protocols"]["in_document"]
    assert found == loaded.metrics["protocols"]["in_document"]


def processes_of(launcher: int) -> dict[str, int]:
    """Process ids of the processes that torchrun started, by their rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [entry[5:].decode() for entry in environment if entry.startswith(b"RANK=")]
        found.update({rank: int(child) for rank in ranks})
    return found


def kill_one_after_an_epoch(launcher: "subprocess.Popen[str]", log: Path) -> dict[str, int]:
    """SIGKILL for the second process; answers which there were."""
    until = time.monotonic() + 90
    while not (log.exists() and log.read_text().endswith("\n")):
        assert launcher.poll() is None
        assert time.monotonic() < until, "no epoch was finished"
        time.sleep(0.01)
    started = processes_of(launcher.pid)
    os.kill(started["1"], signal.SIGKILL)
    return started


def epochs(log: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in log.read_text().splitlines()]


def test_a_killed_process_ends_the_run_and_one_process_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    log = out / "metrics.jsonl"
    words = ["training", "train", data, "--out", out, "--epochs", "6", "--no-rerank"]
    with start(2, *words) as launcher:
        started = kill_one_after_an_epoch(launcher, log)
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert f"Signal 9 (SIGKILL) received by PID {started['1']}" in errors
    assert len(our_errors(errors)) <= 1  # torchrun may end the other one before it says a word
    assert not Path(f"/proc/{started['0']}").exists()
    assert not (out / "config.json").exists()
    before = log.read_text().splitlines()
    run(1, *words)
    assert epochs(log) == [1, 2, 3, 4, 5, 6]
    assert log.read_text().splitlines()[0] == before[0]
    assert "processes" not in load_checkpoint(out).provenance


def test_torchrun_starts_a_killed_run_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    log = out / "metrics.jsonl"
    words = ["training", "train", data, "--out", out, "--epochs", "6", "--no-rerank"]
    with start(2, *words, restarts=1) as launcher:
        kill_one_after_an_epoch(launcher, log)
        before = log.read_text().splitlines()
        _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert epochs(log) == [1, 2, 3, 4, 5, 6]
    assert log.read_text().splitlines()[0] == before[0]
    assert load_checkpoint(out).provenance["processes"] == 2


def test_what_fails_in_one_process_is_said_once(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    _, errors = run(2, "training", "train", data, "--out", file, code=1)
    assert our_errors(errors) == [f"process 0 of 2: [Errno 17] File exists: '{file}'"]


def test_processes_with_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    other = write_walks(tmp_path / "data", 3, train=24, validation=10).path
    _, errors = run(2, WORKER, "train", tmp_path / "out", data, other, code=1)
    assert our_errors(errors) == [
        "process 1 of 2: data: expected what process 0 has, got something else; "
        "give every process the same options and the same data"
    ]


def test_what_is_wrong_everywhere_is_said_once(tmp_path: Path) -> None:
    _, errors = run(2, "training", "train", tmp_path, "--out", tmp_path / "out", code=1)
    (error,) = our_errors(errors)
    assert re.match(rf"process [01] of 2: {tmp_path}: is not prepared data", error)


def test_other_commands_are_not_shared(data: Path) -> None:
    _, errors = run(2, "training", "pilot", data, code=1)
    assert our_errors(errors) == [
        "process 0 of 2: pilot: expected one process, got 2 from torchrun; only train is shared"
    ]
