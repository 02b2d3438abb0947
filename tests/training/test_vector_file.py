import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.dataset import DatasetError
from training.vector_file import blocks_of, unit_rows, write_vectors


def test_blocks_make_up_the_file(tmp_path: Path):
    vectors = np.random.default_rng(0).normal(size=(10, 3))
    digest = write_vectors(tmp_path / "v.npy", blocks_of(vectors, 4), (10, 3), "vectors")
    stored = np.load(tmp_path / "v.npy")
    np.testing.assert_allclose(
        stored, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-7
    )
    assert digest == hashlib.sha256(stored.tobytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_extreme_lengths_are_normalised():
    np.testing.assert_allclose(
        unit_rows(np.array([[3e300, 4e300], [3e-9, 4e-9]]), "v"), [[0.6, 0.8]] * 2
    )


@pytest.mark.parametrize(("shape", "message"), [((11, 3), "11 rows"), ((10, 4), "4 dimensions")])
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, int], message: str):
    with pytest.raises(DatasetError, match=message):
        write_vectors(tmp_path / "v.npy", [np.ones((10, 3))], shape, "vectors")
    assert list(tmp_path.iterdir()) == []
