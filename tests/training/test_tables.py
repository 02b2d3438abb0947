"""Tables of evaluation reports: every cell where it belongs, and nothing where nothing is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.__main__ import build_parser, main
from training.commands.evaluate import report_lines
from training.tables import refresh, render_reports


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def metrics(*names: str, start: float) -> dict[str, dict[str, float]]:
    return {name: estimate(start + 0.1 * place) for place, name in enumerate(names)}


def make_report(name: str, *, corpus: bool = True) -> dict[str, Any]:
    ranks = ("r@1", "r@5", "mrr@10")
    pairs = ("all", "adjacent", "distant", "ece")
    starts = {"direct": 0.1, "mean": 0.05, "p8": 0.2, "p8_mixture": 0.15}
    protocols = {
        protocol: {
            method: metrics(*ranks, "margin", "margin_last", start=start + more)
            for method, start in starts.items()
        }
        for protocol, more in (("in_document", 0.0), ("classic8", 0.2))
    }
    if corpus:
        protocols["corpus"] = {"direct": metrics("r@1", "r@5", "r@50", "mrr@10", start=0.25)}
    return {
        "checkpoint": "abc123",
        "space": "learned",
        "data": {"name": name, "fingerprint": "f"},
        "split": "test",
        "seed": 0,
        "documents": 17,
        "windows": 7160,
        "candidates": 43.612,
        "protocols": protocols,
        "difference": {protocol: metrics(*ranks, start=-0.1) for protocol in protocols},
        "ceiling": metrics(*ranks, start=0.35),
        "order": metrics(*pairs, start=0.5),
        "order_in_bag": metrics(*pairs, start=0.6),
        "ordering": metrics("kendall_tau", "perfect_match", start=0.7),
        "ordering_by_place": metrics("kendall_tau", "perfect_match", start=0.4),
        "cos_anchor": {"p8": 1.0},
    }


def tables(page: str) -> dict[str, list[list[str]]]:
    """Cells of the page's tables by title; the first has none."""
    found = {}
    for part in ("\n" + page).split("\n#### "):
        title = part.splitlines()[0]
        lines = [line for line in part.splitlines() if line.startswith("|")]
        found[title] = [line[2:-2].split(" | ") for line in lines if not line.startswith("|-")]
    return found


def test_one_report() -> None:
    page = render_reports([make_report("elife")])
    found = tables(page)
    assert list(found) == [
        "", "`in_document`", "`classic8`", "`corpus`", "P8 minus DIRECT", "Order of two chunks",
        "Whole documents restored",
    ]  # fmt: skip
    assert found[""][1] == [
        "elife", "test", "17", "7,160", "43.6", "abc123", "learned", "1.000",
    ]  # fmt: skip
    inside = found["`in_document`"]
    assert inside[0] == ["method", "R@1", "R@5", "MRR@10", "margin", "margin_last"]
    assert inside[1] == [
        "DIRECT, cosine to the last chunk", "0.100 (0.090 to 0.110)", "0.200 (0.190 to 0.210)",
        "0.300 (0.290 to 0.310)", "0.400 (0.390 to 0.410)", "0.500 (0.490 to 0.510)",
    ]  # fmt: skip
    assert [row[0] for row in inside[2:]] == [
        "uniform mean of the window",
        "P8, mixture alone",
        "P8 as served",
        "ceiling of mixing in this space, answer known",
    ]
    assert [row[1][:5] for row in inside[2:]] == ["0.050", "0.150", "0.200", "0.350"]
    assert inside[-1][-2:] == ["", ""]
    assert [row[2] for row in found["`classic8`"]] == [
        "R@5",
        *(f"0.{x}0 (0.{x - 1}0 to 0.{x + 1}0)" for x in (40, 35, 45, 50)),
    ]
    assert found["`corpus`"][0] == ["method", "R@1", "R@5", "R@50", "MRR@10"]
    assert found["`corpus`"][1][3] == "0.450 (0.440 to 0.460)"
    assert found["P8 minus DIRECT"] == [
        ["protocol", "R@1", "R@5", "MRR@10"],
        *(
            [name, "-0.100 (-0.110 to -0.090)", *row]
            for name in ("`in_document`", "`classic8`", "`corpus`")
            for row in [["+0.000 (-0.010 to +0.010)", "+0.100 (+0.090 to +0.110)"]]
        ),
    ]
    order = found["Order of two chunks"]
    assert order[0] == ["seen", "all pairs", "adjacent", "distant (more than 20 apart)", "ECE"]
    assert [row[:2] for row in order[1:]] == [
        ["two chunks alone", "0.500 (0.490 to 0.510)"],
        ["in their bag", "0.600 (0.590 to 0.610)"],
    ]
    assert found["Whole documents restored"] == [
        ["from", "Kendall's tau", "perfect match"],
        ["pairwise evidence", "0.700 (0.690 to 0.710)", "0.800 (0.790 to 0.810)"],
        ["one score a chunk", "0.400 (0.390 to 0.410)", "0.500 (0.490 to 0.510)"],
    ]


