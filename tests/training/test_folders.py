"""Which folders go together, and what a checkpoint remembers of them."""

from pathlib import Path

import numpy as np
import pytest

from tests.prepared import raw_document
from training.dataset import DatasetError, PreparedDataset
from training.dataset_writer import DatasetWriter
from training.folders import FoldersError, check_alike, describe


def folder(
    out: Path,
    name: str,
    *,
    dimension: int = 4,
    model: str | None = "m",
    digest: str | None = "aa",
    licences: tuple[str, ...] = ("CC0",),
) -> PreparedDataset:
    with DatasetWriter(out / name, name=name.partition("+")[0]) as writer:
        for number, licence in enumerate(licences):
            writer.add(raw_document(f"{name} {number}", licence=licence))
        rows = np.random.default_rng(0).normal(size=(2 * len(licences), dimension))
        writer.attach_vectors(rows, model=model, weights_sha256=digest)
    return PreparedDataset.open(out / name)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("b", {"dimension": 5}, r"vectors.dimension: expected the same, got 4 and 5"),
        ("b", {"model": "n"}, r"vectors.model: expected the same, got 'm' and 'n'"),
        ("b", {"digest": "bb"}, r"vectors.weights_sha256: expected the same, got 'aa' and 'bb'"),
        ("a+2", {}, r"name: expected every folder to have its own, got 'a' twice"),
    ],
)
def test_folders_that_differ_are_named(
    tmp_path: Path, name: str, changes: dict[str, object], message: str
):
    unknown = folder(tmp_path, "unknown", model=None, digest=None)
    one, other = folder(tmp_path, "a"), folder(tmp_path, name, **changes)
    with pytest.raises(FoldersError, match=message) as caught:
        check_alike([one, unknown, other] if "dimension" not in changes else [one, other])
    assert f"{one.path} and {other.path}" in str(caught.value)


def test_folders_of_unknown_vectors_are_accepted(tmp_path: Path):
    check_alike(
        [
            folder(tmp_path, "a"),
            folder(tmp_path, "b"),
            folder(tmp_path, "c", digest=None),
            folder(tmp_path, "d", model=None, digest=None),
        ]
    )
    check_alike([folder(tmp_path, "a")])


def test_folders_without_vectors_name_the_command(tmp_path: Path):
    with DatasetWriter(tmp_path / "b", name="b") as writer:
        writer.add(raw_document("one"))
    with pytest.raises(DatasetError, match="python -m training embed"):
        check_alike([folder(tmp_path, "a"), PreparedDataset.open(tmp_path / "b")])


def test_a_folder_is_described(tmp_path: Path):
    licences = (*(f"L{n:02}" for n in range(14) for _ in range(20 - n)), "", "")
    data = folder(tmp_path, "a", licences=licences)
    record = describe(data, {"train": {"a": [0] * 7, "b": [0]}, "validation": {"a": [0]}})
    assert record == {
        "name": "a",
        "fingerprint": data.fingerprint,
        "documents": len(licences),
        "chunks": 2 * len(licences),
        "vectors": data.manifest["vectors"],
        "licences": {**{f"L{n:02}": 20 - n for n in range(12)}, "other": 8 + 7 + 2},
        "used": {"train": 7, "validation": 1},
    }


def test_an_unknown_licence_says_so(tmp_path: Path):
    data = folder(tmp_path, "a", licences=("", "CC0", ""))
    assert describe(data, {})["licences"] == {"unknown": 2, "CC0": 1}
