"""``--dtype bfloat16``, on a processor that multiplies it and on one that does not."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import index, live, write_checkpoint

WINDOW = {"context_ids": ["alpha:0", "alpha:1", "alpha:2"], "mode": "p8", "top_k": 45}
WARNING = "dtype: this processor has no bfloat16; computing in float32"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> tuple[Path, Path]:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "rerank", rerank=True)
    return index(prepared, tmp_path_factory.mktemp("data"), checkpoint), checkpoint


def _asked(folders: tuple[Path, Path], **settings: Any) -> Any:
    with live(*folders, **settings) as running:
        answer = running.ok("/v1/rank", WINDOW)
    return answer["alpha"], {one["id"]: one["score"] for one in answer["results"]}


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records]
    return [line for line in told if line.startswith("dtype")]


def test_a_processor_without_it_computes_in_float32(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = _asked(folders)
    for module in ("models.packed", "service.lifecycle"):
        monkeypatch.setattr(f"{module}.has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert _asked(folders, dtype="bfloat16") == exact
    assert _warnings(caplog) == [WARNING]


@pytest.mark.usefixtures("bfloat16")
def test_it_moves_scores_a_little(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    exact_alpha, exact = _asked(folders)
    with caplog.at_level(logging.WARNING):
        alpha, scores = _asked(folders, dtype="bfloat16")
    assert not _warnings(caplog)
    assert alpha != exact_alpha
    np.testing.assert_allclose(alpha, exact_alpha, atol=0.01)
    assert scores.keys() == exact.keys()
    np.testing.assert_allclose([scores[one] for one in exact], list(exact.values()), atol=0.05)
