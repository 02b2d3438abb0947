"""Training on several folders, judging each, and judging others later."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.model import P8Model
from models.packed import pack
from models.scoring import Scorer
from service.modes import load_state
from tests.prepared import write_walks
from tests.synthetic import shape, walks
from training.__main__ import build_parser, main
from training.commands.train import train_command
from training.config import TrainConfig
from training.dataset import PreparedDataset
from training.dataset_writer import DatasetWriter
from training.evaluation import evaluate
from training.folders import FoldersError
from training.gate import gate_lines, gate_report, with_kinds
from training.protocols import project_documents
from training.raw import Chunk, RawDocument
from training.run import split_vectors, train_checkpoint
from training.state import ResumeError

GOOD = TrainConfig(epochs=4, learning_rate=3e-3, batch_documents=4, pairs_per_document=32)
SHORT = TrainConfig(epochs=1, batch_documents=4, pairs_per_document=32, subset=200)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, PreparedDataset]:
    place = tmp_path_factory.mktemp("folders")
    return (
        write_walks(place / "many", 1, train=80, validation=20),
        write_walks(place / "few", 2, train=20, validation=15),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, folders: Sequence[PreparedDataset]) -> Path:
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    gate = train_checkpoint(
        folders, out, shape(), GOOD, command="python -m training train many few"
    )
    assert gate["verdict"] == "passed", gate_lines(gate)
    return out


@pytest.fixture
def checkpoint(tmp_path: Path, trained: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(trained, tmp_path / "checkpoint")


def test_each_kind_is_judged_by_itself(trained: Path) -> None:
    gate = load_checkpoint(trained).gate
    assert gate == json.loads((trained / "gate.json").read_bytes())
    assert (gate["documents"], gate["split"], gate["tower"]) == (35, "validation", None)
    assert {name: kind["documents"] for name, kind in gate["kinds"].items()} == {
        "many": 20,
        "few": 15,
    }
    for kind in gate["kinds"].values():
        assert kind["verdict"] == "passed"
        assert [check["name"] for check in kind["checks"]] == [
            check["name"] for check in gate["checks"]
        ]
    lines = gate_lines(gate)
    assert lines[0] == "gate: passed (on 35 validation documents)"
    assert lines[-2:] == [
        "  many: passed (on 20 validation documents)",
        "  few: passed (on 15 validation documents)",
    ]


def test_a_kind_alone_gets_the_checks_that_it_gets_among_others(
    trained: Path, folders: Sequence[PreparedDataset]
) -> None:
    loaded = load_checkpoint(trained)
    scorer = Scorer(loaded.model, order_weight=loaded.order_weight)
    for data in folders:
        name = data.manifest["name"]
        documents = project_documents(scorer, split_vectors(data, "validation"))
        alone = gate_report(scorer, {name: documents})
        assert alone["checks"] == alone["kinds"][name]["checks"]
        # The random sets of classic8 depend on a document's place among all.
        assert alone["kinds"][name]["checks"][:3] == loaded.gate["kinds"][name]["checks"][:3]


def test_the_checkpoint_remembers_its_data(
    trained: Path, folders: Sequence[PreparedDataset]
) -> None:
    loaded = load_checkpoint(trained)
    many, few = loaded.provenance["data"]
    assert [many["name"], few["name"]] == ["many", "few"]
    assert many["fingerprint"] == folders[0].fingerprint
    assert few["used"] == {"train": 20, "validation": 15}
    assert few["licences"] == {"few licence": 35}
    assert few["vectors"]["model"] == "walks"
    card = (trained / "README.md").read_text()
    for words in (
        "- Command: `python -m training train many few`",
        "- Vectors: walks, 16 dimensions",
        f"| many | 100 | {folders[0].chunk_count:,} | 80 | 20 | walks | many licence (100) |",
        "| 20 | 15 | walks | few licence (35) |",
        "\n".join(gate_lines(loaded.gate)),
        "## Limits",
    ):
        assert words in card


def test_what_was_judged_is_what_is_stored(
    trained: Path, folders: Sequence[PreparedDataset]
) -> None:
    loaded = load_checkpoint(trained)
    scorer = Scorer(loaded.model, order_weight=loaded.order_weight)
    validation = [vectors for data in folders for vectors in split_vectors(data, "validation")]
    report = evaluate(scorer, validation, corpus=False)
    assert {key: loaded.metrics[key] for key in report} == json.loads(json.dumps(report))
    values = list(loaded.model.state_dict().values())
    assert {value.dtype for value in values} == {torch.float32}
    stored = load_file(trained / "model.safetensors").values()
    half = sum(value.nbytes for value in stored) / sum(value.nbytes for value in values)
    assert half == pytest.approx(0.5, abs=0.001)  # the verifier's temperature is fitted later


def test_two_folders_train_as_one_that_holds_both(
    tmp_path: Path, folders: Sequence[PreparedDataset]
) -> None:
    with DatasetWriter(tmp_path / "both", name="both") as writer:
        for data in folders:
            for one in data.documents:
                chunks = tuple(Chunk(text="text", section="") for _ in range(one.count))
                writer.add(RawDocument(doc_id=one.doc_id, chunks=chunks, origin="a test"))
        writer.attach_vectors(np.concatenate([*walks(1, 100), *walks(2, 35)]))
    both = PreparedDataset.open(tmp_path / "both")
    one = train_checkpoint(folders, tmp_path / "one", shape(), SHORT)
    other = train_checkpoint([both], tmp_path / "other", shape(), SHORT)
    assert list(other["kinds"]) == ["both"]
    assert other["kinds"]["both"]["checks"] == other["checks"] == one["checks"]
    versions = [load_checkpoint(tmp_path / name).version for name in ("one", "other")]
    assert versions[0] == versions[1]


def test_a_run_is_not_resumed_with_other_folders(
    tmp_path: Path, folders: Sequence[PreparedDataset]
) -> None:
    def stop(line: str) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_checkpoint(folders, tmp_path, shape(), SHORT, say=stop)
    with pytest.raises(ResumeError, match="with other data"):
        train_checkpoint(folders[:1], tmp_path, shape(), SHORT)


def test_folders_that_do_not_go_together(
    tmp_path: Path, folders: Sequence[PreparedDataset]
) -> None:
    with pytest.raises(FoldersError, match="got 'many' twice"):
        train_checkpoint([folders[0], folders[0]], tmp_path / "out", shape(), SHORT)
    assert not (tmp_path / "out").exists()


def test_the_verdict_needs_every_kind() -> None:
    good, bad = {"verdict": "passed"}, {"verdict": "failed"}
    pooled = {"checks": [{"passed": True}] * 3, "kinds": {"a": good}}
    assert with_kinds(pooled, {"b": good})["verdict"] == "passed"
    failed = with_kinds(pooled, {"b": bad})
    assert (failed["verdict"], list(failed["kinds"])) == ("failed", ["a", "b"])
    assert with_kinds(failed, {"c": good})["verdict"] == "failed"
    assert with_kinds(failed, {"b": good})["verdict"] == "passed"
    assert with_kinds({**pooled, "killed": "margin"}, {"b": good})["verdict"] == "failed"
    weak = {"checks": [{"passed": True}, {"passed": True}, {"passed": False}]}
    assert with_kinds(weak, {"b": good})["verdict"] == "failed"


def test_documents_too_short_for_a_margin_fail() -> None:
    scorer = Scorer(P8Model(shape()).eval())
    rows = np.eye(16, dtype=np.float32)
    documents = project_documents(scorer, [rows[:4], rows[4:8]])
    report = gate_report(scorer, {"short": documents})
    assert report["kinds"]["short"]["verdict"] == "failed"
    json.dumps(report, allow_nan=False)


def test_a_kind_that_fails_makes_the_checkpoint_fail_until_it_passes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (checkpoint / "gate.json").read_bytes()
    other = tmp_path / "other"
    write_walks(other, 3, train=1, validation=20, shuffle=True)
    command = ["gate", str(checkpoint), str(other)]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert said.startswith("gate: failed (on 20 validation documents)\n")
    assert "    FAIL in_document r@5" in said
    assert (checkpoint / "gate.json").read_bytes() == before
    assert main([*command, "--write"]) == 1
    assert "the checkpoint is now failed" in capsys.readouterr().out
    failed = load_checkpoint(checkpoint)
    assert not failed.passed
    assert load_state(checkpoint, 16).reason == "gate_failed"
    assert failed.gate["checks"] == json.loads(before)["checks"]
    assert {name: kind["verdict"] for name, kind in failed.gate["kinds"].items()} == {
        "many": "passed",
        "few": "passed",
        "other": "failed",
    }
    card = (checkpoint / "README.md").read_text()
    assert "gate: failed" in card
    assert "  other: failed (on 20 validation documents)" in card
    assert "## Limits" in card
    write_walks(other, 3, train=1, validation=20)
    assert main([*command, "--write"]) == 0
    assert "the checkpoint is now passed" in capsys.readouterr().out
    assert load_checkpoint(checkpoint).passed
    assert load_state(checkpoint, 16).reason is None
    assert "gate: passed" in (checkpoint / "README.md").read_text()


def test_an_earlier_checkpoint_is_judged_too(checkpoint: Path, tmp_path: Path) -> None:
    gate = json.loads((checkpoint / "gate.json").read_bytes())
    del gate["kinds"]
    (checkpoint / "gate.json").write_text(json.dumps(gate))
    (checkpoint / "README.md").unlink()
    write_walks(tmp_path / "other", 3, train=20, validation=1)
    command = ["gate", str(checkpoint), str(tmp_path / "other"), "--split", "train", "--write"]
    assert main(command) == 0
    loaded = load_checkpoint(checkpoint)
    assert loaded.passed
    assert loaded.gate["kinds"]["other"]["split"] == "train"
    assert not (checkpoint / "README.md").exists()


@pytest.mark.usefixtures("bfloat16")
def test_evaluate_in_bfloat16_ranks_as_well(
    trained: Path,
    folders: Sequence[PreparedDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = []
    monkeypatch.setattr(
        "models.scoring.pack", lambda p8, dtype: packed.append(dtype) or pack(p8, dtype)
    )
    reports = {}
    for dtype in ("float32", "bfloat16"):
        file = tmp_path / f"{dtype}.json"
        words = ["--split", "validation", "--dtype", dtype, "--json", str(file)]
        assert main(["evaluate", str(trained), str(folders[0].path), *words]) == 0
        reports[dtype] = json.loads(file.read_bytes())
        assert reports[dtype]["dtype"] == dtype
    exact, rounded = (
        reports[dtype]["protocols"]["in_document"]["p8"]["mrr@10"]["value"] for dtype in reports
    )
    assert rounded == pytest.approx(exact, abs=0.01)
    assert packed == ["float32", "float32", "bfloat16", "bfloat16"]  # with a re-ranker and without


def test_evaluate_in_bfloat16_needs_a_processor_that_has_it(
    trained: Path,
    folders: Sequence[PreparedDataset],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("models.packed.has_bfloat16", lambda: False)
    words = ["--split", "validation", "--dtype", "bfloat16"]
    assert main(["evaluate", str(trained), str(folders[0].path), *words]) == 2
    assert capsys.readouterr().err == (
        "error: dtype: expected float32, as this processor has no bfloat16, got bfloat16\n"
    )


@pytest.mark.parametrize("command", ["gate", "evaluate"])
def test_another_dimension_is_refused(
    command: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "wide"
    write_walks(data, 3, train=1, validation=1, dimension=24)
    assert main([command, str(trained), str(data)]) == 2
    assert capsys.readouterr().err == (
        f"error: checkpoint: expected dimension 24 as in {data}, got 16\n"
    )


def test_train_command_on_two_folders(
    tmp_path: Path, folders: Sequence[PreparedDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    paths = [str(data.path) for data in folders]
    options = ["--no-rerank", "--epochs", "1", "--subset", "100", "--window", "3"]
    assert main(["train", *paths, "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "gate: failed" in said
    assert "  few: " in said
    provenance = load_checkpoint(out).provenance
    assert provenance["command"] == (
        "python -m training train many few --out out --window 3 --no-rerank --subset 100 --epochs 1"
    )
    assert provenance["training"]["subset"] == 100
    assert str(tmp_path) not in (out / "config.json").read_text()


def test_the_command_starts_the_same_run_again() -> None:
    words = ["train", "a b", "c/d", "--out", "o", "--tower", "--no-rerank", "--epochs", "2"]
    words += ["--candidates", "classic8", "--fresh"]
    args = build_parser().parse_args(words)
    command = train_command(args, args.default_of)
    assert command == (
        "python -m training train 'a b' c/d --out o --no-rerank --epochs 2 "
        "--candidates classic8 --tower"
    )
