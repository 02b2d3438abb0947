import json
from pathlib import Path

import numpy as np
import pytest

from tests.prepared import write_prepared
from training.dataset import DatasetError, PreparedDataset


def test_round_trip(tmp_path: Path):
    dataset = write_prepared(tmp_path / "data", [2, 3], dimension=4)
    assert [(d.doc_id, d.start, d.count, d.group) for d in dataset.documents] == [
        ("d0", 0, 2, "d0"),
        ("d1", 2, 3, "d1"),
    ]
    assert dataset.texts()[2] == "d1 chunk 0"
    assert dataset.sections() == ["S"] * 5
    assert (dataset.chunk_count, dataset.dimension) == (5, 4)
    assert dataset.vectors.dtype == np.float32
    assert dataset.vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(dataset.vectors, axis=1), 1.0, rtol=1e-6)


def test_fingerprint_covers_texts_and_vectors(tmp_path: Path):
    first = write_prepared(tmp_path / "a", [2, 3], dimension=4)
    again = write_prepared(tmp_path / "b", [2, 3], dimension=4)
    other_vectors = write_prepared(tmp_path / "c", [2, 3], dimension=4, seed=1)
    other_texts = write_prepared(tmp_path / "d", [3, 2], dimension=4)
    assert first.fingerprint == again.fingerprint
    assert len({d.fingerprint for d in (first, other_vectors, other_texts)}) == 3


def test_missing_folder_names_the_command(tmp_path: Path):
    with pytest.raises(DatasetError, match="python -m training prepare"):
        PreparedDataset.open(tmp_path)


def test_missing_vectors_name_the_command(tmp_path: Path):
    dataset = write_prepared(tmp_path / "data", [2])
    with pytest.raises(DatasetError, match="python -m training embed"):
        _ = dataset.vectors


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("manifest.json", '"format": 1', '"format": 2', "format: expected 1, got 2"),
        ("manifest.json", "{", "", "cannot be read as JSON"),
        ("manifest.json", '"chunks": 5', '"chunks": 6', "chunks: expected 6"),
        ("chunks.jsonl", "d0 chunk 0", "changed", "fingerprint: expected"),
        ("documents.jsonl", '"start":2', '"start":3', "line 2: expected start 2"),
        ("documents.jsonl", '"group":"d1"', '"extra":"d1"', "line 2"),
        ("documents.jsonl", "{", "", "line 1: not JSON"),
    ],
)
def test_damage_is_found(tmp_path: Path, file: str, old: str, new: str, message: str):
    write_prepared(tmp_path, [2, 3], dimension=4)
    path = tmp_path / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        PreparedDataset.open(tmp_path)


def test_missing_file_is_found(tmp_path: Path):
    write_prepared(tmp_path, [2])
    (tmp_path / "chunks.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"chunks\.jsonl: cannot be read"):
        PreparedDataset.open(tmp_path)


def test_vectors_of_another_shape_are_refused(tmp_path: Path):
    write_prepared(tmp_path, [2, 3], dimension=4)
    np.save(tmp_path / "vectors.npy", np.ones((5, 3), np.float32))
    with pytest.raises(DatasetError, match=r"expected float32 \(5, 4\), got float32 \(5, 3\)"):
        _ = PreparedDataset.open(tmp_path).vectors


def test_manifest_holds_the_contract(tmp_path: Path):
    write_prepared(tmp_path, [2], dimension=4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest) == {
        "format", "name", "documents", "chunks", "fingerprint", "options", "vectors"
    }  # fmt: skip
    assert set(manifest["vectors"]) == {"model", "dimension", "weights_sha256", "rows", "sha256"}
