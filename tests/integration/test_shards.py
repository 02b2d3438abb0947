"""Shards embedded by processes of their own, one of which is killed on the way."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prepared import write_prepared
from training.dataset import VECTORS, PreparedDataset
from training.embed import BLOCK_ROWS, block_path
from training.shards import Shard

pytestmark = pytest.mark.timeout(300)  # every process loads the model

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are then made in one order


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "training", *map(str, words)]


def run(*words: str | Path) -> str:
    done = subprocess.run(
        command(*words), env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout


def kill_after_a_block(dataset: PreparedDataset, shard: Shard) -> None:
    first = block_path(shard.folder(dataset), shard.blocks(dataset)[0])
    words = command("embed", dataset.path, "--shard", str(shard))
    with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while not first.exists():
            assert process.poll() is None, "it ended before a block was there"
            assert time.monotonic() < until, "no block came"
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -9


def test_a_killed_shard_goes_on_and_all_make_the_bytes_of_one_run(tmp_path: Path) -> None:
    dataset = write_prepared(tmp_path / "data", [2 * BLOCK_ROWS + 100])
    whole = shutil.copytree(dataset.path, tmp_path / "whole")
    shard = Shard(number=2, of=2)
    kill_after_a_block(dataset, shard)
    assert shard.missing(dataset)
    finished = block_path(shard.folder(dataset), 1)
    stamp = finished.stat().st_mtime_ns
    assert f"{BLOCK_ROWS + 100} vectors" in run("embed", dataset.path, "--shard", "2/2")
    assert finished.stat().st_mtime_ns == stamp
    run("embed", dataset.path, "--shard", "1/2")
    said = run("merge-shards", dataset.path)
    assert f"{2 * BLOCK_ROWS + 100} vectors of 384 dimensions by all-MiniLM-L6-v2" in said
    run("embed", whole)
    assert (dataset.path / VECTORS).read_bytes() == (whole / VECTORS).read_bytes()
    manifests = [PreparedDataset.open(path).manifest for path in (dataset.path, whole)]
    assert manifests[0] == manifests[1]
