from pathlib import Path

import numpy as np
import pytest

from tests.prepared import raw_document, write_prepared
from training.dataset import DatasetError, PreparedDataset
from training.dataset_writer import DatasetWriter, install_vectors
from training.raw import RawDocument


def write(
    out: Path,
    *documents: RawDocument,
    vectors: Path | np.ndarray | None = None,
    error: BaseException | None = None,
) -> None:
    with DatasetWriter(out, name="n") as writer:
        for document in documents:
            writer.add(document)
        if vectors is not None:
            writer.attach_vectors(vectors)
        if error is not None:
            raise error


def test_duplicate_ids_name_both_inputs(tmp_path: Path):
    one, two = (raw_document("x", origin=name) for name in ("one.jsonl", "two.jsonl"))
    with pytest.raises(DatasetError, match=r"'x' twice: in one\.jsonl and in two\.jsonl"):
        write(tmp_path / "data", one, two)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_documents(tmp_path: Path):
    with pytest.raises(DatasetError, match="at least one document"):
        write(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_document_without_chunks_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="at least one chunk"):
        write(tmp_path / "data", raw_document("x", 0))


def test_failure_leaves_the_earlier_data(tmp_path: Path):
    before = write_prepared(tmp_path / "data", [2])
    with pytest.raises(RuntimeError):
        write(tmp_path / "data", raw_document("x"), error=RuntimeError())
    assert PreparedDataset.open(tmp_path / "data").fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_prepared_data_are_replaced_and_other_folders_are_not(tmp_path: Path):
    write_prepared(tmp_path / "data", [2])
    assert len(write_prepared(tmp_path / "data", [3, 3]).documents) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="choose another folder"):
        DatasetWriter(tmp_path / "mine", name="n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors: vectors[:-1], "expected 5 rows, one a chunk, got 4"),
        (lambda vectors: vectors.astype(int), "floating-point"),
        (lambda vectors: vectors[0], "floating-point"),
        (lambda vectors: np.where(np.arange(5)[:, None] == 3, np.nan, vectors), r"row 3: .*NaN"),
        (lambda vectors: vectors * (np.arange(5)[:, None] != 2), "row 2: .*zero vector"),
    ],
)
def test_bad_vectors(tmp_path: Path, change, message: str):
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    with pytest.raises(DatasetError, match=message):
        write(tmp_path / "data", raw_document("x", 5), vectors=change(vectors))


def test_vectors_from_a_file_of_half_precision(tmp_path: Path):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    np.save(tmp_path / "v.npy", vectors)
    with DatasetWriter(tmp_path / "data", name="n") as writer:
        writer.add(raw_document("x", 5))
        writer.attach_vectors(tmp_path / "v.npy", model="m", weights_sha256="h")
    dataset = PreparedDataset.open(tmp_path / "data")
    wide = vectors.astype(float)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(dataset.vectors, expected, atol=1e-7)
    record = dataset.manifest["vectors"]
    assert (record["model"], record["weights_sha256"], record["rows"]) == ("m", "h", 5)


def test_not_a_vector_file(tmp_path: Path):
    (tmp_path / "v.npy").write_text("hello")
    with pytest.raises(DatasetError, match=r"v\.npy: expected a \.npy file"):
        write(tmp_path / "data", raw_document("x", 5), vectors=tmp_path / "v.npy")


def test_carried_vectors(tmp_path: Path):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with DatasetWriter(tmp_path / "data", name="n", carried_model="m") as writer:
        writer.add(raw_document("x", 2, vectors=vectors[:2]))
        writer.add(raw_document("y", 3, vectors=vectors[2:]))
        with pytest.raises(DatasetError, match="got none"):
            writer.add(raw_document("z", 3))
        with pytest.raises(DatasetError, match="expected shape"):
            writer.add(raw_document("z", 3, vectors=np.ones((3, 5), np.float32)))
        with pytest.raises(DatasetError, match="brought its own"):
            writer.attach_vectors(vectors)
    dataset = PreparedDataset.open(tmp_path / "data")
    np.testing.assert_allclose(
        dataset.vectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6
    )
    assert dataset.manifest["vectors"]["model"] == "m"


def test_texts_with_and_without_vectors_do_not_mix(tmp_path: Path):
    with_vectors = raw_document("y", 2, vectors=np.ones((2, 4), np.float32))
    with pytest.raises(DatasetError, match="vectors: expected shape"):
        write(tmp_path / "data", raw_document("x", 2), with_vectors)


def test_failed_installation_leaves_no_record(tmp_path: Path):
    write_prepared(tmp_path, [2, 3], dimension=4)
    blocks = iter([np.ones((2, 4)), np.full((3, 4), np.inf)])
    with pytest.raises(DatasetError, match="row 2"):
        install_vectors(tmp_path, blocks, (5, 4), model=None, weights_sha256=None)
    assert PreparedDataset.open(tmp_path).manifest["vectors"] is None
