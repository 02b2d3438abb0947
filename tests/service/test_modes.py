import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.scoring import Method
from service.errors import ModelUnavailableError, OrderUnavailableError
from service.modes import FallbackReason, Mode, ModelState, choose, load_state, require_order

from .conftest import DIMENSION, Live, index, live, write_checkpoint


def _auto(state: ModelState) -> tuple[str, str, str | None]:
    choice = choose(Mode.AUTO, state)
    return choice.mode, choice.method, choice.reason


def test_a_passed_checkpoint_answers_by_p8(checkpoint: Path) -> None:
    state = load_state(checkpoint, DIMENSION)
    assert _auto(state) == ("p8", "p8", None)
    assert choose(Mode.RETRIEVAL, state).method is Method.DIRECT
    assert require_order(state) is state.checkpoint


def test_a_failed_gate_is_obeyed_by_auto_and_overruled_by_p8(tmp_path: Path) -> None:
    state = load_state(write_checkpoint(tmp_path / "c", verdict="failed"), DIMENSION)
    assert _auto(state) == ("retrieval", "direct", "gate_failed")
    assert choose(Mode.P8, state).method is Method.P8
    assert require_order(state) is state.checkpoint


@pytest.mark.parametrize(("tower", "method"), [("passed", Method.TOWER), ("failed", Method.DIRECT)])
def test_the_tower_is_the_first_fallback_if_it_passed(
    tmp_path: Path, tower: str, method: Method
) -> None:
    folder = write_checkpoint(tmp_path / "c", verdict="failed", tower=tower)
    state = load_state(folder, DIMENSION)
    assert _auto(state) == ("retrieval", method, "gate_failed")
    assert choose(Mode.RETRIEVAL, state).method is method


def test_another_dimension_falls_back(tmp_path: Path) -> None:
    state = load_state(write_checkpoint(tmp_path / "c", dimension=8), DIMENSION)
    assert _auto(state) == ("retrieval", "direct", "dimension_mismatch")
    assert "expected dimension 16 of the index, got 8" in str(state.detail)
    assert state.scorer().model is None


def test_another_embedding_model_falls_back(tmp_path: Path) -> None:
    state = load_state(write_checkpoint(tmp_path / "c", vectors_of="m"), DIMENSION, "n")
    assert _auto(state) == ("retrieval", "direct", "model_mismatch")
    assert state.detail == "c: expected embedding model 'n' of the index, got 'm'"
    assert state.scorer().model is None
    with pytest.raises(ModelUnavailableError, match="got 'm'") as caught:
        choose(Mode.P8, state)
    assert caught.value.members["reason"] == "model_mismatch"


def test_the_dimension_is_looked_at_before_the_model_and_that_before_the_gate(
    tmp_path: Path,
) -> None:
    folder = write_checkpoint(tmp_path / "c", vectors_of="m", verdict="failed", tower="passed")
    assert load_state(folder, 8, "n").reason is FallbackReason.DIMENSION_MISMATCH
    assert _auto(load_state(folder, DIMENSION, "n")) == ("retrieval", "direct", "model_mismatch")
    assert _auto(load_state(folder, DIMENSION, "m")) == ("retrieval", "tower", "gate_failed")


def _trained_on(*models: object) -> dict[str, object]:
    return {"data": [{"vectors": {"model": model}} for model in models]}


@pytest.mark.parametrize(
    ("provenance", "indexed", "fits"),
    [
        (_trained_on("m"), "m", True),
        (_trained_on("m"), "sentence-transformers/m", True),
        (_trained_on("sentence-transformers/m"), "m", True),
        (_trained_on("m", "n"), "n", True),
        (_trained_on("m", "n", "m"), "o", False),
        (_trained_on(None, "m"), "o", False),
        (_trained_on("m"), "", True),
        (_trained_on(None), "n", True),
        (_trained_on("", 3, ["m"]), "n", True),
        ({}, "n", True),
        ({"data": None}, "n", True),
        ({"data": "m"}, "n", True),
        ({"data": {"name": "a", "vectors": {"model": "m"}}}, "n", True),
        ({"data": [None, "m", {}, {"vectors": None}, {"vectors": ["m"]}]}, "n", True),
    ],
)
def test_models_are_compared_where_both_are_known(
    tmp_path: Path, provenance: dict[str, object], indexed: str, fits: bool
) -> None:
    folder = write_checkpoint(tmp_path / "c")
    _edit("config.json", provenance=provenance)(folder)
    state = load_state(folder, DIMENSION, indexed)
    assert state.reason is (None if fits else FallbackReason.MODEL_MISMATCH)


@pytest.mark.parametrize("path", [None, "missing", "."])
def test_no_checkpoint_falls_back(tmp_path: Path, path: str | None) -> None:
    state = load_state(None if path is None else tmp_path / path, DIMENSION)
    assert _auto(state) == ("retrieval", "direct", "no_checkpoint")
    with pytest.raises(ModelUnavailableError, match="mode p8 needs") as caught:
        choose(Mode.P8, state)
    assert caught.value.members["reason"] == "no_checkpoint"
    with pytest.raises(OrderUnavailableError):
        require_order(state)


