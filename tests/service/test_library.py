import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.library import Library, load_library, open_store
from service.modes import load_state

from .conftest import DIMENSION, index, unit_rows, write_checkpoint, write_prepared


def _load(data: Path, checkpoint: Path | None) -> Library:
    state = load_state(checkpoint, DIMENSION)
    library = load_library(data, open_store(data), state)
    library.store.close()
    return library


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data"


def test_both_spaces_are_loaded_exactly(
    data: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = _load(data, checkpoint)
    raw_ND = unit_rows(48, 1)
    np.testing.assert_array_equal(library.corpus.raw_ND, raw_ND)
    expected_ND = load_state(checkpoint, DIMENSION).scorer().project(raw_ND)
    np.testing.assert_array_equal(library.corpus.projected_ND, expected_ND)
    assert not np.allclose(raw_ND, expected_ND)
    assert sorted(library.fingerprints) == ["learned", "raw"]
    assert list(library.rows_of) == ["alpha", "beta", "x/y:z", "delta"]
    assert not caplog.records


def test_without_a_checkpoint_only_the_raw_index_is_used(data: Path) -> None:
    assert list(_load(data, None).fingerprints) == ["raw"]


def test_a_raw_space_model_needs_one_index(copy: Path, tmp_path: Path) -> None:
    library = _load(copy, write_checkpoint(tmp_path / "raw", space="raw"))
    assert library.corpus.projected_index is library.corpus.raw_index


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [
    _truncate,
    _flip,
    lambda path: path.unlink(),
    lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.with_suffix(".json").write_text("[]"),
    lambda path: path.with_suffix(".json").write_text("{"),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["raw", "learned"])
def test_a_damaged_index_is_rebuilt_with_one_line(
    copy: Path,
    checkpoint: Path,
    kind: str,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(copy / f"index-{kind}.faiss")
    with caplog.at_level(logging.INFO):
        library = _load(copy, checkpoint)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"rebuilding the {kind} index"
    ]
    np.testing.assert_array_equal(library.corpus.raw_index.vectors(), unit_rows(48, 1))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        _load(copy, checkpoint)
    assert not caplog.records


def test_another_checkpoint_rebuilds_the_learned_index_alone(
    copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_checkpoint(tmp_path / "other", seed=8)
    library = _load(copy, other)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "rebuilding the learned index"
    ]
    manifest = json.loads((copy / "index-learned.json").read_text())
    assert manifest["fingerprint"] == library.fingerprints["learned"]


def test_other_data_rebuild_both(
    copy: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = write_prepared(tmp_path / "other", seed=2)
    index(prepared, copy, checkpoint)
    assert "store: written, version 2, 48 chunks" in capsys.readouterr().out
    library = _load(copy, checkpoint)
    np.testing.assert_array_equal(library.corpus.raw_index.vectors(), unit_rows(48, 2))
    index(prepared, copy, checkpoint)
    assert "store: up to date, version 2" in capsys.readouterr().out


def test_an_index_that_cannot_be_saved_still_serves(
    copy: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "index-learned.faiss").unlink()
    (copy / "index-learned.faiss").mkdir()  # so that nothing can take its place
    library = _load(copy, checkpoint)
    assert library.corpus.projected_index.size == 48
    assert "could not be saved" in caplog.text
