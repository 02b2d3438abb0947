"""The ladder as a whole: it runs, resumes, reports what it measured, and draws it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.prepared import raw_document
from tests.synthetic import shape, walks
from training.__main__ import main
from training.dataset import PreparedDataset
from training.dataset_writer import DatasetWriter
from training.ladder.config import Budget, rows_named
from training.ladder.findings import CLAIMS, find
from training.ladder.judge import fit_weight, tally_rows
from training.ladder.plot import plot_ladder
from training.ladder.rankers import Mean
from training.ladder.report import render
from training.ladder.run import climb, load_data

BUDGET = Budget(windows=600, epochs=3, train_documents=24, judge_documents=8)
NAMES = ["direct", "fixed", "p3", "p7-student", "p8-raw-old-prev", "p8-raw", "core-softmax"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    out = tmp_path_factory.mktemp("walks") / "data"
    with DatasetWriter(out, name="walks") as writer:
        for number, vectors in enumerate(walks(3, 140)):
            writer.add(raw_document(f"walk {number}", len(vectors), vectors=vectors))
    return PreparedDataset.open(out)


@pytest.fixture(scope="module")
def climbed(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("ladder")
    lines: list[str] = []
    report = climb(dataset, out, BUDGET, names=NAMES, say=lines.append, shape=shape())
    assert len(lines) == len(NAMES)
    return out, report


def test_rows_see_the_same_data(dataset: PreparedDataset) -> None:
    data, again = load_data(dataset, BUDGET), load_data(dataset, BUDGET)
    assert len(data.train) == len(data.keep) == 24
    assert sum(map(len, data.keep)) == 600
    assert len(data.test) == len(data.validation) == 8
    assert all((one == two).all() for one, two in zip(data.keep, again.keep, strict=True))
    assert all((one == two).all() for one, two in zip(data.test, again.test, strict=True))


def test_the_report_is_whole(climbed) -> None:
    _, report = climbed
    json.dumps(report, allow_nan=False)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == NAMES
    assert rows["direct"]["difference"]["without"]["r@5"]["value"] == 0.0
    assert rows["direct"]["epochs"] == []
    for name in ("p3", "p8-raw"):
        assert [line["epoch"] for line in rows[name]["epochs"]] == [1, 2, 3]
        best = max(rows[name]["epochs"], key=lambda line: line["validation_mrr@10"])
        assert rows[name]["best_epoch"] == best["epoch"]
    assert rows["p8-raw"]["own_verifier"]
    assert rows["core-softmax"]["ceiling"]["r@5"]["value"] > 0
    assert rows["p8-raw"]["ceiling"] is None
    assert rows["p8-raw"]["without"]["cos_anchor"]["value"] == pytest.approx(1.0, abs=1e-4)
    assert rows["p7-student"]["without"]["cos_anchor"]["value"] < 0.999
    assert set(report["order"]) == {"all", "adjacent", "distant", "ece"}
    assert report["order"]["all"]["value"] > 0.7
    (pair,) = (one for one in report["comparisons"] if one["row"] == "p8-raw")
    gap = rows["p8-raw"]["without"]["r@5"]["value"]
    gap -= rows["p8-raw-old-prev"]["without"]["r@5"]["value"]
    assert pair["r@5"]["value"] == pytest.approx(gap, abs=2e-6)


def test_the_order_part_is_weighed_on_validation() -> None:
    documents = walks(5, 6)
    # Log-odds that know everything: the chunk right after c_L stands out.
    orders = [10.0 * np.eye(len(vectors), k=1, dtype=np.float32) for vectors in documents]
    (row,) = rows_named(["mean"])
    weight = fit_weight(Mean(), documents, row, orders)
    assert weight > 0
    alone = tally_rows(Mean(), documents, row)
    both = tally_rows(Mean(), documents, row, orders=orders, weight=weight)
    assert both.mean("r@1") > 0.9 > alone.mean("r@1")
    assert fit_weight(Mean(), documents, row, [-order for order in orders]) == 0


def test_finished_rows_are_used_again(climbed, dataset: PreparedDataset) -> None:
    out, report = climbed
    before = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    (out / "rows" / "fixed.json").unlink()
    again = climb(dataset, out, BUDGET, names=NAMES, shape=shape())
    for path, time_ns in before.items():
        assert (path.stat().st_mtime_ns != time_ns) == (path.name == "fixed.json")

    def timeless(row: dict) -> dict:
        epochs = [{k: v for k, v in line.items() if k != "seconds"} for line in row["epochs"]]
        return {**row, "seconds": None, "epochs": epochs}

    assert list(map(timeless, again["rows"])) == list(map(timeless, report["rows"]))


def test_another_budget_climbs_anew(climbed, dataset: PreparedDataset, tmp_path: Path) -> None:
    out, report = climbed
    (tmp_path / "rows").mkdir()
    kept = (out / "rows" / "fixed.json").read_bytes()
    (tmp_path / "rows" / "fixed.json").write_bytes(kept)
    other = Budget(windows=300, epochs=3, train_documents=24, judge_documents=8)
    again = climb(dataset, tmp_path, other, names=["fixed"], shape=shape())
    fixed = next(row for row in report["rows"] if row["name"] == "fixed")
    assert again["rows"][0]["epochs"] != fixed["epochs"]


def test_page_and_picture(climbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = climbed
    (tmp_path / "ladder.json").write_text(json.dumps(report))
    assert main(["ladder", "--render", str(tmp_path / "ladder.json")]) == 0
    page = capsys.readouterr().out
    assert page == render(report)
    for row in report["rows"]:
        line = next(line for line in page.splitlines() if line.startswith(f"| {row['label']} |"))
        assert f" {row['without']['r@5']['value']:.3f} (" in line
    for finding in report["findings"]:
        assert finding["claim"] in page
    plot_ladder(report, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_findings_need_their_rows_and_can_fail(climbed) -> None:
    _, report = climbed
    rows = {row["name"]: row for row in report["rows"]}
    names = {finding["name"] for finding in report["findings"]}
    assert {"old_prev_out_of_reach", "teacher_leaves", "margin_by_losing_rank"} <= names
    assert not {"p8_ahead_of_rivals", "learned_space_beats_direct"} & names
    assert find({}, []) == []
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    negative = {"value": -0.1, "low": -0.2, "high": -0.05}
    wrong = {**rows["p8-raw"], "without": {**rows["p8-raw"]["without"], "margin": negative}}
    found = find({**rows, "p8-raw": wrong}, report["comparisons"])
    (verdict,) = (one for one in found if one["name"] == "right_prev_positive")
    assert verdict["values"] == {"p8-raw: margin": -0.1}
    assert not verdict["holds"]


def test_the_command(dataset: PreparedDataset, tmp_path: Path, capsys) -> None:
    flags = ["--quick", "--rows", "mean", "--out", str(tmp_path / "out")]
    assert main(["ladder", str(dataset.path), *flags]) == 0
    assert "1/1 mean" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ladder.json", "ladder.md", "ladder.png", "rows",
    }  # fmt: skip
    assert main(["ladder", str(dataset.path), "--rows", "p9"]) == 2
    assert "got p9" in capsys.readouterr().err
