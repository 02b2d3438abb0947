"""What a run needs before it can measure: tools, an environment of the peers, checkpoint, data.

Everything is made under one folder and kept for the next run.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.peers.job import CHECKPOINT, IDS, INDEX, WINDOW
from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import P8Config
from models.model import P8Model
from models.scoring import Floats, Scorer
from service.__main__ import main as service
from service.prepared import open_prepared

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
PROJECTED, WINDOWS, MADE_OF, SERVICE = "projected.npy", "windows.npy", "made-of.json", "service"
LAYOUT = 1
"""Of the folder; another one is made anew."""
BUILD_EF = 200
HIDDEN, LAYERS, HEADS = 512, 4, 8
SEED, WINDOW_COUNT = 0, 512


class MissingToolError(RuntimeError):
    """A program that a run needs is not there; the message says how to get it."""


def find_wrk() -> str:
    """Find wrk.

    Raises:
        MissingToolError: If it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise MissingToolError("wrk: not found; it is in Debian: apt-get install wrk")
    return found


def peers_environment(folder: Path) -> Path:
    """Make the virtual environment of the peers, if its requirements have changed; its programs.

    Raises:
        MissingToolError: If it cannot be made.
    """
    mark, wanted = folder / ".installed", REQUIREMENTS.read_text()
    programs = folder / "bin"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"making the peers' environment in {folder}", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run(
                [programs / "python", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS],
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise MissingToolError(f"{folder}: {error}; see {REQUIREMENTS}") from error
        mark.write_text(wanted)
    if not (programs / "k6").exists():
        raise MissingToolError(f"k6: expected in {programs}, as {REQUIREMENTS} has it")
    return programs


def write_checkpoint(folder: Path, dimension: int) -> None:
    """Write a P8 of the size that the comparison is about: random weights, gate passed."""
    torch.manual_seed(0)
    config = P8Config(dimension=dimension, hidden=HIDDEN, layers=LAYERS, heads=HEADS)
    save_checkpoint(
        folder,
        P8Model(config).eval(),
        order_weight=0.0,
        gate={"verdict": "passed", "tower": None},
        metrics={},
        provenance={"data": []},
        card="# Random weights, for benchmarks alone\n",
    )


def prepare(dataset: Path, folder: Path, *, service_too: bool = True) -> None:
    """Write checkpoint, the peers' index and the service's data folder, where they are not yet.

    Args:
        dataset: Prepared and embedded.
        folder: Of all that is made.
        service_too: Whether the service takes part.
    """
    prepared = open_prepared(dataset)
    made_of = {"data": prepared.fingerprint, "layout": LAYOUT}
    mark = folder / MADE_OF
    if not mark.exists() or json.loads(mark.read_bytes()) != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checkpoint(folder / CHECKPOINT, prepared.dimension)
        model = load_checkpoint(folder / CHECKPOINT).model
        raw_ND = np.array(prepared.vectors_ND, np.float32)
        projected_ND = Scorer(model).project(raw_ND)
        np.save(folder / PROJECTED, projected_ND)
        np.save(folder / WINDOWS, draw(raw_ND))
        ids = [row.id for row in prepared.rows()]
        (folder / IDS).write_text(json.dumps(ids))
        print(f"building the peers' graph over {len(projected_ND):,} vectors", flush=True)
        _write_graph(folder / INDEX, projected_ND)
        mark.write_text(json.dumps(made_of))
    if not service_too:
        return
    wanted = ["index", str(dataset), "--data", str(folder / SERVICE)]
    if service([*wanted, "--checkpoint", str(folder / CHECKPOINT)]) != 0:
        raise RuntimeError(f"service index: no data folder from {dataset}")


def draw(raw_ND: Floats) -> Floats:
    """Draw windows of neighbouring rows, (WINDOW_COUNT, L, D)."""
    starts = np.random.default_rng(SEED).integers(0, len(raw_ND) - WINDOW, WINDOW_COUNT)
    return np.stack([raw_ND[start : start + WINDOW] for start in starts])


def _write_graph(path: Path, vectors_ND: Floats) -> None:
    index = faiss.IndexHNSWFlat(vectors_ND.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_EF
    index.add(vectors_ND)
    faiss.write_index(index, str(path))
