import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.model import P8Model
from models.scoring import Method, Scorer
from tests.synthetic import shape, walks
from training.batches import batches
from training.calibration import fit_order_weight, fit_tau
from training.config import TrainConfig
from training.evaluation import evaluate
from training.gate import gate_lines, gate_report, kill_reason
from training.loop import learning_rate_at, train_model
from training.protocols import project_documents
from training.state import Progress, ResumeError
from training.windows import document_windows, hide_context

CONFIG = TrainConfig(epochs=3, batch_documents=4, pairs_per_document=32, patience=3)
TRAIN, VALIDATION = walks(1, 60), walks(2, 20)


class InterruptedRunError(Exception):
    """Stands for a killed process."""


def run(
    folder: Path,
    config: TrainConfig = CONFIG,
    *,
    documents: int = 16,
    stop_after: int | None = None,
    **changes: object,
) -> tuple[P8Model, Progress]:
    def report(line: dict[str, object]) -> None:
        if line["epoch"] == stop_after:
            raise InterruptedRunError

    return train_model(
        shape(**changes),
        config,
        TRAIN[:documents],
        VALIDATION,
        state_folder=folder,
        identity={"seed": config.seed},
        report=report,
    )


def test_training_beats_direct_and_passes_the_gate(tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=4, learning_rate=3e-3, batch_documents=6, pairs_per_document=32, patience=6
    )
    model, progress = run(tmp_path, config, documents=60, rerank=True)
    losses = [line["train_loss"] for line in progress.history]
    assert losses[-1] < losses[0]
    documents = project_documents(Scorer(model), VALIDATION)
    fit_tau(model, documents)
    weight, tried = fit_order_weight(model, documents)
    assert tried[str(weight)] == max(tried.values())
    gate = gate_report(Scorer(model, order_weight=weight), {"walks": documents})
    assert gate["verdict"] == "passed", gate_lines(gate)
    report = evaluate(Scorer(model, order_weight=weight), VALIDATION)
    assert report["order"]["all"]["value"] > 0.9
    assert report["cos_anchor"]["p8"] == pytest.approx(1, abs=1e-4)
    json.dumps(report, allow_nan=False)


def test_an_untrained_model_fails_the_gate() -> None:
    model = P8Model(shape())
    documents = project_documents(Scorer(model), VALIDATION)
    gate = gate_report(Scorer(model), {"walks": documents})
    assert gate["verdict"] == "failed"
    assert [check["relation"] for check in gate["checks"]] == [">", ">", ">", ">=", ">="]
    killed = gate_report(Scorer(model), {"walks": documents}, killed="margin")
    assert killed["verdict"] == "failed"
    assert any("margin" in line for line in gate_lines(killed))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_same_seed_same_weights_and_exact_resume(tmp_path: Path, arch: str) -> None:
    whole, progress = run(tmp_path / "whole", arch=arch, rerank=True)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", stop_after=1, arch=arch, rerank=True)
    resumed, again = run(tmp_path / "cut", arch=arch, rerank=True)
    assert [line["epoch"] for line in again.history] == [1, 2, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for line, other in zip(progress.history, again.history, strict=True):
        assert line["train_loss"] == other["train_loss"]


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_documents=4, pairs_per_document=32, seed=1)
    one, _ = run(tmp_path / "a", TrainConfig(epochs=1, batch_documents=4, pairs_per_document=32))
    two, _ = run(tmp_path / "b", config)
    name = "order.first.weight"
    assert not torch.equal(one.state_dict()[name], two.state_dict()[name])


def test_resume_refuses_other_options(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path, stop_after=1)
    with pytest.raises(ResumeError, match="other seed"):
        run(tmp_path, TrainConfig(epochs=3, batch_documents=4, pairs_per_document=32, seed=5))


def test_one_temperature_for_model_and_loss(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"temperature: expected that of the model, 0\.2.*0\.07"):
        run(tmp_path, temperature=0.2)


def test_kill_criteria() -> None:
    assert kill_reason(1, -1.0, -1.0) is None
    assert kill_reason(2, 0.01, -0.04) is None
    assert "margin" in (kill_reason(2, -0.001, 0.1) or "")
    assert "R@5" in (kill_reason(3, 0.1, -0.051) or "")


