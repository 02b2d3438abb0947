import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.__main__ import main
from service.prepared import open_prepared

from .conftest import MODEL_NAME, unit_rows, write_prepared


def test_rows_carry_ids_places_and_provenance(prepared: Path) -> None:
    opened = open_prepared(prepared)
    rows = list(opened.rows())
    assert len(rows) == opened.chunks == 48
    assert opened.embedding_model == MODEL_NAME
    assert rows[12].id == "beta:0"
    assert rows[24].id == "x/y:z:3"
    assert rows[12].metadata == {
        "title": "About beta",
        "section": "Part 0",
        "source": "https://example.org/beta",
        "licence": "CC-BY-4.0",
    }
    np.testing.assert_array_equal(np.stack([row.vector_D for row in rows]), unit_rows(48, 1))


def _manifest(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    return change


def _vectors(rows_ND: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "vectors.npy", rows_ND)


def _cut(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:-1]))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_manifest(format=2), "expected format 1, got 2"),
        (_manifest(vectors=None), "run 'python -m training embed'"),
        (_manifest(chunks=50), "expected float32 (50, 16), got float32 (48, 16)"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: not readable"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / "vectors.npy").write_bytes(b"no"), "vectors.npy: not readable"),
        (_vectors(unit_rows(48, 1).astype(np.float64)), "got float64"),
        (_vectors(np.full((48, 16), np.nan, np.float32)), "got NaN or infinity"),
        (_vectors(np.zeros((48, 16), np.float32)), "vectors.npy row 0"),
        (_cut("chunks.jsonl"), "delta: expected 20 chunks, it ends"),
        (_cut("documents.jsonl"), "expected 48 chunks in all documents, got 28"),
        (lambda folder: (folder / "chunks.jsonl").write_text("{\n"), "chunks.jsonl line 1"),
        (lambda folder: (folder / "documents.jsonl").unlink(), "documents.jsonl: No such file"),
    ],
)
def test_an_unusable_folder_is_named_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    message: str,
) -> None:
    folder = write_prepared(tmp_path / "prepared")
    change(folder)
    assert main(["index", str(folder), "--data", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("data/index-*"))