def test_two_kinds_one_without_corpus() -> None:
    older = make_report("manuals", corpus=False)
    for key in ("order_in_bag", "ordering_by_place", "candidates", "cos_anchor"):
        del older[key]
    found = tables(render_reports([make_report("elife"), older]))
    assert found[""][2] == ["manuals", "test", "17", "7,160", "", "abc123", "learned", ""]
    assert found["`classic8`"] == [
        ["kind", "method", "R@1", "R@5", "MRR@10", "margin", "margin_last"],
        *(
            [kind, method, *cells]
            for kind in ("elife", "manuals")
            for method, *cells in tables(render_reports([older]))["`classic8`"][1:]
        ),
    ]
    assert [row[0] for row in found["`corpus`"]] == ["kind", "elife"]
    assert [row[:2] for row in found["P8 minus DIRECT"][3:]] == [
        ["elife", "`corpus`"],
        ["manuals", "`in_document`"],
        ["manuals", "`classic8`"],
    ]
    assert [row[:2] for row in found["Order of two chunks"][1:]] == [
        ["elife", "two chunks alone"],
        ["elife", "in their bag"],
        ["manuals", "two chunks alone"],
    ]


def test_what_no_report_holds_is_left_out() -> None:
    bare = {"documents": 3, "protocols": {"in_document": {"direct": metrics("r@1", start=0.5)}}}
    found = tables(render_reports([bare]))
    assert list(found) == ["", "`in_document`"]
    assert found["`in_document`"] == [
        ["method", "R@1"],
        ["DIRECT, cosine to the last chunk", "0.500 (0.490 to 0.510)"],
    ]


def test_kinds_are_told_apart() -> None:
    one, other = make_report("elife"), make_report("elife")
    with pytest.raises(ValueError, match="different data, splits or checkpoints"):
        render_reports([one, other])
    other["split"] = "validation"
    found = tables(render_reports([one, other]))
    assert {row[0] for row in found["`corpus`"][1:]} == {"elife, test", "elife, validation"}
    with pytest.raises(ValueError, match="at least one"):
        render_reports([])


def test_refresh_renders_each_section_and_nothing_else(tmp_path: Path) -> None:
    reports = [make_report("elife"), make_report("manuals", corpus=False)]
    for report in reports:
        (tmp_path / f"{report['data']['name']}.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    text = (
        "before\n<!-- tables:one:begin elife.json -->\nold\n<!-- tables:one:end -->\nbetween\n"
        "<!-- tables:two:begin elife.json manuals.json -->\n<!-- tables:two:end -->\nafter\n"
    )
    page.write_text(text)
    wanted = (
        f"before\n<!-- tables:one:begin elife.json -->\n{render_reports(reports[:1])}"
        "<!-- tables:one:end -->\nbetween\n<!-- tables:two:begin elife.json manuals.json -->\n"
        f"{render_reports(reports)}<!-- tables:two:end -->\nafter\n"
    )
    command = [sys.executable, "-m", "training.tables", str(page)]
    subprocess.run(command, check=True)
    assert page.read_text() == wanted
    refresh(page)
    assert page.read_text() == wanted
    page.write_text(text.replace("tables:two:end", "tables:tow:end"))
    with pytest.raises(ValueError, match="markers"):
        refresh(page)
    assert "old" in page.read_text()


def test_render_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(make_report("elife")))
    assert main(["evaluate", "--render", str(file)]) == 0
    assert capsys.readouterr().out == render_reports([make_report("elife")])
    for words in ([], ["CKPT"], ["CKPT", "--render", str(file)]):
        assert main(["evaluate", *words]) == 2
        assert capsys.readouterr().err == (
            "error: evaluate: expected either CKPT and DIR or --render FILE\n"
        )


def test_options_may_stand_between_checkpoint_and_data() -> None:
    args = build_parser().parse_args(["evaluate", "CKPT", "--split", "all", "DIR"])
    assert (args.checkpoint, args.data) == (Path("CKPT"), Path("DIR"))


def test_printed_reports_hold_every_order() -> None:
    lines = report_lines(make_report("elife"))
    assert "order_in_bag all: 0.600 (0.590 to 0.610)" in lines
    assert "ordering_by_place kendall_tau: 0.400 (0.390 to 0.410)" in lines
