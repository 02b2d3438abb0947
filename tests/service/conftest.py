"""A small prepared folder, small checkpoints, and real servers on free ports."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from models.checkpoint import save_checkpoint
from models.model import P8Model
from service.__main__ import main
from service.embedding import CannotEmbedError, Embedder
from service.server import build_server
from service.settings import Settings
from service.store import ChunkRow, Store
from tests.synthetic import shape

DIMENSION = 16
COUNTS = {"alpha": 12, "beta": 9, "x/y:z": 7, "delta": 20}
MODEL_NAME = "synthetic-16"


def unit_rows(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_prepared(folder: Path, seed: int = 1, counts: dict[str, int] | None = None) -> Path:
    counts = counts or COUNTS
    folder.mkdir(parents=True)
    documents, chunks = [], []
    for doc_id, count in counts.items():
        documents.append(
            {
                "doc_id": doc_id,
                "title": f"About {doc_id}",
                "source": f"https://example.org/{doc_id}",
                "licence": "CC-BY-4.0",
                "start": len(chunks),
                "count": count,
                "group": "test",
            }
        )
        chunks += [
            {"text": f"Chunk {place} of {doc_id}: größer.", "section": f"Part {place // 5}"}
            for place in range(count)
        ]
    manifest = {
        "format": 1,
        "name": "tiny",
        "documents": len(documents),
        "chunks": len(chunks),
        "fingerprint": f"seed-{seed}",
        "vectors": {"model": MODEL_NAME, "dimension": DIMENSION, "weights_sha256": "0" * 64},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name, rows in (("documents", documents), ("chunks", chunks)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "vectors.npy", unit_rows(len(chunks), seed))
    return folder


def write_checkpoint(
    folder: Path,
    *,
    verdict: str = "passed",
    dimension: int = DIMENSION,
    space: str = "learned",
    tower: str | None = None,
    rerank: bool = False,
    vectors_of: str | None = MODEL_NAME,
    seed: int = 7,
) -> Path:
    torch.manual_seed(seed)
    config = shape(dimension=dimension, space=space, tower=tower is not None, rerank=rerank)
    model = P8Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the untrained adapter is the identity: move it
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_checkpoint(
        folder,
        model,
        order_weight=0.25,
        gate={"verdict": verdict, "tower": {"verdict": tower} if tower else None},
        metrics={"validation": {"in_document": {"r_at_5": 0.5}}},
        provenance={"data": [{"name": "tiny", "vectors": {"model": vectors_of}}]},
        card="# Tiny\n",
    )
    return folder


def index(prepared: Path, data: Path, checkpoint: Path | None = None) -> Path:
    flags = ["--checkpoint", str(checkpoint)] if checkpoint else []
    assert main(["index", str(prepared), "--data", str(data), *flags]) == 0
    return data


def whole_chunks(store: Store) -> list[ChunkRow]:
    """All chunks of a store with their texts, in row order."""
    with store.at_one_moment() as (_, walk):
        return list(walk())


class Live:
    """A running service and an HTTP client for it."""

    def __init__(self, url: str, announced: list[str]) -> None:
        self.url = url
        self.announced = announced
        self.http = httpx.Client(base_url=url, timeout=20.0)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def ok(self, path: str, body: Any) -> dict[str, Any]:
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()


def no_embedder(name: str) -> Embedder:
    raise CannotEmbedError(f"{name} is not installed")


@contextmanager
def live(
    data: Path,
    checkpoint: Path | None = None,
    *,
    load_embedder: Callable[[str], Embedder] = no_embedder,
    ready: bool = True,
    prepare: Callable[[Any], None] = lambda _: None,
    in_place: bool = False,
    **options: Any,
) -> Iterator[Live]:
    """Run a real server on a free port until the block ends, on a copy of the data folder."""
    with tempfile.TemporaryDirectory() as scratch:
        if not in_place and data.is_dir():
            data = Path(shutil.copytree(data, Path(scratch) / "data"))
        settings = Settings(data=data, checkpoint=checkpoint, port=0, **options)
        with _running(settings, load_embedder, ready, prepare) as service:
            yield service


@contextmanager
def _running(
    settings: Settings,
    load_embedder: Callable[[str], Embedder],
    ready: bool,
    prepare: Callable[[Any], None],
) -> Iterator[Live]:
    announced: list[str] = []
    server = build_server(settings, load_embedder=load_embedder, announce=announced.append)
    prepare(server.config.app)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _wait(lambda: bool(server.url))
        service = Live(server.url, announced)
        with service.http:
            if ready:
                _wait(lambda: service.http.get("/readyz").status_code == 200)
            else:
                _wait(lambda: any("ready" in line for line in announced))
            yield service
    finally:
        server.should_exit = True
        thread.join()


def _wait(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "the service did not come up"
        time.sleep(0.01)


Run = Callable[..., AbstractContextManager[Live]]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "passed")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, prepared: Path, checkpoint: Path) -> Path:
    """An indexed data folder that tests copy and never change."""
    return index(prepared, tmp_path_factory.mktemp("data"), checkpoint)


@pytest.fixture(scope="session")
def service(data: Path, checkpoint: Path) -> Iterator[Live]:
    """One service with a passed checkpoint, shared by all tests that only ask."""
    with live(data, checkpoint) as running:
        yield running
