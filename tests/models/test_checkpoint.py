import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.checkpoint import (
    CheckpointInvalidError,
    CheckpointMissingError,
    load_checkpoint,
    save_checkpoint,
)
from models.model import P8Model
from models.scoring import Method, Scorer
from tests.synthetic import unit_rows

PASSED = {"verdict": "passed", "tower": {"verdict": "failed"}}


def save(folder: Path, model: P8Model) -> str:
    return save_checkpoint(
        folder,
        model,
        order_weight=0.02,
        gate=PASSED,
        metrics={"split": "validation"},
        provenance={"seed": 0},
        card="# card\n",
    )


def test_saved_and_loaded_scores_are_identical(
    tmp_path: Path, any_model: P8Model, generator: np.random.Generator
) -> None:
    version = save(tmp_path, any_model)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.version == version
    assert checkpoint.passed
    assert not checkpoint.tower_passed
    assert checkpoint.model.config == any_model.config
    chunks = unit_rows(generator, 20, 16)
    totals = []
    for model in (any_model, checkpoint.model):
        scorer = Scorer(model, order_weight=checkpoint.order_weight)
        queries = scorer.query(*scorer.pack([chunks[:5]]), Method.P8)
        totals.append(scorer.score(queries, chunks[5:]).total_BK)
    np.testing.assert_array_equal(*totals)


def test_folder_holds_what_the_format_says(tmp_path: Path, any_model: P8Model) -> None:
    save(tmp_path, any_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "gate.json",
        "metrics.json",
        "model.safetensors",
    ]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissingError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointMissingError, match=r"no config\.json"):
        load_checkpoint(tmp_path)


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _flip(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(bytes(content))


def _edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "expected sha256"),
        (_flip, "expected sha256"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No such file"),
        (lambda folder: (folder / "gate.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: _edit(folder, format="else"), "expected format 'nextchunk-p8'"),
        (lambda folder: _edit(folder, format_version=99), "version 99"),
        (lambda folder: _edit(folder, model={"dimension": 16, "depth": 3}), "TypeError"),
        (
            lambda folder: _edit(folder, order_weight=float("nan")),
            "order_weight: expected a finite",
        ),
        (lambda folder: (folder / "gate.json").write_text('{"tower": 1}'), "tower: expected an"),
        (lambda folder: _edit(folder, model={"dimension": 0}), "dimension: expected"),
        (lambda folder: _edit(folder, model={"dimension": 48}), "does not fit its configuration"),
    ],
)
def test_damaged_and_foreign_checkpoints(
    tmp_path: Path, any_model: P8Model, damage: object, message: str
) -> None:
    save(tmp_path, any_model)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(CheckpointInvalidError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused(tmp_path: Path, any_model: P8Model) -> None:
    next(any_model.parameters()).data.fill_(float("nan"))
    save(tmp_path, any_model)
    with pytest.raises(CheckpointInvalidError, match="holds NaN or infinity"):
        load_checkpoint(tmp_path)


def test_weights_of_another_checkpoint(tmp_path: Path, any_model: P8Model) -> None:
    save(tmp_path / "one", any_model)
    next(any_model.parameters()).data.add_(1.0)
    save(tmp_path / "two", any_model)
    shutil.copy(tmp_path / "two" / "model.safetensors", tmp_path / "one")
    with pytest.raises(CheckpointInvalidError, match="damaged or from another checkpoint"):
        load_checkpoint(tmp_path / "one")