def _edit(name: str, **changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


def _cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "model.safetensors").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights truncated": _cut("model.safetensors", 1000),
    "weights emptied": _cut("model.safetensors", 0),
    "a bit flipped": _flip,
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "config truncated": _cut("config.json", 50),
    "config of another format": _edit("config.json", format="somebody-else"),
    "config of a later version": _edit("config.json", format_version=2),
    "config of another shape": _edit("config.json", model={"dimension": 99}),
    "config without a model": _edit("config.json", model="x"),
    "config of a bad order weight": _edit("config.json", order_weight="x"),
    "config of no order weight": _edit("config.json", order_weight=float("nan")),
    "gate missing": lambda folder: (folder / "gate.json").unlink(),
    "gate not an object": lambda folder: (folder / "gate.json").write_text("[]"),
    "tower verdict misplaced": _edit("gate.json", tower="passed"),
    "metrics garbled": lambda folder: (folder / "metrics.json").write_bytes(b"\xff\xfe"),
    "a foreign folder": lambda folder: (folder / "config.json").write_text('{"layers": 3}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_a_reason_and_not_a_crash(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = write_checkpoint(tmp_path / "best")
    damage(folder)
    state = load_state(folder, DIMENSION)
    assert state.reason is FallbackReason.CHECKPOINT_INVALID
    assert state.detail
    assert "\n" not in state.detail
    assert str(tmp_path) not in state.detail
    assert _auto(state) == ("retrieval", "direct", "checkpoint_invalid")


def _asked(running: Live, mode: str) -> dict[str, object]:
    return running.ok("/v1/rank", {"context_ids": ["alpha:0"], "mode": mode})


def test_a_damaged_checkpoint_does_not_stop_the_start(tmp_path: Path, data: Path) -> None:
    folder = write_checkpoint(tmp_path / "best")
    _flip(folder)
    with live(data, folder) as running:
        told = [line for line in running.announced if "checkpoint_invalid" in line]
        assert len(told) == 1
        assert "sha256" in told[0]
        ready = running.http.get("/readyz").json()
        assert ready["mode"] == "retrieval"
        assert ready["checkpoint"]["status"] == "checkpoint_invalid"
        assert "sha256" in ready["checkpoint"]["reason"]
        model = running.http.get("/v1/model").json()
        assert (model["mode"], model["fallback_reason"]) == ("retrieval", "checkpoint_invalid")
        assert (model["gate"], model["space"]) == (None, "raw")
        answer = _asked(running, "auto")
        assert (answer["mode"], answer["fallback_reason"]) == ("retrieval", "checkpoint_invalid")
        assert answer["model"] == {
            "name": "default",
            "version": None,
            "method": "direct",
            "space": "raw",
            "gate": None,
            "embedding_model": "synthetic-16",
        }
        problem = running.post("/v1/rank", {"context_ids": ["alpha:0"], "mode": "p8"})
        assert problem.status_code == 409
        assert problem.json()["code"] == "model_unavailable"
        assert problem.json()["reason"] == "checkpoint_invalid"
        problem = running.post("/v1/order", {"a_id": "alpha:0", "b_id": "alpha:1"})
        assert problem.status_code == 409
        assert problem.json()["code"] == "order_unavailable"


def test_another_embedding_model_is_told_in_every_answer(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "best", vectors_of="other-16")
    own = index(prepared, tmp_path / "data", folder)
    detail = "best: expected embedding model 'synthetic-16' of the index, got 'other-16'"
    assert f"checkpoint default: model_mismatch: {detail}\n" in capsys.readouterr().out
    assert not (own / "index-learned.faiss").exists()
    with live(own, folder) as running:
        assert f"answering by retrieval (model_mismatch): {detail}" in running.announced
        ready = running.http.get("/readyz").json()
        assert ready["mode"] == "retrieval"
        assert ready["checkpoint"]["status"] == "model_mismatch"
        assert ready["checkpoint"]["reason"] == detail
        answer = _asked(running, "auto")
        assert (answer["mode"], answer["fallback_reason"]) == ("retrieval", "model_mismatch")


def test_a_failed_gate_is_told_in_every_answer(tmp_path: Path, data: Path) -> None:
    folder = write_checkpoint(tmp_path / "best", verdict="failed", tower="passed")
    with live(data, folder) as running:
        auto, forced = _asked(running, "auto"), _asked(running, "p8")
        assert (auto["mode"], auto["fallback_reason"]) == ("retrieval", "gate_failed")
        assert auto["model"]["method"] == "tower"
        assert auto["model"]["version"] is not None
        assert auto["alpha"] == [0.0]
        assert (forced["mode"], forced["fallback_reason"]) == ("p8", None)
        assert (forced["model"]["method"], forced["model"]["gate"]) == ("p8", "failed")
        explained = running.ok("/v1/rank", {"context_ids": ["alpha:0"], "explain": True})
        assert explained["explain"]["results"] == explained["results"]
        assert 0 < running.ok("/v1/order", {"a_id": "beta:0", "b_id": "beta:1"})["p_b_after_a"] < 1
