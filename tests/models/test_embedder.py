from pathlib import Path

import numpy as np
import pytest

from models.embedder import (
    DEFAULT_SHA256,
    EmbedderError,
    file_sha256,
    find_embedder,
    load_embedder,
)


@pytest.fixture(scope="module")
def embedder():
    return load_embedder()


def test_default_is_pinned(embedder):
    assert embedder.name == "all-MiniLM-L6-v2"
    assert embedder.dimension == 384
    assert embedder.weights_sha256 == DEFAULT_SHA256


def test_vectors_are_unit_and_mean_something(embedder):
    vectors = embedder.encode(
        ["The cat sat on the mat.", "A cat is sitting on a rug.", "Interest rates rose again."]
    )
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_bfloat16_vectors_are_nearly_the_same(embedder):
    texts = ["The cat sat on the mat.", "Interest rates rose again, to the surprise of many."]
    exact, quick = embedder.encode(texts), load_embedder(bfloat16=True).encode(texts)
    assert quick.dtype == np.float32
    assert not np.array_equal(exact, quick)
    assert (exact * quick).sum(1).min() > 0.9999


def test_no_texts(embedder):
    assert embedder.encode([]).shape == (0, 384)


def test_loading_is_silent(capfd: pytest.CaptureFixture[str]):
    load_embedder().encode(["quiet"])
    assert capfd.readouterr() == ("", "")


def test_both_spellings_mean_the_same():
    assert find_embedder("sentence-transformers/all-MiniLM-L6-v2") == find_embedder()


def test_folder_is_recorded_by_its_name(tmp_path: Path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    source = find_embedder(str(folder))
    assert (source.name, source.place) == ("my-model", str(folder))
    assert source.weights_sha256 == file_sha256(folder / "model.safetensors")
    with pytest.raises(EmbedderError, match="my-model: cannot be loaded"):
        load_embedder(str(folder))
