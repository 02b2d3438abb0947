import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import (
    CheckpointInvalidError,
    CheckpointMissingError,
    load_checkpoint,
    round_weights,
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


def test_rounded_weights_take_half_the_space_and_come_back_exactly(
    tmp_path: Path, any_model: P8Model
) -> None:
    save(tmp_path / "whole", any_model)
    whole = {name: value.clone() for name, value in any_model.state_dict().items()}
    round_weights(any_model)
    any_model.order.tau.fill_(0.7)  # calibrated afterwards, and not float16's to hold
    save(tmp_path / "half", any_model)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert 0.49 < sizes[1] / sizes[0] < 0.6
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {name for name in stored if stored[name].dtype != torch.float16} == {"order.tau"}
    for name, value in load_checkpoint(tmp_path / "half").model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, any_model.state_dict()[name]), name
        if name != "order.tau":
            torch.testing.assert_close(value, whole[name], rtol=2**-11, atol=2**-25)


def test_values_beyond_float16_stay_as_they_are(tmp_path: Path, any_model: P8Model) -> None:
    weight = any_model.order.first.weight
    with torch.no_grad():
        weight[0, :3] = torch.tensor([1e6, -70000.0, 1e-9])
    round_weights(any_model)
    assert weight[0, :3].tolist() == [1e6, -70000.0, 0.0]
    save(tmp_path, any_model)
    loaded = load_checkpoint(tmp_path).model
    assert torch.equal(loaded.order.first.weight, weight)


def test_infinite_half_weights_are_refused(tmp_path: Path, any_model: P8Model) -> None:
    round_weights(any_model)
    any_model.order.first.weight.data.fill_(float("inf"))
    save(tmp_path, any_model)
    assert load_file(tmp_path / "model.safetensors")["order.first.weight"].dtype == torch.float16
    with pytest.raises(CheckpointInvalidError, match="holds NaN or infinity"):
        load_checkpoint(tmp_path)


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
        (lambda folder: (folder / "gate.json").write_text('{"kinds": []}'), "kinds: expected an"),
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
