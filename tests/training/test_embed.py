from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.embedder import load_embedder
from tests.prepared import raw_document, write_prepared
from training.dataset import DatasetError, PreparedDataset
from training.dataset_writer import DatasetWriter
from training.embed import BLOCK_ROWS, embed_dataset, is_embedded
from training.raw import Chunk


class HashEmbedder:
    """Vectors from the bytes of a text; stops like Ctrl-C after so many texts."""

    dimension = 4
    bfloat16 = False

    def __init__(self, name: str = "hash", stop_after: float = float("inf")) -> None:
        self.name = name
        self.weights_sha256 = None
        self.encoded = 0
        self._stop_after = stop_after

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.encoded + len(texts) > self._stop_after:
            raise KeyboardInterrupt
        self.encoded += len(texts)
        seeds = [int.from_bytes(f"{self.name}{text}".encode(), "big") for text in texts]
        return np.array([np.random.default_rng(seed).normal(size=4) for seed in seeds], np.float32)


def expected_vectors(dataset: PreparedDataset, name: str = "hash") -> NDArray[np.float32]:
    vectors = HashEmbedder(name).encode(dataset.texts())
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_interrupted_run_goes_on(tmp_path: Path):
    count = 2 * BLOCK_ROWS + 10
    dataset = write_prepared(tmp_path, [count])
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, HashEmbedder(stop_after=BLOCK_ROWS + 500), show_progress=False)
    assert PreparedDataset.open(tmp_path).manifest["vectors"] is None
    second = HashEmbedder()
    done = embed_dataset(dataset, second, show_progress=False)
    assert second.encoded == count - BLOCK_ROWS
    np.testing.assert_allclose(done.vectors, expected_vectors(dataset), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chunks.jsonl", "documents.jsonl", "manifest.json", "vectors.npy"
    ]  # fmt: skip


def test_finished_run_is_not_repeated(tmp_path: Path):
    done = embed_dataset(write_prepared(tmp_path, [3]), HashEmbedder(), show_progress=False)
    again = HashEmbedder(stop_after=0)
    assert is_embedded(done, again)
    assert embed_dataset(done, again, show_progress=False) is done


def test_another_model_starts_over(tmp_path: Path):
    dataset = write_prepared(tmp_path, [BLOCK_ROWS + 10])
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, HashEmbedder(stop_after=BLOCK_ROWS), show_progress=False)
    done = embed_dataset(dataset, HashEmbedder("other"), show_progress=False)
    np.testing.assert_allclose(done.vectors, expected_vectors(dataset, "other"), atol=1e-6)
    assert not is_embedded(done, HashEmbedder())
    back = embed_dataset(done, HashEmbedder(), show_progress=False)
    np.testing.assert_allclose(back.vectors, expected_vectors(dataset), atol=1e-6)
    assert back.fingerprint != done.fingerprint


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    embed_dataset(write_prepared(tmp_path, [3]), HashEmbedder())
    assert "3/3" in capsys.readouterr().err


def test_chunk_without_text_is_named(tmp_path: Path):
    with DatasetWriter(tmp_path / "data", name="n") as writer:
        writer.add(raw_document("x", 2))
        writer.add(raw_document("y", chunks=(Chunk(text=" "),)))
    dataset = PreparedDataset.open(tmp_path / "data")
    with pytest.raises(DatasetError, match="line 3: text: expected words"):
        embed_dataset(dataset, HashEmbedder(), show_progress=False)


def test_embedder_of_the_wrong_shape_is_named(tmp_path: Path):
    class Wrong(HashEmbedder):
        dimension = 5

    with pytest.raises(DatasetError, match=r"hash: expected vectors of shape \(3, 5\)"):
        embed_dataset(write_prepared(tmp_path, [3]), Wrong(), show_progress=False)


def test_real_model(tmp_path: Path):
    dataset = write_prepared(tmp_path, [3, 2])
    embedder = load_embedder()
    done = embed_dataset(dataset, embedder, show_progress=False)
    np.testing.assert_allclose(done.vectors, embedder.encode(dataset.texts()), atol=1e-5)
    assert done.manifest["vectors"]["model"] == "all-MiniLM-L6-v2"
    assert done.manifest["vectors"]["weights_sha256"] == embedder.weights_sha256