def test_schedule_warms_up_and_decays() -> None:
    rates = [learning_rate_at(step, 100, CONFIG) for step in range(100)]
    peak = int(np.argmax(rates))
    assert rates[peak] == CONFIG.learning_rate
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01 * CONFIG.learning_rate


def test_batches_hold_every_window_once() -> None:
    seen = []
    for batch in batches(TRAIN, None, CONFIG, 5, 0):
        chunks = batch.chunks_ND.numpy()
        for row, target in enumerate(batch.next_W.tolist()):
            context = batch.context_WL[row][batch.mask_WL[row]].tolist()
            assert context == list(range(target - len(context), target))
            assert batch.allowed_WN[row, target]
            assert not batch.allowed_WN[row, context].any()
            prev = int(batch.prev_W[row])
            assert prev == (target - len(context) - 1 if prev >= 0 else -1)
            seen.append(chunks[target].tobytes())
    expected = [row.tobytes() for document in TRAIN for row in document[1:]]
    assert sorted(seen) == sorted(expected)


def test_outside_documents_weigh_less() -> None:
    batch = next(iter(batches(TRAIN, None, CONFIG, 5, 0)))
    assert sorted(batch.log_weight_WN.unique().tolist()) == pytest.approx([np.log(0.1), 0.0])
    own = batch.log_weight_WN[0] == 0.0
    assert own[batch.next_W[0]]
    alone = TrainConfig(batch_documents=4, outside_weight=0.0)
    batch = next(iter(batches(TRAIN, None, alone, 5, 0)))
    assert not batch.allowed_WN[batch.log_weight_WN < 0].any()


def test_classic_candidates_in_a_batch() -> None:
    config = TrainConfig(batch_documents=2, candidates="classic8", outside_weight=0.0)
    batch = next(iter(batches(TRAIN, None, config, 5, 0)))
    counts = batch.allowed_WN.sum(1)
    assert counts.max() == 8
    rows = torch.arange(len(counts))
    assert batch.allowed_WN[rows, batch.next_W].all()
    assert batch.allowed_WN[rows, batch.prev_W][batch.prev_W >= 0].all()


def test_in_document_ranks_agree_with_a_slow_count() -> None:
    report = evaluate(Scorer(window=5), VALIDATION, corpus=False)
    hits = []
    for document in VALIDATION:
        windows = document_windows(len(document), 5)
        allowed = hide_context(windows, len(document))
        for row, target in enumerate(windows.next_W):
            cosines = {
                k: float(document[target - 1] @ document[k]) for k in np.flatnonzero(allowed[row])
            }
            ranked = sorted(cosines, key=lambda k: -cosines[k])
            hits.append(target in ranked[:5])
    value = report["protocols"]["in_document"]["direct"]["r@5"]["value"]
    assert value == pytest.approx(np.mean(hits), abs=1e-6)
    assert "p8" not in report["protocols"]["in_document"]
    assert "difference" not in report


def test_corpus_ranks_agree_with_brute_force() -> None:
    scorer = Scorer(window=5)
    report = evaluate(scorer, VALIDATION[:6])
    everything = np.concatenate(VALIDATION[:6])
    hits, start = [], 0
    for document in VALIDATION[:6]:
        for target in range(1, len(document)):
            cosines = everything @ document[target - 1]
            cosines[start + max(0, target - 5) : start + target] = -2.0
            hits.append((cosines > cosines[start + target]).sum() < 5)
        start += len(document)
    value = report["protocols"]["corpus"][Method.DIRECT]["r@5"]["value"]
    assert value == pytest.approx(np.mean(hits), abs=1e-6)


def test_ceiling_bounds_every_mixture() -> None:
    model = P8Model(shape(space="raw"))
    report = evaluate(Scorer(model), VALIDATION, corpus=False)
    for metric in ("r@1", "r@5", "mrr@10"):
        ceiling = report["ceiling"][metric]["value"]
        for method in ("direct", "mean", "p8"):
            assert report["protocols"]["in_document"][method][metric]["value"] <= ceiling + 0.02


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("outside_weight", 2.0),
        ("subset", 0),
        ("candidates", "all"),
    ],
)
def test_wrong_options_name_their_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        TrainConfig(**{field: value})  # type: ignore[arg-type]
